"""Rows whose component is known: semi-supervised EM (Nigam, McCallum, Thrun & Mitchell 2000).

A row with label c is observed together with z = c. It adds log π_c p_c(x) to the log-likelihood in place of
log Σ_k π_k p_k(x), and its responsibility for c is 1. So its E-step is that of the mixture which consists of
component c alone; the sums of that are put in the place of c among those of the other rows.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from streamem.errors import InputError
from streamem.models.covariance import Array
from streamem.models.gaussian_statistics import GaussianMixtureParams, GaussianMixtureStats
from streamem.protocols import Rows

__all__ = ["ClassMeans", "check", "has_labels", "statistics"]

SLICE_ROWS = 8192  # rows of a class that are copied at once

_alone: weakref.WeakKeyDictionary[GaussianMixtureParams, dict[int, GaussianMixtureParams]] = (
    weakref.WeakKeyDictionary()
)
"""Components of parameters in use: where values are missing, what is known of them is known by identity."""
_lock = threading.Lock()


def has_labels(rows: Rows) -> bool:
    """Return whether the component of some row is known."""
    return rows.label is not None and bool((rows.label >= 0).any())


def check(rows: Rows, n_components: int) -> None:
    """Refuse labels that are none of the components."""
    if rows.label is None or rows.label.max(initial=-1) < n_components:
        return
    place = int(np.argmax(rows.label >= n_components))
    row = rows.start + place if rows.index is None else int(rows.index[place])
    raise InputError(
        f"y: row {row:,} has label {rows.label[place]}, but n_components={n_components}, so that components "
        f"are 0 to {n_components - 1}. Raise n_components, renumber the labels, or give −1 where the "
        "component is unknown."
    )


def statistics(
    params: GaussianMixtureParams,
    rows: Rows,
    e_step: Callable[[GaussianMixtureParams, Rows], GaussianMixtureStats],
) -> GaussianMixtureStats:
    """Return the statistics of rows of which some have labels, given the E-step of those that have none."""
    total = e_step(params, _unlabelled(rows))
    log_const = params.kernel_arguments().log_const
    for component, its in _by_label(replace(rows, n_left_out=0)):
        alone = _component(params, component)
        stats = e_step(alone, its)
        if stats.weight > 0:
            # Alone, a component weighs 1; where parameters have distributions, more may be different.
            lacking = float(log_const[component] - alone.kernel_arguments().log_const[0])
            stats = stats.scored(stats.log_likelihood + stats.weight * lacking)
        total = total.merge(_embedded(stats, params, component))
    return total


def _unlabelled(rows: Rows) -> Rows:
    """Return the rows with weight 0 where there is a label."""
    assert rows.label is not None
    weight = np.ones(len(rows.x)) if rows.weight is None else rows.weight
    return replace(rows, weight=np.where(rows.label < 0, weight, 0.0), label=None)


def _by_label(rows: Rows) -> Iterator[tuple[int, Rows]]:
    """Yield components and rows with that label, a limited number at a time."""
    assert rows.label is not None
    order = np.argsort(rows.label, kind="stable")
    ranked = rows.label[order]
    for component in np.unique(ranked[ranked >= 0]).tolist():
        first, last = np.searchsorted(ranked, [component, component + 1])
        for start in range(first, last, SLICE_ROWS):
            yield component, replace(rows.some(order[start : min(start + SLICE_ROWS, last)]), label=None)


def _component(params: GaussianMixtureParams, component: int) -> GaussianMixtureParams:
    """Return the mixture of one component alone."""
    with _lock:
        known = _alone.setdefault(params, {})
        if component not in known:
            own, one = not params.shape.shared, slice(component, component + 1)
            known[component] = GaussianMixtureParams(
                params.covariance_type,
                np.ones(1),
                params.means[one],
                params.cholesky[one] if own else params.cholesky,
                params.whitening[one] if own else params.whitening,
            )
        return known[component]


def _embedded(stats: GaussianMixtureStats, params: GaussianMixtureParams, c: int) -> GaussianMixtureStats:
    """Return statistics of component c alone as those of all components."""
    sum_w, sum_wy = np.zeros(len(params.weights)), np.zeros(params.means.shape)
    sum_w[c], sum_wy[c], sum_wyy = stats.sum_w[0], stats.sum_wy[0], stats.sum_wyy
    if not params.shape.shared:
        sum_wyy = np.zeros(params.cholesky.shape)
        sum_wyy[c] = stats.sum_wyy[0]
    return replace(stats, reference=params, sum_w=sum_w, sum_wy=sum_wy, sum_wyy=sum_wyy)


@dataclass(frozen=True, slots=True, eq=False)
class ClassMeans:
    """Means of the rows of each label, where fits start from."""

    weight: Array
    """(k, d) Σ w of the rows with this label that observe the column."""
    mean: Array
    """(k, d) their means; 0 where there are none."""

    @classmethod
    def of(cls, rows: Rows, n_components: int) -> ClassMeans:
        """Return the means of rows; all labels are checked."""
        check(rows, n_components)
        shape = n_components, rows.x.shape[1]
        found = cls(np.zeros(shape), np.zeros(shape))
        if has_labels(rows):
            for component, its in _by_label(rows):
                found._add(component, its)
        return found

    def _add(self, component: int, rows: Rows) -> None:
        """Take in more rows, which only the one who makes this does."""
        w = np.ones(len(rows.x)) if rows.weight is None else rows.weight
        seen = (w[:, None] > 0) & ~np.isnan(rows.x)
        total = self.weight[component] + w @ seen
        away = np.where(seen, rows.x - self.mean[component], 0.0)
        self.mean[component] += np.divide(w @ away, total, out=np.zeros_like(total), where=total > 0)
        self.weight[component] = total

    def merge(self, other: ClassMeans) -> ClassMeans:
        """Return the means of both sets of rows."""
        total = self.weight + other.weight
        share = np.divide(other.weight, total, out=np.zeros_like(total), where=total > 0)
        return ClassMeans(total, self.mean + share * (other.mean - self.mean))

    def centers(self, otherwise: Array) -> Array:
        """Return (k, d) means, ``otherwise`` (d,) in columns never observed; NaN for labels without rows."""
        means = np.where(self.weight > 0, self.mean, otherwise)
        means[~(self.weight > 0).any(axis=1)] = np.nan
        return np.asarray(means)
