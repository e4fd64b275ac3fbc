"""Ways to go wrong that must not go unnoticed: foreign shapes, changed settings, outputs over inputs."""

import os
import warnings

import dask
import dask.array
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import streamem as sem
from streamem.convergence import PassProgress
from tests.strategies import clusters

X, _ = clusters(n=2000, k=3, d=3)


@pytest.fixture
def fitted():
    return sem.GaussianMixture(3, random_state=0, tol=1e-3).fit(X)


@pytest.fixture
def store(tmp_path):
    z = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(333, 3), dtype="f8")
    z[:] = X
    return z


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_parameters_for_other_columns__are_refused(covariance_type):
    gm = sem.GaussianMixture(2, covariance_type=covariance_type, warm_start=True, random_state=0, tol=1e-3)
    gm.fit(X)
    with pytest.raises(sem.InputError, match="2 columns"):
        gm.fit(X[:, :2].copy())
    with pytest.raises(sem.InputError, match="means_init"):
        sem.GaussianMixture(2, covariance_type=covariance_type, means_init=np.zeros((2, 1))).fit(X)


def test_output_over_its_input__is_refused(fitted, store, tmp_path):
    path = str(tmp_path / "x.zarr")
    for out in (path, store):
        with pytest.raises(sem.InputError):
            fitted.predict(path, out=out, overwrite=True)
    np.testing.assert_array_equal(zarr.open_array(path)[:], X)


def test_output_over_a_group__is_refused(fitted, tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("kept", data=np.arange(5))
    with pytest.raises(sem.InputError):
        fitted.predict(X, out=tmp_path / "g.zarr", overwrite=True)
    assert zarr.open_group(tmp_path / "g.zarr")["kept"][3] == 3


def test_settings_changed_after_a_fit__do_not_leak_into_its_results(fitted, tmp_path):
    bic, proba = fitted.bic(), fitted.predict_proba(X)
    fitted.set_params(covariance_type="diag", n_components=5)
    assert fitted.bic() == bic
    np.testing.assert_array_equal(fitted.predict_proba(X), proba)
    np.testing.assert_array_equal(sem.load(fitted.save(tmp_path / "m.npz")).predict_proba(X), proba)


def test_warm_start__with_another_model_is_refused(fitted):
    for change in ({"n_components": 4}, {"covariance_type": "diag"}):
        gm = sem.GaussianMixture(3, random_state=0, tol=1e-3, warm_start=True).fit(X)
        with pytest.raises(sem.InputError, match="warm_start"):
            gm.set_params(**change).fit(X)


@pytest.mark.parametrize("given", [np.zeros(1999, int), np.zeros(2001, int), np.zeros((5, 3))])
def test_labels_of_another_length__are_refused(given):
    with pytest.raises(sem.InputError, match="init_params"):
        sem.GaussianMixture(3, init_params=given).fit(X)


@pytest.mark.parametrize("value", [1e160, 1e300])
def test_values_whose_squares_overflow__are_refused_with_their_column(value):
    x = X.copy()
    x[7, 1] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(sem.InputError, match="column 1"):
            sem.GaussianMixture(3).fit(x)


@pytest.mark.slow
def test_processes__predict_what_threads_do(fitted, store, tmp_path):
    with dask.config.set(num_workers=2):
        for method in ("predict", "score_samples", "predict_proba"):
            there = getattr(fitted, method)(str(tmp_path / "x.zarr"), scheduler="processes")
            np.testing.assert_array_equal(there, getattr(fitted, method)(X))


@pytest.mark.slow
def test_cluster__of_other_folders_reads_the_same_store_or_none(fitted, store, tmp_path, monkeypatch):
    """A relative path means the driver's; workers elsewhere must not take a missing store for zeros."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        monkeypatch.chdir(tmp_path)
        gm = sem.GaussianMixture(3, random_state=0, tol=1e-3).fit("x.zarr", client=client)
        np.testing.assert_array_equal(
            gm.means_, sem.GaussianMixture(3, random_state=0, tol=1e-3).fit(store).means_
        )

        def fail(event):
            if isinstance(event, PassProgress):
                raise RuntimeError("from a callback")

        with pytest.raises(RuntimeError, match="from a callback"):
            sem.GaussianMixture(3).fit("x.zarr", client=client, callbacks=[fail])
        client.run(lambda path: os.rename(path, path + ".moved"), str(tmp_path / "x.zarr"))
        os.makedirs(tmp_path / "x.zarr")
        with pytest.raises((sem.SourceError, sem.InputError)):
            gm.fit("x.zarr", client=client)


def test_numbers_of_numpy__are_numbers():
    settings = {"tol": np.float32(1e-3), "reg_covar": np.float64(1e-6), "sample_size": np.int64(500)}
    assert sem.GaussianMixture(np.int64(3), random_state=0, **settings).fit(X).converged_


@pytest.mark.parametrize("random_state", [-1, 1.5, "a"])
def test_random_state__that_is_none_is_refused(random_state):
    with pytest.raises(sem.InputError, match="random_state"):
        sem.GaussianMixture(3, random_state=random_state).fit(X)


def test_sample__too_small_for_the_components_is_not_blamed_on_the_rows():
    with pytest.raises(sem.InputError, match="Raise sample_size or memory_limit"):
        sem.GaussianMixture(3, sample_size=2).fit(X)


def test_library__says_nothing_unless_asked(capfd):
    x = np.repeat(X[:3], 50, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sem.GaussianMixture(6, random_state=0, verbose=1, acceleration="none").fit(x)
    assert capfd.readouterr() == ("", "")
