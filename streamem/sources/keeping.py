"""Keeping decoded blocks in memory between passes, as far as there is room.

A pass is a cyclic scan, for which the best that a cache can do is to hold on to a fixed set of blocks: one
that drops the least recently used would drop each block just before it is wanted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamem.protocols import Block, Buffer, Rows, Source

__all__ = ["KeepingSource"]


@dataclass(frozen=True, slots=True, eq=False)
class KeepingSource:
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

    source: Source
    """Where rows come from."""
    n_bytes: int
    """Bytes that kept rows and weights may take."""
    kept: dict[int, Rows] = field(default_factory=dict)
    """Rows by index of their block."""

    @property
    def name(self) -> str:
        """What messages call the store."""
        return self.source.name

    @property
    def n_samples(self) -> int:
        """Rows in the store."""
        return self.source.n_samples

    @property
    def n_features(self) -> int:
        """Columns in the store."""
        return self.source.n_features

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.source.dtype

    @property
    def block_bytes(self) -> int:
        """Bytes that the largest load needs at its peak."""
        return self.source.block_bytes

    def blocks(self) -> Sequence[Block]:
        """Return the blocks of the other source; the first that fit keep their rows."""
        row_bytes = self.n_features * self.dtype.itemsize + np.dtype(np.float64).itemsize
        room = self.n_bytes // row_bytes
        return [
            _KeptBlock(block, self.kept) if block.stop <= room else block for block in self.source.blocks()
        ]


@dataclass(frozen=True, slots=True, eq=False)
class _KeptBlock:
    """A block that is read once."""

    block: Block
    kept: dict[int, Rows]

    @property
    def index(self) -> int:
        return self.block.index

    @property
    def start(self) -> int:
        return self.block.start

    @property
    def stop(self) -> int:
        return self.block.stop

    def load(self, buffer: Buffer | None = None) -> Rows:
        rows = self.kept.get(self.index)
        if rows is None:
            loaded = self.block.load(buffer)
            weight = None if loaded.weight is None else loaded.weight.copy()
            rows = self.kept[self.index] = Rows(loaded.x.copy(), weight, loaded.start)
        return rows

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the block itself: what is kept here is of no use elsewhere."""
        return _itself, (self.block,)


def _itself(block: Block) -> Block:
    return block
