"""Rows with missing values from a store to a fit, to results for each row, and filled in."""

import logging

import numpy as np
import pytest
import zarr

import streamem as sem
from streamem.models.covariance import COVARIANCES
from streamem.sources import as_source
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)
X, CENTERS = clusters(n=6000, k=3, d=3, seed=1)
GAPPY = X.copy()
GAPPY[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
GAPPY[17] = np.nan
COMPLETE = ~np.isnan(GAPPY).any(axis=1)
EMPTY = np.isnan(GAPPY).all(axis=1)


def store(path, x, chunk_rows=700):
    z = zarr.create_array(path, shape=x.shape, chunks=(chunk_rows, x.shape[1]), dtype=x.dtype)
    z[:] = x
    return z


def ordered(gm):
    order = np.argsort(gm.means_[:, 0])
    return gm.means_[order], gm.covariances_ if gm.covariance_type.startswith("tied") else gm.covariances_[
        order
    ]


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_fit__recovers_the_parameters_that_complete_rows_give(covariance_type, share):
    x = X.copy()
    x[np.random.default_rng(5).random(X.shape) < share] = np.nan
    settings = {"covariance_type": covariance_type, "random_state": 0, "n_init": 3}
    whole = sem.GaussianMixture(3, **settings).fit(X)
    gappy = sem.GaussianMixture(3, missing="marginal", **settings).fit(x)
    assert gappy.converged_
    means, covariances = ordered(whole)
    deviation = np.sqrt(np.var(X, axis=0).max())
    np.testing.assert_allclose(ordered(gappy)[0], means, atol=0.05 * deviation)
    np.testing.assert_allclose(ordered(gappy)[1], covariances, atol=0.2 * np.abs(covariances).max())
    assert gappy.stats_.n_samples + gappy.stats_.n_left_out == len(x)
    assert gappy.stats_.n_left_out == np.isnan(x).all(axis=1).sum()


@pytest.mark.parametrize("acceleration", ["auto", "anderson", "none"])
def test_fit__ascends_however_it_is_accelerated(acceleration):
    x = np.tile(GAPPY, (5, 1))  # enough for a sample beside all rows
    gm = sem.GaussianMixture(
        3, missing="marginal", random_state=0, acceleration=acceleration, sample_size=8000
    )
    gm.set_params(tol=1e-9, max_iter=300).fit(x)
    assert gm.converged_
    assert np.all(np.diff([record.objective for record in gm.result_.history]) >= -1e-12)
    best = sem.GaussianMixture(3, missing="marginal", random_state=0, acceleration="none", tol=1e-10)
    best.set_params(max_iter=300).fit(GAPPY)
    assert gm.lower_bound_ == pytest.approx(best.lower_bound_, abs=2e-4)


@pytest.mark.parametrize("missing", ["drop", "marginal"])
def test_fit__of_complete_rows_is_the_same_to_the_bit(missing):
    plain = sem.GaussianMixture(3, random_state=0).fit(X)
    other = sem.GaussianMixture(3, random_state=0, missing=missing).fit(X)
    np.testing.assert_array_equal(other.means_, plain.means_)
    np.testing.assert_array_equal(other.covariances_, plain.covariances_)
    assert other.lower_bounds_ == plain.lower_bounds_
    assert other.stats_.n_left_out == 0


def test_drop__is_the_fit_of_the_complete_rows():
    weight = np.random.default_rng(2).uniform(0.5, 2, len(X))
    settings = {"random_state": 0, "acceleration": "none", "means_init": CENTERS, "reg_covar": 1e-6}
    dropped = sem.GaussianMixture(3, missing="drop", **settings).fit(GAPPY, sample_weight=weight)
    chosen = sem.GaussianMixture(3, **settings).fit(GAPPY[COMPLETE], sample_weight=weight[COMPLETE])
    np.testing.assert_allclose(dropped.means_, chosen.means_, rtol=1e-6)
    assert dropped.stats_.n_samples == COMPLETE.sum()
    assert dropped.stats_.n_left_out == np.sum(~COMPLETE)
    assert dropped.bic() == pytest.approx(chosen.bic(), rel=1e-9)
    assert dropped.score(GAPPY) == pytest.approx(dropped.score(GAPPY[COMPLETE]), rel=1e-12)


def test_drop__labels_rows_with_gaps_minus_one():
    gm = sem.GaussianMixture(3, missing="drop", random_state=0).fit(GAPPY)
    labels, proba, scores = gm.predict(GAPPY), gm.predict_proba(GAPPY), gm.score_samples(GAPPY)
    assert np.all(labels[~COMPLETE] == -1)
    assert np.all(np.isnan(proba[~COMPLETE])) and np.all(np.isnan(scores[~COMPLETE]))
    np.testing.assert_array_equal(labels[COMPLETE], gm.predict(GAPPY[COMPLETE]))
    np.testing.assert_array_equal(proba[COMPLETE], gm.predict_proba(GAPPY[COMPLETE]))
    np.testing.assert_array_equal(scores[COMPLETE], gm.score_samples(GAPPY[COMPLETE]))


def test_marginal__gives_every_row_a_result(tmp_path):
    gm = sem.GaussianMixture(3, missing="marginal", random_state=0).fit(GAPPY)
    labels, proba, scores = gm.predict(GAPPY), gm.predict_proba(GAPPY), gm.score_samples(GAPPY)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(proba[17], gm.weights_, rtol=1e-12)
    assert labels[17] == gm.weights_.argmax() and scores[17] == pytest.approx(0, abs=1e-14)
    assert gm.score(GAPPY) == pytest.approx(scores[~EMPTY].mean(), rel=1e-12)
    count = gm.model_.n_parameters(3)
    assert gm.bic(GAPPY) == pytest.approx(-2 * scores.sum() + count * np.log(np.sum(~EMPTY)), rel=1e-12)
    z = store(tmp_path / "x.zarr", GAPPY, 133)
    np.testing.assert_array_equal(gm.predict_proba(z, out=tmp_path / "p.zarr")[:], proba)
    np.testing.assert_array_equal(gm.score_samples(z), scores)


def test_update__takes_merged_statistics_of_rows_with_gaps():
    gm = sem.GaussianMixture(3, missing="marginal", random_state=0, acceleration="none").fit(GAPPY)
    total = gm.summarize(GAPPY[:2000]).merge(gm.summarize(GAPPY[2000:]))
    whole = gm.summarize(GAPPY)
    assert total.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(total.sum_wyy, whole.sum_wyy, rtol=1e-10, atol=1e-9)
    before = gm.score(GAPPY)
    assert gm.update(total).score(GAPPY) >= before - 1e-12


def test_impute__writes_what_is_observed_and_the_rest_filled_in(tmp_path):
    gm = sem.GaussianMixture(3, missing="marginal", random_state=0).fit(GAPPY)
    filled = gm.impute(GAPPY)
    seen = ~np.isnan(GAPPY)
    np.testing.assert_array_equal(filled[seen], GAPPY[seen])
    np.testing.assert_allclose(filled[17], gm.weights_ @ gm.means_, rtol=1e-12)
    error = np.sqrt(np.mean((filled - X)[~seen] ** 2))
    mean_error = np.sqrt(np.mean((np.nanmean(GAPPY, axis=0) - X)[~seen] ** 2))
    assert error < 0.95 * mean_error
    z = store(tmp_path / "x.zarr", GAPPY)
    np.testing.assert_array_equal(gm.impute(z, out=tmp_path / "f.zarr")[:], filled)
    assert gm.impute(GAPPY.astype("f4"), out=tmp_path / "f.npy").dtype == np.float32


def test_impute__draws_are_the_same_bits_under_any_chunking(tmp_path):
    gm = sem.GaussianMixture(3, missing="marginal", random_state=0).fit(GAPPY)
    drawn = gm.impute(GAPPY, draws=True, random_state=4)
    z = store(tmp_path / "x.zarr", GAPPY, 133)
    np.testing.assert_array_equal(gm.impute(z, draws=True, random_state=4, scheduler="synchronous"), drawn)
    assert not np.array_equal(gm.impute(GAPPY, draws=True, random_state=5), drawn)
    # Draws spread as the rows do; means do not.
    assert np.trace(np.cov(gm.impute(GAPPY).T)) < np.trace(np.cov(drawn.T))
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(X.T), rtol=0.1, atol=0.5)


def test_impute__needs_no_setting():
    gm = sem.GaussianMixture(3, random_state=0).fit(X)
    assert np.isfinite(gm.impute(GAPPY)).all()
    with pytest.raises(sem.NonFiniteError):
        gm.impute(np.where(np.isnan(GAPPY), np.inf, GAPPY))


@pytest.mark.parametrize("missing", ["drop", "marginal"])
@pytest.mark.parametrize("scheduler", ["synchronous", "processes"])
def test_fit__is_the_same_bits_on_every_scheduler_and_with_scratch(tmp_path, missing, scheduler):
    z = store(tmp_path / "x.zarr", GAPPY)
    settings = {"missing": missing, "random_state": 0, "max_iter": 3, "tol": 0.0, "memory_limit": "8MiB"}
    fits = [sem.GaussianMixture(3, **settings) for _ in range(3)]
    with pytest.warns(sem.ConvergenceWarning):
        fits[0].fit(z)
    with pytest.warns(sem.ConvergenceWarning):
        fits[1].fit(str(tmp_path / "x.zarr"), scheduler=scheduler)
    with pytest.warns(sem.ConvergenceWarning):
        fits[2].set_params(memory_limit=None).fit(
            as_source(z, memory_limit=2**23, missing="keep"), scratch=tmp_path
        )
    for gm in fits[1:]:
        np.testing.assert_array_equal(gm.means_, fits[0].means_)
        np.testing.assert_array_equal(gm.covariances_, fits[0].covariances_)
        assert gm.stats_.n_left_out == fits[0].stats_.n_left_out


def test_sample__is_the_same_rows_whatever_the_chunks():
    """Rows keep their places when others are dropped."""
    fits = [
        sem.GaussianMixture(3, missing="drop", random_state=0, memory_limit=limit, sample_size=2000).fit(
            GAPPY
        )
        for limit in ("1GiB", "1MiB")
    ]
    np.testing.assert_allclose(fits[0].means_, fits[1].means_, rtol=1e-6)
    x, weight = GAPPY.copy(), np.ones(len(GAPPY))
    weight[~COMPLETE] = 0
    x[~COMPLETE] = 0
    absent = sem.GaussianMixture(3, random_state=0, sample_size=2000).fit(x, sample_weight=weight)
    np.testing.assert_allclose(fits[0].means_, absent.means_, rtol=1e-6)


def test_left_out_rows__are_told_once(caplog):
    with caplog.at_level(logging.WARNING, logger="streamem"):
        sem.GaussianMixture(3, missing="marginal", random_state=0).fit(GAPPY)
        assert [r.message for r in caplog.records] == [
            f"x: {EMPTY.sum()} rows are left out: all values are missing"
        ]
        caplog.clear()
        sem.GaussianMixture(3, missing="drop", random_state=0).fit(GAPPY)
        assert [r.message for r in caplog.records] == [
            f"x: {np.sum(~COMPLETE)} rows are left out: some values are missing"
        ]


def test_raise__is_the_default_and_says_what_can_be_done():
    with pytest.raises(sem.NonFiniteError, match=r'first in row [\d,]+, column \d.*missing="marginal"'):
        sem.GaussianMixture(3).fit(GAPPY)


@pytest.mark.parametrize("missing", ["drop", "marginal"])
def test_infinity__is_no_missing_value(missing):
    x = GAPPY.copy()
    x[5, 1] = -np.inf
    with pytest.raises(sem.NonFiniteError, match=r"1 non-finite value, first in row 5, column 1.*Inf"):
        sem.GaussianMixture(3, missing=missing).fit(x)


@pytest.mark.parametrize("missing", ["drop", "marginal"])
def test_column_that_is_missing_everywhere__is_refused(missing):
    x = GAPPY.copy()
    x[:, 1] = np.nan
    message = "column 1 is missing" if missing == "marginal" else "no row is left"
    with pytest.raises(sem.InputError, match=message):
        sem.GaussianMixture(3, missing=missing).fit(x)


@pytest.mark.parametrize("missing", ["drop", "marginal"])
def test_rows_whose_squares_overflow__are_refused(missing):
    x = GAPPY.copy()
    x[np.flatnonzero(COMPLETE)[0], 1] = 1e200
    with pytest.raises(sem.InputError, match=r"column 1 holds values .* whose squares overflow"):
        sem.GaussianMixture(3, missing=missing).fit(x)


def test_missing__is_one_of_three():
    for use in (
        lambda: sem.GaussianMixture(2, missing="ignore").fit(X),
        lambda: sem.fit(sem.GaussianMixture(2)._model(fitted=False), X, missing="ignore"),
        lambda: as_source(X, missing="ignore"),
    ):
        with pytest.raises(sem.InputError, match="missing"):
            use()


def test_model_of_ones_own__gets_rows_with_gaps_only_where_it_says_so():
    class Counts:
        def init(self, sample, rng):
            return 0.0

        def e_step(self, params, rows):
            return _Count(len(rows.x), float(len(rows.x)), 0.0, int(np.isnan(rows.x).sum()))

        def m_step(self, params, stats):
            return stats.gaps

    class Taking(Counts):
        takes_missing = True

    with pytest.raises(sem.InputError, match="Counts does not say"):
        sem.fit(Counts(), GAPPY, 0.0, missing="marginal")
    assert sem.fit(Counts(), GAPPY, 0.0, missing="drop").stats.n_samples == COMPLETE.sum()
    assert sem.fit(Taking(), GAPPY, 0.0, missing="marginal").params == np.isnan(GAPPY).sum()
    with pytest.raises(sem.InputError, match='opened with missing="keep"'):
        sem.fit(Counts(), as_source(GAPPY, missing="keep"), 0.0)


class _Count:
    def __init__(self, n_samples, weight, log_likelihood, gaps):
        self.n_samples, self.weight, self.log_likelihood, self.gaps = n_samples, weight, log_likelihood, gaps

    def merge(self, other):
        return _Count(
            self.n_samples + other.n_samples, self.weight + other.weight, 0.0, self.gaps + other.gaps
        )


def test_saved_model__keeps_how_it_treats_gaps(tmp_path):
    gm = sem.GaussianMixture(3, missing="marginal", random_state=0).fit(GAPPY)
    other = sem.load(gm.save(tmp_path / "m.npz"))
    assert other.missing == "marginal"
    assert other.stats_.n_left_out == EMPTY.sum()
    np.testing.assert_array_equal(other.predict(GAPPY), gm.predict(GAPPY))


@pytest.mark.parametrize("missing", ["drop", "marginal"])
def test_select__fits_what_the_estimator_does(missing):
    settings = {"missing": missing, "random_state": 0}
    found = sem.select(GAPPY, n_components=[3], covariance_type="full", criterion="bic", **settings)
    np.testing.assert_array_equal(found.best.means_, sem.GaussianMixture(3, **settings).fit(GAPPY).means_)


@pytest.mark.parametrize("missing", ["drop", "marginal"])
def test_select__holds_out_rows_with_gaps_too(missing):
    found = sem.select(
        GAPPY,
        n_components=[1, 3],
        covariance_type="full",
        criterion="heldout",
        missing=missing,
        random_state=0,
    )
    assert found.best.n_components == 3
    score = found.best.score(GAPPY)
    assert found.table[1].heldout == pytest.approx(score, abs=0.2)


PRIORS = ("dirichlet_process", "dirichlet_distribution")


@pytest.mark.parametrize(
    "share, process", [(0.05, PRIORS[0]), (0.2, PRIORS[1]), (0.2, PRIORS[0]), (0.5, PRIORS[1])]
)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_bayesian_mixture__recovers_the_parameters_that_complete_rows_give(covariance_type, share, process):
    x = X.copy()
    x[np.random.default_rng(5).random(X.shape) < share] = np.nan
    settings = {"covariance_type": covariance_type, "weight_concentration_prior_type": process}
    settings |= {"random_state": 0, "max_iter": 300, "tol": 1e-5}
    whole = sem.BayesianGaussianMixture(3, **settings).fit(X)
    gappy = sem.BayesianGaussianMixture(3, missing="marginal", **settings).fit(x)
    means, covariances = ordered(whole)
    deviation = np.sqrt(np.var(X, axis=0).max())
    np.testing.assert_allclose(ordered(gappy)[0], means, atol=0.05 * deviation)
    np.testing.assert_allclose(ordered(gappy)[1], covariances, atol=0.2 * np.abs(covariances).max())
    assert np.all(np.diff(gappy.lower_bounds_) >= 0)
    assert gappy.stats_.n_left_out == np.isnan(x).all(axis=1).sum()


@pytest.mark.parametrize("acceleration", ["auto", "anderson"])
def test_bayesian_mixture__ascends_however_it_is_accelerated(acceleration):
    x = np.tile(GAPPY, (5, 1))
    settings = {"missing": "marginal", "random_state": 0, "tol": 1e-7, "max_iter": 500, "sample_size": 8000}
    fast, plain = (
        sem.BayesianGaussianMixture(3, acceleration=how, **settings).fit(x) for how in (acceleration, "none")
    )
    assert fast.n_iter_ < plain.n_iter_ or acceleration == "anderson"  # which leaves fast climbs alone
    assert np.all(np.diff(fast.lower_bounds_) >= 0) and np.all(np.diff(plain.lower_bounds_) >= 0)
    assert fast.lower_bound_ == pytest.approx(plain.lower_bound_, abs=1e-5)


def test_bayesian_mixture__gives_every_row_a_result(tmp_path):
    settings = {"n_components": 3, "missing": "marginal", "random_state": 0, "tol": 1e-4, "max_iter": 300}
    bgm = sem.BayesianGaussianMixture(**settings).fit(store(tmp_path / "x.zarr", GAPPY))
    proba, scores = bgm.predict_proba(GAPPY), bgm.score_samples(GAPPY)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(bgm.predict(GAPPY), proba.argmax(axis=1))
    assert bgm.score(GAPPY) == pytest.approx(scores[~EMPTY].mean(), rel=1e-12)
    filled, drawn = bgm.impute(GAPPY), bgm.impute(GAPPY, draws=True, random_state=4)
    seen = ~np.isnan(GAPPY)
    np.testing.assert_array_equal(filled[seen], GAPPY[seen])
    mean_error = np.mean((np.nanmean(GAPPY, axis=0) - X)[~seen] ** 2)
    assert np.mean((filled - X)[~seen] ** 2) < 0.9 * mean_error
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(X.T), rtol=0.1, atol=0.5)
    assert bgm.sample(5)[0].shape == (5, 3)
    again = sem.load(bgm.save(tmp_path / "m.npz"))
    np.testing.assert_array_equal(again.predict_proba(GAPPY), proba)
    np.testing.assert_array_equal(again.impute(GAPPY), filled)


def test_bayesian_mixture__fits_chunks_that_lack_whole_columns(tmp_path):
    """To the same bits on every scheduler."""
    x = X.copy()
    x[700:1400, 0] = np.nan
    x[2100:2800, 1:] = np.nan
    z = store(tmp_path / "x.zarr", x)
    settings = {
        "missing": "marginal",
        "random_state": 0,
        "tol": 1e-4,
        "max_iter": 300,
        "memory_limit": "8MiB",
    }
    bgm = sem.BayesianGaussianMixture(3, **settings).fit(z)
    other = sem.BayesianGaussianMixture(3, **settings).fit(str(tmp_path / "x.zarr"), scheduler="synchronous")
    np.testing.assert_array_equal(other.means_, bgm.means_)
    assert other.lower_bounds_ == bgm.lower_bounds_
    whole = sem.BayesianGaussianMixture(3, **settings).fit(X)
    np.testing.assert_allclose(ordered(bgm)[0], ordered(whole)[0], atol=0.1)


@pytest.mark.parametrize("missing", ["drop", "marginal"])
def test_bayesian_mixture__of_complete_rows_is_the_same_to_the_bit(missing):
    settings = {"n_components": 3, "random_state": 0, "tol": 1e-4, "max_iter": 300}
    plain = sem.BayesianGaussianMixture(**settings).fit(X)
    other = sem.BayesianGaussianMixture(**settings, missing=missing).fit(X)
    np.testing.assert_array_equal(other.covariances_, plain.covariances_)
    assert other.lower_bounds_ == plain.lower_bounds_


def test_bayesian_mixture__takes_labels_of_rows_with_gaps():
    wanted = np.argmin(np.linalg.norm(X[:, None] - CENTERS[[2, 0, 1]], axis=2), axis=1)
    y = np.where(np.arange(len(X)) % 20 == 0, wanted, -1)
    bgm = sem.BayesianGaussianMixture(3, missing="marginal", random_state=0, tol=1e-4, max_iter=300)
    assert np.mean(bgm.fit(GAPPY, y).predict(GAPPY) == wanted) > 0.8
    assert np.all(np.diff(bgm.lower_bounds_) >= 0)


def test_bayesian_mixture__drops_rows():
    bgm = sem.BayesianGaussianMixture(2, missing="drop", random_state=0, tol=1e-3, max_iter=300).fit(GAPPY)
    np.testing.assert_array_equal(bgm.predict(GAPPY) == -1, ~COMPLETE)
    assert bgm.stats_.n_left_out == np.sum(~COMPLETE)
    assert np.isfinite(bgm.impute(GAPPY)).all()
