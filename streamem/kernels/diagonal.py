"""Components of independent features: ``y = (x - μ_k) / σ_k``, one deviation for each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel
from streamem.kernels.gaussian import DiagGaussian
from streamem.kernels.memory import aligned_zeros, enter, kept_by_thread
from streamem.kernels.products import vector_in_strips
from streamem.kernels.simd import (
    STRIP_VECTORS,
    add_sums,
    element,
    load,
    load_strip,
    multiply_add,
    store,
    zero,
    zero_strip,
)
from streamem.kernels.tiles import add_moments, clear_infinite, implements, log_joint, padded

__all__ = ["DiagonalComponents", "diagonal_components", "diagonal_sums"]


class DiagonalComponents(NamedTuple):
    """Components in the dtype of tiles, features padded to a multiple of 4, and sums."""

    means: NDArray[Any]
    """(k, padded d) in units of the tile."""
    whitening: NDArray[Any]
    """(k, padded d) one over the standard deviations, in units of the tile."""
    shift: NDArray[Any]
    """(k, padded d) ``-μ / σ``: ``y = x / σ + shift`` is rounded once."""
    log_const: NDArray[np.float64]
    """(k,)."""
    sums: NDArray[np.float64]
    """(k, padded d / 4, 8): ``Σ w r (x - μ)`` and ``Σ w r (x - μ)²`` of each feature."""


def diagonal_components(family: DiagGaussian, unit: NDArray[np.float64], dtype: Any) -> DiagonalComponents:
    """Prepare components for tiles of a dtype in units (d,). The thread's next may be in the same memory."""
    k, d = family.means.shape
    components = _memory(k, padded(d), np.dtype(dtype))
    enter(family.means * unit, components.means)
    enter(family.whitening / unit, components.whitening)
    np.multiply(components.means, -components.whitening, out=components.shift)
    components.log_const[:] = family.log_const
    components.sums.fill(0.0)
    return components


@kept_by_thread
def _memory(k: int, p: int, dtype: np.dtype[Any]) -> DiagonalComponents:
    return DiagonalComponents(
        means=np.empty((k, p), dtype),
        whitening=np.empty((k, p), dtype),
        shift=np.empty((k, p), dtype),
        log_const=np.empty(k),
        sums=aligned_zeros((k, p // 4, 8), np.float64),
    )


def diagonal_sums(
    family: DiagGaussian, components: DiagonalComponents, unit: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum_wy (k, d) and sum_wyy (k, d)."""
    k, d = family.means.shape
    sums = components.sums.reshape(k, -1, 2)[:, :d]
    scale = family.whitening / unit
    return sums[..., 0] * scale, sums[..., 1] * scale**2


@implements(log_joint, DiagonalComponents)
@kernel(inline=True)
def _log_joint(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Write ``log_const - ‖y‖² / 2`` of all components. O(k d) time per row.

    Two components share what is loaded of x; the last of an odd number is its own partner.
    """
    x, (k, n_features) = tile.x, components.means.shape
    whitening, shift = components.whitening, components.shift
    half = x.dtype.type(-0.5)
    for s in range(n_strips):
        strip = s * n_features
        for c in range(0, k, 2):
            partner = c + 1 if c + 1 < k else c
            first, other = c * n_features, partner * n_features
            a, b = zero_strip(x), zero_strip(x)
            for i in range(n_features):
                value = load_strip(x, strip + i)
                y = multiply_add(value, element(whitening, first + i), element(shift, first + i))
                a = multiply_add(y, y, a)
                y = multiply_add(value, element(whitening, other + i), element(shift, other + i))
                b = multiply_add(y, y, b)
            store(tile.resp[c], s, multiply_add(half, a, x.dtype.type(components.log_const[c])))
            store(tile.resp[partner], s, multiply_add(half, b, x.dtype.type(components.log_const[partner])))


@implements(add_moments, DiagonalComponents)
@kernel(inline=True)
def _add_moments(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Add ``Σ w r (x - μ)`` and ``Σ w r (x - μ)²``. O(k d) time per row."""
    x, n_features = tile.x, components.means.shape[1]
    clear_infinite(x, n_strips * n_features)
    for i in range(0, n_features, 4):  # outside: of a tile, this much stays in the nearest cache
        for c in range(len(components.means)):
            resp, mean, sums = tile.resp[c], components.means[c], components.sums[c]
            m0, m1 = element(mean, i), element(mean, i + 1)
            m2, m3 = element(mean, i + 2), element(mean, i + 3)
            a0, a1, a2, a3 = zero(x), zero(x), zero(x), zero(x)
            b0, b1, b2, b3 = zero(x), zero(x), zero(x), zero(x)
            for v in range(STRIP_VECTORS * n_strips):
                r = load(resp, v)
                at = vector_in_strips(v, n_features, i)
                d = load(x, at) - m0
                a0, b0 = a0 + r * d, multiply_add(r * d, d, b0)
                d = load(x, at + STRIP_VECTORS) - m1
                a1, b1 = a1 + r * d, multiply_add(r * d, d, b1)
                d = load(x, at + 2 * STRIP_VECTORS) - m2
                a2, b2 = a2 + r * d, multiply_add(r * d, d, b2)
                d = load(x, at + 3 * STRIP_VECTORS) - m3
                a3, b3 = a3 + r * d, multiply_add(r * d, d, b3)
            add_sums(sums, i // 4, (a0, b0, a1, b1, a2, b2, a3, b3))
