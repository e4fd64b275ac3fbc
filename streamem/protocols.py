"""The types that everything else speaks: rows, blocks, sources, statistics, models.

Only shapes and promises live here; nothing computes. The loop over them is in `streamem.em`, the map and
tree merge in `streamem.reduce`, concrete sources in `streamem.sources`, concrete models in
`streamem.models`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Block",
    "Buffer",
    "EStep",
    "FloatArray",
    "Model",
    "Pass",
    "Rows",
    "Several",
    "Source",
    "Stats",
    "bytes_per_thread",
]

FloatArray: TypeAlias = NDArray[np.floating[Any]]

P = TypeVar("P")
S = TypeVar("S", bound="Stats")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A run of rows in memory, valid until the same buffer is loaded into again."""

    x: FloatArray
    """(n, d) C-contiguous, float32 or float64, finite; NaN, where not `complete`, is a missing value."""
    weight: NDArray[np.float64] | None
    """(n,) sample weights, finite and >= 0; None where every row weighs 1."""
    start: int
    """Index of the first row within its source."""
    complete: bool = True
    """Whether no value is missing. Only models with ``takes_missing = True`` are given other rows."""
    index: NDArray[np.int64] | None = None
    """(n,) the rows' places within the source; None where they follow `start` without a gap."""
    n_left_out: int = 0
    """Rows of this run that are not here, because a value is missing."""
    label: NDArray[np.int64] | None = None
    """(n,) the components that rows are known to come from, −1 where unknown; None where unknown of all.

    Only models with ``takes_labels = True`` are given any.
    """
    decode_seconds: float = 0.0
    """Seconds of their load that went into decompressing, converting and checking, not into fetching bytes.

    Left at 0, all of the load counts as reading.
    """

    @property
    def n_samples(self) -> int:
        """Rows present: those whose weight is not zero."""
        return len(self.x) if self.weight is None else int(np.count_nonzero(self.weight))

    @property
    def n_bytes(self) -> int:
        """Bytes that the rows take, with their weights and labels."""
        return sum(part.nbytes for part in (self.x, self.weight, self.label) if part is not None)

    @property
    def total_weight(self) -> float:
        """The sum of the sample weights."""
        return float(len(self.x)) if self.weight is None else float(self.weight.sum())

    @property
    def total_squared_weight(self) -> float:
        """The sum of the squares of the sample weights."""
        return float(len(self.x)) if self.weight is None else float(self.weight @ self.weight)

    def some(self, chosen: NDArray[np.intp]) -> Rows:
        """Return a copy of some of the rows, with all that goes with them, in the order asked for.

        Examples
        --------
        >>> rows = Rows(np.array([[1.0], [2.0], [3.0]]), None, start=10, label=np.array([0, -1, 1]))
        >>> some = rows.some(np.array([2, 0]))
        >>> some.x[:, 0].tolist(), some.label.tolist(), some.index.tolist()
        ([3.0, 1.0], [1, 0], [12, 10])
        """
        return replace(
            self,
            x=self.x[chosen],
            weight=None if self.weight is None else self.weight[chosen],
            index=self.start + chosen if self.index is None else self.index[chosen],
            label=None if self.label is None else self.label[chosen],
        )


class Buffer:
    """Memory that successive loads on one thread reuse, so that a pass allocates no block twice.

    Examples
    --------
    >>> buffer = Buffer()
    >>> first = buffer.take((2, 3), np.dtype("float32"))
    >>> np.shares_memory(first, buffer.take((1, 3), np.dtype("float32")))
    True
    """

    __slots__ = ("_memory",)

    def __init__(self) -> None:
        self._memory = np.empty(0, dtype=np.uint8)

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an uninitialised C-contiguous array; it overlaps what this buffer gave before."""
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        if self._memory.nbytes < n_bytes:
            self._memory = np.empty(0, dtype=np.uint8)  # release first: never two at once
            self._memory = np.empty(n_bytes, dtype=np.uint8)
        return self._memory[:n_bytes].view(dtype).reshape(shape)


@runtime_checkable
class Block(Protocol):
    """A picklable promise of rows ``start:stop`` of a store, opened where it is used."""

    @property
    def index(self) -> int:
        """Position of the block in its source."""
        ...

    @property
    def start(self) -> int:
        """First row."""
        ...

    @property
    def stop(self) -> int:
        """One past the last row."""
        ...

    def load(self, buffer: Buffer | None = None) -> Rows:
        """Read, convert and check the rows; with a buffer they may live in it until its next use."""
        ...


@runtime_checkable
class Source(Protocol):
    """Where rows come from. Opening one reads no rows."""

    @property
    def name(self) -> str:
        """What error messages call this store."""
        ...

    @property
    def n_samples(self) -> int:
        """Rows in the store."""
        ...

    @property
    def n_features(self) -> int:
        """Columns in the store."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64: what `Rows.x` will be."""
        ...

    @property
    def block_bytes(self) -> int:
        """Bytes that the largest load needs at its peak, decoding included."""
        ...

    def blocks(self) -> Sequence[Block]:
        """Return the same blocks in the same order at every call; together they are all rows."""
        ...


def bytes_per_thread(source: Source) -> int:
    """Return what a thread holds which loads block after block: twice a block if the source does not say."""
    return int(getattr(source, "thread_bytes", 2 * source.block_bytes))


class Stats(Protocol):
    """Expected sufficient statistics: a commutative monoid under `merge`."""

    @property
    def n_samples(self) -> int:
        """Rows seen, those of weight zero left out."""
        ...

    @property
    def weight(self) -> float:
        """Total sample weight."""
        ...

    @property
    def log_likelihood(self) -> float:
        """Weighted sum over rows, in nats; never a mean."""
        ...

    def merge(self, other: Self) -> Self:
        """Return the statistics of both sets of rows; neither input changes."""
        ...


class Several(tuple[S, ...]):
    """Statistics of the same rows under several candidates: a monoid as each of them is."""

    __slots__ = ()

    @property
    def n_samples(self) -> int:
        """Rows seen."""
        return self[0].n_samples

    @property
    def weight(self) -> float:
        """Total sample weight."""
        return self[0].weight

    @property
    def log_likelihood(self) -> float:
        """Of the first candidate."""
        return self[0].log_likelihood

    def merge(self, other: Several[S]) -> Several[S]:
        """Return the statistics of both sets of rows under each candidate."""
        return Several(mine.merge(theirs) for mine, theirs in zip(self, other, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Pass(Generic[S]):
    """What one reading of rows gave, and what it cost."""

    stats: S
    """Statistics of the rows."""
    bytes_read: int = 0
    """Bytes of decoded rows and weights that were gone through."""
    read_seconds: float = 0.0
    """Time spent fetching what is stored, summed over workers."""
    decode_seconds: float = 0.0
    """Time spent decompressing, converting and checking rows, summed over workers."""
    compute_seconds: float = 0.0
    """Time spent in E-steps, summed over workers."""

    def merge(self, other: Pass[S]) -> Pass[S]:
        """Return the pass over both sets of rows."""
        return Pass(
            self.stats.merge(other.stats),
            self.bytes_read + other.bytes_read,
            self.read_seconds + other.read_seconds,
            self.decode_seconds + other.decode_seconds,
            self.compute_seconds + other.compute_seconds,
        )


class Model(Protocol[P, S]):
    """Hyper-parameters and the three verbs of EM; holds no data and no estimates.

    More is used where a model has it: ``log_prior(params, stats) -> float`` (nats, added to the
    log-likelihood to form the objective that EM ascends), ``diagnose(params, stats)`` (a sequence of
    `streamem.convergence.Event` for the history), ``n_components`` and ``n_parameters(n_features)`` (to size
    the sample), ``informed_by(summary) -> Model`` (to take hyper-parameters from the first pass; with
    ``uninformed`` True even where starting parameters are given), ``ascends = False`` where the M-step
    maximises nothing and the objective may fall, ``takes_missing = True`` where ``e_step`` and ``init``
    understand rows with NaN, ``takes_labels = True`` where they heed `Rows.label`, and what
    `streamem.acceleration`, `streamem.corrected_sample`, `streamem.degeneracy` and `streamem.moves` name.
    """

    def init(self, sample: Rows, rng: np.random.Generator) -> P:
        """Return starting parameters from rows in memory."""
        ...

    def e_step(self, params: P, rows: Rows) -> S:
        """Return the expected sufficient statistics of these rows; runs on a worker."""
        ...

    def m_step(self, params: P, stats: S) -> P:
        """Return the parameters that maximise the bound; runs on the driver and never sees rows."""
        ...


EStep: TypeAlias = Callable[[Rows], S]
