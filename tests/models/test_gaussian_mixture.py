"""The Gaussian mixture against the formulas, in all shapes of covariance."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from streamem.errors import DegenerateComponentError
from streamem.models.covariance import COVARIANCES
from streamem.models.gaussian_mixture import GaussianMixtureModel, GaussianMixtureParams
from streamem.models.summary import Summarize
from streamem.protocols import Rows
from tests import naive
from tests.conformance import ModelTests
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)


class GaussianMixtureLaws(ModelTests):
    covariance_type = "full"
    reg_covar = "auto"

    def make(self):
        return informed(GaussianMixtureModel(3, self.covariance_type, self.reg_covar), self.data())

    def numbers(self, stats):
        scalars = np.array([stats.weight, stats.log_likelihood, stats.entropy])
        return scalars, stats.sum_w, stats.sum_wy, stats.sum_wyy


class TestFull(GaussianMixtureLaws):
    pass


class TestTied(GaussianMixtureLaws):
    covariance_type = "tied"


class TestDiag(GaussianMixtureLaws):
    covariance_type = "diag"


class TestSpherical(GaussianMixtureLaws):
    covariance_type = "spherical"


class TestTiedDiag(GaussianMixtureLaws):
    covariance_type = "tied_diag"


class TestTiedSpherical(GaussianMixtureLaws):
    covariance_type = "tied_spherical"


class TestMaximumLikelihood(GaussianMixtureLaws):
    reg_covar = 0


def informed(model, x):
    """The model with its penalty scaled to these rows."""
    return model.informed_by(Summarize(0, 1)(Rows(x, None, 0)))


def start(covariance_type, reg_covar=0.0, k=3, **data):
    """A model, parameters that fit nothing, and rows."""
    x, _ = clusters(k=k, **data)
    rng = np.random.default_rng(5)
    model = informed(GaussianMixtureModel(k, covariance_type, reg_covar), x)
    resp = rng.dirichlet(np.ones(k), size=len(x))
    return model, model.from_responsibilities(Rows(x, None, 0), resp), x


def dense(params):
    """Cholesky factors (k, d, d) of any type, for the oracle."""
    k, d = params.means.shape
    return naive.full_cholesky(params.covariance_type, params.covariances, k, d)


def naive_m_step(covariance_type, x, resp):
    """The lecture-note formulas, word for word: π, μ, Σ from responsibilities and rows."""
    n = resp.sum(axis=0)
    means = np.array([(resp[:, [k]] * x).sum(axis=0) / n[k] for k in range(len(n))])
    scatter = np.array(
        [
            sum(r * np.outer(row - means[k], row - means[k]) for r, row in zip(resp[:, k], x, strict=True))
            for k in range(len(n))
        ]
    )
    rows = len(x) if covariance_type.startswith("tied") else n[:, None, None]
    columns = x.shape[1] if covariance_type.endswith("spherical") else 1
    return n / len(x), means, naive.in_form_of(covariance_type, scatter / rows) / columns


@pytest.mark.parametrize("covariance_type", TYPES)
def test_em_step__is_the_textbook_formula(covariance_type):
    model, params, x = start(covariance_type)
    resp = naive.responsibilities(x, params.weights, params.means, dense(params))
    new = model.m_step(params, model.e_step(params, Rows(x, None, 0)))
    weights, means, covariances = naive_m_step(covariance_type, x, resp)
    np.testing.assert_allclose(new.weights, weights, rtol=1e-12)
    np.testing.assert_allclose(new.means, means, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(new.covariances, covariances, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_raw_moments__are_views_of_the_statistics(covariance_type):
    model, params, x = start(covariance_type)
    stats = model.e_step(params, Rows(x, None, 0))
    resp = naive.responsibilities(x, params.weights, params.means, dense(params))
    second = np.einsum("nk,ni,nj->kij", resp, x, x)
    expected = naive.in_form_of(covariance_type, second) / (
        x.shape[1] if covariance_type.endswith("spherical") else 1
    )
    np.testing.assert_allclose(stats.sum_wx, resp.T @ x, rtol=1e-10)
    np.testing.assert_allclose(stats.sum_wxx, expected, rtol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_merge__re_references_statistics_taken_at_other_parameters(covariance_type):
    """The moments are those of the same rows, whatever they were measured from."""
    model, params, x = start(covariance_type)
    stats = model.e_step(params, Rows(x, None, 0))
    other = GaussianMixtureParams.from_covariances(
        covariance_type, params.weights, params.means + 7.0, params.covariances * 3.0
    )
    moved = stats.at(other)
    np.testing.assert_allclose(moved.sum_wx, stats.sum_wx, rtol=1e-11)
    np.testing.assert_allclose(moved.sum_wxx, stats.sum_wxx, rtol=1e-11)
    doubled = stats.merge(moved)
    np.testing.assert_allclose(doubled.sum_wyy, 2 * stats.sum_wyy, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        model.m_step(other, moved).means, model.m_step(params, stats).means, rtol=1e-11
    )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_penalty__is_the_exact_maximiser(covariance_type):
    """The M-step's covariances maximise Q + log-prior: nudging them in any way lowers it."""
    model, params, x = start(covariance_type, "auto", n=40)
    assert model.prior is not None
    rows = Rows(x, None, 0)
    stats = model.e_step(params, rows)
    best = model.m_step(params, stats)
    resp = naive.responsibilities(x, params.weights, params.means, dense(params))

    def objective(candidate):
        joint = naive.log_joint(x, candidate.weights, candidate.means, dense(candidate))
        return (resp * joint).sum() + model.log_prior(candidate, stats)

    top = objective(best)
    rng = np.random.default_rng(2)
    for _ in range(20):
        factor = best.cholesky * (1 + 1e-3 * rng.standard_normal(best.cholesky.shape))
        nudged = GaussianMixtureParams(
            covariance_type, best.weights, best.means, factor, best.shape.invert(factor)
        )
        assert objective(nudged) < top


def test_penalty__vanishes():
    """On many rows the penalised fit is the maximum-likelihood fit."""
    gaps = []
    for n in (200, 20_000):
        model, params, x = start("full", "auto", n=n)
        stats = model.e_step(params, Rows(x, None, 0))
        free = GaussianMixtureModel(3, "full", 0.0).m_step(params, stats)
        gaps.append(np.abs(model.m_step(params, stats).covariances / free.covariances - 1).max())
    assert gaps[1] < gaps[0] / 100


def test_penalty__has_no_units():
    x, _ = clusters(n=60)
    scale = np.array([1e-9, 1.0, 1e9])
    model = GaussianMixtureModel(3, "full")
    resp = np.random.default_rng(0).dirichlet(np.ones(3), size=len(x))
    plain, scaled = (informed(model, y).m_step(*_first(informed(model, y), y, resp)) for y in (x, x * scale))
    np.testing.assert_allclose(scaled.covariances, plain.covariances * np.outer(scale, scale), rtol=1e-9)


def _first(model, x, resp):
    params = model.from_responsibilities(Rows(x, None, 0), resp)
    return params, model.e_step(params, Rows(x, None, 0))


def test_reg_covar__is_added_to_the_diagonal():
    model, params, x = start("full", 0.25)
    stats = model.e_step(params, Rows(x, None, 0))
    free = GaussianMixtureModel(3, "full", 0.0).m_step(params, stats)
    np.testing.assert_allclose(
        model.m_step(params, stats).covariances, free.covariances + 0.25 * np.eye(3), rtol=1e-9
    )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_component_without_support__keeps_its_mean_and_weighs_nothing(covariance_type):
    model, params, x = start(covariance_type, "auto")
    far = params.means.copy()
    far[1] = 1e6
    params = GaussianMixtureParams.from_covariances(covariance_type, params.weights, far, params.covariances)
    stats = model.e_step(params, Rows(x, None, 0))
    new = model.m_step(params, stats)
    assert new.weights[1] == 0
    np.testing.assert_array_equal(new.means[1], far[1])
    assert [*np.flatnonzero(model.support(stats) < 1), *model.negligible(params, stats)] == [1, 1]
    again = model.e_step(new, Rows(x, None, 0))
    assert np.isfinite(again.log_likelihood)


def test_precisions_init__gives_those_precisions():
    x, _ = clusters()
    rng = np.random.default_rng(0)
    for covariance_type, shape in COVARIANCES.items():
        natural = {
            "full": [np.cov(rng.normal(size=(3, 9))) for _ in range(3)],
            "tied": np.cov(rng.normal(size=(3, 9))),
        }
        given = np.array(natural.get(covariance_type, rng.uniform(1, 2, shape.shape(3, 3))))
        params = GaussianMixtureModel(3, covariance_type, precisions_init=given).init(Rows(x, None, 0), rng)
        np.testing.assert_allclose(shape.gram(params.precision_cholesky), given, rtol=1e-10)
        expected = (
            np.linalg.inv(given) if given.ndim > 1 and covariance_type in ("full", "tied") else 1 / given
        )
        np.testing.assert_allclose(params.covariances, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("covariance_type", "variances", "message"),
    [
        ("diag", [[1.0, 2.0], [3.0, -1.0]], "component 1 has variance -1.0"),
        ("spherical", [1.0, 0.0], "component 1 has variance 0.0"),
        ("tied_diag", [1.0, 2.0, np.nan], "all components have variance nan"),
        ("tied_spherical", 0.0, "all components have variance 0.0"),
    ],
)
def test_variances__that_are_none_are_refused(covariance_type, variances, message):
    with pytest.raises(DegenerateComponentError, match=message):
        COVARIANCES[covariance_type].root(np.asarray(variances))


def test_n_parameters__counts_what_is_free():
    counts = {t: GaussianMixtureModel(4, t).n_parameters(3) for t in TYPES}
    free = {"full": 24, "tied": 6, "diag": 12, "spherical": 4, "tied_diag": 3, "tied_spherical": 1}
    assert counts == {t: 3 + 12 + own for t, own in free.items()}


@pytest.mark.parametrize("covariance_type", TYPES)
def test_noise__is_what_the_last_digit_of_means_does_to_thin_components(covariance_type):
    x = np.random.default_rng(0).normal(0, 1e-4, (500, 2)) + 1e8
    model = GaussianMixtureModel(1, covariance_type, reg_covar=0)
    params = model.from_responsibilities(Rows(x, None, 0), np.ones((len(x), 1)))
    stats = model.e_step(params, Rows(x, None, 0))
    expected = 2 * 0.5 * (2**-52 * 1e8 / 1e-4) ** 2
    assert stats.rounding_error == pytest.approx(expected, rel=0.2)
    near = model.from_responsibilities(Rows(x - 1e8, None, 0), np.ones((len(x), 1)))
    assert model.e_step(near, Rows(x - 1e8, None, 0)).rounding_error < 1e-7


@pytest.mark.parametrize("covariance_type", TYPES)
def test_kernel_arguments__are_worked_out_once_and_go_with_their_parameters(covariance_type):
    x, _ = clusters(n=100, k=2, d=3)
    model = GaussianMixtureModel(2, covariance_type, reg_covar=1e-6)
    params = model.from_responsibilities(Rows(x, None, 0), np.eye(2)[np.arange(100) % 2])
    found = params.kernel_arguments()
    assert params.kernel_arguments() is found
    assert replace(params, means=params.means + 1.0).kernel_arguments() is not found
    gone = weakref.ref(params), weakref.ref(found.log_const)
    del params, found
    gc.collect()
    assert [one() for one in gone] == [None, None]
