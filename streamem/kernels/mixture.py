"""The E-step of a Gaussian mixture: responsibilities by log-sum-exp, and the sums that determine the M-step.

One loop over tiles serves all covariance types; numba compiles it once for each, and for each dtype.
Nothing of the size of the rows is allocated, but what is asked for. Given responsibilities, which are for
starts on a few rows and mostly 0, are left to numpy: they need float64, and would be compiled for that alone.

Noise, of one density everywhere, is a component without parameters: the tile has a row for its log-joint,
which becomes its responsibility, after those of all others.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from streamem.kernels.compile import kernel, unwritable
from streamem.kernels.diagonal import diagonal_components, diagonal_sums
from streamem.kernels.full import full_components, full_sums
from streamem.kernels.gaussian import (
    DiagGaussian,
    FullGaussian,
    GaussianFamily,
    SphericalGaussian,
    TiedGaussian,
)
from streamem.kernels.products import STRIP_BYTES
from streamem.kernels.simd import rows_per_strip
from streamem.kernels.spherical import spherical_components, spherical_sums
from streamem.kernels.tied import tied_components, tied_sums
from streamem.kernels.tiles import (
    Tile,
    add_moments,
    fill,
    likeliest,
    log_joint,
    log_sum_exp,
    make_tile,
    posterior,
)

__all__ = ["MixtureSums", "labels", "responsibilities", "score_samples", "statistics"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]
Float64Array: TypeAlias = NDArray[np.float64]

TILE_ROW_BYTES = 1024
"""Bytes of one feature of a tile: 128 rows of float64, 256 of float32."""

UNLIKELIER = 1.0
"""Nats below the likeliest, where a component cannot be it, whatever rounding did."""


class MixtureSums(NamedTuple):
    """Sums over rows that determine the M-step; ``y = L⁻¹(x - μ)`` at the current parameters."""

    log_likelihood: float
    """``Σ w log Σ_k exp(log_joint)``; with given responsibilities the ELBO ``Σ w r (log_joint - log r)``."""
    entropy: float
    """``-Σ w r log r``."""
    sum_w: Float64Array
    """(k,) ``Σ w r``."""
    sum_wy: Float64Array
    """(k, d) ``Σ w r y``."""
    sum_wyy: Float64Array
    """``Σ w r y yᵀ``: full (k, d, d); tied (d, d), over all components; diag (k, d); spherical (k,)."""
    sum_noise: float = 0.0
    """``Σ w r`` of the noise."""


def statistics(
    x: FloatArray,
    weight: Float64Array | None,
    family: GaussianFamily,
    resp: Float64Array | None = None,
    precision: DTypeLike | None = None,
    log_noise: float | None = None,
) -> MixtureSums:
    """Return the sufficient statistics of one block of rows.

    Parameters
    ----------
    x
        (n, d) C-contiguous float32 or float64; n may be 0.
    weight
        (n,) sample weights, at least 0; None where all are 1. A row of weight 0 influences nothing.
    family
        The components.
    resp
        (n, k) responsibilities to use instead of the posterior; all is worked out in float64 then.
    precision
        What tiles are computed in once rows are centred: float64 (also None) or float32. Sums over tiles are
        float64 either way.
    log_noise
        Log-joint of the noise, ``log π_0 - log V``; None without noise, and with `resp`.

    Notes
    -----
    A row that no component can explain (every log-joint is -inf, if only by overflow) has log-likelihood -inf
    and adds to no other sum.
    """
    if resp is not None:
        return _given_statistics(x, np.ones(len(x)) if weight is None else weight, family, resp)
    tile, components = _prepare(family, len(x), precision, log_noise)
    weights = unwritable(_NO_WEIGHT if weight is None else np.asarray(weight, np.float64))
    log_likelihood, entropy = _statistics(
        unwritable(x), weights, tile, components, _number(log_noise), _NO_RESP
    )
    k = len(family.means)
    sum_noise = float(tile.sum_w[k:].sum())
    return MixtureSums(
        log_likelihood, entropy, tile.sum_w[:k].copy(), *_sums(family, components, tile.unit), sum_noise
    )


@np.errstate(over="ignore", invalid="ignore")
def _given_statistics(
    x: FloatArray, weight: Float64Array, family: GaussianFamily, resp: Float64Array
) -> MixtureSums:
    """Return the sums under given responsibilities; a row counts only where its own is not 0."""
    k, d = family.means.shape
    tied, matrices = isinstance(family, TiedGaussian), isinstance(family, FullGaussian | TiedGaussian)
    bound, entropy, sum_w, sum_wy = 0.0, 0.0, np.zeros(k), np.zeros((k, d))
    sum_wyy = np.zeros((k, d, d) if matrices else (k, d))
    for c in range(k):
        r = np.ascontiguousarray(resp[:, c])
        held = np.flatnonzero((weight > 0) & (r > 0))
        wr, log_r, away = weight[held] * r[held], np.log(r[held]), x[held] - family.center - family.means[c]
        whitening = family.whitening if tied else family.whitening[c]
        y = away @ whitening.T if matrices else away * whitening
        joint = family.log_const[c] - 0.5 * (y**2).sum(axis=1)
        bound += float(wr @ (np.where(joint > -np.inf, joint, -np.inf) - log_r))
        entropy -= float(wr @ log_r)
        z = np.sqrt(wr)[:, None] * y
        sum_w[c], sum_wy[c], sum_wyy[c] = wr.sum(), wr @ y, z.T @ z if matrices else (z**2).sum(axis=0)
    if tied:
        sum_wyy = sum_wyy.sum(axis=0)
    elif isinstance(family, SphericalGaussian):
        sum_wyy = sum_wyy.sum(axis=1)
    return MixtureSums(bound, entropy, sum_w, sum_wy, sum_wyy)


def score_samples(
    x: FloatArray,
    family: GaussianFamily,
    precision: DTypeLike | None = None,
    log_noise: float | None = None,
) -> Float64Array:
    """Return (n,) log densities ``log Σ_k exp(log_joint)``, noise included."""
    out = np.empty(len(x))
    tile, components = _prepare(family, len(x), precision, log_noise, every=True)
    _by_row(unwritable(x), tile, components, _number(log_noise), out, _NO_LABEL)
    return out


def responsibilities(
    x: FloatArray,
    family: GaussianFamily,
    precision: DTypeLike | None = None,
    log_noise: float | None = None,
) -> Float64Array:
    """Return (n, k) posterior probabilities; zeros in a row that no component can explain.

    Those that are e⁶⁵⁰ times smaller than the largest, in float32 e⁶⁰ times, are zero.
    """
    out = np.empty((len(x), len(family.log_const)))
    tile, components = _prepare(family, len(x), precision, log_noise, every=True)
    _statistics(unwritable(x), unwritable(_NO_WEIGHT), tile, components, _number(log_noise), out)
    return out


def labels(
    x: FloatArray,
    family: GaussianFamily,
    precision: DTypeLike | None = None,
    log_noise: float | None = None,
) -> NDArray[np.int64]:
    """Return (n,) the likeliest component of each row, the first of several; −1 for noise."""
    out = np.empty(len(x), np.int64)
    tile, components = _prepare(family, len(x), precision, log_noise, UNLIKELIER)
    _by_row(unwritable(x), tile, components, _number(log_noise), _NO_WEIGHT, out)
    out[out == len(family.means)] = -1
    return out


def _number(log_noise: float | None) -> float:
    return -np.inf if log_noise is None else float(log_noise)


_NO_LABEL = np.empty(0, np.int64)
_NO_WEIGHT = np.empty(0)
_NO_RESP = np.empty((0, 0))


def _prepare(
    family: GaussianFamily,
    n: int,
    precision: DTypeLike | None,
    log_noise: float | None,
    reach: float = np.inf,
    every: bool = False,
) -> tuple[Tile, Any]:
    """Return working memory for at most n rows at a time, and the family in the form of its kernels.

    With noise the tile has room for it. Log-joints more than `reach` below the likeliest component's need not
    be worked out; with `every`, all have to be.
    """
    dtype = np.dtype(np.float64 if precision is None else precision)
    strip = STRIP_BYTES // dtype.itemsize
    n_rows = min(TILE_ROW_BYTES // dtype.itemsize, max(1, -(-n // strip)) * strip)
    k, d = family.means.shape
    rows_of_resp = k if log_noise is None else k + 1
    squared = isinstance(family, DiagGaussian | SphericalGaussian)
    unit = np.broadcast_to(_unit_of_smallest(family.whitening), d) if squared else np.ones(d)
    tile = make_tile(family.center, unit, rows_of_resp, n_rows, dtype)
    if isinstance(family, FullGaussian):
        return tile, full_components(family, n_rows, dtype, reach, every)
    if isinstance(family, TiedGaussian):
        return tile, tied_components(family, n_rows, dtype)
    if isinstance(family, DiagGaussian):
        return tile, diagonal_components(family, tile.unit, dtype)
    return tile, spherical_components(family, tile.unit, n_rows, dtype)


def _unit_of_smallest(whitening: Float64Array) -> Float64Array:
    """Return powers of two near one over the smallest deviations of (k, ...): so squares stay in range."""
    return np.asarray(np.exp2(np.round(np.log2(whitening.max(axis=0)))))


def _sums(family: GaussianFamily, components: Any, unit: Float64Array) -> tuple[Float64Array, Float64Array]:
    if isinstance(family, FullGaussian):
        return full_sums(family, components)
    if isinstance(family, TiedGaussian):
        return tied_sums(family, components)
    if isinstance(family, DiagGaussian):
        return diagonal_sums(family, components, unit)
    return spherical_sums(family, components, unit)


@kernel
def _statistics(x, weight, tile, components, log_noise, posteriors):  # type: ignore[no-untyped-def]
    """Return log-likelihood and entropy; write posteriors (n, k), or add to the sums where that is empty.

    Fits ask for posteriors too, as they rank moves: this kernel alone is compiled for them.
    """
    log_likelihood = entropy = 0.0
    k, lanes = len(components.means), rows_per_strip(tile.x)
    row = 0
    while row < len(x):
        row, held = fill(x, weight, row, tile)
        n_strips = -(-held // lanes)
        _enter_noise(tile, k, -np.inf)  # what is within reach is so beside the likeliest component
        log_joint(components, tile, n_strips)
        _enter_noise(tile, k, log_noise)
        gained, spread = posterior(tile, n_strips)
        log_likelihood += gained
        entropy += spread
        if len(posteriors) == 0:
            add_moments(components, tile, n_strips)
            continue
        for t in range(held):
            for c in range(posteriors.shape[1]):
                posteriors[tile.row[t], c] = tile.resp[c, t]
    return log_likelihood, entropy


@kernel
def _by_row(x, tile, components, log_noise, densities, label):  # type: ignore[no-untyped-def]
    """Write that of densities (n,) and likeliest components (n,) which is not empty."""
    k, lanes = len(components.means), rows_per_strip(tile.x)
    row = 0
    while row < len(x):
        first = row
        row, held = fill(x, tile.weight[:0], row, tile)
        n_strips = -(-held // lanes)
        _enter_noise(tile, k, -np.inf)  # what is within reach is so beside the likeliest component
        log_joint(components, tile, n_strips)
        _enter_noise(tile, k, log_noise)
        if len(label) > 0:
            likeliest(tile, held, label[first:row])
            continue
        log_sum_exp(tile, n_strips)
        for t in range(held):
            densities[first + t] = tile.density[t]


@kernel(inline=True)
def _enter_noise(tile, k, log_noise):  # type: ignore[no-untyped-def]
    """Write the log-joint of the noise, where there is some, after those of k components."""
    for c in range(k, len(tile.resp)):
        tile.resp[c, :] = log_noise
