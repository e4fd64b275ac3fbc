"""Accelerated fits have the fixed points of plain EM, never fall, and take fewer passes."""

import dataclasses
import logging
import warnings

import numpy as np
import pytest

import streamem as sem
from streamem import em
from streamem.acceleration import (
    Anderson,
    CorrectedSample,
    Mixing,
    PlainEM,
    Reached,
    Resident,
    _damped_least_squares,
)
from streamem.convergence import SURE, Status
from streamem.estimators import resident
from streamem.estimators.rows import open_rows
from streamem.models.covariance import COVARIANCES
from streamem.models.gaussian_mixture import GaussianMixtureModel
from streamem.models.summary import Sample, Summarize
from streamem.protocols import Pass, Rows, Several
from tests import naive
from tests.strategies import clusters

TYPES = tuple(COVARIANCES)
X = np.random.default_rng(0).standard_normal((24_000, 2)) + np.tile([[0.0, 0.0], [2.5, 1.0]], (12_000, 1))


def setting(covariance_type="full", x=X, k=2, polished=True):
    """A model, the optimum of every fifth row to start from, and passes over all rows and over those."""
    model = GaussianMixtureModel(k, covariance_type).informed_by(Summarize(0, 1)(Rows(x, None, 0)))
    params = model.init(Rows(x, None, 0), np.random.default_rng(0))

    def passes(rows):
        return lambda candidates: Pass(Several(model.e_step(p, rows) for p in candidates))

    sample_pass = passes(Rows(x[::5].copy(), None, 0))
    if polished:
        params = em.iterate(model, sample_pass, params, accelerate=Anderson(model), max_iter=500).params
    return model, params, passes(Rows(x, None, 0)), sample_pass


def corrected(model, sample_pass, tol=1e-9, budget=400, share=0.0, larger=None, **keywords):
    def solve(one_pass, params, max_iter, notify):
        return em.iterate(
            model, one_pass, params, accelerate=Anderson(model), tol=tol, max_iter=max_iter, notify=notify
        )

    return CorrectedSample(model, Resident(sample_pass, budget, share, larger), solve, **keywords)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("method", ["anderson", "sample"])
def test_accelerated_fit__ends_where_plain_em_does_and_never_falls(covariance_type, method):
    model, params, one_pass, sample_pass = setting(covariance_type)
    plain = em.iterate(model, one_pass, params, tol=1e-12, max_iter=5000)
    accelerate = Anderson(model) if method == "anderson" else corrected(model, sample_pass)
    fast = em.iterate(model, one_pass, params, accelerate=accelerate, tol=1e-10, max_iter=500)
    assert fast.status is Status.CONVERGED
    assert fast.history[-1].objective == pytest.approx(plain.history[-1].objective, abs=1e-8)
    np.testing.assert_allclose(fast.params.means, plain.params.means, atol=2e-3)
    assert np.all(np.diff([record.objective for record in fast.history]) >= 0)
    assert any(record.accepted == method for record in fast.history)
    assert len(fast.history) < len(plain.history)


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


def test_mixing__finds_the_fixed_point_of_a_linear_map():
    rng = np.random.default_rng(0)
    matrix, constant = np.diag([0.9, 0.5, -0.3]), rng.normal(size=3)
    past = Mixing()
    point = np.zeros(3)
    for _ in range(5):
        past.add(point, matrix @ point + constant)
        mixed = past.mixed(1.0)
        point = matrix @ point + constant if mixed is None else mixed
    np.testing.assert_allclose(point, constant / (1 - np.diag(matrix)), rtol=1e-3)


def test_corrected_samples__mix_to_fewer_passes_where_the_sample_is_small():
    model, params, one_pass, _ = setting()

    def passes(window):
        method = corrected(model, few_rows(model), past=Mixing(window))
        return len(em.iterate(model, one_pass, params, accelerate=method, tol=1e-10, max_iter=200).history)

    assert passes(8) < passes(1)


@dataclasses.dataclass
class Curve:
    """Statistics of `Saddle`."""

    log_likelihood: float
    n_samples: int = 1
    weight: float = 1.0


class Saddle:
    """Short steps up θ²/2 − θ⁴/4, which is lowest at 0 and highest at 1."""

    def m_step(self, theta, stats):
        return theta + 0.1 * theta * (1 - theta**2)

    def to_vector(self, theta):
        return np.array([theta])

    def from_vector(self, vector, like):
        return float(vector[0])


def test_stretched_steps__leave_a_saddle_sooner_than_em():
    """Near a saddle steps grow, and mixing, which seeks where they vanish, would only go back."""
    histories = [
        em.iterate(
            Saddle(),
            lambda every: Pass([Curve(theta**2 / 2 - theta**4 / 4) for theta in every]),
            1e-4,
            accelerate=method,
            tol=1e-9,
            max_iter=400,
        ).history
        for method in (PlainEM(Saddle()), Anderson(Saddle()))
    ]
    assert len(histories[1]) < len(histories[0]) / 2
    assert "stretched" in [record.accepted for record in histories[1]]
    for history in histories:
        assert history[-1].objective == pytest.approx(0.25, abs=1e-8)
        assert np.all(np.diff([record.objective for record in history]) >= 0)


@pytest.mark.parametrize(("gain", "kind"), [(0.02, "em"), (0.002, "anderson")])
def test_anderson__leaves_em_alone_while_it_gains_much(gain, kind):
    model, params, one_pass, _ = setting(polished=False)
    method, kinds = Anderson(model), []
    for i in range(3):
        stats = one_pass([params]).stats[0]
        proposal = method(Reached(params, stats, i * gain, "em"), False)
        kinds.append(proposal.candidates[0].by)
        params = proposal.step
    assert kinds == ["em", kind, kind]


def test_anderson__leaves_em_alone_where_it_contracts_fast():
    model, params, one_pass, _ = setting(x=X + [[0.0, 0.0], [40.0, 0.0]] * 12_000, polished=False)
    result = em.iterate(model, one_pass, params, accelerate=Anderson(model), tol=1e-9)
    assert {record.accepted for record in result.history} <= {"start", "em", "none"}


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


@pytest.mark.parametrize("covariance_type", TYPES)
def test_vector__holds_all_of_the_parameters(covariance_type):
    model, params, _, _ = setting(covariance_type, clusters(k=3)[0], k=3, polished=False)
    vector = model.to_vector(params)
    assert len(vector) == model.n_parameters(3) + 1
    back = model.from_vector(vector, params)
    for name in ("weights", "means", "cholesky", "whitening"):
        np.testing.assert_allclose(getattr(back, name), getattr(params, name), rtol=1e-12, atol=1e-12)
    assert model.from_vector(vector + 1e6, params) is None


def test_vector__of_a_component_without_weight_falls_back_to_em():
    model, params, one_pass, _ = setting()
    empty = dataclasses.replace(params, weights=np.array([1.0, 0.0]))
    stats = one_pass([empty]).stats[0]
    method = Anderson(model)
    for _ in range(3):
        proposal = method(Reached(empty, stats, 0.0, "em"), False)
        assert [candidate.by for candidate in proposal.candidates] == ["em"]


def test_damping__keeps_the_promised_share():
    rng = np.random.default_rng(0)
    changes, residual = rng.normal(size=(20, 4)), rng.normal(size=20)
    free = np.linalg.lstsq(changes, residual)[0]
    for share in (0.01, 0.5, 0.99):
        damped = _damped_least_squares(changes, residual, share)
        assert np.sum(damped**2) == pytest.approx(share * np.sum(free**2), rel=1e-3)
    np.testing.assert_array_equal(_damped_least_squares(0 * changes, residual, 0.5), 0)


def test_candidates__are_counted_and_the_best_one_wins():
    model, params, one_pass, sample_pass = setting()
    fast = em.iterate(model, one_pass, params, accelerate=corrected(model, sample_pass), tol=1e-12)
    assert [record.candidates for record in fast.history[:3]] == [1, 2, 1]  # a sample that won is trusted
    assert [record.accepted for record in fast.history[1:3]] == ["sample", "sample"]


def test_plain_em__is_the_m_step():
    model, params, one_pass, _ = setting()
    stats = one_pass([params]).stats[0]
    proposal = PlainEM(model)(Reached(params, stats, 0.0, "start"), False)
    np.testing.assert_array_equal(proposal.step.means, model.m_step(params, stats).means)
    assert proposal.remaining is None


@dataclasses.dataclass(frozen=True)
class Sums:
    """Statistics of `Exponential`."""

    n_samples: int
    weight: float
    log_likelihood: float
    total: float

    def merge(self, other):
        return Sums(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))


class Exponential:
    """A user's model with the three verbs and the two of Anderson acceleration, and nothing else."""

    def init(self, sample, rng):
        return 1.0

    def e_step(self, rate, rows):
        n, total = len(rows.x), float(rows.x.sum())
        return Sums(n, float(n), n * np.log(rate) - rate * total, total)

    def m_step(self, rate, stats):
        return rate**0.9 * (stats.weight / stats.total) ** 0.1  # slowly, so that there is something to gain

    def to_vector(self, rate):
        return np.array([np.log(rate)])

    def from_vector(self, vector, like):
        return float(np.exp(vector[0]))


@pytest.mark.parametrize("n", [500, 60_000])
def test_model_of_ones_own__is_accelerated_by_two_methods_more(n):
    x = np.random.default_rng(0).exponential(4.0, (n, 1))
    passes = {}
    for acceleration in ("none", "anderson", "auto"):
        result = sem.fit(Exponential(), x, acceleration=acceleration, max_iter=500, random_state=0)
        assert result.params == pytest.approx(1 / x.mean(), rel=1e-2)
        passes[acceleration] = len(result.history)
    assert max(passes["anderson"], passes["auto"]) < passes["none"]


@pytest.mark.parametrize("k, flat", [(2, False), (5, True)])
def test_fit__says_that_progress_is_slow_where_the_likelihood_is_flat(k, flat, caplog):
    """One component is all there is in these rows."""
    x = X if not flat else np.random.default_rng(0).standard_normal((3000, 2))
    gm = sem.GaussianMixture(k, acceleration="none", random_state=0, max_iter=100, tol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        gm.fit(x)
    events = [event for event in gm.result_.history[-1].events if event.kind == "flat"]
    assert len(events) == flat
    assert sum("Reduce n_components=5" in message for message in caplog.messages) == flat


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
