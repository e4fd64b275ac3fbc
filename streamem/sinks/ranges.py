"""Which rows of a result are written at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["output_ranges", "result_chunk_rows"]

SMALL_BYTES, LARGE_BYTES = 2**20, 16 * 2**20
"""Pieces of a result are joined up to the first, and cut above the second."""
MIN_CHUNKS = 64
"""Pieces are not joined to fewer than this many: they are computed in parallel."""


def output_ranges(n_samples: int, chunk_rows: int) -> list[tuple[int, int]]:
    """Return the first and one past the last row of each piece.

    Examples
    --------
    >>> output_ranges(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + chunk_rows, n_samples)) for start in range(0, n_samples, chunk_rows)]


def result_chunk_rows(shape: tuple[int, ...], dtype: np.dtype[Any], block_rows: int) -> int:
    """Return rows per piece: several blocks of small results, a part of a block of large ones.

    Examples
    --------
    >>> result_chunk_rows((10**8,), np.dtype("int64"), 10_000)
    130000
    >>> result_chunk_rows((10**8, 1000), np.dtype("float64"), 10_000)
    2000
    """
    block_bytes = max(1, block_rows * math.prod(shape[1:]) * dtype.itemsize)
    if block_bytes > LARGE_BYTES:
        return -(-block_rows // -(-block_bytes // LARGE_BYTES))
    joined = min(SMALL_BYTES // block_bytes, shape[0] // (MIN_CHUNKS * block_rows))
    return block_rows * max(1, joined)
