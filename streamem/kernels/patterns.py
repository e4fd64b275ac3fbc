"""Which values of each row are missing (NaN), and which rows miss the same ones."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel, unwritable

__all__ = ["Patterns", "patterns", "take"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]


class Patterns(NamedTuple):
    """Rows grouped by what is observed of them."""

    observed: NDArray[np.bool_]
    """(p, d) which columns each pattern observes, in order of first appearance."""
    starts: NDArray[np.int64]
    """(p + 1,) where the rows of each pattern begin in `rows`."""
    rows: NDArray[np.int64]
    """(n,) row numbers, pattern by pattern, ascending within each."""

    def group(self, pattern: int) -> NDArray[np.int64]:
        """Return the rows of one pattern."""
        return self.rows[self.starts[pattern] : self.starts[pattern + 1]]


def patterns(x: FloatArray) -> Patterns:
    """Return the patterns of missing values among (n, d) rows.

    Examples
    --------
    >>> found = patterns(np.array([[1.0, np.nan], [2.0, 3.0], [4.0, np.nan]]))
    >>> found.observed.tolist(), found.group(0).tolist()
    ([[True, False], [True, True]], [0, 2])
    """
    n = len(x)
    width = -(-x.shape[1] // 64) * 8
    words = np.zeros((n, width), np.uint8)
    bits = np.packbits(np.isnan(x), axis=1)
    words[:, : bits.shape[1]] = bits
    table = np.full(2 << max(1, n).bit_length(), -1)
    label, first = np.empty(n, np.int64), np.empty(n, np.int64)
    first = first[: _label_rows(words.view(np.uint64), table, label, first)]
    starts, rows = np.zeros(len(first) + 1, np.int64), np.empty(n, np.int64)
    _sort(label, starts, rows)
    return Patterns(~np.isnan(x[first]), starts, rows)


def take(x: FloatArray, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> FloatArray:
    """Return (len(rows), len(columns)) of the values, in one reading."""
    out = np.empty((len(rows), len(columns)), x.dtype)
    _take(unwritable(x), rows, columns, out)
    return out


@kernel
def _take(x, rows, columns, out):  # type: ignore[no-untyped-def]
    """Write x at rows and columns to out. O(n d) time."""
    for t in range(len(rows)):
        row = x[rows[t]]
        for j in range(len(columns)):
            out[t, j] = row[columns[j]]


@kernel
def _sort(label, starts, rows):  # type: ignore[no-untyped-def]
    """Write rows in order of label (n,), and where each label starts (p + 1,), zeros so far. O(n) time."""
    for t in range(len(label)):
        starts[label[t] + 1] += 1
    for p in range(1, len(starts)):
        starts[p] += starts[p - 1]
    at = starts.copy()
    for t in range(len(label)):
        rows[at[label[t]]] = t
        at[label[t]] += 1


@kernel
def _label_rows(words, table, label, first):  # type: ignore[no-untyped-def]
    """Number the distinct of words (n, w): write label (n,) and first (n,); return how many there are.

    By a hash table with open addressing. O(n w) time.
    """
    count, mask = 0, np.uint64(len(table) - 1)
    for t in range(len(words)):
        key = np.uint64(0)
        for w in range(words.shape[1]):
            key = (key ^ words[t, w]) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(32)
        slot = key & mask
        while True:
            known = table[slot]
            if known < 0:
                table[slot] = count
                first[count] = t
                label[t] = count
                count += 1
                break
            same = True
            for w in range(words.shape[1]):
                same = same and words[first[known], w] == words[t, w]
            if same:
                label[t] = known
                break
            slot = (slot + np.uint64(1)) & mask
    return count
