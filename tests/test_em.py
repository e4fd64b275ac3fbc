"""The loop: when it stops, what it returns, what it reports."""

import numpy as np
import pytest

from streamem import em
from streamem.convergence import Enough, Event, PassEnded, PassRecord, RemainingGain, Status
from streamem.errors import DegenerateComponentError
from streamem.protocols import Pass


class Ladder:
    """A model whose params count M-steps and whose objective follows a list."""

    def __init__(self, values, prior=0.0):
        self.values, self.prior = values, prior

    def m_step(self, params, stats):
        return params + 1

    def log_prior(self, params, stats):
        return self.prior

    def diagnose(self, params, stats):
        return [Event("seen", f"params {params}")]


class Sums:
    n_samples, weight = 2, 2.0

    def __init__(self, log_likelihood):
        self.log_likelihood = log_likelihood


def climb(values, prior=0.0, **keywords):
    model = Ladder(values, prior)
    return em.iterate(
        model, lambda ps: Pass([Sums(2 * values[min(p, len(values) - 1)]) for p in ps], 7), 0, **keywords
    )


def test_slow_progress__is_not_convergence():
    """Steps below tol do not stop a fit that still has far to go."""
    values = [-(0.99**t) for t in range(2000)]
    result = climb(values, tol=1e-3, max_iter=2000)
    assert result.status is Status.CONVERGED
    left = -result.history[-1].log_likelihood
    assert left == pytest.approx(1e-3, rel=0.05)
    assert values[1] - values[0] < 0.011


def test_remaining_gain__is_exact_on_a_geometric_climb():
    gain = RemainingGain()
    estimates = [gain.update(5 - 0.8**t) for t in range(7)]
    assert estimates[:3] == [np.inf] * 3
    np.testing.assert_allclose(estimates[3:], [0.8**t for t in range(3, 7)], rtol=1e-9)


@pytest.mark.parametrize(
    "left",
    [
        lambda t: 0.3**t + 1e-2 * 0.8**t + 1e-3 * 0.99**t,
        lambda t: 1 / (t + 2) ** 2,
        lambda t: np.mean(np.linspace(0, 0.995, 50) ** t),
    ],
    ids=["three speeds", "power law", "fifty speeds"],
)
def test_remaining_gain__is_no_less_where_steps_slow_down(left):
    """The last ratio alone would stop each of these far too early."""
    gain = RemainingGain()
    stopped = next(t for t in range(5000) if gain.update(-left(t)) <= 1e-5)
    assert left(stopped) == pytest.approx(1e-5, rel=0.1)


def test_remaining_gain__of_a_climb_without_end_is_never_small():
    gain = RemainingGain()
    assert min(gain.update(-1 / np.log(t + 2)) for t in range(1000)) > 0.05


def steps_until_enough(climb, accepted="em", remaining=np.inf, **settings):
    """How many steps of a climb on a sample are made, and what is then said to be left."""
    enough = Enough(**settings)
    for step, objective in enumerate(climb, 1):
        record = PassRecord(objective, objective, remaining, 0.0, 0, accepted=accepted)
        if enough(PassEnded("em", step, record)):
            return step, enough.remaining
    return None


def test_climbs_on_samples__end_after_two_steps_that_shrink_fast():
    """With five times what is left of a geometric climb, to be sure."""
    climb = [5 - 0.1**t for t in range(8)]
    assert steps_until_enough(climb, tol=0.06) == (3, pytest.approx(0.05))
    assert steps_until_enough(climb, tol=0.04) is None
    assert steps_until_enough(climb, tol=0.0, share=0.06) == (3, pytest.approx(0.05))
    assert steps_until_enough(climb, tol=0.0, share=0.04) is None


@pytest.mark.parametrize(
    "climb, accepted",
    [
        ([5 - 0.5**t for t in range(9)], "em"),
        ([4, 5, 5, 5], "em"),
        ([4, 5, 5.01], "anderson"),
        ([4, 5, 4.99], "em"),
    ],
    ids=["slow", "no step", "mixed", "fallen"],
)
def test_climbs_on_samples__of_other_kinds_wait_for_the_estimate(climb, accepted):
    assert steps_until_enough(climb, accepted, tol=0.5) is None
    assert steps_until_enough(climb, accepted, tol=0.5, remaining=0.4) == (1, 0.4)


def test_converged_params__are_those_evaluated_last():
    result = climb([-4, -2, -1, -1, -1], tol=1e-6)
    assert result.params == len(result.history) - 1
    assert result.stats.log_likelihood / 2 == result.history[-1].log_likelihood


def test_max_iter__returns_the_last_m_step():
    result = climb([-8, -4, -2, -1], max_iter=3)
    assert result.status is Status.MAX_ITER
    assert result.params == 3
    assert [r.log_likelihood for r in result.history] == [-8, -4, -2]


def test_fall__keeps_the_best_parameters():
    result = climb([-8, -4, -5, -1], tol=1e-6)
    assert result.status is Status.FELL
    assert result.params == 1
    assert result.stats.log_likelihood == -8
    assert result.history[-1].accepted == "none"


def test_fall__within_rounding_is_none():
    result = climb([-8, -4, -2, -2 - 1e-15, -2], tol=0.0)
    assert result.status is Status.CONVERGED


def test_fall__within_the_rounding_that_statistics_tell_is_none(monkeypatch):
    assert climb([-8, -4, -5], tol=0.0).status is Status.FELL
    monkeypatch.setattr(Sums, "rounding_error", 1.5, raising=False)
    assert climb([-8, -4, -5], tol=0.0).status is Status.CONVERGED


def test_not_a_number__keeps_the_best_parameters():
    result = climb([-8, -4, np.nan, -1])
    assert result.status is Status.FELL
    assert result.params == 1


@pytest.mark.parametrize("first", [np.nan, -np.inf])
def test_impossible_start__is_an_error(first):
    with pytest.raises(DegenerateComponentError, match="First pass"):
        climb([first, -1.0])


def test_prior__joins_the_objective_but_not_the_likelihood():
    result = climb([-8, -4], prior=-6.0, max_iter=2)
    assert [r.objective for r in result.history] == [-11, -7]
    assert [r.log_likelihood for r in result.history] == [-8, -4]


def test_interrupt__returns_what_was_reached():
    def one_pass(params):
        if params == [2]:
            raise KeyboardInterrupt
        return Pass([Sums(2.0 * params[0])])

    result = em.iterate(Ladder([]), one_pass, 0)
    assert result.status is Status.INTERRUPTED
    assert result.params == 2
    assert len(result.history) == 2


def test_interrupt__before_the_first_pass_is_not_swallowed():
    def one_pass(params):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        em.iterate(Ladder([]), one_pass, 0)


def test_callback__that_returns_true_ends_the_fit():
    seen = []

    def notify(event):
        seen.append(event)
        return len(seen) == 2

    result = climb([-8, -4, -2, -1], notify=notify)
    assert result.status is Status.CALLBACK
    assert [event.index for event in seen] == [0, 1]
    assert seen[0].record is result.history[0]


def test_history__holds_what_the_model_reports():
    result = climb([-8, -4, -2], max_iter=3)
    assert [r.events[0].message for r in result.history] == ["params 1", "params 2", "params 3"]
    assert {r.bytes_read for r in result.history} == {7}
    assert all(r.seconds >= 0 for r in result.history)


def test_objective__that_may_fall_is_followed():
    model = Ladder([-8, -4, -5, -4.5])
    model.ascends = False
    result = em.iterate(model, lambda ps: Pass([Sums(2 * model.values[p]) for p in ps]), 0, max_iter=4)
    assert result.status is Status.MAX_ITER
    assert result.params == 4


class Shared:
    """Reads for several ladders at once; keeps who took part."""

    def __init__(self):
        self.parts = []

    def __call__(self, wanted):
        self.parts.append([model for model, _ in wanted])
        steps = [(model.values, min(params, len(model.values) - 1)) for model, params in wanted]
        return Pass([Sums(2 * values[step]) for values, step in steps], 7, 0.25, 0.125, 0.5)


QUICK, SLOW = [-8, -4, -4, -4], [-(0.7**t) for t in range(100)]


def ascents(*ladders, **keywords):
    return [em.Ascent(model := Ladder(values), 0, em.PlainEM(model), **keywords) for values in ladders]


def test_shared_passes__give_each_fit_what_it_gets_alone():
    fits, reading = ascents(QUICK, SLOW, [-3, -2, -2.5]), Shared()
    em.share_passes(fits, reading)
    for fit in fits:
        alone, result = climb(fit.model.values), fit.result()
        assert (result.params, result.status, result.model) == (alone.params, alone.status, fit.model)
        assert [r.objective for r in result.history] == [r.objective for r in alone.history]
        assert [r.remaining_gain for r in result.history] == [r.remaining_gain for r in alone.history]
    assert len(reading.parts) == max(len(fit.history) for fit in fits) == len(fits[1].history)
    assert len(reading.parts[0]) == 3 and reading.parts[-1] == [fits[1].model]


def test_shared_passes__cost_each_fit_the_whole_reading():
    fits = ascents(QUICK, SLOW)
    em.share_passes(fits, Shared())
    for fit in fits:
        costs = {
            (r.bytes_read, r.read_seconds, r.decode_seconds, r.compute_seconds, r.candidates)
            for r in fit.history
        }
        assert costs == {(7, 0.25, 0.125, 0.5, 1)}


def test_shared_passes__are_told_once_each_with_the_best_fit():
    fits, events = ascents(QUICK, SLOW), []
    em.share_passes(fits, Shared(), events.append)
    assert [event.index for event in events] == list(range(len(fits[1].history)))
    assert all(event.record is record for event, record in zip(events, fits[1].history, strict=True))
    assert [event.n_fits for event in events[:3]] == [2, 2, 2] and events[-1].n_fits == 1


def test_shared_passes__of_a_callback_that_returns_true_end_all_that_run():
    fits = ascents(QUICK, SLOW, SLOW, tol=1e-9)
    em.share_passes(fits, Shared(), lambda event: event.index == 5)
    assert [fit.result().status for fit in fits] == [Status.CONVERGED, Status.CALLBACK, Status.CALLBACK]
    assert len(fits[1].history) == 6


def test_shared_passes__end_at_max_iter_of_each():
    fits = ascents(QUICK, SLOW, max_iter=3)
    em.share_passes(fits, Shared())
    assert [len(fit.history) for fit in fits] == [3, 3]
    assert fits[1].result().status is Status.MAX_ITER


def test_shared_passes__keep_one_fits_failure_from_the_others():
    fits = ascents([np.nan], SLOW)
    em.share_passes(fits, Shared())
    assert fits[1].result().status is Status.CONVERGED
    with pytest.raises(DegenerateComponentError, match="First pass"):
        fits[0].result()


def test_shared_passes__interrupted_return_what_each_reached():
    fits, reading = ascents(QUICK, SLOW, tol=1e-9), Shared()

    def interrupted(wanted):
        if len(reading.parts) == 6:
            raise KeyboardInterrupt
        return reading(wanted)

    em.share_passes(fits, interrupted)
    assert [fit.result().status for fit in fits] == [Status.CONVERGED, Status.INTERRUPTED]
    assert fits[1].result().params == 6


def test_shared_passes__interrupted_in_an_m_step_stop_the_others():
    class Impatient(Ladder):
        def m_step(self, params, stats):
            if params == 2:
                raise KeyboardInterrupt
            return params + 1

    model = Impatient(SLOW)
    fits = [em.Ascent(model, 0, em.PlainEM(model)), *ascents(SLOW)]
    em.share_passes(fits, Shared())
    assert [fit.result().status for fit in fits] == [Status.INTERRUPTED] * 2
    assert fits[0].result().params == 2


def test_shared_passes__serve_those_that_attend():
    fits, reading = ascents(SLOW, QUICK), Shared()

    def one_by_one(running):
        return running[:1]

    em.share_passes(fits, reading, attend=one_by_one)
    assert all(len(part) == 1 for part in reading.parts)
    assert [fit.result().status for fit in fits] == [Status.CONVERGED] * 2
    assert len(reading.parts) == sum(len(fit.history) for fit in fits)


def estimates(steps):
    gain = RemainingGain()
    return [gain.update(objective) for objective in np.cumsum([0.0, *steps])]


def test_remaining_gain__of_many_irregular_steps_is_as_much_again_at_their_pace():
    irregular = [1e-3, 3e-3] * 20
    found = estimates(irregular)
    assert np.all(np.isinf(found[4:20]))
    np.testing.assert_allclose(found[-1], 40 * 3e-3)


def test_remaining_gain__of_growing_steps_is_unknown():
    assert np.all(np.isinf(estimates(1e-6 * 1.3 ** np.arange(40))))
