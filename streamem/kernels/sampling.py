"""A uniform sample that needs no state: each row's hash depends on the seed and its index alone.

Keeping the rows of the smallest hashes gives the same sample whatever the order, the chunks or the workers,
and the samples of parts merge to the sample of the whole.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel

__all__ = ["hashes", "select_below"]

Float64Array: TypeAlias = NDArray[np.float64]
UInt64Array: TypeAlias = NDArray[np.uint64]

_MASK = (1 << 64) - 1


def hashes(start: int, n: int, seed: int) -> UInt64Array:
    """Return (n,) hashes of rows ``start`` to ``start + n``, uniform over the 64-bit integers.

    Examples
    --------
    >>> (hashes(0, 8, seed=1)[5:] == hashes(5, 3, seed=1)).all()
    np.True_
    """
    out = np.empty(n, dtype=np.uint64)
    _hashes(np.uint64(start), np.uint64(seed & _MASK), out)
    return out


def select_below(
    start: int, weight: Float64Array | None, n: int, seed: int, threshold: int
) -> tuple[NDArray[np.int64], UInt64Array]:
    """Return those of rows ``start`` to ``start + n`` that have a weight and a hash of at most `threshold`.

    Returns
    -------
    indices
        (m,) positions among the n rows, ascending.
    hashes
        (m,) their hashes.
    """
    every = hashes(start, n, seed)
    chosen = every <= np.uint64(threshold)
    if weight is not None:
        chosen &= weight > 0.0
    indices = np.flatnonzero(chosen)
    return indices, every[indices]


@kernel(inline=True)
def _mix(z):  # type: ignore[no-untyped-def]
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every input bit reaches every output bit."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def _hashes(start, seed, out):  # type: ignore[no-untyped-def]
    """Write hashes of ``start + t`` to out (n,) uint64. O(n) time."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    key = _mix(seed + golden)
    for t in range(len(out)):
        out[t] = _mix(_mix((start + np.uint64(t)) * golden + key) ^ key)
