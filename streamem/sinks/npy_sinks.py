"""Results in a ``.npy`` file.

They are written with ordinary writes: a full disk is then an error and not the death of the process.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.errors import SourceError
from streamem.sinks.placing import hidden_name, place, refuse_existing, remove
from streamem.sinks.sink import Sink, write_error

__all__ = ["FileWriter", "create_file", "open_npy"]


@dataclass(frozen=True, slots=True, eq=False)
class FileWriter:
    """Writes rows into a file that is as long as it will be."""

    name: str
    """What messages call the result."""
    path: str
    """The file, under its hidden name."""
    offset: int
    """Bytes before the first row."""
    row_bytes: int
    """Bytes of a row."""
    dtype: np.dtype[Any]
    """As stored."""

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Write results of rows ``start : start + len(values)``."""
        data = np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8).data
        try:
            with open(self.path, "r+b", buffering=0) as file:
                file.seek(self.offset + start * self.row_bytes)
                written = 0
                while written < len(data):
                    written += file.write(data[written:])
        except OSError as error:
            raise write_error(self.name, start, start + len(values), error) from error


def create_file(name: str, path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FileWriter:
    """Create a ``.npy`` file of the full size, and fail now rather than later if the disk has no room."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    try:
        with open(path, "xb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            offset = file.tell()
            file.flush()
            _reserve(file.fileno(), offset + shape[0] * row_bytes)
    except OSError as error:
        remove(path)
        raise SourceError(
            f"{name}: cannot be created ({error}). Check the free space and permissions."
        ) from error
    return FileWriter(name, path, offset, row_bytes, dtype)


def _reserve(descriptor: int, n_bytes: int) -> None:
    """Give a file its length, with disk space behind it where the file system can promise that."""
    try:
        os.posix_fallocate(descriptor, 0, n_bytes)
    except AttributeError:  # not on this system
        os.ftruncate(descriptor, n_bytes)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        os.ftruncate(descriptor, n_bytes)


class NpySink(Sink):
    """A ``.npy`` file that is still under its hidden name."""

    def __init__(self, path: str, writer: FileWriter, chunk_rows: int, overwrite: bool) -> None:
        super().__init__(chunk_rows)
        self._path, self._file, self._overwrite = path, writer, overwrite

    def _writer(self) -> FileWriter:
        return self._file

    def _commit(self) -> NDArray[Any]:
        place(self._file.path, self._path, overwrite=self._overwrite)
        return np.lib.format.open_memmap(self._path, mode="r")

    def _discard(self) -> None:
        remove(self._file.path)


def open_npy(
    path: str, shape: tuple[int, ...], dtype: np.dtype[Any], chunk_rows: int, overwrite: bool
) -> NpySink:
    """Return a sink for a new ``.npy`` file."""
    refuse_existing(path, overwrite=overwrite, directory=False)
    return NpySink(path, create_file(path, hidden_name(path), shape, dtype), chunk_rows, overwrite)
