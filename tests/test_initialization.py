"""Seeding: responsibilities that are distributions, centres that find clusters, units that do not matter."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from streamem.errors import InputError
from streamem.initialization import METHODS, responsibilities, seeding_rows
from streamem.protocols import Rows

from .strategies import clusters

X, CENTERS = clusters(n=400, k=3)
ROWS = Rows(X, None, 0)


def start(method, rows=ROWS, k=3, seed=0, **keywords):
    return responsibilities(method, rows, k, np.random.default_rng(seed), **keywords)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1, 3, 20])
def test_responsibilities__are_distributions(method, k):
    resp = start(method, k=k)
    assert resp.shape == (400, k)
    assert np.all(resp >= 0)
    np.testing.assert_allclose(resp.sum(axis=1), 1)


@pytest.mark.parametrize("method", METHODS)
def test_responsibilities__follow_the_seed(method):
    np.testing.assert_array_equal(start(method, seed=4), start(method, seed=4))
    assert not np.array_equal(start(method, seed=4), start(method, seed=5)) or method == "kmeans"


@pytest.mark.parametrize("seed", range(4))
def test_kmeans__is_as_good_as_a_reference(seed):
    """Within-cluster scatter, in standard deviations, against scikit-learn's best of ten."""
    x, _ = clusters(n=600, k=5, d=4, seed=seed)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    labels = start("kmeans", Rows(x, None, 0), k=5).argmax(axis=1)
    scatter = sum(((x[labels == j] - x[labels == j].mean(axis=0)) ** 2).sum() for j in range(5))
    assert scatter < 1.02 * KMeans(5, n_init=10, random_state=0).fit(x).inertia_


def test_kmeans__does_not_care_about_units():
    scale = np.array([1e-9, 1.0, 1e9])
    np.testing.assert_array_equal(start("kmeans"), start("kmeans", Rows(X * scale, None, 0)))


def test_seeds__avoid_rows_of_weight_zero():
    """Rows without weight sit far away, where k-means++ would surely go."""
    x = np.concatenate([X, np.full((5, 3), 1e3)])
    weight = np.concatenate([np.ones(400), np.zeros(5)])
    for method in ("kmeans", "k-means++", "random_from_data"):
        resp = start(method, Rows(x, weight, 0))
        assert np.all(resp[:400].sum(axis=0) > 0), method


def test_given_centers__replace_seeding():
    labels = start("kmeans", centers=CENTERS).argmax(axis=1)
    scale = 1 / X.std(axis=0)
    nearest = ((((X[:, None] - CENTERS) * scale) ** 2).sum(axis=2)).argmin(axis=1)
    np.testing.assert_array_equal(labels, nearest)


def test_given_labels__become_responsibilities():
    labels = np.arange(400) % 3
    np.testing.assert_array_equal(start(labels).argmax(axis=1), labels)


def test_given_responsibilities__are_normalised():
    given = np.random.default_rng(0).uniform(0, 4, (400, 3))
    np.testing.assert_allclose(start(given), given / given.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full(400, 3), "must lie in 0..2"),
        (np.full(400, -1), "must lie in 0..2"),
        (np.zeros(399, dtype=int), r"\(400,\)"),
        (np.zeros((400, 3)), "positive sum"),
        (np.full((400, 3), np.nan), "positive sum"),
        (np.ones((400, 2)), r"\(400, 3\)"),
        ("nearest", "expected one of"),
    ],
)
def test_nonsense__is_refused(given, message):
    with pytest.raises(InputError, match=message):
        start(given)


def test_identical_rows__are_no_obstacle():
    rows = Rows(np.full((50, 2), 3.0), None, 0)
    for method in METHODS:
        assert np.all(np.isfinite(start(method, rows)))


def test_seeding_rows__are_few_but_enough():
    rows = Rows(np.zeros((100_000, 1)), np.ones(100_000), 0)
    assert len(seeding_rows(rows, 10).x) == len(seeding_rows(rows, 10).weight) == 16_384
    assert len(seeding_rows(rows, 2000).x) == 40_000
    assert len(seeding_rows(ROWS, 10).x) == 400
