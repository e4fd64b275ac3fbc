"""Components of a Gaussian mixture that lost their rows or collapsed: how to tell, and where to put them.

What a fit does about them is in `streamem.degeneracy`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamem.models.covariance import Array
from streamem.models.gaussian_statistics import GaussianMixtureParams, GaussianMixtureStats

__all__ = ["splits", "support", "too_thin", "without"]

HALF_NORMAL = 2 / np.pi  # squared mean of half a normal distribution, in units of its variance
MOST_SPLIT = 8  # components to split, the heaviest first; columns to split along where all are alike
EPS = float(np.finfo(np.float64).eps)


def support(stats: GaussianMixtureStats) -> Array:
    """Return (k,) how many rows of average weight each component is responsible for."""
    squares = stats.weight_squares
    return stats.sum_w * (stats.weight / squares) if squares > 0 else stats.sum_w


def too_thin(params: GaussianMixtureParams) -> NDArray[np.bool_]:
    """Return (k,) whether some deviation is less than the last digit of the mean: no row could tell it."""
    k = len(params.weights)
    deviations = params.cholesky
    if params.shape.matrices:
        deviations = np.sqrt(np.einsum("...ij,...ij->...i", deviations, deviations))
    elif params.shape.spherical:
        deviations = deviations[..., None]
    thin = np.any(~(deviations >= EPS * np.abs(params.means)), axis=-1)
    own = not params.shape.shared
    overflown = ~np.isfinite(params.whitening.reshape(k if own else 1, -1)).all(axis=1)
    found = thin | overflown
    return found if own else np.full(k, bool(found.any()))


def without(
    params: GaussianMixtureParams, stats: GaussianMixtureStats, gone: Sequence[int]
) -> tuple[GaussianMixtureParams, GaussianMixtureStats]:
    """Return parameters and statistics without components that no row belongs to.

    Responsibilities stay what they are, and log p(x) rises by −log(1 − π) of those that go.
    """
    kept = np.setdiff1d(np.arange(len(params.weights)), gone)
    share = params.weights[kept].sum() + params.noise_weight
    own = not params.shape.shared
    factors = {
        name: getattr(params, name)[kept] if own else getattr(params, name)
        for name in ("cholesky", "whitening")
    }
    weights, noise = params.weights[kept] / share, float(params.noise_weight / share)
    left = replace(params, weights=weights, noise_weight=noise, means=params.means[kept], **factors)
    fewer = replace(
        stats,
        reference=left,
        log_likelihood=stats.log_likelihood - stats.weight * float(np.log(share)),
        sum_w=stats.sum_w[kept],
        sum_wy=stats.sum_wy[kept],
        sum_wyy=stats.sum_wyy[kept] if own else stats.sum_wyy,
    )
    return left, fewer


def splits(params: GaussianMixtureParams, empty: int, units: Array) -> Iterator[GaussianMixtureParams]:
    """Yield parameters in which ``empty`` is half of another component, the heaviest first.

    A component is cut at its mean across its longest axis in ``units`` (d,). Halves of a normal
    distribution are √(2/π) σ away, and of variance (1 − 2/π) σ² along that axis; a covariance that all
    components share stays as it is.
    """
    for other in np.argsort(-params.weights, kind="stable")[:MOST_SPLIT]:
        if other == empty or params.weights[other] <= 0:
            continue
        for step, cholesky in _halves(params, int(other), units):
            weights, means = params.weights.copy(), params.means.copy()
            weights[[other, empty]] = (weights[other] + weights[empty]) / 2
            means[empty], means[other] = means[other] + step, means[other] - step
            factor, whitening = params.cholesky, params.whitening
            if not params.shape.shared:
                factor, whitening = factor.copy(), whitening.copy()
                factor[[other, empty]] = cholesky
                whitening[[other, empty]] = params.shape.invert(factor[[other]])
            yield replace(params, weights=weights, means=means, cholesky=factor, whitening=whitening)


def _halves(params: GaussianMixtureParams, other: int, units: Array) -> Iterator[tuple[Array, Array]]:
    """Yield how far both halves of a component are from its mean, (d,), and their factor."""
    d, shape = len(units), params.shape
    factor = params.cholesky if shape.shared else params.cholesky[other]
    if shape.matrices:
        left, _, right = np.linalg.svd(factor / units[:, None])
        step = np.sqrt(HALF_NORMAL) * (factor @ right[0])
        shrink = np.eye(d) - HALF_NORMAL * np.outer(right[0], right[0])
        yield step * _sign(left[:, 0]), factor @ np.linalg.cholesky(shrink)
    elif not shape.spherical:
        column = int(np.argmax(factor / units))
        chosen = np.arange(d) == column
        yield (
            np.where(chosen, np.sqrt(HALF_NORMAL) * factor, 0.0),
            factor * np.where(chosen, np.sqrt(1 - HALF_NORMAL), 1.0),
        )
    else:
        for column in range(min(d, MOST_SPLIT)):
            step = np.where(np.arange(d) == column, np.sqrt(HALF_NORMAL) * factor, 0.0)
            yield step, factor * np.sqrt(1 - HALF_NORMAL / d)


def _sign(axis: Array) -> float:
    """Return 1 or −1, so that an axis has one direction on every machine."""
    return 1.0 if axis[np.argmax(np.abs(axis))] >= 0 else -1.0
