"""The two products that most of an E-step's arithmetic is in, blocked for registers.

Rows lie in SIMD lanes. Where features are combined, rows come in *strips*, some vectors of rows, feature by
feature: feature i of strip s of an array with d features is number ``s d + i``. d is a multiple of 4 here;
what pads it is zero. Where rows are summed, they lie *by feature*: vector v of feature i of an array with n
vectors of rows is vector ``i n + v``, so that all that a block of sums needs is read from beginning to end.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel
from streamem.kernels.simd import (
    STRIP_VECTORS,
    VECTOR_BYTES,
    VECTOR_REGISTERS,
    add_sums,
    element,
    load,
    load_strip,
    multiply_add,
    store,
    zero,
    zero_strip,
)

__all__ = [
    "STRIP_BYTES",
    "add_gram",
    "gram_blocks",
    "gram_matrix",
    "vector_in_strips",
    "whiten_strip",
]

STRIP_BYTES = STRIP_VECTORS * VECTOR_BYTES
"""Bytes of one feature of one strip."""


@kernel(inline=True)
def vector_in_strips(v, n_features, i):  # type: ignore[no-untyped-def]
    """Return the number of vector v of rows of feature i among all vectors of strips."""
    part = v & (STRIP_VECTORS - 1)
    return (v - part) * n_features + STRIP_VECTORS * i + part


@kernel(inline=True)
def whiten_strip(triangle, mean, n_features, x, x_start, difference, y, y_start, y_step):  # type: ignore[no-untyped-def]
    """Write the first n_features of ``y = L⁻¹(x - μ)`` of one strip of rows; return ``‖y‖²`` over them.

    Parameters
    ----------
    triangle
        (d, d) lower triangular ``L⁻¹``; zeros above the diagonal.
    mean
        (d,) μ.
    n_features
        Multiple of 4; the remaining features are not touched.
    x, y
        Strips of the features: of x from number `x_start` on, of y from `y_start` on, `y_step` apart.
    difference
        To write ``x - μ`` of these rows to. It may be x.

    Notes
    -----
    O(d² / 2) multiply-adds per row. Four features of a strip stay in registers.
    """
    q = zero_strip(x)
    d = len(mean)
    for j in range(n_features):
        store(difference, j, load_strip(x, x_start + j) - element(mean, j))
    for i in range(0, n_features, 4):
        row0, row1, row2, row3 = i * d, (i + 1) * d, (i + 2) * d, (i + 3) * d
        y0, y1, y2, y3 = zero_strip(x), zero_strip(x), zero_strip(x), zero_strip(x)
        for j in range(i + 4):
            apart = load_strip(difference, j)
            y0 = multiply_add(element(triangle, row0 + j), apart, y0)
            y1 = multiply_add(element(triangle, row1 + j), apart, y1)
            y2 = multiply_add(element(triangle, row2 + j), apart, y2)
            y3 = multiply_add(element(triangle, row3 + j), apart, y3)
        at = y_start + i * y_step
        store(y, at, y0)
        store(y, at + y_step, y1)
        store(y, at + 2 * y_step, y2)
        store(y, at + 3 * y_step, y3)
        q = multiply_add(y0, y0, multiply_add(y1, y1, multiply_add(y2, y2, multiply_add(y3, y3, q))))
    return q


@kernel(inline=True)
def add_gram(weight, y, n_features, n_vectors, stride, weighted, sum_wy, sum_wyy):  # type: ignore[no-untyped-def]
    """Add ``Σ w y`` over rows, and ``Σ w y yᵀ`` to blocks of four by four on and below the diagonal.

    Parameters
    ----------
    weight
        n_vectors of w.
    y
        As many of rows, by feature; `stride` vectors lie between those of one feature and the next.
    weighted
        To write ``w y`` of four features to.
    sum_wy
        (d,) float64.
    sum_wyy
        (gram_blocks, 8) float64, in the order of `gram_matrix`.

    Notes
    -----
    O(d² / 2) multiply-adds per row; summed within the call in the dtype of y. Every y has to be finite, as
    0 times another would be NaN.
    """
    block = 0
    for i in range(0, n_features, 4):
        _weigh(weight, y, n_vectors, stride, i, weighted, sum_wy)
        for j in range(0, i + 4, 4):
            add_block(weighted, y, n_vectors, stride, j, sum_wyy, block)
            block += 2


@kernel(inline=True)
def _weigh(weight, y, n_vectors, stride, i, weighted, sum_wy):  # type: ignore[no-untyped-def]
    """Write ``w y`` of features i to i + 3, and add its sums."""
    a, b, c, d = zero(y), zero(y), zero(y), zero(y)
    for v in range(n_vectors):
        w, at = load(weight, v), i * stride + v
        wa, wb = w * load(y, at), w * load(y, at + stride)
        wc, wd = w * load(y, at + 2 * stride), w * load(y, at + 3 * stride)
        store(weighted, v, wa)
        store(weighted, v + n_vectors, wb)
        store(weighted, v + 2 * n_vectors, wc)
        store(weighted, v + 3 * n_vectors, wd)
        a, b, c, d = a + wa, b + wb, c + wc, d + wd
    add_sums(sum_wy, i // 4, (a, b, c, d))


@kernel(inline=True)
def add_block_at_once(weighted, y, n_vectors, stride, j, out, block):  # type: ignore[no-untyped-def]
    """Add the sums of four weighted features times features j to j + 3: 21 vectors stay in registers."""
    a0, a1, a2, a3 = zero(y), zero(y), zero(y), zero(y)
    b0, b1, b2, b3 = zero(y), zero(y), zero(y), zero(y)
    c0, c1, c2, c3 = zero(y), zero(y), zero(y), zero(y)
    d0, d1, d2, d3 = zero(y), zero(y), zero(y), zero(y)
    for v in range(n_vectors):
        at = j * stride + v
        y0, y1 = load(y, at), load(y, at + stride)
        y2, y3 = load(y, at + 2 * stride), load(y, at + 3 * stride)
        wy = load(weighted, v)
        a0, a1 = multiply_add(wy, y0, a0), multiply_add(wy, y1, a1)
        a2, a3 = multiply_add(wy, y2, a2), multiply_add(wy, y3, a3)
        wy = load(weighted, v + n_vectors)
        b0, b1 = multiply_add(wy, y0, b0), multiply_add(wy, y1, b1)
        b2, b3 = multiply_add(wy, y2, b2), multiply_add(wy, y3, b3)
        wy = load(weighted, v + 2 * n_vectors)
        c0, c1 = multiply_add(wy, y0, c0), multiply_add(wy, y1, c1)
        c2, c3 = multiply_add(wy, y2, c2), multiply_add(wy, y3, c3)
        wy = load(weighted, v + 3 * n_vectors)
        d0, d1 = multiply_add(wy, y0, d0), multiply_add(wy, y1, d1)
        d2, d3 = multiply_add(wy, y2, d2), multiply_add(wy, y3, d3)
    add_sums(out, block, (a0, a1, a2, a3, b0, b1, b2, b3))
    add_sums(out, block + 1, (c0, c1, c2, c3, d0, d1, d2, d3))


@kernel(inline=True)
def add_block_by_halves(weighted, y, n_vectors, stride, j, out, block):  # type: ignore[no-untyped-def]
    """Do what `add_block_at_once` does for two weighted features at a time: 13 vectors stay in registers."""
    for half in range(2):
        a0, a1, a2, a3 = zero(y), zero(y), zero(y), zero(y)
        b0, b1, b2, b3 = zero(y), zero(y), zero(y), zero(y)
        for v in range(n_vectors):
            at, left = j * stride + v, 2 * half * n_vectors + v
            y0, y1 = load(y, at), load(y, at + stride)
            y2, y3 = load(y, at + 2 * stride), load(y, at + 3 * stride)
            wy = load(weighted, left)
            a0, a1 = multiply_add(wy, y0, a0), multiply_add(wy, y1, a1)
            a2, a3 = multiply_add(wy, y2, a2), multiply_add(wy, y3, a3)
            wy = load(weighted, left + n_vectors)
            b0, b1 = multiply_add(wy, y0, b0), multiply_add(wy, y1, b1)
            b2, b3 = multiply_add(wy, y2, b2), multiply_add(wy, y3, b3)
        add_sums(out, block + half, (a0, a1, a2, a3, b0, b1, b2, b3))


add_block = add_block_at_once if VECTOR_REGISTERS >= 21 else add_block_by_halves


def gram_blocks(n_features: int) -> int:
    """Return how many runs of 8 sums `add_gram` writes; n_features is a multiple of 4."""
    return (n_features // 4) * (n_features // 4 + 1)


def gram_matrix(blocks: NDArray[np.float64], n_features: int) -> NDArray[np.float64]:
    """Return the symmetric (..., n_features, n_features) matrices of (..., gram_blocks, 8) sums."""
    flat = blocks.reshape(*blocks.shape[:-2], -1)
    return np.take(flat, _places_in_blocks(n_features), axis=-1)


@lru_cache(maxsize=8)
def _places_in_blocks(n_features: int) -> NDArray[np.intp]:
    """Return (n_features, n_features) where `add_gram` has the entries of a symmetric matrix."""
    i, j = np.indices((n_features, n_features))
    row, column = np.maximum(i, j), np.minimum(i, j)
    block = row // 4 * (row // 4 + 1) // 2 + column // 4
    return np.asarray(16 * block + row % 4 * 4 + column % 4)
