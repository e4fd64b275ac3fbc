"""Several fits that share each reading of the rows: who takes part, who is given up, who wins.

Decisions follow counted bytes and the fits' own numbers, never a clock or the number of workers, so that they
are the same on every machine.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np

from streamem.convergence import FitResult, PassEnded, Status
from streamem.em import Ascent, share_passes
from streamem.estimators.rows import RowData
from streamem.protocols import Pass, Rows, Several

__all__ = [
    "Fit",
    "Kept",
    "Reading",
    "Worth",
    "best_fit",
    "best_of",
    "by_objective",
    "hoped_gain",
    "iterate_together",
]

Fit: TypeAlias = Ascent[Any, Any]

STATISTICS_SHARE = 8  # one part in so many of the memory limit
HELD_AT_ONCE = 16  # statistics that a pass may hold of one candidate: threads, and levels of the merge tree
CANDIDATES = 2  # what accelerators propose at most
HOPE = 100.0  # a fit is given up where so many times its estimated remaining gain would not do
AGREEING = 5  # estimates in a row from which the largest is taken: near a saddle one alone may be far too low


@dataclass(slots=True, eq=False)
class Reading:
    """Reads all rows once, for the E-steps of whoever takes part."""

    data: RowData
    """The rows."""
    n_passes: int = 0
    """How often they were read."""
    scores: dict[Any, float] = field(default_factory=dict)
    """Mean log-likelihood of rows held out, by parameters, where there are any."""

    def __call__(self, wanted: Sequence[tuple[Any, Any]]) -> Pass[Any]:
        """Return the statistics of all rows for each pair of a model and parameters."""
        return self.read(wanted, _e_steps)

    def read(self, wanted: Sequence[tuple[Any, Any]], e_steps: Callable[..., Any]) -> Pass[Any]:
        """Make one pass with ``e_steps(wanted, rows)`` and count it."""
        self.n_passes += 1
        row_work = _row_work([model for model, _ in wanted], self.data)
        return self.data.one_pass(
            functools.partial(e_steps, tuple(wanted)), "em", self.n_passes - 1, row_work
        )


class Kept(Protocol):
    """Where fits are kept."""

    def begin(self, fits: Sequence[Fit], reading: Reading) -> Callable[[], object]:
        """Tell ``reading`` what it has behind it, and return what is to be called after each pass."""
        ...


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
    return Worth(fit.best.objective, fit.best.objective + hoped_gain(fit))


def hoped_gain(fit: Fit) -> float:
    """Return more than the objective of a fit may still rise, nats per unit weight."""
    if len(fit.history) < AGREEING:
        return np.inf
    return HOPE * max(record.remaining_gain for record in fit.history[-AGREEING:])


def iterate_together(
    fits: Sequence[Fit],
    reading: Reading,
    memory_limit: int | None,
    worth: Callable[[Fit], Worth] | None = by_objective,
    kept: Kept | None = None,
) -> None:
    """Iterate fits until each is done; the rows are read once for all that take part.

    Parameters
    ----------
    memory_limit
        Bytes; where the statistics of all fits need more than a share of it, the last ones wait for the first
        ones to finish.
    worth
        By what hopeless fits are given up; None to give up none.
    kept
        Where the fits are written after each pass.
    """
    data = reading.data
    write = None if kept is None else kept.begin(fits, reading)

    def notify(event: PassEnded) -> bool:
        if write is not None:
            write()  # before callbacks, which may raise
        return data.notify(event)

    def attend(running: list[Fit]) -> Sequence[Fit]:
        if worth is not None:
            running = _with_hope(fits, running, worth)
        return _within(memory_limit, data.source.n_features, running)

    share_passes(fits, reading, notify, attend, reading.n_passes)


def best_fit(fits: Sequence[Fit]) -> Fit:
    """Return the fit of highest objective, the first of several; the first of all where none reached any."""
    reached = [fit for fit in fits if fit.error is None and fit.best is not None]
    return max(reached, key=lambda fit: fit.history[-1].objective) if reached else fits[0]


def best_of(fits: Sequence[Fit]) -> FitResult[Any]:
    """Return the result of the best fit, interrupted if any was; raise what went wrong with all."""
    result = best_fit(fits).result()
    interrupted = any(fit.status is Status.INTERRUPTED for fit in fits)
    return replace(result, status=Status.INTERRUPTED) if interrupted else result


def _e_steps(wanted: Sequence[tuple[Any, Any]], rows: Rows) -> Several[Any]:
    return Several(model.e_step(params, rows) for model, params in wanted)


def _row_work(models: Sequence[Any], data: RowData) -> float | None:
    """Return about how many multiplications a row takes, as many as there are parameters.

    None if they are unknown, where rows have to be brought in, or where patterns of missing values add to it.
    """
    known = all(hasattr(model, "n_parameters") for model in models)
    if not known or data.missing == "marginal" or not getattr(data.source, "in_memory", False):
        return None
    return float(sum(model.n_parameters(data.source.n_features) for model in models))


def _with_hope(fits: Sequence[Fit], running: Sequence[Fit], worth: Callable[[Fit], Worth]) -> list[Fit]:
    """Give up those that fall short of a fit that has converged even if they gain 100 times what they may.

    Only converged fits set the bar, since others may yet change their minds: an entropy may rise again, a
    held-out likelihood fall.
    """
    bar = max((worth(fit).now for fit in fits if fit.status is Status.CONVERGED), default=None)
    if bar is None:
        return list(running)
    for fit in running:
        if fit.history and worth(fit).hoped < bar:
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
