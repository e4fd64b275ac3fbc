"""The first pass: moments against numpy, and a sample that is the same whatever the chunks."""

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamem.models.summary import Summarize
from streamem.protocols import Rows
from tests.strategies import clusters, partitions, split

X, _ = clusters(n=300)
WEIGHT = np.random.default_rng(3).uniform(0, 2, 300) * (np.arange(300) % 4 > 0)


def summary(x, weight, runs, capacity=40):
    step = Summarize.plan(7, capacity, len(x))
    return functools.reduce(lambda a, b: a.merge(b), [step(rows) for rows in split(x, weight, runs)]).sorted()


@settings(max_examples=40)
@given(st.data())
def test_sample__is_the_same_rows_whatever_the_chunking(data):
    whole = summary(X, WEIGHT, [(0, 300)])
    parts = summary(X, WEIGHT, data.draw(partitions(300)))
    np.testing.assert_array_equal(parts.sample.index, whole.sample.index)
    np.testing.assert_array_equal(parts.sample.x, X[whole.sample.index])
    np.testing.assert_array_equal(parts.sample.weight, WEIGHT[whole.sample.index])


@settings(max_examples=40)
@given(st.data(), st.sampled_from([0.0, 1e8]))
def test_moments__are_those_of_the_rows(data, offset):
    x = X + offset
    got = summary(x, WEIGHT, data.draw(partitions(300)))
    present = WEIGHT > 0
    centred = x - offset
    np.testing.assert_allclose(
        got.mean - offset, np.average(centred, axis=0, weights=WEIGHT), atol=1e-6 if offset else 1e-12
    )
    cov = np.cov(centred.T, aweights=WEIGHT, bias=True)
    np.testing.assert_allclose(got.covariance, cov, rtol=1e-7 if offset else 1e-11)
    np.testing.assert_array_equal(got.minimum, x[present].min(axis=0))
    np.testing.assert_array_equal(got.maximum, x[present].max(axis=0))
    assert got.n_samples == present.sum()


def test_sample__holds_exactly_as_many_rows_as_asked():
    for capacity in (1, 40, 299, 300, 1000):
        assert len(summary(X, None, [(0, 150), (150, 300)], capacity).sample.index) == min(capacity, 300)


def test_sample__is_joined_where_its_parts_are_many_or_hold_too_much():
    """Copies of rows cost more than their moments; but nothing may grow with the number of blocks."""
    few, many = [(i, i + 10) for i in range(0, 300, 10)], [(i, i + 1) for i in range(300)]
    for runs, step, most in (
        (few, Summarize.plan(7, 40, 300), 50),
        (few, Summarize(7, 40), 50),
        (many, Summarize(7, 300), 375),
    ):
        total = None
        for rows in split(X, WEIGHT, runs):
            total = total.merge(step(rows)) if total else step(rows)
            assert len(total.samples) <= 64 and sum(len(part.index) for part in total.samples) <= most
        expected = summary(X, WEIGHT, [(0, 300)], step.capacity).sample
        np.testing.assert_array_equal(total.sorted().sample.index, expected.index)
        np.testing.assert_array_equal(total.sorted().sample.weight, expected.weight)


def test_sample__leaves_out_rows_of_weight_zero():
    got = summary(X, WEIGHT, [(0, 300)])
    assert np.all(WEIGHT[got.sample.index] > 0)


def test_sample__is_uniform():
    """Each tenth of the rows gets its share of the sample: 200 seeds, five standard errors."""
    counts = np.zeros(10)
    for seed in range(200):
        index = Summarize(seed, 30)(Rows(X, None, 0)).sample.index
        counts += np.bincount(index // 30, minlength=10)
    expected = 200 * 30 / 10
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


def test_threshold__is_seen_to_be_too_low():
    weight = np.zeros(100_000)
    weight[::10_000] = 1.0
    step = Summarize.plan(0, 10, len(weight))
    assert step.missed(step(Rows(np.zeros((100_000, 1)), weight, 0)))
    assert not Summarize(0, 10).missed(Summarize(0, 10)(Rows(np.zeros((100_000, 1)), weight, 0)))
