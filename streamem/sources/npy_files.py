"""Files that hold one plain array: ``.npy``, and whatever file a `numpy.memmap` is a window of.

Rows are read with ordinary reads into the reused buffer rather than through the memory map: a truncated file
is then an error and not the death of the process, and memory in use does not grow with the file.
"""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.errors import InputError, SourceError
from streamem.sources.timing import Stopwatch

__all__ = ["FileArray", "from_memmap", "from_npy", "read_fully"]


@dataclass(frozen=True, slots=True, eq=False)
class FileArray:
    """An array that lies unencoded in a file."""

    name: str
    """What messages call it."""
    path: str
    """Absolute path of the file."""
    offset: int
    """Bytes before the first row."""
    shape: tuple[int, ...]
    """(n,) or (n, d)."""
    dtype: np.dtype[Any]
    """As stored."""
    columns_first: bool
    """Whether columns are contiguous (Fortran order), not rows."""

    @property
    def memory(self) -> None:
        """The array is not in memory."""
        return

    @property
    def row_grids(self) -> tuple[range]:
        """Any row may begin a block."""
        return (range(self.shape[0]),)

    def read_bytes(self, start: int, stop: int) -> int:
        """Nothing is needed: rows are read in place."""
        return 0

    @property
    def reused_bytes(self) -> int:
        """Nothing: rows are read in place."""
        return 0

    def read(self, start: int, stop: int, out: NDArray[Any] | None, fetching: Stopwatch) -> NDArray[Any]:
        """Read rows ``start:stop`` into ``out``; that is all there is to do."""
        assert out is not None
        with fetching:
            return self._fetch(start, stop, out)

    def _fetch(self, start: int, stop: int, out: NDArray[Any]) -> NDArray[Any]:
        if self.columns_first:
            rows = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, "F")
            np.copyto(out, rows[start:stop])
            return out
        row_bytes = out.strides[0]
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset + start * row_bytes)
            read_fully(file, out)
        return out

    def require_visible(self) -> None:
        """Raise unless this process sees the file."""
        try:
            n_bytes = os.stat(self.path).st_size - self.offset
            problem = (
                None if n_bytes >= math.prod(self.shape) * self.dtype.itemsize else "it is shorter there"
            )
        except OSError as error:
            problem = type(error).__name__
        if problem:
            raise SourceError(
                f"{self.name}: a process that reads it does not see it at {self.path} ({problem}). Give an "
                "absolute path that means the same on every worker."
            )

    def portable(self, start: int, stop: int) -> FileArray:
        """Return the handle itself: a path is small."""
        return self


def from_npy(path: str) -> FileArray:
    """Return a handle of a ``.npy`` file."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        advice = "Save it again as numbers, with np.save."
        raise InputError(
            f"{path}: not an array file that can be read in place ({error}). {advice}"
        ) from error
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be opened ({error}). Check the path and its permissions."
        ) from error
    handle = from_memmap(array, path)
    assert handle is not None
    return handle


def from_memmap(array: np.memmap[Any, Any], name: str) -> FileArray | None:
    """Return a handle of the file behind a memory map, or of the run of it that a slice of one shows.

    None if there is no such file, or if the array is not a contiguous run of it as it is on disk.
    """
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    if not isinstance(root.base, mmap.mmap) or root.filename is None or root.mode == "c":
        return None
    columns_first = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
    if not (array.flags.c_contiguous or columns_first):
        return None
    offset = root.offset + _address(array) - _address(root)
    return FileArray(name, os.path.abspath(root.filename), offset, array.shape, array.dtype, columns_first)


def read_fully(file: Any, out: NDArray[Any]) -> None:
    """Fill an array with the next bytes of a file."""
    view = out.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < len(view):
        n_bytes = file.readinto(view[filled:])
        if not n_bytes:
            raise EOFError(f"the file ends {len(view) - filled:,} bytes too early")
        filled += n_bytes


def _address(array: NDArray[Any]) -> int:
    """Where the first element lies in memory."""
    return int(array.__array_interface__["data"][0])
