"""Keeping decoded blocks in memory between passes, as far as there is room.

A pass is a cyclic scan, for which the best that a cache can do is to hold on to a fixed set of blocks: one
that drops the least recently used would drop each block just before it is wanted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from streamem.protocols import Block, Buffer, Rows
from streamem.sources.wrapping import WrappedBlock, WrappedSource

__all__ = ["KeepingSource"]


@dataclass(frozen=True, slots=True, eq=False)
class KeepingSource(WrappedSource):
    """Another source whose leading blocks stay in memory, in this process, once they were loaded.

    Examples
    --------
    >>> import numpy as np
    >>> from streamem.sources import as_source
    >>> source = KeepingSource(as_source(np.arange(6).reshape(3, 2)), n_bytes=1000)
    >>> first, again = (source.blocks()[0].load() for _ in range(2))
    >>> first.x is again.x
    True
    """

    n_bytes: int
    """Bytes that kept rows, weights and labels may take."""
    kept: dict[int, Rows] = field(default_factory=dict)
    """Rows by index of their block."""

    def blocks(self) -> Sequence[Block]:
        """Return the blocks of the other source; the first that fit keep their rows."""
        room = self.n_bytes // self.row_bytes
        return [
            _KeptBlock(block, self.kept) if block.stop <= room else block for block in self.source.blocks()
        ]


@dataclass(frozen=True, slots=True, eq=False)
class _KeptBlock(WrappedBlock):
    """A block that is read once."""

    kept: dict[int, Rows]

    def load(self, buffer: Buffer | None = None) -> Rows:
        rows = self.kept.get(self.index)
        if rows is not None:
            return rows
        loaded = self.block.load(buffer)
        rows = self.kept[self.index] = replace(
            loaded,
            x=loaded.x.copy(),
            weight=None if loaded.weight is None else loaded.weight.copy(),
            label=None if loaded.label is None else loaded.label.copy(),
            decode_seconds=0.0,
        )
        return replace(rows, decode_seconds=loaded.decode_seconds)
