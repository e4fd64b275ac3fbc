"""Dask arrays: each block computes its own part of the graph, serially, where the block is loaded.

Parts that are persisted on a cluster are neither fetched nor computed again: a block names the futures that
it is made from (``inputs``), its task depends on them, and the task gives it their values (``given``).
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import dask
import dask.array
import numpy as np
from dask.optimization import cull
from numpy.typing import NDArray

from streamem.errors import InputError, SourceError
from streamem.sources.timing import Stopwatch

__all__ = ["DaskArray", "from_dask"]


@dataclass(frozen=True, slots=True, eq=False)
class DaskArray:
    """Rows ``first`` and following of a dask array whose chunks hold whole rows."""

    name: str
    """What messages call it."""
    shape: tuple[int, ...]
    """(n,) or (n, d): of the whole array."""
    array: Any
    """The dask array."""
    row_grids: tuple[tuple[int, ...]]
    """First rows of its chunks."""
    first: int = 0
    """Number of the first row held."""
    futures: Mapping[Any, Any] = field(default_factory=dict)
    """What of the graph is persisted on a cluster, by key."""
    parts: dict[tuple[int, int], DaskPart] = field(default_factory=dict)
    """Parts of the graph that were asked for, by their rows: passes ask again."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As dask expects it."""
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def memory(self) -> None:
        """The array is not in memory."""
        return

    def read_bytes(self, start: int, stop: int) -> int:
        """Bytes of the chunks that these rows touch, and of joining them; what computes them is unknown."""
        grid = self.row_grids[0]
        first, last = grid[bisect_right(grid, start) - 1], bisect_left(grid, stop)
        rows = (grid[last] if last < len(grid) else self.shape[0]) - first
        return 2 * rows * math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def reused_bytes(self) -> None:
        """Each read allocates."""
        return

    def read(self, start: int, stop: int, out: NDArray[Any] | None, fetching: Stopwatch) -> NDArray[Any]:
        """Compute rows ``start:stop`` on this thread; what of that is reading only the graph knows."""
        part = self.portable(start, stop)
        with fetching:
            values = {key: self.futures[key].result() for key in part.needed}
        return part.given(values).read(start, stop, out, fetching)

    def inputs(self, start: int, stop: int) -> tuple[Any, ...]:
        """Return the futures that these rows are made from."""
        return tuple(self.futures[key] for key in self.portable(start, stop).needed)

    def portable(self, start: int, stop: int) -> DaskPart:
        """Return a handle with only the part of the graph that these rows need."""
        if (start, stop) not in self.parts:
            self.parts[start, stop] = self._part(start, stop)
        return self.parts[start, stop]

    def _part(self, start: int, stop: int) -> DaskPart:
        (rows,) = dask.optimize(self.array[start - self.first : stop - self.first])
        graph = {k: task for k, task in dict(rows.__dask_graph__()).items() if k not in self.futures}
        wanted = list(dask.core.flatten(rows.__dask_keys__()))
        needed = () if not self.futures else cull({**graph, **dict.fromkeys(self.futures)}, wanted)[0]
        layout = (rows.name, rows.chunks, rows.dtype)
        return DaskPart(
            self.name, self.shape, graph, layout, start, tuple(key for key in needed if key in self.futures)
        )


@dataclass(frozen=True, slots=True, eq=False)
class DaskPart:
    """Rows ``first`` and following of a dask array, apart from the rest of it; picklable."""

    name: str
    """What messages call it."""
    shape: tuple[int, ...]
    """(n,) or (n, d): of the whole array."""
    graph: dict[Any, Any]
    """What computes the rows."""
    layout: tuple[str, Any, np.dtype[Any]]
    """Name, chunks and dtype of the rows as a dask array."""
    first: int
    """Number of the first row held."""
    needed: tuple[Any, ...] = ()
    """Keys whose values the cluster holds."""
    values: Mapping[Any, Any] = field(default_factory=dict)
    """Those values, once they are given."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As dask expects it."""
        return self.layout[2]

    @property
    def memory(self) -> None:
        """The array is not in memory."""
        return

    @property
    def row_grids(self) -> tuple[tuple[int, ...]]:
        """One piece."""
        return ((self.first,),)

    def read_bytes(self, start: int, stop: int) -> int:
        """Unknown here; planned for the whole array."""
        return 0

    @property
    def reused_bytes(self) -> None:
        """Each read allocates."""
        return

    def read(self, start: int, stop: int, out: NDArray[Any] | None, fetching: Stopwatch) -> NDArray[Any]:
        """Compute rows ``start:stop`` on this thread."""
        if len(self.values) < len(self.needed):
            raise SourceError(
                f"{self.name}: parts of this dask array are persisted on a cluster, and this process is none "
                'of its workers. Leave out scheduler=, or use "threads".'
            )
        name, chunks, dtype = self.layout
        rows = dask.array.Array({**self.graph, **self.values}, name, chunks, dtype=dtype)
        rows = rows[start - self.first : stop - self.first]
        with fetching:
            return np.asarray(rows.compute(scheduler="synchronous"))

    def portable(self, start: int, stop: int) -> DaskPart:
        """Return the handle itself: it holds no other rows."""
        return self

    def given(self, values: Mapping[Any, Any]) -> DaskPart:
        """Return the handle with what it needs of these values."""
        return replace(self, values={key: values[key] for key in self.needed})


def from_dask(array: Any, name: str) -> DaskArray:
    """Return a handle of a dask array of known shape."""
    if any(math.isnan(n) for n in array.shape):
        raise InputError(
            f"{name}: the lengths of this dask array's chunks are unknown (shape {array.shape}). "
            "Call x.compute_chunk_sizes() first; it computes the array once."
        )
    if array.ndim == 2 and array.numblocks[1] > 1:
        array = array.rechunk({1: -1})
    starts = tuple(accumulate(array.chunks[0][:-1], initial=0)) if array.ndim else ()
    return DaskArray(name, array.shape, array, (starts,), futures=_futures(array))


def _futures(array: Any) -> dict[Any, Any]:
    """Return what of an array's graph is persisted on a cluster."""
    if "distributed" not in sys.modules:
        return {}
    from distributed import futures_of

    return {future.key: future for future in futures_of(array)}
