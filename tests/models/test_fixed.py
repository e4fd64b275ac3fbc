"""Held parameters and adaptation: the exact maximisers of what is left."""

import itertools

import numpy as np
import pytest

from streamem.models.covariance import COVARIANCES
from streamem.models.gaussian_mixture import PARAMETERS, GaussianMixtureModel
from streamem.models.gaussian_statistics import GaussianMixtureParams
from streamem.models.normal_wishart import NormalInverseWishart
from streamem.protocols import Rows
from tests import naive
from tests.models.test_gaussian_mixture import GaussianMixtureLaws, dense, informed
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)
SUBSETS = [s for n in (1, 2) for s in itertools.combinations(PARAMETERS, n)]
SEVERAL = {"covariances": ("cholesky", "whitening")}


class HeldMeans(GaussianMixtureLaws):
    def make(self):
        return informed(GaussianMixtureModel(3, self.covariance_type, fixed=("means",)), self.data())


class TestHeldMeansFull(HeldMeans):
    pass


class TestHeldMeansTied(HeldMeans):
    covariance_type = "tied"


class TestAdaptation(GaussianMixtureLaws):
    """To rows elsewhere, from a mixture of the same number of components."""

    def make(self):
        model, old, _ = start("full")
        return model.adapting(old, 16.0, PARAMETERS)

    def start(self):
        return self.make(), start("full")[1], self.data()


def start(covariance_type, prior=None, fixed=(), k=3, n=80):
    """A model, parameters that fit nothing, and rows."""
    x, _ = clusters(k=k, n=n)
    model = informed(GaussianMixtureModel(k, covariance_type, conjugate=prior, fixed=fixed), x)
    resp = np.random.default_rng(5).dirichlet(np.ones(k), size=n)
    return model, model.from_responsibilities(Rows(x, None, 0), resp), x


def moved(params, name, rng):
    """The parameters with one part of them nudged."""
    part = "cholesky" if name == "covariances" else name
    value = getattr(params, part) * (1 + 1e-3 * rng.standard_normal(getattr(params, part).shape))
    value = value / value.sum() if name == "weights" else value
    parts = {"weights": params.weights, "means": params.means, "cholesky": params.cholesky} | {part: value}
    whitening = params.shape.invert(parts["cholesky"])
    return GaussianMixtureParams(params.covariance_type, **parts, whitening=whitening)


def assert_maximises(model, old, x):
    """Held parts are the old ones, and nudging any other lowers Q + log-prior."""
    rows = Rows(x, None, 0)
    stats = model.e_step(old, rows)
    best = model.m_step(old, stats)
    resp = naive.responsibilities(x, old.weights, old.means, dense(old))

    def objective(params):
        joint = naive.log_joint(x, params.weights, params.means, dense(params))
        return (resp * joint).sum() + model.log_prior(params, stats)

    top, rng = objective(best), np.random.default_rng(0)
    for name in PARAMETERS:
        if name in model.fixed:
            for part in SEVERAL.get(name, (name,)):
                np.testing.assert_array_equal(getattr(best, part), getattr(old, part))
        else:
            assert all(objective(moved(best, name, rng)) < top for _ in range(8)), name


@pytest.mark.parametrize("prior", [None, NormalInverseWishart(5.0, np.ones(3))], ids=["penalty", "prior"])
@pytest.mark.parametrize("fixed", SUBSETS, ids="+".join)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_m_step__maximises_over_what_is_not_held(covariance_type, fixed, prior):
    assert_maximises(*start(covariance_type, prior, fixed))


def test_covariances__are_about_held_means():
    x, _ = clusters(n=50)
    model = GaussianMixtureModel(1, "full", 0.0, fixed=("means",))
    old = GaussianMixtureParams.from_covariances("full", np.ones(1), np.full((1, 3), 2.0), np.eye(3)[None])
    new = model.m_step(old, model.e_step(old, Rows(x, None, 0)))
    np.testing.assert_allclose(new.covariances[0], (x - 2).T @ (x - 2) / 50, rtol=1e-11)


@pytest.mark.parametrize("parameters", [*SUBSETS, PARAMETERS], ids="+".join)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_adaptation__maximises_under_the_prior_at_the_old_parameters(covariance_type, parameters):
    model, old, x = start(covariance_type)
    adapting = model.adapting(old, 10.0, parameters)
    assert set(adapting.fixed) == set(PARAMETERS) - set(parameters)
    assert_maximises(adapting, old, x + 0.5)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_adaptation__is_reynolds_formulas(covariance_type):
    model, old, x = start(covariance_type)
    x, rho = x + 0.5, 10.0
    new = model.adapting(old, rho, PARAMETERS)
    new = new.m_step(old, new.e_step(old, Rows(x, None, 0)))
    resp = naive.responsibilities(x, old.weights, old.means, dense(old))
    n = resp.sum(axis=0)
    covariances = np.array([f @ f.T for f in dense(old)])
    for k in range(3):
        alpha = n[k] / (n[k] + rho)
        mean = alpha * (resp[:, k] @ x) / n[k] + (1 - alpha) * old.means[k]
        np.testing.assert_allclose(new.means[k], mean, rtol=1e-10)
        square = (resp[:, k, None] * x).T @ x / n[k]
        square = alpha * square + (1 - alpha) * (covariances[k] + np.outer(old.means[k], old.means[k]))
        expected = square - np.outer(mean, mean)
        expected = expected if covariance_type == "full" else np.diag(expected)
        np.testing.assert_allclose(new.covariances[k], expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(new.weights, (n + 30 * old.weights) / (len(x) + 30), rtol=1e-11)


@pytest.mark.parametrize("fixed", SUBSETS, ids="+".join)
def test_vector__cannot_move_what_is_held(fixed):
    model, params, _ = start("full", fixed=fixed)
    vector = model.to_vector(params)
    other = model.from_vector(vector + np.random.default_rng(0).normal(0, 0.1, len(vector)), params)
    for name in PARAMETERS:
        for part in SEVERAL.get(name, (name,)):
            same = np.array_equal(getattr(other, part), getattr(params, part))
            assert same == (name in fixed), part


def test_n_parameters__leaves_out_what_is_held():
    assert GaussianMixtureModel(4, "full", fixed=("means",)).n_parameters(3) == 3 + 24
    assert GaussianMixtureModel(4, "tied", fixed=("weights", "covariances")).n_parameters(3) == 12
