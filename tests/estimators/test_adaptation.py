"""Fits that hold parameters, and fits that adapt others."""

import warnings

import numpy as np
import pytest

import streamem as sem
from streamem.models.covariance import COVARIANCES
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)
X, CENTERS = clusters(n=1000, k=3, d=2)


@pytest.mark.parametrize("acceleration", ["auto", "none"])
def test_fixed__holds_what_was_given(acceleration):
    means = CENTERS + 0.5
    gm = sem.GaussianMixture(
        3, fixed=("means",), means_init=means, acceleration=acceleration, random_state=0, max_iter=500
    ).fit(X)
    np.testing.assert_array_equal(gm.means_, means)
    objectives = [record.objective for record in gm.result_.history]
    assert np.all(np.diff(objectives) >= -1e-13)
    free = sem.GaussianMixture(3, means_init=means, random_state=0, max_iter=500).fit(X)
    assert gm.score(X) < free.score(X)
    assert gm.aic() + 2 * gm.result_.stats.log_likelihood == pytest.approx(2 * (2 + 9))


def test_fixed__everything_only_scores():
    gm = sem.GaussianMixture(3, random_state=0, max_iter=500).fit(X)
    before = gm.params_
    gm.set_params(warm_start=True, fixed=["weights", "means", "covariances"])
    gm.fit(X + 0.1)
    for name in ("weights", "means", "cholesky"):
        np.testing.assert_array_equal(getattr(gm.params_, name), getattr(before, name))
    assert gm.aic() == -2 * gm.result_.stats.log_likelihood


@pytest.mark.parametrize("covariance_type", TYPES)
def test_adapt__moves_as_far_as_rows_outweigh_the_factor(covariance_type):
    world = sem.GaussianMixture(3, covariance_type=covariance_type, random_state=0, max_iter=500).fit(X)
    means = world.means_.copy()
    gaps = [
        np.abs(world.adapt(X + 1, relevance_factor=factor).means_ - means - 1).max() for factor in (1e-2, 1e6)
    ]
    assert gaps[0] < 0.3
    assert gaps[1] == pytest.approx(1, abs=1e-2)
    np.testing.assert_array_equal(world.means_, means)


def test_adapt__never_lowers_its_objective_and_holds_the_rest():
    world = sem.GaussianMixture(3, random_state=0, max_iter=500).fit(X)
    own = world.adapt(X[:50] + 1, parameters=("means", "weights"))
    assert np.all(np.diff([record.objective for record in own.result_.history]) >= -1e-13)
    np.testing.assert_array_equal(own.covariances_, world.covariances_)
    assert own.get_params() == world.get_params()


def test_model_file__holds_what_is_fixed(tmp_path):
    world = sem.GaussianMixture(3, random_state=0, max_iter=500).fit(X)
    own = world.adapt(X[:50] + 1)
    again = sem.load(own.save(tmp_path / "own.npz"))
    stats = own.summarize(X)
    assert again.bic() == own.bic()
    np.testing.assert_array_equal(again.update(stats).means_, own.update(stats).means_)
    np.testing.assert_array_equal(again.covariances_, world.covariances_)
    held = sem.GaussianMixture(3, fixed=("weights",), random_state=0, max_iter=500).fit(X)
    again = sem.load(held.save(tmp_path / "held.npz"))
    assert again.get_params() == held.get_params()
    assert again.bic() == held.bic()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda gm: gm.adapt(X, relevance_factor=0), "relevance_factor: expected a number > 0"),
        (lambda gm: gm.adapt(X, parameters="means"), "parameters: expected some of"),
        (lambda gm: gm.set_params(fixed=("mean",)).fit(X), "fixed: expected some of"),
        (lambda gm: gm.adapt(X[:, :1]), "columns"),
        (lambda gm: sem.GaussianMixture().adapt(X), "Call fit first"),
    ],
)
def test_misuse__is_refused(call, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        gm = sem.GaussianMixture(2, random_state=0, max_iter=2).fit(X)
    with pytest.raises(ValueError, match=message):
        call(gm)
