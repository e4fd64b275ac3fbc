"""Single rows of single components, for those of a tile that few components matter to.

Features lie in SIMD lanes here: ``y = L⁻¹(x - μ)`` is a sum of columns of L⁻¹, and ``w y yᵀ`` a row of sums
for each feature. All is float64. The working memory is that of `streamem.kernels.full`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel
from streamem.kernels.simd import VECTOR_BYTES, element, load, multiply_add, rows_per_strip, store, zero

__all__ = ["add_row", "enter_columns", "row_width", "symmetric", "whiten_row"]

LANES = VECTOR_BYTES // 8


def row_width(n_features: int) -> int:
    """Return how many float64 whole vectors of so many features hold."""
    return -(-n_features // LANES) * LANES


@kernel(inline="once")
def whiten_row(x, t, mean, columns, difference, y, place):  # type: ignore[no-untyped-def]
    """Write ``y = L⁻¹(x - μ)`` of row t of the strips x to row `place` of y, and return ‖y‖².

    O(d² / 2) multiply-adds. A call of its own would count references, which takes longer.
    """
    n_features, lanes = len(mean), rows_per_strip(x)
    n_vectors, first, distance = y.shape[1] // LANES, t // lanes * lanes * n_features + t % lanes, 0.0
    for j in range(n_features):
        difference[j] = x[first + j * lanes] - mean[j]
    for v in range(n_vectors):
        a0, a1, a2, a3 = zero(y), zero(y), zero(y), zero(y)
        for j in range(0, min(n_features, (v + 1) * LANES), 4):  # beyond are zeros
            at = j * n_vectors + v
            a0 = multiply_add(element(difference, j), load(columns, at), a0)
            a1 = multiply_add(element(difference, j + 1), load(columns, at + n_vectors), a1)
            a2 = multiply_add(element(difference, j + 2), load(columns, at + 2 * n_vectors), a2)
            a3 = multiply_add(element(difference, j + 3), load(columns, at + 3 * n_vectors), a3)
        store(y, place * n_vectors + v, (a0 + a1) + (a2 + a3))
    for i in range(n_features):
        distance += y[place, i] * y[place, i]
    return distance


@kernel(inline="once")
def add_row(weight, y, place, sum_wy, sum_wyy):  # type: ignore[no-untyped-def]
    """Add ``w y`` and ``w y yᵀ`` of row `place` of y. O(d² / 2) multiply-adds."""
    n_features, n_vectors = len(sum_wy), y.shape[1] // LANES
    for i in range(n_features):
        sum_wy[i] += weight * y[place, i]
    for v in range(n_vectors):
        wy = weight * load(y, place * n_vectors + v)
        for i in range(v * LANES, n_features):
            at = i * n_vectors + v
            store(sum_wyy, at, multiply_add(element(y, place * y.shape[1] + i), wy, load(sum_wyy, at)))


@kernel(inline="once")
def enter_columns(components):  # type: ignore[no-untyped-def]
    """Write L⁻¹ of all components column by column, and zeros for their sums."""
    k, n_features = components.means.shape
    for c in range(k):
        for i in range(n_features):
            for j in range(n_features):
                components.columns[c, j, i] = components.whitening[c, i, j]
                components.row_wyy[c, i, j] = 0.0
    components.entered[0] = True


def symmetric(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the symmetric (..., d, d) matrices that equal these on and below the diagonal."""
    return np.asarray(np.tril(lower) + np.tril(lower, -1).swapaxes(-1, -2))
