"""Fits in which the component of some rows is known: from any source, on any scheduler, to the same bits."""

import warnings

import dask.array
import numpy as np
import pytest
import zarr

import streamem as sem
from streamem.models.covariance import COVARIANCES

RNG = np.random.default_rng(0)
N = 6000
CLASS = RNG.integers(3, size=N)
X = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])[CLASS] + RNG.normal(size=(N, 2))
Y = np.where(RNG.random(N) < 0.05, CLASS, -1)
TYPES = tuple(COVARIANCES)
ESTIMATED = ("weights_", "means_", "covariances_")


def mixture(k=3, **settings):
    return sem.GaussianMixture(k, **{"random_state": 0, "max_iter": 300} | settings)


def accuracy(gm, x=X, labels=CLASS):
    return np.mean(gm.predict(x) == labels)


def assert_same(a, b):
    for name in ESTIMATED:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.lower_bounds_ == b.lower_bounds_


@pytest.mark.parametrize("estimator", [sem.GaussianMixture, sem.BayesianGaussianMixture])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_labels__say_which_component_is_which(estimator, order):
    order = np.array(order)
    gm = estimator(3, random_state=0, max_iter=300).fit(X, np.where(Y >= 0, order[Y], -1))
    assert accuracy(gm, labels=order[CLASS]) > 0.93
    assert gm.converged_


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("acceleration", ["auto", "none"])
def test_start__is_guided_by_labels_of_few_rows(init, acceleration):
    """Ten of each class among 6000 rows, of which the sample holds a few hundred, decide the numbers."""
    few = np.full(N, -1)
    for c in range(3):
        few[np.flatnonzero(c == CLASS)[:10]] = (c + 1) % 3
    gm = mixture(init_params=init, acceleration=acceleration, sample_size=600, tol=1e-5).fit(X, few)
    assert accuracy(gm, labels=(CLASS + 1) % 3) > 0.93


def test_components_without_labels__are_found_as_usual():
    """One class is known and keeps its number; the others take what is left."""
    gm = mixture().fit(X, np.where(Y == 1, 2, -1))
    assert np.mean(gm.predict(X)[CLASS == 1] == 2) > 0.93
    np.testing.assert_allclose(np.sort(gm.means_[:2, 1]), [0, 4], atol=0.2)


def test_unknown_labels__change_no_bit():
    assert_same(mixture().fit(X, np.full(N, -1)), mixture().fit(X))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_all_labels__give_maximum_likelihood_by_class(covariance_type):
    gm = mixture(covariance_type=covariance_type, reg_covar=0.0, tol=1e-12).fit(X, CLASS)
    shares = np.bincount(CLASS) / N
    scatters = np.array([np.cov(X[c == CLASS].T, bias=True) for c in range(3)])
    diagonals = np.array([np.diag(s) for s in scatters])
    expected = {
        "full": scatters,
        "tied": np.tensordot(shares, scatters, 1),
        "diag": diagonals,
        "spherical": diagonals.mean(axis=1),
        "tied_diag": shares @ diagonals,
        "tied_spherical": shares @ diagonals.mean(axis=1),
    }
    np.testing.assert_allclose(gm.weights_, shares, rtol=1e-9)
    np.testing.assert_allclose(gm.means_, [X[c == CLASS].mean(axis=0) for c in range(3)], rtol=1e-8)
    np.testing.assert_allclose(gm.covariances_, expected[covariance_type], rtol=1e-7, atol=1e-9)


def test_objective__counts_labels_everywhere():
    gm = mixture(tol=1e-9).fit(X, Y)
    joint = (
        np.log(gm.weights_)
        + np.array(
            [
                mixture(1, reg_covar=0.0, means_init=[m], precisions_init=[p], fixed=("means", "covariances"))
                .fit(X)
                .score_samples(X)
                for m, p in zip(gm.means_, gm.precisions_, strict=True)
            ]
        ).T
    )
    known = Y >= 0
    expected = gm.score_samples(X)[~known].sum() + joint[known, Y[known]].sum()
    assert gm.lower_bound_ * N == pytest.approx(expected, rel=1e-9)
    assert gm.score(X, Y) * N == pytest.approx(expected, rel=1e-9)
    assert gm.bic() == pytest.approx(-2 * expected + 17 * np.log(N), rel=1e-9)
    assert gm.score(X) * N == pytest.approx(gm.score_samples(X).sum())
    halves = [gm.summarize(X[part], Y[part]) for part in (slice(0, 2000), slice(2000, N))]
    assert halves[0].merge(halves[1]).log_likelihood == pytest.approx(expected, rel=1e-9)
    assert np.all(np.diff(gm.lower_bounds_) > -1e-12)


def test_predict__goes_by_the_rows_alone():
    gm = mixture()
    predicted = gm.fit_predict(X, (CLASS + 1) % 3)  # every label is known
    np.testing.assert_array_equal(predicted, gm.predict(X))
    assert 0.9 < np.mean(predicted == (CLASS + 1) % 3) < 1


@pytest.mark.parametrize("missing", ["marginal", "drop"])
def test_labels__go_with_missing_values(missing):
    gappy = X.copy()
    gappy[RNG.random(X.shape) < 0.1] = np.nan
    gm = mixture(missing=missing).fit(gappy, (Y + 1) % 3 * (Y >= 0) - (Y < 0))
    assert accuracy(gm, labels=(CLASS + 1) % 3) > 0.93
    if missing == "drop":
        complete = ~np.isnan(gappy).any(axis=1)
        alone = mixture().fit(X[complete], ((Y + 1) % 3 * (Y >= 0) - (Y < 0))[complete])
        np.testing.assert_allclose(gm.means_, alone.means_, atol=1e-3)


def test_labels__of_every_kind_and_chunking_are_the_same_labels(tmp_path):
    z = zarr.create_array(tmp_path / "y.zarr", shape=(N,), chunks=(701,), dtype="i2")
    z[:] = Y
    np.save(tmp_path / "y.npy", Y.astype("f4"))
    kinds = [
        Y,
        Y.tolist(),
        z,
        str(tmp_path / "y.zarr"),
        tmp_path / "y.npy",
        dask.array.from_array(Y, chunks=977),
    ]
    reference = mixture().fit(X, Y)
    for y in kinds:
        assert_same(mixture().fit(X, y), reference)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_labels__give_the_same_bits_on_every_scheduler(tmp_path, scheduler):
    for name, values, chunks in (("x", X, (500, 2)), ("y", Y, (900,))):
        z = zarr.create_array(tmp_path / name, shape=values.shape, chunks=chunks, dtype=values.dtype)
        z[:] = values
    fit = mixture(memory_limit="2MiB").fit(tmp_path / "x", tmp_path / "y", scheduler=scheduler)
    scratch = mixture(memory_limit="2MiB").fit(tmp_path / "x", Y, scratch=tmp_path)
    assert_same(fit, scratch)


def test_checkpoint__is_of_its_labels(tmp_path):
    settings = {"acceleration": "none", "tol": 0}
    warnings.simplefilter("ignore", sem.ConvergenceWarning)
    whole = mixture(**settings, max_iter=6).fit(X, Y)
    mixture(**settings, max_iter=3).fit(X, Y, checkpoint=tmp_path)
    for other in (None, np.where(Y == 0, 1, Y)):
        with pytest.raises(sem.InputError, match="other data"):
            mixture(**settings, max_iter=6).fit(X, other, checkpoint=tmp_path, resume=True)
    assert_same(mixture(**settings, max_iter=6).fit(X, Y, checkpoint=tmp_path, resume=True), whole)


def test_source__carries_labels_of_its_own():
    source = sem.as_source(X, y=Y)
    assert_same(mixture().fit(source), mixture().fit(X, Y))
    with pytest.raises(sem.InputError, match="y was given for a source"):
        mixture().fit(source, Y)
    with pytest.raises(sem.InputError, match="select compares models without labels"):
        sem.select(source, n_components=[2, 3])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.where(np.arange(N) == 4321, 3, -1), r"y: row 4,321 has label 3, but n_components=3"),
        (np.where(np.arange(N) == 4321, 0.5, -1), r"Block .* 1 labels .* row 4,321 \(0\.5\)\. Give whole"),
        (np.where(np.arange(N) == 17, np.nan, 0), r"first in row 17 \(nan\)"),
        (np.where(np.arange(N) == 17, -2, 0), r"first in row 17 \(-2\)"),
        (Y[:-1], r"y has 5,999 values for 6,000 rows"),
        (Y[:, None], r"y must be one number per row"),
        (np.array(["a", "b"])[CLASS % 2], r"labels of dtype <U1 are no whole numbers\. Number the classes"),
    ],
)
def test_labels__that_are_none_are_refused(y, message):
    with pytest.raises(sem.InputError, match=message):
        mixture().fit(X, y)


def test_labels__beyond_the_components_are_refused_in_a_warm_start_too():
    gm = mixture(2, warm_start=True).fit(X)
    for method in (gm.fit, gm.score, gm.summarize):
        with pytest.raises(sem.InputError, match=r"row .* has label 2"):
            method(X, CLASS)


def test_labels__are_refused_by_what_would_ignore_or_renumber_them():
    class Own:
        def init(self, sample, rng):
            return None

    with pytest.raises(sem.InputError, match=r"y: Own does not say that it heeds labels"):
        sem.fit(Own(), X, y=Y)
    with pytest.raises(sem.InputError, match='on_degenerate="drop"'):
        mixture(on_degenerate="drop").fit(X, Y)


def test_own_model__gets_labels_it_takes():
    class Own:
        takes_labels = True
        seen = 0

        def init(self, sample, rng):
            return sem.GaussianMixture(3)._model(False).init(sample, rng)

        def e_step(self, params, rows):
            Own.seen += int((rows.label >= 0).sum())
            return sem.GaussianMixture(3)._model(False).e_step(params, rows)

        def m_step(self, params, stats):
            return params

    sem.fit(Own(), X, y=Y, max_iter=1)
    assert Own.seen == np.count_nonzero(Y >= 0)


def test_reseeding__leaves_components_with_labels_where_they_belong():
    """A component that starts without rows is put elsewhere; those of labelled rows keep their numbers."""
    far = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [500.0, 500.0]])
    gm = mixture(4, means_init=far, precisions_init=np.tile(np.eye(2), (4, 1, 1))).fit(X, Y)
    assert "empty-component" in [event.kind for record in gm.result_.history for event in record.events]
    assert all(np.mean(gm.predict(X[c == CLASS]) == c) > 0.5 for c in range(3))
