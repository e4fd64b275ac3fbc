"""Moves that EM cannot make: the classic poor start is escaped, nothing falls, and nothing is wasted."""

import itertools
import logging
from dataclasses import replace

import numpy as np
import pytest

import streamem as sem
from streamem import em, moves
from streamem.acceleration import Proposal, Reached
from streamem.models.covariance import COVARIANCES
from streamem.models.gaussian_mixture import GaussianMixtureModel
from streamem.protocols import Pass, Rows

from .strategies import clusters

TYPES = tuple(COVARIANCES)
CENTERS = np.array([[0.0, 0.0], [12.0, 0.0], [30.0, 0.0], [42.0, 0.0]])
LABELS = np.random.default_rng(0).integers(4, size=3000)
X = CENTERS[LABELS] + np.random.default_rng(1).normal(size=(3000, 2))
STUCK = np.array([[-1.0, 0.0], [1.0, 0.0], [12.0, 0.0], [36.0, 0.0]])  # two on one cluster, one on two


def fit(x=X, k=4, covariance_type="full", **settings):
    settings = {"means_init": STUCK, "random_state": 0, "max_iter": 300, **settings}
    given = {name: settings.pop(name) for name in ("scheduler", "sample_weight") if name in settings}
    gm = sem.GaussianMixture(k, covariance_type=covariance_type, **settings).fit(x, **given)
    assert np.all(np.diff([record.objective for record in gm.result_.history]) >= 0)
    return gm


def moved(gm):
    every = [event for record in gm.result_.history for event in record.events]
    return [event.message for event in every if event.kind == "moved-components"]


def best(covariance_type, x=X, **settings):
    return fit(x, covariance_type=covariance_type, means_init=CENTERS, **settings).lower_bound_


@pytest.mark.parametrize("covariance_type", TYPES)
def test_classic_start__is_escaped_by_default_and_not_by_textbook_em(covariance_type, caplog):
    with caplog.at_level(logging.WARNING, "streamem"):
        gm = fit(covariance_type=covariance_type)
    assert gm.lower_bound_ == pytest.approx(best(covariance_type), abs=1e-5)
    (message,) = moved(gm)
    assert message in caplog.text and "became one, and component" in message
    assert [record.accepted for record in gm.result_.history].count("move") == 1
    for acceleration in ("none", "anderson"):
        stuck = fit(covariance_type=covariance_type, acceleration=acceleration, tol=1e-2)
        assert stuck.lower_bound_ < gm.lower_bound_ - 0.1 and not moved(stuck)


def test_classic_start__of_many_rows_is_escaped_before_the_first_pass():
    x = np.tile(X, (40, 1)) + np.random.default_rng(2).normal(0, 0.1, (120_000, 2))
    gm = fit(x)
    assert gm.lower_bound_ == pytest.approx(best("full", x), abs=1e-5)
    assert not moved(gm) and gm.n_iter_ <= 6


def test_weights_and_missing_values__count():
    weight = np.random.default_rng(3).integers(0, 3, len(X))
    assert fit(sample_weight=weight).lower_bound_ == pytest.approx(
        best("full", sample_weight=weight), abs=1e-5
    )
    holes = np.where(np.random.default_rng(4).random(X.shape) < 0.1, np.nan, X)
    gm = fit(holes, missing="marginal")
    assert moved(gm)
    assert gm.lower_bound_ == pytest.approx(best("full", holes, missing="marginal"), abs=1e-5)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_good_start__costs_no_pass(covariance_type, monkeypatch):
    gm = fit(covariance_type=covariance_type, means_init=CENTERS)
    monkeypatch.delattr(GaussianMixtureModel, "moves")
    alone = fit(covariance_type=covariance_type, means_init=CENTERS)
    assert gm.n_iter_ == alone.n_iter_
    np.testing.assert_array_equal(gm.means_, alone.means_)


def test_too_many_components__cost_passes_only_where_a_move_gains(monkeypatch):
    x, _ = clusters(n=3000, k=3, d=2)
    many = {"k": 6, "means_init": None, "tol": 1e-4}
    fits = [fit(x, random_state=seed, **many) for seed in range(4)]
    monkeypatch.delattr(GaussianMixtureModel, "moves")
    for seed, gm in enumerate(fits):
        alone = fit(x, random_state=seed, **many)
        assert gm.lower_bound_ > alone.lower_bound_ + 1e-4 if moved(gm) else gm.n_iter_ <= alone.n_iter_ + 1


def test_fixed_parameters__stay():
    gm = fit(fixed=("means",))
    np.testing.assert_array_equal(gm.means_, STUCK)
    assert not moved(gm)
    assert not moved(fit(fixed=("weights",), weights_init=np.full(4, 0.25)))


def test_prior__is_part_of_what_counts():
    gm = fit(prior="fraley-raftery")
    assert moved(gm)
    assert gm.lower_bound_ == pytest.approx(best("full", prior="fraley-raftery"), abs=1e-4)


@pytest.mark.parametrize("choice", ["reseed", "drop", "freeze", "raise"])
def test_choices_for_degenerate_components__are_as_without(choice):
    assert moved(fit(on_degenerate=choice))


def test_rejected_move__is_the_last(monkeypatch):
    """What the sample promised and all rows deny costs the one pass that found out."""
    alone = fit(means_init=CENTERS)
    wrong = lambda self, here, least: moves.Found(worse(here.params), here.params, "Nothing")  # noqa: E731
    monkeypatch.setattr(moves.Search, "__call__", wrong)
    gm = fit(means_init=CENTERS)
    assert gm.n_iter_ <= alone.n_iter_ + 1 and not moved(gm) and gm.converged_
    assert any(record.candidates == 2 for record in gm.result_.history)
    assert gm.lower_bound_ >= alone.lower_bound_


def worse(params):
    return replace(params, means=params.means + 5.0)


def better(params):
    """Undo what is worse."""
    return replace(params, means=params.means - 5.0)


def same(params):
    return params


def test_bits__are_the_same_on_every_scheduler():
    one, other = fit(), fit(scheduler="synchronous")
    assert moved(one) == moved(other) != []
    np.testing.assert_array_equal(one.means_, other.means_)
    np.testing.assert_array_equal(one.lower_bounds_, other.lower_bounds_)


def test_checkpoint__in_the_middle_of_a_move_goes_on_to_the_same_bits(tmp_path):
    gm = fit()
    settings = {"means_init": STUCK, "random_state": 0}
    for passes in range(1, gm.n_iter_):
        place = tmp_path / str(passes)
        part = sem.GaussianMixture(4, max_iter=passes, **settings)
        with pytest.warns(sem.ConvergenceWarning):
            part.fit(X, checkpoint=place)
        again = sem.GaussianMixture(4, max_iter=300, **settings).fit(X, checkpoint=place, resume=True)
        np.testing.assert_array_equal(again.means_, gm.means_)
        assert again.n_iter_ == gm.n_iter_


def searching(monkeypatch, *every):
    """Return a search among given moves on some rows, where EM ends after a while, and its steps."""
    steps = []

    def climb(params, notify=lambda event: None):
        result = em.iterate(model, one_pass, params, tol=1e-9, max_iter=200, notify=notify)
        steps.append(len(result.history))
        return result

    model = GaussianMixtureModel(4, "full", reg_covar=1e-6)
    rows = Rows(0.1 * X, None, 0)
    rows.x[:] += np.random.default_rng(0).normal(size=X.shape)
    one_pass = lambda candidates: Pass([model.e_step(params, rows) for params in candidates])  # noqa: E731
    here = at(model, model.from_responsibilities(rows, np.eye(4)[LABELS]), rows)
    monkeypatch.setattr(
        GaussianMixtureModel,
        "moves",
        lambda self, *_: iter([(move(here.params), move.__name__) for move in every]),
    )
    return moves.Search(model, rows, [climb]), here, steps


def at(model, params, rows):
    """Return parameters and what EM has reached with them."""
    stats = model.e_step(params, rows)
    return Reached(params, stats, stats.log_likelihood / stats.weight, "em")


def test_moves_that_cannot_pay__are_given_up_early(monkeypatch):
    """A climb that ends far below its goal, as its first steps tell, is not made to its end."""
    search, here, steps = searching(monkeypatch, worse, worse)
    for hope, pace in ((moves.HOPE, np.inf), (np.inf, moves.PACE), (np.inf, np.inf)):
        monkeypatch.setattr(moves, "HOPE", hope)
        monkeypatch.setattr(moves, "PACE", pace)
        assert not search(here, 1.0).what
    by_estimate, by_pace, late = (steps[i : i + 3] for i in (0, 3, 6))
    assert max(by_estimate[2], by_pace[2]) < late[2] == late[0]


def test_climb_without_a_move__has_twice_the_steps_of_the_first_move_to_catch_up(monkeypatch):
    """A slow climb that promises much, as on leaving a saddle, is not waited for."""
    search, here, steps = searching(monkeypatch, same)
    monkeypatch.setattr(moves, "HOPE", np.inf)
    for race in (0.25, 1e9):
        monkeypatch.setattr(moves, "RACE", race)
        search(at(search.model, worse(here.params), search.rows), 0.01)
    first, briefly, again, long = steps
    assert first == again and briefly <= 0.25 * first + 1 < long


def test_search_at_once__ends_where_a_move_has_paid(monkeypatch):
    """Climbs on the sample go on from there; what does not pay leaves them where they are."""
    search, here, steps = searching(monkeypatch, better)
    start = at(search.model, worse(here.params), search.rows)
    found = search.at_once(start, 0.01)
    assert found.what == "better" and found.stayed is start.params and sum(steps) <= 3
    assert at(search.model, found.moved, search.rows).objective > start.objective
    search, here, _ = searching(monkeypatch, worse)
    assert search.at_once(here, 0.01).moved is here.params
    search, here, _ = searching(monkeypatch)
    assert search.at_once(here, 0.01).moved is here.params


def test_search__in_vain_goes_on_from_where_it_has_climbed(monkeypatch):
    search, here, _ = searching(monkeypatch, worse)
    found, model = search(here, 1.0), search.model
    assert found.moved is found.stayed and not found.what
    assert at(model, found.moved, search.rows).objective > here.objective
    nowhere, here, _ = searching(monkeypatch)
    assert nowhere(here, 1.0).moved is here.params


def test_search__starts_where_a_pass_gains_less_than_a_move_and_again_after_as_much():
    """Also where nobody knows what is left, as on slow and irregular climbs."""
    assert searches_in_vain([0.0, 1.0, 1.05, 1.08, 1.14, 1.16, 2.0]) == [2, 5]


def test_search__of_few_rows_waits_while_the_climb_goes_on():
    """A search that takes as long as four passes comes after four, or where nothing is left to gain."""
    climb = [0.0, 1.0, 1.05, 1.08, 1.14, 1.16, 1.19, 1.26, 1.28, 1.29]
    assert searches_in_vain(climb, worth=4) == [3, 7]
    assert searches_in_vain(climb, worth=100) == []
    assert searches_in_vain(climb, [np.inf] * 9 + [1e-4], worth=100) == [9]


def searches_in_vain(climb, remaining=(), worth=0):
    """Return the passes of a climb after which there was a search, for moves worth 0.1."""
    searched = []

    def search(here, least):
        searched.append(here.params)
        return moves.Found(here.params, here.params)

    moving = moves.Moving(None, search, 0.1, worth, 1e-3, lambda: None)
    lefts = itertools.chain(remaining, itertools.repeat(np.inf))
    for params, (objective, left) in enumerate(zip(climb, lefts, strict=False)):
        reached = Reached(params, None, objective, "em")
        assert moving.elsewhere(reached, Proposal(params, ()), left) is None
    return searched


def test_search__leaves_what_the_sample_errs_out_of_what_it_finds():
    """All rows must see the move, not how far a small sample is from them."""
    rng = np.random.default_rng(5)
    k, n = 12, 5000
    x = np.repeat(rng.normal(0, 4, (k, 6)), n, axis=0) + rng.normal(size=(k * n, 6))
    sample, rows = Rows(x[::40].copy(), None, 0), Rows(x, None, 0)
    model = GaussianMixtureModel(k, "full", reg_covar=1e-6)

    def climb(params, notify=lambda event: None, rows=sample):
        one_pass = lambda candidates: Pass([model.e_step(params, rows) for params in candidates])  # noqa: E731
        return em.iterate(model, one_pass, params, tol=1e-9, max_iter=200, notify=notify)

    def likelihood(params):
        return at(model, params, rows).objective

    labels = np.repeat(np.arange(k), n)
    labels[labels == 1] = 0  # one component on two clusters, and two on one
    labels[2 * n : 2 * n + n // 2] = 1
    params = climb(model.from_responsibilities(rows, np.eye(k)[labels]), rows=rows).params
    found = moves.Search(model, sample, [climb])(at(model, params, sample), 0.1).carried(model, params)
    best = likelihood(climb(found, rows=rows).params)
    assert likelihood(params) + 0.05 < likelihood(found) < best
    assert best - likelihood(found) < 0.7 * (best - likelihood(climb(found).params))


def test_moves__take_components_of_a_few_rows_that_are_like_no_other():
    rng = np.random.default_rng(6)
    labels = np.arange(3000) % 6
    x = 1.5 * np.eye(6)[labels] + rng.normal(size=(3000, 6))  # the first five overlap: ten pairs alike
    x[labels == 5] += np.where(rng.random((500, 1)) < 0.5, -12.0, 12.0) * np.eye(6)[5]
    x[:8] = 1.5 * np.eye(6)[0] + 0.01 * rng.normal(size=(8, 6))
    labels[:8] = 6
    model, rows = GaussianMixtureModel(7, "full", reg_covar=1e-9), Rows(x, None, 0)
    params = model.from_responsibilities(rows, np.eye(7)[labels])
    found = [what for _, what in model.moves(params, rows)]
    assert "Components 0 and 6 became one, and component 5 two" in found


def test_moves__that_matter_come_first_whichever_component_is_split():
    """Most components are cut for a few steps only: one that holds two clusters shows in time."""
    rng, k, n = np.random.default_rng(8), 10, 400
    x = np.repeat(rng.normal(0, 6, (k, 4)), n, axis=0) + rng.normal(size=(k * n, 4))
    model, rows = GaussianMixtureModel(k, "full", reg_covar=1e-6), Rows(x, None, 0)
    for one in range(k):
        other, two = (one + 1) % k, (one + 2) % k
        labels = np.repeat(np.arange(k), n)
        labels[labels == other] = one  # one component on two clusters, and two on one
        labels[two * n : two * n + n // 2] = other
        params = model.from_responsibilities(rows, np.eye(k)[labels])
        _, what = next(iter(model.moves(params, rows)))
        i, j = sorted((other, two))
        assert what == f"Components {i} and {j} became one, and component {one} two"
