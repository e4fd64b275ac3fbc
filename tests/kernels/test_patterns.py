"""Rows grouped by what they miss, against a dictionary of tuples."""

import numpy as np
import pytest

from streamem.kernels.patterns import patterns, take


@pytest.mark.parametrize("d", [1, 3, 64, 65, 200])
@pytest.mark.parametrize("n", [0, 1, 500])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_patterns__are_those_of_a_dictionary(n, d, dtype):
    rng = np.random.default_rng(d)
    ways = rng.random((7, d)) < 0.5
    x = np.where(ways[rng.integers(7, size=n)], np.nan, rng.normal(size=(n, d))).astype(dtype)
    expected = {}
    for i, row in enumerate(x):
        expected.setdefault(tuple(~np.isnan(row)), []).append(i)
    found = patterns(x)
    assert [tuple(row) for row in found.observed] == list(expected)
    assert [found.group(i).tolist() for i in range(len(expected))] == list(expected.values())
    assert found.starts[-1] == n


def test_patterns__may_all_differ():
    x = np.where(np.random.default_rng(0).random((4000, 90)) < 0.5, np.nan, 1.0)
    found = patterns(x)
    assert len(found.observed) == 4000
    np.testing.assert_array_equal(found.observed, ~np.isnan(x))


def test_take__is_fancy_indexing():
    x = np.arange(30.0).reshape(6, 5)
    rows, columns = np.array([4, 0, 2]), np.array([1, 3])
    np.testing.assert_array_equal(take(x, rows, columns), x[rows[:, None], columns])
