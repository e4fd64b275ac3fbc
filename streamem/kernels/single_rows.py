"""Single rows of single components, for those of a tile that few components matter to.

Features lie in SIMD lanes here: ``y = L⁻¹(x - μ)`` is a sum of columns of L⁻¹, and ``w y yᵀ`` a row of sums
for each feature. y is worked out in the dtype of tiles; it is kept and summed in float64. The working memory
is that of `streamem.kernels.full`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel
from streamem.kernels.simd import (
    STRIP_VECTORS,
    VECTOR_BYTES,
    element,
    lane_sum,
    load,
    multiply_add,
    rows_per_strip,
    store,
    store_float64,
    store_rows,
    zero,
)

__all__ = ["add_row", "enter_columns", "enter_rows", "row_width", "symmetric", "whiten_row"]

LANES = VECTOR_BYTES // 8
"""Of float64."""


def row_width(n_features: int, dtype: np.dtype[Any]) -> int:
    """Return how many elements whole vectors of so many features hold."""
    lanes = VECTOR_BYTES // dtype.itemsize
    return -(-n_features // lanes) * lanes


@kernel(inline="once")
def enter_columns(components):  # type: ignore[no-untyped-def]
    """Write μ, and L⁻¹ column by column, of all components, and zeros for their sums."""
    k, n_features = components.means.shape
    for c in range(k):
        components.row_wy[c, :] = 0.0
        for i in range(n_features):
            components.row_means[c, i] = components.means[c, i]
            for j in range(n_features):
                components.columns[c, j, i] = components.whitening[c, i, j]
                components.row_wyy[c, i, j] = 0.0
    components.entered[0] = True


@kernel(inline="once")
def enter_rows(x, n_features, n_rows, rows):  # type: ignore[no-untyped-def]
    """Write rows of strips to `rows`, each from end to end."""
    strip, lanes = rows_per_strip(x), rows_per_strip(x) // STRIP_VECTORS
    n_vectors = rows.shape[1] // lanes
    for t in range(0, n_rows, lanes):
        first = t // strip * strip * n_features + t % strip
        for j in range(0, n_features, lanes):
            at = t * n_vectors + j // lanes
            store_rows(x, first + j * strip, strip, n_features - j, rows, at, n_vectors)


@kernel(inline=True)
def whiten_row(rows, t, means, columns, c, difference, y, place):  # type: ignore[no-untyped-def]
    """Write ``y = L⁻¹(x - μ)`` of row t for component c to row `place` of y, and return ‖y‖².

    O(d² / 2) multiply-adds.
    """
    lanes = rows_per_strip(rows) // STRIP_VECTORS
    n_features, n_vectors = columns.shape[1], rows.shape[1] // lanes
    for v in range(n_vectors):
        store(difference, v, load(rows, t * n_vectors + v) - load(means, c * n_vectors + v))
    squares = zero(rows)
    for v in range(n_vectors):
        a0, a1, a2, a3 = zero(rows), zero(rows), zero(rows), zero(rows)
        for j in range(0, min(n_features, (v + 1) * lanes), 4):  # beyond are zeros
            at = (c * n_features + j) * n_vectors + v
            a0 = multiply_add(element(difference, j), load(columns, at), a0)
            a1 = multiply_add(element(difference, j + 1), load(columns, at + n_vectors), a1)
            a2 = multiply_add(element(difference, j + 2), load(columns, at + 2 * n_vectors), a2)
            a3 = multiply_add(element(difference, j + 3), load(columns, at + 3 * n_vectors), a3)
        whitened = (a0 + a1) + (a2 + a3)
        store_float64(y, place * n_vectors + v, whitened)
        squares = multiply_add(whitened, whitened, squares)
    return lane_sum(squares)


@kernel(inline="once")
def add_row(weight, y, place, c, sum_wy, sum_wyy):  # type: ignore[no-untyped-def]
    """Add ``w y`` and ``w y yᵀ`` of row `place` of y to the sums of component c. O(d² / 2) multiply-adds."""
    n_features, n_vectors = sum_wyy.shape[1], y.shape[1] // LANES
    for v in range(n_vectors):
        wy = weight * load(y, place * n_vectors + v)
        store(sum_wy, c * n_vectors + v, load(sum_wy, c * n_vectors + v) + wy)
        for i in range(v * LANES, n_features):
            at = (c * n_features + i) * n_vectors + v
            store(sum_wyy, at, multiply_add(element(y, place * y.shape[1] + i), wy, load(sum_wyy, at)))


def symmetric(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the symmetric (..., d, d) matrices that equal these on and below the diagonal."""
    return np.asarray(np.tril(lower) + np.tril(lower, -1).swapaxes(-1, -2))
