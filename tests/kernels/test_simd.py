import math

import numpy as np
import pytest

from streamem.kernels.compile import kernel
from streamem.kernels.simd import (
    STRIP_VECTORS,
    VECTOR_BYTES,
    add_sums,
    count_bits,
    element,
    exp,
    lane_sum,
    lanes_greater,
    load,
    load_strip,
    log,
    lowest_bit,
    multiply_add,
    rows_per_strip,
    store,
    store_float64,
    store_rows,
    where_greater,
    zero,
    zero_strip,
)


@kernel
def exps_and_logs(x, exps, logs):
    for v in range(len(x) * x.itemsize // VECTOR_BYTES):
        store(exps, v, exp(load(x, v)))
        store(logs, v, log(zero(x) - load(x, v)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_and_log__are_right_to_the_last_bits(dtype):
    smallest = 59.9 if dtype == np.float32 else 649.9
    x = -np.concatenate([np.linspace(1e-3, 2, 500), np.geomspace(2, smallest, 524)]).astype(dtype)
    exps, logs = np.empty_like(x), np.empty_like(x)
    exps_and_logs(x, exps, logs)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(exps, [math.exp(v) for v in x], rtol=3 * eps)
    np.testing.assert_allclose(logs, [math.log(-v) for v in x], rtol=3 * eps, atol=eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp__of_what_is_too_small_or_no_number_is_nothing(dtype):
    x = np.full(VECTOR_BYTES, -np.inf, dtype)
    x[:3] = (-60.1 if dtype == np.float32 else -650.1), np.nan, 0
    exps, logs = np.empty_like(x), np.empty_like(x)
    exps_and_logs(x, exps, logs)
    assert list(exps[:3]) == [0, 0, 1]
    assert not exps[3:].any()


@kernel
def spread(matrix, out):
    for i in range(matrix.size):
        store(out, i, zero(out) + element(matrix, i))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_element__counts_from_the_start_and_is_a_vector_among_vectors(dtype):
    matrix = np.arange(6, dtype=dtype).reshape(2, 3)
    lanes = VECTOR_BYTES // matrix.itemsize
    out = np.empty(matrix.size * lanes, dtype)
    spread(matrix, out)
    np.testing.assert_array_equal(out.reshape(-1, lanes), np.repeat(matrix.ravel()[:, None], lanes, axis=1))


@kernel
def one_less_than_twice(x, out):
    one, two = x.dtype.type(1), x.dtype.type(2)
    for s in range(len(x) * x.itemsize // VECTOR_BYTES // STRIP_VECTORS):
        store(out, s, multiply_add(two, load_strip(x, s), zero_strip(x) - one))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_strips__are_several_vectors(dtype):
    x = np.arange(4 * VECTOR_BYTES, dtype=dtype)
    out = np.empty_like(x)
    one_less_than_twice(x, out)
    np.testing.assert_array_equal(out, 2 * x - 1)


@kernel
def sums(x, out):
    add_sums(out, 1, (load_strip(x, 0), load_strip(x, 1), load_strip(x, 2), load_strip(x, 3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_add_sums__adds_those_of_lanes(dtype):
    x = np.arange(4 * STRIP_VECTORS * VECTOR_BYTES // np.dtype(dtype).itemsize, dtype=dtype)
    out = np.ones(12)
    sums(x, out)
    np.testing.assert_array_equal(out, [1.0] * 4 + [1 + row.sum() for row in x.reshape(4, -1)] + [1.0] * 4)


@kernel
def comparisons(a, b, chosen, lanes, total):
    n = 0
    while n < len(chosen):
        s = n // rows_per_strip(a)
        one, other = load_strip(a, s), load_strip(b, s)
        store(chosen, s, where_greater(one, other, one, a.dtype.type(-1)))
        greater = lanes_greater(one, other)
        total[0] += count_bits(greater)
        while greater != 0:
            lanes[n + lowest_bit(greater)] = True
            greater &= greater - np.uint64(1)
        n += rows_per_strip(a)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_comparisons__are_those_of_lanes_and_false_for_nan(dtype):
    a, b = np.random.default_rng(0).normal(size=(2, 4 * STRIP_VECTORS * VECTOR_BYTES)).astype(dtype)
    a[3], b[5], b[7] = np.nan, np.nan, a[7]
    chosen, lanes, total = np.empty_like(a), np.zeros(len(a), bool), np.zeros(1, int)
    comparisons(a, b, chosen, lanes, total)
    np.testing.assert_array_equal(lanes, a > b)
    np.testing.assert_array_equal(chosen, np.where(a > b, a, -1))
    assert total[0] == lanes.sum()


@kernel
def sums_of_lanes(x, out):
    for v in range(len(out)):
        out[v] = lane_sum(load(x, v))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lane_sum__is_the_sum_of_a_vector(dtype):
    x = np.arange(2 * VECTOR_BYTES, dtype=dtype)
    out = np.empty(len(x) * x.itemsize // VECTOR_BYTES, dtype)
    sums_of_lanes(x, out)
    np.testing.assert_array_equal(out, x.reshape(len(out), -1).sum(axis=1))


@kernel
def rows_of(x, first, stride, held, out):
    store_rows(x, first, stride, held, out, 1, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("held", [1, VECTOR_BYTES // 16, VECTOR_BYTES // 8, VECTOR_BYTES // 4])
def test_store_rows__transposes_as_far_as_there_are_features(dtype, held):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    held = min(held, lanes)
    x = np.arange(held * 40, dtype=dtype).reshape(held, 40)
    out = np.zeros((lanes, 2 * lanes), dtype)
    rows_of(x.ravel(), 3, 40, held, out)
    np.testing.assert_array_equal(out[:, lanes : lanes + held], x[:, 3 : 3 + lanes].T)
    assert not out[:, :lanes].any()


@kernel
def widen(x, out):
    for v in range(len(x) * x.itemsize // VECTOR_BYTES):
        store_float64(out, v, load(x, v))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_store_float64__keeps_every_lane(dtype):
    x = np.random.default_rng(0).normal(size=VECTOR_BYTES).astype(dtype)
    out = np.empty(len(x))
    widen(x, out)
    np.testing.assert_array_equal(out, x.astype(np.float64))
