"""Components with one deviation for all features: all that is needed of a row is ``x - μ_k`` and its length.

Components of one covariance between them are such, too, once rows are whitened (`streamem.kernels.tied`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel
from streamem.kernels.gaussian import SphericalGaussian
from streamem.kernels.memory import aligned_zeros, enter, kept_by_thread
from streamem.kernels.products import vector_in_strips
from streamem.kernels.simd import (
    STRIP_VECTORS,
    add_sums,
    element,
    load,
    load_strip,
    multiply_add,
    rows_per_strip,
    store,
    zero,
    zero_strip,
)
from streamem.kernels.tiles import add_moments, clear_infinite, implements, log_joint, padded

__all__ = [
    "SphericalComponents",
    "add_first_moments",
    "first_moments",
    "spherical_components",
    "spherical_sums",
    "squared_distances",
]


class SphericalComponents(NamedTuple):
    """Components in the dtype of tiles, features padded to a multiple of 4; memory to work in; sums."""

    means: NDArray[Any]
    """(k, padded d) in units of the tile."""
    whitening: NDArray[Any]
    """(k,) one over the standard deviations, in units of the tile."""
    log_const: NDArray[np.float64]
    """(k,)."""
    distance: NDArray[Any]
    """(k, rows) ``‖x - μ‖²``."""
    sum_wd: NDArray[np.float64]
    """(pairs of k, padded d / 4, 8) of `add_first_moments`."""
    sum_wdd: NDArray[np.float64]
    """(k,) ``Σ w r ‖x - μ‖²``."""


def spherical_components(
    family: SphericalGaussian, unit: NDArray[np.float64], n_rows: int, dtype: Any
) -> SphericalComponents:
    """Prepare components for tiles of n_rows rows in units (d,), all alike.

    The thread's next may be in the same memory.
    """
    k, d = family.means.shape
    components = _memory(k, padded(d), n_rows, np.dtype(dtype))
    enter(family.means * unit, components.means)
    enter(family.whitening / unit[0], components.whitening)
    components.log_const[:] = family.log_const
    components.sum_wd.fill(0.0)
    components.sum_wdd.fill(0.0)
    return components


@kept_by_thread
def _memory(k: int, p: int, n_rows: int, dtype: np.dtype[Any]) -> SphericalComponents:
    return SphericalComponents(
        means=np.empty((k, p), dtype),
        whitening=np.empty(k, dtype),
        log_const=np.empty(k),
        distance=aligned_zeros((k, n_rows), dtype),
        sum_wd=aligned_zeros((-(-k // 2), p // 4, 8), np.float64),
        sum_wdd=np.empty(k),
    )


def spherical_sums(
    family: SphericalGaussian, components: SphericalComponents, unit: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum_wy (k, d) and sum_wyy (k,)."""
    scale = family.whitening / unit[0]
    sum_wd = first_moments(components.sum_wd, family.means.shape)
    return sum_wd * scale[:, None], components.sum_wdd * scale**2


@implements(log_joint, SphericalComponents)
@kernel(inline=True)
def _log_joint(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Write distances, and ``log_const - ‖y‖² / 2``. O(k d) time per row."""
    squared_distances(tile.x, components.means, n_strips, components.distance)
    for c in range(len(components.means)):
        joint, distance = tile.resp[c], components.distance[c]
        const = joint.dtype.type(components.log_const[c])
        scale = joint.dtype.type(-0.5) * components.whitening[c] * components.whitening[c]
        for t in range(n_strips * rows_per_strip(tile.x)):
            joint[t] = const + scale * distance[t]


@implements(add_moments, SphericalComponents)
@kernel(inline=True)
def _add_moments(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Add ``Σ w r (x - μ)``, and ``Σ w r ‖x - μ‖²`` of the distances that are known. O(k d) time per row."""
    add_first_moments(tile.x, components.means, tile.resp, n_strips, components.sum_wd)
    for c in range(len(components.means)):
        resp, distance = tile.resp[c], components.distance[c]
        total = resp.dtype.type(0)
        for t in range(n_strips * rows_per_strip(tile.x)):
            total += resp[t] * distance[t] if resp[t] > 0.0 else resp.dtype.type(0)
        components.sum_wdd[c] += total


@kernel(inline="once")
def squared_distances(x, means, n_strips, out):  # type: ignore[no-untyped-def]
    """Write ``‖x - mean‖²`` of all means to out (k, rows). O(k d) time per row.

    Two means share what is loaded of x; the last of an odd number is its own partner.
    """
    k, n_features = means.shape
    for s in range(n_strips):  # outside: a strip stays in the nearest cache
        strip = s * n_features
        for c in range(0, k, 2):
            partner = c + 1 if c + 1 < k else c
            mean, other = c * n_features, partner * n_features
            a0, a1, b0, b1 = zero_strip(x), zero_strip(x), zero_strip(x), zero_strip(x)
            for i in range(0, n_features, 2):  # two sums for each mean: one need not wait for the other
                x0, x1 = load_strip(x, strip + i), load_strip(x, strip + i + 1)
                m0, m1 = element(means, mean + i), element(means, mean + i + 1)
                n0, n1 = element(means, other + i), element(means, other + i + 1)
                a0, a1 = multiply_add(x0 - m0, x0 - m0, a0), multiply_add(x1 - m1, x1 - m1, a1)
                b0, b1 = multiply_add(x0 - n0, x0 - n0, b0), multiply_add(x1 - n1, x1 - n1, b1)
            store(out[c], s, a0 + a1)
            store(out[partner], s, b0 + b1)


@kernel(inline="once")
def add_first_moments(x, means, resp, n_strips, sums):  # type: ignore[no-untyped-def]
    """Add ``Σ w r (x - mean)`` to sums, in the order of `first_moments`. O(k d) time per row.

    Two components share what is loaded of x, of which infinite values are cleared.
    """
    k, n_features = means.shape
    clear_infinite(x, n_strips * n_features)
    for i in range(0, n_features, 4):  # outside: of a tile, this much stays in the nearest cache
        for c in range(0, k, 2):
            partner = c + 1 if c + 1 < k else c
            mean, other_mean, weight, other_weight = means[c], means[partner], resp[c], resp[partner]
            m0, m1 = element(mean, i), element(mean, i + 1)
            m2, m3 = element(mean, i + 2), element(mean, i + 3)
            n0, n1 = element(other_mean, i), element(other_mean, i + 1)
            n2, n3 = element(other_mean, i + 2), element(other_mean, i + 3)
            a0, a1, a2, a3 = zero(x), zero(x), zero(x), zero(x)
            b0, b1, b2, b3 = zero(x), zero(x), zero(x), zero(x)
            for v in range(STRIP_VECTORS * n_strips):
                r, q, at = load(weight, v), load(other_weight, v), vector_in_strips(v, n_features, i)
                x0, x1 = load(x, at), load(x, at + STRIP_VECTORS)
                x2, x3 = load(x, at + 2 * STRIP_VECTORS), load(x, at + 3 * STRIP_VECTORS)
                a0 = multiply_add(r, x0 - m0, a0)
                a1 = multiply_add(r, x1 - m1, a1)
                a2 = multiply_add(r, x2 - m2, a2)
                a3 = multiply_add(r, x3 - m3, a3)
                b0 = multiply_add(q, x0 - n0, b0)
                b1 = multiply_add(q, x1 - n1, b1)
                b2 = multiply_add(q, x2 - n2, b2)
                b3 = multiply_add(q, x3 - n3, b3)
            add_sums(sums[c // 2], i // 4, (a0, a1, a2, a3, b0, b1, b2, b3))


def first_moments(sums: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the (k, d) of this shape that `add_first_moments` wrote."""
    k, d = shape
    return sums.reshape(len(sums), -1, 2, 4).swapaxes(1, 2).reshape(2 * len(sums), -1)[:k, :d].copy()
