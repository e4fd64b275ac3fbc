import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamem.kernels import memory, mixture
from tests.kernels.problems import COVARIANCE_TYPES, problem


class Memory(NamedTuple):
    values: np.ndarray
    flag: bool


@memory.kept_by_thread
def allocate(size, number=0):
    return Memory(np.zeros(size, np.uint8), True)


def in_a_new_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def everything(p, weight, precision):
    return (
        *mixture.statistics(p.x, weight, p.family, precision=precision),
        mixture.score_samples(p.x, p.family, precision),
        mixture.responsibilities(p.x, p.family, precision),
        mixture.labels(p.x, p.family, precision),
    )


def test_memory__is_that_of_the_last_call_alike():
    first = allocate(100)
    assert allocate(100) is first
    assert allocate(101) is not first
    assert allocate(100, number=1) is not first


def test_memory__belongs_to_one_thread():
    assert in_a_new_thread(lambda: allocate(100)) is not allocate(100)


def test_memory__beyond_the_limit_is_the_least_recently_used(monkeypatch):
    monkeypatch.setattr(memory, "THREAD_BYTES", 1000)

    def kept():
        first, second = allocate(400), allocate(500)
        assert allocate(400) is first
        third = allocate(600)
        return [allocate(600) is third, allocate(400) is first, allocate(500) is second, allocate(1001)]

    *same, large = in_a_new_thread(kept)
    assert same == [True, True, False]
    assert in_a_new_thread(lambda: allocate(1001) is allocate(1001)) is False
    assert len(large.values) == 1001


def test_memory__is_freed_with_its_thread():
    freed = threading.Event()

    class Told(np.ndarray):
        def __del__(self):
            freed.set()

    make = memory.kept_by_thread(lambda: Memory(np.zeros(3).view(Told), True))
    in_a_new_thread(lambda: make() is make())
    assert freed.wait(10)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@settings(max_examples=25)
@given(
    n=st.integers(0, 300),
    d=st.sampled_from([1, 3, 4, 9, 17]),
    k=st.integers(1, 9),
    separation=st.sampled_from([0.5, 10.0]),
    weighted=st.booleans(),
    precision=st.sampled_from([np.float32, np.float64]),
    bad=st.sampled_from([1.0, 1e200, np.inf, np.nan]),
    seed=st.integers(0, 1000),
)
def test_results__do_not_depend_on_what_earlier_calls_left(
    covariance_type, n, d, k, separation, weighted, precision, bad, seed
):
    p = problem(covariance_type, n, d, k, seed, separation=separation)
    weight = np.random.default_rng(seed).integers(0, 3, size=n) * 1.0 if weighted else None
    fresh = in_a_new_thread(lambda: everything(p, weight, precision))
    before = problem(covariance_type, 300, d, k, seed + 1)
    for spoiled in (before.x * bad, before.x[:20]):
        mixture.statistics(spoiled, None, before.family, precision=precision)
        mixture.statistics(
            spoiled, None, before.family, np.full((len(spoiled), k), 1 / k), precision=precision
        )
    for actual, expected in zip(everything(p, weight, precision), fresh, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_sums__of_a_call_outlive_the_next():
    p = problem("full", 200, 5, 3)
    sums = mixture.statistics(p.x, None, p.family)
    kept = [np.array(part) for part in sums]
    mixture.statistics(2 * p.x, None, p.family)
    for part, copy in zip(sums, kept, strict=True):
        np.testing.assert_array_equal(part, copy)
