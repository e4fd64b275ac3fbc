"""Results in zarr arrays: new directories, or an array that the caller made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from streamem.errors import InputError, SourceError
from streamem.sinks.placing import hidden_name, place, refuse_existing, remove
from streamem.sinks.sink import Sink, write_error

__all__ = ["ZarrWriter", "create_array", "open_given_array", "open_zarr"]


@dataclass(frozen=True, slots=True, eq=False)
class ZarrWriter:
    """Writes rows into a zarr array."""

    name: str
    """What messages call the result."""
    array: zarr.Array[Any]
    """(n, ...) results; pickles as its location and metadata."""

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Write results of rows ``start : start + len(values)``, whole chunks of them."""
        stop = start + len(values)
        try:
            self.array[start:stop] = values.astype(self.array.dtype, copy=False)
        except Exception as error:
            raise write_error(self.name, start, stop, error) from error


class ZarrSink(Sink):
    """A zarr directory that is still under its hidden name."""

    def __init__(self, path: str, hidden: str, writer: ZarrWriter, chunk_rows: int, overwrite: bool) -> None:
        super().__init__(chunk_rows)
        self._path, self._hidden, self._overwrite = path, hidden, overwrite
        self._zarr = writer

    def _writer(self) -> ZarrWriter:
        return self._zarr

    def _commit(self) -> Any:
        place(self._hidden, self._path, overwrite=self._overwrite)
        return zarr.open_array(self._path, mode="r")

    def _discard(self) -> None:
        remove(self._hidden)


class GivenArraySink(Sink):
    """A zarr array that the caller made; rows that were written stay written, even after `abort`."""

    def __init__(self, array: zarr.Array[Any], chunk_rows: int) -> None:
        super().__init__(chunk_rows)
        self._zarr = ZarrWriter(str(array.store_path), array)

    def _writer(self) -> ZarrWriter:
        return self._zarr

    def _portable_writer(self) -> ZarrWriter:
        if isinstance(self._zarr.array.store, MemoryStore):
            raise InputError(
                f"{self._zarr.name}: other processes cannot write into an array in memory. "
                "Give a path as out."
            )
        return self._zarr

    def _commit(self) -> Any:
        return self._zarr.array

    def _discard(self) -> None:
        return


def open_zarr(
    path: str, shape: tuple[int, ...], dtype: np.dtype[Any], chunk_rows: int, overwrite: bool
) -> ZarrSink:
    """Return a sink for a new zarr array; all its chunks get stored, so that a missing one is an error."""
    refuse_existing(path, overwrite=overwrite, directory=True)
    hidden = hidden_name(path)
    try:
        array = create_array(hidden, shape, dtype, chunk_rows)
    except OSError as error:
        remove(hidden)
        raise SourceError(
            f"{path}: cannot be created ({error}). Check the free space and permissions."
        ) from error
    return ZarrSink(path, hidden, ZarrWriter(path, array), chunk_rows, overwrite)


def create_array(
    store: Any, shape: tuple[int, ...], dtype: np.dtype[Any], chunk_rows: int, separator: Any = "/"
) -> Any:
    """Return a new array of results; the separator is the one in the names of its chunks."""
    return zarr.create_array(
        store,
        shape=shape,
        chunks=tuple(max(1, n) for n in (min(chunk_rows, shape[0]), *shape[1:])),
        dtype=dtype,
        zarr_format=3,
        chunk_key_encoding={"name": "default", "separator": separator},
        config={"write_empty_chunks": True},
    )


def open_given_array(
    array: Any, shape: tuple[int, ...], dtype: np.dtype[Any], block_rows: int
) -> GivenArraySink:
    """Return a sink that writes whole chunks, or shards, of an existing array.

    Raises
    ------
    InputError
        The array is read-only, or has another shape, or a dtype that cannot hold the results.
    """
    name = str(array.store_path)
    if not isinstance(array, zarr.Array) or array.shape != shape:
        found = getattr(array, "shape", "no shape: it is a group")
        raise InputError(
            f"{name}: out must have the shape {shape}, not {found}. Create it anew, or give a path."
        )
    if not np.can_cast(dtype, array.dtype, "same_kind"):
        raise InputError(
            f"{name}: out of dtype {array.dtype} cannot hold results of dtype {dtype}. Create it anew."
        )
    if array.read_only:
        raise InputError(f'{name}: out is open for reading only. Open it with mode="r+".')
    stored_rows = (array.shards or array.chunks)[0]
    return GivenArraySink(array, stored_rows * max(1, round(block_rows / stored_rows)))
