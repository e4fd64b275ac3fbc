"""Several starts on all rows: shared passes, the bits of each alone, memory, and who is given up."""

import numpy as np
import pytest

import streamem as sem
from streamem import em
from streamem.acceleration import PlainEM
from streamem.convergence import PassStarted, Status
from streamem.estimators import sharing
from streamem.estimators.resident import starts, summarize_rows
from streamem.estimators.rows import open_rows
from streamem.estimators.sharing import Reading, best_of, by_objective, iterate_together
from streamem.models.gaussian_mixture import GaussianMixtureModel
from streamem.protocols import Pass
from tests.strategies import clusters

X, _ = clusters(n=600, k=4, d=3)


class Passes(list):
    """A callback that keeps the passes that begin."""

    def __call__(self, event):
        if isinstance(event, PassStarted) and event.phase == "em":
            self.append(event.index)


def every_start(model, n_init):
    """The starts that a fit with random_state=0 tries."""
    rng = np.random.default_rng(0)
    with open_rows(X) as data:
        summary = summarize_rows(data, len(X), int(rng.integers(2**63)))
    return list(starts(model.informed_by(summary), summary.sample, len(X), n_init, rng))


@pytest.mark.parametrize("acceleration", ["none", "anderson"])
def test_starts__share_passes_and_keep_their_bits(acceleration, monkeypatch):
    model = GaussianMixtureModel(5, start="random_from_data")
    settings = {"acceleration": acceleration, "max_iter": 30, "tol": 1e-4}
    monkeypatch.setattr(sharing, "HOPE", np.inf)
    passes = Passes()
    best = sem.fit(model, X, n_init=10, random_state=0, callbacks=[passes], **settings)
    alone = [sem.fit(model, X, start, random_state=0, **settings) for start in every_start(model, 10)]
    winner = max(alone, key=lambda result: result.history[-1].objective)
    assert best.status is winner.status
    assert [r.objective for r in best.history] == [r.objective for r in winner.history]
    np.testing.assert_array_equal(best.params.means, winner.params.means)
    np.testing.assert_array_equal(best.params.cholesky, winner.params.cholesky)
    slowest = max(len(result.history) for result in alone)
    assert passes == list(range(slowest))
    assert slowest < sum(len(result.history) for result in alone)


def test_starts__wait_where_memory_is_short(monkeypatch):
    model = GaussianMixtureModel(5, start="random_from_data")
    many, few = Passes(), Passes()
    settings = {"acceleration": "none", "n_init": 4, "random_state": 0, "max_iter": 15, "tol": 0.0}
    wide = sem.fit(model, X, memory_limit=2**30, callbacks=[many], **settings)
    # 2 x 8 bytes x 49 parameters x 2 candidates x 16 = 25 kB each: room for two at once
    monkeypatch.setattr(sharing, "STATISTICS_SHARE", 2**30 // 52_000)
    tight = sem.fit(model, X, memory_limit=2**30, callbacks=[few], **settings)
    assert (len(many), len(few)) == (15, 30)
    np.testing.assert_array_equal(wide.params.means, tight.params.means)


class Sums:
    n_samples, weight = 1, 1.0

    def __init__(self, log_likelihood):
        self.log_likelihood = log_likelihood


class Ladder:
    """A model whose objective is a function of the pass."""

    def __init__(self, values):
        self.values = values

    def m_step(self, params, stats):
        return params + 1


def ladder(values):
    return em.Ascent(model := Ladder(values), 0, PlainEM(model), tol=1e-9)


def climb(fit):
    fit.take(Pass([Sums(fit.model.values(len(fit.history)))]))


def test_hopeless_fit__is_given_up_once_another_has_converged():
    good = ladder(lambda t: 0.0)
    hopeless, hopeful = ladder(lambda t: -50.0 - 0.5**t), ladder(lambda t: -(0.9**t))
    for _ in range(8):
        climb(hopeless)
        climb(hopeful)
    fits = [good, hopeless, hopeful]
    assert sharing._with_hope(fits, [hopeless, hopeful], by_objective) == [hopeless, hopeful]
    while good.status is None:
        climb(good)
    assert sharing._with_hope(fits, [hopeless, hopeful], by_objective) == [hopeful]
    assert hopeless.status is Status.DROPPED


def test_hopeless_fit__has_a_few_passes_to_show_itself():
    good, hopeless = ladder(lambda t: 0.0), ladder(lambda t: -50.0 - 0.5**t)
    while good.status is None:
        climb(good)
    while hopeless.status is None:
        climb(hopeless)
        sharing._with_hope([good, hopeless], [hopeless], by_objective)
    assert len(hopeless.history) == sharing.AGREEING + 3  # the first three estimates are infinite


def test_fit__that_was_alone_in_failing_is_left_out():
    model = GaussianMixtureModel(2)
    start = every_start(model, 1)[0]
    impossible = model.m_step(start, model.e_step(start, sem.as_source(X).blocks()[0].load()))
    far = type(start)(
        "full", impossible.weights, impossible.means + 1e200, impossible.cholesky, impossible.whitening
    )
    with open_rows(X) as data, np.errstate(all="ignore"):
        fits = [em.Ascent(model, params, PlainEM(model)) for params in (far, start)]
        iterate_together(fits, Reading(data), None)
        assert best_of(fits).status is Status.CONVERGED
        with pytest.raises(sem.DegenerateComponentError):
            best_of(fits[:1])
