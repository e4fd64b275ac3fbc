"""Leaving out rows that hold NaN, in the pass that reads them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streamem.protocols import Block, Buffer, Rows, bytes_per_thread
from streamem.sources.wrapping import WrappedBlock, WrappedSource

__all__ = ["DroppingSource"]


@dataclass(frozen=True, slots=True, eq=False)
class DroppingSource(WrappedSource):
    """Another source, without the rows in which a value is missing; the others keep their places.

    Examples
    --------
    >>> from streamem.sources import as_source
    >>> x = np.array([[1.0, 2.0], [np.nan, 4.0], [5.0, 6.0]])
    >>> rows = DroppingSource(as_source(x, missing="keep")).blocks()[0].load()
    >>> rows.x.tolist(), rows.index.tolist(), rows.n_left_out
    ([[1.0, 2.0], [5.0, 6.0]], [0, 2], 1)
    """

    @property
    def in_memory(self) -> bool:
        """Whether loads are of rows that are in memory already."""
        return bool(getattr(self.source, "in_memory", False))

    @property
    def block_bytes(self) -> int:
        """Bytes that the largest load needs at its peak: what is kept is a copy."""
        return self.source.block_bytes + self._copied_bytes

    @property
    def thread_bytes(self) -> int:
        """Bytes that a thread holds which loads one block after the other, copies included."""
        return bytes_per_thread(self.source) + 2 * self._copied_bytes

    @property
    def _copied_bytes(self) -> int:
        return self.row_bytes * max(block.stop - block.start for block in self.source.blocks())

    def blocks(self) -> Sequence[Block]:
        """Return the blocks of the other source, which may turn out shorter than they say."""
        return [_DroppingBlock(block) for block in self.source.blocks()]


@dataclass(frozen=True, slots=True, eq=False)
class _DroppingBlock(WrappedBlock):
    """A block of complete rows."""

    def load(self, buffer: Buffer | None = None) -> Rows:
        rows = self.block.load(buffer)
        if rows.complete:
            return rows
        began = time.perf_counter()
        kept = np.flatnonzero(~np.isnan(rows.x).any(axis=1))
        left = rows.some(kept)
        left_out = rows.n_left_out + rows.n_samples - left.n_samples
        decode_seconds = rows.decode_seconds + time.perf_counter() - began
        return replace(left, complete=True, n_left_out=left_out, decode_seconds=decode_seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as what it is: rows must be dropped there too."""
        return _DroppingBlock, (self.block,)
