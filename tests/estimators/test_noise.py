"""Outliers: a uniform component takes them, whatever else a fit is asked for."""

import warnings

import numpy as np
import pytest
import zarr

import streamem as sem

RNG = np.random.default_rng(0)
N = 6000
MEANS = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
CLASS = RNG.integers(3, size=N)
OUTLIER = RNG.random(N) < 0.1
X = MEANS[CLASS] + RNG.normal(size=(N, 2))
X[OUTLIER] = RNG.uniform(-20, 25, (OUTLIER.sum(), 2))
ESTIMATED = ("weights_", "means_", "covariances_", "noise_weight_")


def mixture(**settings):
    return sem.GaussianMixture(3, **{"random_state": 0, "noise": "uniform", "max_iter": 300} | settings)


def assert_same(a, b):
    for name in ESTIMATED:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.lower_bounds_ == b.lower_bounds_


def error(gm):
    """How far the nearest means are from the true ones."""
    return max(np.linalg.norm(gm.means_ - mean, axis=1).min() for mean in MEANS)


@pytest.fixture(scope="module")
def fitted():
    return mixture().fit(X)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("acceleration", ["auto", "none"])
def test_clusters__are_found_among_outliers_that_spoil_a_plain_mixture(covariance_type, acceleration):
    settings = {"covariance_type": covariance_type, "acceleration": acceleration}
    gm, plain = mixture(**settings).fit(X), mixture(noise=None, **settings).fit(X)
    assert gm.converged_
    assert gm.noise_weight_ == pytest.approx(0.1, abs=0.015)
    assert gm.weights_.sum() + gm.noise_weight_ == pytest.approx(1)
    assert error(gm) < 0.1
    assert np.max(gm.covariances_) < 1.3
    assert gm.bic() < plain.bic() - 100
    assert error(plain) > 0.5 or np.max(plain.covariances_) > 5
    assert np.all(np.diff([record.objective for record in gm.result_.history]) > -1e-12)


def test_predictions__name_the_noise(fitted):
    labels, resp = fitted.predict(X), fitted.predict_proba(X)
    assert np.mean((labels == -1) == OUTLIER) > 0.98
    assert resp.shape == (N, 3)
    noise = 1 - resp.sum(axis=1)
    assert np.all(noise > -1e-12)
    np.testing.assert_array_equal(labels == -1, noise > resp.max(axis=1))
    density = np.exp(fitted.score_samples(X))
    volume = np.prod(X.max(axis=0) - X.min(axis=0))
    np.testing.assert_allclose(noise * density, fitted.noise_weight_ / volume, rtol=1e-6)
    assert fitted.score_samples([[1e6, 1e6]])[0] == pytest.approx(np.log(fitted.noise_weight_ / volume))


def test_criteria__count_the_noise(fitted):
    log_likelihood = fitted.score_samples(X).sum()
    assert fitted.bic() == pytest.approx(-2 * log_likelihood + 18 * np.log(N), rel=1e-9)
    assert fitted.bic(X) == pytest.approx(fitted.bic(), rel=1e-12)
    resp = fitted.predict_proba(X)
    every = np.column_stack([resp, np.maximum(1 - resp.sum(axis=1), 1e-300)])
    entropy = -(every * np.log(np.maximum(every, 1e-300))).sum()
    assert fitted.icl() == pytest.approx(fitted.bic() + 2 * entropy, rel=1e-6)


def test_sample__has_noise_last(fitted):
    rows, labels = fitted.sample(20_000)
    assert np.mean(labels == -1) == pytest.approx(fitted.noise_weight_, abs=0.01)
    np.testing.assert_array_equal(labels, sorted(labels, key=lambda label: (label < 0, label)))
    noise = rows[labels == -1]
    assert np.all((noise >= X.min(axis=0)) & (noise <= X.max(axis=0)))
    np.testing.assert_allclose(noise.std(axis=0), np.ptp(X, axis=0) / np.sqrt(12), rtol=0.05)


def test_model_file__keeps_the_noise(fitted, tmp_path):
    loaded = sem.load(fitted.save(tmp_path / "model.npz"))
    for name in ESTIMATED:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(fitted, name))
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    assert (loaded.bic(), loaded.noise) == (fitted.bic(), "uniform")
    assert loaded.stats_.sum_noise == fitted.stats_.sum_noise
    warm = loaded.set_params(warm_start=True).fit(X)
    assert warm.noise_weight_ == pytest.approx(fitted.noise_weight_, rel=1e-3)
    with pytest.raises(sem.InputError, match="noise: warm_start continues a fit with 'uniform', got None"):
        warm.set_params(noise=None).fit(X)


def test_statistics__of_parts_merge_and_update(fitted):
    parts = [fitted.summarize(X[:1000]), fitted.summarize(X[1000:])]
    whole = fitted.summarize(X)
    total = parts[0].merge(parts[1])
    assert total.sum_noise == pytest.approx(whole.sum_noise, rel=1e-12)
    assert total.sum_noise + total.sum_w.sum() == pytest.approx(N)
    other = mixture(tol=0.1, max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        other.fit(X)
    stats = other.summarize(X)
    assert other.update(stats).noise_weight_ == pytest.approx(stats.sum_noise / N)


@pytest.mark.parametrize("acceleration", ["auto", "anderson", "none"])
def test_checkpoint__goes_on_to_the_same_bits(acceleration, tmp_path):
    warnings.simplefilter("ignore", sem.ConvergenceWarning)
    settings = {"acceleration": acceleration, "tol": 0}
    whole = mixture(max_iter=6, **settings).fit(X)
    mixture(max_iter=3, **settings).fit(X, checkpoint=tmp_path)
    with pytest.raises(sem.InputError, match="noise was 'uniform'"):
        mixture(max_iter=6, noise=1e4, **settings).fit(X, checkpoint=tmp_path, resume=True)
    assert_same(mixture(max_iter=6, **settings).fit(X, checkpoint=tmp_path, resume=True), whole)


@pytest.mark.parametrize("scheduler", ["synchronous", "processes"])
def test_noise__is_the_same_on_every_scheduler(scheduler, tmp_path):
    z = zarr.create_array(tmp_path / "x", shape=X.shape, chunks=(500, 2), dtype="f8")
    z[:] = X
    where = {"memory_limit": "2MiB"}
    assert_same(mixture(**where).fit(z, scheduler=scheduler), mixture(**where).fit(z, scheduler="threads"))


def test_chunking__changes_no_more_than_rounding(tmp_path):
    z = zarr.create_array(tmp_path / "x", shape=X.shape, chunks=(701, 2), dtype="f8")
    z[:] = X
    fitted, other = (mixture(memory_limit="2MiB").fit(x) for x in (X, z))
    np.testing.assert_allclose(other.means_, fitted.means_, atol=1e-3)
    assert other.lower_bound_ == pytest.approx(fitted.lower_bound_, abs=1e-6)


def test_acceleration__finds_the_optimum_of_textbook_em():
    fits = [mixture(acceleration=a, tol=1e-10, max_iter=2000).fit(X) for a in ("auto", "anderson", "none")]
    for gm in fits[1:]:
        assert gm.lower_bound_ == pytest.approx(fits[0].lower_bound_, abs=1e-9)
        assert gm.noise_weight_ == pytest.approx(fits[0].noise_weight_, rel=1e-3)


@pytest.mark.parametrize("missing", ["marginal", "drop"])
def test_noise__goes_with_missing_values(missing):
    gappy = X.copy()
    gappy[RNG.random(X.shape) < 0.1] = np.nan
    gm = mixture(missing=missing).fit(gappy)
    assert gm.noise_weight_ == pytest.approx(0.1, abs=0.015)
    assert error(gm) < 0.1
    labels = gm.predict(gappy)
    complete = ~np.isnan(gappy).any(axis=1)
    np.testing.assert_array_equal(labels[complete], gm.predict(X[complete]))
    assert np.mean((labels == -1)[complete] == OUTLIER[complete]) > 0.98
    if missing == "marginal":
        resp = gm.predict_proba(gappy)
        np.testing.assert_array_equal(labels == -1, 1 - resp.sum(axis=1) > resp.max(axis=1))


def test_labelled_rows__are_no_noise():
    """An outlier that is known to come from a component counts for it."""
    y = np.where(OUTLIER & (RNG.random(N) < 0.5), 0, -1)
    gm, without = mixture().fit(X, y), mixture().fit(X)
    assert gm.noise_weight_ < 0.6 * without.noise_weight_
    assert np.trace(gm.covariances_[0]) > 10


def test_volume__is_a_setting_that_counts(fitted):
    dense, thin = mixture(noise=200.0).fit(X), mixture(noise=1e7).fit(X)
    assert dense.noise_weight_ > fitted.noise_weight_ > thin.noise_weight_
    low, high = thin.params_.noise_box
    assert np.prod(high - low) == pytest.approx(1e7)


def test_weights_init__leaves_the_rest_to_the_noise():
    gm = mixture(weights_init=[0.2, 0.2, 0.3], fixed=("weights",)).fit(X)
    assert gm.noise_weight_ == pytest.approx(0.3)
    with pytest.raises(sem.InputError, match=r"sum less than 1, the rest being the noise's"):
        mixture(weights_init=[0.5, 0.25, 0.25]).fit(X)
    assert mixture(weights_init=[0.2, 0.2, 0.3]).fit(X).noise_weight_ == pytest.approx(0.1, abs=0.015)


def test_adaptation__holds_the_noise_where_it_is_or_moves_it(fitted):
    rows = X[:500][~OUTLIER[:500]]
    held, moved = fitted.adapt(rows), fitted.adapt(rows, parameters=("weights",))
    assert held.noise_weight_ == fitted.noise_weight_ > moved.noise_weight_ > 0


def test_dropped_component__leaves_the_noise(fitted):
    gm = sem.GaussianMixture(
        4,
        noise="uniform",
        on_degenerate="drop",
        means_init=[*MEANS, [1e4, 1e4]],
        precisions_init=np.tile(np.eye(2), (4, 1, 1)),
        random_state=0,
        acceleration="none",
    ).fit(X)
    assert len(gm.weights_) == 3
    assert gm.weights_.sum() + gm.noise_weight_ == pytest.approx(1)
    assert gm.noise_weight_ == pytest.approx(fitted.noise_weight_, rel=0.02)


def test_selection__may_have_noise():
    found = sem.select(X, n_components=[2, 3, 4], noise="uniform", random_state=0)
    assert (found.best.n_components, found.best.noise) == (3, "uniform")


@pytest.mark.parametrize("noise", ["normal", 0.0, -1.0, np.inf, np.nan, True, [1.0]])
def test_noise__that_is_none_is_refused(noise):
    with pytest.raises(sem.InputError, match='noise: expected None, "uniform" or a volume > 0'):
        mixture(noise=noise).fit(X)


def test_constant_column__is_refused():
    with pytest.raises(sem.InputError, match="noise: column 2 is 7 in every row"):
        mixture().fit(np.column_stack([X, np.full(N, 7.0)]))
