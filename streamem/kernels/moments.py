"""Moments of raw rows about a given point, in one reading."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel, unwritable
from streamem.kernels.memory import aligned_zeros
from streamem.kernels.products import add_gram, gram_blocks, gram_matrix
from streamem.kernels.simd import STRIP_VECTORS, load_strip, rows_per_strip, store
from streamem.kernels.tiles import fill, make_tile, padded

__all__ = ["Moments", "moments"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]
Float64Array: TypeAlias = NDArray[np.float64]

TILE_ROWS = 128


class Moments(NamedTuple):
    """Weighted sums of rows about a shift, and the range of the rows."""

    weight: float
    """``Σ w``."""
    minimum: Float64Array
    """(d,) smallest values; +inf where there are no rows."""
    maximum: Float64Array
    """(d,) largest values; -inf where there are no rows."""
    sum_wd: Float64Array
    """(d,) ``Σ w (x - shift)``."""
    sum_wdd: Float64Array
    """(d, d) ``Σ w (x - shift)(x - shift)ᵀ``."""


def moments(x: FloatArray, weight: Float64Array | None, shift: Float64Array) -> Moments:
    """Return the weighted moments of (n, d) rows about `shift`; rows of weight 0 are as if absent."""
    d, p = len(shift), padded(len(shift))
    n_rows = TILE_ROWS
    tile = make_tile(shift, np.ones(d), 1, n_rows, np.float64)
    minimum, maximum = np.full(d, np.inf), np.full(d, -np.inf)
    sum_wd, sum_wdd = aligned_zeros(p, np.float64), aligned_zeros((gram_blocks(p), 8), np.float64)
    y, weighted = aligned_zeros(n_rows * p, np.float64), aligned_zeros(n_rows * 4, np.float64)
    weights = np.empty(0) if weight is None else np.asarray(weight, np.float64)
    total = _moments(unwritable(x), unwritable(weights), tile, y, weighted, minimum, maximum, sum_wd, sum_wdd)
    return Moments(total, minimum, maximum, sum_wd[:d], gram_matrix(sum_wdd, d))


@kernel
def _moments(x, weight, tile, y, weighted, minimum, maximum, sum_wd, sum_wdd):  # type: ignore[no-untyped-def]
    """Return the weight; update minimum and maximum (d,), add to the sums. O(n d²) time, no memory."""
    n_features, lanes = len(tile.x) // len(tile.row), rows_per_strip(tile.x)
    total = 0.0
    row = 0
    while row < len(x):
        row, held = fill(x, weight, row, tile)
        n_strips = -(-held // lanes)
        for t in range(held):
            total += tile.weight[t]
            values = x[tile.row[t]]
            for j in range(len(minimum)):
                minimum[j] = values[j] if values[j] < minimum[j] else minimum[j]
                maximum[j] = values[j] if values[j] > maximum[j] else maximum[j]
        for s in range(n_strips):
            for i in range(n_features):
                store(y, i * n_strips + s, load_strip(tile.x, s * n_features + i))
        n_vectors = STRIP_VECTORS * n_strips
        add_gram(tile.weight, y, n_features, n_vectors, n_vectors, weighted, sum_wd, sum_wdd)
    return total
