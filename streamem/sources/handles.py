"""What every kind of store has to offer so that its rows can be streamed: an `ArrayHandle`.

Handles hold where data is, not how it is used: no conversion, no validation, no planning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamem.sources.timing import Stopwatch

__all__ = ["ArrayHandle"]


class ArrayHandle(Protocol):
    """A picklable way to read runs of rows of one stored array, in 1-D (weights) or 2-D (rows)."""

    @property
    def name(self) -> str:
        """What messages call the store."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(n,) or (n, d)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored, in any byte order."""
        ...

    @property
    def memory(self) -> NDArray[Any] | None:
        """The array itself where it lies in memory, so that views of it serve; else None."""
        ...

    @property
    def row_grids(self) -> Sequence[Sequence[int]]:
        """First rows of the pieces that are best read whole, coarse to fine, e.g. shards, then chunks.

        Reading a part of a coarse piece costs nothing extra as long as it follows the finest grid; reading
        a part of a finest piece decodes all of it.
        """
        ...

    def read_bytes(self, start: int, stop: int) -> int:
        """Bytes that reading these rows needs at its peak, beyond ``out``."""
        ...

    @property
    def reused_bytes(self) -> int | None:
        """What a thread keeps for reading, beyond ``out``; None where each read allocates `read_bytes`."""
        ...

    def read(self, start: int, stop: int, out: NDArray[Any] | None, fetching: Stopwatch) -> NDArray[Any]:
        """Return rows ``start:stop`` as stored, in ``out`` (same shape and dtype) if that spares a copy.

        ``out`` is None only for arrays in memory. The watch is running while stored bytes are fetched and not
        while they are decoded; all the time where one cannot be told from the other.
        """
        ...

    def portable(self, start: int, stop: int) -> ArrayHandle:
        """Return a handle, cheap to pickle, that reads rows ``start:stop`` under the same numbers."""
        ...
