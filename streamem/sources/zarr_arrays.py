"""Arrays in zarr stores: v2 and v3, sharded or not, local or behind a URL.

Rows are decoded into the reused buffer (`zarr_reading`), and blocks follow shards and chunks (`planning`). A
chunk that was never written reads as the fill value without an error: such chunks are counted on opening.
"""

from __future__ import annotations

import logging
import math
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore, ZipStore

from streamem.errors import InputError, SourceError
from streamem.sources.chunk_files import stored_shape
from streamem.sources.handles import ArrayHandle
from streamem.sources.memory_arrays import MemoryArray
from streamem.sources.timing import Stopwatch
from streamem.sources.zarr_reading import ChunkFiles, ThroughZarr, choose_reader

__all__ = ["ZarrArray", "from_zarr", "open_zarr"]

logger = logging.getLogger("streamem")


@dataclass(frozen=True, slots=True, eq=False)
class ZarrArray:
    """An array in a zarr store."""

    name: str
    """What messages call it."""
    array: zarr.Array[Any]
    """The open array; pickles as its location and metadata."""
    row_grids: tuple[Sequence[int], ...]
    """First rows of shards, where there are any, and of chunks."""
    decoded_row_bytes: int
    """Bytes of one row of whole chunks, those that overhang the last column included."""
    copies: int
    """How often chunks exist while they are decoded: as stored, decoded, and collected from a shard."""
    strict: bool
    """Whether all chunks were there when the array was opened, so that one that is not is an error."""
    ours: bool
    """Whether the array was opened here, and not by the caller."""
    reader: ChunkFiles | ThroughZarr = field(init=False)
    """What reads it in this process."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reader", choose_reader(self.array, self.strict, self.ours))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as what was opened: what there is to read it with may be another where it arrives."""
        copied = (self.name, self.array, self.row_grids, self.decoded_row_bytes, self.copies)
        return ZarrArray, (*copied, self.strict, self.ours)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n,) or (n, d)."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return np.dtype(self.array.dtype)

    @property
    def memory(self) -> None:
        """The decoded array is not in memory."""
        return

    @property
    def stored_bytes(self) -> int | None:
        """Bytes of all chunks as stored; None for stores that cannot be listed, e.g. over http."""
        try:
            return int(self.array.nbytes_stored())
        except Exception as error:
            logger.info("%s: cannot tell how many bytes are stored (%s)", self.name, error)
            return None

    def read_bytes(self, start: int, stop: int) -> int:
        """Bytes of all chunks that these rows touch, compressed and decoded.

        No less for readers that need less: blocks are the same wherever the same array is, and however read.
        """
        grid = self.row_grids[-1]
        first, last = bisect_right(grid, start) - 1, bisect_left(grid, stop)
        if isinstance(grid, range):
            rows = (last - first) * grid.step  # the last chunk is stored at full size
        else:
            rows = (grid[last] if last < len(grid) else self.shape[0]) - grid[first]
        return self.copies * rows * self.decoded_row_bytes

    @property
    def reused_bytes(self) -> int | None:
        """What a thread keeps for reading; None where zarr allocates."""
        return self.reader.reused_bytes

    def read(self, start: int, stop: int, out: NDArray[Any] | None, fetching: Stopwatch) -> NDArray[Any]:
        """Decode rows ``start:stop`` into ``out``."""
        assert out is not None
        with fetching:
            self.require_visible()
        self.reader.read(start, stop, out, fetching)
        return out

    def require_visible(self) -> None:
        """Raise unless this process sees the store, looked up once: chunks it does not see read as zeros."""
        _require_visible(self.array, self.name)

    def portable(self, start: int, stop: int) -> ArrayHandle:
        """Return the handle itself, or the rows where the store lives in this process."""
        if not _is_in_process(self.array.store):
            return self
        rows = self.read(start, stop, np.empty((stop - start, *self.shape[1:]), self.dtype), Stopwatch())
        return MemoryArray(self.name, self.shape, rows, start)


def open_zarr(location: str, storage_options: Mapping[str, Any] | None) -> zarr.Array[Any] | zarr.Group:
    """Open a path or URL for reading."""
    options = None if storage_options is None else dict(storage_options)
    try:
        store = ZipStore(location, mode="r") if _is_zip_file(location) else location
        return zarr.open(store, mode="r", storage_options=options)
    except ImportError as error:
        raise InputError(
            f"{location}: reading this URL needs a package that is missing ({error}). Install it."
        ) from error
    except Exception as error:
        raise SourceError(
            f"{location}: cannot be opened as zarr ({type(error).__name__}: {error}). "
            "Check the path, and that it is a zarr array or group."
        ) from error


def from_zarr(node: Any, name: str | None, missing_chunks: str) -> ZarrArray:
    """Return a handle of an array, or of the only array of a group; what was opened here has a name."""
    ours, name = name is not None, str(node.store_path) if name is None else name
    array, name = _only_array(node, name) if isinstance(node, zarr.Group) else (node, name)
    if len(array.shape) == 2:
        _warn_of_split_columns(array, name)
    checked = missing_chunks != "ignore" and bool(array.size)
    strict = checked and _is_complete(array, name, missing_chunks == "raise")
    grids, column_overhang = _row_grids(array)
    row_bytes = np.dtype(array.dtype).itemsize * column_overhang
    copies = 1 + bool(array.compressors or array.filters) + (len(grids) > 1)
    return ZarrArray(name, array, grids, row_bytes, copies, strict, ours)


def _only_array(group: zarr.Group, name: str) -> tuple[zarr.Array[Any], str]:
    """Return the one array of a group and its name, or list the choice."""
    members = group.members(max_depth=None)
    arrays = [(path, node) for path, node in members if isinstance(node, zarr.Array)]
    if len(arrays) == 1:
        return arrays[0][1], f"{name}/{arrays[0][0]}"
    if not arrays:
        raise InputError(f"{name}: this zarr group holds no array. Give the path of one.")
    listing = ", ".join(
        f"{path} {node.shape}" for path, node in sorted(arrays, key=lambda item: item[0])[:20]
    )
    raise InputError(
        f"{name}: this zarr group holds {len(arrays)} arrays: {listing}. "
        f"Give one of them, e.g. {name}/{arrays[0][0]}."
    )


def _row_grids(array: zarr.Array[Any]) -> tuple[tuple[Sequence[int], ...], int]:
    """Return the first rows of shards and chunks, and the columns that whole chunks hold."""
    if not array.shape:
        return (), 1
    columns = array.shape[1:]
    try:
        shapes = [shape for shape in (array.shards, array.chunks) if shape is not None]
    except NotImplementedError:  # chunks of varying size (zarr >= 3.3)
        sizes: Any = array
        grids = [sizes.write_chunk_sizes[0], sizes.read_chunk_sizes[0]]
        return tuple(tuple(accumulate(rows[:-1], initial=0)) for rows in grids), math.prod(columns)
    whole = math.prod(-(-n // c) * c for n, c in zip(columns, shapes[-1][1:], strict=True) if c)
    return tuple(range(0, array.shape[0], max(1, shape[0])) for shape in shapes), whole


def _warn_of_split_columns(array: zarr.Array[Any], name: str) -> None:
    """Say what it costs that a row is spread over several chunks."""
    stored = stored_shape(array)
    if stored and stored[1] < array.shape[1]:
        warnings.warn(
            f"{name}: columns are split over {-(-array.shape[1] // stored[1])} chunks of shape {stored}, so "
            "every block collects its rows from all of them. Chunks that hold whole rows read faster.",
            stacklevel=5,
        )


def _is_complete(array: zarr.Array[Any], name: str, raises: bool) -> bool:
    """Return whether the store holds all chunks; warn of those that it does not, or raise."""
    try:
        missing, total, what = _count_missing(array)
    except Exception as error:  # stores that cannot be listed, e.g. over http
        logger.info("%s: cannot tell whether chunks are missing (%s)", name, error)
        return False
    if not missing:
        return True
    message = (
        f"{name}: {missing:,} of {total:,} {what} were never written and read as the fill value "
        f"{array.fill_value}. That is as it should be where the data hold nothing else, since zarr leaves "
        f"such {what} out (write_empty_chunks=False); otherwise the array is incomplete. "
        'Pass missing_chunks="ignore" if it is complete, "raise" to be stopped.'
    )
    if raises:
        raise SourceError(message)
    warnings.warn(message, stacklevel=5)
    return False


def _count_missing(array: zarr.Array[Any]) -> tuple[int, int, str]:
    """Return how many stored objects are missing, of how many, and what they are."""
    shards = array.shards
    if shards is None:
        return array.nchunks - array.nchunks_initialized, array.nchunks, "chunks"
    total = math.prod(-(-n // rows) for n, rows in zip(array.shape, shards, strict=True))
    chunks_per_shard = math.prod(s // c for s, c in zip(shards, array.chunks, strict=True))
    return total - array.nchunks_initialized // chunks_per_shard, total, "shards"


_visible: set[str] = set()


def _require_visible(array: zarr.Array[Any], name: str) -> None:
    """See `ZarrArray.require_visible`."""
    place = str(array.store_path)
    if place in _visible or _is_in_process(array.store):
        return
    try:
        found = zarr.open_array(store=array.store, path=array.path, mode="r")
        problem = None if found.shape == array.shape else f"another one is there, of shape {found.shape}"
    except Exception as error:  # zarr's own do not travel back from a worker
        problem = type(error).__name__
    if problem:
        raise SourceError(
            f"{name}: a process that reads it does not see it at {place} ({problem}). Give an absolute path "
            "or URL that means the same on every worker."
        )
    _visible.add(place)


def _is_zip_file(location: str) -> bool:
    return "://" not in location and location.lower().endswith(".zip")


def _is_in_process(store: Any) -> bool:
    """Whether other processes cannot see what a store holds."""
    protocol = getattr(getattr(store, "fs", None), "protocol", ())
    return isinstance(store, MemoryStore) or "memory" in (
        (protocol,) if isinstance(protocol, str) else protocol
    )
