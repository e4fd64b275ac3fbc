"""Results in memory; those that other processes compute come by way of a scratch file on this machine."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.sinks.npy_sinks import FileWriter, create_file
from streamem.sinks.placing import hidden_name, remove
from streamem.sinks.sink import Sink, Writer

__all__ = ["ArrayWriter", "MemorySink"]


@dataclass(frozen=True, slots=True, eq=False)
class ArrayWriter:
    """Writes rows into an array."""

    array: NDArray[Any]
    """(n, ...) results."""

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Write results of rows ``start : start + len(values)``."""
        self.array[start : start + len(values)] = values


class MemorySink(Sink):
    """An ndarray to be returned.

    It turns into a scratch file in the temporary directory when it is first pickled, because other processes
    cannot write into this one's memory. Workers on other machines cannot either: give a path that all share.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], chunk_rows: int) -> None:
        super().__init__(chunk_rows)
        self._array = np.empty(shape, dtype)
        self._scratch: FileWriter | None = None

    def _writer(self) -> Writer:
        return self._scratch or ArrayWriter(self._array)

    def _portable_writer(self) -> FileWriter:
        if self._scratch is None:
            path = hidden_name(os.path.join(tempfile.gettempdir(), "streamem-result.npy"))
            self._scratch = create_file("results in memory", path, self._array.shape, self._array.dtype)
            self._scratch.write(0, self._array)
        return self._scratch

    def _commit(self) -> NDArray[Any]:
        if self._scratch is not None:
            self._array = np.load(self._scratch.path)
            self._discard()
        return self._array

    def _discard(self) -> None:
        if self._scratch is not None:
            remove(self._scratch.path)
