"""Where EM starts: responsibilities for the rows of a sample in memory.

Seeding is hard assignment to centres: k-means from more k-means++ seeds than needed, by default. Distances
are taken in units of each column's standard deviation, so that units do not matter. A model turns
responsibilities into parameters with its own M-step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.errors import InputError
from streamem.kernels import kmeans
from streamem.kernels.moments import moments
from streamem.protocols import Rows

__all__ = ["METHODS", "responsibilities", "seeding_rows"]

METHODS = ("kmeans", "k-means++", "random", "random_from_data")
LLOYD_STEPS = 8
OVERSEEDING = 4
MOST_CENTERS = 512

Array = NDArray[np.float64]


def seeding_rows(sample: Rows, n_components: int) -> Rows:
    """Return the leading rows of a sample, as many as seeding can use: a sample comes in random order."""
    n = min(len(sample.x), max(20 * n_components, min(16_384, 2**23 // n_components)))
    return sample.some(np.arange(n))


def responsibilities(
    start: str | NDArray[Any],
    rows: Rows,
    n_components: int,
    rng: np.random.Generator,
    centers: Array | None = None,
    known: Array | None = None,
) -> Array:
    """Return starting responsibilities, (n, k), each row summing to 1.

    Parameters
    ----------
    start
        ``"kmeans"``: k-means++ seeds, more than needed, merged, then Lloyd steps; ``"k-means++"``: the seeds
        alone; ``"random_from_data"``: rows drawn at random as centres; ``"random"``: random numbers; or an
        array of labels (n,) or responsibilities (n, k).
    centers
        (k, d) centres that replace seeding where rows are assigned to centres.
    known
        (k, d) means of the rows with each label, NaN where there are none: seeding adds centres to them, and
        moves none of them to another component. Rows with labels stay where they belong (Basu, Banerjee &
        Mooney 2002).

    Raises
    ------
    InputError
        If the method is unknown, or the array does not fit.
    """
    if not isinstance(start, str):
        resp = _given(np.asarray(start), len(rows.x), n_components)
    elif start not in METHODS:
        raise InputError(f"init_params: expected one of {', '.join(METHODS)} or an array, got {start!r}.")
    elif start == "random":
        resp = rng.random((len(rows.x), n_components))
        resp = np.asarray(resp / resp.sum(axis=1, keepdims=True))
    else:
        scale = _column_scale(rows)
        if centers is None:
            nearest = _seeded(start, rows, n_components, scale, rng, known)
        else:
            nearest = kmeans.assign(rows.x, np.asarray(centers, dtype=np.float64), scale)
        resp = _one_hot(nearest, n_components)
    if rows.label is not None:
        held = np.flatnonzero(rows.label >= 0)
        resp[held] = _one_hot(rows.label[held], n_components)
    return resp


def _seeded(
    start: str, rows: Rows, k: int, scale: Array, rng: np.random.Generator, known: Array | None
) -> NDArray[np.int64]:
    """Return for each row, (n,), the component whose centre is nearest, the known ones in their places."""
    unknown = np.full(k, True) if known is None else np.isnan(known).any(axis=1)
    places = np.argsort(unknown, kind="stable")  # centres that are known come first
    first = np.empty((0, rows.x.shape[1])) if known is None else known[~unknown]
    if rows.label is not None:
        rows = replace(rows, label=np.where(rows.label >= 0, np.argsort(places)[rows.label], -1))
    centers = _centers(start, rows, k, scale, rng, first)
    return places[kmeans.assign(rows.x, centers, scale)]


def _centers(start: str, rows: Rows, k: int, scale: Array, rng: np.random.Generator, first: Array) -> Array:
    """Return up to k centres (k, d) by a method, ``first`` among them and ahead of the others."""
    if start == "random_from_data":
        return np.concatenate([first, _random_centers(rows, k - len(first), rng)])
    if start == "k-means++":
        return _plus_plus(rows, k, scale, rng, 2 + int(np.log(k)), first)
    return _kmeans(rows, k, scale, rng, first)


def _given(start: NDArray[Any], n: int, k: int) -> Array:
    """Return labels or responsibilities that the caller gave, as responsibilities."""
    if start.ndim == 1 and len(start) == n and np.issubdtype(start.dtype, np.integer):
        if start.min() < 0 or start.max() >= k:
            raise InputError(
                f"init_params: labels must lie in 0..{k - 1}, got {start.min()}..{start.max()}. Renumber."
            )
        return _one_hot(start, k)
    if start.shape == (n, k):
        total = start.sum(axis=1, keepdims=True, dtype=np.float64)
        if np.all(start >= 0) and np.all(total > 0) and np.all(np.isfinite(total)):
            return np.asarray(start / total, dtype=np.float64)
        raise InputError("init_params: responsibilities must be >= 0 with a positive sum in each row.")
    raise InputError(
        f"init_params: expected integer labels ({n},) or responsibilities ({n}, {k}), got {start.dtype} of "
        f"shape {start.shape}."
    )


def _one_hot(labels: NDArray[Any], k: int) -> Array:
    resp = np.zeros((len(labels), k))
    resp[np.arange(len(labels)), labels] = 1.0
    return resp


def _column_scale(rows: Rows) -> Array:
    """Return 1/standard deviation of each column; 0 for a constant one, which tells no rows apart."""
    first = rows.x[0].astype(np.float64)
    total = moments(rows.x, rows.weight, first)
    mean = total.sum_wd / total.weight
    variance = np.diag(total.sum_wdd) / total.weight - mean**2
    constant = variance <= (1e-14 * (mean + first)) ** 2
    return np.where(constant, 0.0, 1 / np.sqrt(np.where(constant, 1.0, variance)))


def _probabilities(values: Array) -> Array:
    total = values.sum()
    return values / total if total > 0 else np.full(len(values), 1 / len(values))


def _random_centers(rows: Rows, k: int, rng: np.random.Generator) -> Array:
    weight = np.ones(len(rows.x)) if rows.weight is None else rows.weight
    replace = bool(np.count_nonzero(weight) < k)
    return rows.x[rng.choice(len(rows.x), size=k, replace=replace, p=_probabilities(weight))].astype(
        np.float64
    )


def _plus_plus(
    rows: Rows, k: int, scale: Array, rng: np.random.Generator, trials: int, first: Array
) -> Array:
    """Return k-means++ centres (k, d), each the best of ``trials`` draws (Arthur & Vassilvitskii 2007).

    Those that are there ``first`` stay; without any, the first one is drawn at random.
    """
    x = rows.x
    weight = np.ones(len(x)) if rows.weight is None else rows.weight
    chosen = [] if len(first) else [int(rng.choice(len(x), p=_probabilities(weight)))]
    closest = np.full(len(x), np.inf)
    for center in (*first, *x[chosen].astype(np.float64)):
        kmeans.min_squared_distance_update(x, center, scale, closest)
    for _ in range(len(first) + len(chosen), k):
        drawn = rng.choice(len(x), size=trials, p=_probabilities(weight * closest))
        reached = []
        for row in np.unique(drawn):
            candidate = closest.copy()
            kmeans.min_squared_distance_update(x, x[row].astype(np.float64), scale, candidate)
            reached.append((float(weight @ candidate), int(row), candidate))
        _, row, closest = min(reached, key=lambda trial: trial[:2])
        chosen.append(row)
    return np.concatenate([first, x[chosen].astype(np.float64)])


def _kmeans(rows: Rows, k: int, scale: Array, rng: np.random.Generator, first: Array) -> Array:
    """Return k-means centres (k, d) from more than asked for, merged to k by Ward's criterion.

    Seeding k centres directly often puts two into one cluster and one between two others, and neither Lloyd
    nor EM gets out of that. With several centres in each cluster no cluster is missed, and those of one
    cluster find each other (after the two-round EM of Dasgupta & Schulman 2007). Centres that are there
    ``first`` are never merged with one another.
    """
    many = min(OVERSEEDING * k, max(k, MOST_CENTERS), len(rows.x))
    if many > k > 1 and len(first) < k:
        seeds, mass = _lloyd(rows, _plus_plus(rows, many, scale, rng, 1, first), scale)
        mass[: len(first)] = np.maximum(mass[: len(first)], 1.0)  # far from the sample, they are there still
        centers = _ward(seeds[mass > 0], mass[mass > 0], scale, k, len(first))
    else:
        centers = _plus_plus(rows, k, scale, rng, 1, first)
    return _lloyd(rows, centers, scale)[0]


def _ward(centers: Array, mass: Array, scale: Array, k: int, n_apart: int) -> Array:
    """Merge two centres of least added scatter, n_a n_b/(n_a + n_b) ‖c_a − c_b‖², until k are left.

    Of two that merge the one of lower number goes on, and two of the first ``n_apart`` never do.
    """
    origin = centers[0]
    scaled = (centers - origin) * scale
    costs = _merge_costs(scaled[:, None] - scaled, mass[:, None], mass)
    np.fill_diagonal(costs, np.inf)
    costs[:n_apart, :n_apart] = np.inf
    for _ in range(len(centers) - k):
        a, b = np.unravel_index(np.argmin(costs), costs.shape)
        share = mass[b] / (mass[a] + mass[b])
        scaled[a] += share * (scaled[b] - scaled[a])
        centers[a] += share * (centers[b] - centers[a])
        mass[a] += mass[b]
        costs[a] = costs[:, a] = _merge_costs(scaled - scaled[a], mass, mass[a]) + np.where(
            np.isinf(costs[a]), np.inf, 0.0
        )
        costs[b] = costs[:, b] = costs[a, a] = np.inf
        mass[b] = 0.0
    return centers[mass > 0]


def _merge_costs(difference: Array, mass: Array, other: Array) -> Array:
    return np.asarray(mass * other / (mass + other) * (difference**2).sum(axis=-1))


def _lloyd(rows: Rows, centers: Array, scale: Array) -> tuple[Array, Array]:
    """Return centres (k, d) and their total weight (k,) after a few Lloyd steps; an empty one stays put."""
    x = rows.x
    weight = np.ones(len(x)) if rows.weight is None else rows.weight
    origin = x[0].astype(np.float64)
    previous = None
    for _ in range(LLOYD_STEPS):
        labels = kmeans.assign(x, centers, scale)
        if rows.label is not None:
            labels = np.where(rows.label >= 0, rows.label, labels)
        if previous is not None and np.array_equal(previous, labels):
            break
        previous = labels
        mass = np.bincount(labels, weight, len(centers)).astype(np.float64)
        columns = [
            np.bincount(labels, weight * (column - start), len(centers))
            for column, start in zip(x.T, origin, strict=True)
        ]
        occupied = mass > 0
        means = origin + np.stack(columns, axis=1) / np.where(occupied, mass, 1.0)[:, None]
        centers = np.where(occupied[:, None], means, centers)
    return centers, mass
