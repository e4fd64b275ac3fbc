"""How rows of a zarr array are read: from its files, or through zarr with the fastest pipeline there is.

Whichever way, the bits are the same. `chunk_files` reads local arrays without shards, faster than pipelines.
Other local arrays that were opened here are for zarr's Rust pipeline where the package `zarrs` is installed,
else for the fused one (zarr >= 3.3), else for the default. What ``zarr.config`` or the caller chose stays.
"""

from __future__ import annotations

import copy
import itertools
import logging
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.buffer import cpu
from zarr.storage import LocalStore, StorePath, WrapperStore

from streamem.sources.chunk_files import ChunkFiles, chunk_files, chunk_path, gone, stored_shape
from streamem.sources.timing import Stopwatch

__all__ = ["ChunkFiles", "ThroughZarr", "TimedStore", "choose_reader"]

logger = logging.getLogger("streamem")

FASTER = ("zarrs.ZarrsCodecPipeline", "zarr.core.codec_pipeline.FusedCodecPipeline")
"""Names for ``zarr.config`` of pipelines for local stores, the fastest first."""

_configuring = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class ThroughZarr:
    """An array that zarr reads."""

    array: zarr.Array[Any]
    """The open array, with the pipeline that reads."""
    strict: bool
    """Whether a chunk that is not there is an error."""

    @property
    def reused_bytes(self) -> None:
        """zarr allocates."""
        return

    def read(self, start: int, stop: int, out: NDArray[Any], fetching: Stopwatch) -> None:
        """Read rows ``start:stop`` into ``out``; the watch is running while the store is being read."""
        selection = (slice(start, stop), *(slice(None) for _ in self.array.shape[1:]))
        target = cpu.NDBuffer.from_numpy_array(out)
        timed = _timed(self.array, fetching)
        if timed is not None:
            timed.get_basic_selection(selection, out=target, prototype=cpu.buffer_prototype)
        else:  # fetches and decodes in one: nobody can tell how long each took
            with fetching:
                self.array.get_basic_selection(selection, out=target, prototype=cpu.buffer_prototype)
        if self.strict:
            _require_files(self.array, start, stop)


class TimedStore(WrapperStore[Store]):
    """Another store, with a watch that is running while something is being read from it."""

    def __init__(self, store: Store, fetching: Stopwatch) -> None:
        super().__init__(store)
        self._fetching = fetching

    def __str__(self) -> str:
        return str(self._store)

    async def get(self, *request: Any, **options: Any) -> Any:
        """Fetch one object, or a range of its bytes."""
        with self._fetching:
            return await self._store.get(*request, **options)

    async def get_partial_values(self, *request: Any, **options: Any) -> Any:
        """Fetch ranges of several objects."""
        with self._fetching:
            return await self._store.get_partial_values(*request, **options)

    async def get_ranges(self, *request: Any, **options: Any) -> AsyncIterator[Any]:
        """Fetch ranges of one object (zarr >= 3.3)."""
        store: Any = self._store
        groups = store.get_ranges(*request, **options)
        while True:
            with self._fetching:
                try:
                    group = await anext(groups)
                except StopAsyncIteration:
                    return
            yield group

    if hasattr(WrapperStore, "get_sync"):

        def get_sync(self, *request: Any, **options: Any) -> Any:
            """Fetch one object on this thread (zarr >= 3.3)."""
            store: Any = self._store
            with self._fetching:
                return store.get_sync(*request, **options)


def choose_reader(array: zarr.Array[Any], strict: bool, ours: bool) -> ChunkFiles | ThroughZarr:
    """Return what reads the rows of an array.

    Parameters
    ----------
    strict
        Whether a chunk that is not there is an error, where that can be told.
    ours
        Whether the array was opened here: one that the caller opened keeps its pipeline.
    """
    if _pipeline(array) == zarr.config.defaults[0]["codec_pipeline"]["path"]:
        files = chunk_files(array, strict)
        if files is not None:
            return files
        if ours and isinstance(array.store, LocalStore):
            array = _with_faster_pipeline(array)
    logger.debug("%s: read through %s", array.store_path, _pipeline(array))
    return ThroughZarr(_without_gaps(array) if strict else array, strict)


def _pipeline(array: zarr.Array[Any]) -> str:
    """Return the name of the pipeline that an array was opened with."""
    opened = getattr(array, "async_array", None)
    if opened is None:  # zarr < 3.1.6
        return str(zarr.config.get("codec_pipeline.path"))
    kind = type(opened.codec_pipeline)
    return f"{kind.__module__}.{kind.__qualname__}"


def _with_faster_pipeline(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the array as another pipeline reads it; itself where there is none that can."""
    if not np.dtype(array.dtype).isnative:  # zarrs finds out as it reads
        return array
    for name in FASTER:
        # A strict zarrs says at once what it cannot read, and does not warn and read it slowly.
        settings = {"codec_pipeline.path": name, "codec_pipeline.strict": True}
        try:
            with _configuring, zarr.config.set(settings):
                other: Any = zarr.Array(zarr.AsyncArray(metadata=array.metadata, store_path=array.store_path))
        except Exception as error:  # not installed, or refuses the array
            logger.debug("%s: not read through %s (%s)", array.store_path, name, error)
            continue
        if _pipeline(other) == name:
            return other  # type: ignore[no-any-return]
    return array


def _timed(array: zarr.Array[Any], fetching: Stopwatch) -> zarr.Array[Any] | None:
    """Return the array on a store that tells when it is read; None where the pipeline goes around stores.

    Everything else about it stays, as its pipeline; a new array would get that of the configuration now.
    """
    opened = getattr(array, "async_array", None)
    if opened is None or _pipeline(array).startswith("zarrs."):
        return None
    opened = copy.copy(opened)
    object.__setattr__(opened, "store_path", StorePath(TimedStore(array.store, fetching), array.path))
    return zarr.Array(opened)


def _without_gaps(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Have zarr raise where a chunk is not there, if it can (>= 3.2) and there are no files to look for."""
    able = hasattr(getattr(array, "config", None), "read_missing_chunks")
    if _file_sizes(array) or not able or _pipeline(array).startswith("zarrs."):
        return array
    options: Any = {"read_missing_chunks": False}
    return array.with_config(options)


def _require_files(array: zarr.Array[Any], start: int, stop: int) -> None:
    """Raise unless the files that hold these rows are there, hence were when they were read."""
    sizes = _file_sizes(array)
    if not sizes:
        return
    columns = (range(-(-n // size)) for n, size in zip(array.shape[1:], sizes[1:], strict=True))
    for place in itertools.product(range(start // sizes[0], -(-stop // sizes[0])), *columns):
        if not os.path.isfile(chunk_path(array, place)):
            raise gone(chunk_path(array, place))


def _file_sizes(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Return the shape of what a file of a local array holds; nothing where that is not the same for all."""
    return stored_shape(array) if isinstance(array.store, LocalStore) else ()
