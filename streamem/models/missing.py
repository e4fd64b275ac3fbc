"""Rows with missing values: exact EM on what is observed (Ghahramani & Jordan 1994).

The latent variables are then the component and the missing values, so the E-step's statistics are
expectations over both. A row with x_o observed has the marginal mixture's responsibilities, and given its
component, y = L⁻¹(x − μ) has mean Qᵀy_o and covariance I − QᵀQ, with y_o and Q as in
`streamem.kernels.incomplete`. Rows that miss the same columns share Q: where they are many, their
statistics are those of complete rows under the marginal mixture, u and U, expanded once per group,

    Σ r E[y] = Qᵀu,      Σ r E[y yᵀ] = QᵀUQ + n (I − QᵀQ).

Missing values are taken to be missing at random: that a value is missing may depend on the observed ones.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.special import logsumexp, ndtri

from streamem.kernels import incomplete, mixture
from streamem.kernels.mixture import MixtureSums
from streamem.kernels.patterns import Patterns, patterns, take
from streamem.kernels.sampling import hashes
from streamem.models.covariance import Array
from streamem.models.gaussian_statistics import GaussianMixtureParams
from streamem.protocols import FloatArray, Rows

__all__ = ["filled_with_means", "impute", "log_joint", "statistics", "without_unobserved"]

LARGE_GROUP = 2**19  # multiplications, n k d², above which tiles beat one row after the other
DIAGONAL_WORK = 8  # as a factor: one row after the other is slow beside so few multiplications
SLICE_ROWS = 8192  # rows of a group that are copied at once
CACHE_BYTES = 2**26  # for the factors of patterns, in each process

DtypeOf = Callable[[GaussianMixtureParams, Rows], DTypeLike]


class Marginal(NamedTuple):
    """The mixture of some columns."""

    params: GaussianMixtureParams
    """Its parameters."""
    basis: Array
    """(k, o, d), or (1, o, d) for a shared covariance: Q; empty for independent columns."""

    @property
    def n_bytes(self) -> int:
        return self.basis.nbytes + self.params.cholesky.nbytes + self.params.whitening.nbytes


@dataclass(slots=True)
class _Cache:
    """Marginals of parameters in use, as many as there is room for; the first ones stay.

    A pass meets the same patterns block after block, for which no other policy is better.
    """

    of: weakref.WeakKeyDictionary[GaussianMixtureParams, dict[bytes, Marginal]] = field(
        default_factory=weakref.WeakKeyDictionary
    )
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, params: GaussianMixtureParams, columns: NDArray[np.int64]) -> Marginal:
        """Return the marginal of these columns."""
        with self.lock:
            known = self.of.setdefault(params, {})
        key = columns.tobytes()
        if (found := known.get(key)) is not None:
            return found
        made = _marginal(params, columns)
        with self.lock:
            held = sum(m.n_bytes for marginals in self.of.values() for m in marginals.values())
            if held + made.n_bytes <= CACHE_BYTES:
                known[key] = made
        return made


_cache = _Cache()


def _marginal(params: GaussianMixtureParams, columns: NDArray[np.int64]) -> Marginal:
    """Return the mixture of some columns."""
    if not params.shape.matrices:
        deviations = params.cholesky
        if not params.shape.spherical:
            deviations = np.ascontiguousarray(deviations[..., columns])
        marginal = params.marginal(columns, deviations, 1.0 / deviations)
        return Marginal(marginal, np.empty((0, len(columns), 0)))
    lower, basis, inverse = incomplete.project(_factors(params), columns)
    shape = lower.shape[1:] if params.shape.shared else lower.shape
    return Marginal(params.marginal(columns, lower.reshape(shape), inverse.reshape(shape)), basis)


def _factors(params: GaussianMixtureParams) -> Array:
    """Return dense Cholesky factors, (k, d, d) or (1, d, d)."""
    d = params.means.shape[1]
    return np.ascontiguousarray(params.cholesky).reshape(-1, d, d)


def _components(params: GaussianMixtureParams) -> incomplete.Components:
    log_weights, means = params.log_weights, np.ascontiguousarray(params.means)
    if params.shape.matrices:
        return incomplete.DenseComponents(log_weights, means, _factors(params), params.noise)
    deviations = params.cholesky[..., None] if params.shape.spherical else params.cholesky
    return incomplete.DiagonalComponents(
        log_weights,
        means,
        np.ascontiguousarray(np.broadcast_to(deviations, means.shape)),
        params.noise,
    )


def without_unobserved(rows: Rows, found: Patterns) -> Rows:
    """Return the rows with weight 0 where nothing is observed: they say nothing about any parameter."""
    empty = np.flatnonzero(~found.observed.any(axis=1))
    group = found.group(int(empty[0])) if len(empty) else empty
    weight = np.ones(len(rows.x)) if rows.weight is None else rows.weight.copy()
    left_out = int(np.count_nonzero(weight[group]))
    if left_out == 0:
        return rows
    weight[group] = 0.0
    return replace(rows, weight=weight, n_left_out=rows.n_left_out + left_out)


def statistics(
    params: GaussianMixtureParams, rows: Rows, found: Patterns, resp: Array | None, dtype_of: DtypeOf
) -> tuple[MixtureSums, np.dtype[Any]]:
    """Return the sums of `streamem.kernels.mixture.statistics`, and the coarsest dtype they were computed in.

    Rows without a missing value are worked through as if all were so; rows with nothing else are left out.
    """
    observed = found.observed.sum(axis=1)
    complete, empty = observed == rows.x.shape[1], observed == 0
    dtype = np.dtype(np.float64 if resp is not None else dtype_of(params, rows))
    weight, rest = rows.weight, np.flatnonzero(~complete & ~empty)
    if len(rest):  # rows of weight 0 are not looked at
        weight = np.zeros(len(rows.x))
        for group in map(found.group, np.flatnonzero(complete).tolist()):
            weight[group] = 1.0 if rows.weight is None else rows.weight[group]
    log_noise = None if resp is not None else params.log_noise
    total = mixture.statistics(rows.x, weight, params.kernel_arguments(), resp, dtype, log_noise)
    if len(rest) == 0:
        return total, dtype
    large = rest[np.diff(found.starts)[rest] * _work(params) >= LARGE_GROUP]
    for pattern in large.tolist():
        sums, its = _of_group(params, rows, found.group(pattern), found.observed[pattern], resp, dtype_of)
        total, dtype = _added(total, sums), min(dtype, its, key=lambda dtype: dtype.itemsize)
    rest = np.setdiff1d(rest, large, assume_unique=True)
    sums = incomplete.statistics(rows.x, rows.weight, _chosen(found, rest), _components(params), resp)
    return _added(total, _natural(params, sums)), dtype


def _work(params: GaussianMixtureParams) -> int:
    """Return about how many multiplications a row costs."""
    k, d = params.means.shape
    return int(k * d * (d if params.shape.matrices else DIAGONAL_WORK))


def _of_group(
    params: GaussianMixtureParams,
    rows: Rows,
    group: NDArray[np.int64],
    observed: NDArray[np.bool_],
    resp: Array | None,
    dtype_of: DtypeOf,
) -> tuple[MixtureSums, np.dtype[Any]]:
    """Return the sums of rows that observe the same columns, by way of their marginal mixture."""
    columns = np.flatnonzero(observed)
    marginal = _cache.get(params, columns)
    family = marginal.params.kernel_arguments()
    dtype = np.dtype(
        np.float64 if resp is not None else dtype_of(marginal.params, Rows(rows.x[:0, columns], None, 0))
    )
    total = None
    for start in range(0, len(group), SLICE_ROWS):
        part = group[start : start + SLICE_ROWS]
        sums = mixture.statistics(
            take(rows.x, part, columns),
            None if rows.weight is None else rows.weight[part],
            family,
            None if resp is None else resp[part],
            dtype,
            None if resp is not None else marginal.params.log_noise,
        )
        total = sums if total is None else _added(total, sums)
    assert total is not None
    if len(marginal.basis):
        return _expanded(total, marginal.basis), dtype
    return _scattered(total, columns, params), dtype


def _scattered(sums: MixtureSums, columns: NDArray[np.int64], params: GaussianMixtureParams) -> MixtureSums:
    """Return the sums over all independent columns, in expectation, of those over some."""
    d, n = params.means.shape[1], sums.sum_w
    sum_wy, sum_wyy = np.zeros(params.means.shape), np.repeat(n[:, None], d, axis=1)
    sum_wy[:, columns] = sums.sum_wy
    if params.shape.spherical:
        return sums._replace(sum_wy=sum_wy, sum_wyy=sums.sum_wyy + n * (d - len(columns)))
    sum_wyy[:, columns] = sums.sum_wyy
    return sums._replace(sum_wy=sum_wy, sum_wyy=sum_wyy)


def _expanded(sums: MixtureSums, basis: Array) -> MixtureSums:
    """Return the sums over all columns, in expectation, of those over some that are not independent."""
    down = np.swapaxes(basis, -1, -2)
    second = sums.sum_wyy.reshape(-1, *sums.sum_wyy.shape[-2:])
    n = sums.sum_w if len(basis) == len(sums.sum_w) else sums.sum_w.sum(keepdims=True)
    centred = second - n[:, None, None] * np.eye(basis.shape[1])
    sum_wyy = down @ centred @ basis + n[:, None, None] * np.eye(basis.shape[2])
    sum_wyy = 0.5 * (sum_wyy + np.swapaxes(sum_wyy, -1, -2))
    return sums._replace(
        sum_wy=(sums.sum_wy[:, None, :] @ basis)[:, 0],
        sum_wyy=sum_wyy if sums.sum_wyy.ndim == 3 else sum_wyy[0],
    )


def _natural(params: GaussianMixtureParams, sums: MixtureSums) -> MixtureSums:
    """Return sums as `streamem.kernels.mixture` shapes them."""
    shape = params.shape
    if shape.spherical:
        return sums._replace(sum_wyy=sums.sum_wyy.sum(axis=1))
    return sums._replace(sum_wyy=sums.sum_wyy[0]) if shape.matrices and shape.shared else sums


def _added(a: MixtureSums, b: MixtureSums) -> MixtureSums:
    return MixtureSums(
        a.log_likelihood + b.log_likelihood,
        a.entropy + b.entropy,
        a.sum_w + b.sum_w,
        a.sum_wy + b.sum_wy,
        a.sum_wyy + b.sum_wyy,
        a.sum_noise + b.sum_noise,
    )


def _chosen(found: Patterns, chosen: NDArray[np.int64]) -> Patterns:
    """Return some of the patterns."""
    groups = [found.group(pattern) for pattern in chosen]
    starts = np.concatenate([[0], np.cumsum([len(group) for group in groups], dtype=np.int64)])
    rows = np.concatenate(groups) if groups else np.empty(0, np.int64)
    return Patterns(found.observed[chosen], starts, rows)


def log_joint(params: GaussianMixtureParams, x: FloatArray) -> Array:
    """Return log π_k p_k(x_o), (n, k), of what is observed; log π_k of a row of which nothing is.

    Where there is noise, its own comes last, (n, k + 1).
    """
    return incomplete.log_joint(x, patterns(x), _components(params))


def log_density(joint: Array) -> Array:
    """Return log Σ_k exp(joint), (n,)."""
    return np.asarray(logsumexp(joint, axis=1))


def posterior(joint: Array) -> Array:
    """Return responsibilities (n, k); zeros in a row that no component can explain."""
    total = log_density(joint)[:, None]
    return np.where(total > -np.inf, np.exp(joint - np.where(total > -np.inf, total, 0.0)), 0.0)


def impute(params: GaussianMixtureParams, rows: Rows, seeds: NDArray[np.uint64] | None = None) -> FloatArray:
    """Return the rows with missing values replaced by their conditional means; (n, d), in the rows' dtype.

    With ``seeds`` (d + 1,), by draws from their distribution given the observed values; random numbers come
    from seed and row number alone.
    """
    if rows.complete:
        return rows.x.copy()
    out = np.empty_like(rows.x)
    for start in range(0, len(out), SLICE_ROWS):
        part = Rows(rows.x[start : start + SLICE_ROWS], None, rows.start + start, False)
        out[start : start + SLICE_ROWS] = _imputed(params, part, seeds)
    return out


def _imputed(params: GaussianMixtureParams, rows: Rows, seeds: NDArray[np.uint64] | None) -> Array:
    x = rows.x.astype(np.float64)
    found, components = patterns(x), _components(params)
    resp = posterior(incomplete.log_joint(x, found, components))
    noise, place = None, np.full(x.shape, 0.5)
    if seeds is not None:
        first, *others = (_uniform(rows, int(seed)) for seed in seeds)
        drawn = (np.cumsum(resp, axis=1) < first[:, None] * resp.sum(axis=1, keepdims=True)).sum(axis=1)
        resp = np.equal.outer(drawn, np.arange(resp.shape[1])).astype(np.float64)
        place = np.stack(others, axis=1)
        noise = ndtri(place)
    missing, k = np.isnan(x), len(params.weights)
    incomplete.impute(x, found, components, resp, noise)
    if params.noise_box.size:
        low, high = params.noise_box
        x += np.where(missing, resp[:, k:] * (low + place * (high - low)), 0.0)
    return x


def _uniform(rows: Rows, seed: int) -> Array:
    """Return numbers in (0, 1), (n,), each from its row's place in the source."""
    bits = (hashes(rows.start, len(rows.x), seed) >> np.uint64(11)).astype(np.float64)
    return bits * 2.0**-53 + 2.0**-54


def filled_with_means(rows: Rows) -> Rows:
    """Return complete rows, each missing value replaced by the mean of its column, or 0 if it has none."""
    if rows.complete:
        return rows
    weight = np.ones(len(rows.x)) if rows.weight is None else rows.weight
    seen = ~np.isnan(rows.x)
    total = weight @ seen
    first = np.take_along_axis(rows.x, seen.argmax(axis=0)[None], axis=0)
    origin = np.where(total > 0, np.where(np.isnan(first[0]), 0.0, first[0]), 0.0).astype(np.float64)
    mean = origin + weight @ np.where(seen, rows.x - origin, 0.0) / np.where(total > 0, total, 1.0)
    return replace(rows, x=np.where(seen, rows.x, mean).astype(rows.x.dtype), complete=True)
