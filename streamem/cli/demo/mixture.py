"""A Gaussian mixture whose truth is known: drawn, written block by block, compared with a fit.

Each block of rows has a random stream of its own, so its content depends on the seed and on its position,
not on the number of threads that write or on their order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.cli.progress import Listener
from streamem.convergence import PassEnded, PassProgress, PassStarted

__all__ = ["Comparison", "Truth", "compare", "draw_rows", "draw_truth", "write"]

_SEPARATION = 5.0
"""Least distance between two means, in units of the geometric mean of the standard deviations."""
_CONDITION = 10.0
"""Largest ratio of two variances of a component."""
_MAX_THREADS = 4
"""More would only queue for the disk."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The mixture that rows are drawn from."""

    weights: NDArray[np.float64]
    """(k,) sums to 1."""
    means: NDArray[np.float64]
    """(k, d)."""
    factors: NDArray[np.float64]
    """(k, d, d) lower triangular L with covariance L L^T."""

    @property
    def deviations(self) -> NDArray[np.float64]:
        """(k, d) standard deviation of each component along each column."""
        scale: NDArray[np.float64] = np.sqrt((self.factors**2).sum(axis=2))
        return scale


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """True and recovered components, matched, the heaviest first; errors in standard errors of the truth."""

    true_weights: NDArray[np.float64]
    """(k,)."""
    weights: NDArray[np.float64]
    """(k,) recovered."""
    weight_errors: NDArray[np.float64]
    """(k,) |difference| / sqrt(w (1 - w) / n)."""
    mean_errors: NDArray[np.float64]
    """(k,) the largest over the columns of |difference| / (sigma / sqrt(n w))."""

    @property
    def worst(self) -> float:
        """The largest error of all."""
        return float(max(self.weight_errors.max(), self.mean_errors.max()))


def draw_truth(n_components: int, n_features: int, rng: np.random.Generator) -> Truth:
    """Return a random mixture: no tiny weight, means a few deviations apart, tilted covariances."""
    k, d = n_components, n_features
    weights = 0.25 / k + 0.75 * rng.dirichlet(np.full(k, 2.0))
    factors = np.stack([_draw_factor(d, rng) for _ in range(k)])
    return Truth(weights / weights.sum(), _draw_means(k, d, rng), factors)


def draw_rows(truth: Truth, n_samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return (n, d) rows in random order."""
    n_features = truth.means.shape[1]
    noise = rng.standard_normal((n_samples, n_features), dtype=np.float32)
    counts = rng.multinomial(n_samples, truth.weights)
    order, rows = rng.permutation(n_samples), np.empty_like(noise)
    for j, stop in enumerate(np.cumsum(counts)):
        mine = slice(stop - counts[j], stop)
        rows[order[mine]] = noise[mine] @ truth.factors[j].T.astype(np.float32) + truth.means[j].astype(
            np.float32
        )
    return rows


def write(truth: Truth, path: Path, n_samples: int, block_rows: int, seed: int, hear: Listener) -> None:
    """Write rows of the mixture to a new zarr array, in chunks of ``block_rows`` rows.

    The chunks are not compressed: random digits do not shrink, and a reader need not decode them.
    """
    import zarr
    from threadpoolctl import threadpool_limits

    shape = (n_samples, truth.means.shape[1])
    array = zarr.create_array(
        store=str(path), shape=shape, chunks=(block_rows, shape[1]), dtype="float32", compressors=None
    )

    def write_block(index: int) -> int:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        start, stop = index * block_rows, min((index + 1) * block_rows, n_samples)
        array[start:stop] = draw_rows(truth, stop - start, rng)
        return stop - start

    hear(PassStarted("write", 0, n_samples, 4 * shape[0] * shape[1]))
    done = 0
    with threadpool_limits(1, "blas"), _workers() as pool:
        for future in as_completed([pool.submit(write_block, i) for i in range(-(-n_samples // block_rows))]):
            done += future.result()
            hear(PassProgress("write", 0, done))
    hear(PassEnded("write", 0))


def compare(
    truth: Truth, weights: NDArray[np.floating[Any]], means: NDArray[np.floating[Any]], n_samples: int
) -> Comparison:
    """Match recovered components to the true ones, by the distance of their means, and measure both."""
    from scipy.optimize import linear_sum_assignment

    order = np.argsort(-truth.weights, kind="stable")
    differences = means[None, :, :] - truth.means[order, None, :]  # (true, recovered, column)
    distances = np.linalg.norm(np.linalg.solve(truth.factors[order], differences.transpose(0, 2, 1)), axis=1)
    matched = linear_sum_assignment(distances**2)[1]
    w, found = truth.weights[order], np.asarray(weights, dtype=np.float64)[matched]
    moved = np.abs(differences[np.arange(len(w)), matched]) / truth.deviations[order]
    return Comparison(
        true_weights=w,
        weights=found,
        weight_errors=np.abs(found - w) / np.sqrt(np.maximum(w * (1 - w), np.finfo(float).eps) / n_samples),
        mean_errors=moved.max(axis=1) * np.sqrt(n_samples * w),
    )


def _draw_factor(d: int, rng: np.random.Generator) -> NDArray[np.float64]:
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    half = np.log(_CONDITION) / 2
    variances = np.exp(rng.uniform(-half, half, size=d))
    return np.linalg.cholesky((axes * variances) @ axes.T)


def _draw_means(k: int, d: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Scatter means as densely as their least distance allows: the cloud grows when one does not fit."""
    scale, means = _SEPARATION / np.sqrt(2 * d), np.empty((0, d))
    while len(means) < k:
        candidate = scale * rng.standard_normal(d)
        if np.linalg.norm(means - candidate, axis=1).min(initial=np.inf) >= _SEPARATION:
            means = np.vstack([means, candidate])
        else:
            scale *= 1.02
    return means


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Yield a thread pool that drops what it has not begun when something goes wrong, Ctrl-C included."""
    pool = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
