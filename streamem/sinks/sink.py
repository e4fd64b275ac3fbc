"""What all sinks share: they commit once or are aborted, and travel to other processes as writers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from streamem.errors import SourceError

__all__ = ["Sink", "Writer", "write_error"]


class Writer(Protocol):
    """What a task needs to write its rows: picklable, good in any process that sees the same files."""

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Write results of rows ``start : start + len(values)``."""
        ...


class Sink(ABC):
    """A result being written. Leaving its ``with`` block without `commit` removes what was written.

    Pickling a sink, or its bound ``write``, gives a writer; only the original can commit.
    """

    chunk_rows: int
    """Rows that one call of `write` covers: calls begin at its multiples."""

    def __init__(self, chunk_rows: int) -> None:
        self.chunk_rows = chunk_rows
        self._open = True

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Write results of rows ``start : start + len(values)``, from any thread.

        Raises
        ------
        SourceError
            They could not be written, e.g. because the disk is full.
        """
        self._writer().write(start, values)

    def commit(self) -> Any:
        """Put the result in place and return it: an ndarray, a read-only memory map, or a zarr array."""
        result = self._commit()
        self._open = False
        return result

    def abort(self) -> None:
        """Remove what was written; does nothing after `commit`."""
        if self._open:
            self._open = False
            self._discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (self._portable_writer(),)

    @abstractmethod
    def _writer(self) -> Writer:
        """Return what writes in this process."""

    def _portable_writer(self) -> Writer:
        """Return what writes in other processes."""
        return self._writer()

    @abstractmethod
    def _commit(self) -> Any: ...

    @abstractmethod
    def _discard(self) -> None: ...


def write_error(name: str, start: int, stop: int, error: Exception) -> SourceError:
    """Return what to raise when results could not be written."""
    return SourceError(
        f"{name}: results of rows {start:,}-{stop:,} could not be written ({type(error).__name__}: {error}). "
        "Check the free space and permissions there, and that every worker sees this path."
    )


def _same(writer: Writer) -> Writer:
    return writer
