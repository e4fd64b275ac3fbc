"""scikit-learn's checks of an estimator, and its tools that take one: no base class of theirs is needed."""

import warnings

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import streamem as sem
from tests.strategies import clusters

X, _ = clusters(n=600, k=3, d=2)

DELIBERATE = {
    "check_estimators_unfitted": "NotFittedError is ours, of the same bases: scikit-learn is not imported",
    "check_dtype_object": "rows are read once, as they are stored: a dtype must say what they are",
    "check_complex_data": "a ValueError in our words: which array, and what to give instead",
    "check_estimators_empty_data_messages": "a ValueError in our words: which array, and its shape",
    "check_estimators_nan_inf": "a ValueError in our words: which block, row and column",
    "check_fit2d_predict1d": "a ValueError in our words: how to reshape a column or a row",
    "check_n_features_in_after_fitting": "a ValueError in our words: which array, and both numbers",
}
"""Checks that fail, and why that is meant."""

ONE_COMPONENT = {
    name: "sets n_components=1 and passes classes 0 and 1: a label that names no component is refused"
    for name in (
        "check_dont_overwrite_parameters",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
        "check_fit2d_1sample",
        "check_fit2d_1feature",
    )
}
"""Checks that fail where the classes that all of them pass as ``y`` are taken for what they say."""

STARTS = {"check_sample_weight_equivalence_on_dense_data": "other rows, if only repeated, are other starts"}
"""What fails with several components, which have a choice of where to start, with or without labels."""


class WithoutLabels:
    """An estimator under checks that pass classes where it has components: ``y`` stays away from it."""

    def fit(self, X, y=None, sample_weight=None):
        return super().fit(X, sample_weight=sample_weight)

    def fit_predict(self, X, y=None, sample_weight=None):
        return super().fit_predict(X, sample_weight=sample_weight)

    def score(self, X, y=None, sample_weight=None):
        return super().score(X, sample_weight=sample_weight)


class Gaussian(WithoutLabels, sem.GaussianMixture):
    pass


class Bayesian(WithoutLabels, sem.BayesianGaussianMixture):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [Gaussian, Bayesian])
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_scikit_learns_checks__fail_only_where_it_is_meant(estimator, covariance_type):
    assert_fails(estimator(covariance_type=covariance_type, random_state=0), DELIBERATE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "also"), [(sem.GaussianMixture, STARTS), (sem.BayesianGaussianMixture, {})]
)
def test_scikit_learns_checks__with_their_classes_as_labels(estimator, also):
    """Enough components for all classes: labels count, and every other check holds all the same."""
    assert_fails(estimator(3, random_state=0), DELIBERATE | ONE_COMPONENT | also)


def assert_fails(gm, deliberate):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # skipped checks, fits that need more passes
        results = check_estimator(gm, on_skip=None, on_fail=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert len(results) > 40
    assert set(failed) == set(deliberate), failed


def test_pipeline__predicts_and_scores():
    model = make_pipeline(StandardScaler(), sem.GaussianMixture(3, random_state=0))
    labels = model.fit_predict(X)
    scaled = StandardScaler().fit_transform(X)
    direct = sem.GaussianMixture(3, random_state=0).fit(scaled)
    np.testing.assert_array_equal(labels, direct.predict(scaled))
    np.testing.assert_array_equal(model.predict(X), labels)
    np.testing.assert_array_equal(model.score_samples(X), direct.score_samples(scaled))
    assert model.score(X) == direct.score(scaled)


def test_pipeline__passes_labels_on():
    y = np.full(len(X), -1)
    nearest = sem.GaussianMixture(3, random_state=0).fit(X).predict(X)
    y[::20] = (nearest[::20] + 1) % 3
    model = make_pipeline(StandardScaler(), sem.GaussianMixture(3, random_state=0)).fit(X, y)
    assert np.mean(model.predict(X) == (nearest + 1) % 3) > 0.95
    assert model.score(X, y) < model.score(X)  # a label is one more thing to be right about


def test_grid_search__chooses_the_number_of_components():
    """Held-out likelihood, which is what ``score`` returns: one component is far too few for three."""
    search = GridSearchCV(sem.GaussianMixture(random_state=0, tol=1e-3), {"n_components": [1, 3]}, cv=3)
    assert search.fit(X).best_params_ == {"n_components": 3}
    np.testing.assert_array_equal(search.predict(X), search.best_estimator_.predict(X))


def test_cross_validation__returns_held_out_likelihoods():
    scores = cross_val_score(sem.GaussianMixture(3, random_state=0, tol=1e-3), X, cv=3)
    whole = sem.GaussianMixture(3, random_state=0).fit(X).score(X)
    np.testing.assert_allclose(scores, whole, atol=0.5)
