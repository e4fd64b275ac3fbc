"""Components with covariances of their own: ``y = L_k⁻¹ (x - μ_k)`` and ``Σ w r y yᵀ``, d² flops each."""

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
    add_sums,
    load_strip,
    multiply_add,
    square_root,
    store,
    where_positive,
    zero_strip,
)
from streamem.kernels.tiles import (
    add_moments,
    implements,
    likeliest,
    log_joint,
    padded,
    rows_per_strip,
)

__all__ = ["FullComponents", "full_components", "full_sums"]

KEPT_BYTES = 1 << 22
"""Keep whitened rows of all components between the two halves of a tile's work as long as they fit this."""


EVERY_ROW = -1


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
    """(k or 1, a tile) whitened rows, of all components where they fit."""
    z: NDArray[Any]
    """A tile of whitened rows times the square roots of their weights, by feature."""
    root: NDArray[Any]
    """(rows,) square roots of weighted responsibilities."""
    n_chosen: NDArray[np.int64]
    """(k,) rows chosen for each component, or EVERY_ROW."""
    chosen: NDArray[np.int64]
    """(k, rows) the chosen rows' places in the tile; y is in this order."""
    chosen_resp: NDArray[Any]
    """(rows,) their weighted responsibilities."""
    n_guessed: NDArray[np.int64]
    """(k,) how many of those were chosen first."""
    guess: NDArray[np.int64]
    """(rows,) what is likely the likeliest component."""
    patience: NDArray[np.int64]
    """(3,) tiles until rows are chosen again, tiles to wait after the next failure, rows seen so far."""
    least: NDArray[np.float64]
    """(k,) how much higher than the likeliest, less the log of the row's weight, a log-joint must be."""
    sum_wy: NDArray[np.float64]
    """(k, padded d)."""
    sum_wyy: NDArray[np.float64]
    """(k, gram_blocks, 8)."""


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
    return components


@kept_by_thread
def _memory(k: int, p: int, n_rows: int, dtype: np.dtype[Any], kept: int) -> FullComponents:
    return FullComponents(
        means=np.empty((k, p), dtype),
        whitening=np.empty((k, p, p), dtype),
        log_const=np.empty(k),
        difference=aligned_zeros(p * STRIP_BYTES // dtype.itemsize, dtype),
        y=aligned_zeros((kept, p * n_rows), dtype),
        z=aligned_zeros(p * n_rows, dtype),
        root=aligned_zeros(n_rows, dtype),
        n_chosen=np.full(k, EVERY_ROW),
        chosen=np.zeros((k, n_rows), np.int64),
        chosen_resp=aligned_zeros(n_rows, dtype),
        n_guessed=np.zeros(k, np.int64),
        guess=np.zeros(n_rows, np.int64),
        patience=np.zeros(3, np.int64),
        least=np.empty(k),
        sum_wy=aligned_zeros((k, p), np.float64),
        sum_wyy=aligned_zeros((k, gram_blocks(p), 8), np.float64),
    )


def full_sums(
    family: FullGaussian, components: FullComponents
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum_wy (k, d) and sum_wyy (k, d, d)."""
    d = family.means.shape[1]
    return components.sum_wy[:, :d].copy(), gram_matrix(components.sum_wyy, d)


@kernel(inline="once")
def whiten_all(components, tile, c, n_written, n_strips):  # type: ignore[no-untyped-def]
    """Write n_written features of ``y = L_c⁻¹ (x - μ_c)``, and ``log_const - ‖y‖² / 2`` over them."""
    y = components.y[c if len(components.y) > 1 else 0]
    mean, triangle, const = components.means[c], components.whitening[c], components.log_const[c]
    nowhere, joint = components.chosen[c, :0], tile.resp[c]
    whiten(tile.x, nowhere, mean, triangle, const, n_written, n_strips, components.difference, y, joint)


@kernel(inline=True)
def whiten(x, places, mean, triangle, log_const, n_written, n_strips, difference, y, joint):  # type: ignore[no-untyped-def]
    """Write y and log-joints of the rows at these places in x, or of all rows where none are given."""
    n_features, lanes = len(mean), rows_per_strip(x)
    half, const = x.dtype.type(-0.5), x.dtype.type(log_const)
    for s in range(n_strips):
        strip = s * n_features
        source, start = x, strip
        if len(places) > 0:
            source, start = difference, 0
            for lane in range(min(lanes, len(places) - s * lanes)):  # what fills the rest is of no account
                place = places[s * lanes + lane]
                row = place // lanes * lanes * n_features + place % lanes
                for j in range(n_features):
                    difference[j * lanes + lane] = x[row + j * lanes]
        distance = whiten_strip(triangle, mean, n_written, source, start, difference, y, strip)
        store(joint, s, multiply_add(half, distance, const))


@implements(add_moments, FullComponents)
@kernel(inline=True)
def _add_moments(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Add ``Σ w r y`` and ``Σ w r y yᵀ``. O(k d² / 2) multiply-adds per row.

    From now on rows matter to a component if w r may exceed 2⁻⁶⁴ of its mean so far.
    """
    n_features, lanes = components.means.shape[1], rows_per_strip(tile.x)
    components.patience[2] += n_strips * lanes
    for c in range(len(components.means)):
        components.least[c] = np.log(tile.sum_w[c] / components.patience[2]) - 64.0 * np.log(2.0)
        held, resp = components.n_chosen[c], tile.resp[c]
        y = components.y[c if len(components.y) > 1 else 0]
        if held == 0:
            continue
        strips = n_strips if held == EVERY_ROW else -(-held // lanes)
        if len(components.y) < len(components.means):
            mean, triangle = components.means[c], components.whitening[c]
            places, difference = components.chosen[c, : max(held, 0)], components.difference
            whiten(tile.x, places, mean, triangle, 0.0, n_features, strips, difference, y, components.root)
        if held != EVERY_ROW:
            resp = components.chosen_resp
            gather(tile.resp[c], components.chosen[c], held, strips * lanes, resp)
        weigh(resp, y, n_features, strips, components.root, components.z, components.sum_wy[c])
        add_gram(components.z, n_features, STRIP_VECTORS * strips, components.sum_wyy[c], 0)


@kernel(inline=True)
def weigh(resp, y, n_features, n_strips, root, z, sum_wy):  # type: ignore[no-untyped-def]
    """Write ``z = √(w r) y`` by feature, and add ``Σ w r y``. Where w r is 0, y may be anything.

    y comes in strips.
    """
    for s in range(n_strips):
        store(root, s, square_root(load_strip(resp, s)))
    for i in range(0, n_features, 4):
        a, b, c, d = zero_strip(y), zero_strip(y), zero_strip(y), zero_strip(y)
        for s in range(n_strips):
            r, at, to = load_strip(root, s), s * n_features + i, i * n_strips + s
            part = where_positive(r, r * load_strip(y, at))
            store(z, to, part)
            a = multiply_add(r, part, a)
            part = where_positive(r, r * load_strip(y, at + 1))
            store(z, to + n_strips, part)
            b = multiply_add(r, part, b)
            part = where_positive(r, r * load_strip(y, at + 2))
            store(z, to + 2 * n_strips, part)
            c = multiply_add(r, part, c)
            part = where_positive(r, r * load_strip(y, at + 3))
            store(z, to + 3 * n_strips, part)
            d = multiply_add(r, part, d)
        add_sums(sum_wy, i // 4, (a, b, c, d))


TRIED_FROM = 16
"""Features from which on it may pay to leave out components that cannot matter to a row."""


@kernel(inline=True)
def _tried(n_features):  # type: ignore[no-untyped-def]
    """Return after how many features that is decided: what they take is small against the whole."""
    return n_features // 32 * 4 if n_features >= 64 else 8


@implements(log_joint, FullComponents)
@kernel(inline=True)
def _log_joint(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Write log-joints where they matter, and -inf elsewhere; whitened rows of the former to y.

    Squared distances over a few features bound those over all. The component that looks likeliest then is
    worked out for each row; what is out of its reach, by `least`, is left out. Where few are, every row of
    the following tiles is worked out for all. O(k d² / 2) multiply-adds per row where nothing is left out.
    """
    k, n_features = components.means.shape
    patience, held = components.patience, n_strips * rows_per_strip(tile.x)
    trying = n_features >= TRIED_FROM and k >= 4 and patience[0] <= 0
    patience[0] -= 1
    while True:
        for c in range(k):
            whiten_all(components, tile, c, _tried(n_features) if trying else n_features, n_strips)
        if not trying:
            components.n_chosen[:] = EVERY_ROW
            return
        if _work_out_notable(components, tile, held):
            patience[1] = 1
            return
        patience[0] = patience[1]
        patience[1] = min(2 * patience[1], 64)
        trying = False


@kernel(inline="once")
def _work_out_notable(components, tile, held):  # type: ignore[no-untyped-def]
    """Write the log-joints that matter, given upper bounds of all; False where those are many."""
    k = len(components.means)
    likeliest(tile, held, components.guess)
    components.n_chosen[:] = 0
    components.n_guessed[:] = 0
    for t in range(held):
        _choose(components, components.guess[t], t)
    for c in range(2 * k):  # first what each row is likeliest of, then what is within its reach
        if c == k and not _choose_all_notable(components, tile, held):
            return False
        whiten_chosen(components, tile, c % k, components.n_guessed[c % k])
    return True


@kernel(inline="once")
def _choose_all_notable(components, tile, held):  # type: ignore[no-untyped-def]
    """Choose rows of all components, given the log-joints of the likeliest; False where those are many."""
    k, total = len(components.means), 0
    for t in range(held):  # the least that a log-joint must be, but for what depends on the component
        tile.scale[t] = tile.resp[components.guess[t], t] - np.log(tile.weight[t])
    for c in range(k):
        components.n_guessed[c] = components.n_chosen[c]
        _choose_notable(components, tile, c, held)
        total += components.n_chosen[c]
    return total * 3 <= held * k


@kernel(inline=True)
def _choose(components, c, t):  # type: ignore[no-untyped-def]
    components.chosen[c, components.n_chosen[c]] = t
    components.n_chosen[c] += 1


@kernel(inline="once")
def _choose_notable(components, tile, c, n_rows):  # type: ignore[no-untyped-def]
    """Choose rows of which the component may matter; make other log-joints -inf."""
    least, resp, guess = components.least[c], tile.resp[c], components.guess
    for t in range(n_rows):
        if guess[t] != c:
            if resp[t] > tile.scale[t] + least:
                _choose(components, c, t)
            else:
                resp[t] = -np.inf


@kernel(inline="once")
def whiten_chosen(components, tile, c, start):  # type: ignore[no-untyped-def]
    """Write ``y = L_c⁻¹ (x - μ_c)`` and log-joints of chosen rows, from number `start` or a little before."""
    n_features, lanes = components.means.shape[1], rows_per_strip(tile.x)
    start = start // lanes * lanes
    places = components.chosen[c, start : components.n_chosen[c]]
    if len(places) > 0:
        n_strips = -(-len(places) // lanes)
        y = components.y[c if len(components.y) > 1 else 0][start * n_features :]
        mean, triangle, const = components.means[c], components.whitening[c], components.log_const[c]
        found, joint = components.chosen_resp, tile.resp[c]
        whiten(tile.x, places, mean, triangle, const, n_features, n_strips, components.difference, y, found)
        for t in range(len(places)):
            joint[places[t]] = found[t]


@kernel(inline="once")
def gather(values, places, n_places, n_written, out):  # type: ignore[no-untyped-def]
    """Write the values at n_places places to out, and zeros up to n_written."""
    for t in range(n_places):
        out[t] = values[places[t]]
    for t in range(n_places, n_written):
        out[t] = 0.0
