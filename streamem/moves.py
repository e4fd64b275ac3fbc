"""Escapes from poor optima: moves that EM cannot make, tried where little is left to gain.

EM changes parameters little by little, and ends at an optimum near its start. A model may know of moves to
elsewhere: a mixture merges two components and splits a third (Ueda, Nakano, Ghahramani & Hinton 2000).
Whether one pays is found out on the resident sample, at no pass; the one that does is evaluated in the next
pass beside the EM step, and what all rows say counts: the objective never falls. A fit whose sample promises
nothing makes no further pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from streamem.acceleration import Accelerator, Candidate, Proposal, Reached
from streamem.convergence import Event, FitResult
from streamem.protocols import Pass, Rows, Stats

__all__ = ["Moving", "Search"]

P = TypeVar("P")
S = TypeVar("S", bound=Stats)

TRIES = 3  # moves that EM on the sample follows; 5 in Ueda et al.
ROUNDS = 5  # moves of one fit that are evaluated on all rows


@dataclass(frozen=True, slots=True)
class Search(Generic[P]):
    """Looks for better parameters elsewhere, on rows in memory.

    For models that offer ``moves(params, rows)``, which yields parameters elsewhere and a sentence about
    each, the most promising first.
    """

    model: Any
    """The model."""
    rows: Rows
    """Some of the resident sample: they rank the moves."""
    one_pass: Callable[[Sequence[P]], Pass[Any]]
    """Statistics of the sample at each of several parameters."""
    solve: Callable[..., Any]
    """EM itself: ``solve(one_pass, params, max_iter)`` returns a `streamem.convergence.FitResult`."""
    steps: int
    """Of EM, after each move."""

    def __call__(self, params: P, least: float) -> tuple[P, str] | None:
        """Return parameters of an objective higher by more than ``least``, and what was done, if any."""
        here = None
        for moved, what in itertools.islice(self.model.moves(params, self.rows), TRIES):
            if here is None:
                here = _highest(self.solve(self.one_pass, params, self.steps))
            result = self.solve(self.one_pass, moved, self.steps)
            if _highest(result) > here + least:
                return result.params, what
        return None


def _highest(result: FitResult[Any]) -> float:
    """Return the highest objective of a fit."""
    return max(record.objective for record in result.history)


@dataclass(slots=True)
class Moving(Generic[P, S]):
    """An accelerator that, as its fit comes to rest, proposes what a search on the sample has found."""

    search: Callable[[P, float], tuple[P, str] | None]
    """The search."""
    least: float
    """What a move has to promise, nats per unit weight: more than by what the sample may err."""
    make: Callable[[], Accelerator[P, S]]
    """Makes the accelerator that does the rest; a new one where what it learnt no longer holds."""
    inner: Accelerator[P, S] = field(init=False)
    """What it made."""
    rounds: int = ROUNDS
    """Moves that may still be tried; none after one that all rows were against."""
    searched: bool = False
    """Whether there was a search since the last move."""
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
        self.inner, self.searched = self.make(), False
        proposal = self.inner(best, rejected)
        event = Event("moved-components", f"{what}: the objective is higher so.")
        return replace(proposal, events=(event, *proposal.events))

    def elsewhere(self, best: Reached[P, S], proposal: Proposal[P], remaining: float) -> Proposal[P] | None:
        """Return what to evaluate next where a move promises more than the ``remaining`` gain; or None.

        There is one search near each optimum, as soon as what is left of the climb is worth less than a move.
        """
        if self.proposed or self.searched or not self.rounds or remaining > self.least:
            return None
        self.searched = True
        found = self.search(best.params, self.least)
        if found is None:
            return None
        self.rounds -= 1
        params, self.proposed = found
        return replace(proposal, candidates=(Candidate("move", params), Candidate("em", proposal.step)))
