"""The mode under a conjugate prior: the exact maximiser, against densities written out by scipy."""

import numpy as np
import pytest
import scipy.stats

from streamem.errors import InputError
from streamem.models.covariance import COVARIANCES
from streamem.models.gaussian_mixture import GaussianMixtureModel
from streamem.models.gaussian_statistics import GaussianMixtureParams
from streamem.models.normal_wishart import NormalInverseWishart
from streamem.models.summary import Summarize
from streamem.protocols import Rows
from tests import naive
from tests.models.test_gaussian_mixture import GaussianMixtureLaws, dense, informed
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)
PRIOR = NormalInverseWishart(mean_precision=0.5, weight_concentration=3.0)


class ConjugateLaws(GaussianMixtureLaws):
    def make(self):
        return informed(GaussianMixtureModel(3, self.covariance_type, conjugate=PRIOR), self.data())


class TestFull(ConjugateLaws):
    pass


class TestTied(ConjugateLaws):
    covariance_type = "tied"


class TestConstantColumn(ConjugateLaws):
    """Its floor is the same for every component, whatever its rows, so that the objective never falls."""

    def data(self):
        return np.column_stack([super().data(), np.full(120, 5.0)])


def start(covariance_type, prior=PRIOR, k=3, n=60):
    """A model, parameters that fit nothing, and rows."""
    x, _ = clusters(k=k, n=n)
    model = informed(GaussianMixtureModel(k, covariance_type, conjugate=prior), x)
    resp = np.random.default_rng(5).dirichlet(np.ones(k), size=n)
    return model, model.from_responsibilities(Rows(x, None, 0), resp), x


def naive_log_prior(prior, covariance_type, params, x):
    """log p(π, μ, Σ) by scipy's densities, with the published defaults (Fraley & Raftery 2007, section 3)."""
    (k, d), mean, covariance = params.means.shape, x.mean(axis=0), np.cov(x.T)
    covariances = [factor @ factor.T for factor in dense(params)]
    shrink, nu = k ** (2 / d), d + 2
    total = scipy.stats.dirichlet.logpdf(params.weights, np.full(k, prior.weight_concentration))
    for c in range(k):
        total += scipy.stats.multivariate_normal.logpdf(
            params.means[c], mean, covariances[c] / prior.mean_precision
        )
    if covariance_type in ("full", "tied"):
        for each in covariances if covariance_type == "full" else covariances[:1]:
            total += scipy.stats.invwishart.logpdf(each, nu, covariance / shrink)
        return total
    squares = np.trace(covariance) / d / shrink
    for variance in params.covariances.ravel():
        total += scipy.stats.invgamma.logpdf(variance, nu / 2, scale=squares / 2)
    return total


@pytest.mark.parametrize("covariance_type", TYPES)
def test_log_prior__is_the_published_density_up_to_a_constant(covariance_type):
    model, params, x = start(covariance_type)
    stats = model.e_step(params, Rows(x, None, 0))
    other = model.m_step(params, stats)
    ours = model.log_prior(other, stats) - model.log_prior(params, stats)
    theirs = [naive_log_prior(PRIOR, covariance_type, p, x) for p in (other, params)]
    assert ours == pytest.approx(theirs[0] - theirs[1], rel=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_m_step__is_the_mode(covariance_type):
    """Nudging any parameter lowers Q + log-prior."""
    model, params, x = start(covariance_type)
    best = model.m_step(params, model.e_step(params, Rows(x, None, 0)))
    resp = naive.responsibilities(x, params.weights, params.means, dense(params))

    def objective(candidate):
        joint = naive.log_joint(x, candidate.weights, candidate.means, dense(candidate))
        return (resp * joint).sum() + naive_log_prior(PRIOR, covariance_type, candidate, x)

    top, rng = objective(best), np.random.default_rng(2)
    for name in ("weights", "means", "cholesky") * 8:
        value = getattr(best, name)
        moved = value * (1 + 1e-3 * rng.standard_normal(value.shape))
        moved = moved / moved.sum() if name == "weights" else moved
        values = {"weights": best.weights, "means": best.means, "cholesky": best.cholesky} | {name: moved}
        whitening = best.shape.invert(values["cholesky"])
        assert objective(GaussianMixtureParams(covariance_type, **values, whitening=whitening)) < top, name


def test_defaults__of_one_component_are_those_of_the_paper():
    """k = 1: mean x̄, covariance (Ψ + n S)/(n + ν + d + 2) with Ψ the covariance of the rows."""
    x, _ = clusters(n=40)
    model = informed(GaussianMixtureModel(1, conjugate=NormalInverseWishart()), x)
    params = model.from_responsibilities(Rows(x, None, 0), np.ones((40, 1)))
    covariance = np.cov(x.T)
    np.testing.assert_allclose(params.means[0], x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(params.covariances[0], covariance * (1 + 39) / (40 + 5 + 3 + 2), rtol=1e-10)


def test_component_without_support__goes_to_the_prior():
    model, params, x = start("full")
    far = params.means.copy()
    far[1] = 1e6
    params = GaussianMixtureParams.from_covariances("full", params.weights, far, params.covariances)
    new = model.m_step(params, model.e_step(params, Rows(x, None, 0)))
    np.testing.assert_allclose(new.means[1], x.mean(axis=0), rtol=1e-9)
    assert new.weights[1] == pytest.approx(2 / (len(x) + 6))


def test_given_prior__is_used():
    x, _ = clusters(n=40)
    for covariance_type in TYPES:
        scale = 9.0 * np.eye(3) if covariance_type in ("full", "tied") else 9.0
        prior = NormalInverseWishart(2.0, np.ones(3), 7.0, scale)
        model = informed(GaussianMixtureModel(1, covariance_type, conjugate=prior), x)
        params = model.from_responsibilities(Rows(x, None, 0), np.ones((40, 1)))
        mean = (2 + x.sum(axis=0)) / 42
        np.testing.assert_allclose(params.means[0], mean, rtol=1e-11)
        squares = (x - mean).T @ (x - mean) + 2 * np.outer(mean - 1, mean - 1) + 9 * np.eye(3)
        expected = {
            "full": squares[None] / (40 + 7 + 3 + 2),
            "tied": squares / (40 + 7 + 3 + 2),
            "diag": np.diag(squares) / (40 + 7 + 3),
            "spherical": (np.trace(squares) - 18) / (40 * 3 + 7 + 3 + 2),
        }[covariance_type.removeprefix("tied_")]
        np.testing.assert_allclose(params.covariances, np.broadcast_to(expected, params.covariances.shape))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (NormalInverseWishart(mean=np.zeros(2)), r"prior\.mean: expected shape \(3,\)"),
        (NormalInverseWishart(scale=1.0), r"prior\.scale: expected shape \(3, 3\)"),
        (NormalInverseWishart(scale=-np.eye(3)), "positive definite"),
    ],
)
def test_prior__for_other_columns_is_refused(prior, message):
    summary = Summarize(0, 1)(Rows(clusters()[0], None, 0))
    with pytest.raises(InputError, match=message):
        GaussianMixtureModel(2, conjugate=prior).informed_by(summary)


@pytest.mark.parametrize("columns", [0, 1, 3])
@pytest.mark.parametrize("covariance_type, own", [("full", False), ("full", True), ("tied", False)])
def test_factors__with_columns_of_zeros_are_whitened_as_others(covariance_type, own, columns):
    """A floor has as many other columns as there are directions without variance."""
    rng, shape = np.random.default_rng(0), COVARIANCES[covariance_type]
    whitening = np.tril(rng.normal(size=shape.shape(3, 3)))
    factor = rng.normal(size=(3, 3, 3) if own else (3, 3)) * (rng.permutation(3) < columns)
    if own:  # a column that only one component lacks stays
        factor[0, :, 0] = 0.0
    factors = factor if own else [factor] * 3
    products = [a @ f @ f.T @ a.T for a, f in zip(whitening.reshape(-1, 3, 3), factors, strict=False)]
    found = shape.whitened(whitening, factor)
    np.testing.assert_allclose(found.reshape(-1, 3, 3), products, rtol=1e-12, atol=1e-13)
    traces = np.broadcast_to([np.trace(product) for product in products], 3)
    np.testing.assert_allclose(shape.whitened_trace(whitening, factor, 3, 3), traces, rtol=1e-12)
