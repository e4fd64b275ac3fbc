"""Fits to the mode of a posterior."""

import numpy as np
import pytest

import streamem as sem
from streamem.models.covariance import COVARIANCES
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)
X, _ = clusters(n=1000, k=3, d=2)


@pytest.mark.parametrize("acceleration", ["auto", "none"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_objective__never_falls(covariance_type, acceleration):
    gm = sem.GaussianMixture(
        3,
        covariance_type=covariance_type,
        prior="fraley-raftery",
        acceleration=acceleration,
        random_state=0,
        max_iter=500,
    ).fit(X)
    assert np.all(np.diff([record.objective for record in gm.result_.history]) >= -1e-13)
    assert gm.converged_


def test_named_prior__is_its_settings():
    named, spelled = (
        sem.GaussianMixture(3, prior=prior, random_state=0, max_iter=500).fit(X)
        for prior in ("fraley-raftery", sem.NormalInverseWishart(mean_precision=0.01, degrees_of_freedom=4))
    )
    np.testing.assert_array_equal(named.covariances_, spelled.covariances_)


def test_prior__keeps_more_components_than_rows_allow_finite():
    x = np.repeat(np.eye(3), 5, axis=0)
    for covariance_type in TYPES:
        gm = sem.GaussianMixture(
            5, covariance_type=covariance_type, prior="fraley-raftery", random_state=0, max_iter=1000
        ).fit(x)
        assert np.all(np.isfinite(gm.means_)) and np.all(np.isfinite(gm.precisions_))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_model_file__holds_the_prior(tmp_path, covariance_type):
    prior = sem.NormalInverseWishart(weight_concentration=4.0)
    gm = sem.GaussianMixture(3, covariance_type=covariance_type, prior=prior, random_state=0, max_iter=500)
    again = sem.load(gm.fit(X).save(tmp_path / "model.npz"))
    stats = gm.summarize(X)
    np.testing.assert_array_equal(again.update(stats).covariances_, gm.update(stats).covariances_)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior": "jeffreys"}, "prior: expected None"),
        ({"prior": "fraley-raftery", "reg_covar": 1e-6}, "beside a prior"),
        ({"prior": sem.NormalInverseWishart(mean_precision=0)}, "mean_precision: expected a number > 0"),
        ({"prior": sem.NormalInverseWishart(weight_concentration=0.5)}, "weight_concentration"),
        ({"prior": sem.NormalInverseWishart(degrees_of_freedom=-1)}, "degrees_of_freedom"),
        ({"prior": sem.NormalInverseWishart(mean=np.array([0, np.inf]))}, "finite"),
    ],
)
def test_settings__that_are_no_prior_are_refused(settings, message):
    with pytest.raises(sem.InputError, match=message):
        sem.GaussianMixture(2, **settings).fit(X)


def test_warm_start__takes_up_another_prior():
    gm = sem.GaussianMixture(2, random_state=0, max_iter=500, warm_start=True).fit(X)
    before = gm.covariances_
    strong = sem.NormalInverseWishart(degrees_of_freedom=1e5, scale=np.eye(2))
    gm.set_params(prior=strong).fit(X)
    assert np.all(np.linalg.det(gm.covariances_) < 0.01 * np.linalg.det(before))
    assert gm.set_params(prior=None).fit(X).covariances_ == pytest.approx(before, rel=1e-2)
