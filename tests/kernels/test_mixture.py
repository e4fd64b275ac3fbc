from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamem.kernels import mixture
from tests import naive
from tests.kernels.problems import COVARIANCE_TYPES, assert_sums_close, problem

every_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
TILE = 128


def naive_statistics(p, x=None, weight=None, resp=None):
    return naive.statistics(p.covariance_type, p.x if x is None else x, weight, *p.oracle, resp=resp)


OUT_OF_RANGE = [(np.float64, 1e200), (np.float64, 1.7e308), (np.float32, 1e25), (np.float32, 1e39)]
"""Dtypes of tiles and values that are lost there by the time that they are squared, or at once."""


@every_type
@settings(max_examples=25)
@given(
    n=st.integers(0, 40),
    d=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 32, 33]),
    k=st.integers(1, 20),
    seed=st.integers(0, 1000),
    weighted=st.booleans(),
    resp_given=st.booleans(),
)
def test_statistics__are_the_formulas(covariance_type, n, d, k, seed, weighted, resp_given):
    p = problem(covariance_type, n, d, k, seed)
    rng = np.random.default_rng(seed)
    weight = rng.integers(0, 3, size=n) * rng.random(n) if weighted else None
    resp = rng.dirichlet(np.full(k, 0.3), size=n) if resp_given else None
    assert_sums_close(
        mixture.statistics(p.x, weight, p.family, resp), naive_statistics(p, weight=weight, resp=resp), n
    )


@every_type
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, TILE - 1, TILE, TILE + 1, 2 * TILE, 3 * TILE + 5])
def test_statistics__hold_at_the_edges_of_tiles(covariance_type, n):
    p = problem(covariance_type, n, 3, 4, seed=n)
    assert_sums_close(mixture.statistics(p.x, None, p.family), naive_statistics(p), n)


@every_type
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("precision, rtol", [(None, 1e-9), (np.float64, 1e-9), (np.float32, 3e-5)])
def test_statistics__keep_their_precision(covariance_type, dtype, precision, rtol):
    p = problem(covariance_type, 700, 6, 5, offset=100.0 if dtype == np.float32 else 1e3, dtype=dtype)
    actual = mixture.statistics(p.x, None, p.family, precision=precision)
    assert all(np.asarray(value).dtype == np.float64 for value in actual)
    assert_sums_close(actual, naive_statistics(p), len(p.x), rtol)


@pytest.mark.parametrize("separation", [0.0, 1.0, 4.0, 10.0, 1000.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_statistics__of_separated_components_are_exact_to_rounding(separation, weighted):
    p = problem("full", 1500, 18, 12, separation=separation)
    weight = np.random.default_rng(0).integers(0, 4, size=1500) * 1.0 if weighted else None
    assert_sums_close(mixture.statistics(p.x, weight, p.family), naive_statistics(p, weight=weight), 1500)


def test_statistics__of_a_component_far_from_all_rows_are_not_lost():
    p = problem("full", 600, 16, 5, separation=5.0)
    p.family.means[2] += 9.0
    means = p.family.means + p.family.center
    expected = naive.statistics("full", p.x, None, p.weights, means, p.choleskys)
    actual = mixture.statistics(p.x, None, p.family)
    assert 0 < expected[2][2] < 1e-30
    np.testing.assert_allclose(actual.sum_w, expected[2], rtol=1e-6)
    np.testing.assert_allclose(actual.sum_wyy[2], expected[4][2], rtol=1e-6, atol=1e-6 * expected[4][2].max())


@pytest.mark.parametrize("k, d", [(1, 1), (1, 300), (150, 2), (300, 12), (40, 70)])
@every_type
def test_statistics__hold_for_unusual_shapes(covariance_type, k, d):
    p = problem(covariance_type, 5 if d == 300 else 40, d, k)
    assert_sums_close(mixture.statistics(p.x, None, p.family), naive_statistics(p), len(p.x))


def test_statistics__hold_where_whitened_rows_of_all_components_do_not_fit(monkeypatch):
    monkeypatch.setattr("streamem.kernels.full.KEPT_BYTES", 0)
    for separation in (1.0, 10.0):
        p = problem("full", 700, 16, 6, separation=separation)
        assert_sums_close(mixture.statistics(p.x, None, p.family), naive_statistics(p), 700)


@every_type
@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 400), max_size=4), seed=st.integers(0, 100))
def test_statistics__are_additive_over_blocks(covariance_type, cuts, seed):
    p = problem(covariance_type, 400, 4, 3, seed)
    edges = [0, *sorted(cuts), 400]
    parts = [mixture.statistics(p.x[a:b], None, p.family) for a, b in pairwise(edges)]
    total = [sum(values) for values in zip(*parts, strict=True)]
    assert_sums_close(mixture.statistics(p.x, None, p.family), total, 400, rtol=1e-12)


@every_type
@pytest.mark.parametrize("laid_out", [np.asfortranarray, lambda x: np.repeat(x, 2, axis=0)[::2]])
def test_rows_in_another_order_in_memory__are_the_same_rows(covariance_type, laid_out):
    p = problem(covariance_type, 300, 5, 4)
    x = laid_out(p.x)
    for of in (lambda x: mixture.statistics(x, None, p.family), lambda x: [mixture.labels(x, p.family)]):
        for a, e in zip(of(x), of(p.x), strict=True):
            np.testing.assert_array_equal(a, e)


@every_type
def test_statistics__of_a_row_of_weight_zero_are_those_without_it(covariance_type):
    p = problem(covariance_type, 300, 5, 4)
    x, keep = p.x.copy(), np.arange(300) % 3 > 0
    x[~keep] = 1e200
    actual = mixture.statistics(x, keep * 2.0, p.family)
    expected = mixture.statistics(x[keep], np.full(keep.sum(), 2.0), p.family)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e)


@every_type
def test_statistics__of_an_integer_weight_are_those_of_repeated_rows(covariance_type):
    p = problem(covariance_type, 200, 5, 4)
    times = np.arange(200) % 4
    repeated = mixture.statistics(np.repeat(p.x, times, axis=0), None, p.family)
    assert_sums_close(
        mixture.statistics(p.x, times.astype(float), p.family), repeated, times.sum(), rtol=1e-12
    )


@every_type
def test_statistics__give_a_dead_component_nothing(covariance_type):
    p = problem(covariance_type, 200, 5, 4, dead=[1])
    actual = mixture.statistics(p.x, None, p.family)
    assert actual.sum_w[1] == 0.0
    assert_sums_close(actual, naive_statistics(p), 200)


@every_type
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics__do_not_feel_an_offset(covariance_type, dtype):
    """Rows are multiples of a power of two, so that adding 1e8 deviations to them loses no digit."""
    p = problem(covariance_type, 300, 4, 3)
    x = np.round(p.x * 2**10) / 2**10
    shift = 2.0**27
    away = p.family._replace(center=p.family.center + shift)
    exact = p.family._replace(center=away.center - shift)
    near = mixture.statistics(x, None, exact, precision=dtype)
    assert_sums_close(mixture.statistics(x + shift, None, away, precision=dtype), near, 300, rtol=1e-12)


@every_type
@pytest.mark.parametrize("precision, far", OUT_OF_RANGE)
def test_statistics__of_a_row_out_of_range_are_infinite_in_the_likelihood_alone(
    covariance_type, precision, far
):
    p = problem(covariance_type, 200, 4, 3)
    x = p.x.copy()
    x[7] = far * np.array([1, -1, 1, -1])
    actual = mixture.statistics(x, None, p.family, precision=precision)
    without = mixture.statistics(np.delete(x, 7, axis=0), None, p.family, precision=precision)
    assert actual.log_likelihood == -np.inf
    assert_sums_close((0.0, *actual[1:]), (0.0, *without[1:]), 200, rtol=1e-5)
    assert mixture.score_samples(x, p.family, precision)[7] == -np.inf
    assert (mixture.responsibilities(x, p.family, precision)[7] == 0).all()


@every_type
@pytest.mark.parametrize("precision, far", OUT_OF_RANGE)
def test_statistics__of_a_row_out_of_range_are_those_of_noise(covariance_type, precision, far):
    p = problem(covariance_type, 200, 4, 3)
    x = p.x.copy()
    x[7] = far * np.array([1, -1, 1, -1])
    actual = mixture.statistics(x, None, p.family, precision=precision, log_noise=-50.0)
    without = mixture.statistics(
        np.delete(x, 7, axis=0), None, p.family, precision=precision, log_noise=-50.0
    )
    moved = without._replace(log_likelihood=without.log_likelihood - 50.0, sum_noise=without.sum_noise + 1.0)
    assert_sums_close(actual, moved, 200, rtol=1e-5)


@every_type
def test_statistics__with_every_component_dead_are_zero(covariance_type):
    p = problem(covariance_type, 20, 4, 3, dead=[0, 1, 2])
    actual = mixture.statistics(p.x, None, p.family)
    assert actual.log_likelihood == -np.inf and actual.entropy == 0.0
    assert all(np.all(value == 0) for value in actual[2:])


@every_type
def test_statistics__accept_hard_and_unnormalised_responsibilities(covariance_type):
    p = problem(covariance_type, 150, 4, 3)
    rng = np.random.default_rng(0)
    resp = np.eye(3)[rng.integers(3, size=150)]
    resp[::5] *= 0.25
    resp[1::7] = 0.0
    assert_sums_close(mixture.statistics(p.x, None, p.family, resp), naive_statistics(p, resp=resp), 150)


@every_type
@pytest.mark.parametrize("n", [0, 1, TILE, TILE + 1, 500])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rowwise_results__are_the_formulas(covariance_type, n, dtype):
    p = problem(covariance_type, n, 5, 4, dtype=dtype)
    joint = naive.log_joint(p.x, *p.oracle)
    np.testing.assert_allclose(
        mixture.score_samples(p.x, p.family), naive.score_samples(p.x, *p.oracle), rtol=1e-10
    )
    np.testing.assert_allclose(
        mixture.responsibilities(p.x, p.family),
        naive.responsibilities(p.x, *p.oracle),
        rtol=1e-9,
        atol=1e-300,
    )
    labels = mixture.labels(p.x, p.family)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, joint.argmax(axis=1))


@every_type
def test_rowwise_results__in_float32_are_near(covariance_type):
    p = problem(covariance_type, 300, 5, 4)
    near = {"rtol": 1e-4, "atol": 1e-5}
    score = mixture.score_samples(p.x, p.family, np.float32)
    np.testing.assert_allclose(score, naive.score_samples(p.x, *p.oracle), **near)
    resp = mixture.responsibilities(p.x, p.family, np.float32)
    np.testing.assert_allclose(resp, naive.responsibilities(p.x, *p.oracle), **near)
    assert (mixture.labels(p.x, p.family, np.float32) == resp.argmax(axis=1)).all()


@pytest.mark.parametrize("separation", [0.0, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_rowwise_results__of_separated_components_are_the_formulas(separation, precision):
    p = problem("full", 1500, 18, 12, separation=separation, dead=[3])
    joint = naive.log_joint(p.x, *p.oracle)
    labels = mixture.labels(p.x, p.family, precision)
    rtol = 1e-4 if precision == np.float32 else 1e-12
    np.testing.assert_allclose(joint[np.arange(1500), labels], joint.max(axis=1), rtol=rtol)
    score = mixture.score_samples(p.x, p.family, precision)
    np.testing.assert_allclose(score, naive.score_samples(p.x, *p.oracle), rtol=rtol)
    resp = mixture.responsibilities(p.x, p.family, precision)
    nothing = 1e-26 if precision == np.float32 else 1e-282
    np.testing.assert_allclose(resp, naive.responsibilities(p.x, *p.oracle), rtol=30 * rtol, atol=nothing)


@pytest.mark.parametrize("separation, left_out", [(0.1, False), (30.0, True)])
def test_labels__leave_out_what_is_out_of_reach(separation, left_out):
    p = problem("full", TILE, 18, 12, separation=separation)
    tile, components = mixture._prepare(p.family, TILE, None, None, mixture.UNLIKELIER)
    densities, no_label = np.empty(TILE), np.empty(0, np.int64)
    mixture._by_row(mixture.unwritable(p.x), tile, components, -np.inf, densities, no_label)
    assert components.singly[0] == left_out


def test_rowwise_results__of_a_tie_are_the_first():
    p = problem("full", 50, 18, 6)
    for part in (p.family.means, p.family.whitening, p.family.log_const):
        part[4] = part[1]
    labels = mixture.labels(p.x, p.family)
    assert 1 in labels and 4 not in labels
