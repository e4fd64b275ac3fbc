"""What all mixtures do with the rows of one tile: bring them in, turn log-joints into responsibilities.

A tile is transposed: rows lie in SIMD lanes, in strips (see `streamem.kernels.products`). Components
write a tile's log-joints, `posterior` replaces them by weighted responsibilities, and components add up
their moments. What is particular to a family of components implements `log_joint` and
`add_moments`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from streamem.kernels.compile import INLINED, kernel
from streamem.kernels.memory import aligned_zeros, kept_by_thread
from streamem.kernels.products import STRIP_BYTES
from streamem.kernels.simd import (
    STRIP_VECTORS,
    exp,
    load_strip,
    log,
    maximum,
    multiply_add,
    prefetch,
    rows_per_strip,
    store,
    store_transposed,
    where_greater,
    where_positive,
    zero_strip,
)

__all__ = [
    "Tile",
    "add_moments",
    "clear_infinite",
    "fill",
    "implements",
    "likeliest",
    "log_joint",
    "log_sum_exp",
    "make_tile",
    "padded",
    "posterior",
]


class Tile(NamedTuple):
    """The working memory of one call that does not depend on the family."""

    center: NDArray[np.float64]
    """(d,) subtracted from each row before it enters the tile."""
    unit: NDArray[np.float64]
    """(d,) powers of two that features are then multiplied by."""
    x: NDArray[Any]
    """(strips, padded d, rows per strip), flat: the centred rows; features beyond d are zero."""
    weight: NDArray[np.float64]
    """(rows,) sample weights; 0 beyond the last row."""
    row: NDArray[np.int64]
    """(rows,) where each row came from."""
    resp: NDArray[Any]
    """(k, rows) log-joints, then weighted responsibilities; where there is noise, its own come last."""
    density: NDArray[Any]
    """(rows,) ``log Σ_k exp(log_joint)``."""
    entropy: NDArray[Any]
    """(rows,) ``-Σ_k r log r``."""
    scale: NDArray[Any]
    """(rows,) what resp has to be multiplied by to sum to one; 0 in a row that no component can explain."""
    sum_w: NDArray[np.float64]
    """(k,) weighted responsibilities of all tiles so far; where there is noise, its own come last."""


@kernel(inline=True)
def padded(n_features: int) -> int:
    """Return the features that a tile has room for: a multiple of 4."""
    return -(-n_features // 4) * 4


def make_tile(
    center: NDArray[np.float64], unit: NDArray[np.float64], n_components: int, n_rows: int, dtype: Any
) -> Tile:
    """Return a tile for n_rows rows, a multiple of what a strip holds; noise counts as a component.

    The thread's next may be in the same memory.
    """
    tile = _tile_memory(len(center), n_components, n_rows, np.dtype(dtype))
    tile.center[:] = center
    tile.unit[:] = unit
    tile.sum_w.fill(0.0)
    return tile


@kept_by_thread
def _tile_memory(n_features: int, n_components: int, n_rows: int, dtype: np.dtype[Any]) -> Tile:
    return Tile(
        center=np.empty(n_features),
        unit=np.empty(n_features),
        x=aligned_zeros(n_rows * padded(n_features), dtype),
        weight=aligned_zeros(n_rows, np.float64),
        row=aligned_zeros(n_rows, np.int64),
        resp=aligned_zeros((n_components, n_rows), dtype),
        density=aligned_zeros(n_rows, dtype),
        entropy=aligned_zeros(n_rows, dtype),
        scale=aligned_zeros(n_rows, dtype),
        sum_w=np.empty(n_components),
    )


def log_joint(components: Any, tile: Any, n_strips: int) -> None:
    """Write ``log π_k p_k(x)`` of the tile's rows to ``tile.resp``; -inf where it can make no difference."""
    raise NotImplementedError("for compiled code only")


def add_moments(components: Any, tile: Any, n_strips: int) -> None:
    """Add the moments of the tile's rows, weighted by ``tile.resp``, to the sums in `components`."""
    raise NotImplementedError("for compiled code only")


def implements(generic: Any, family: type) -> Any:
    """Declare what `log_joint` or `add_moments` does for one NamedTuple of components."""

    def register(implementation: Any) -> Any:
        @overload(generic, jit_options=INLINED)
        def choose(components, tile, n_strips):  # type: ignore[no-untyped-def]
            return implementation if getattr(components, "instance_class", None) is family else None

        return implementation

    return register


@kernel(inline="once")
def fill(x, weight, start, tile):  # type: ignore[no-untyped-def]
    """Bring in rows of x from `start` on but those of weight 0; return the next row and the number held."""
    n_features = len(tile.center)
    lanes = rows_per_strip(tile.x)
    n_rows = lanes // STRIP_VECTORS
    stride = len(tile.x) // len(tile.row) * lanes
    count = 0
    while start < len(x) and count < len(tile.row):
        first = count // lanes * stride + count % lanes
        if count % n_rows == 0 and _none_left_out(x, weight, start, n_rows):
            ahead = (start + len(tile.row)) * n_features
            for i in range(ahead, ahead + n_rows * n_features, rows_per_strip(x) * 64 // STRIP_BYTES):
                prefetch(x, i)
            for j in range(0, n_features, n_rows):
                at = first // n_rows + STRIP_VECTORS * j
                store_transposed(x, start, n_features, tile.center, tile.unit, j, tile.x, at)
            for t in range(n_rows):
                tile.weight[count + t] = weight[start + t] if len(weight) > 0 else 1.0
                tile.row[count + t] = start + t
            count += n_rows
            start += n_rows
            continue
        w = weight[start] if len(weight) > 0 else 1.0
        if w != 0.0:
            for j in range(n_features):
                tile.x[first + j * lanes] = (x[start, j] - tile.center[j]) * tile.unit[j]
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


@kernel(inline="once")
def _none_left_out(x, weight, start, n_rows):  # type: ignore[no-untyped-def]
    """Return whether there are n_rows more rows, all of some weight."""
    if start + n_rows > len(x):
        return False
    if len(weight) > 0:
        for t in range(start, start + n_rows):
            if weight[t] == 0.0:
                return False
    return True


@kernel(inline="once")
def log_sum_exp(tile, n_strips):  # type: ignore[no-untyped-def]
    """Write density, entropy and scale, and ``exp(log_joint - largest log_joint)`` to resp. O(k) per row.

    NaN counts as -inf: it is what an overflow of both signs leaves, or -inf less a largest of -inf.
    """
    resp = tile.resp
    lowest, smallest, one = resp.dtype.type(-np.inf), resp.dtype.type(-1000.0), resp.dtype.type(1.0)
    for s in range(n_strips):
        top, total, spread = zero_strip(resp) + lowest, zero_strip(resp), zero_strip(resp)
        for c in range(len(resp)):
            top = maximum(load_strip(resp[c], s), top)
        for c in range(len(resp)):
            e = maximum(load_strip(resp[c], s) - top, smallest)
            p = exp(e)
            store(resp[c], s, p)
            total = total + p
            spread = multiply_add(p, e, spread)
        scale, log_total = where_positive(total, one / total), log(maximum(total, one))
        store(tile.density, s, top + log_total)
        store(tile.entropy, s, log_total - scale * spread)
        store(tile.scale, s, scale)


@kernel(inline="once")
def posterior(tile, n_strips):  # type: ignore[no-untyped-def]
    """Replace log-joints by ``w r``; return ``Σ w log Σ_k exp(log_joint)`` and ``-Σ w r log r``."""
    log_sum_exp(tile, n_strips)
    log_likelihood = entropy = 0.0
    n_rows = n_strips * rows_per_strip(tile.x)
    for t in range(n_rows):
        w = tile.weight[t]
        log_likelihood += w * tile.density[t] if w > 0.0 else 0.0
        entropy += w * tile.entropy[t]
        tile.scale[t] *= w
    for c in range(len(tile.resp)):
        resp, scale = tile.resp[c, :n_rows], tile.scale[:n_rows]
        sum_w = scale.dtype.type(0)
        for t in range(n_rows):
            resp[t] *= scale[t]
            sum_w += resp[t]
        tile.sum_w[c] += sum_w
    return log_likelihood, entropy


@kernel(inline=True)
def clear_infinite(x, n_strips):  # type: ignore[no-untyped-def]
    """Replace what is infinite or NaN in so many strips of x by 0.

    No component explains such a row; all have a responsibility of 0 for it, but 0 times infinity is NaN.
    """
    n, total = n_strips * rows_per_strip(x), x.dtype.type(0)
    for t in range(n):
        total += x[t]
    if abs(total) < np.inf:
        return
    for t in range(n):  # rare
        if not abs(x[t]) < np.inf:
            x[t] = 0.0


@kernel(inline=True)
def likeliest(tile, n_rows, label):  # type: ignore[no-untyped-def]
    """Write the component of the largest log-joint, the first of several, to label (n_rows,).

    That log-joint is left in the density, its component also in the entropy.
    """
    resp = tile.resp
    lowest = resp.dtype.type(-np.inf)
    for s in range(-(-n_rows // rows_per_strip(resp))):
        top, first = zero_strip(resp) + lowest, zero_strip(resp)
        for c in range(len(resp)):
            joint = load_strip(resp[c], s)
            first = where_greater(joint, top, resp.dtype.type(c), first)
            top = maximum(joint, top)
        store(tile.density, s, top)
        store(tile.entropy, s, first)
    for t in range(n_rows):
        label[t] = int(tile.entropy[t])
