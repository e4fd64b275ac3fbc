"""Components that lose their rows or collapse: what each choice does; no fit falls or ends in NaN."""

import logging

import numpy as np
import pytest

import streamem as sem
from streamem.models.covariance import COVARIANCES
from streamem.models.degenerate import splits

from .strategies import clusters

TYPES = tuple(COVARIANCES)
X, CENTERS = clusters(n=1500, k=3, d=2)
FAR = np.vstack([X.mean(axis=0), CENTERS[2], [1e4, 1e4]])  # two clusters for the first, no row for the last


def fit(choice, covariance_type="full", x=X, **settings):
    """A fit whose last component starts far away from all rows."""
    settings = {"means_init": FAR, "max_iter": 300, "random_state": 0, **settings}
    k = settings.pop("k", 3)
    gm = sem.GaussianMixture(k, covariance_type=covariance_type, on_degenerate=choice, **settings).fit(x)
    for values in (gm.weights_, gm.means_, gm.covariances_, gm.precisions_cholesky_, gm.lower_bounds_):
        assert np.all(np.isfinite(values))
    rises = np.diff([record.objective for record in gm.result_.history])
    assert np.all(rises >= -1e-12 * abs(gm.lower_bound_))
    return gm


def events(gm):
    every = [event for record in gm.result_.history for event in record.events]
    return [(event.kind, event.component) for event in every if event.component is not None]


@pytest.mark.parametrize("acceleration", ["none", "auto"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_reseed__finds_the_cluster_that_no_component_had(covariance_type, acceleration, caplog):
    frozen = fit("freeze", covariance_type, acceleration=acceleration)
    with caplog.at_level(logging.WARNING, "streamem"):
        gm = fit("reseed", covariance_type, acceleration=acceleration)
    assert gm.lower_bound_ > frozen.lower_bound_ + 0.05
    assert len(set(gm.predict(X))) == 3
    assert events(gm) == [("empty-component", 2), ("reseeded-component", 2)]
    assert "Component 2 has total responsibility 0" in caplog.text
    assert any(record.accepted == "reseed" for record in gm.result_.history)


def test_reseed__that_gains_nothing_leaves_the_fit_alone():
    x = np.repeat(X[:2], 30, axis=0)
    gm, frozen = (fit(choice, x=x, k=5, means_init=None) for choice in ("reseed", "freeze"))
    assert gm.lower_bound_ >= frozen.lower_bound_ - 1e-9


def test_reseed__without_a_sample_splits_the_heaviest():
    """Such a split has to be better at once, as it is where clusters are far apart."""
    rng = np.random.default_rng(0)
    x = np.vstack([rng.normal(center, 1, (300, 2)) for center in ([-10, 0], [10, 0], [0, 60])])
    start = [[0, 0], [0, 60], [1e4, 1e4]]
    gm = fit("freeze", x=x, means_init=start)
    gm.set_params(on_degenerate="reseed", warm_start=True).fit(x)
    assert ("reseeded-component", 2) in events(gm) and len(set(gm.predict(x))) == 3


def test_reseed__leaves_what_is_fixed():
    gm = fit("reseed", fixed=("means",))
    np.testing.assert_array_equal(gm.means_, FAR)
    assert events(gm) == [("empty-component", 2)]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_freeze__keeps_the_component_without_weight(covariance_type):
    gm = fit("freeze", covariance_type)
    assert gm.weights_[2] == 0
    np.testing.assert_array_equal(gm.means_[2], FAR[2])
    assert events(gm) == [("empty-component", 2)]


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("settings", [{}, {"reg_covar": 0}, {"acceleration": "none"}])
def test_drop__is_the_fit_without_the_component(covariance_type, settings, tmp_path):
    gm = fit("drop", covariance_type, **settings)
    assert gm.weights_.shape == (2,) and gm.means_.shape == (2, 2)
    assert events(gm) == [("empty-component", 2), ("dropped-component", 2)]
    alone = fit("drop", covariance_type, k=2, **{**settings, "means_init": FAR[:2]})
    assert gm.lower_bound_ == pytest.approx(alone.lower_bound_, abs=1e-4)
    assert gm.bic() == pytest.approx(gm.bic(X))
    assert gm.model_.n_parameters(2) == alone.model_.n_parameters(2)
    again = sem.load(gm.save(tmp_path / "model.npz"))
    np.testing.assert_array_equal(again.predict_proba(X), gm.predict_proba(X))
    assert again.get_params()["n_components"] == 2


def test_drop__needs_components_that_nothing_holds():
    for held in ({"fixed": ("weights",)}, {"prior": "fraley-raftery"}):
        with pytest.raises(sem.InputError, match='"drop" takes components away'):
            fit("drop", **held)
    with pytest.raises(sem.InputError, match="on_degenerate: expected one of"):
        fit("ignore")


def test_raise__names_component_pass_and_what_to_do():
    with pytest.raises(sem.DegenerateComponentError, match=r"Pass 1: Component 2 has total .* fewer comp"):
        fit("raise")
    assert events(fit("raise", means_init=CENTERS)) == []


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_collapse__keeps_the_covariance(covariance_type):
    """Half of the rows are one row: without a penalty its component would shrink to nothing."""
    x = np.vstack([X[:300], np.tile(X.max(axis=0) + 50, (300, 1))])
    labels = np.repeat([0, 1], 300)
    start = {"k": 2, "means_init": None, "init_params": labels, "reg_covar": 0}
    for choice in ("reseed", "drop", "freeze"):
        gm = fit(choice, covariance_type, x, **start)
        assert gm.converged_
        assert np.array_equal(gm.predict(x), labels)
    with pytest.raises(sem.DegenerateComponentError, match="collapsed"):
        fit("raise", covariance_type, x, **start)


@pytest.mark.parametrize("choice", ["reseed", "drop"])
def test_bits__are_the_same_on_every_scheduler(choice):
    one, other = (
        fit(choice),
        sem.GaussianMixture(3, on_degenerate=choice, means_init=FAR, max_iter=300, random_state=0).fit(
            X, scheduler="synchronous"
        ),
    )
    np.testing.assert_array_equal(one.means_, other.means_)
    np.testing.assert_array_equal(one.lower_bounds_, other.lower_bounds_)


@pytest.mark.parametrize("choice", ["reseed", "drop", "freeze"])
def test_several_fits__share_passes_as_if_alone(choice):
    x = np.repeat(X[:4], 30, axis=0)
    found = sem.select(x, range(1, 6), covariance_type="diag", random_state=0, on_degenerate=choice)
    for row in found.table:
        alone = fit(choice, "diag", x, k=row.n_components, means_init=None, max_iter=100)
        assert row.model.lower_bound_ == alone.lower_bound_
        assert row.bic == alone.bic()
    fit(choice, n_init=2, acceleration="none")


@pytest.mark.parametrize("covariance_type", TYPES)
def test_splits__are_whitened_by_the_inverse_of_their_factors(covariance_type):
    x, _ = clusters(n=200, k=3, d=3)
    gm = sem.GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(x)
    places = list(splits(gm.params_, 1, np.ones(3)))
    assert places
    for place in places:
        np.testing.assert_allclose(
            place.whitening, place.shape.invert(place.cholesky), rtol=1e-12, atol=1e-15
        )
