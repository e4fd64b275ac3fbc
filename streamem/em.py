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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

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
    one_pass: Callable[[P], Pass[S]],
    params: P,
    *,
    tol: float = 1e-6,
    max_iter: int = 100,
    notify: Callable[[PassEnded], object] = lambda event: None,
) -> FitResult[P]:
    """Alternate E-steps over all rows and M-steps until little is left to gain.

    Parameters
    ----------
    one_pass
        From parameters to the statistics of all rows: the E-step.
    tol
        Nats per unit weight: the fit stops when the estimated remaining gain is below it.
    notify
        Told of each pass as it ends; returning True stops the fit.

    Raises
    ------
    DegenerateComponentError
        If the very first objective is not finite: some row is impossible under the starting parameters.
    KeyboardInterrupt
        If interrupted before the first pass is complete; later, what was reached is returned.
    """
    ascends = getattr(model, "ascends", True)
    ascends = getattr(model, "ascends", True)
    gain, history, best = RemainingGain(), list[PassRecord](), None
    for index in range(max_iter):
        began = time.perf_counter()
        try:
            rows = one_pass(params)
        except KeyboardInterrupt:
            if best is None:
                raise
            return FitResult(params, Status.INTERRUPTED, tuple(history), best.stats)
        stats = rows.stats
        reached = _Reached(
            params, stats, (stats.log_likelihood + _log_prior(model, params, stats)) / stats.weight
        )
        best, fell = _better(best, reached, ascends)
        remaining = gain.update(reached.objective)
        status = _judge(best, reached, remaining, fell, tol)
        if status is None:
            params = model.m_step(params, stats)
        history.append(
            PassRecord(
                log_likelihood=stats.log_likelihood / stats.weight,
                objective=reached.objective,
                remaining_gain=remaining,
                seconds=time.perf_counter() - began,
                bytes_read=rows.bytes_read,
                read_seconds=rows.read_seconds,
                compute_seconds=rows.compute_seconds,
                accepted="none" if fell else "em",
                events=_events(model, params, stats),
            )
        )
        wants_stop = notify(PassEnded("em", index, history[-1]))
        if status is not None:
            return FitResult(best.params, status, tuple(history), best.stats)
        if wants_stop is True:
            return FitResult(params, Status.CALLBACK, tuple(history), best.stats)
    return FitResult(params, Status.MAX_ITER, tuple(history), best.stats if best else None)


@dataclass(frozen=True, slots=True, eq=False)
class _Reached(Generic[P, S]):
    """Parameters, their statistics, and the objective per unit weight."""

    params: P
    stats: S
    objective: float


def _better(
    best: _Reached[P, S] | None, reached: _Reached[P, S], ascends: bool
) -> tuple[_Reached[P, S], bool]:
    """Return the better of two, and whether the new one fell."""
    if best is None or not ascends or reached.objective >= best.objective:
        return reached, False
    return best, True


def _judge(
    best: _Reached[P, S], reached: _Reached[P, S], remaining: float, fell: bool, tol: float
) -> Status | None:
    """Return why to stop, or None to go on."""
    if not np.isfinite(best.objective):
        raise DegenerateComponentError(
            f"First pass: the objective is {best.objective}, so some row is impossible under the starting "
            "parameters. Start from other parameters, or look for rows of absurd magnitude."
        )
    if fell:  # exact arithmetic never falls: a fall this small is rounding, larger than what is left to gain
        rounding_of = getattr(best.stats, "rounding", ROUNDING)
        noise = max(tol, rounding_of * max(1.0, abs(best.objective)))
        return Status.CONVERGED if best.objective - reached.objective <= noise else Status.FELL
    return Status.CONVERGED if remaining <= max(tol, rounding(reached.objective)) else None


def _log_prior(model: Model[P, S], params: P, stats: S) -> float:
    """Return what the model adds to the log-likelihood, 0 for maximum likelihood."""
    log_prior = getattr(model, "log_prior", None)
    return float(log_prior(params, stats)) if log_prior else 0.0


def _events(model: Model[P, S], params: P, stats: S) -> tuple[Event, ...]:
    """Return what the model has to say about its new parameters."""
    diagnose = getattr(model, "diagnose", None)
    return tuple(diagnose(params, stats)) if diagnose else ()
