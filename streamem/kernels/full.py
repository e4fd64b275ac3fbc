"""Components with covariances of their own: ``y = L_k⁻¹ (x - μ_k)`` and ``Σ w r y yᵀ``, d² flops each.

Where each row is within reach of few components, tiles of rows are too coarse: what matters is worked out row
by row (`streamem.kernels.single_rows`) for these components alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel
from streamem.kernels.gaussian import FullGaussian
from streamem.kernels.memory import aligned_zeros, enter, kept_by_thread
from streamem.kernels.products import STRIP_BYTES, add_gram, gram_blocks, gram_matrix, whiten_strip
from streamem.kernels.simd import (
    STRIP_VECTORS,
    count_bits,
    lanes_greater,
    load_strip,
    lowest_bit,
    multiply_add,
    rows_per_strip,
    store,
    where_greater,
)
from streamem.kernels.single_rows import add_row, enter_columns, enter_rows, row_width, symmetric, whiten_row
from streamem.kernels.tiles import (
    add_moments,
    implements,
    likeliest,
    log_joint,
    padded,
)

__all__ = ["FullComponents", "full_components", "full_sums"]

KEPT_BYTES = 1 << 22
"""Keep whitened rows of all components between the two halves of a tile's work as long as they fit this."""

TRIED_FROM = 16
"""Features from which on it may pay to leave out components that cannot matter to a row."""


class FullComponents(NamedTuple):
    """`FullGaussian` in the dtype of tiles, features padded to a multiple of 4; memory to work in; sums."""

    means: NDArray[Any]
    """(k, padded d)."""
    whitening: NDArray[Any]
    """(k, padded d, padded d)."""
    log_const: NDArray[np.float64]
    """(k,)."""
    difference: NDArray[Any]
    """One strip of x - μ."""
    y: NDArray[Any]
    """(k or 1, a tile) whitened rows by feature, of all components where they fit."""
    joint: NDArray[Any]
    """(rows,) log-joints of rows that are whitened again."""
    weighted: NDArray[Any]
    """(4 rows,) whitened rows times their weights, four features at a time."""
    guess: NDArray[np.int64]
    """(rows,) what is likely the likeliest component."""
    patience: NDArray[np.int64]
    """(3,) tiles until rows are tried singly again, tiles to wait after a failure, rows seen so far."""
    singly: NDArray[np.bool_]
    """(1,) whether the rows of the present tile go singly."""
    least: NDArray[np.float64]
    """(k,) how much higher than the likeliest, less the log of the row's weight, a log-joint must be."""
    sum_wy: NDArray[np.float64]
    """(k, padded d)."""
    sum_wyy: NDArray[np.float64]
    """(k, gram_blocks, 8) of rows that went by tiles."""
    entered: NDArray[np.bool_]
    """(1,) whether the next four hold anything."""
    columns: NDArray[Any]
    """(k, padded d, row_width) whitening, column by column; (0, ...) where no row may go singly."""
    row_wy: NDArray[np.float64]
    """(k, row_width) of rows that went singly."""
    row_wyy: NDArray[np.float64]
    """(k, padded d, row_width) on and below the diagonal, of the same."""
    row_means: NDArray[Any]
    """(k, row_width) μ."""
    rows: NDArray[Any]
    """(rows, row_width) the tile's rows, each from end to end."""
    row_difference: NDArray[Any]
    """(row_width,) x - μ of one of these."""
    row_y: NDArray[np.float64]
    """(rows + 1, row_width) y of each of these for the component it is likeliest of; then one for any."""


def full_components(
    family: FullGaussian, n_rows: int, dtype: Any, reach: float, every: bool
) -> FullComponents:
    """Prepare components for tiles of n_rows rows. The thread's next may be in the same memory.

    Log-joints matter within this `reach` of the likeliest until moments say better; with `every`, always.
    """
    k, d = family.means.shape
    kept = k if k * padded(d) * n_rows * np.dtype(dtype).itemsize <= KEPT_BYTES else 1
    components = _memory(k, padded(d), n_rows, np.dtype(dtype), kept)
    enter(family.means, components.means)
    enter(family.whitening, components.whitening)
    components.log_const[:] = family.log_const
    components.patience[:] = np.iinfo(np.int64).max if every else int(reach == np.inf), 1, 0
    components.least.fill(-reach)
    components.sum_wy.fill(0.0)
    components.sum_wyy.fill(0.0)
    components.entered.fill(False)
    return components


@kept_by_thread
def _memory(k: int, p: int, n_rows: int, dtype: np.dtype[Any], kept: int) -> FullComponents:
    single, width = k if k >= 4 and p >= TRIED_FROM else 0, row_width(p, dtype)
    return FullComponents(
        means=np.empty((k, p), dtype),
        whitening=np.empty((k, p, p), dtype),
        log_const=np.empty(k),
        difference=aligned_zeros(p * STRIP_BYTES // dtype.itemsize, dtype),
        y=aligned_zeros((kept, p * n_rows), dtype),
        joint=aligned_zeros(n_rows, dtype),
        weighted=aligned_zeros(4 * n_rows, dtype),
        guess=np.zeros(n_rows, np.int64),
        patience=np.zeros(3, np.int64),
        singly=np.zeros(1, np.bool_),
        least=np.empty(k),
        sum_wy=aligned_zeros((k, p), np.float64),
        sum_wyy=aligned_zeros((k, gram_blocks(p), 8), np.float64),
        entered=np.zeros(1, np.bool_),
        columns=aligned_zeros((single, p, width), dtype),
        row_wy=aligned_zeros((single, width), np.float64),
        row_wyy=aligned_zeros((single, p, width), np.float64),
        row_means=aligned_zeros((single, width), dtype),
        rows=aligned_zeros((n_rows if single else 0, width), dtype),
        row_difference=aligned_zeros(width, dtype),
        row_y=aligned_zeros((n_rows + 1 if single else 0, width), np.float64),
    )


def full_sums(
    family: FullGaussian, components: FullComponents
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum_wy (k, d) and sum_wyy (k, d, d)."""
    d = family.means.shape[1]
    sum_wy, sum_wyy = components.sum_wy[:, :d].copy(), gram_matrix(components.sum_wyy, d)
    if components.entered[0]:
        sum_wy += components.row_wy[:, :d]
        sum_wyy += symmetric(components.row_wyy[:, :d, :d])
    return sum_wy, sum_wyy


@kernel(inline="once")
def whiten_all(components, tile, c, n_written, n_strips, joint):  # type: ignore[no-untyped-def]
    """Write ``log_const - ‖y‖² / 2`` over n_written features of ``y = L_c⁻¹(x - μ_c)``; if that is all, y."""
    mean, triangle, const = components.means[c], components.whitening[c], components.log_const[c]
    y, step = components.y[c if len(components.y) > 1 else 0], len(tile.row) // rows_per_strip(tile.x)
    if n_written < len(mean):
        step = 0  # one feature upon the other
    whiten(tile.x, mean, triangle, const, n_written, n_strips, step, components.difference, y, joint)


@kernel(inline=True)
def whiten(x, mean, triangle, log_const, n_written, n_strips, step, difference, y, joint):  # type: ignore[no-untyped-def]
    """Write log-joints, and y by feature, `step` strips apart; zeros for a row without a finite log-joint."""
    lanes, total = rows_per_strip(x), x.dtype.type(0)
    half, const = x.dtype.type(-0.5), x.dtype.type(log_const)
    for s in range(n_strips):
        distance = whiten_strip(triangle, mean, n_written, x, s * len(mean), difference, y, s, step)
        store(joint, s, multiply_add(half, distance, const))
    for t in range(n_strips * lanes):
        total += joint[t]
    if not total > -np.inf:  # rare: overflow, or a dead component
        for t in range(n_strips * lanes):
            if not joint[t] > -np.inf:
                for i in range(n_written):
                    y[i * step * lanes + t] = 0.0


@implements(add_moments, FullComponents)
@kernel(inline=True)
def _add_moments(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Add ``Σ w r y`` and ``Σ w r y yᵀ``. O(k d² / 2) multiply-adds per row.

    From now on rows matter to a component if w r may exceed 2⁻⁶⁴ of its mean so far.
    """
    n_features, held = components.means.shape[1], n_strips * rows_per_strip(tile.x)
    n_vectors, stride = STRIP_VECTORS * n_strips, STRIP_VECTORS * (len(tile.row) // rows_per_strip(tile.x))
    components.patience[2] += held
    for c in range(len(components.means)):
        components.least[c] = np.log(tile.sum_w[c] / components.patience[2]) - 64.0 * np.log(2.0)
    if components.singly[0]:
        _add_single_moments(components, tile, n_strips)
        return
    for c in range(len(components.means)):
        if len(components.y) < len(components.means):
            whiten_all(components, tile, c, n_features, n_strips, components.joint)
        resp, y, sum_wy = tile.resp[c], components.y[c if len(components.y) > 1 else 0], components.sum_wy[c]
        add_gram(resp, y, n_features, n_vectors, stride, components.weighted, sum_wy, components.sum_wyy[c])


@kernel(inline="once")
def _add_single_moments(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Add rows to those components that have a notable part of them; the y of most is at hand."""
    rows, means, columns = components.rows, components.row_means, components.columns
    difference, y, guess = components.row_difference, components.row_y, components.guess
    sum_wy, sum_wyy, resp = components.row_wy, components.row_wyy, tile.resp
    lanes, spare = rows_per_strip(resp), len(tile.row)
    for c in range(len(means)):
        least = resp.dtype.type(2.0**-64 * tile.sum_w[c] / components.patience[2])
        for s in range(n_strips):
            notable = lanes_greater(load_strip(resp, c * (len(tile.row) // lanes) + s), least)
            while notable != 0:
                t = s * lanes + lowest_bit(notable)
                notable &= notable - np.uint64(1)
                place = t if guess[t] == c else spare
                if place == spare:
                    whiten_row(rows, t, means, columns, c, difference, y, spare)
                add_row(np.float64(resp[c, t]), y, place, c, sum_wy, sum_wyy)


@kernel(inline=True)
def _tried(n_features):  # type: ignore[no-untyped-def]
    """Return after how many features that is decided: what they take is small against the whole."""
    return max(8, 3 * n_features // 32 * 4)


@implements(log_joint, FullComponents)
@kernel(inline=True)
def _log_joint(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Write log-joints where they matter, and -inf elsewhere; whitened rows, unless those go singly.

    Squared distances over a few features bound those over all. The component that looks likeliest then is
    worked out for each row; what is out of its reach, by `least`, is left out. Where few are, every row of
    the following tiles is worked out for all. O(k d² / 2) multiply-adds per row where nothing is left out.
    """
    k, n_features = components.means.shape
    patience = components.patience
    trying = len(components.columns) > 0 and patience[0] <= 0
    patience[0] -= 1
    while True:
        for c in range(k):
            n_written = _tried(n_features) if trying else n_features
            whiten_all(components, tile, c, n_written, n_strips, tile.resp[c])
        components.singly[0] = (
            trying
            and _few_may_matter(components, tile, n_strips)
            and _work_out_notable(components, tile, n_strips)
        )
        if components.singly[0]:
            patience[1] = 1
        if components.singly[0] or not trying:
            return
        patience[0] = patience[1]
        patience[1] = min(2 * patience[1], 64)
        trying = False


@kernel(inline="once")
def _few_may_matter(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Return whether few log-joints would matter if all were as high as they may be.

    The guess is then what looks likeliest of each row, and the entropy the log of its weight.
    """
    k, lanes, held = len(components.means), rows_per_strip(tile.x), n_strips * rows_per_strip(tile.x)
    likeliest(tile, held, components.guess)
    for t in range(held):
        tile.entropy[t] = 0.0 if tile.weight[t] == 1.0 else np.log(tile.weight[t])
        tile.scale[t] = tile.density[t] - tile.entropy[t]
    n_notable = 0
    for c in range(k):
        least = tile.scale.dtype.type(components.least[c])
        for s in range(n_strips):
            joint = load_strip(tile.resp, c * (len(tile.row) // lanes) + s)
            n_notable += count_bits(lanes_greater(joint, load_strip(tile.scale, s) + least))
    return n_notable * 3 <= held * k


@kernel(inline="once")
def _work_out_notable(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Write the log-joints that matter, given upper bounds of all; False where those are many."""
    if not components.entered[0]:
        enter_columns(components)
    rows, means, columns = components.rows, components.row_means, components.columns
    difference, y, guess = components.row_difference, components.row_y, components.guess
    resp, top, lanes, spare = tile.resp, tile.density, rows_per_strip(tile.x), len(tile.row)
    k, held, real = len(means), n_strips * lanes, resp.dtype.type
    n_notable = held
    enter_rows(tile.x, components.means.shape[1], held, rows)
    for t in range(held):
        squares = whiten_row(rows, t, means, columns, guess[t], difference, y, t)
        top[t] = components.log_const[guess[t]] - 0.5 * squares
        tile.scale[t] = top[t] - tile.entropy[t]
    for c in range(k):
        least, const = real(components.least[c]), components.log_const[c]
        for s in range(n_strips):
            at = c * (len(tile.row) // lanes) + s
            joint, needed = load_strip(resp, at), load_strip(tile.scale, s) + least
            store(resp, at, where_greater(joint, needed, joint, real(-np.inf)))
            notable = lanes_greater(joint, needed)
            while notable != 0:
                t = s * lanes + lowest_bit(notable)
                notable &= notable - np.uint64(1)
                if guess[t] != c:
                    squares = whiten_row(rows, t, means, columns, c, difference, y, spare)
                    resp[c, t] = const - 0.5 * squares
                    n_notable += 1
        if n_notable * 3 > held * k:
            return False
    for t in range(held):
        resp[guess[t], t] = top[t]
    return True
