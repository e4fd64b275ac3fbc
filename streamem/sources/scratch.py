"""Decoded blocks in an uncompressed file between passes: for stores that are slow to decode or far away.

The first pass reads the store and writes its rows to a file without a name, which the system removes when the
fit ends, however it ends. Later passes read that file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.errors import SourceError
from streamem.protocols import Block, Buffer, Rows, Source
from streamem.sources.wrapping import WrappedBlock, WrappedSource

__all__ = ["ScratchSource", "open_scratch"]

FLOAT64 = np.dtype(np.float64)


class _Descriptor:
    """A file's number, closed when nobody holds it any more.

    Closing it sooner would let the system give the same number to another file, and a thread that is late
    would write into that one.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@dataclass(frozen=True, slots=True, eq=False)
class ScratchSource(WrappedSource):
    """Another source, read through a scratch file."""

    file: _Descriptor
    """The scratch file."""
    written: dict[int, tuple[bool, bool, bool]] = field(default_factory=dict)
    """Whether rows have weights, have labels, and are complete, by index of the blocks in the file."""

    def blocks(self) -> Sequence[Block]:
        """Return the blocks of the other source, each read from the scratch file once it is there."""
        return [_ScratchBlock(block, self) for block in self.source.blocks()]


@dataclass(frozen=True, slots=True, eq=False)
class _ScratchBlock(WrappedBlock):
    """A block that is decoded once."""

    scratch: ScratchSource

    def load(self, buffer: Buffer | None = None) -> Rows:
        written = self.scratch.written.get(self.index)
        if written is None:
            rows = self.block.load(buffer)
            self._write(rows)
            return rows
        weighted, labelled, complete = written
        n, d = self.stop - self.start, self.scratch.n_features
        x_bytes = n * d * self.scratch.dtype.itemsize
        n_bytes = x_bytes + n * (weighted + labelled) * FLOAT64.itemsize
        memory = (buffer or Buffer()).take((n_bytes,), np.dtype(np.uint8))
        self._transfer(os.preadv, memory)
        weight = memory[x_bytes:].view(FLOAT64)[:n] if weighted else None
        label = memory[x_bytes:].view(np.int64)[n * weighted :] if labelled else None
        x = memory[:x_bytes].view(self.scratch.dtype).reshape(n, d)
        return Rows(x, weight, self.start, complete, label=label)

    def _write(self, rows: Rows) -> None:
        done = 0
        for part in (rows.x.reshape(-1), rows.weight, rows.label):
            if part is not None:
                self._transfer(os.pwritev, np.ascontiguousarray(part).view(np.uint8), done)
                done += part.nbytes
        self.scratch.written[self.index] = rows.weight is not None, rows.label is not None, rows.complete

    def _transfer(self, move: Any, memory: NDArray[np.uint8], skip: int = 0) -> None:
        """Read or write all of ``memory`` at the place of this block."""
        place, done = self.start * self.scratch.row_bytes + skip, 0
        while done < memory.nbytes:
            try:
                moved = move(self.scratch.file.number, [memory[done:]], place + done)
            except OSError as error:
                raise SourceError(
                    f"Block {self.index} of {self.scratch.name}: the scratch file failed ({error}). "
                    "Choose a folder with more room."
                ) from error
            if moved == 0:
                raise SourceError(
                    f"Block {self.index} of {self.scratch.name}: the scratch file was cut short."
                )
            done += moved


@contextlib.contextmanager
def open_scratch(source: Source, folder: str | os.PathLike[str]) -> Iterator[ScratchSource]:
    """Open a scratch file for ``source`` in ``folder``; it is gone when the context ends.

    Raises
    ------
    SourceError
        If the folder cannot be written or has too little room.
    """
    needed = source.n_samples * WrappedSource(source).row_bytes
    try:
        free = shutil.disk_usage(folder).free
        file = tempfile.TemporaryFile(dir=folder, prefix=".streamem-scratch-")  # noqa: SIM115
    except OSError as error:
        raise SourceError(f"{folder}: no scratch file can be made here ({error}).") from error
    with file:
        if free < needed:
            raise SourceError(
                f"{folder}: a scratch file for {source.name} takes {needed:,} bytes, but {free:,} are free. "
                "Choose another folder, or fit without scratch."
            )
        descriptor = _Descriptor(os.dup(file.fileno()))
    yield ScratchSource(source, descriptor)
