"""Why a fit stopped, what each pass did, and how much there is left to gain.

EM climbs a ladder whose steps shrink geometrically, so the last step says little about the climb that is
left: slow progress is not convergence. `RemainingGain` extrapolates the whole climb (Aitken's process, as
in Böhning et al. 1994 and McNicholas et al. 2010) and a fit stops when that is small.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Callback",
    "Enough",
    "Event",
    "FitEvent",
    "FitResult",
    "PassEnded",
    "PassProgress",
    "PassRecord",
    "PassStarted",
    "RemainingGain",
    "Status",
]

P = TypeVar("P")

FAST_STEPS = 0.3  # each so much of the one before, or less: two tell how EM goes on
SURE = 5.0  # times what two steps, a pass, or a sample tell of what is left: more rarely is
MANY_STEPS = 20  # after which irregular ones tell a pace
SLOW_PASSES, SLOW_GAIN = 10, 1e-3  # so many passes for less than so many nats per row are slow


class Status(enum.Enum):
    """Why a fit stopped; the value is the sentence that the user reads."""

    CONVERGED = "Converged: the estimated remaining gain is below the tolerance."
    MAX_ITER = "Stopped at max_iter passes before converging: raise max_iter or tol."
    FELL = "Stopped because the objective fell by more than rounding explains: the best parameters are kept."
    INTERRUPTED = "Interrupted: the best parameters so far are kept."
    CALLBACK = "Stopped because a callback asked for it."
    DROPPED = "Dropped: another fit is better by far more than this one could still gain."


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something a user should know about one pass."""

    kind: str
    """A short machine-readable word, such as ``"empty-component"``."""
    message: str
    """The sentence for humans."""
    component: int | None = None
    """The component it happened to, if it was one."""


@dataclass(frozen=True, slots=True, eq=False)
class PassRecord:
    """One reading of all rows."""

    log_likelihood: float
    """Mean log-likelihood per unit weight, nats, of the parameters that entered the pass."""
    objective: float
    """The same plus the log-prior per unit weight: what EM never lowers."""
    remaining_gain: float
    """Estimated rise of the objective still to come, nats per unit weight; inf while unknown."""
    seconds: float
    """Wall time of the pass."""
    bytes_read: int
    """Bytes of decoded rows and weights that the pass went through."""
    read_seconds: float = 0.0
    """Time spent fetching what is stored, summed over workers: from disk, its cache, or the network.

    Decoding, too, where both are one call: dask arrays, sharded arrays read by ``zarrs``, blocks of your own.
    """
    decode_seconds: float = 0.0
    """Time spent decompressing, converting and checking rows, summed over workers."""
    compute_seconds: float = 0.0
    """Time spent in E-steps, summed over workers."""
    candidates: int = 1
    """Sets of parameters evaluated."""
    accepted: str = "em"
    """Which candidate won."""
    events: tuple[Event, ...] = ()
    """What happened to the parameters after the pass."""


@dataclass(frozen=True, slots=True, eq=False)
class FitResult(Generic[P]):
    """What a fit returns.

    ``params`` of a converged fit are those the last pass evaluated, so that its likelihood is exactly
    theirs. A fit stopped earlier returns the M-step of its last pass, which is no worse.
    """

    params: P
    """The estimates."""
    status: Status
    """Why the fit stopped."""
    history: tuple[PassRecord, ...]
    """One entry per pass."""
    stats: Any = None
    """Statistics of the last pass that was accepted: likelihood, entropy and weight come from here."""
    model: Any = None
    """The model that was fitted, with what it took from the first pass."""


@dataclass(frozen=True, slots=True)
class PassStarted:
    """A pass begins. ``phase`` is "sample", "em", "score" or "predict"."""

    phase: str
    index: int
    n_samples: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class PassProgress:
    """``n_samples`` rows of the current pass are done."""

    phase: str
    index: int
    n_samples: int


@dataclass(frozen=True, slots=True, eq=False)
class PassEnded:
    """A pass is complete; ``record`` is None unless its phase is "em". Return True to end the fit.

    Where ``n_fits`` fits shared the pass, the record is that of the best of them.
    """

    phase: str
    index: int
    record: PassRecord | None = None
    n_fits: int = 1


FitEvent: TypeAlias = PassStarted | PassProgress | PassEnded
Callback: TypeAlias = Callable[[FitEvent], object]


@dataclass(slots=True)
class RemainingGain:
    """Estimate of how far the objective will still rise, from the rises so far.

    With steps g shrinking by a factor a, what is left after a step g is g a/(1 - a) (Aitken). But a climb is
    a sum of such sequences, the slower ones come to light last, and a grows towards the slowest: the time
    constant τ = 1/(1 - a) rises from pass to pass. Where it rises by c per pass, as it does on a climb of
    power law, what is left is g a τ/(1 - c); more than any finite amount where c >= 1. The largest
    of the last three ratios counts: one lucky short step must not end a fit.

    Steps of accelerated fits may be irregular. Where they have been many and do not grow throughout, as on
    the way out of a saddle, the climb is taken to go on at its pace for as many steps again.

    Examples
    --------
    >>> gain = RemainingGain()
    >>> [round(gain.update(1 - 0.5**t), 3) for t in range(6)]
    [inf, inf, inf, 0.125, 0.062, 0.031]
    """

    values: list[float] = field(default_factory=list)

    def update(self, objective: float) -> float:
        """Take the objective of one more pass (per unit weight); return the estimate, inf while unknown."""
        self.values.append(objective)
        steps = np.abs(np.diff(self.values[-5:]))
        if len(steps) >= 2 and steps[-1] <= rounding(objective):
            return float(steps[-1])
        if len(steps) < 3:
            return np.inf
        with np.errstate(divide="ignore"):
            ratios = steps[1:] / steps[:-1]
        if not np.all(ratios < 1):
            return self._at_this_pace(steps) if np.any(ratios < 1) else np.inf
        constants = 1 / (1 - ratios)
        slowing = max(0.0, float(constants[-1] - constants[0]) / (len(constants) - 1))
        ratio = float(np.max(ratios))
        return float(steps[-1] * ratio / (1 - ratio) / (1 - slowing)) if slowing < 1 else np.inf

    def _at_this_pace(self, steps: NDArray[np.float64]) -> float:
        """Return what as many steps as there have been would gain, each the largest of the last ones."""
        made = len(self.values) - 1
        return made * float(np.max(steps)) if made >= MANY_STEPS else np.inf


@dataclass(slots=True)
class Enough:
    """Ends EM on a sample where little is left to gain beside what the sample errs: a callback of one climb.

    A fit is not ended by two lucky steps. But what a sample leads to is judged by all rows, so where the
    first two plain steps shrink fast, five times what they tell by Aitken's process is enough.

    Examples
    --------
    >>> def record(objective):
    ...     return PassRecord(objective, objective, np.inf, 0.0, 0, accepted="em")
    >>> enough = Enough(tol=0.01)
    >>> [enough(PassEnded("em", t, record(1 - 0.1**t))) for t in range(3)], round(enough.remaining, 3)
    ([False, False, False], 0.05)
    """

    tol: float
    """What may be left, nats per unit weight."""
    share: float = 0.0
    """What may be left, of the rise since the start."""
    remaining: float = np.inf
    """What is left, nats per unit weight, as far as it is known."""
    objectives: list[float] = field(default_factory=list)
    """Those of the steps so far."""

    def __call__(self, ended: PassEnded) -> bool:
        """Take one more step; return whether to end the climb."""
        record = ended.record
        if record is None:
            return False
        self.objectives.append(record.objective)
        self.remaining = record.remaining_gain
        if len(self.objectives) == 3 and record.accepted == "em":
            first, second = np.diff(self.objectives)
            if 0 < second < FAST_STEPS * first:
                self.remaining = min(self.remaining, float(SURE * second**2 / (first - second)))
        return bool(self.remaining <= max(self.tol, self.share * (record.objective - self.objectives[0])))


def slow_progress(objectives: Sequence[float], n_components: int) -> tuple[Event, ...]:
    """Return an event where the last passes of a mixture gained little, none much less than another."""
    if n_components < 2 or len(objectives) < 2 * SLOW_PASSES:
        return ()
    before = objectives[-SLOW_PASSES] - objectives[-2 * SLOW_PASSES]
    since = objectives[-1] - objectives[-SLOW_PASSES]
    if not (0 < before < SLOW_GAIN and since > before / 10):
        return ()
    message = (
        f"Progress is slow: the last {2 * SLOW_PASSES} of {len(objectives)} passes gained "
        f"{before + since:.2g} nats per row. The likelihood is nearly flat in some direction, as with more "
        f"components than the rows tell apart. Reduce n_components={n_components}, or raise tol."
    )
    return (Event("flat", message),)


def rounding(objective: float) -> float:
    """Return the change in a mean objective that rounding alone explains."""
    return 64 * float(np.finfo(np.float64).eps) * max(1.0, abs(objective))
