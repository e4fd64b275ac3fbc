"""Where the next candidates come from: plain EM, Anderson acceleration, a corrected sample.

Out of core, a fit costs its passes, and plain EM takes many: it contracts by the share of missing
information, near 1 where components overlap. Both accelerations here have exactly the fixed points of EM on
all rows, and neither lets the objective fall, since `streamem.em` keeps a candidate only if it is better.

*Anderson.* The M-step of the E-step is a map G whose fixed points are sought. From the last few points and
their images, take the combination whose residual G(θ) − θ is smallest (Walker & Ni 2011), in unconstrained
coordinates; after a rejection, start over (Henderson & Varadhan 2019).

*Corrected sample.* With s the statistics of all rows and s_S those of a resident sample, per unit weight, let
Δ = s(θ_k) − s_S(θ_k) after a pass at θ_k, and iterate θ ← M(s_S(θ) + Δ) in memory. The first step is the EM
step itself, and θ_k is left in place only if it is a fixed point of EM on all rows: no bias of the sample
remains. It is EM on the surrogate ℓ_S(θ) + Q(θ; Δ) (cf. Jordan, Lee & Yang 2019), whose rise tells how much
there is left to gain. The error shrinks per pass by about sqrt(parameters / sample rows), whatever the
overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamem.errors import DegenerateComponentError
from streamem.protocols import Pass, Stats

__all__ = ["Accelerator", "Anderson", "Candidate", "CorrectedSample", "PlainEM", "Proposal", "Reached"]

P = TypeVar("P")
S = TypeVar("S", bound=Stats)

Vector = NDArray[np.float64]

PATIENCE = 25  # accepted steps until damping has faded to a half
MIXED_SHARE = 0.99  # of the undamped coefficients' squared norm
FEWEST = 4  # steps on the sample: the first of them is the EM step


@dataclass(frozen=True, slots=True, eq=False)
class Reached(Generic[P, S]):
    """Parameters that a pass evaluated."""

    params: P
    """The parameters."""
    stats: S
    """Their statistics over all rows."""
    objective: float
    """Log-likelihood plus log-prior per unit weight, in nats."""
    by: str
    """Which candidate they were."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate(Generic[P]):
    """Parameters to evaluate in the next pass."""

    by: str
    """"em", "anderson" or "sample"."""
    params: P
    """The parameters."""


@dataclass(frozen=True, slots=True, eq=False)
class Proposal(Generic[P]):
    """What to evaluate next."""

    step: P
    """The EM step from the best parameters: never worse than they."""
    candidates: tuple[Candidate[P], ...]
    """At least one; the EM step alone is always enough."""
    remaining: float | None = None
    """Estimated rise of the objective still to come, nats per unit weight, where the method knows."""


class Accelerator(Protocol[P, S]):
    """Proposes candidates from the best parameters so far."""

    def __call__(self, best: Reached[P, S], rejected: bool) -> Proposal[P]:
        """Return what to evaluate next; ``rejected`` says that nothing of the last proposal was better."""
        ...


@dataclass(slots=True)
class PlainEM(Generic[P, S]):
    """The M-step, and nothing else: textbook EM."""

    model: Any
    """The model."""

    def __call__(self, best: Reached[P, S], rejected: bool) -> Proposal[P]:
        """Return the EM step."""
        step = self.model.m_step(best.params, best.stats)
        return Proposal(step, (Candidate("em", step),))


@dataclass(slots=True)
class Mixing:
    """The last points and their images under a map, and the point whose residual seems smallest."""

    window: int = 8
    """Points to combine at most."""
    points: list[tuple[Vector, Vector]] = field(default_factory=list)
    """Points and their images, the newest last."""

    def add(self, point: Vector, image: Vector) -> None:
        """Take one more point; a component without weight is at infinity, and nothing to mix with."""
        if np.all(np.isfinite(point)) and np.all(np.isfinite(image)):
            self.points.append((point, image))
        else:
            self.points.clear()
        del self.points[: -self.window]

    def mixed(self, share: float) -> Vector | None:
        """Return the last image minus the combination of past changes that best explains its residual."""
        if len(self.points) < 2:
            return None
        points, images = (np.stack(vectors) for vectors in zip(*self.points, strict=True))
        residuals = images - points
        changes = np.diff(residuals, axis=0).T
        coefficients = _damped_least_squares(changes, residuals[-1], share)
        return np.asarray(images[-1] - np.diff(images, axis=0).T @ coefficients)


@dataclass(slots=True)
class Anderson(Generic[P, S]):
    """Anderson acceleration for models with ``to_vector(params)`` and ``from_vector(vector, like)``."""

    model: Any
    """The model."""
    with_em: bool = False
    """Whether to propose the plain step beside, so that a rejection loses no pass."""
    past: Mixing = field(default_factory=Mixing)
    """The last points and their images under the EM step."""
    trust: int = 0
    """Accepted mixed steps, less those that rejections took away: damping fades as it grows."""

    def __call__(self, best: Reached[P, S], rejected: bool) -> Proposal[P]:
        """Return the mixed step; the plain one after a rejection and where there is nothing to mix."""
        plain = self.model.m_step(best.params, best.stats)
        em = Candidate("em", plain)
        point, image = self.model.to_vector(best.params), self.model.to_vector(plain)
        if best.by == "anderson" and not rejected:
            self.trust += 1
        if rejected:
            self.trust = max(self.trust - self.past.window, -2 * PATIENCE)
            self.past.points.clear()
        self.past.add(point, image)
        vector = self.past.mixed(1 / (1 + 1.2 ** (PATIENCE - self.trust)))
        params = None if vector is None else self.model.from_vector(vector, plain)
        if params is None:
            return Proposal(plain, (em,))
        mixed = Candidate("anderson", params)
        return Proposal(plain, (mixed, em) if self.with_em else (mixed,))


def _damped_least_squares(changes: Vector, residual: Vector, share: float) -> Vector:
    """Return ridge coefficients whose squared norm is ``share`` of the least-squares ones'.

    Little is mixed in while nothing has proven itself (Henderson & Varadhan 2019, eq. 14).
    """
    left, values, right = np.linalg.svd(changes, full_matrices=False)
    if values[0] == 0:
        return np.zeros(changes.shape[1])
    kept = values > 1e-8 * values[0]
    values, projected = values[kept], (left.T @ residual)[kept]
    goal = share * np.sum((projected / values) ** 2)
    low, high = 0.0, float(values[0] ** 2)
    while np.sum((projected * values / (values**2 + high)) ** 2) > goal:
        high *= 4.0
    for _ in range(40):
        ridge = (low + high) / 2
        too_long = np.sum((projected * values / (values**2 + ridge)) ** 2) > goal
        low, high = (ridge, high) if too_long else (low, ridge)
    return np.asarray(right[kept].T @ (projected * values / (values**2 + high)))


@dataclass(slots=True)
class CorrectedSample(Generic[P, S]):
    """EM on a resident sample, corrected by what the last pass saw.

    For models that offer ``expected_log_joint(params, stats)``, which is Q, and whose statistics offer
    ``scaled(factor)``, ``at(params)``, ``scored(log_likelihood)`` and ``feasible``.
    """

    model: Any
    """The model."""
    sample_pass: Callable[[Sequence[P]], Pass[Any]]
    """Statistics of the sample at each of several parameters."""
    solve: Callable[..., Any]
    """EM itself: ``solve(one_pass, params, max_iter)`` returns a `streamem.convergence.FitResult`."""
    budget: int
    """Steps on the sample that a pass may cost."""
    with_em: bool = True
    """Whether to propose the plain step beside even while the sample is trusted."""
    past: Mixing = field(default_factory=Mixing)
    """Where past corrected samples started and ended: a map as well, and nearer to its fixed point."""
    steps: int = field(init=False)
    """Steps that are trusted now: fewer after a rejection, more after a success."""

    def __post_init__(self) -> None:
        self.steps = self.budget

    def __call__(self, best: Reached[P, S], rejected: bool) -> Proposal[P]:
        """Return where the corrected sample leads, and how much there seems to be left to gain."""
        em = Candidate("em", self.model.m_step(best.params, best.stats))
        if rejected or best.by == "em":
            self.steps = max(FEWEST, self.steps // 4)
        elif best.by == "sample":
            self.steps = min(4 * self.steps, self.budget)
        result = self._solve(best)
        if result is None or len(result.history) < 3:
            return Proposal(em.params, (em,))
        first, last = result.history[0].objective, max(record.objective for record in result.history)
        unsolved = 0.0 if result.status.name == "CONVERGED" else result.history[-1].remaining_gain
        both = self.with_em or self.steps < self.budget
        candidates = (self._mixed(best, result.params, rejected), *((em,) if both else ()))
        return Proposal(em.params, candidates, last - first + unsolved)

    def _mixed(self, best: Reached[P, S], image: P, rejected: bool) -> Candidate[P]:
        """Return where the corrected samples so far lead together."""
        if rejected:
            self.past.points.clear()
        self.past.add(self.model.to_vector(best.params), self.model.to_vector(image))
        vector = self.past.mixed(MIXED_SHARE)
        params = None if vector is None else self.model.from_vector(vector, image)
        return Candidate("sample", image if params is None else params)

    def _solve(self, best: Reached[P, S]) -> Any:
        """Iterate on the surrogate; None where the correction leads out of what parameters can be."""
        base = self.sample_pass([best.params]).stats[0]
        ratio = best.stats.weight / base.weight
        delta = best.stats.merge(base.scaled(-ratio))

        visits = 0

        def corrected(candidates: Sequence[P]) -> Pass[Any]:
            nonlocal visits
            every = self.sample_pass(candidates).stats
            pairs = zip(candidates, every, strict=True)
            result: Pass[Any] = Pass(
                [self._correct(params, stats.scaled(ratio), delta) for params, stats in pairs]
            )
            visits += 1
            return result

        try:
            return self.solve(corrected, best.params, self.steps)
        except DegenerateComponentError:  # too far: stop short of there, if there is any way at all
            self.steps = max(FEWEST, visits - 1)
            return self.solve(corrected, best.params, visits - 1) if visits > FEWEST else None

    def _correct(self, params: P, stats: Any, delta: Any) -> Any:
        """Return s_S(θ) + Δ, with the surrogate for its log-likelihood."""
        moved = delta.at(params)
        corrected = stats.merge(moved.scored(self.model.expected_log_joint(params, moved)))
        if not corrected.feasible:
            raise DegenerateComponentError("The corrected sample holds less than nothing of a component.")
        return corrected
