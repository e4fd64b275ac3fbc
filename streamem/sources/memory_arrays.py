"""Arrays that lie in memory: ndarrays, and whatever numpy can turn into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.errors import InputError
from streamem.sources.timing import Stopwatch

__all__ = ["MemoryArray", "from_array_like"]


@dataclass(frozen=True, slots=True, eq=False)
class MemoryArray:
    """Rows ``first`` and following of an array, held in memory."""

    name: str
    """What messages call it."""
    shape: tuple[int, ...]
    """(n,) or (n, d): of the whole array."""
    memory: NDArray[Any]
    """The rows that are held, as given."""
    first: int = 0
    """Number of the first row held."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As given."""
        return self.memory.dtype

    @property
    def row_grids(self) -> tuple[range]:
        """Any row may begin a block."""
        return (range(self.shape[0]),)

    def read_bytes(self, start: int, stop: int) -> int:
        """Nothing is needed: the rows are there."""
        return 0

    @property
    def reused_bytes(self) -> int:
        """Nothing: the rows are there."""
        return 0

    def read(self, start: int, stop: int, out: NDArray[Any] | None, fetching: Stopwatch) -> NDArray[Any]:
        """Return a view of rows ``start:stop``: nothing is fetched."""
        return self._view(start, stop)

    def _view(self, start: int, stop: int) -> NDArray[Any]:
        return self.memory[start - self.first : stop - self.first]

    def portable(self, start: int, stop: int) -> MemoryArray:
        """Return a copy that holds only rows ``start:stop``."""
        return MemoryArray(self.name, self.shape, np.ascontiguousarray(self._view(start, stop)), start)


def from_array_like(x: Any, name: str) -> MemoryArray:
    """Return a handle of an ndarray, or of nested lists and other things that numpy makes one of."""
    if isinstance(x, np.ma.MaskedArray):
        raise InputError(
            f"{name}: masked values have no meaning here. Drop those rows, or fill them: x.filled(...)."
        )
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise InputError(f"{name}: not a table of numbers ({error}). Give rows of equal length.") from error
    return MemoryArray(name, array.shape, array)


def from_frame(frame: Any, name: str) -> MemoryArray:
    """Return a handle of the values of a dataframe or series, if all of them are numbers."""
    values = np.asarray(frame.to_numpy())
    if values.dtype != object:
        return from_array_like(values, name)
    try:  # numbers of several kinds, e.g. bool beside float
        _refuse_columns(frame, name)
        return from_array_like(values.astype(np.float64), name)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name}: some values are missing or are not numbers ({error}). Fill them first."
        ) from error


def _refuse_columns(frame: Any, name: str) -> None:
    """Raise if columns of a dataframe are not numbers, and name them."""
    dtypes = getattr(frame, "dtypes", None)
    columns = dtypes.items() if dtypes is not None and hasattr(dtypes, "items") else ()
    bad = [str(column) for column, dtype in columns if getattr(dtype, "kind", "O") not in "biuf"]
    if bad:
        raise InputError(f"{name}: columns {', '.join(bad)} are not numbers. Drop or encode them.")
