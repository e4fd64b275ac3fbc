"""Several fits that share each reading of the rows: who takes part, who is given up, who wins.

Decisions follow counted bytes and the fits' own numbers, never a clock or the number of workers, so that they
are the same on every machine.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from streamem.convergence import FitResult, Status
from streamem.em import Ascent, share_passes
from streamem.estimators.rows import RowData
from streamem.protocols import Pass, Rows, Several

__all__ = ["Fit", "Worth", "best_of", "by_objective", "iterate_together"]

Fit: TypeAlias = Ascent[Any, Any]
OnePass: TypeAlias = Callable[[Sequence[tuple[Any, Any]]], Pass[Any]]

STATISTICS_SHARE = 8  # one part in so many of the memory limit
HELD_AT_ONCE = 16  # statistics that a pass may hold of one candidate: threads, and levels of the merge tree
CANDIDATES = 2  # what accelerators propose at most
HOPE = 100.0  # a fit is given up where so many times its estimated remaining gain would not do
FEWEST_PASSES = 4  # before estimates say anything


@dataclass(frozen=True, slots=True)
class Worth:
    """How good a fit is, in units in which more is better."""

    now: float
    """By what it has reached."""
    hoped: float
    """By more than what it may still reach."""


def by_objective(fit: Fit) -> Worth:
    """Return the worth of one of several starts of a model."""
    assert fit.best is not None
    return Worth(fit.best.objective, fit.best.objective + HOPE * fit.remaining)


def iterate_together(
    fits: Sequence[Fit],
    data: RowData,
    memory_limit: int | None,
    *,
    worth: Callable[[Fit], Worth] | None = by_objective,
    one_pass: OnePass | None = None,
) -> None:
    """Iterate fits until each is done; the rows are read once for all that take part.

    Parameters
    ----------
    memory_limit
        Bytes; where the statistics of all fits need more than a share of it, the last ones wait for the first
        ones to finish.
    worth
        By what hopeless fits are given up; None to give up none.
    one_pass
        What a reading does, if not the E-step of each model.
    """

    def attend(running: list[Fit]) -> Sequence[Fit]:
        if worth is not None:
            running = _with_hope(fits, running, worth)
        return _within(memory_limit, data.source.n_features, running)

    share_passes(fits, one_pass or _reading(data), data.notify, attend)


def best_of(fits: Sequence[Fit]) -> FitResult[Any]:
    """Return the result of highest objective; raise what went wrong where nothing went right."""
    results = [fit.result() for fit in fits if fit.error is None and fit.best is not None]
    if not results:
        return fits[0].result()
    best = max(results, key=lambda result: result.history[-1].objective)
    interrupted = any(fit.status is Status.INTERRUPTED for fit in fits)
    return replace(best, status=Status.INTERRUPTED) if interrupted else best


def _reading(data: RowData) -> OnePass:
    index = itertools.count()
    return lambda wanted: data.one_pass(functools.partial(_e_steps, tuple(wanted)), "em", next(index))


def _e_steps(wanted: Sequence[tuple[Any, Any]], rows: Rows) -> Several[Any]:
    return Several(model.e_step(params, rows) for model, params in wanted)


def _with_hope(fits: Sequence[Fit], running: Sequence[Fit], worth: Callable[[Fit], Worth]) -> list[Fit]:
    """Give up those that fall short of a fit that has converged even if they gain 100 times what they may.

    Only converged fits set the bar, since others may yet change their minds: an entropy may rise again, a
    held-out likelihood fall.
    """
    bar = max((worth(fit).now for fit in fits if fit.status is Status.CONVERGED), default=None)
    if bar is None:
        return list(running)
    for fit in running:
        if len(fit.history) >= FEWEST_PASSES and worth(fit).hoped < bar:
            fit.status = Status.DROPPED
    return [fit for fit in running if not fit.done]


def _within(memory_limit: int | None, n_features: int, running: Sequence[Fit]) -> Sequence[Fit]:
    """Return the leading fits whose statistics fit in their share of the memory; at least one."""
    if memory_limit is None:
        return running
    total = itertools.accumulate(_held_bytes(fit.model, n_features) for fit in running)
    room = memory_limit // STATISTICS_SHARE
    return running[: max(1, sum(held <= room for held in total))]


def _held_bytes(model: Any, n_features: int) -> int:
    """Return what the statistics of a model take during a pass: matrices are held with both triangles."""
    count = getattr(model, "n_parameters", None)
    return 2 * 8 * int(count(n_features)) * CANDIDATES * HELD_AT_ONCE if count else 0
