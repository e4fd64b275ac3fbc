"""The E-step of a Gaussian mixture: responsibilities by log-sum-exp, and the sums that the M-step needs."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from streamem.kernels.compile import kernel
from streamem.kernels.gaussian import DiagGaussian, FullGaussian, GaussianFamily, TiedGaussian

__all__ = ["MixtureSums", "labels", "responsibilities", "score_samples", "statistics"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]
Float64Array: TypeAlias = NDArray[np.float64]


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


def statistics(
    x: FloatArray,
    weight: Float64Array | None,
    family: GaussianFamily,
    resp: Float64Array | None = None,
    precision: DTypeLike = None,
) -> MixtureSums:
    """Return the sufficient statistics of one block of rows.

    Parameters
    ----------
    x
        (n, d) C-contiguous rows; n may be 0.
    weight
        (n,) sample weights, None where all are 1. A row of weight 0 influences nothing.
    family
        The components.
    resp
        (n, k) responsibilities to use instead of the posterior.
    precision
        float64 (also None) or float32: what tiles are computed in, after centring in float64.
    """
    n, d = x.shape
    k = len(family.log_const)
    whitening = _full_whitening(family)
    w = np.ones(n) if weight is None else weight
    given = np.empty((0, k)) if resp is None else resp
    sum_w, sum_wy, sum_wyy = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    log_likelihood, entropy = _statistics(
        x, w, family.center, family.means, whitening, family.log_const, given, resp is not None, sum_w, sum_wy, sum_wyy
    )
    if isinstance(family, TiedGaussian):
        sum_wyy = sum_wyy.sum(axis=0)
    elif not isinstance(family, FullGaussian):
        sum_wyy = np.ascontiguousarray(np.diagonal(sum_wyy, axis1=1, axis2=2))
        if not isinstance(family, DiagGaussian):
            sum_wyy = sum_wyy.sum(axis=1)
    return MixtureSums(log_likelihood, entropy, sum_w, sum_wy, sum_wyy)


def score_samples(x: FloatArray, family: GaussianFamily, precision: DTypeLike = None) -> Float64Array:
    """Return (n,) log densities."""
    lj = _log_joint(x, family.center, family.means, _full_whitening(family), family.log_const)
    top = np.maximum(lj.max(axis=1, initial=-np.inf), -1e308)
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(lj - top[:, None]).sum(axis=1))


def responsibilities(x: FloatArray, family: GaussianFamily, precision: DTypeLike = None) -> Float64Array:
    """Return (n, k) posterior probabilities; rows of zeros where every component is impossible."""
    lj = _log_joint(x, family.center, family.means, _full_whitening(family), family.log_const)
    e = np.exp(lj - np.maximum(lj.max(axis=1, initial=-np.inf), -1e308)[:, None])
    return e / np.maximum(e.sum(axis=1), 1e-300)[:, None]


def labels(x: FloatArray, family: GaussianFamily, precision: DTypeLike = None) -> NDArray[np.int64]:
    """Return (n,) the likeliest component of each row."""
    lj = _log_joint(x, family.center, family.means, _full_whitening(family), family.log_const)
    return lj.argmax(axis=1)


def _full_whitening(family: GaussianFamily) -> Float64Array:
    k, d = family.means.shape
    w = family.whitening
    if isinstance(family, FullGaussian):
        return w
    if isinstance(family, TiedGaussian):
        return np.repeat(w[None], k, axis=0)
    if isinstance(family, DiagGaussian):
        return np.ascontiguousarray(w[:, :, None] * np.eye(d))
    return np.ascontiguousarray(w[:, None, None] * np.eye(d))


@kernel
def _whiten(row, center, means, whitening, log_const, diff, y, lj):  # type: ignore[no-untyped-def]
    k, d = means.shape
    for c in range(k):
        for i in range(d):
            diff[i] = (row[i] - center[i]) - means[c, i]
        q = 0.0
        for i in range(d):
            s = 0.0
            for j in range(i + 1):
                s += whitening[c, i, j] * diff[j]
            y[c, i] = s
            q += s * s
        lj[c] = log_const[c] - 0.5 * q if q < np.inf else -np.inf


@kernel
def _log_joint(x, center, means, whitening, log_const):  # type: ignore[no-untyped-def]
    n = len(x)
    k, d = means.shape
    out = np.empty((n, k))
    diff = np.empty(d)
    y = np.empty((k, d))
    for t in range(n):
        _whiten(x[t], center, means, whitening, log_const, diff, y, out[t])
    return out


@kernel
def _statistics(x, weight, center, means, whitening, log_const, resp, given, sum_w, sum_wy, sum_wyy):  # type: ignore[no-untyped-def]
    n = len(x)
    k, d = means.shape
    diff = np.empty(d)
    y = np.empty((k, d))
    lj = np.empty(k)
    log_likelihood = 0.0
    entropy = 0.0
    for t in range(n):
        w = weight[t]
        if w == 0.0:
            continue
        _whiten(x[t], center, means, whitening, log_const, diff, y, lj)
        top = -np.inf
        for c in range(k):
            top = max(top, lj[c])
        total = 0.0
        if top > -np.inf:
            for c in range(k):
                total += np.exp(lj[c] - top)
        lse = top + np.log(total)
        if not given:
            log_likelihood += w * lse
        for c in range(k):
            log_r = np.log(resp[t, c]) if given else lj[c] - lse
            r = resp[t, c] if given else np.exp(log_r)
            if not r > 0.0:
                continue
            entropy -= w * r * log_r
            if given:
                log_likelihood += w * r * (lj[c] - log_r)
            sum_w[c] += w * r
            for i in range(d):
                sum_wy[c, i] += w * r * y[c, i]
                for j in range(d):
                    sum_wyy[c, i, j] += w * r * y[c, i] * y[c, j]
    return log_likelihood, entropy
