"""A corrected sample leads to the optimum of all rows, in few passes, and is trusted while it is right."""

import dataclasses
import logging

import numpy as np
import pytest

import streamem as sem
from streamem import em
from streamem.acceleration import Mixing, Reached
from streamem.convergence import SURE, Status
from streamem.corrected_sample import CorrectedSample, Resident
from streamem.estimators import resident
from streamem.estimators.rows import open_rows
from streamem.models.covariance import COVARIANCES
from streamem.models.summary import Sample
from streamem.protocols import Pass, Rows, Several
from tests import naive
from tests.climbs import X, corrected, setting

TYPES = tuple(COVARIANCES)


def test_corrected_sample__takes_a_handful_of_passes():
    model, params, one_pass, sample_pass = setting()
    best = em.iterate(model, one_pass, params, tol=1e-12, max_iter=5000).history[-1].objective
    fast = em.iterate(model, one_pass, params, accelerate=corrected(model, sample_pass), tol=1e-8)
    assert len(fast.history) <= 5
    assert best - fast.history[-1].objective < 1e-6


def test_corrected_sample__has_no_bias_of_the_sample():
    """Its fixed point is that of all rows, though the sample alone would lead elsewhere."""
    model, params, one_pass, sample_pass = setting()
    fast = em.iterate(model, one_pass, params, accelerate=corrected(model, sample_pass), tol=1e-11)
    alone = em.iterate(model, sample_pass, params, tol=1e-11, max_iter=5000)
    plain = em.iterate(model, one_pass, params, tol=1e-13, max_iter=9000)
    bias = np.abs(alone.params.means - plain.params.means).max()
    assert bias > 0.01
    assert np.abs(fast.params.means - plain.params.means).max() < bias / 100


def test_corrected_sample__takes_the_em_step_first():
    model, params, one_pass, sample_pass = setting()
    stats = one_pass([params]).stats[0]
    reached = Reached(params, stats, 0.0, "start")
    seen = []

    def solve(inner, start, max_iter, notify):
        seen.append(model.m_step(start, inner([start]).stats[0]))
        return em.iterate(model, inner, start, max_iter=5)

    CorrectedSample(model, Resident(sample_pass, 10), solve)(reached, False)
    step = model.m_step(params, stats)
    np.testing.assert_allclose(seen[0].means, step.means, rtol=1e-12)
    np.testing.assert_allclose(seen[0].cholesky, step.cholesky, rtol=1e-10, atol=1e-12)


def test_corrected_sample__is_not_asked_where_it_was_right_about_nearly_all():
    """What is left after a pass is less than what the sample was wrong by about it."""
    model, params, one_pass, sample_pass = setting()
    best = em.iterate(model, one_pass, params, tol=1e-12, max_iter=5000).history[-1].objective
    asked = {}
    for tol in (0.0, 3e-5):
        steps = []
        counted = lambda candidates: steps.append(1) or sample_pass(candidates)  # noqa: B023, E731
        method = dataclasses.replace(corrected(model, counted), tol=tol)
        fast = em.iterate(model, one_pass, params, accelerate=method, tol=3e-5)
        assert fast.status is Status.CONVERGED and best - fast.history[-1].objective < 3e-5
        asked[tol] = len(steps), len(fast.history)
    assert asked[3e-5][0] < asked[0.0][0] and asked[3e-5][1] == asked[0.0][1]
    assert best - fast.history[-1].objective < fast.history[-1].remaining_gain < 3e-5


def test_corrected_sample__knows_how_much_is_surely_left_to_gain():
    model, params, one_pass, sample_pass = setting()
    best = em.iterate(model, one_pass, params, tol=1e-12, max_iter=5000).history[-1].objective
    fast = em.iterate(model, one_pass, params, accelerate=corrected(model, sample_pass), tol=1e-9)
    for record in fast.history[:2]:
        assert record.remaining_gain == pytest.approx(SURE * (best - record.objective), rel=0.7, abs=1e-8)


def test_corrected_sample__is_solved_no_better_than_it_is_right():
    """What is left of its rise counts as left to gain, and passes end where they would."""
    model, params, one_pass, sample_pass = setting()
    best = em.iterate(model, one_pass, params, tol=1e-12, max_iter=5000).history[-1].objective
    made = []
    for share in (0.0, 0.01):
        steps = []
        counted = lambda candidates: steps.append(1) or sample_pass(candidates)  # noqa: B023, E731
        em.iterate(model, one_pass, params, accelerate=corrected(model, counted, share=share), max_iter=1)
        made.append(len(steps))
        method = corrected(model, sample_pass, share=share)
        fast = em.iterate(model, one_pass, params, accelerate=method, tol=1e-9, max_iter=100)
        assert fast.status is Status.CONVERGED and best - fast.history[-1].objective < 2e-9
        assert fast.history[0].remaining_gain > 0.3 * (best - fast.history[0].objective)
    assert made[0] > made[1]


def test_corrected_sample__trusts_less_after_a_rejection():
    model, params, one_pass, sample_pass = setting()
    method = corrected(model, sample_pass, budget=64)
    stats = one_pass([params]).stats[0]
    first = method(Reached(params, stats, 0.0, "start"), False)
    assert first.candidates[0].by == "sample"
    after = method(Reached(params, stats, 0.0, "start"), True)
    assert method.hold > 0
    assert [c.by for c in after.candidates][-1] == "em"
    assert first.remaining is not None
    assert after.remaining is None  # what is held hides part of the climb
    em_step = model.m_step(params, stats).means

    def length(proposal):
        return np.linalg.norm(proposal.candidates[0].params.means - em_step)

    assert length(after) < length(first)
    held = method.hold
    for _ in range(method.patience + 1):
        method(Reached(params, stats, 0.0, "sample"), False)
    assert method.hold < held


def few_rows(model, step=81):
    """Passes over every so many rows: an odd step, as components alternate."""
    small = Rows(X[::step].copy(), None, 0)
    return lambda candidates: Pass(Several(model.e_step(p, small) for p in candidates))


def test_corrected_sample__grows_where_a_larger_one_does_not_bear_it_out():
    """No pass over all rows is lost by that."""
    model, params, one_pass, sample_pass = setting()
    stats = one_pass([params]).stats[0]
    start = Reached(params, stats, (stats.log_likelihood + model.log_prior(params, stats)) / len(X), "start")
    large = Resident(sample_pass, 400)
    for step, budget, first, grows in ((401, 400, "sample", 1), (81, 2, "em", 0), (81, 400, "sample", 0)):
        method = corrected(model, few_rows(model, step), budget=budget, larger=large)
        assert method(start, False).candidates[0].by == first
        assert method.grown == grows
    small = corrected(model, few_rows(model, 401))
    ladder = corrected(model, few_rows(model, 401), larger=large)
    passes = [
        len(em.iterate(model, one_pass, params, accelerate=method, tol=1e-8, max_iter=100).history)
        for method in (small, ladder)
    ]
    assert passes[1] <= 5 < passes[0]


def test_corrected_sample__grows_after_a_rejection_before_it_holds():
    model, params, one_pass, sample_pass = setting()
    reached = Reached(params, one_pass([params]).stats[0], 0.0, "start")
    method = corrected(model, few_rows(model), larger=Resident(sample_pass, 400))
    trusted = [(method.grown, method.hold) for i in range(3) if method(reached, i > 0)]
    assert trusted[:2] == [(0, 0.0), (1, 0.0)] and trusted[2][0] == 1 and trusted[2][1] > 0


def test_corrected_sample__rests_sooner_where_passes_cost_only_computing():
    """What is held costs as much arithmetic as it saves; each rest is twice as long as the one before."""
    model, params, one_pass, sample_pass = setting()
    reached = Reached(params, one_pass([params]).stats[0], 0.0, "start")

    def proposed(with_em):
        method = corrected(model, sample_pass, budget=64, with_em=with_em)
        kinds = [method(reached, i > 0).candidates[0].by for i in range(60)]
        return method.hold, [i for i, kind in enumerate(kinds) if kind == "sample"]

    hold, places = proposed(with_em=False)
    assert 0 < hold < proposed(with_em=True)[0]
    rests = np.diff(places)[np.diff(places) > 1]
    assert len(rests) >= 2
    assert np.all(rests[1:] > 1.5 * rests[:-1])


def test_corrected_sample__that_always_fails_is_left_out_for_a_while():
    model, params, one_pass, sample_pass = setting()
    method = corrected(model, sample_pass)
    reached = Reached(params, one_pass([params]).stats[0], 0.0, "start")
    kinds = [{c.by for c in method(reached, i > 0).candidates} for i in range(80)]
    assert sum("sample" in kind for kind in kinds) < 12
    assert "sample" in kinds[0]
    assert any("sample" in kind for kind in kinds[40:])


def test_corrected_samples__mix_to_fewer_passes_where_the_sample_is_small():
    model, params, one_pass, _ = setting()

    def passes(window):
        method = corrected(model, few_rows(model), past=Mixing(window))
        return len(em.iterate(model, one_pass, params, accelerate=method, tol=1e-10, max_iter=200).history)

    assert passes(8) < passes(1)


def test_surrogate__rises_with_every_inner_step():
    model, params, one_pass, sample_pass = setting()
    histories = []

    def solve(inner, start, max_iter, notify):
        result = em.iterate(model, inner, start, tol=1e-9, max_iter=max_iter)
        histories.append([record.objective for record in result.history])
        return result

    method = CorrectedSample(model, Resident(sample_pass, 200), solve)
    em.iterate(model, one_pass, params, accelerate=method, tol=1e-12, max_iter=4)
    assert len(histories) >= 3
    for history in histories:
        assert np.all(np.diff(history) > -1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_expected_log_joint__is_q(covariance_type):
    model, params, one_pass, _ = setting(covariance_type, X[:200], polished=False)
    new = model.m_step(params, one_pass([params]).stats[0])
    k, d = params.means.shape

    def factors(p):
        return naive.full_cholesky(covariance_type, p.covariances, k, d)

    resp = naive.responsibilities(X[:200], params.weights, params.means, factors(params))
    for at in (params, new):
        joint = naive.log_joint(X[:200], at.weights, at.means, factors(at))
        got = model.expected_log_joint(at, one_pass([params]).stats[0])
        assert got == pytest.approx((resp * joint).sum(), rel=1e-10)


def test_candidates__are_counted_and_the_best_one_wins():
    model, params, one_pass, sample_pass = setting()
    fast = em.iterate(model, one_pass, params, accelerate=corrected(model, sample_pass), tol=1e-12)
    assert [record.candidates for record in fast.history[:3]] == [1, 2, 1]  # a sample that won is trusted
    assert [record.accepted for record in fast.history[1:3]] == ["sample", "sample"]


def test_starts__are_judged_by_rows_that_they_did_not_see():
    """Of a start in the middle of nowhere and a good one the good one wins, whichever comes first."""
    rows = X[::5]
    index = np.arange(len(rows))
    sample = Sample(rows.copy(), None, index, index.astype(np.uint64))
    model, good, _, _ = setting()
    bad = model.from_responsibilities(Rows(rows, None, 0), np.full((len(rows), 2), 0.5))
    with open_rows(X) as data:
        for starts in ([good, bad], [bad, good]):
            best = resident.best_on_sample(model, iter(starts), sample, data, 1e-6)
            np.testing.assert_allclose(np.sort(best.means[:, 0]), np.sort(good.means[:, 0]), atol=0.05)


def test_sample__is_climbed_from_few_rows_to_all(caplog):
    """Most steps are made on a quarter of the sample, and no more are made on all of it than without."""

    def sizes(**changes):
        caplog.clear()
        with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.DEBUG, "streamem"):
            for name, value in changes.items():
                patch.setattr(resident, name, value)
            gm = sem.GaussianMixture(3, random_state=0).fit(x)
        steps = [record.args for record in caplog.records if record.msg.endswith("%d steps")]
        return dict(steps), gm.lower_bound_

    x = np.concatenate([np.random.default_rng(i).normal(1.7 * i, 1, (34_000, 2)) for i in range(3)])[2000:]
    (coarse, reached), (alone, directly) = sizes(), sizes(COARSER=10**9)
    assert list(coarse) == [5000, 20_000] and list(alone) == [20_000]
    assert coarse[20_000] < min(coarse[5000], alone[20_000])
    assert reached == pytest.approx(directly, abs=1e-5)


def test_parts_of_the_sample__weigh_as_much_as_all_of_it():
    x, weight = np.random.default_rng(0).normal(size=(25_000, 1)), np.full(25_000, 3.0)
    index = np.arange(25_000)
    with open_rows(x) as data:
        parts = resident._parts(setting()[0], Sample(x, weight, index, index.astype(np.uint64)), data)
    assert [len(part.index) for part in parts] == [6250, 25_000]
    assert [part.rows().total_weight for part in parts] == pytest.approx([75_000, 75_000])
