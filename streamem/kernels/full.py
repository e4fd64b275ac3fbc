"""Components with covariances of their own: ``y = L_k⁻¹ (x - μ_k)`` and ``Σ w r y yᵀ``, d² flops each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel
from streamem.kernels.gaussian import FullGaussian
from streamem.kernels.products import add_gram, gram_blocks, gram_matrix, whiten_strip
from streamem.kernels.simd import add_sums, load, multiply_add, splat, square_root, store, where_positive, zero
from streamem.kernels.tiles import Tile, add_moments, aligned_zeros, implements, log_joint, padded

__all__ = ["FullComponents", "full_components", "full_sums"]

KEPT_BYTES = 1 << 22
"""Keep whitened rows of all components between the two halves of a tile's work as long as they fit this."""


class FullComponents(NamedTuple):
    """`FullGaussian` in the dtype of tiles, features padded to a multiple of 4, with working memory and sums."""

    means: NDArray[Any]
    """(k, padded d)."""
    whitening: NDArray[Any]
    """(k, padded d, padded d)."""
    log_const: NDArray[np.float64]
    """(k,)."""
    difference: NDArray[Any]
    """One strip of x - μ."""
    y: NDArray[Any]
    """(k or 1, a tile) whitened rows, of all components where they fit."""
    z: NDArray[Any]
    """A tile of whitened rows times the square roots of their weights."""
    root: NDArray[Any]
    """(rows,) square roots of weighted responsibilities."""
    sum_wy: NDArray[np.float64]
    """(k, padded d / 4, 8) sums of even and odd vectors."""
    sum_wyy: NDArray[np.float64]
    """(k, gram_blocks, 8)."""


def full_components(family: FullGaussian, n_rows: int, dtype: Any) -> FullComponents:
    """Prepare components for tiles of n_rows rows."""
    k, d = family.means.shape
    p = padded(d)
    kept = k if k * p * n_rows * np.dtype(dtype).itemsize <= KEPT_BYTES else 1
    return FullComponents(
        means=_padded_to(family.means, (k, p), dtype),
        whitening=_padded_to(family.whitening, (k, p, p), dtype),
        log_const=family.log_const,
        difference=aligned_zeros((32, p), dtype),
        y=aligned_zeros((kept, p * n_rows), dtype),
        z=aligned_zeros(p * n_rows, dtype),
        root=aligned_zeros(n_rows, dtype),
        sum_wy=aligned_zeros((k, p // 4, 8), np.float64),
        sum_wyy=aligned_zeros((k, gram_blocks(p), 8), np.float64),
    )


def _padded_to(array: NDArray[np.float64], shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    if array.shape == shape and array.dtype == dtype and array.flags.c_contiguous:
        return array
    out = np.zeros(shape, dtype)
    out[tuple(slice(n) for n in array.shape)] = array
    return out


def full_sums(family: FullGaussian, components: FullComponents) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum_wy (k, d) and sum_wyy (k, d, d)."""
    k, d = family.means.shape
    return unpaired(components.sum_wy, d), gram_matrix(components.sum_wyy, d)


def unpaired(sums: NDArray[np.float64], n_features: int) -> NDArray[np.float64]:
    """Return (k, n_features) sums of what `weigh` wrote."""
    return np.ascontiguousarray(sums.reshape(len(sums), -1, 2).sum(axis=2)[:, :n_features])


@implements(log_joint, FullComponents)
@kernel(inline=True)
def _log_joint(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Write log-joints, and whitened rows to y. O(k d² / 2) multiply-adds per row."""
    for c in range(len(components.means)):
        _whiten(components, tile, c, n_strips)


@kernel(inline=True)
def _whiten(components, tile, c, n_strips):  # type: ignore[no-untyped-def]
    """Write ``y = L_c⁻¹ (x - μ_c)`` and ``log_const - ‖y‖² / 2``."""
    x, difference, resp = tile.x, components.difference, tile.resp
    n_features = components.means.shape[1]
    half = splat(resp.dtype.type(-0.5))
    const = splat(resp.dtype.type(components.log_const[c]))
    y = components.y[c if len(components.y) > 1 else 0]
    joint = resp[c]
    triangle = components.whitening[c]
    mean = components.means[c]
    for s in range(n_strips):
        strip = 2 * s * n_features
        for j in range(n_features):
            m = splat(mean[j])
            store(difference, 2 * j, load(x, strip + 2 * j) - m)
            store(difference, 2 * j + 1, load(x, strip + 2 * j + 1) - m)
        q0, q1 = whiten_strip(triangle, difference, 0, y, strip, 0, zero(x), zero(x))
        store(joint, 2 * s, multiply_add(half, q0, const))
        store(joint, 2 * s + 1, multiply_add(half, q1, const))


@implements(add_moments, FullComponents)
@kernel(inline=True)
def _add_moments(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Add ``Σ w r y`` and ``Σ w r y yᵀ``. O(k d² / 2) multiply-adds per row."""
    n_features = components.means.shape[1]
    for c in range(len(components.means)):
        y = components.y[c if len(components.y) > 1 else 0]
        weigh(tile.resp[c], y, n_features, n_strips, components.root, components.z, components.sum_wy[c])
        add_gram(components.z, n_features, n_strips, components.sum_wyy[c], 0)


@kernel(inline=True)
def weigh(resp, y, n_features, n_strips, root, z, sum_wy):  # type: ignore[no-untyped-def]
    """Write ``z = √(w r) y`` and add ``Σ w r y``: where w r is 0, y may be anything."""
    for v in range(2 * n_strips):
        store(root, v, square_root(load(resp, v)))
    for i in range(0, n_features, 4):
        a0, a1, b0, b1 = zero(y), zero(y), zero(y), zero(y)
        c0, c1, d0, d1 = zero(y), zero(y), zero(y), zero(y)
        for s in range(n_strips):
            r0, r1 = load(root, 2 * s), load(root, 2 * s + 1)
            at = 2 * (s * n_features + i)
            z0, z1 = where_positive(r0, r0 * load(y, at)), where_positive(r1, r1 * load(y, at + 1))
            store(z, at, z0)
            store(z, at + 1, z1)
            a0, a1 = multiply_add(r0, z0, a0), multiply_add(r1, z1, a1)
            z0, z1 = where_positive(r0, r0 * load(y, at + 2)), where_positive(r1, r1 * load(y, at + 3))
            store(z, at + 2, z0)
            store(z, at + 3, z1)
            b0, b1 = multiply_add(r0, z0, b0), multiply_add(r1, z1, b1)
            z0, z1 = where_positive(r0, r0 * load(y, at + 4)), where_positive(r1, r1 * load(y, at + 5))
            store(z, at + 4, z0)
            store(z, at + 5, z1)
            c0, c1 = multiply_add(r0, z0, c0), multiply_add(r1, z1, c1)
            z0, z1 = where_positive(r0, r0 * load(y, at + 6)), where_positive(r1, r1 * load(y, at + 7))
            store(z, at + 6, z0)
            store(z, at + 7, z1)
            d0, d1 = multiply_add(r0, z0, d0), multiply_add(r1, z1, d1)
        add_sums(sum_wy, i // 4, a0, a1, b0, b1, c0, c1, d0, d1)
