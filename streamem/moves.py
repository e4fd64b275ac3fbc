"""Escapes from poor optima: moves that EM cannot make, tried where its own steps gain little.

EM changes parameters little by little, and ends at an optimum near its start. A model may know of moves to
elsewhere: a mixture merges two components and splits a third (Ueda, Nakano, Ghahramani & Hinton 2000).
Whether one pays is found out on the resident sample, at no pass; the one that does is evaluated in the next
pass beside the EM step, and what all rows say counts: the objective never falls. A fit whose sample promises
nothing makes no further pass.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np

from streamem.acceleration import Accelerator, Candidate, Proposal, Reached
from streamem.convergence import Event, FitResult, PassEnded
from streamem.protocols import Rows, Stats

__all__ = ["Found", "Moving", "Search"]

P = TypeVar("P")
S = TypeVar("S", bound=Stats)

TRIES = 2  # moves that EM on the sample follows: of 93 that paid, 93 had the highest rank
HOPE = 4.0  # times the estimated climb: where even that is not enough, a move is given up,
PACE = 30  # or so many steps like the last, if that is less, or all that is known,
PLATEAU = 3  # after so many steps of which this is true
KNOWN = 0.1  # of what a move has to gain: how well the end of the climb without one is known
RACE = 2  # times the steps of the first move: what the climb without it has to catch up
ROUNDS = 5  # moves of one fit that are evaluated on all rows


@dataclass(frozen=True, slots=True, eq=False)
class Found(Generic[P]):
    """What a search has found."""

    moved: P
    """Where EM on the sample leads after the move; as far as it was followed, if none pays."""
    stayed: P
    """Where it leads without."""
    what: str = ""
    """What was done, if anything pays."""

    def carried(self, model: Any, params: P) -> P:
        """Return parameters that differ from those given by what the move did on the sample, and no more.

        EM on the sample leads away from where all rows lead, as far as the sample errs, with the move as
        without it. That is left out of all coordinates but those that the move has changed by more.
        """
        at, without, having = (model.to_vector(point) for point in (params, self.stayed, self.moved))
        with np.errstate(invalid="ignore"):  # components without weight are at infinity
            change, error = having - without, without - at
            carried = np.where(np.abs(change) > np.abs(error), having, at + change)
        nearer = model.from_vector(carried, self.moved)
        return self.moved if nearer is None else nearer


@dataclass(frozen=True, slots=True)
class Search(Generic[P]):
    """Looks for better parameters elsewhere, on rows in memory.

    For models that offer ``moves(params, rows, each)``, which yields parameters elsewhere and a sentence
    about each, the most promising first.
    """

    model: Any
    """The model."""
    rows: Rows
    """Some of the resident sample: they rank the moves."""
    climbs: Sequence[Callable[..., FitResult[P]]]
    """EM on ever more of the sample, all of it in the end: ``climb(params, notify=None)``."""
    each: Callable[..., Iterable[Any]] = map
    """A `map` that may use several threads."""

    def at_once(self, here: Reached[P, Any], least: float) -> Found[P]:
        """Return parameters of an objective higher by more than ``least``, if any, after a few steps.

        On the first part of the sample alone, for climbs on it, which evaluated ``here`` on the same rows:
        nearly all moves that pay do so soon.
        """
        goal = here.objective + least
        for moved, what in itertools.islice(self.model.moves(here.params, self.rows, self.each), 1):
            result = self.climbs[0](moved, notify=_GivingUp(goal, reached=True))
            if _highest(result) > goal:
                return Found(result.params, here.params, what)
        return Found(here.params, here.params)

    def __call__(self, here: Reached[P, Any], least: float) -> Found[P]:
        """Return parameters of an objective higher by more than ``least``, if any.

        A move has to gain something on each part of the sample, and this much on all of it.
        """
        params = here.params
        stayed: list[FitResult[P]] = []  # after EM without a move, on each part so far
        gains = [0.0] * (len(self.climbs) - 1) + [least]
        for moved, what in itertools.islice(self.model.moves(params, self.rows, self.each), TRIES):
            for part, (climb, gain) in enumerate(zip(self.climbs, gains, strict=True)):
                if part < len(stayed):
                    result = climb(moved, notify=_GivingUp(_highest(stayed[part]) + gain))
                else:  # the best of all moves by rank: if it pays, how far EM leads without it matters little
                    result = climb(moved)
                    enough = _GivingUp(_highest(result) - gain, KNOWN * least, RACE * len(result.history))
                    stayed.append(climb(params, notify=enough))
                if not _highest(result) > _highest(stayed[part]) + gain:
                    break
                moved = result.params
            else:
                return Found(moved, stayed[-1].params, what)
        furthest = stayed[-1].params if stayed else params
        return Found(furthest, furthest)


def _highest(result: FitResult[Any]) -> float:
    """Return the highest objective of a fit."""
    return max(record.objective for record in result.history)


@dataclass(slots=True)
class _GivingUp:
    """Ends a climb that has looked for a while as if it ended well below the goal, or told enough."""

    goal: float
    """The objective that it has to reach."""
    known: float = 0.0
    """What little may be left to gain at the end."""
    most: int = sys.maxsize
    """Steps after which it has had its chance."""
    steps: int = 0
    """Those made."""
    objective: float = -np.inf
    """That of the last one."""
    reached: bool = False
    """Whether it ends where it has reached the goal, too."""
    hopeless: int = 0
    """The last in a row that looked so: from where a move leads, climbs begin on plateaus."""

    def __call__(self, ended: PassEnded) -> bool:
        """Return whether to end it."""
        record = ended.record
        if record is None:
            return False
        pace, self.objective = record.objective - self.objective, record.objective
        hopeless = record.objective + min(HOPE * record.remaining_gain, PACE * pace) < self.goal
        self.steps, self.hopeless = self.steps + 1, self.hopeless + 1 if hopeless else 0
        enough = (self.reached and record.objective > self.goal) or record.remaining_gain < self.known
        return enough or self.hopeless >= PLATEAU or self.steps >= self.most


@dataclass(slots=True)
class Moving(Generic[P, S]):
    """An accelerator that, as its fit comes to rest, proposes what a search on the sample has found."""

    model: Any
    """The model."""
    search: Callable[[Reached[P, S], float], Found[P]]
    """The search."""
    least: float
    """What a move has to promise, nats per unit weight: more than by what the sample may err."""
    worth: int
    """Passes that take as long as a search: where the climb goes on, it waits for so many since the last."""
    tol: float
    """What is left of a climb that has ended."""
    make: Callable[[], Accelerator[P, S]]
    """Makes the accelerator that does the rest; a new one where what it learnt no longer holds."""
    inner: Accelerator[P, S] = field(init=False)
    """What it made."""
    rounds: int = ROUNDS
    """Moves that may still be tried; none after one that all rows were against."""
    searched_at: float = -np.inf
    """The objective where the climb was to end at the last search since the last move."""
    passes: int = 0
    """Passes since then."""
    objective: float = np.nan
    """The objective before the last pass."""
    proposed: str = ""
    """What was done in the move that the next pass evaluates."""

    def __post_init__(self) -> None:
        self.inner = self.make()

    def __call__(self, best: Reached[P, S], rejected: bool) -> Proposal[P]:
        """Return what the inner accelerator proposes, after what became of a move."""
        if not self.proposed:
            return self.inner(best, rejected)
        accepted, what, self.proposed = best.by == "move" and not rejected, self.proposed, ""
        if not accepted:
            self.rounds = 0
            return self.inner(best, rejected)
        self.inner, self.searched_at = self.make(), -np.inf
        proposal = self.inner(best, rejected)
        event = Event("moved-components", f"{what}: the objective is higher so.")
        return replace(proposal, events=(event, *proposal.events))

    def elsewhere(self, best: Reached[P, S], proposal: Proposal[P], remaining: float) -> Proposal[P] | None:
        """Return what to evaluate next where a move promises more than the ``remaining`` gain; or None.

        There is a search as soon as what is left of the climb, or what a pass adds to it, is worth less than
        a move; and not another one before the climb has gone on by as much more than what was left of it. Few
        rows are passed over in less time than a search takes, and climb on meanwhile.
        """
        gained, self.objective = best.objective - self.objective, best.objective
        self.passes += 1
        steep = remaining > self.least and not gained <= self.least
        early = steep or (self.passes < self.worth and remaining > self.tol)
        if self.proposed or not self.rounds or early or best.objective <= self.searched_at + self.least:
            return None
        self.passes = 0
        self.searched_at = best.objective + (remaining if remaining <= self.least else 0.0)
        found = self.search(best, self.least)
        if not found.what:
            return None
        self.rounds -= 1
        self.proposed, params = found.what, found.carried(self.model, best.params)
        return replace(proposal, candidates=(Candidate("move", params), Candidate("em", proposal.step)))
