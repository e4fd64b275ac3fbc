"""The estimator: the same numbers as scikit-learn from the same start, and the manners of an estimator."""

import logging
import pickle
import threading
import warnings

import dask
import dask.array
import numpy as np
import pytest
import sklearn.base
import sklearn.mixture
import zarr

import streamem as sem
from streamem.convergence import PassEnded, PassProgress, PassStarted, Status
from streamem.models.covariance import COVARIANCES
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)
OF_SCIKIT_LEARN = ("full", "tied", "diag", "spherical")
X, CENTERS = clusters(n=3000, k=4, d=3)
WEIGHT = np.random.default_rng(1).uniform(0, 2, len(X))


def start(covariance_type, x=X, k=4):
    """The same start for both libraries: rows as means, unit precisions in the data's own scale."""
    d = x.shape[1]
    precision = 1 / x.var(axis=0)
    natural = {
        "full": np.tile(np.diag(precision), (k, 1, 1)),
        "tied": np.diag(precision),
        "diag": np.tile(precision, (k, 1)),
        "spherical": np.full(k, precision.mean()),
        "tied_diag": precision,
        "tied_spherical": precision.mean(),
    }[covariance_type]
    means = x[np.linspace(0, len(x) - 1, k).astype(int)].astype(float)
    return {"weights_init": np.full(k, 1 / k), "means_init": means, "precisions_init": natural}, d


def both(covariance_type, x=X, k=4, max_iter=20, reg_covar=1e-6, **keywords):
    """Fit scikit-learn and streamem for the same number of iterations; return both."""
    given, _ = start(covariance_type, x, k)
    settings = {"covariance_type": covariance_type, "max_iter": max_iter, "tol": 0.0, "reg_covar": reg_covar}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sklearn.mixture.GaussianMixture(k, **settings, **given).fit(x)
        ours = sem.GaussianMixture(k, acceleration="none", **settings, **given, **keywords).fit(x)
    return theirs, ours


@pytest.mark.parametrize("covariance_type", OF_SCIKIT_LEARN)
def test_fit__is_scikit_learns_from_the_same_start(covariance_type):
    theirs, ours = both(covariance_type)
    assert ours.n_iter_ == 20
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-9)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-9)
    assert ours.score(X) == pytest.approx(theirs.score(X), rel=1e-9)
    assert ours.bic(X) == pytest.approx(theirs.bic(X), rel=1e-9)
    assert ours.aic(X) == pytest.approx(theirs.aic(X), rel=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-8)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-8)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_fit__ascends_from_a_default_start(covariance_type):
    gm = sem.GaussianMixture(4, covariance_type=covariance_type, random_state=0, max_iter=500).fit(X)
    objectives = [record.objective for record in gm.result_.history]
    assert np.all(np.diff(objectives) > -1e-12)
    assert gm.converged_
    assert gm.result_.status is Status.CONVERGED


@pytest.mark.parametrize("covariance_type", TYPES)
def test_converged_fit__knows_its_exact_likelihood(covariance_type):
    gm = sem.GaussianMixture(2, covariance_type=covariance_type, random_state=0, max_iter=2000).fit(X)
    assert gm.score(X) == pytest.approx(gm.lower_bound_, rel=1e-13)
    assert gm.bic() == pytest.approx(gm.bic(X), rel=1e-13)
    assert gm.aic() == pytest.approx(gm.aic(X), rel=1e-13)
    assert gm.icl() == pytest.approx(gm.icl(X), rel=1e-13)
    resp = gm.predict_proba(X)
    entropy = -np.sum(resp * np.log(np.where(resp > 0, resp, 1)))
    assert gm.icl() - gm.bic() == pytest.approx(2 * entropy, rel=1e-9)


def test_first_pass__is_saved_where_the_rows_tell():
    """A converged fit's passes: history has one entry for each reading but the first."""
    events = []
    gm = sem.GaussianMixture(4, random_state=0, callbacks=[events.append]).fit(X)
    started = [e for e in events if isinstance(e, PassStarted)]
    assert [e.phase for e in started] == ["sample"] + ["em"] * gm.n_iter_
    assert [e.index for e in started] == [0, *range(gm.n_iter_)]
    assert all(e.n_bytes == X.nbytes for e in started)
    assert len(gm.lower_bounds_) == gm.n_iter_ == len(gm.result_.history)
    assert gm.lower_bounds_[-1] == gm.lower_bound_
    assert all(record.bytes_read == X.nbytes for record in gm.result_.history)


def test_progress__reaches_all_rows_in_every_pass():
    events = []
    sem.GaussianMixture(4, random_state=0).fit(X, callbacks=[events.append])
    last = {}
    for event in events:
        if isinstance(event, PassProgress):
            assert event.n_samples >= last.get((event.phase, event.index), 0)
            last[event.phase, event.index] = event.n_samples
    assert set(last.values()) == {len(X)}


def test_callback__can_end_a_fit():
    def stop(event):
        return isinstance(event, PassEnded) and event.phase == "em" and event.index == 1

    gm = sem.GaussianMixture(4, tol=0, random_state=0, callbacks=[stop]).fit(X)
    assert gm.n_iter_ == 2
    assert not gm.converged_
    assert gm.result_.status is Status.CALLBACK


def test_interrupt__keeps_what_was_reached():
    def press(event):
        if isinstance(event, PassStarted) and event.phase == "em" and event.index == 2:
            raise KeyboardInterrupt

    with pytest.warns(sem.ConvergenceWarning, match="Interrupted"):
        gm = sem.GaussianMixture(4, tol=0, random_state=0, callbacks=[press]).fit(X)
    assert gm.n_iter_ == 2
    assert gm.predict(X).shape == (3000,)


def test_max_iter__warns():
    with pytest.warns(sem.ConvergenceWarning, match="max_iter"):
        sem.GaussianMixture(4, tol=0, max_iter=2, random_state=0, acceleration="none").fit(X)


def test_verbose__raises_the_log_level(caplog):
    for verbose, expected in ((0, 0), (1, 1)):
        caplog.clear()
        with caplog.at_level(logging.INFO, "streamem"):
            gm = sem.GaussianMixture(4, random_state=0, verbose=verbose).fit(X)
        assert sum("nats per row" in r.message for r in caplog.records) == expected * gm.n_iter_


def test_more_starts__are_no_worse():
    """Restarts compete on the sample, or on all rows in textbook EM."""
    x, _ = clusters(n=2000, k=6, d=2, seed=8)
    for acceleration in ("auto", "none"):
        settings = {
            "init_params": "random_from_data",
            "acceleration": acceleration,
            "max_iter": 300,
            "random_state": 1,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sem.ConvergenceWarning)
            one = sem.GaussianMixture(6, **settings).fit(x)
            ten = sem.GaussianMixture(6, n_init=8, **settings).fit(x)
        assert ten.lower_bound_ > one.lower_bound_ - 1e-6


def test_acceleration__auto_takes_fewer_passes_over_large_data():
    """The short EM on the sample replaces passes over all rows."""
    x, _ = clusters(n=200_000, k=5, d=2, seed=2)
    passes = {}
    for acceleration in ("auto", "none"):
        gm = sem.GaussianMixture(5, random_state=0, tol=1e-5, acceleration=acceleration).fit(x)
        passes[acceleration] = gm.n_iter_
    assert passes["auto"] < passes["none"] / 2


def drawn(n, d, k, spread, dtype, seed):
    rng = np.random.default_rng(seed)
    means = rng.normal(0, spread, (k, d))
    return (means[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype(dtype)


@pytest.mark.parametrize(
    "rows, most",
    [
        ((100_000, 16, 3, 2.0, "f4", 1), 2),  # distinct components, where only rounding is left
        ((400_000, 4, 4, 1.5, "f8", 1), 5),  # components that overlap, of which 20,000 rows say too little
        ((400_000, 4, 4, 1.5, "f8", 2), 5),
    ],
)
def test_default_tolerance__takes_a_handful_of_passes(rows, most, tmp_path):
    np.save(tmp_path / "rows.npy", drawn(*rows))
    settings = {"random_state": rows[-1], "memory_limit": "64MiB"}
    gm = sem.GaussianMixture(rows[2], **settings).fit(tmp_path / "rows.npy")
    assert gm.converged_ and gm.n_iter_ <= most
    assert gm.result_.history[-1].remaining_gain < gm.tol


def test_default_tolerance__takes_two_passes_where_only_rounding_is_left(tmp_path):
    passes = []
    for seed in range(8):  # which candidate is ahead, and by how much, rounding decides
        np.save(tmp_path / "rows.npy", drawn(100_000, 16, 3, 2.0, "f4", seed))
        gm = sem.GaussianMixture(3, random_state=seed, memory_limit="64MiB").fit(tmp_path / "rows.npy")
        assert gm.converged_
        passes.append(gm.n_iter_)
    assert sum(n > 2 for n in passes) <= 2


def test_sample_size__changes_the_sample():
    x, _ = clusters(n=50_000, k=3, d=2)
    fits = [
        sem.GaussianMixture(3, random_state=0, sample_size=n, tol=1e-3).fit(x).means_ for n in (100, 10_000)
    ]
    assert not np.array_equal(*fits)
    with pytest.raises(sem.InputError, match="sample_size"):
        sem.GaussianMixture(3, sample_size=0).fit(x)


def test_warm_start__continues():
    gm = sem.GaussianMixture(4, random_state=0, warm_start=True, tol=1e-9, max_iter=500).fit(X)
    reached = gm.lower_bound_
    gm.fit(X)
    assert gm.lower_bounds_[0] == pytest.approx(reached, rel=1e-12)
    gm.set_params(warm_start=False, init_params="random", acceleration="none").fit(X)
    assert gm.lower_bounds_[0] < reached - 1e-3


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random_from_data", "random"])
def test_init_params__are_all_starts(init_params):
    gm = sem.GaussianMixture(4, init_params=init_params, random_state=0, max_iter=300, tol=1e-3).fit(X)
    assert gm.converged_
    assert gm.lower_bound_ > sem.GaussianMixture(1).fit(X).lower_bound_ + 0.5


def test_init_params__labels_choose_the_components():
    labels = ((X[:, None] - CENTERS) ** 2).sum(axis=2).argmin(axis=1)
    order = [2, 0, 3, 1]
    gm = sem.GaussianMixture(4, init_params=np.argsort(order)[labels], random_state=0).fit(X)
    np.testing.assert_allclose(gm.means_, CENTERS[order], atol=0.3)


def test_means_init__chooses_the_components():
    gm = sem.GaussianMixture(4, means_init=CENTERS[[3, 1, 0, 2]], random_state=0).fit(X)
    np.testing.assert_allclose(gm.means_, CENTERS[[3, 1, 0, 2]], atol=0.3)


def test_weights__change_the_fit_as_repetition_does():
    times = np.arange(len(X)) % 3
    given, _ = start("full")
    settings = {"tol": 0, "max_iter": 10, "acceleration": "none", **given}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        weighted = sem.GaussianMixture(4, **settings).fit(X, sample_weight=times)
        repeated = sem.GaussianMixture(4, **settings).fit(np.repeat(X, times, axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-9)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-8)
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, rel=1e-11)
    assert weighted.bic() == pytest.approx(repeated.bic(), rel=1e-11)
    assert weighted.score(X, sample_weight=times) == pytest.approx(
        repeated.score(np.repeat(X, times, axis=0)), rel=1e-11
    )


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.zeros(len(X)), "all sample weights are zero"),
        (np.where(np.arange(len(X)) == 7, -1.0, 1.0), "7"),
        (np.where(np.arange(len(X)) == 7, np.nan, 1.0), "7"),
        (np.ones(5), "5"),
    ],
)
def test_weights__that_mean_nothing_are_refused(weight, message):
    with pytest.raises(sem.InputError, match=message):
        sem.GaussianMixture(2).fit(X, sample_weight=weight)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_components": 0},
        {"n_components": 2.0},
        {"covariance_type": "banded"},
        {"tol": -1},
        {"reg_covar": -1},
        {"reg_covar": "some"},
        {"max_iter": 0},
        {"n_init": 0},
        {"init_params": "nearest"},
        {"acceleration": "magic"},
        {"precision": "float16"},
        {"memory_limit": "much"},
        {"weights_init": [0.5, 0.6]},
        {"means_init": np.zeros((3, 3))},
        {"precisions_init": np.zeros((2, 2))},
    ],
    ids=str,
)
def test_settings__that_mean_nothing_are_refused(settings):
    with pytest.raises(sem.InputError, match=next(iter(settings))):
        sem.GaussianMixture(**{"n_components": 2, **settings}).fit(X)


def test_other_columns__are_refused():
    gm = sem.GaussianMixture(2, random_state=0).fit(X)
    for method in (gm.predict, gm.predict_proba, gm.score_samples, gm.score, gm.summarize):
        with pytest.raises(sem.InputError, match="2 columns, but the fit had 3"):
            method(X[:, :2])


def test_unfitted__says_so():
    gm = sem.GaussianMixture(2)
    for use in (
        lambda: gm.means_,
        lambda: gm.predict(X),
        gm.bic,
        gm.sample,
        lambda: gm.save("x"),
        lambda: gm.lower_bound_,
    ):
        with pytest.raises(sem.NotFittedError, match="Call fit first"):
            use()


def test_memory_limit__that_cannot_be_met_is_refused_before_reading(tmp_path):
    z = zarr.create_array(tmp_path / "x.zarr", shape=(100_000, 8), chunks=(100_000, 8), dtype="f8")
    z[:] = 1.0
    with pytest.raises(sem.MemoryLimitError, match=r"x\.zarr"):
        sem.GaussianMixture(2, memory_limit="1MiB").fit(z)


def test_non_finite_row__is_named(tmp_path):
    x = X.copy()
    x[1234, 2] = np.inf
    z = zarr.create_array(tmp_path / "x.zarr", shape=x.shape, chunks=(500, 3), dtype="f8")
    z[:] = x
    with pytest.raises(sem.NonFiniteError, match=r"x\.zarr.*row 1,234, column 2"):
        sem.GaussianMixture(2).fit(z)


def test_outputs__stream_to_disk(tmp_path):
    gm = sem.GaussianMixture(4, random_state=0).fit(X)
    z = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(321, 3), dtype="f8")
    z[:] = X
    np.testing.assert_array_equal(gm.predict(z, out=tmp_path / "l.zarr")[:], gm.predict(X))
    np.testing.assert_array_equal(gm.score_samples(z, out=tmp_path / "s.npy"), gm.score_samples(X))
    np.testing.assert_array_equal(gm.predict_proba(z, out=tmp_path / "p.zarr")[:], gm.predict_proba(X))
    with pytest.raises(sem.InputError, match="overwrite"):
        gm.predict(z, out=tmp_path / "l.zarr")
    gm.predict(z, out=tmp_path / "l.zarr", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l.zarr", "p.zarr", "s.npy", "x.zarr"]


def test_failing_predict__leaves_no_output(tmp_path):
    gm = sem.GaussianMixture(4, random_state=0).fit(X)
    bad = X.copy()
    bad[-1] = np.nan
    with pytest.raises(sem.NonFiniteError):
        gm.predict(bad, out=tmp_path / "l.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("covariance_type", TYPES)
def test_saved_model__loads_to_the_same(tmp_path, covariance_type):
    gm = sem.GaussianMixture(4, covariance_type=covariance_type, random_state=0, max_iter=500).fit(X)
    other = sem.load(gm.save(tmp_path / "m.npz"))
    assert repr(other) == repr(gm)
    np.testing.assert_array_equal(other.predict_proba(X), gm.predict_proba(X))
    assert (other.bic(), other.icl(), other.converged_) == (gm.bic(), gm.icl(), gm.converged_)
    assert other.lower_bounds_ == gm.lower_bounds_
    np.testing.assert_array_equal(other.sample(10)[0], gm.sample(10)[0])
    again = other.summarize(X)
    np.testing.assert_array_equal(other.update(again).means_, gm.update(gm.summarize(X)).means_)


def test_summaries__of_parts_merge_to_the_whole():
    gm = sem.GaussianMixture(4, random_state=0, max_iter=3, acceleration="none", tol=0)
    with pytest.warns(sem.ConvergenceWarning):
        gm.fit(X)
    parts = [gm.summarize(part) for part in (X[:100], X[100:101], X[101:])]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    whole = gm.summarize(X)
    np.testing.assert_allclose(merged.sum_wyy, whole.sum_wyy, rtol=1e-11, atol=1e-9)
    before = gm.score(X)
    assert gm.update(merged).score(X) > before


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sample__has_the_moments_of_the_mixture(covariance_type):
    gm = sem.GaussianMixture(4, covariance_type=covariance_type, random_state=0, max_iter=500).fit(X)
    x, labels = gm.sample(200_000)
    assert x.shape == (200_000, 3)
    np.testing.assert_allclose(np.bincount(labels) / len(x), gm.weights_, atol=0.005)
    full = gm.params_.shape
    for k in range(4):
        np.testing.assert_allclose(x[labels == k].mean(axis=0), gm.means_[k], atol=0.1)
    refit = sem.GaussianMixture(4, covariance_type=covariance_type, init_params=labels, tol=1e-4).fit(x)
    np.testing.assert_allclose(refit.covariances_, gm.covariances_, rtol=0.05, atol=0.05)
    assert full is refit.params_.shape
    with pytest.raises(sem.InputError, match="n_samples"):
        gm.sample(0)


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_scheduler__changes_no_bit(tmp_path, workers, scheduler):
    z = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(37, 3), dtype="f8")
    z[:] = X
    with dask.config.set(num_workers=workers):
        gm = sem.GaussianMixture(4, random_state=0).fit(z, scheduler=scheduler)
    reference = sem.GaussianMixture(4, random_state=0).fit(z, scheduler="synchronous")
    assert gm.lower_bounds_ == reference.lower_bounds_
    np.testing.assert_array_equal(gm.covariances_, reference.covariances_)


@pytest.mark.slow
def test_processes_and_cluster__change_no_bit(tmp_path):
    from distributed import Client, LocalCluster

    z = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(37, 3), dtype="f8")
    z[:] = X
    path = str(tmp_path / "x.zarr")
    reference = sem.GaussianMixture(4, random_state=0).fit(path)
    with dask.config.set(num_workers=2):
        fits = [sem.GaussianMixture(4, random_state=0).fit(path, scheduler="processes")]
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=False) as cluster,
        Client(cluster) as client,
    ):
        fits.append(sem.GaussianMixture(4, random_state=0).fit(path, client=client))
        fits.append(sem.GaussianMixture(4, random_state=0).fit(path))  # finds the active client
        fits.append(sem.GaussianMixture(4, random_state=0).fit(path, scheduler=cluster.scheduler_address))
        labels = fits[-1].predict(path, client=client)
        inside = client.submit(
            lambda: sem.GaussianMixture(4, random_state=0).fit(path).means_, pure=False
        ).result()
    for gm in fits:
        assert gm.lower_bounds_ == reference.lower_bounds_
        np.testing.assert_array_equal(gm.covariances_, reference.covariances_)
    np.testing.assert_array_equal(inside, reference.means_)
    np.testing.assert_array_equal(labels, reference.predict(path))


def test_chunking__changes_the_fit_by_rounding_only():
    given, _ = start("full")
    fits = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        for chunks in (1, 37, 3000):
            blocks = dask.array.from_array(X, chunks=(chunks if chunks > 1 else (1, 2999), 3))
            fits.append(sem.GaussianMixture(4, acceleration="none", tol=0, max_iter=10, **given).fit(blocks))
    for gm in fits[1:]:
        np.testing.assert_allclose(gm.means_, fits[0].means_, rtol=1e-10)


def test_fits__run_side_by_side_in_threads():
    reference = sem.GaussianMixture(4, random_state=0).fit(X)
    means = []
    threads = [
        threading.Thread(target=lambda: means.append(sem.GaussianMixture(4, random_state=0).fit(X).means_))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(means) == 4
    for got in means:
        np.testing.assert_array_equal(got, reference.means_)


def test_estimator__has_scikit_learns_manners():
    gm = sem.GaussianMixture(3, tol=1e-5, random_state=0)
    assert gm.get_params()["tol"] == 1e-5
    assert repr(gm) == "GaussianMixture(n_components=3, tol=1e-05, random_state=0)"
    assert gm.set_params(n_components=4) is gm
    with pytest.raises(sem.InputError, match="no parameter 'k'"):
        gm.set_params(k=1)
    clone = sklearn.base.clone(gm)
    assert clone is not gm
    assert clone.get_params() == gm.get_params()
    np.testing.assert_array_equal(gm.fit_predict(X), clone.fit(X).predict(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(gm)).means_, gm.means_)


def test_bic__at_the_effective_sample_size():
    """−2 n̄ ℓ/Σw + p log n̄ with n̄ = (Σw)²/Σw², whatever the scale of the weights."""
    gm = sem.GaussianMixture(2, random_state=0, max_iter=500).fit(X, sample_weight=WEIGHT)
    size = WEIGHT.sum() ** 2 / (WEIGHT**2).sum()
    assert size < len(X)
    mean = (WEIGHT @ gm.score_samples(X)) / WEIGHT.sum()
    expected = -2 * size * mean + 19 * np.log(size)
    assert gm.bic(effective="kish") == pytest.approx(expected, rel=1e-9)
    scaled = sem.GaussianMixture(2, random_state=0, warm_start=True, max_iter=500)
    scaled.params_, scaled.model_ = gm.params_, gm.model_
    scaled.fit(X, sample_weight=7 * WEIGHT)
    assert scaled.bic(effective="kish") == pytest.approx(expected, rel=1e-3)
    assert scaled.bic() == pytest.approx(7 * gm.bic(), rel=1e-2)


def test_bic__of_equal_rows_is_the_same_either_way(tmp_path):
    gm = sem.GaussianMixture(2, random_state=0, max_iter=500).fit(X)
    assert gm.bic(effective="kish") == gm.bic()
    assert gm.bic(X, effective="kish") == gm.bic(X)
    assert sem.load(gm.save(tmp_path / "m.npz")).bic(effective="kish") == gm.bic()
    with pytest.raises(sem.InputError, match="effective: expected"):
        gm.bic(effective="rows")
