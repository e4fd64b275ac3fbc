"""What all mixtures do with the rows that one tile holds: bring them in, and turn log-joints into responsibilities.

A tile is transposed: rows lie in SIMD lanes, in strips (see `streamem.kernels.products`). Components write a tile's
log-joints, `posterior` replaces them by weighted responsibilities, and components add up their moments. What is
particular to a family of components implements `log_joint` and `add_moments`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.extending import overload
from numpy.typing import NDArray

from streamem.kernels.compile import kernel
from streamem.kernels.products import STRIP_BYTES
from streamem.kernels.simd import float_from_bits

__all__ = [
    "Tile",
    "add_moments",
    "aligned_zeros",
    "fill",
    "given_posterior",
    "implements",
    "log_joint",
    "log_total",
    "make_tile",
    "padded",
    "posterior",
]


class Tile(NamedTuple):
    """The working memory of one call that does not depend on the family."""

    center: NDArray[np.float64]
    """(d,) subtracted from each row before it enters the tile."""
    x: NDArray[Any]
    """(strips, padded d, rows per strip), flat: the centred rows; features beyond d are zero."""
    weight: NDArray[np.float64]
    """(rows,) sample weights; 0 beyond the last row."""
    row: NDArray[np.int64]
    """(rows,) where each row came from."""
    resp: NDArray[Any]
    """(k, rows) log-joints, then weighted responsibilities."""
    top: NDArray[Any]
    """(rows,) the largest log-joint."""
    total: NDArray[Any]
    """(rows,) ``Σ_k exp(log_joint - top)``."""
    spread: NDArray[Any]
    """(rows,) ``Σ_k exp(log_joint - top) (log_joint - top)``."""
    sum_w: NDArray[np.float64]
    """(k,) weighted responsibilities of all tiles so far."""


def padded(n_features: int) -> int:
    """Return the features that a tile has room for: a multiple of 4."""
    return -(-n_features // 4) * 4


def rows_per_strip(dtype: Any) -> int:
    """Return how many rows lie side by side."""
    return STRIP_BYTES // np.dtype(dtype).itemsize


def aligned_zeros(shape: int | tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return zeros that start at a cache line, so that no vector straddles two."""
    size = int(np.prod(shape))
    itemsize = np.dtype(dtype).itemsize
    memory = np.zeros(size + 64 // itemsize, dtype)
    start = (-memory.ctypes.data % 64) // itemsize
    return memory[start : start + size].reshape(shape)


def make_tile(center: NDArray[np.float64], n_components: int, n_rows: int, dtype: Any) -> Tile:
    """Allocate a tile for n_rows rows, a multiple of `rows_per_strip`."""
    d = padded(len(center))
    return Tile(
        center=center,
        x=aligned_zeros(n_rows * d, dtype),
        weight=aligned_zeros(n_rows, np.float64),
        row=aligned_zeros(n_rows, np.int64),
        resp=aligned_zeros((n_components, n_rows), dtype),
        top=aligned_zeros(n_rows, dtype),
        total=aligned_zeros(n_rows, dtype),
        spread=aligned_zeros(n_rows, dtype),
        sum_w=np.zeros(n_components),
    )


def log_joint(components: Any, tile: Any, n_strips: int) -> None:
    """Write ``log π_k p_k(x)`` of the tile's rows to ``tile.resp``."""
    raise NotImplementedError("for compiled code only")


def add_moments(components: Any, tile: Any, n_strips: int) -> None:
    """Add the moments of the tile's rows, weighted by ``tile.resp``, to the sums in `components`."""
    raise NotImplementedError("for compiled code only")


def implements(generic: Any, family: type) -> Any:
    """Declare what `log_joint` or `add_moments` does for one NamedTuple of components."""

    def register(implementation: Any) -> Any:
        @overload(generic)
        def choose(components, tile, n_strips):  # type: ignore[no-untyped-def]
            if isinstance(components, types.NamedTuple) and components.instance_class is family:
                return lambda components, tile, n_strips: implementation(components, tile, n_strips)
            return None

        return implementation

    return register


@kernel(inline=True)
def fill(x, weight, start, tile):  # type: ignore[no-untyped-def]
    """Bring in rows of x from `start` on, leaving out those of weight 0; return the next row and the rows held."""
    n_features = len(tile.center)
    lanes = STRIP_BYTES // tile.x.itemsize
    stride = len(tile.x) // len(tile.row) * lanes
    count = 0
    while start < len(x) and count < len(tile.row):
        w = weight[start] if len(weight) > 0 else 1.0
        if w != 0.0:
            first = count // lanes * stride + count % lanes
            for j in range(n_features):
                tile.x[first + j * lanes] = x[start, j] - tile.center[j]
            tile.weight[count] = w
            tile.row[count] = start
            count += 1
        start += 1
    for t in range(count, -(-count // lanes) * lanes):
        first = t // lanes * stride + t % lanes
        for j in range(n_features):
            tile.x[first + j * lanes] = 0.0
        tile.weight[t] = 0.0
    return start, count


@kernel(inline=True, fastmath={"contract", "nsz"})
def exp64(x):  # type: ignore[no-untyped-def]
    """Return exp(x) for x <= 0 without a branch, so that loops over it vectorise: 2ⁿ times a Taylor series."""
    bounded = x if x > -708.0 else -708.0
    n = np.floor(bounded * 1.4426950408889634 + 0.5)
    r = (bounded - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    power = float_from_bits(np.int64(np.int32(n) + np.int32(1023)) << np.int64(52))
    return p * power if x > -708.0 else 0.0


_LOG2E, _HALF, _ONE, _ZERO = np.float32(1.4426950408889634), np.float32(0.5), np.float32(1), np.float32(0)
_LN2_HIGH, _LN2_LOW, _LOWEST = np.float32(0.693359375), np.float32(-2.12194440e-4), np.float32(-87)
_C3, _C4, _C5, _C6, _C7 = (np.float32(1 / f) for f in (6, 24, 120, 720, 5040))


@kernel(inline=True, fastmath={"contract", "nsz"})
def exp32(x):  # type: ignore[no-untyped-def]
    """Return exp(x) for float32 x <= 0, like `exp64`."""
    bounded = x if x > _LOWEST else _LOWEST
    n = np.floor(bounded * _LOG2E + _HALF)
    r = (bounded - n * _LN2_HIGH) - n * _LN2_LOW
    p = _C7
    p = p * r + _C6
    p = p * r + _C5
    p = p * r + _C4
    p = p * r + _C3
    p = p * r + _HALF
    p = p * r + _ONE
    p = p * r + _ONE
    power = float_from_bits((np.int32(n) + np.int32(127)) << np.int32(23))
    return p * power if x > _LOWEST else _ZERO


def exp(x: Any) -> Any:
    """Return exp(x), x <= 0."""
    raise NotImplementedError("for compiled code only")


@overload(exp)
def _exp(x):  # type: ignore[no-untyped-def]
    return (lambda x: exp32(x)) if x == types.float32 else (lambda x: exp64(x))


@kernel(inline=True)
def log_total(tile, n_rows):  # type: ignore[no-untyped-def]
    """Write top, total and spread, and ``exp(log_joint - top)`` to resp. O(k) time per row."""
    top, total, spread = tile.top[:n_rows], tile.total[:n_rows], tile.spread[:n_rows]
    lowest = top.dtype.type(-np.inf)
    nothing = top.dtype.type(0)
    for t in range(n_rows):
        top[t], total[t], spread[t] = lowest, nothing, nothing
    for c in range(len(tile.resp)):
        joint = tile.resp[c, :n_rows]
        for t in range(n_rows):
            top[t] = joint[t] if joint[t] > top[t] else top[t]
    for t in range(n_rows):
        top[t] = top[t] if top[t] > lowest else nothing
    for c in range(len(tile.resp)):
        joint = tile.resp[c, :n_rows]
        for t in range(n_rows):
            e = joint[t] - top[t]
            p = exp(e)
            joint[t] = p
            total[t] += p
            spread[t] += p * e if p > nothing else nothing


@kernel(inline=True)
def posterior(tile, n_rows):  # type: ignore[no-untyped-def]
    """Replace log-joints by ``w r``; return ``Σ w log Σ exp(log_joint)`` and ``-Σ w r log r``.

    NaN (an overflow of both signs) counts as impossible. O(k) time per row.
    """
    log_total(tile, n_rows)
    log_likelihood = entropy = 0.0
    for t in range(n_rows):
        w, total = tile.weight[t], np.float64(tile.total[t])
        if total > 0.0:
            log_likelihood += w * (tile.top[t] + np.log(total))
            entropy += w * (np.log(total) - tile.spread[t] / total)
            tile.total[t] = w / total
        else:
            log_likelihood = -np.inf
            tile.total[t] = 0.0
    _scale_rows(tile, n_rows)
    return log_likelihood, entropy


@kernel(inline=True)
def given_posterior(resp, tile, n_rows):  # type: ignore[no-untyped-def]
    """Replace log-joints by given ``w r``; return ``Σ w r (log_joint - log r)`` and ``-Σ w r log r``."""
    bound = entropy = 0.0
    for c in range(len(tile.resp)):
        for t in range(n_rows):
            r = resp[tile.row[t], c]
            if r > 0.0:
                joint = np.float64(tile.resp[c, t])
                bound += tile.weight[t] * r * ((joint if joint > -np.inf else -np.inf) - np.log(r))
                entropy -= tile.weight[t] * r * np.log(r)
            tile.resp[c, t] = r * tile.weight[t]
            tile.sum_w[c] += r * tile.weight[t]
    return bound, entropy


@kernel(inline=True)
def _scale_rows(tile, n_rows):  # type: ignore[no-untyped-def]
    for c in range(len(tile.resp)):
        resp, scale = tile.resp[c, :n_rows], tile.total[:n_rows]
        sum_w = scale.dtype.type(0)
        for t in range(n_rows):
            resp[t] *= scale[t]
            sum_w += resp[t]
        tile.sum_w[c] += sum_w
