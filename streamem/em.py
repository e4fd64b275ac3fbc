"""Expectation-maximisation: the whole algorithm.

For any q over the latent variables z of observed rows x (both sums run over rows),

    log p(x; θ) = L(q, θ) + KL(q(z) ‖ p(z|x; θ)),      L(q, θ) = E_q log p(x, z; θ) − E_q log q(z).

KL >= 0, so L, the ELBO, bounds the log-likelihood from below (Jensen's inequality says the same).

*E-step.* Raise L over q: q = p(z|x; θ_t) makes KL vanish and the bound tight. For the models here that
posterior enters the bound only through expected sufficient statistics, a sum over rows: one pass.

*M-step.* Raise L over θ: θ_{t+1} = argmax Q(θ, θ_t), Q(θ, θ') = E_{p(z|x; θ')} log p(x, z; θ), a closed form
in the statistics. Hence

    log p(x; θ_{t+1}) − log p(x; θ_t)
        = Q(θ_{t+1}, θ_t) − Q(θ_t, θ_t) + KL(p(z|x; θ_t) ‖ p(z|x; θ_{t+1}))  >=  0:

the likelihood never falls (Dempster, Laird & Rubin 1977), and its limits are stationary points (Wu 1983),
not necessarily maxima. A log-prior is carried along unchanged: "objective" is log-likelihood + log-prior.

One iteration is `Ascent.take`; the loop around it, `share_passes`, may serve several fits with each reading.
How a pass runs is `streamem.reduce`; what the statistics are is `streamem.models`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np

from streamem.acceleration import Accelerator, Candidate, PlainEM, Proposal, Reached
from streamem.convergence import (
    Event,
    FitResult,
    PassEnded,
    PassRecord,
    RemainingGain,
    Status,
    rounding,
    slow_progress,
)
from streamem.errors import DegenerateComponentError
from streamem.protocols import Model, Pass, Stats

__all__ = ["Ascent", "iterate", "share_passes"]

P = TypeVar("P")
S = TypeVar("S", bound=Stats)

ROUNDING = 1e-9  # relative, unless statistics tell their ``noise``: what ill-conditioned rows do to a mean


def iterate(
    model: Model[P, S],
    one_pass: Callable[[Sequence[P]], Pass[Any]],
    params: P,
    *,
    accelerate: Accelerator[P, S] | None = None,
    tol: float = 1e-6,
    max_iter: int = 100,
    notify: Callable[[PassEnded], object] = lambda event: None,
) -> FitResult[P]:
    """Alternate E-steps over all rows and M-steps until little is left to gain.

    Parameters
    ----------
    one_pass
        From candidate parameters to the statistics of all rows under each: the E-step, in one reading.
    params
        Where to start.
    accelerate
        Where the next candidates come from; by default the M-step, which is textbook EM.
    tol
        Nats per unit weight: the fit stops when the estimated remaining gain is below it.
    max_iter
        Passes at most.
    notify
        Told of each pass as it ends; returning True stops the fit.

    Raises
    ------
    DegenerateComponentError
        If the very first objective is not finite: some row is impossible under the starting parameters.
    KeyboardInterrupt
        If interrupted before the first pass is complete; later, what was reached is returned.
    """
    ascent = Ascent(model, params, accelerate or PlainEM(model), tol, max_iter)
    share_passes([ascent], lambda wanted: one_pass([params for _, params in wanted]), notify)
    return ascent.result()


def share_passes(
    ascents: Sequence[Ascent[Any, Any]],
    one_pass: Callable[[Sequence[tuple[Any, Any]]], Pass[Any]],
    notify: Callable[[PassEnded], object] = lambda event: None,
    attend: Callable[[list[Ascent[Any, Any]]], Sequence[Ascent[Any, Any]]] = lambda running: running,
    first: int = 0,
) -> None:
    """Iterate several fits, of one model or of many, so that each reading of the rows serves them all.

    None of them notices the others: each gets the numbers that it would get alone, leaves when it is done,
    and keeps to itself what goes wrong with it (`Ascent.result` raises that).

    Parameters
    ----------
    one_pass
        From pairs of a model and parameters to the statistics of all rows under each, in one reading.
    notify
        Told of each reading as it ends, with the record of the fit of highest objective; True stops all.
    attend
        From the fits still running to those that take part in the next reading. The others wait, or are given
        up by setting their status.
    first
        Number of the first reading: more than 0 where fits go on that made some before.
    """
    for index in itertools.count(first):
        unfinished = [ascent for ascent in ascents if not ascent.done]
        running = attend(unfinished) if unfinished else ()
        if not running:
            return
        try:
            best = _take_pass(running, one_pass)
            if any(ascent.status is Status.INTERRUPTED for ascent in running):
                _stop(unfinished, Status.INTERRUPTED)
            if best is not None and notify(PassEnded("em", index, best, len(running))) is True:
                _stop(unfinished, Status.CALLBACK)
        except KeyboardInterrupt:
            if not any(ascent.history for ascent in ascents):
                raise
            _stop(unfinished, Status.INTERRUPTED)


def _take_pass(
    running: Sequence[Ascent[Any, Any]], one_pass: Callable[[Sequence[tuple[Any, Any]]], Pass[Any]]
) -> PassRecord | None:
    """Read the rows once for those that take part, and return the record of highest objective, if any."""
    began = time.perf_counter()
    rows = one_pass([(ascent.model, its.params) for ascent in running for its in ascent.candidates])
    seconds, stats = time.perf_counter() - began, iter(rows.stats)
    for ascent in running:
        its_stats = list(itertools.islice(stats, len(ascent.candidates)))
        try:
            ascent.take(replace(rows, stats=its_stats), seconds)
        except (ArithmeticError, np.linalg.LinAlgError) as error:
            ascent.error = error
        if ascent.status is Status.INTERRUPTED:
            break
    records = [ascent.history[-1] for ascent in running if ascent.history and ascent.error is None]
    return max(records, key=lambda record: record.objective, default=None)


def _stop(ascents: Iterable[Ascent[Any, Any]], status: Status) -> None:
    """End all fits that no reason of their own has ended."""
    for ascent in ascents:
        ascent.status = ascent.status or status


@dataclass(slots=True, eq=False)
class Ascent(Generic[P, S]):
    """One fit under way: what it wants evaluated in the next pass, and what it has reached."""

    model: Model[P, S]
    """The model."""
    step: P
    """Where to start; later the EM step from the best parameters, never worse than they."""
    accelerate: Accelerator[P, S]
    """Where the next candidates come from."""
    tol: float = 1e-6
    """Remaining gain to stop at, nats per unit weight."""
    max_iter: int = 100
    """Passes at most."""
    candidates: Sequence[Candidate[P]] = field(init=False)
    """What the next pass is to evaluate."""
    best: Reached[P, S] | None = None
    """The best that was evaluated."""
    remaining: float = np.inf
    """Estimated rise of the objective still to come, nats per unit weight."""
    history: list[PassRecord] = field(default_factory=list)
    """One entry per pass."""
    status: Status | None = None
    """Why it stopped; None while it runs, and after ``max_iter`` passes."""
    error: Exception | None = None
    """What went wrong."""
    _gain: RemainingGain = field(default_factory=RemainingGain)

    def __post_init__(self) -> None:
        self.candidates = (Candidate("start", self.step),)

    @property
    def done(self) -> bool:
        """Whether it wants no further pass."""
        return self.status is not None or self.error is not None or len(self.history) >= self.max_iter

    def take(self, rows: Pass[Any], seconds: float = 0.0) -> None:
        """Take in a pass over the candidates, which lasted ``seconds``: one iteration of EM.

        The E-step is made; here the best candidate is chosen, the M-step follows, and whether to stop.
        """
        began = time.perf_counter()
        reached = _best_of(self.model, self.candidates, rows.stats)
        best, ascends = self.best or reached, getattr(self.model, "ascends", True)
        no_worse = not ascends or reached.objective >= best.objective
        fell = ascends and not reached.objective >= best.objective - rounding(best.objective)
        if no_worse:
            self.best = best = reached
        if not fell:
            self.remaining = self._gain.update(best.objective)
        stuck = fell and self.candidates[-1].by == "em"
        status = _judge_fall(best.objective - reached.objective, best, self.tol) if stuck else None
        events: tuple[Event, ...] = ()
        if status is Status.FELL:
            self.status = status
        else:
            events = self._proceed(best, fell, at_rest=stuck)
            best = self.best or best
        events += _events(self.model, self.step, best.stats)
        if self.status is not None or len(self.history) + 1 >= self.max_iter:
            climb = [*(record.objective for record in self.history), best.objective]
            events += slow_progress(climb, getattr(self.model, "n_components", 1))
        seconds += time.perf_counter() - began
        self.history.append(_record(rows, best, self.remaining, seconds, no_worse, events))

    def _proceed(self, best: Reached[P, S], fell: bool, at_rest: bool) -> tuple[Event, ...]:
        """Take the M-step from the best parameters, and judge whether the next candidates are needed."""
        try:
            if at_rest:
                proposal = self._end(Proposal(self.step, tuple(self.candidates)), best, 0.0)
            else:
                proposal = self.accelerate(best, fell)
                if proposal.remaining is not None:
                    self.remaining = proposal.remaining
                if not fell:
                    proposal = self._end(proposal, best, self.remaining)
        except KeyboardInterrupt:
            self.step, self.status = best.params, Status.INTERRUPTED
            return ()
        self.step, self.candidates, self.best = proposal.step, proposal.candidates, proposal.best or best
        return proposal.events

    def _end(self, proposal: Proposal[P], best: Reached[P, S], remaining: float) -> Proposal[P]:
        """End the fit where little is left to gain here, unless there are better parameters elsewhere."""
        elsewhere = getattr(self.accelerate, "elsewhere", None)
        other: Proposal[P] | None = elsewhere(best, proposal, remaining) if elsewhere else None
        if other is not None:
            self.remaining = np.inf
            return other
        if remaining <= max(self.tol, rounding(best.objective)):
            self.status = Status.CONVERGED
        return proposal

    def result(self) -> FitResult[P]:
        """Return what was reached; raise what went wrong, if something did."""
        if self.error is not None:
            raise self.error
        status, best = self.status or Status.MAX_ITER, self.best
        evaluated = best is not None and status in (Status.CONVERGED, Status.FELL)
        params = best.params if best is not None and evaluated else self.step
        return FitResult(params, status, tuple(self.history), best.stats if best else None, self.model)


def _record(
    rows: Pass[Any],
    best: Reached[P, S],
    remaining: float,
    seconds: float,
    accepted: bool,
    events: tuple[Event, ...],
) -> PassRecord:
    """Return the history's entry for one pass."""
    return PassRecord(
        log_likelihood=best.stats.log_likelihood / best.stats.weight,
        objective=best.objective,
        remaining_gain=remaining,
        seconds=seconds,
        bytes_read=rows.bytes_read,
        read_seconds=rows.read_seconds,
        decode_seconds=rows.decode_seconds,
        compute_seconds=rows.compute_seconds,
        candidates=len(rows.stats),
        accepted=best.by if accepted else "none",
        events=events,
    )


def _best_of(model: Model[P, S], candidates: Sequence[Candidate[P]], stats: Sequence[S]) -> Reached[P, S]:
    """Return the candidate of the highest objective; the first of several."""
    best = None
    for candidate, its in zip(candidates, stats, strict=True):
        objective = (its.log_likelihood + _log_prior(model, candidate.params, its)) / its.weight
        objective = -np.inf if np.isnan(objective) else objective  # or no other would be better
        if best is None or objective > best.objective:
            best = Reached(candidate.params, its, objective, candidate.by)
    assert best is not None
    if candidates[0].by == "start" and not np.isfinite(best.objective):
        raise DegenerateComponentError(
            f"First pass: the objective is {best.objective}, so some row is impossible under the starting "
            "parameters. Start from other parameters, or look for rows of absurd magnitude."
        )
    return best


def _judge_fall(fall: float, best: Reached[P, S], tol: float) -> Status:
    """Return why to stop after an EM step that fell, which in exact arithmetic none does.

    A fall as small as rounding says that what is left to gain is smaller still.
    """
    noise = getattr(best.stats, "rounding_error", ROUNDING * max(1.0, abs(best.objective)))
    return Status.CONVERGED if fall <= max(tol, noise) else Status.FELL


def _log_prior(model: Model[P, S], params: P, stats: S) -> float:
    """Return what the model adds to the log-likelihood, 0 for maximum likelihood."""
    log_prior = getattr(model, "log_prior", None)
    return float(log_prior(params, stats)) if log_prior else 0.0


def _events(model: Model[P, S], params: P, stats: S) -> tuple[Event, ...]:
    """Return what the model has to say about its new parameters."""
    diagnose = getattr(model, "diagnose", None)
    return tuple(diagnose(params, stats)) if diagnose else ()
