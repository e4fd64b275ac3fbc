"""Rows with missing values against loops over rows and components, in all shapes of covariance."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamem import em
from streamem.convergence import rounding
from streamem.models import missing
from streamem.models.covariance import COVARIANCES
from streamem.models.gaussian_mixture import GaussianMixtureModel, GaussianMixtureParams
from streamem.models.pairs import PairMoments
from streamem.models.summary import Summarize
from streamem.protocols import Pass, Rows
from tests import naive
from tests.conformance import ModelTests
from tests.models.test_gaussian_mixture import dense, informed, start
from tests.strategies import clusters, partitions, split

TYPES = tuple(COVARIANCES)


def gaps(x, share, seed=0):
    """The rows with this share of values missing at random, and one row of which nothing is observed."""
    out = x.copy()
    out[np.random.default_rng(seed).random(x.shape) < share] = np.nan
    out[len(x) // 2] = np.nan
    return out


def incomplete(x, weight=None, first=0):
    return Rows(x, weight, first, False)


def naive_statistics(params, x, weight=None):
    sums = naive.incomplete_statistics(
        params.covariance_type, x, weight, params.weights, params.means, dense(params)
    )
    columns = x.shape[1] if params.covariance_type.endswith("spherical") else 1
    return (*sums[:-1], sums[-1] / columns)


def assert_statistics(stats, expected, rtol=1e-10):
    log_likelihood, entropy, *sums = expected
    assert stats.log_likelihood == pytest.approx(log_likelihood, rel=rtol)
    assert stats.entropy == pytest.approx(entropy, rel=rtol, abs=rtol)
    for got, wanted in zip((stats.sum_w, stats.sum_wy, stats.sum_wyy), sums, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol * max(1.0, np.abs(wanted).max()))


@pytest.fixture(params=["by row", "by group"])
def path(request, monkeypatch):
    """Rows one after the other, or every pattern's rows together, however few."""
    if request.param == "by group":
        monkeypatch.setattr(missing, "LARGE_GROUP", 0)
    else:
        monkeypatch.setattr(missing, "LARGE_GROUP", 2**60)


class IncompleteLaws(ModelTests):
    """Those of every model, for rows with missing values."""

    covariance_type = "full"
    complete = False

    def make(self):
        return informed(GaussianMixtureModel(3, self.covariance_type), clusters()[0])

    def data(self):
        return gaps(clusters()[0], 0.2)

    def numbers(self, stats):
        scalars = np.array([stats.weight, stats.log_likelihood, stats.entropy, stats.n_left_out])
        return scalars, stats.sum_w, stats.sum_wy, stats.sum_wyy


class TestFull(IncompleteLaws):
    pass


class TestTied(IncompleteLaws):
    covariance_type = "tied"


class TestDiag(IncompleteLaws):
    covariance_type = "diag"


class TestSpherical(IncompleteLaws):
    covariance_type = "spherical"


class TestTiedDiag(IncompleteLaws):
    covariance_type = "tied_diag"


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_statistics__are_the_expectations_of_the_loops(covariance_type, share, d, path):
    model, params, x = start(covariance_type, d=d)
    x = gaps(x, share)
    stats = model.e_step(params, incomplete(x))
    assert_statistics(stats, naive_statistics(params, x))
    empty = np.isnan(x).all(axis=1)
    assert (stats.n_samples, stats.n_left_out) == (np.sum(~empty), empty.sum())
    assert stats.weight == np.sum(~empty)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics__count_weights(covariance_type, path):
    model, params, x = start(covariance_type)
    x = gaps(x, 0.3)
    weight = np.random.default_rng(1).uniform(0, 2, len(x)) * (np.arange(len(x)) % 5 > 0)
    stats = model.e_step(params, incomplete(x, weight))
    assert_statistics(stats, naive_statistics(params, x, weight))
    seen = ~np.isnan(x).all(axis=1)
    assert stats.weight == pytest.approx(weight[seen].sum(), rel=1e-14)
    assert stats.n_left_out == np.count_nonzero(weight[~seen])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics__of_float32_rows(covariance_type, path):
    """Single values are computed in float64; groups in the rows' own precision, as complete rows are."""
    model, params, x = start(covariance_type)
    x = gaps(x, 0.3).astype(np.float32)
    assert_statistics(model.e_step(params, incomplete(x)), naive_statistics(params, x), rtol=2e-6)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics__where_a_block_lacks_whole_columns(covariance_type, path):
    model, params, x = start(covariance_type, d=4)
    x = x.copy()
    x[:60, 1] = np.nan
    x[60:, [0, 2, 3]] = np.nan
    assert_statistics(model.e_step(params, incomplete(x)), naive_statistics(params, x))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics__lose_no_digits_to_offset_and_scale(covariance_type, path):
    """Rows 1e8 deviations from zero, in units from 1e-9 to 1e9, have the statistics of the standardised."""
    x = np.round(gaps(clusters(n=90)[0], 0.3), 6)
    rng = np.random.default_rng(0)
    model = GaussianMixtureModel(3, covariance_type, 0.0)
    near = model.init(incomplete(x), rng)
    spherical = covariance_type.endswith("spherical")
    scale = np.full(3, 2.0**20) if spherical else np.array([2.0**-30, 1.0, 2.0**30])
    offset = 2.0**27  # powers of two, so that the rows themselves lose what six decimals hold and no more
    moved = (x + offset) * scale
    rounded = moved / scale - offset
    matrix = np.outer(scale, scale)
    squares = scale[0] ** 2 if spherical else scale**2
    factor = matrix if covariance_type in ("full", "tied") else squares
    far = GaussianMixtureParams.from_covariances(
        covariance_type, near.weights, (near.means + offset) * scale, near.covariances * factor
    )
    back = GaussianMixtureParams.from_covariances(
        covariance_type, near.weights, far.means / scale - offset, near.covariances
    )
    got = model.e_step(far, incomplete(moved))
    expected = model.e_step(back, incomplete(rounded))
    assert got.entropy == pytest.approx(expected.entropy, rel=1e-9)
    np.testing.assert_allclose(got.sum_wy, expected.sum_wy, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(got.sum_wyy, expected.sum_wyy, rtol=1e-9, atol=1e-8)


def test_statistics__where_columns_are_nearly_copies(path):
    """Correlations of 1 − 1e-12: observed values whiten by their own marginal, never by the whole inverse."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 3))
    x = np.stack([z[:, 0], z[:, 0] + 1e-6 * z[:, 1], z[:, 2]], axis=1)
    params = GaussianMixtureParams.from_covariances("full", np.ones(1), np.zeros((1, 3)), np.eye(3)[None])
    low = np.array([[1.0, 0, 0], [1.0, 1e-6, 0], [0, 0, 1.0]])
    params = GaussianMixtureParams("full", np.ones(1), np.zeros((1, 3)), low[None], np.linalg.inv(low)[None])
    x[:20, 0] = np.nan
    x[20:40, 1] = np.nan
    stats = GaussianMixtureModel(1).e_step(params, incomplete(x))
    y = z.copy()
    y[:20, 0], y[:20, 1] = x[:20, 1] / (1 + 1e-12), x[:20, 1] * 1e-6 / (1 + 1e-12)
    y[20:40, 1] = 0.0
    np.testing.assert_allclose(stats.sum_wy[0], y.sum(axis=0), atol=1e-8)
    density = -0.5 * (x[~np.isnan(x[:, 0]), 0] ** 2).sum() - 0.5 * (z[:, 2] ** 2).sum()
    density -= 0.5 * (x[:20, 1] ** 2 / (1 + 1e-12)).sum() + 0.5 * (z[40:, 1] ** 2).sum() + 20 * np.log(1e-6)
    density -= 0.5 * np.log(2 * np.pi) * (~np.isnan(x)).sum()
    assert stats.log_likelihood == pytest.approx(density, rel=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_e_step__of_complete_rows_is_the_same_to_the_bit(covariance_type):
    model, params, x = start(covariance_type)
    whole, flagged = model.e_step(params, Rows(x, None, 0)), model.e_step(params, incomplete(x))
    assert flagged.log_likelihood == whole.log_likelihood
    for name in ("sum_w", "sum_wy", "sum_wyy"):
        np.testing.assert_array_equal(getattr(flagged, name), getattr(whole, name))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_em__ascends(covariance_type, share):
    x = gaps(clusters(n=200)[0], share)
    model = GaussianMixtureModel(3, covariance_type, 0.0)
    params = model.init(incomplete(x), np.random.default_rng(0))
    result = em.iterate(
        model, lambda ps: Pass([model.e_step(p, incomplete(x)) for p in ps]), params, tol=0.0, max_iter=40
    )
    rises = np.diff([record.objective for record in result.history])
    assert np.all(rises >= -rounding(result.history[-1].objective))
    assert rises[0] > 0
    last = result.history[-1].log_likelihood
    joint = naive.incomplete_log_joint(x, *_oracle(result.params))
    assert last <= naive.log_sum_exp(joint)[~np.isnan(x).all(axis=1)].mean() + 1e-9


def _oracle(params):
    return params.weights, params.means, dense(params)


def test_m_step__of_one_gaussian_solves_the_known_problem():
    """A monotone pattern has a closed form: regression of the gappy column on the other (Anderson 1957)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]]) + [3.0, -1.0]
    x[250:, 1] = np.nan
    model = GaussianMixtureModel(1, "full", 0.0)
    params = model.init(incomplete(x), rng)
    for _ in range(300):
        params = model.m_step(params, model.e_step(params, incomplete(x)))
    both = x[:250]
    slope = np.cov(both.T, bias=True)[0, 1] / both[:, 0].var()
    mean = x[:, 0].mean()
    assert params.means[0, 0] == pytest.approx(mean, abs=1e-12)
    assert params.means[0, 1] == pytest.approx(
        both[:, 1].mean() + slope * (mean - both[:, 0].mean()), abs=1e-10
    )
    assert params.covariances[0, 0, 1] == pytest.approx(slope * x[:, 0].var(), abs=1e-10)


def test_impossible_row__has_likelihood_zero_and_adds_to_no_sum(path):
    model, params, x = start("full")
    far = x[:3].copy()
    far[0] = [1e200, np.nan, 0.0]
    stats = model.e_step(params, incomplete(far))
    assert stats.log_likelihood == -np.inf
    assert stats.sum_w.sum() == pytest.approx(2.0)
    assert np.all(np.isfinite(stats.sum_wyy))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_dead_component__stays_dead(covariance_type, path):
    model, params, x = start(covariance_type)
    params = GaussianMixtureParams.from_covariances(
        covariance_type, np.array([0.5, 0.5, 0.0]), params.means, params.covariances
    )
    stats = model.e_step(params, incomplete(gaps(x, 0.3)))
    assert stats.sum_w[2] == 0
    assert np.isfinite(stats.log_likelihood)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_row_results__are_those_of_the_loops_whatever_rows_come_with_them(covariance_type):
    model, params, x = start(covariance_type)
    x = gaps(x, 0.3)
    joint = naive.incomplete_log_joint(x, *_oracle(params))
    total = naive.log_sum_exp(joint)
    results = {
        model.labels: joint.argmax(axis=1),
        model.responsibilities: np.exp(joint - total[:, None]),
        model.score_samples: total,
        functools.partial(_imputed, model): naive.imputed(x, *_oracle(params)),
    }
    for method, expected in results.items():
        got = method(params, incomplete(x))
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-11)
        parts = [method(params, incomplete(part)) for part in (x[:1], x[1:50], x[50:])]
        np.testing.assert_array_equal(np.concatenate(parts), got)


def _imputed(model, params, rows):
    return model.impute(params, None, rows)


def test_impute__leaves_what_is_observed_and_the_rows_themselves():
    model, params, x = start("full")
    x = gaps(x, 0.3).astype(np.float32)
    before = x.copy()
    filled = model.impute(params, None, incomplete(x))
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])
    np.testing.assert_array_equal(x, before)
    assert np.isfinite(filled).all()


SEEDS = np.arange(4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_draws__depend_on_the_row_number_alone(covariance_type):
    model, params, x = start(covariance_type)
    x = gaps(x, 0.3)
    whole = model.impute(params, SEEDS, incomplete(x))
    parts = [
        model.impute(params, SEEDS, incomplete(x[a:b], first=a)) for a, b in ((0, 7), (7, 60), (60, 120))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(model.impute(params, SEEDS[::-1].copy(), incomplete(x)), whole)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_draws__have_the_conditional_distribution(covariance_type):
    """Many copies of one row: mean and covariance of the draws, within five standard errors."""
    model, params, x = start(covariance_type)
    row = x[0].copy()
    row[:2] = np.nan
    n = 20_000
    drawn = model.impute(params, SEEDS, incomplete(np.tile(row, (n, 1))))[:, :2]
    resp = model.responsibilities(params, incomplete(row[None]))[0]
    parts = [naive.conditional(row, m, c) for m, c in zip(params.means, dense(params), strict=True)]
    mean = sum(r * expected for r, (_, expected, _) in zip(resp, parts, strict=True))
    second = sum(
        r * (spread + np.outer(expected, expected))
        for r, (_, expected, spread) in zip(resp, parts, strict=True)
    )
    covariance = (second - np.outer(mean, mean))[:2, :2]
    deviation = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(drawn.mean(axis=0) - mean[:2]) < 5 * deviation / np.sqrt(n))
    assert np.all(np.abs(np.cov(drawn.T) - covariance) < 5 * np.sqrt(3 / n) * np.outer(deviation, deviation))


def test_cache__holds_no_more_than_it_may(monkeypatch):
    model, params, x = start("full", d=5)
    monkeypatch.setattr(missing, "LARGE_GROUP", 0)
    monkeypatch.setattr(missing, "_cache", missing._Cache())
    model.e_step(params, incomplete(gaps(x, 0.5)))
    everything = len(missing._cache.of[params])
    monkeypatch.setattr(missing, "CACHE_BYTES", 5000)
    monkeypatch.setattr(missing, "_cache", missing._Cache())
    stats = model.e_step(params, incomplete(gaps(x, 0.5)))
    kept = missing._cache.of[params].values()
    assert 0 < len(kept) < everything
    assert sum(marginal.n_bytes for marginal in kept) <= 5000
    assert_statistics(stats, naive_statistics(params, gaps(x, 0.5)))


def test_cache__forgets_with_the_parameters(monkeypatch):
    monkeypatch.setattr(missing, "LARGE_GROUP", 0)
    monkeypatch.setattr(missing, "_cache", missing._Cache())
    model, params, x = start("full")
    model.e_step(params, incomplete(gaps(x, 0.3)))
    assert len(missing._cache.of) == 1
    del params
    assert len(missing._cache.of) == 0


@settings(max_examples=30)
@given(st.data(), st.sampled_from([0.0, 1e8]))
def test_first_pass__moments_are_those_of_what_is_observed(data, offset):
    x = gaps(clusters(n=150)[0], 0.3) + offset
    weight = np.random.default_rng(3).uniform(0, 2, 150) * (np.arange(150) % 4 > 0)
    blocks = [
        Rows(part.x, part.weight, part.start, not np.isnan(part.x).any())
        for part in split(x, weight, data.draw(partitions(150)))
    ]
    got = functools.reduce(lambda a, b: a.merge(b), [Summarize(7, 40)(rows) for rows in blocks])
    present = weight > 0
    empty = np.isnan(x).all(axis=1)
    for j in range(3):
        seen = present & ~np.isnan(x[:, j])
        column, w = x[seen, j] - offset, weight[seen]
        mean = np.average(column, weights=w)
        assert got.mean[j] - offset == pytest.approx(mean, abs=1e-6 if offset else 1e-12)
        assert got.covariance[j, j] == pytest.approx(
            np.average((column - mean) ** 2, weights=w), rel=1e-7 if offset else 1e-11
        )
        assert (got.minimum[j], got.maximum[j]) == (x[seen, j].min(), x[seen, j].max())
    assert np.linalg.eigvalsh(got.covariance)[0] > 0
    assert got.n_samples == np.sum(present & ~empty)
    assert got.n_left_out == np.sum(present & empty)
    whole = Summarize(7, 40)(incomplete(x, weight))
    np.testing.assert_allclose(got.covariance, whole.covariance, rtol=1e-7 if offset else 1e-11)
    np.testing.assert_array_equal(got.sorted().sample.index, whole.sorted().sample.index)


def test_pair_moments__are_the_covariance_where_nothing_is_missing():
    x, _ = clusters(n=50)
    np.testing.assert_allclose(PairMoments.of(x, None).covariance, np.cov(x.T, bias=True), rtol=1e-12)


def test_pair_moments__are_positive_semi_definite_where_no_two_columns_are_seen_together():
    x = np.full((30, 3), np.nan)
    for j in range(3):
        x[10 * j : 10 * j + 10, j] = np.arange(10) * (j + 1.0)
    covariance = PairMoments.of(x, None).covariance
    np.testing.assert_allclose(covariance, np.diag(np.var(np.arange(10)) * np.arange(1, 4.0) ** 2))


def test_filled_with_means__fills_means():
    x = np.array([[1.0, np.nan, np.nan], [np.nan, 4.0, np.nan], [3.0, 8.0, np.nan]])
    filled = missing.filled_with_means(Rows(x, np.array([1.0, 1.0, 3.0]), 0, False))
    np.testing.assert_allclose(filled.x, [[1.0, 7.0, 0.0], [2.5, 4.0, 0.0], [3.0, 8.0, 0.0]])
    assert filled.complete
