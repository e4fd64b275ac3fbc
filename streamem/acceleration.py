"""Where the next candidates come from: plain EM, Anderson acceleration.

Out of core, a fit costs its passes, and plain EM takes many: it contracts by the share of missing
information, near 1 where components overlap. The accelerations here and in `streamem.corrected_sample` have
exactly the fixed points of EM on all rows, and none lets the objective fall, since `streamem.em` keeps a
candidate only if it is better.

*Anderson.* The M-step of the E-step is a map G whose fixed points are sought. From the last few points and
their images, take the combination whose residual G(θ) − θ is smallest (Walker & Ni 2011), in unconstrained
coordinates, damped until it has proven itself (Henderson & Varadhan 2019). Fixed points are saddles as well,
and near those EM's steps grow while mixing leads back. So where steps grow they are stretched; after a
rejection too, each twice as long as the one before, as long as that helps (cf. Salakhutdinov & Roweis 2003).
Where EM is fast itself, far from any optimum or where it contracts fast, its steps are taken as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamem.convergence import Event
from streamem.protocols import Stats

__all__ = ["Accelerator", "Anderson", "Candidate", "Mixing", "PlainEM", "Proposal", "Reached"]

P = TypeVar("P")
S = TypeVar("S", bound=Stats)

Vector = NDArray[np.float64]

PATIENCE = 25  # accepted steps until damping has faded to a half
FIRST_STRETCH = 1.9  # of an EM step: below 2 it still ascends where the objective is concave
LARGE_GAIN = 0.01  # nats per unit weight and pass: EM is fast itself, and chooses which optimum it heads for
FAST_CONTRACTION = 0.3  # per EM step: mixing is worth little


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
    """"em", "anderson", "stretched", "sample", "reseed" or "move"."""
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
    best: Reached[P, Any] | None = None
    """What takes the place of the best parameters so far, where components of no use were taken away."""
    events: tuple[Event, ...] = ()
    """What the user should know."""


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

    @property
    def contraction(self) -> float:
        """Return how much closer the last two images are than their points; NaN where it is not known."""
        if len(self.points) < 2:
            return np.nan
        (before, image_before), (point, image) = self.points[-2:]
        moved = np.linalg.norm(point - before)
        return float(np.linalg.norm(image - image_before) / moved) if moved else 0.0

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
    patience: int = PATIENCE
    """Accepted steps until damping has faded to a half: the fewer, the bolder."""
    past: Mixing = field(default_factory=Mixing)
    """The last points and their images under the EM step."""
    trust: int = 0
    """Accepted mixed steps, less those that rejections took away: damping fades as it grows."""
    stretch: float = 0.0
    """How many EM steps the next one is as long as, while steps are stretched; 0 while they are mixed."""
    tried: str = "em"
    """What was proposed last."""
    objective: float = np.nan
    """The objective before the last pass."""

    def __call__(self, best: Reached[P, S], rejected: bool) -> Proposal[P]:
        """Return the mixed step; the plain one where EM is fast, a stretched one where it speeds up."""
        plain = self.model.m_step(best.params, best.stats)
        em = Candidate("em", plain)
        self._judge(best.by, rejected)
        gain, self.objective = best.objective - self.objective, best.objective
        point, image = self.model.to_vector(best.params), self.model.to_vector(plain)
        self.past.add(point, image)
        self.tried, vector = ("em", None) if gain > LARGE_GAIN else self._faster(point, image)
        params = None if vector is None else self.model.from_vector(vector, plain)
        if params is None:
            return Proposal(plain, (em,))
        faster = Candidate(self.tried, params)
        return Proposal(plain, (faster, em) if self.with_em else (faster,))

    def _faster(self, point: Vector, image: Vector) -> tuple[str, Vector | None]:
        """Return what to take instead of the EM step, if anything, and what it is called."""
        contraction = self.past.contraction
        if contraction > 1:
            self.stretch = self.stretch or FIRST_STRETCH
        if self.stretch:
            return "stretched", point + self.stretch * (image - point)
        if contraction < FAST_CONTRACTION:
            return "em", None
        return "anderson", self.past.mixed(1 / (1 + 1.2 ** (self.patience - self.trust)))

    def _judge(self, by: str, rejected: bool) -> None:
        """Learn from what became of the last proposal."""
        if rejected and self.tried == "stretched":
            self.stretch = 0.0
            self.past.points.clear()
        elif rejected:
            self.trust = max(self.trust - self.past.window, -2 * self.patience)
            self.past.points.clear()
            self.stretch = FIRST_STRETCH
        elif by == "anderson":
            self.trust += 1
        elif by == "stretched":
            self.stretch *= 2
        else:
            self.stretch = 0.0


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
