import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamem.kernels.compile import kernel
from streamem.kernels.products import STRIP_BYTES
from streamem.kernels.tiles import fill, likeliest, make_tile


@kernel
def bring_in(x, weight, start, tile):
    return fill(x, weight, start, tile)


def naive(x, weight, start, center, unit, capacity):
    """The rows that a tile should hold, their weights, where they came from, and the next row."""
    places = [i for i in range(start, len(x)) if weight is None or weight[i] != 0][:capacity]
    full = len(places) == capacity
    stop = places[-1] + 1 if full else len(x)
    rows = (x[places].astype(np.float64) - center) * unit
    return rows, np.ones(len(places)) if weight is None else weight[places], places, stop


@settings(max_examples=150)
@given(
    st.integers(0, 90),
    st.integers(1, 37),
    st.integers(0, 5),
    st.sampled_from([None, 0.0, 0.1, 0.6]),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 2**32 - 1),
)
def test_fill__brings_in_the_rows_with_weight(n, d, start, zeros, of_rows, of_tile, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(of_rows)
    weight = None if zeros is None else rng.uniform(0.5, 2, size=n) * (rng.random(n) >= zeros)
    center, unit = rng.normal(size=d), np.exp2(rng.integers(-3, 3, size=d))
    tile = make_tile(center, unit, 1, 64, of_tile)
    start = min(start, n)
    stop, held = bring_in(x, np.empty(0) if weight is None else weight, start, tile)
    rows, weights, places, expected_stop = naive(x, weight, start, center, unit, 64)
    lanes = STRIP_BYTES // tile.x.itemsize
    strips = tile.x.reshape(-1, len(tile.x) // len(tile.row), lanes).transpose(0, 2, 1).reshape(64, -1)
    assert held == len(places)
    assert stop == expected_stop
    np.testing.assert_array_equal(tile.row[:held], places)
    np.testing.assert_array_equal(tile.weight[:held], weights)
    np.testing.assert_array_equal(strips[:held, :d], rows.astype(of_tile))
    assert not strips[:, d:].any()
    padded = -(-held // lanes) * lanes
    assert not tile.weight[held:padded].any()
    assert not strips[held:padded].any()


@kernel
def find_likeliest(tile, n_rows, label):
    likeliest(tile, n_rows, label)


@settings(max_examples=100)
@given(
    st.integers(1, 64),
    st.integers(1, 70),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 2**32 - 1),
)
def test_likeliest__is_the_first_of_the_largest(n, k, dtype, seed):
    rng = np.random.default_rng(seed)
    tile = make_tile(np.zeros(1), np.ones(1), k, 64, dtype)
    joint = rng.choice([-np.inf, -3.0, 0.5, 2.0, np.nan], size=(k, 64))
    tile.resp[:] = joint
    label = np.full(n, -1)
    find_likeliest(tile, n, label)
    joint[np.isnan(joint)] = -np.inf
    np.testing.assert_array_equal(label, joint[:, :n].argmax(axis=0))
