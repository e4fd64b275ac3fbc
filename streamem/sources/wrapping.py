"""A source around another source, and a block around its block: what those that hold on to rows share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamem.protocols import Block, Source, bytes_per_thread

__all__ = ["WrappedBlock", "WrappedSource"]


@dataclass(frozen=True, slots=True, eq=False)
class WrappedSource:
    """Everything but the blocks comes from the other source."""

    source: Source
    """Where rows come from at first."""

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

    @property
    def thread_bytes(self) -> int:
        """Bytes that a thread holds which loads one block after the other."""
        return bytes_per_thread(self.source)

    @property
    def stored_bytes(self) -> int | None:
        """Bytes that a pass reads from the store; None where it does not say."""
        return getattr(self.source, "stored_bytes", None)

    @property
    def stores(self) -> tuple[Any, ...]:
        """What a worker must see."""
        return getattr(self.source, "stores", ())

    @property
    def client(self) -> Any:
        """The client of the cluster that holds parts of the rows, if one does."""
        return getattr(self.source, "client", None)

    @property
    def labelled(self) -> bool:
        """Whether rows come with labels."""
        return bool(getattr(self.source, "labelled", False))

    @property
    def row_bytes(self) -> int:
        """Bytes that a row takes when it is held, its weight and label included."""
        return self.n_features * self.dtype.itemsize + np.dtype(np.float64).itemsize * (1 + self.labelled)


@dataclass(frozen=True, slots=True, eq=False)
class WrappedBlock:
    """Everything but the load comes from the other block; it travels as that block."""

    block: Block
    """The block of the store."""

    @property
    def index(self) -> int:
        """Position in the source."""
        return self.block.index

    @property
    def start(self) -> int:
        """First row."""
        return self.block.start

    @property
    def stop(self) -> int:
        """One past the last row."""
        return self.block.stop

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the block itself: what is held in this process is of no use in another."""
        return _itself, (self.block,)


def _itself(block: Block) -> Block:
    return block
