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

How a pass runs is `streamem.reduce`; what the statistics are is `streamem.models`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from streamem.acceleration import Accelerator, Candidate, PlainEM, Reached
from streamem.convergence import (
    Event,
    FitResult,
    PassEnded,
    PassRecord,
    RemainingGain,
    Status,
    rounding,
)
from streamem.errors import DegenerateComponentError
from streamem.protocols import Model, Pass, Stats

__all__ = ["iterate"]

P = TypeVar("P")
S = TypeVar("S", bound=Stats)

ROUNDING = 1e-9  # relative, unless statistics say otherwise: what ill-conditioned rows can do to a mean


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
    accelerate = accelerate or PlainEM(model)
    ascends = getattr(model, "ascends", True)
    gain, history, remaining = RemainingGain(), list[PassRecord](), np.inf
    step, best = params, cast("Reached[P, S] | None", None)
    candidates: Sequence[Candidate[P]] = (Candidate("start", params),)
    for index in range(max_iter):
        began, status = time.perf_counter(), None
        try:
            rows = one_pass([candidate.params for candidate in candidates])  # E-step
        except KeyboardInterrupt:
            if best is None:
                raise
            return FitResult(step, Status.INTERRUPTED, tuple(history), best.stats)
        reached = _best_of(model, candidates, rows.stats)
        fell = best is not None and ascends and not reached.objective >= best.objective
        if best is None or not fell:
            best, remaining = reached, gain.update(reached.objective)
        elif candidates[-1].by == "em":
            status = _judge_fall(best.objective - reached.objective, best, tol)
        if status is None:
            try:
                proposal = accelerate(best, fell)  # M-step
            except KeyboardInterrupt:
                step, status = best.params, Status.INTERRUPTED
            else:
                step, candidates = proposal.step, proposal.candidates
                remaining = remaining if proposal.remaining is None else proposal.remaining
                if not fell and remaining <= max(tol, rounding(best.objective)):
                    status = Status.CONVERGED
        seconds = time.perf_counter() - began
        history.append(_record(rows, best, remaining, seconds, fell, _events(model, step, best.stats)))
        wants_stop = notify(PassEnded("em", index, history[-1]))
        if status is not None:
            return FitResult(best.params, status, tuple(history), best.stats)
        if wants_stop is True:
            return FitResult(step, Status.CALLBACK, tuple(history), best.stats)
    return FitResult(step, Status.MAX_ITER, tuple(history), best.stats if best else None)


def _record(
    rows: Pass[Any],
    best: Reached[P, S],
    remaining: float,
    seconds: float,
    fell: bool,
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
        compute_seconds=rows.compute_seconds,
        candidates=len(rows.stats),
        accepted="none" if fell else best.by,
        events=events,
    )


def _best_of(model: Model[P, S], candidates: Sequence[Candidate[P]], stats: Sequence[S]) -> Reached[P, S]:
    """Return the candidate of the highest objective; the first of several."""
    best = None
    for candidate, its in zip(candidates, stats, strict=True):
        objective = (its.log_likelihood + _log_prior(model, candidate.params, its)) / its.weight
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
    rounding_of = getattr(best.stats, "rounding", ROUNDING)
    noise = max(tol, rounding_of * max(1.0, abs(best.objective)))
    return Status.CONVERGED if fall <= noise else Status.FELL


def _log_prior(model: Model[P, S], params: P, stats: S) -> float:
    """Return what the model adds to the log-likelihood, 0 for maximum likelihood."""
    log_prior = getattr(model, "log_prior", None)
    return float(log_prior(params, stats)) if log_prior else 0.0


def _events(model: Model[P, S], params: P, stats: S) -> tuple[Event, ...]:
    """Return what the model has to say about its new parameters."""
    diagnose = getattr(model, "diagnose", None)
    return tuple(diagnose(params, stats)) if diagnose else ()
