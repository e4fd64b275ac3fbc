"""Rows whose component is known, against loops in which every other component is impossible for them."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamem import em
from streamem.convergence import rounding
from streamem.errors import InputError
from streamem.models.bayesian_mixture import BayesianGaussianMixtureModel
from streamem.models.covariance import COVARIANCES
from streamem.models.gaussian_mixture import GaussianMixtureModel
from streamem.models.labelled import ClassMeans
from streamem.models.summary import Summarize
from streamem.protocols import Pass, Rows
from tests import naive
from tests.models.test_gaussian_mixture import dense, naive_m_step, start
from tests.models.test_missing import assert_statistics, gaps
from tests.strategies import clusters, partitions

TYPES = tuple(COVARIANCES)
N = 120
Y = np.where(np.arange(N) % 4 == 0, np.random.default_rng(8).integers(3, size=N), -1)
WEIGHT = np.random.default_rng(9).uniform(0, 2, N) * (np.arange(N) % 7 > 0)


def rows_of(x, y=Y, weight=None, start=0):
    return Rows(x, weight, start, complete=not np.isnan(x).any(), label=y)


def naive_statistics(params, x, y, weight=None):
    function = naive.incomplete_statistics if np.isnan(x).any() else naive.statistics
    sums = function(params.covariance_type, x, weight, params.weights, params.means, dense(params), labels=y)
    columns = x.shape[1] if params.covariance_type.endswith("spherical") else 1
    return (*sums[:-1], sums[-1] / columns)


def numbers(stats):
    scalars = np.array([stats.weight, stats.log_likelihood, stats.entropy, stats.weight_squares])
    return scalars, stats.sum_w, stats.sum_wy, stats.sum_wyy


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_statistics__are_those_of_rows_that_no_other_component_explains(covariance_type, weight, missing):
    _, params, x = start(covariance_type)
    x = gaps(x, missing) if missing else x
    stats = GaussianMixtureModel(3, covariance_type).e_step(params, rows_of(x, weight=weight))
    assert_statistics(stats, naive_statistics(params, x, Y, weight))
    present = ~np.isnan(x).all(axis=1)
    w = np.ones(N) if weight is None else weight
    assert stats.n_samples == np.count_nonzero(w[present])
    assert stats.n_left_out == np.count_nonzero(w[~present])
    assert stats.weight == pytest.approx(w[present].sum())
    assert stats.weight_squares == pytest.approx((w[present] ** 2).sum())


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics__have_their_digits_far_from_zero(covariance_type):
    """A component alone is centred about its own mean."""
    model, params, x = start(covariance_type, n=N)
    far = model.from_responsibilities(
        Rows(x + 1e8, None, 0), naive.responsibilities(x, params.weights, params.means, dense(params))
    )
    near = model.from_responsibilities(
        Rows((x + 1e8) - 1e8, None, 0), naive.responsibilities(x, params.weights, params.means, dense(params))
    )
    stats, expected = (
        model.e_step(p, rows_of(rows)) for p, rows in ((far, x + 1e8), (near, (x + 1e8) - 1e8))
    )
    for got, wanted in zip(numbers(stats), numbers(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("missing", [0.0, 0.2])
@settings(max_examples=10)
@given(data=st.data())
def test_statistics__of_blocks_merge_to_those_of_the_whole(covariance_type, missing, data):
    model, params, x = start(covariance_type)
    x = gaps(x, missing) if missing else x
    runs = data.draw(partitions(N))
    parts = [model.e_step(params, rows_of(x[a:b], Y[a:b], WEIGHT[a:b], a)) for a, b in runs]
    merged = functools.reduce(lambda a, b: a.merge(b), parts)
    whole = model.e_step(params, rows_of(x, weight=WEIGHT))
    assert merged.n_samples == whole.n_samples
    for got, wanted in zip(numbers(merged), numbers(whole), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_unknown_labels__change_no_bit(covariance_type):
    model, params, x = start(covariance_type)
    without = model.e_step(params, Rows(x, WEIGHT, 0))
    unknown = model.e_step(params, rows_of(x, np.full(N, -1), WEIGHT))
    for got, wanted in zip(numbers(unknown), numbers(without), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_m_step__with_all_labels_is_maximum_likelihood_by_class(covariance_type):
    """Whatever the parameters were: supervised Gaussian discriminant analysis."""
    model, params, x = start(covariance_type)
    y = np.arange(N) % 3
    new = model.m_step(params, model.e_step(params, rows_of(x, y)))
    weights, means, covariances = naive_m_step(covariance_type, x, np.eye(3)[y])
    np.testing.assert_allclose(new.weights, weights, rtol=1e-12)
    np.testing.assert_allclose(new.means, means, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(new.covariances, covariances, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_objective__never_falls(covariance_type, missing):
    _, params, x = start(covariance_type)
    x = gaps(x, missing) if missing else x
    rows = rows_of(x, weight=WEIGHT)
    model = GaussianMixtureModel(3, covariance_type).informed_by(Summarize(0, 1, n_components=3)(rows))
    result = em.iterate(
        model, lambda every: Pass([model.e_step(p, rows) for p in every]), params, tol=0.0, max_iter=60
    )
    rises = np.diff([record.objective for record in result.history])
    assert len(rises) >= 2
    assert np.all(rises >= -rounding(result.history[-1].objective))


@pytest.mark.parametrize("process", ["dirichlet_process", "dirichlet_distribution"])
def test_bayesian_bound__is_that_of_responsibilities_known_beforehand(process):
    """Term by term, with q(z) held at the label where there is one."""
    x, _ = clusters(n=60, d=2)
    y = np.where(np.arange(60) % 3 == 0, np.arange(60) % 2, -1)
    rows = rows_of(x, y)
    settings = {"weight_concentration_prior_type": process}
    model = BayesianGaussianMixtureModel(2, **settings, reg_covar=0.0)
    model = model.informed_by(Summarize(0, 1, n_components=2)(rows))
    params = model.init(rows, np.random.default_rng(0))
    stats = model.e_step(params, rows)
    resp = model.responsibilities(params, rows)
    resp[y >= 0] = np.eye(2)[y[y >= 0]]
    prior = {
        "process": process == "dirichlet_process",
        "concentration": model.concentration,
        "precision": model.prior.precision,
        "mean": model.prior.mean,
        "degrees": model.prior.degrees,
        "scale": model.prior.scale @ model.prior.scale.T,
    }
    q = {
        "concentration": params.weight_concentration,
        "precision": params.mean_precision,
        "means": params.means,
        "degrees": params.degrees_of_freedom,
        "scales": [
            np.linalg.inv(nu * c) for nu, c in zip(params.degrees_of_freedom, params.covariances, strict=True)
        ],
    }
    assert stats.log_likelihood + model.log_prior(params, stats) == pytest.approx(
        naive.bayesian_elbo(x, resp, prior, q), rel=1e-9
    )


def test_label__that_is_no_component_is_named_with_its_row():
    model, params, x = start("full")
    with pytest.raises(InputError, match=r"y: row 1,005 has label 3, but n_components=3, .*0 to 2\. Raise"):
        model.e_step(params, rows_of(x, np.where(np.arange(N) == 5, 3, -1), start=1000))
    kept = rows_of(x, np.where(np.arange(N) == 5, 3, -1)).some(np.arange(4, 9))
    with pytest.raises(InputError, match="row 5 has"):
        Summarize(0, 1, n_components=3)(kept)


@settings(max_examples=20)
@given(data=st.data(), missing=st.sampled_from([0.0, 0.3]))
def test_class_means__are_those_of_the_rows_of_each_label(data, missing):
    x, _ = clusters(n=N)
    x = gaps(x, missing) if missing else x
    step = Summarize(0, 10, n_components=4)
    parts = [step(rows_of(x[a:b], Y[a:b], WEIGHT[a:b], a)) for a, b in data.draw(partitions(N))]
    summary = functools.reduce(lambda a, b: a.merge(b), parts)
    centers = summary.classes.centers(summary.mean)
    assert np.isnan(centers[3]).all()  # no row has this label
    for c in range(3):
        for j in range(x.shape[1]):
            seen = (c == Y) & ~np.isnan(x[:, j])
            assert centers[c, j] == pytest.approx(np.average(x[seen, j], weights=WEIGHT[seen]), rel=1e-11)


def test_class_means__in_columns_never_observed_are_those_of_all_rows():
    x = np.array([[1.0, np.nan], [3.0, np.nan], [0.0, 7.0]])
    found = ClassMeans.of(rows_of(x, np.array([1, 1, -1])), 2)
    np.testing.assert_array_equal(found.centers(np.array([5.0, 7.0])), [[np.nan, np.nan], [2.0, 7.0]])
