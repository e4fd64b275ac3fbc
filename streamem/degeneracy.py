"""What a fit does about components that no row belongs to any more, or that collapse.

`Mending` stands between the loop of `streamem.em` and an accelerator. Nothing here lets the objective fall:
what is dropped has no weight left, and a component that is put elsewhere has to be better than the EM step
in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np

from streamem.acceleration import Accelerator, Candidate, Proposal, Reached
from streamem.convergence import Event
from streamem.errors import DegenerateComponentError
from streamem.protocols import Pass, Stats

__all__ = ["CHOICES", "Mending"]

P = TypeVar("P")
S = TypeVar("S", bound=Stats)

CHOICES = ("reseed", "drop", "freeze", "raise")
A_ROW = 0.99  # responsibility, in rows of average weight, below which a component is degenerate
REFINING = 10  # EM steps on the sample before a new place for a component is tried on all rows


@dataclass(slots=True)
class Mending(Generic[P, S]):
    """An accelerator for models that say which of their components are degenerate.

    Those have ``on_degenerate``, one of `CHOICES`, and ``support(stats)``, ``collapsed(params, stats)``,
    ``negligible(params, stats)``, ``without(params, stats, gone)`` and ``splits(params, empty)``.
    """

    model: Any
    """The model."""
    make: Callable[[], Accelerator[P, S]]
    """Makes the accelerator that does the rest; a new one where what it learnt no longer holds."""
    sample_pass: Callable[[Sequence[P]], Pass[Any]] | None = None
    """Statistics of a resident sample at each of several parameters."""
    inner: Accelerator[P, S] = field(init=False)
    """What it made."""
    n_passes: int = 0
    """Passes so far."""
    empty: list[int] = field(default_factory=list)
    """Components known to hold less than a row."""
    collapsed: list[int] = field(default_factory=list)
    """Components known to have collapsed."""
    tried: list[int] = field(default_factory=list)
    """Components that were given another place to try; each once, so that fits end."""

    def __post_init__(self) -> None:
        self.inner = self.make()

    def __call__(self, best: Reached[P, S], rejected: bool) -> Proposal[P]:
        """Return what the inner accelerator proposes, after what is to be done about components."""
        self.n_passes += 1
        events = list(self._found(best, rejected))
        gone = self.model.negligible(best.params, best.stats) if self.model.on_degenerate == "drop" else []
        if gone:
            events += [Event("dropped-component", f"Component {k} is dropped.", k) for k in gone]
            best = self._without(best, gone)
        if self.model.on_degenerate == "reseed":
            empty = next((k for k in self.empty if k not in self.tried), None)
            if empty is not None:
                return replace(self._reseeding(best, empty), events=tuple(events))
        proposal = self.inner(best, rejected)
        events += self._collapses(proposal.step, best)
        remaining = np.inf if gone else proposal.remaining  # what is left is evaluated once more
        return replace(proposal, best=best, remaining=remaining, events=tuple(events))

    def _found(self, best: Reached[P, S], rejected: bool) -> Iterator[Event]:
        """Yield an event for each component that lost its last row's worth of responsibility."""
        if best.by == "reseed" and not rejected:
            k = self.tried[-1]
            yield Event("reseeded-component", f"Component {k} is half of what was another component now.", k)
        support = self.model.support(best.stats)
        empty = [int(k) for k in np.flatnonzero(support < A_ROW)]
        for k in empty:
            if k in self.empty:
                continue
            message = f"Component {k} has total responsibility {support[k]:.3g}, less than one row."
            self._refuse(message)
            yield Event("empty-component", message, k)
        self.empty = empty

    def _collapses(self, step: P, best: Reached[P, S]) -> Iterator[Event]:
        """Yield an event for each component whose covariance has no variance left in some direction."""
        collapsed = [int(k) for k in self.model.collapsed(step, best.stats)]
        for k in collapsed:
            if k in self.collapsed:
                continue
            message = f"Component {k} collapsed: its rows are alike. Its covariance stays as it was."
            self._refuse(message)
            yield Event("collapsed-component", message, k)
        self.collapsed = collapsed

    def _refuse(self, message: str) -> None:
        if self.model.on_degenerate == "raise":
            raise DegenerateComponentError(
                f"Pass {self.n_passes}: {message} Use fewer components, other starting values, a larger "
                'sample_size, reg_covar="auto", or another choice of on_degenerate.'
            )

    def _without(self, best: Reached[P, S], gone: Sequence[int]) -> Reached[P, S]:
        """Return the best parameters without some components, and forget all that had them."""
        self.inner = self.make()
        self.empty, self.collapsed = (
            [k - sum(g < k for g in gone) for k in known if k not in gone]
            for known in (self.empty, self.collapsed)
        )
        params, stats = self.model.without(best.params, best.stats, gone)
        return Reached(params, stats, self._objective(params, stats), best.by)

    def _reseeding(self, best: Reached[P, S], empty: int) -> Proposal[P]:
        """Return the EM step, and beside it the most promising split of another component."""
        self.tried.append(empty)
        step = self.model.m_step(best.params, best.stats)
        self.inner = self.make()
        em = Candidate("em", step)
        places = list(self.model.splits(step, empty))
        place = self._refined(places, step) if self.sample_pass else next(iter(places), None)
        return Proposal(step, (em,) if place is None else (Candidate("reseed", place), em), np.inf)

    def _refined(self, places: Sequence[P], step: P) -> P | None:
        """Return the best place, a few EM steps on the sample later, where as many from ``step`` do less."""
        if not places:
            return None
        place = places[int(np.argmax(self._evaluated(places)[1]))]
        for _ in range(REFINING):
            stats, _objectives = self._evaluated([place, step])
            place, step = (self.model.m_step(*pair) for pair in zip([place, step], stats, strict=True))
        stats, (ours, theirs) = self._evaluated([place, step])
        return place if ours > theirs + stats[0].rounding_error else None

    def _evaluated(self, places: Sequence[P]) -> tuple[Any, list[float]]:
        """Return statistics and objectives of parameters on the sample."""
        assert self.sample_pass is not None
        every = self.sample_pass(places).stats
        pairs = zip(places, every, strict=True)
        return every, [float(np.nan_to_num(self._objective(*pair), nan=-np.inf)) for pair in pairs]

    def _objective(self, params: P, stats: Any) -> float:
        return float((stats.log_likelihood + self.model.log_prior(params, stats)) / stats.weight)
