"""Moments of rows with missing values: each pair of columns over the rows that observe both.

The first pass needs a mean, a variance for each column and a covariance matrix that is one: such moments
merge exactly, and give all three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamem.protocols import FloatArray

__all__ = ["PairMoments", "overflowing"]

Array = NDArray[np.float64]
SLICE_ROWS = 4096

overflowing = np.errstate(over="ignore", invalid="ignore")
"""For what may overflow: it is told when all rows are seen."""


@dataclass(frozen=True, slots=True, eq=False)
class PairMoments:
    """Sums over rows w of o_i o_j (1, x_i, x_i x_j), o telling what is observed, x relative to an origin."""

    origin: Array
    """(d,) near the means."""
    weight: Array
    """(d, d) Σ w o_i o_j."""
    first: Array
    """(d, d) Σ w o_i o_j (x_i − origin_i)."""
    second: Array
    """(d, d) Σ w o_i o_j (x_i − origin_i)(x_j − origin_j)."""

    @classmethod
    def of(cls, x: FloatArray, weight: Array | None) -> PairMoments:
        """Return the moments of (n, d) rows, NaN where missing, about their own means."""
        d = x.shape[1]
        seen = ~np.isnan(x)
        if weight is not None:
            seen &= weight[:, None] > 0
        first = x[seen.argmax(axis=0), np.arange(d)].astype(np.float64)
        origin = np.where(seen.any(axis=0), first, 0.0)
        # A mean first, so that squares are taken about something near it.
        rough = cls._sums(x, weight, origin)
        return cls._sums(x, weight, rough.mean)

    @classmethod
    def _sums(cls, x: FloatArray, weight: Array | None, origin: Array) -> PairMoments:
        d = len(origin)
        total, first, second = np.zeros((d, d)), np.zeros((d, d)), np.zeros((d, d))
        for start in range(0, len(x), SLICE_ROWS):
            part = x[start : start + SLICE_ROWS]
            seen = ~np.isnan(part)
            w = np.ones(len(part)) if weight is None else weight[start : start + SLICE_ROWS]
            seen &= w[:, None] > 0  # a value of weight 0 must not even overflow
            values = np.where(seen, part - origin, 0.0)
            present, weighted = seen.astype(np.float64), w[:, None] * values
            total += (w[:, None] * present).T @ present
            first += weighted.T @ present
            second += weighted.T @ values
        return cls(origin, total, first, second)

    @classmethod
    def of_complete(cls, weight: float, mean: Array, scatter: Array) -> PairMoments:
        """Return the moments of rows without a missing value from those that they have anyway."""
        return cls(mean, np.full(scatter.shape, weight), np.zeros(scatter.shape), scatter)

    def at(self, origin: Array) -> PairMoments:
        """Return the same moments about another origin."""
        e = self.origin - origin
        shifted = self.first * e + (self.first * e).T
        second = self.second + shifted.T + self.weight * np.outer(e, e)
        return PairMoments(origin, self.weight, self.first + self.weight * e[:, None], second)

    def merge(self, other: PairMoments) -> PairMoments:
        """Return the moments of both sets of rows."""
        seen, others = np.diagonal(self.weight), np.diagonal(other.weight)
        total = seen + others
        share = np.where(total > 0, others / np.where(total > 0, total, 1.0), 0.0)
        origin = self.origin + share * (other.origin - self.origin)
        a, b = self.at(origin), other.at(origin)
        return PairMoments(origin, a.weight + b.weight, a.first + b.first, a.second + b.second)

    @property
    def mean(self) -> Array:
        """(d,) means of what is observed in each column; the origin where nothing is."""
        seen = np.diagonal(self.weight)
        return np.asarray(self.origin + np.diagonal(self.first) / np.where(seen > 0, seen, 1.0))

    @property
    def covariance(self) -> Array:
        """(d, d) positive semi-definite, its diagonal the variances of what is observed in each column.

        Pairs that are seldom observed together count as less correlated than they are: a covariance of pairs
        alone need be no rows' covariance.
        """
        about = self.at(self.mean)
        deviation = np.sqrt(np.where(np.diagonal(self.weight) > 0, np.diagonal(self.weight), 1.0))
        return np.asarray(about.second / np.outer(deviation, deviation))
