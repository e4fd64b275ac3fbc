"""Held-out rows: a share of the rows, chosen by a hash of their index, that no fit ever sees.

The choice depends on (seed, row index) alone, as the resident sample does: the same rows whatever the chunks
or the scheduler. To a fit they weigh nothing; in the same reading each candidate is scored on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from streamem.kernels.sampling import hashes
from streamem.protocols import Rows, Several, Stats

__all__ = ["HeldOut", "Scored"]

S = TypeVar("S", bound=Stats)


@dataclass(frozen=True, slots=True, eq=False)
class Scored(Generic[S]):
    """Statistics of the training rows under one candidate, and its score on the rows held out."""

    training: S
    """Statistics of the training rows."""
    heldout_weight: float
    """Σ w over the rows held out."""
    heldout_log_likelihood: float
    """Σ w log p(x) over them, nats."""

    @property
    def n_samples(self) -> int:
        """Training rows seen."""
        return self.training.n_samples

    @property
    def weight(self) -> float:
        """Of the training rows."""
        return self.training.weight

    @property
    def log_likelihood(self) -> float:
        """Of the training rows."""
        return self.training.log_likelihood

    @property
    def heldout(self) -> float:
        """Mean log-likelihood per unit weight of the rows held out; NaN where there are none."""
        return self.heldout_log_likelihood / self.heldout_weight if self.heldout_weight > 0 else np.nan

    def merge(self, other: Scored[S]) -> Scored[S]:
        """Return the same of both sets of rows."""
        return Scored(
            self.training.merge(other.training),
            self.heldout_weight + other.heldout_weight,
            self.heldout_log_likelihood + other.heldout_log_likelihood,
        )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Which rows are held out.

    Examples
    --------
    >>> round(HeldOut(0.25, seed=0).mask(0, 10_000).mean(), 2)
    np.float64(0.25)
    """

    share: float
    """Of the rows, 0 < share < 1."""
    seed: int
    """Of the hash."""

    def mask(self, start: int, n: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return (n,) which of the rows ``start`` to ``start + n`` are held out."""
        return hashes(start, n, self.seed) < np.uint64(self.share * 2.0**64)

    def split(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the rows with those held out weighing nothing, and those held out alone."""
        if rows.index is None:
            held = self.mask(rows.start, len(rows.x))
        else:
            places = rows.index - rows.start
            held = self.mask(rows.start, int(places.max(initial=-1)) + 1)[places]
        weight = np.ones(len(rows.x)) if rows.weight is None else rows.weight
        alone = held & (weight > 0)
        if not rows.complete:  # a row of which nothing is observed scores nothing
            alone &= ~np.isnan(rows.x).all(axis=1)
        return (
            replace(rows, weight=np.where(held, 0.0, weight)),
            Rows(rows.x[alone], weight[alone], rows.start, rows.complete),
        )

    def e_steps(self, wanted: Sequence[tuple[Any, Any]], rows: Rows) -> Several[Scored[Any]]:
        """Return the statistics and scores of each model and its parameters."""
        training, heldout = self.split(rows)
        return Several(self._scored(model, params, training, heldout) for model, params in wanted)

    def _scored(self, model: Any, params: Any, training: Rows, heldout: Rows) -> Scored[Any]:
        """Return statistics and score of one candidate."""
        weight, scores = heldout.weight, model.score_samples(params, heldout)
        assert weight is not None
        return Scored(model.e_step(params, training), float(weight.sum()), float(weight @ scores))
