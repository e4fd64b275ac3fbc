"""Where most candidates come from: EM on a sample in memory, corrected by what the last pass saw.

With s the statistics of all rows and s_S those of a resident sample, per unit weight, let
Δ = s(θ_k) − s_S(θ_k) after a pass at θ_k, and iterate θ ← M(s_S(θ) + Δ) in memory. The first step is the EM
step itself, and θ_k is left in place only if it is a fixed point of EM on all rows: no bias of the sample
remains. It is EM on the surrogate ℓ_S(θ) + Q(θ; Δ) (cf. Jordan, Lee & Yang 2019), whose rise tells how much
there is left to gain. The error shrinks per pass by about sqrt(parameters / sample rows), whatever the
overlap; but in a direction in which the likelihood is nearly flat the sample may tell little, or be wrong. So
much less than parameters / sample rows of the rise is not worth solving for: a hundredth of it may be left.

*Mixing.* The corrected sample as a whole is a map T as well, from θ_k to where its inner iteration ends, with
the same fixed points. Mixing its points and images as Anderson acceleration does takes away the few
directions in which T is slow.

*Growing.* Asked first are as many rows of the sample as most data need. Where EM on these comes to no end
within its budget, or falls, as it does where Δ makes the surrogate singular, more of the sample has to see
half of the rise too, at the price of two E-steps on it, or takes the place of the smaller part. So it does
after a failure, or where Δ leads out of what statistics can be.

*Holding.* The trust region of the whole sample. Weigh it by 1 − h and put the rest into
Δ = s(θ_k) − (1 − h) s_S(θ_k): still exact, still an ascent, the sample's T at h = 0 and the EM step at h = 1,
with inner iterations that need some 1/h steps. After its failures h grows; after successes it shrinks. Where
even much of it does not help, the sample is left out of some passes, which Anderson makes; sooner where a
pass costs only arithmetic, of which what is held saves none.

*Several candidates.* A leap that fails costs a pass. So the EM step, and Anderson's, are evaluated beside the
sample's after a failure and, where that costs little beside reading, until the sample has won once. Of later
leaps one in twenty fails, which is cheaper than two more candidates in every pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np

from streamem.acceleration import Anderson, Candidate, Mixing, Proposal, Reached
from streamem.convergence import SURE, Enough, FitResult, Status
from streamem.errors import DegenerateComponentError
from streamem.protocols import Pass, Stats

__all__ = ["CorrectedSample", "Resident"]

P = TypeVar("P")
S = TypeVar("S", bound=Stats)

MIXED_SHARE = 0.99  # of the undamped coefficients' squared norm
LEAST_HOLD, MOST_HOLD = 1 / 256, 1 / 4  # of the statistics: below, nothing is held; above, EM is as good
MOST_HOLD_COMPUTING = 1 / 64  # where passes cost only arithmetic, of which what is held saves none
UNSOLVED = 0.1  # of what may be left to gain: how far a corrected sample is solved


@dataclass(frozen=True, slots=True, eq=False)
class Resident(Generic[P]):
    """A sample of the rows in memory: called for its statistics at each of several parameters."""

    one_pass: Callable[[Sequence[P]], Pass[Any]]
    """What makes these."""
    budget: int
    """Steps on the sample that a pass over all rows may cost."""
    share: float = 0.0
    """Share of a rise on it that may be left: it is solved no better than it is right."""
    larger: Resident[P] | None = None
    """A larger sample, which takes its place if it proves too small."""

    def __call__(self, candidates: Sequence[P]) -> Pass[Any]:
        """Return the statistics."""
        return self.one_pass(candidates)


@dataclass(slots=True)
class CorrectedSample(Generic[P, S]):
    """EM on a resident sample, corrected by what the last pass saw.

    For models that offer ``expected_log_joint(params, stats)``, which is Q, and ``feasible(stats)``, and
    whose statistics offer ``scaled(factor)``, ``at(params)`` and ``scored(log_likelihood)``.
    """

    model: Any
    """The model."""
    sample: Resident[P]
    """The smallest of the samples."""
    solve: Callable[..., Any]
    """EM itself: ``solve(one_pass, params, max_iter, notify)`` returns a `streamem.convergence.FitResult`."""
    with_em: bool = True
    """Whether to propose the plain step beside until the sample has proven itself."""
    tol: float = 0.0
    """What may be left to gain, nats per unit weight: where it surely is less, the sample is not asked."""
    grown: int = 0
    """How often a larger sample took the place of one that failed."""
    past: Mixing = field(default_factory=Mixing)
    """Where past corrected samples started and ended: a map as well, and nearer to its fixed point."""
    hold: float = 0.0
    """Share of the statistics held at those of the last pass: 0 trusts the sample, 1 is the EM step."""
    wins: int = 0
    """Successes since the last failure, or since the hold last changed."""
    patience: int = 2
    """Successes until less is held, and passes without the sample where holding more is no way out."""
    rest: int = 0
    """Passes still to make without the sample."""
    other: Anderson[P, S] = field(init=False)
    """What competes while the sample is not trusted."""
    expected: float = np.nan
    """The objective that the last corrected sample led one to expect."""

    def __post_init__(self) -> None:
        self.other = Anderson(self.model, self.with_em)

    def __call__(self, best: Reached[P, S], rejected: bool) -> Proposal[P]:
        """Return where the corrected sample leads, and how much there surely is left to gain at most."""
        other = self.other(best, rejected)
        wrong = abs(best.objective - self.expected)
        if not rejected and SURE * wrong < self.tol:  # whichever candidate was ahead by rounding
            return replace(other, remaining=SURE * wrong)
        self.expected = np.nan
        if self.rest:
            self.rest -= 1
            return other
        self._judge(best.by, rejected)
        solved = None if self.rest else self._solve(best)
        if solved is None:
            return other
        result, unsolved = solved
        # What is held hides part of the climb: then the passes themselves tell better what is left.
        promised = _rise(result) + unsolved
        remaining = None if self.hold else SURE * promised
        if len(result.history) < 3:  # it comes to no more than the EM step
            return replace(other, remaining=remaining if unsolved == 0 else None)
        both = self.hold or rejected or (self.with_em and not self.wins)
        candidates = (self._mixed(best, result.params), *(other.candidates if both else ()))
        self.expected = np.nan if remaining is None else best.objective + promised
        return Proposal(other.step, candidates, remaining)

    def _judge(self, by: str, rejected: bool) -> None:
        """Learn from what became of the last proposal."""
        if by == "sample" and not rejected:
            self.wins += 1
            if self.hold and self.wins >= self.patience:
                self._set_hold(0.0 if self.hold <= LEAST_HOLD else self.hold / 4)
        elif (rejected or by != "start") and self.past.points:
            if len(self.past.points) < 2:  # it was no mixture that failed
                if self._resident.larger is None:
                    self.patience *= 2
                self._trust_less()
            self._set_hold(self.hold)

    @property
    def _resident(self) -> Resident[P]:
        """Return the sample that has not failed yet, or the largest."""
        sample = self.sample
        for _ in range(self.grown):
            sample = sample.larger or sample
        return sample

    def _trust_less(self) -> None:
        """Take a larger sample, or hold more; where that is hardly trusted, leave it out for a while."""
        if self._resident.larger:
            self.grown += 1
            self._set_hold(self.hold)  # where the smaller one led says little of where this does
        elif self.hold < (MOST_HOLD if self.with_em else MOST_HOLD_COMPUTING):
            self._set_hold(max(4 * self.hold, LEAST_HOLD))
        else:
            self.rest = self.patience

    def _set_hold(self, hold: float) -> None:
        self.hold, self.wins = hold, 0
        self.past.points.clear()

    def _mixed(self, best: Reached[P, S], image: P) -> Candidate[P]:
        """Return where the corrected samples so far lead together."""
        self.past.add(self.model.to_vector(best.params), self.model.to_vector(image))
        vector = self.past.mixed(MIXED_SHARE)
        params = None if vector is None else self.model.from_vector(vector, image)
        return Candidate("sample", image if params is None else params)

    def _solve(self, best: Reached[P, S]) -> tuple[FitResult[P], float] | None:
        """Iterate on the surrogate; return how that went, and how much of its rise is left.

        None where the correction leads out of what parameters can be.
        """
        base = functools.cache(lambda sample: sample([best.params]).stats[0])
        while not self.rest:
            sample = self._resident
            enough = Enough(UNSOLVED * self.tol, sample.share)
            try:
                one_pass = self._surrogate(sample, base(sample), best)
                result = self.solve(one_pass, best.params, sample.budget, enough)
                ended = result.status in (Status.CONVERGED, Status.CALLBACK)
                if ended or sample.larger is None or self._bears_out(sample.larger, base, result, best):
                    return result, 0.0 if result.status is Status.CONVERGED else enough.remaining
            except DegenerateComponentError:
                pass
            self._trust_less()
        return None

    def _bears_out(
        self, larger: Resident[P], base: Callable[..., Any], result: FitResult[P], best: Reached[P, S]
    ) -> bool:
        """Return whether a larger sample sees at least half the rise."""
        one_pass = self._surrogate(larger, base(larger), best)
        here, there = (
            self.solve(one_pass, params, 1, Enough(0.0)).history[0].objective
            for params in (best.params, result.params)
        )
        return bool(there - here >= _rise(result) / 2)

    def _surrogate(
        self, sample: Resident[P], base: Any, best: Reached[P, S]
    ) -> Callable[[Sequence[P]], Pass[Any]]:
        """Return passes over the sample, corrected by what the last pass over all rows saw.

        ``base`` are its statistics at the best parameters.
        """
        ratio = (1 - self.hold) * best.stats.weight / base.weight
        delta = best.stats.merge(base.scaled(-ratio))

        def one_pass(candidates: Sequence[P]) -> Pass[Any]:
            known = len(candidates) == 1 and candidates[0] is best.params
            every = [base] if known else sample(candidates).stats
            pairs = zip(candidates, every, strict=True)
            return Pass([self._correct(params, stats.scaled(ratio), delta) for params, stats in pairs])

        return one_pass

    def _correct(self, params: P, stats: Any, delta: Any) -> Any:
        """Return s_S(θ) + Δ, with the surrogate for its log-likelihood: −∞ where no rows could have these."""
        moved = delta.at(params)
        corrected = stats.merge(moved.scored(self.model.expected_log_joint(params, moved)))
        return corrected if self.model.feasible(corrected) else corrected.scored(-np.inf)


def _rise(result: FitResult[Any]) -> float:
    """Return how far the objective rose."""
    return max(record.objective for record in result.history) - result.history[0].objective
