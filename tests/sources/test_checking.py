"""The check of every value."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamem.sources.checking import all_finite

N = 25_000


@given(st.integers(0, N - 1), st.sampled_from([np.nan, np.inf, -np.inf]), st.sampled_from(["f4", "f8"]))
def test_all_finite__finds_one_bad_value_anywhere(position: int, bad: float, dtype: str) -> None:
    values = np.ones(N, dtype)
    assert all_finite(values)
    values[position] = bad
    with np.errstate(all="ignore"):
        assert not all_finite(values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_finite__accepts_values_whose_sum_overflows(dtype: str) -> None:
    with np.errstate(all="ignore"):
        assert all_finite(np.full(N, np.finfo(dtype).max, dtype))


def test_all_finite__allocates_next_to_nothing() -> None:
    values = np.ones(2**21)
    tracemalloc.start()
    assert all_finite(values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000
