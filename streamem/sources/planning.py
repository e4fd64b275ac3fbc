"""Cutting the rows of a store into blocks.

The cut depends on the store's own pieces and on the memory limit, never on threads, so that the same store
gives the same sums to the last bit on any machine. Reading blocks is in `streamem.sources.streaming`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from streamem.errors import MemoryLimitError

__all__ = ["MAX_PIECES", "TARGET_BYTES", "block_edges", "target_rows"]

TARGET_BYTES = 16 * 2**20
"""Decoded rows that small chunks are joined up to: long enough to read at full speed."""
ENOUGH_ROWS, ENOUGH_BLOCKS = 8192, 32
"""Blocks are the units of parallel work: a store is halved until it is so many, or blocks are so small.

A power of two of equal blocks is shared out evenly; each costs half a millisecond beside its work.
"""
MAX_PIECES = 8
"""A chunk that does not fit is cut into at most so many blocks, as each decodes all of it again."""

Cost = Callable[[int, int], int]
"""Peak bytes of loading rows ``start:stop``."""


def target_rows(n_samples: int, row_bytes: int, memory_limit: int | None) -> tuple[int, int]:
    """Return the rows that small pieces are joined up to, and the rows up to which a piece is left whole.

    Examples
    --------
    >>> target_rows(10**9, row_bytes=256, memory_limit=2**30)
    (65536, 65536)
    >>> target_rows(10_000, row_bytes=256, memory_limit=2**30)
    (5000, 65536)
    """
    room = TARGET_BYTES if memory_limit is None else min(TARGET_BYTES, memory_limit // 32)
    most = max(1, room // row_bytes)
    halvings = (max(0, n_samples - 1) // ENOUGH_ROWS).bit_length()
    n_blocks = min(ENOUGH_BLOCKS, 2**halvings)
    return min(most, max(1, -(-n_samples // n_blocks))), most


def block_edges(
    name: str,
    n_samples: int,
    grids: Sequence[Sequence[int]],
    rows: tuple[int, int],
    cost: Cost,
    memory_limit: int | None,
) -> tuple[int, ...]:
    """Return the rows where blocks begin, and n_samples at the end.

    Whole pieces of the coarsest grid are joined up to ``rows[0]`` rows; a piece of more than ``rows[1]`` is
    cut along the finer grids, and a finest piece (a chunk) stays whole unless loading it exceeds the limit.
    Then it is cut into the fewest parts that fit: every part decodes the whole chunk again, only its output
    is smaller, so that cutting earlier would cost more time than it saves memory.

    Raises
    ------
    MemoryLimitError
        A chunk does not fit even when it is loaded in `MAX_PIECES` parts.

    Examples
    --------
    >>> shards, chunks = range(0, 25, 10), range(0, 25, 2)
    >>> block_edges("x", 25, [shards, chunks], (20, 20), lambda start, stop: stop - start, None)
    (0, 20, 25)
    >>> block_edges("x", 25, [shards, chunks], (6, 6), lambda start, stop: stop - start, None)
    (0, 6, 10, 16, 20, 25)
    """
    edges = [0]
    while edges[-1] < n_samples:
        edges.append(_next_edge(edges[-1], n_samples, grids, rows))
    if memory_limit is None:
        return tuple(edges)
    starts = [cut for a, b in pairwise(edges) for cut in _fitting_cuts(name, a, b, cost, memory_limit)]
    return (*starts, n_samples)


def _next_edge(start: int, n_samples: int, grids: Sequence[Sequence[int]], rows: tuple[int, int]) -> int:
    """Return the furthest coarse edge within reach, else the furthest finer one, else the chunk's end."""
    join, most = rows
    if start + join >= n_samples:
        return n_samples
    edge = n_samples
    for grid in grids:
        after = bisect_right(grid, start + join)
        if grid[after - 1] > start:
            return grid[after - 1]
        edge = grid[after] if after < len(grid) else n_samples
        if grid[after - 1] == start and edge - start <= most:
            return edge
    return edge


def _fitting_cuts(name: str, start: int, stop: int, cost: Cost, limit: int) -> Sequence[int]:
    """Return where to cut rows start:stop, into as few parts as fit the limit."""
    most = min(MAX_PIECES, stop - start)
    for pieces in range(1, most + 1):
        size = -(-(stop - start) // pieces)
        if cost(start, start + size) <= limit:
            return range(start, stop, size)
    smallest = cost(start, start + -(-(stop - start) // most))
    raise MemoryLimitError(
        f"{name}: reading rows {start:,}-{stop:,}, stored as one chunk, needs {_mebibytes(smallest)} even in "
        f"{most} parts (in one: {_mebibytes(cost(start, stop))}); memory_limit is {_mebibytes(limit)}. "
        "Raise memory_limit, or store the array in chunks of fewer rows."
    )


def _mebibytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.4g} MiB"
