"""Dask arrays: each block computes its own part of the graph, serially, where the block is loaded."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray

from streamem.errors import InputError

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

    def read(self, start: int, stop: int, out: NDArray[Any] | None) -> NDArray[Any]:
        """Compute rows ``start:stop`` on this thread."""
        rows = self.array[start - self.first : stop - self.first]
        return np.asarray(rows.compute(scheduler="synchronous"))

    def portable(self, start: int, stop: int) -> DaskArray:
        """Return a handle with only the part of the graph that these rows need."""
        (rows,) = dask.optimize(self.array[start - self.first : stop - self.first])
        return DaskArray(self.name, self.shape, rows, ((start,),), start)


def from_dask(array: Any, name: str) -> DaskArray:
    """Return a handle of a dask array of known shape."""
    if any(math.isnan(n) for n in array.shape):
        raise InputError(
            f"{name}: the lengths of this dask array's chunks are unknown (shape {array.shape}). "
            "Call x.compute_chunk_sizes() first; it computes the array once."
        )
    if _is_persisted(array):
        raise InputError(
            f"{name}: this dask array is persisted on a cluster, where tasks cannot fetch it block by block. "
            "Give it as it was before persist(), or store it with to_zarr() and give the path."
        )
    if array.ndim == 2 and array.numblocks[1] > 1:
        array = array.rechunk({1: -1})
    starts = tuple(accumulate(array.chunks[0][:-1], initial=0)) if array.ndim else ()
    return DaskArray(name, array.shape, array, (starts,))


def _is_persisted(array: Any) -> bool:
    """Whether parts of a dask array are futures of a cluster."""
    return any(
        type(task).__module__.startswith("distributed.") for task in dict(array.__dask_graph__()).values()
    )
