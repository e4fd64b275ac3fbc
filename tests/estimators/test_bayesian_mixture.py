"""The variational mixture as an estimator: what it shares with the Gaussian mixture, and what it adds."""

import warnings

import numpy as np
import pytest
import sklearn.mixture
import zarr

import streamem as sem
from streamem.convergence import Status
from streamem.models.bayesian_mixture import WEIGHT_PRIORS
from streamem.models.covariance import COVARIANCES
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)
PROCESSES = tuple(WEIGHT_PRIORS)
X, CENTERS = clusters(n=2000, k=3, d=2)
ESTIMATES = (
    "weights_",
    "means_",
    "covariances_",
    "precisions_",
    "precisions_cholesky_",
    "weight_concentration_",
    "mean_precision_",
    "degrees_of_freedom_",
    "weight_concentration_prior_",
    "mean_precision_prior_",
    "mean_prior_",
    "degrees_of_freedom_prior_",
    "covariance_prior_",
)


def fit(**settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        return sem.BayesianGaussianMixture(6, random_state=0, **settings).fit(X)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_estimates__have_scikit_learns_names_and_shapes(covariance_type, process):
    settings = {
        "covariance_type": covariance_type,
        "weight_concentration_prior_type": process,
        "max_iter": 3,
    }
    ours = fit(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sklearn.mixture.BayesianGaussianMixture(n_components=6, **settings).fit(X)
    for name in ESTIMATES:
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert isinstance(mine, tuple) == isinstance(other, tuple)
        assert np.shape(mine) == np.shape(other), name
        if "prior" in name:
            np.testing.assert_allclose(mine, other, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("acceleration", ["auto", "anderson", "none"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_bound__never_falls(covariance_type, acceleration):
    bgm = fit(covariance_type=covariance_type, acceleration=acceleration, max_iter=60)
    assert np.all(np.diff(bgm.lower_bounds_) >= 0)
    assert bgm.lower_bound_ == bgm.result_.history[-1].objective


def test_corrected_sample__raises_the_bound_as_plain_steps_do():
    x, _ = clusters(n=50_000, k=3, d=2)
    settings = {"n_components": 3, "random_state": 0, "tol": 1e-8, "sample_size": 5000, "max_iter": 500}
    fast = sem.BayesianGaussianMixture(**settings).fit(x)
    plain = sem.BayesianGaussianMixture(**settings, acceleration="none").fit(x)
    assert "sample" in {record.accepted for record in fast.result_.history}
    assert np.all(np.diff(fast.lower_bounds_) >= 0)
    assert fast.n_iter_ < plain.n_iter_
    assert fast.lower_bound_ == pytest.approx(plain.lower_bound_, abs=1e-6)


def test_components__that_the_rows_do_not_ask_for_lose_their_weight():
    x = np.concatenate([rows + np.random.default_rng(0).normal(0, 0.1, (100, 2)) for rows in CENTERS])
    settings = {"weight_concentration_prior": 1e-3, "max_iter": 1000, "random_state": 0}
    bgm = sem.BayesianGaussianMixture(6, **settings).fit(x)
    kept = bgm.weights_ > 0.01
    assert kept.sum() == 3
    gaps = np.linalg.norm(bgm.means_[kept][:, None] - CENTERS, axis=2)
    assert gaps.min(axis=1).max() < 0.1


def test_priors__are_used():
    near, far = (fit(mean_precision_prior=p, mean_prior=np.full(2, 50.0), max_iter=20) for p in (1e-3, 1e4))
    assert np.abs(far.means_ - 50).max() < np.abs(near.means_ - 50).max()
    tight, wide = (
        fit(covariance_prior=c * np.eye(2), degrees_of_freedom_prior=500, max_iter=5) for c in (1.0, 1e5)
    )
    assert np.all(np.linalg.det(tight.covariances_) < np.linalg.det(wide.covariances_))
    even = fit(
        weight_concentration_prior=1e6, weight_concentration_prior_type="dirichlet_distribution", max_iter=5
    )
    np.testing.assert_allclose(even.weights_, 1 / 6, rtol=1e-2)
    assert np.ptp(fit(weight_concentration_prior=1e-6, max_iter=5).weights_) > 0.05


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_model_file__holds_everything(tmp_path, covariance_type, process):
    bgm = fit(
        covariance_type=covariance_type,
        weight_concentration_prior_type=process,
        mean_prior=np.ones(2),
        max_iter=4,
    )
    again = sem.load(bgm.save(tmp_path / "model.npz"))
    assert type(again) is sem.BayesianGaussianMixture
    for name in (*ESTIMATES, "lower_bound_", "n_iter_", "converged_"):
        np.testing.assert_array_equal(getattr(again, name), getattr(bgm, name), err_msg=name)
    np.testing.assert_array_equal(again.predict_proba(X), bgm.predict_proba(X))
    np.testing.assert_array_equal(again.score_samples(X), bgm.score_samples(X))
    stats = bgm.summarize(X)
    np.testing.assert_array_equal(again.update(stats).means_, bgm.update(stats).means_)


def test_update__is_one_step_of_the_fit():
    short, longer = (fit(acceleration="none", tol=0, max_iter=n) for n in (4, 5))
    stats = short.summarize(X[:700]).merge(short.summarize(X[700:]))
    np.testing.assert_allclose(short.update(stats).means_, longer.means_, rtol=1e-10)


def test_fit__does_not_depend_on_store_or_scheduler(tmp_path):
    stored = zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(300, 2))
    settings = {"random_state": 0, "max_iter": 500, "acceleration": "none", "tol": 1e-3}
    fits = [
        sem.BayesianGaussianMixture(4, **settings).fit(x, scheduler=scheduler)
        for x, scheduler in ((stored, "threads"), (stored, "synchronous"), (X, "threads"))
    ]
    np.testing.assert_array_equal(fits[0].means_, fits[1].means_)
    np.testing.assert_allclose(fits[0].means_, fits[2].means_, rtol=1e-8)


def test_fit__of_moved_and_scaled_rows_is_the_fit_moved_and_scaled():
    scale, offset = np.array([1e-6, 1e6]), np.array([1e2, 1e14])
    moved = X * scale + offset
    plain, other = (
        sem.BayesianGaussianMixture(3, random_state=0, max_iter=500, tol=1e-4).fit(x)
        for x in ((moved - offset) / scale, moved)
    )
    np.testing.assert_allclose((other.means_ - offset) / scale, plain.means_, rtol=1e-4)
    np.testing.assert_allclose(other.weights_, plain.weights_, rtol=1e-4)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((5, 2)),
        np.repeat([[1.0, 2.0], [3.0, 1.0]], 20, axis=0),
        np.eye(6)[np.random.default_rng(0).integers(6, size=200)],
        np.random.default_rng(0).integers(3, size=(100, 2)),
        np.column_stack([X[:200], np.full(200, 7.0)]),
    ],
    ids=["one row", "two rows", "one-hot", "integers", "constant column"],
)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_hard_rows__end_in_finite_estimates(covariance_type, x):
    bgm = sem.BayesianGaussianMixture(4, covariance_type=covariance_type, random_state=0, max_iter=500).fit(x)
    for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
        assert np.all(np.isfinite(getattr(bgm, name)))
    assert bgm.result_.status is Status.CONVERGED


def test_warm_start__goes_on_with_the_same_prior():
    bgm = fit(max_iter=3, tol=0, acceleration="none")
    prior = bgm.mean_prior_
    bgm.set_params(warm_start=True)
    with pytest.warns(sem.ConvergenceWarning):
        bgm.fit(X[:1000])
    np.testing.assert_array_equal(bgm.mean_prior_, prior)
    with pytest.warns(sem.ConvergenceWarning):
        bgm.set_params(mean_prior=np.ones(2)).fit(X[:1000])
    np.testing.assert_array_equal(bgm.mean_prior_, np.ones(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_concentration_prior_type": "none"}, "weight_concentration_prior_type: expected one of"),
        ({"weight_concentration_prior": 0.0}, "weight_concentration_prior: expected a number > 0"),
        ({"mean_precision_prior": -1}, "mean_precision_prior: expected a number > 0"),
        ({"degrees_of_freedom_prior": "many"}, "degrees_of_freedom_prior: expected a number > 0"),
        ({"reg_covar": -1}, "reg_covar"),
    ],
)
def test_settings__that_are_no_prior_are_refused(settings, message):
    with pytest.raises(sem.InputError, match=message):
        sem.BayesianGaussianMixture(2, **settings).fit(X)


def test_adapt__is_refused():
    with pytest.raises(sem.InputError, match="adapt is for GaussianMixture"):
        fit(max_iter=2).adapt(X)


def test_bic__is_refused():
    with pytest.raises(sem.InputError, match="Compare lower_bound_"):
        fit(max_iter=2).bic()
