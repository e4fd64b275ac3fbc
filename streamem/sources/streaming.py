"""The one source: rows, weights and labels behind array handles, in blocks that read, convert and check.

How a store is read is in its own file (an `ArrayHandle`); where blocks begin is decided in `planning`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.errors import SourceError, StreamEMError
from streamem.protocols import Buffer, Rows
from streamem.sources.checking import (
    check_label,
    check_labels,
    check_rows,
    check_shape,
    check_weight,
    check_weights,
    row_dtype,
)
from streamem.sources.handles import ArrayHandle
from streamem.sources.planning import block_edges, target_rows
from streamem.sources.reading import peak_bytes, read_floats, scratch_bytes, thread_bytes
from streamem.sources.timing import Stopwatch

__all__ = ["ArrayBlock", "ArraySource", "open_source"]

FLOAT64 = np.dtype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """Rows, weights and labels of stored arrays, cut into blocks."""

    x: ArrayHandle
    """(n, d) rows as stored."""
    weight: ArrayHandle | None
    """(n,) sample weights as stored; None where every row weighs 1."""
    dtype: np.dtype[Any]
    """float32 or float64: what rows are converted to."""
    edges: tuple[int, ...]
    """First row of each block, and n_samples at the end."""
    block_bytes: int
    """Bytes that the largest load needs at its peak, decoding included."""
    thread_bytes: int
    """Bytes that a thread holds which loads one block after the other."""
    missing: str = "raise"
    """What to do about NaN: "raise", or "keep"."""
    label: ArrayHandle | None = None
    """(n,) labels as stored; None where there are none."""

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What is stored: rows, and their weights and labels where there are any."""
        return tuple(array for array in (self.x, self.weight, self.label) if array is not None)

    @property
    def labelled(self) -> bool:
        """Whether rows come with labels."""
        return self.label is not None

    @property
    def name(self) -> str:
        """What messages call the store."""
        return self.x.name

    @property
    def n_samples(self) -> int:
        """Rows in the store."""
        return self.x.shape[0]

    @property
    def n_features(self) -> int:
        """Columns in the store."""
        return self.x.shape[1]

    @property
    def in_memory(self) -> bool:
        """Whether loads are views of rows that are in memory already."""
        return self.x.memory is not None and self.x.dtype == self.dtype

    @property
    def stores(self) -> tuple[Any, ...]:
        """What a worker must see: places outside of this process, each with ``require_visible``."""
        return tuple(array for array in self.arrays if hasattr(array, "require_visible"))

    @property
    def stored_bytes(self) -> int | None:
        """Bytes that a pass reads, compressed where the store compresses; None where it does not say."""
        whole = [0 if a.memory is not None else math.prod(a.shape) * a.dtype.itemsize for a in self.arrays]
        sizes = [
            getattr(array, "stored_bytes", n_bytes) for array, n_bytes in zip(self.arrays, whole, strict=True)
        ]
        return None if None in sizes else int(sum(sizes))

    @property
    def client(self) -> Any:
        """The client of the cluster that holds parts of the rows, if one does."""
        futures = [f for array in self.arrays for f in getattr(array, "futures", {}).values()]
        return futures[0].client if futures else None

    def blocks(self) -> tuple[ArrayBlock, ...]:
        """Return all blocks, in row order."""
        return tuple(
            ArrayBlock(i, start, stop, self.x, self.weight, self.dtype, self.missing, self.label)
            for i, (start, stop) in enumerate(pairwise(self.edges))
        )


@dataclass(frozen=True, slots=True, eq=False)
class ArrayBlock:
    """A run of rows of stored arrays, read when it is loaded."""

    index: int
    """Position in the source."""
    start: int
    """First row."""
    stop: int
    """One past the last row."""
    x: ArrayHandle
    """(n, d) rows as stored."""
    weight: ArrayHandle | None
    """(n,) sample weights as stored; None where every row weighs 1."""
    dtype: np.dtype[Any]
    """float32 or float64: what rows are converted to."""
    missing: str = "raise"
    """What to do about NaN: "raise", or "keep"."""
    label: ArrayHandle | None = None
    """(n,) labels as stored; None where there are none."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with what these rows need: where the file is, or the rows if they are in memory."""
        x, weight, label = (
            None if array is None else array.portable(self.start, self.stop)
            for array in (self.x, self.weight, self.label)
        )
        return ArrayBlock, (self.index, self.start, self.stop, x, weight, self.dtype, self.missing, label)

    @property
    def inputs(self) -> tuple[Any, ...]:
        """Futures of a cluster that the rows are made from."""
        stored: tuple[Any, ...] = (self.x, self.weight, self.label)
        arrays = [array for array in stored if hasattr(array, "inputs")]
        return tuple(future for array in arrays for future in array.inputs(self.start, self.stop))

    def given(self, values: Mapping[Any, Any]) -> ArrayBlock:
        """Return the block with the values of its ``inputs``, by key."""

        def with_values(array: Any) -> Any:
            return array.given(values) if hasattr(array, "given") else array

        return replace(
            self,
            x=with_values(self.x),
            weight=with_values(self.weight),
            label=with_values(self.label),
        )

    def __str__(self) -> str:
        return f"Block {self.index} (rows {self.start:,}-{self.stop:,} of {self.x.name})"

    def load(self, buffer: Buffer | None = None) -> Rows:
        """Read rows, weights and labels, convert them, and check that they are finite, or else missing.

        Rows in memory that are contiguous floats already are returned as a view.

        Raises
        ------
        SourceError
            The store could not be read.
        NonFiniteError, InputError
            NaN or Inf among the rows; weights that are negative or not finite; labels that are not whole.
        """
        began, fetching = time.perf_counter(), Stopwatch()
        n, where, weight, label = self.stop - self.start, str(self), None, None
        x_bytes = scratch_bytes(self.x, n, self.dtype)
        weight_bytes = 0 if self.weight is None else scratch_bytes(self.weight, n, FLOAT64)
        label_bytes = 0 if self.label is None else scratch_bytes(self.label, n, FLOAT64)
        memory = (buffer or Buffer()).take((x_bytes + weight_bytes + label_bytes,), np.dtype(np.uint8))
        x = self._read(self.x, self.dtype, memory[:x_bytes], fetching)
        complete = check_rows(where, x, self.start, self.missing)
        if self.weight is not None:
            weight = self._read(self.weight, FLOAT64, memory[x_bytes : x_bytes + weight_bytes], fetching)
            check_weight(where, weight, self.start)
        if self.label is not None:
            given = self._read(self.label, FLOAT64, memory[x_bytes + weight_bytes :], fetching)
            check_label(where, given, self.start)
            label = given.astype(np.int64)
        decode_seconds = time.perf_counter() - began - fetching.seconds
        return Rows(x, weight, self.start, complete, label=label, decode_seconds=decode_seconds)

    def _read(
        self, array: ArrayHandle, dtype: np.dtype[Any], memory: NDArray[np.uint8], fetching: Stopwatch
    ) -> NDArray[Any]:
        """Read one array, and say which block failed if it cannot be read."""
        try:
            return read_floats(array, self.start, self.stop, dtype, memory, fetching)
        except (StreamEMError, MemoryError):
            raise
        except Exception as error:
            raise SourceError(
                f"{self}: {array.name} could not be read ({type(error).__name__}: {error}). "
                "Check that the store is complete and reachable, then run again."
            ) from error


def open_source(
    x: ArrayHandle,
    weight: ArrayHandle | None,
    memory_limit: int | None,
    missing: str = "raise",
    label: ArrayHandle | None = None,
) -> ArraySource:
    """Check shapes and dtypes, cut the rows into blocks, and return the source.

    Raises
    ------
    InputError
        The arrays are not an (n, d) table of real numbers, its (n,) weights and its (n,) labels.
    MemoryLimitError
        One load needs more than the limit.
    """
    check_shape(x)
    dtype = row_dtype(x.name, x.dtype)
    if weight is not None:
        check_weights(weight, x.shape[0])
    if label is not None:
        check_labels(label, x.shape[0])

    def cost(
        start: int, stop: int, of: Callable[[ArrayHandle, int, int, np.dtype[Any]], int] = peak_bytes
    ) -> int:
        weight_bytes = 0 if weight is None else of(weight, start, stop, FLOAT64)
        label_bytes = 0 if label is None else of(label, start, stop, FLOAT64) + 8 * (stop - start)
        return of(x, start, stop, dtype) + weight_bytes + label_bytes

    n_samples, n_features = x.shape
    rows = target_rows(n_samples, n_features * dtype.itemsize, memory_limit)
    edges = block_edges(x.name, n_samples, x.row_grids, rows, cost, memory_limit)
    largest, held = (max(cost(a, b, of) for a, b in pairwise(edges)) for of in (peak_bytes, thread_bytes))
    return ArraySource(x, weight, dtype, edges, largest, held, missing, label)
