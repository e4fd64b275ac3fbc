import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamem.kernels.sampling import hashes, select_below
from tests import naive


@settings(max_examples=30)
@given(start=st.integers(0, 2**62), n=st.integers(0, 20), seed=st.integers(0, 2**64 - 1))
def test_hashes__are_the_formula(start, n, seed):
    expected = [naive.split_mix_64(start + i, seed) for i in range(n)]
    assert hashes(start, n, seed).tolist() == expected


def test_hashes__are_uniform_and_differ_between_seeds():
    h = hashes(0, 100_000, 1)
    counts = np.bincount((h >> np.uint64(58)).astype(int), minlength=64)
    assert ((counts - 100_000 / 64) ** 2 / (100_000 / 64)).sum() < 120
    assert len(np.unique(h)) == len(h)
    assert not (h == hashes(0, 100_000, 2)).any()
    for bit in range(64):
        assert abs(((h >> np.uint64(bit)) & np.uint64(1)).mean() - 0.5) < 0.01


@settings(max_examples=20)
@given(cut=st.integers(0, 200), threshold=st.integers(0, 2**64 - 1), seed=st.integers(0, 2**32))
def test_select_below__does_not_depend_on_blocks(cut, threshold, seed):
    weight = (np.arange(200) % 3).astype(float)
    rows, kept = select_below(50, weight, 200, seed, threshold)
    first, kept_first = select_below(50, weight[:cut], cut, seed, threshold)
    second, kept_second = select_below(50 + cut, weight[cut:], 200 - cut, seed, threshold)
    np.testing.assert_array_equal(rows, np.concatenate([first, second + cut]))
    np.testing.assert_array_equal(kept, np.concatenate([kept_first, kept_second]))
    assert rows.dtype == np.int64 and kept.dtype == np.uint64
    assert (weight[rows] > 0).all() and (kept <= np.uint64(threshold)).all()
    every = hashes(50, 200, seed)
    assert len(rows) == ((every <= np.uint64(threshold)) & (weight > 0)).sum()
