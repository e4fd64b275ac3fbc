"""The first pass: what the rows look like, and a uniform sample of them to keep in memory.

Moments merge by the pairwise update of Chan, Golub & LeVeque (1983), each block about its own first row,
so no offset costs digits. The sample is the k rows with the smallest hash of (seed, row index): uniform,
mergeable, and the same rows whatever the chunking, the order or the scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.moments import moments
from streamem.kernels.patterns import patterns
from streamem.kernels.sampling import hashes, select_below
from streamem.models.labelled import ClassMeans
from streamem.models.missing import without_unobserved
from streamem.models.pairs import PairMoments, overflowing
from streamem.protocols import FloatArray, Rows

__all__ = ["DataSummary", "Sample", "Summarize"]

Array = NDArray[np.float64]
LARGEST_HASH = 2**64 - 1
MOST_PARTS, ROOM = 64, 1.25  # of a sample that is not joined yet; its rows beside the capacity


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Rows with the smallest hashes seen so far, in no particular order."""

    x: FloatArray
    """(m, d) rows."""
    weight: Array | None
    """(m,) their sample weights, or None."""
    index: NDArray[np.int64]
    """(m,) their positions in the source."""
    hash: NDArray[np.uint64]
    """(m,) what decided."""
    label: NDArray[np.int64] | None = None
    """(m,) their labels, or None."""

    def _weights(self) -> Array:
        return np.ones(len(self.x)) if self.weight is None else self.weight

    def _labels(self) -> NDArray[np.int64]:
        return np.full(len(self.x), -1) if self.label is None else self.label

    def _some(self, chosen: slice | NDArray[np.intp]) -> Sample:
        weight = None if self.weight is None else self.weight[chosen]
        label = None if self.label is None else self.label[chosen]
        return Sample(self.x[chosen], weight, self.index[chosen], self.hash[chosen], label)

    def smallest(self, capacity: int) -> Sample:
        """Return the rows of smallest hash, in that order: every prefix is a uniform sample."""
        return self._some(np.argsort(self.hash, kind="stable")[:capacity])

    def leading(self, capacity: int) -> Sample:
        """Return the first rows without a copy: in order of hash, the sample that so much room would hold."""
        return self.part(0, capacity)

    def part(self, start: int, stop: int) -> Sample:
        """Return some of the rows: in order of hash, a uniform sample of them."""
        return self._some(slice(start, stop))

    def weighted(self, factor: float) -> Sample:
        """Return the rows with ``factor`` times their weights, so that a prior counts as it does for more."""
        return replace(self, weight=factor * self._weights())

    def rows(self) -> Rows:
        """Return the sample as rows."""
        return Rows(self.x, self.weight, 0, complete=not np.isnan(self.x).any(), label=self.label)

    @classmethod
    def joined(cls, parts: Sequence[Sample]) -> Sample:
        """Return the rows of all parts."""
        if len(parts) == 1:
            return parts[0]
        weight = label = None
        if any(part.weight is not None for part in parts):
            weight = np.concatenate([part._weights() for part in parts])
        if any(part.label is not None for part in parts):
            label = np.concatenate([part._labels() for part in parts])
        x, index, hash_ = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "index", "hash")
        )
        return cls(x, weight, index, hash_, label)


@dataclass(frozen=True, slots=True, eq=False)
class DataSummary:
    """Statistics of the rows themselves, no parameters involved."""

    n_samples: int
    """Rows seen, those of weight zero left out."""
    weight: float
    """Σ w."""
    minimum: Array
    """(d,) smallest values; +inf where nothing was seen."""
    maximum: Array
    """(d,) largest values; −inf where nothing was seen."""
    mean: Array
    """(d,) weighted means of what is observed."""
    scatter: Array
    """(d, d) Σ w (x − mean)(x − mean)ᵀ; where values are missing, Σ w times `PairMoments.covariance`."""
    samples: tuple[Sample, ...]
    """The resident sample, in parts: joined where they hold too much, and in the end."""
    capacity: int
    """Rows the sample may hold."""
    log_likelihood: float = 0.0
    """Of no model; here because all statistics have one."""
    n_left_out: int = 0
    """Rows left out because values are missing."""
    pairs: PairMoments | None = None
    """What mean and scatter come from where values are missing."""
    classes: ClassMeans | None = None
    """Means of the rows with the same label, where rows have labels."""

    @overflowing
    def merge(self, other: DataSummary) -> DataSummary:
        """Return the summary of both sets of rows."""
        weight = self.weight + other.weight
        share = other.weight / weight if weight > 0 else 0.0
        gap = other.mean - self.mean
        both = DataSummary(
            self.n_samples + other.n_samples,
            weight,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.mean + share * gap,
            self.scatter + other.scatter + self.weight * share * np.outer(gap, gap),
            _few((*self.samples, *other.samples), self.capacity),
            self.capacity,
            n_left_out=self.n_left_out + other.n_left_out,
            classes=_merged(self.classes, other.classes),
        )
        if self.pairs is None and other.pairs is None:
            return both
        return both.of_pairs(self._pairs().merge(other._pairs()))

    def of_pairs(self, pairs: PairMoments) -> DataSummary:
        """Return the summary with moments of rows in which values are missing."""
        return replace(self, mean=pairs.mean, scatter=self.weight * pairs.covariance, pairs=pairs)

    def _pairs(self) -> PairMoments:
        return self.pairs or PairMoments.of_complete(self.weight, self.mean, self.scatter)

    @property
    def covariance(self) -> Array:
        """(d, d) weighted covariance (divided by Σ w)."""
        return self.scatter / self.weight

    @property
    def sample(self) -> Sample:
        """The resident sample."""
        return Sample.joined(self.samples)

    def sorted(self) -> DataSummary:
        """Return the same summary with its sample in one part, in order of hash."""
        return replace(self, samples=(self.sample.smallest(self.capacity),))


@dataclass(frozen=True, slots=True)
class Summarize:
    """The E-step of the first pass: from rows to their `DataSummary`."""

    seed: int
    """Of the hash."""
    capacity: int
    """Rows to keep."""
    threshold: int = LARGEST_HASH
    """Rows of larger hash are not looked at: what keeps the sample of a block small."""
    n_components: int = 0
    """Components that labels may name; 0 to leave labels alone."""

    @overflowing
    def __call__(self, rows: Rows) -> DataSummary:
        """Return the summary of one block."""
        summary = self._of_complete(rows) if rows.complete else self._of_incomplete(rows)
        if rows.label is None or not self.n_components:
            return summary
        return replace(summary, classes=ClassMeans.of(rows, self.n_components))

    def _of_incomplete(self, rows: Rows) -> DataSummary:
        """Return the summary of a block in which values are missing."""
        rows = without_unobserved(rows, patterns(rows.x))
        present = np.flatnonzero(rows.weight) if rows.weight is not None else slice(None)
        x = rows.x[present]
        d = x.shape[1]
        summary = DataSummary(
            rows.n_samples,
            rows.total_weight,
            np.fmin.reduce(x, axis=0, initial=np.inf).astype(np.float64),
            np.fmax.reduce(x, axis=0, initial=-np.inf).astype(np.float64),
            np.zeros(d),
            np.zeros((d, d)),
            (self._sample(rows),),
            self.capacity,
            n_left_out=rows.n_left_out,
        )
        return summary.of_pairs(PairMoments.of(rows.x, rows.weight))

    def _sample(self, rows: Rows) -> Sample:
        """Return the rows of smallest hash, or, if there are not too many, all below the threshold."""
        if rows.index is None:
            chosen, chosen_hashes = select_below(
                rows.start, rows.weight, len(rows.x), self.seed, self.threshold
            )
            index = rows.start + chosen
        else:
            places = rows.index - rows.start
            every = hashes(rows.start, int(places.max(initial=-1)) + 1, self.seed)[places]
            allowed = every <= np.uint64(self.threshold)
            chosen = np.flatnonzero(allowed if rows.weight is None else allowed & (rows.weight > 0))
            index, chosen_hashes = rows.index[chosen], every[chosen]
        weight = None if rows.weight is None else rows.weight[chosen]
        label = None if rows.label is None else rows.label[chosen]
        sample = Sample(rows.x[chosen], weight, index, chosen_hashes, label)
        return sample if len(chosen) <= self.capacity else sample.smallest(self.capacity)

    def _of_complete(self, rows: Rows) -> DataSummary:
        d = rows.x.shape[1]
        present = (
            np.flatnonzero(rows.weight)[:1] if rows.weight is not None else np.arange(min(1, len(rows.x)))
        )
        origin = rows.x[present[0]].astype(np.float64) if len(present) else np.zeros(d)
        total = moments(rows.x, rows.weight, origin)
        delta = total.sum_wd / total.weight if total.weight > 0 else np.zeros(d)
        return DataSummary(
            rows.n_samples,
            total.weight,
            total.minimum,
            total.maximum,
            origin + delta,
            total.sum_wdd - total.weight * np.outer(delta, delta),
            (self._sample(rows),),
            self.capacity,
            n_left_out=rows.n_left_out,
        )

    @classmethod
    def plan(cls, seed: int, capacity: int, n_samples: int, n_components: int = 0) -> Summarize:
        """Return a first pass whose threshold lets ``capacity`` of ``n_samples`` rows through, with room."""
        expected = capacity + 6 * capacity**0.5 + 10
        share = min(1.0, expected / max(1, n_samples))
        return cls(seed, capacity, min(LARGEST_HASH, int(share * LARGEST_HASH)), n_components)

    def missed(self, summary: DataSummary) -> bool:
        """Return whether the threshold was too low, as it can be where most rows weigh nothing."""
        return (
            sum(len(part.index) for part in summary.samples) < min(self.capacity, summary.n_samples)
            and self.threshold < LARGEST_HASH
        )


def _few(parts: tuple[Sample, ...], capacity: int) -> tuple[Sample, ...]:
    """Return the parts as they are, or in one of no more rows than the capacity.

    The threshold lets through little more than that, so that most rows are copied once.
    """
    if len(parts) <= MOST_PARTS and sum(len(part.index) for part in parts) <= ROOM * capacity:
        return parts
    both = Sample.joined(parts)
    return (both if len(both.index) <= capacity else both.smallest(capacity),)


def _merged(a: ClassMeans | None, b: ClassMeans | None) -> ClassMeans | None:
    return a.merge(b) if a and b else a or b
