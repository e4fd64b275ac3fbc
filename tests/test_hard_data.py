"""Data that breaks other tools: each case gives the right fit or a clear error, and never NaN."""

import os
import warnings

import numpy as np
import pytest

import streamem as sem
from streamem.convergence import Status
from streamem.models.covariance import COVARIANCES

from .strategies import clusters

TYPES = tuple(COVARIANCES)
X, CENTERS = clusters(n=3000, k=3, d=3)
LABELS = ((X[:, None] - CENTERS) ** 2).sum(axis=2).argmin(axis=1)
X = (X - X.mean(axis=0)) / X.std(axis=0)
RNG = np.random.default_rng(4)


def fit(x, k=3, covariance_type="full", **settings):
    """A fit that must not contain NaN, Inf or a covariance that is not positive definite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        gm = sem.GaussianMixture(k, covariance_type=covariance_type, **{"random_state": 0, **settings}).fit(x)
    for values in (gm.weights_, gm.means_, gm.covariances_, gm.precisions_cholesky_, gm.lower_bounds_):
        assert np.all(np.isfinite(values))
    assert gm.result_.status is not Status.FELL
    assert gm.weights_.sum() == pytest.approx(1)
    diagonals = (
        np.diagonal(gm.params_.cholesky, axis1=-2, axis2=-1)
        if covariance_type in ("full", "tied")
        else gm.params_.cholesky
    )
    assert np.all(diagonals > 0)
    assert np.all(np.isfinite(gm.score_samples(x)))
    np.testing.assert_allclose(gm.predict_proba(x).sum(axis=1), 1)
    return gm


def known(x, covariance_type, **settings):
    """A fit from known labels, so that two versions of the same data start alike.

    They are so far from the optimum, and the passes so few, that each still gains more than float32 rounds
    (3e-4 nats per row at least), and both make the same number.
    """
    return fit(x, 3, covariance_type, init_params=LABELS, tol=0, max_iter=5, acceleration="none", **settings)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_offset__of_1e8_standard_deviations_changes_nothing(covariance_type, dtype):
    """The reference is fitted to the rows as they became; means themselves end at digit 16, 6e-8 here."""
    offset = np.array([1e8, -1e8, 3e8]) if dtype == np.float64 else np.array([1e4, -1e4, 3e4])
    moved = (X + offset).astype(dtype)
    gm, reference = known(moved, covariance_type), known(moved.astype(float) - offset, covariance_type)
    digits = 2e-7 if dtype == np.float64 else 1e-5  # of the kernels: float32 rows are computed in float32
    assert gm.lower_bound_ == pytest.approx(reference.lower_bound_, abs=min(digits, 1e-6))
    np.testing.assert_allclose(gm.means_ - offset, reference.means_, atol=10 * digits)
    np.testing.assert_allclose(gm.covariances_, reference.covariances_, rtol=10 * digits, atol=digits)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "tied_diag"])
def test_scales__from_1e_minus_9_to_1e9_change_nothing(covariance_type):
    scale = np.array([1e-9, 1.0, 1e9])
    gm, reference = known(X * scale, covariance_type), known(X, covariance_type)
    assert gm.lower_bound_ + np.log(scale).sum() == pytest.approx(reference.lower_bound_, abs=1e-11)
    np.testing.assert_allclose(gm.means_ / scale, reference.means_, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_condition__of_1e12_changes_nothing(covariance_type):
    """Rotated so that no scaling of columns helps; the rows hold the thin direction to about 1e-10."""
    rotation = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    stretch = rotation * np.array([1.0, 1e-3, 1e-6])
    gm, reference = known(X @ stretch.T, covariance_type), known(X, covariance_type)
    assert gm.lower_bound_ + np.log(1e-9) == pytest.approx(reference.lower_bound_, abs=1e-7)
    np.testing.assert_allclose(gm.means_, reference.means_ @ stretch.T, atol=1e-7)
    np.testing.assert_allclose(gm.predict_proba(X @ stretch.T), reference.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("constant", [0.0, 7.3, -1e12])
def test_constant_column__changes_no_responsibility(covariance_type, constant):
    wide = np.column_stack([X, np.full(len(X), constant)])
    gm = known(wide, covariance_type)
    np.testing.assert_array_equal(gm.means_[:, 3], constant)
    if not covariance_type.endswith("spherical"):
        np.testing.assert_allclose(
            gm.predict_proba(wide), known(X, covariance_type).predict_proba(X), atol=1e-6
        )


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "tied_diag"])
def test_constant_column__with_missing_values_keeps_one_variance(covariance_type):
    """What is missing in it has no more variance than what is there: it tells no component from another."""
    wide = np.column_stack([X, np.where(RNG.random(len(X)) < 0.3, np.nan, 1e8)])
    gm, reference = known(wide, covariance_type, missing="marginal"), known(X, covariance_type)
    variance = gm.covariances_[..., 3] if covariance_type.endswith("diag") else gm.covariances_[..., 3, 3]
    np.testing.assert_allclose(variance, 1e10, rtol=1e-9)
    np.testing.assert_allclose(gm.predict_proba(wide), reference.predict_proba(X), atol=1e-6)
    assert np.all(np.diff([record.objective for record in gm.result_.history]) >= 0)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize("apart", [1e-6, 0.02, 30.0])
def test_two_rows_far_from_zero__are_no_fall(covariance_type, apart):
    """The deviation from the line through them is less than the last digit of their mean."""
    x = np.array([[1e8, 0.0], [1e8 + apart, 9.0]])[[0, 1, 1, 0, 1, 1]]
    fit(x, 2, covariance_type, tol=0, max_iter=30)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_linearly_dependent_columns__are_fitted(covariance_type):
    for wide in (np.column_stack([X, X]), np.column_stack([X, X.sum(axis=1)])):
        gm = fit(wide, covariance_type=covariance_type)
        assert len(set(gm.predict(wide))) == 3


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("value", [0.0, 2.5, 1e8])
@pytest.mark.parametrize("k", [1, 3])
def test_equal_rows__are_fitted(covariance_type, value, k):
    gm = fit(np.full((50, 2), value), k, covariance_type)
    np.testing.assert_allclose(gm.means_[gm.weights_ > 0], value)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_duplicates__are_fitted_even_with_more_components_than_distinct_rows(covariance_type):
    for k in (3, 5, 8):
        gm = fit(np.repeat(X[:5], 40, axis=0), k, covariance_type)
        assert gm.lower_bound_ > fit(np.repeat(X[:5], 40, axis=0), 1, covariance_type).lower_bound_


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_component__is_the_mean_and_covariance(covariance_type):
    gm = fit(X, 1, covariance_type, reg_covar=0)
    full = np.cov(X.T, bias=True)
    expected = {
        "full": full[None],
        "tied": full,
        "diag": np.diag(full)[None],
        "spherical": [np.trace(full) / 3],
        "tied_diag": np.diag(full),
        "tied_spherical": np.trace(full) / 3,
    }
    np.testing.assert_allclose(gm.means_[0], X.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(gm.covariances_, expected[covariance_type], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_few_rows__are_fitted_or_refused(covariance_type):
    with pytest.raises(sem.InputError, match="n_components=3 is more than the 2 rows"):
        fit(X[:2], 3, covariance_type)
    for n, k in ((1, 1), (3, 3), (4, 3), (2, 1)):
        assert fit(X[:n], k, covariance_type).predict(X[:n]).shape == (n,)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_column__is_fitted(covariance_type):
    x = np.concatenate([RNG.normal(-5, 1, (300, 1)), RNG.normal(5, 1, (300, 1))])
    gm = fit(x, 2, covariance_type)
    np.testing.assert_allclose(np.sort(gm.means_[:, 0]), [-5, 5], atol=0.3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_hot_and_integer_columns__are_fitted(covariance_type):
    fit(np.eye(6)[RNG.integers(6, size=500)], 4, covariance_type)
    fit(RNG.integers(0, 3, size=(500, 4)), 4, covariance_type)
    fit(RNG.integers(0, 2, size=(500, 4)).astype(bool), 2, covariance_type)


def survey(questions, answers):
    """Answers to some questions, with so many in all, asked of 1,477: one-hot rows of six kinds."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(answers - 2 * questions, np.full(questions, 1 / questions)) + 2
    kind = rng.integers(6, size=1477)
    chances = [rng.dirichlet(np.full(count, 0.1), size=6) for count in counts]
    columns = [np.array([rng.choice(len(p[0]), p=p[k]) for k in kind]) for p in chances]
    return np.concatenate([np.eye(n)[column] for n, column in zip(counts, columns, strict=True)], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("covariance_type", ["tied", "diag", "spherical"])
def test_five_hundred_components__on_one_hot_rows_stay_finite(covariance_type):
    """More components than rows that differ much."""
    x = survey(40, 284)
    assert x.shape == (1477, 284)
    fit(x, 500, covariance_type, max_iter=3)


@pytest.mark.slow
@pytest.mark.parametrize("on_degenerate", ["freeze", "drop"])
def test_five_hundred_full_covariances__on_one_hot_rows_never_fall(on_degenerate):
    """Starting at rows, many of them alike, and one far away; a quarter of the columns, to save time."""
    x = survey(10, 71)
    start = x[np.random.default_rng(1).choice(len(x), 500, replace=False)]
    start[7] = 40.0
    gm = fit(x, 500, means_init=start, on_degenerate=on_degenerate, acceleration="none", max_iter=3)
    objectives = np.array([entry.objective for entry in gm.result_.history])
    assert np.all(np.diff(objectives) > -1e-12 * np.abs(objectives[1:]))
    found = {(event.kind, event.component) for entry in gm.result_.history for event in entry.events}
    assert ("empty-component", 7) in found
    dropped = sum(kind == "dropped-component" for kind, _ in found)
    assert (dropped > 0) == (on_degenerate == "drop")
    assert len(gm.weights_) == 500 - dropped


@pytest.mark.parametrize("covariance_type", TYPES)
def test_cluster_of_three_rows__is_found(covariance_type):
    few = 40 + 0.5 * np.eye(3)
    gm = fit(np.concatenate([X[:, :3], few]), 4, covariance_type)
    k = gm.means_[:, 0].argmax()
    np.testing.assert_allclose(gm.means_[k], few.mean(axis=0), atol=1e-6)
    assert gm.weights_[k] == pytest.approx(3 / (len(X) + 3), rel=1e-4)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_negative_zeros__are_zeros(covariance_type):
    x = np.where(np.abs(X) < 0.5, 0.0, X)
    gm, negative = (fit(rows, 3, covariance_type) for rows in (x, np.where(x == 0, -0.0, x)))
    np.testing.assert_array_equal(gm.means_, negative.means_)
    np.testing.assert_array_equal(gm.covariances_, negative.covariances_)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_float32__is_fitted_as_well_as_float64(covariance_type):
    gm, reference = known(X.astype(np.float32), covariance_type), known(X, covariance_type)
    assert gm.lower_bound_ == pytest.approx(reference.lower_bound_, rel=1e-6)
    np.testing.assert_allclose(gm.means_, reference.means_, atol=1e-4)
    exact = known(X.astype(np.float32), covariance_type, precision="float64")
    rounded = known(X.astype(np.float32).astype(float), covariance_type)
    np.testing.assert_array_equal(exact.means_, rounded.means_)
    assert not np.array_equal(exact.means_, gm.means_)


def test_float32__is_not_used_where_whitening_would_eat_its_digits():
    """Columns that are nearly the same: the fit of float32 rows is exactly that in float64."""
    x = np.column_stack([X[:, 0], X[:, 0] + 1e-4 * X[:, 1]]).astype(np.float32)
    auto, exact = known(x, "full"), known(x, "full", precision="float64")
    np.testing.assert_array_equal(auto.covariances_, exact.covariances_)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("scale", [1e150, 1e-150, 5e-324])
def test_absurd_magnitudes__are_right_or_refused(covariance_type, scale):
    try:
        gm = fit(X * scale, 3, covariance_type)
    except (sem.InputError, sem.DegenerateComponentError):
        return
    if scale != 5e-324:
        assert len(set(gm.predict(X * scale))) == 3


@pytest.mark.parametrize("covariance_type", TYPES)
def test_sorted_rows__are_fitted_as_well_as_shuffled(covariance_type):
    order = np.argsort(LABELS, kind="stable")
    sorted_rows = fit(X[order], 3, covariance_type, max_iter=1000)
    shuffled = fit(X, 3, covariance_type, max_iter=1000)
    assert sorted_rows.lower_bound_ == pytest.approx(shuffled.lower_bound_, abs=1e-4)


@pytest.mark.parametrize("d", [32, 100])
def test_many_dimensions__keep_responsibilities_right(d):
    """Densities of separated clusters underflow long before their logarithms do."""
    labels = RNG.integers(3, size=2000)
    x = RNG.normal(0, 10, (3, d))[labels] + RNG.normal(size=(2000, d))
    gm = fit(x, 3, "full")
    resp = gm.predict_proba(x)
    assert np.all(resp.max(axis=1) > 1 - 1e-9)
    found = resp.argmax(axis=1)
    assert len({(a, b) for a, b in zip(labels, found, strict=True)}) == 3


@pytest.mark.parametrize("covariance_type", TYPES)
def test_collapse__without_a_penalty_is_a_clear_error_or_the_best_so_far(covariance_type):
    x = np.repeat(X[:5], 40, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        gm = sem.GaussianMixture(5, covariance_type=covariance_type, reg_covar=0, random_state=0)
        try:
            gm.fit(x)
        except sem.DegenerateComponentError as raised:
            error = raised
        else:
            error = None
            assert np.all(np.isfinite(gm.means_))
    assert error is None or "reg_covar" in str(error)


def random_trial(seed, estimator=sem.GaussianMixture, **settings):
    """Fit something awkward: finite numbers whatever comes, and no fall; or a clear refusal."""
    rng = np.random.default_rng(seed)
    n, d, k = rng.integers(1, 80), rng.integers(1, 5), rng.integers(1, 9)
    x = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-9, 10, d) + rng.choice([0, 1e8], d)
    x = x[rng.integers(0, max(1, n // rng.integers(1, 8)), n)]
    weight = rng.integers(0, 3, n) if rng.random() < 0.5 else None
    if weight is not None and rng.random() < 0.3:
        weight[: n // 2] = 0
    if rng.random() < 0.3:  # dropouts: values that are nothing
        x[rng.random(x.shape) < 0.4] = 0
    if rng.random() < 0.3:
        x[rng.random(x.shape) < 0.2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        try:
            gm = estimator(
                int(k),
                covariance_type=TYPES[seed % len(TYPES)],
                random_state=seed,
                max_iter=30,
                missing="marginal",
                acceleration=rng.choice(["auto", "anderson", "none"]),
                **settings,
            ).fit(x, sample_weight=weight)
        except sem.InputError:
            return
    for values in (gm.weights_, gm.means_, gm.covariances_, gm.lower_bounds_):
        assert np.all(np.isfinite(values)), seed
    assert gm.result_.status is not Status.FELL, seed
    rises = np.diff([record.objective for record in gm.result_.history])
    assert np.all(rises > -1e-9 * abs(gm.lower_bound_)), seed


@pytest.mark.parametrize("block", range(10))
def test_random_trials__never_end_in_nan(block):
    """Dropouts, repeats, scales, offsets, gaps, K too large. STREAMEM_TRIALS=10000 makes more than 300."""
    for seed in range(block, int(os.environ.get("STREAMEM_TRIALS", "300")), 10):
        random_trial(seed, on_degenerate=("reseed", "drop", "freeze")[seed // len(TYPES) % 3])


@pytest.mark.parametrize("prior", ["dirichlet_process", "dirichlet_distribution"])
def test_random_trials__of_the_variational_mixture_never_end_in_nan(prior):
    for seed in range(int(os.environ.get("STREAMEM_TRIALS", "300")) // 5):
        random_trial(seed, sem.BayesianGaussianMixture, weight_concentration_prior_type=prior)
