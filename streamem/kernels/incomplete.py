"""Rows with missing values, row by row: log-joints, statistics and conditional means of Gaussian components.

A row is x = μ + L ε with ε standard normal. Gram-Schmidt on the rows of L that belong to observed columns o
gives L_o = G Q, where G is lower triangular and the rows of Q are orthonormal: G is the Cholesky factor of
Σ_oo, y = G⁻¹(x_o − μ_o) whitens what is observed, and given that, ε has mean Qᵀy and covariance I − QᵀQ.
So everything about the missing values is said in whitened units, and no covariance is ever formed.

Groups of many rows with the same pattern are worked through by `streamem.kernels.mixture` instead, on
their observed columns; what is here takes any number of patterns.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel, unwritable
from streamem.kernels.mixture import MixtureSums
from streamem.kernels.patterns import Patterns

__all__ = [
    "Components",
    "DenseComponents",
    "DiagonalComponents",
    "impute",
    "log_joint",
    "project",
    "statistics",
]

FloatArray: TypeAlias = NDArray[np.floating[Any]]
Float64Array: TypeAlias = NDArray[np.float64]

LOG_2PI = float(np.log(2 * np.pi))


class DenseComponents(NamedTuple):
    """Components with covariances ``L Lᵀ`` of their own, or one for all."""

    log_weights: Float64Array
    """(k,) ``log π``; -inf for a dead component."""
    means: Float64Array
    """(k, d)."""
    cholesky: Float64Array
    """(k, d, d), or (1, d, d) where it is shared: lower triangular."""
    noise: Float64Array
    """(d + 1,) log-density of noise along each feature, and its log-weight; empty where there is none."""


class DiagonalComponents(NamedTuple):
    """Components of independent features."""

    log_weights: Float64Array
    """(k,) ``log π``; -inf for a dead component."""
    means: Float64Array
    """(k, d)."""
    deviations: Float64Array
    """(k, d) standard deviations."""
    noise: Float64Array
    """(d + 1,) log-density of noise along each feature, and its log-weight; empty where there is none."""


Components: TypeAlias = DenseComponents | DiagonalComponents


def project(
    cholesky: Float64Array, columns: NDArray[np.int64]
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return G (k, o, o), Q (k, o, d) and G⁻¹ with ``L_o = G Q``: L (k, d, d), columns o ascending."""
    k, d = cholesky.shape[:2]
    o = len(columns)
    lower, basis, inverse = np.zeros((k, o, o)), np.zeros((k, o, d)), np.zeros((k, o, o))
    _project_all(cholesky, columns, lower, basis, inverse)
    return lower, basis, inverse


def statistics(
    x: FloatArray,
    weight: Float64Array | None,
    found: Patterns,
    components: Components,
    resp: Float64Array | None = None,
) -> MixtureSums:
    """Return the sums of `streamem.kernels.mixture.statistics`, with E[y] and E[y yᵀ] given what is observed.

    Parameters
    ----------
    x
        (n, d) rows, NaN where missing.
    weight
        (n,) sample weights, or None where all are 1.
    found
        The rows to take, by pattern; `Patterns.rows` need not name all rows of x.
    resp
        (n, k) responsibilities to use instead of the posterior; there is no noise then.

    Notes
    -----
    sum_wyy is (k, d, d) or (1, d, d) as the factors are; (k, d) for independent features.
    O(k d³) time per pattern and O(k d²) per row; O(k d) per row for independent features.
    """
    k, d = components.means.shape
    if resp is not None:
        components = components._replace(noise=np.empty(0))
    sum_w, sum_wy = np.zeros(k + min(1, len(components.noise))), np.zeros((k, d))
    x = unwritable(x)
    weights = unwritable(np.empty(0) if weight is None else np.asarray(weight, np.float64))
    given = unwritable(np.empty((0, 0)) if resp is None else np.asarray(resp, np.float64))
    if isinstance(components, DiagonalComponents):
        sum_wyy = np.zeros((k, d))
        gained, entropy = _diagonal_statistics(
            x, weights, given, found.rows, components, sum_w, sum_wy, sum_wyy
        )
        return MixtureSums(gained, entropy, sum_w[:k], sum_wy, sum_wyy, float(sum_w[k:].sum()))
    sum_wyy = np.zeros(components.cholesky.shape)
    gained, entropy = _dense_statistics(x, weights, given, *found, components, sum_w, sum_wy, sum_wyy)
    sum_wyy += np.tril(sum_wyy, -1).swapaxes(-1, -2)
    sum_w, sum_noise = sum_w[:k], float(sum_w[k:].sum())
    total = sum_w if len(sum_wyy) == k else sum_w.sum(keepdims=True)
    sum_wyy += total[:, None, None] * np.eye(d)
    return MixtureSums(gained, entropy, sum_w, sum_wy, sum_wyy, sum_noise)


def log_joint(x: FloatArray, found: Patterns, components: Components) -> Float64Array:
    """Return (n, k) ``log π_k p_k(x_o)`` of what is observed; each row's bits depend on that row alone.

    (n, k + 1) where there is noise.
    """
    x, out = unwritable(x), np.empty((len(x), len(components.means) + min(1, len(components.noise))))
    if isinstance(components, DiagonalComponents):
        _diagonal_log_joint(x, found.rows, components, out)
    else:
        _dense_log_joint(x, *found, components, out)
    return out


def impute(
    x: FloatArray,
    found: Patterns,
    components: Components,
    resp: Float64Array,
    noise: Float64Array | None = None,
) -> None:
    """Write to the missing values of x their mean under the components, weighted by resp (n, k).

    With standard normal ``noise`` (n, d), a draw: conditional mean plus conditional noise.
    """
    noise = np.empty((0, 0)) if noise is None else noise
    if isinstance(components, DiagonalComponents):
        _diagonal_impute(x, found.rows, components, resp, noise)
    else:
        _dense_impute(x, *found, components, resp, noise)


@kernel(inline=True)
def _project(cholesky, columns, n_columns, lower, basis):  # type: ignore[no-untyped-def]
    """Write G and Q by Gram-Schmidt, each row twice, which makes Q orthonormal to rounding.

    Row i of Q ends where row i of L_o does. O(d o²) time.
    """
    for i in range(n_columns):
        row = columns[i]
        for c in range(cholesky.shape[1]):
            basis[i, c] = cholesky[row, c] if c <= row else 0.0
        for j in range(i):
            lower[i, j] = 0.0
        for _ in range(2):
            for j in range(i):
                stop = columns[j] + 1
                along = 0.0
                for c in range(stop):
                    along += basis[i, c] * basis[j, c]
                for c in range(stop):
                    basis[i, c] -= along * basis[j, c]
                lower[i, j] += along
        length = 0.0
        for c in range(row + 1):
            length += basis[i, c] * basis[i, c]
        length = np.sqrt(length)
        for c in range(row + 1):
            basis[i, c] /= length
        lower[i, i] = length


@kernel
def _project_all(cholesky, columns, lower, basis, inverse):  # type: ignore[no-untyped-def]
    """Write G, Q and G⁻¹ of each factor. O(k d o²) time."""
    n = len(columns)
    for f in range(len(cholesky)):
        _project(cholesky[f], columns, n, lower[f], basis[f])
        for i in range(n):
            for j in range(i):
                along = lower[f, i, j]
                for c in range(j + 1):
                    inverse[f, i, c] -= along * inverse[f, j, c]
            inverse[f, i, i] = 1.0
            for c in range(i + 1):
                inverse[f, i, c] /= lower[f, i, i]


@kernel(inline=True)
def _enter(observed, components, columns, lower, basis, log_const):  # type: ignore[no-untyped-def]
    """Prepare for the rows of one pattern: its columns, factors and constants; return how many columns."""
    n = 0
    for j in range(len(observed)):
        if observed[j]:
            columns[n] = j
            n += 1
    for f in range(len(components.cholesky)):
        _project(components.cholesky[f], columns, n, lower[f], basis[f])
        log_det = 0.0
        for i in range(n):
            log_det += np.log(lower[f, i, i])
        log_const[f] = -0.5 * n * LOG_2PI - log_det
    return n


@kernel(inline=True)
def _whiten(row, components, c, columns, n, lower, y):  # type: ignore[no-untyped-def]
    """Write ``y = G⁻¹(x_o − μ_o)`` of component c; return ``‖y‖²``."""
    squares = 0.0
    for i in range(n):
        value = row[columns[i]] - components.means[c, columns[i]]
        for j in range(i):
            value -= lower[i, j] * y[j]
        y[i] = value / lower[i, i]
        squares += y[i] * y[i]
    return squares


@kernel(inline=True)
def _lift(y, columns, n, basis, out):  # type: ignore[no-untyped-def]
    """Write ``Qᵀ y`` (d,)."""
    for j in range(len(out)):
        out[j] = 0.0
    for i in range(n):
        for j in range(columns[i] + 1):
            out[j] += y[i] * basis[i, j]


@kernel(inline=True)
def _posterior(joint, w, given, resp, t, r):  # type: ignore[no-untyped-def]
    """Write ``w r`` (k,) from log-joints (k,), or from resp; return what the row adds to ℓ and to H."""
    k = len(joint)
    gained = spread = 0.0
    if given:
        for c in range(k):
            r[c] = w * resp[t, c]
            if resp[t, c] > 0.0:
                log_r = np.log(resp[t, c])
                gained += r[c] * ((joint[c] if joint[c] > -np.inf else -np.inf) - log_r)
                spread -= r[c] * log_r
        return gained, spread
    top = -np.inf
    for c in range(k):
        top = joint[c] if joint[c] > top else top
    if top == -np.inf:
        for c in range(k):
            r[c] = 0.0
        return -np.inf, 0.0
    total = 0.0
    for c in range(k):
        r[c] = np.exp(joint[c] - top) if joint[c] > -np.inf else 0.0
        total += r[c]
    log_total = np.log(total)
    for c in range(k):
        if r[c] > 0.0:
            r[c] *= w / total
            spread -= r[c] * (joint[c] - top - log_total)
    return w * (top + log_total), spread


@kernel(inline=True)
def _log_noise(observed, noise):  # type: ignore[no-untyped-def]
    """Return the log-joint of noise over the features whose entry is not 0."""
    log_joint = noise[len(observed)]
    for j in range(len(observed)):
        if observed[j]:
            log_joint += noise[j]
    return log_joint


@kernel
def _dense_statistics(  # type: ignore[no-untyped-def]
    x, weight, resp, observed, starts, rows, components, sum_w, sum_wy, sum_wyy
):
    """Add sums of all but the ``n I`` of sum_wyy, whose lower triangle is written. Return ℓ and H."""
    k, d = components.means.shape
    factors = len(components.cholesky)
    columns, log_const = np.empty(d, np.int64), np.empty(factors)
    lower, basis = np.empty((factors, d, d)), np.empty((factors, d, d))
    every = len(sum_w)  # with noise, one more
    y, joint, r, e, held = np.empty((k, d)), np.empty(every), np.empty(every), np.empty(d), np.empty(k)
    log_likelihood = entropy = 0.0
    for p in range(len(observed)):
        n = _enter(observed[p], components, columns, lower, basis, log_const)
        held[:] = 0.0
        if every > k:
            joint[k] = _log_noise(observed[p], components.noise)
        for at in range(starts[p], starts[p + 1]):
            t = rows[at]
            w = weight[t] if len(weight) > 0 else 1.0
            if w == 0.0:
                continue
            for c in range(k):
                f = c if factors > 1 else 0
                squares = _whiten(x[t], components, c, columns, n, lower[f], y[c])
                joint[c] = components.log_weights[c] + log_const[f] - 0.5 * squares
            gained, spread = _posterior(joint, w, len(resp) > 0, resp, t, r)
            log_likelihood += gained
            entropy += spread
            for c in range(k, every):
                sum_w[c] += r[c]
            for c in range(k):
                if r[c] == 0.0:
                    continue
                f = c if factors > 1 else 0
                held[c] += r[c]
                _lift(y[c], columns, n, basis[f], e)
                for i in range(d):
                    scaled = r[c] * e[i]
                    sum_wy[c, i] += scaled
                    for j in range(i + 1):
                        sum_wyy[f, i, j] += scaled * e[j]
        for c in range(k):
            sum_w[c] += held[c]
            if factors == 1 and c > 0:
                held[0] += held[c]
        for f in range(factors):
            for q in range(n):
                for i in range(columns[q] + 1):
                    scaled = held[f] * basis[f, q, i]
                    for j in range(i + 1):
                        sum_wyy[f, i, j] -= scaled * basis[f, q, j]
    return log_likelihood, entropy


@kernel
def _dense_log_joint(x, observed, starts, rows, components, out):  # type: ignore[no-untyped-def]
    """Write log-joints (n, k). O(k d o²) time per pattern, O(k o²) per row."""
    k, d = components.means.shape
    factors = len(components.cholesky)
    columns, log_const = np.empty(d, np.int64), np.empty(factors)
    lower, basis, y = np.empty((factors, d, d)), np.empty((factors, d, d)), np.empty(d)
    for p in range(len(observed)):
        n = _enter(observed[p], components, columns, lower, basis, log_const)
        for at in range(starts[p], starts[p + 1]):
            t = rows[at]
            for c in range(k):
                f = c if factors > 1 else 0
                squares = _whiten(x[t], components, c, columns, n, lower[f], y)
                out[t, c] = components.log_weights[c] + log_const[f] - 0.5 * squares
            if len(components.noise) > 0:
                out[t, k] = _log_noise(observed[p], components.noise)


@kernel
def _dense_impute(x, observed, starts, rows, components, resp, noise):  # type: ignore[no-untyped-def]
    """Write ``Σ_k r_k (μ + L ε)`` to missing values, ε = Qᵀy, plus (I − QᵀQ) η where there is noise."""
    k, d = components.means.shape
    factors = len(components.cholesky)
    columns, log_const = np.empty(d, np.int64), np.empty(factors)
    lower, basis = np.empty((factors, d, d)), np.empty((factors, d, d))
    y, e, filled = np.empty(d), np.empty(d), np.empty(d)
    for p in range(len(observed)):
        n = _enter(observed[p], components, columns, lower, basis, log_const)
        for at in range(starts[p], starts[p + 1]):
            t = rows[at]
            filled[:] = 0.0
            for c in range(k):
                if resp[t, c] == 0.0:
                    continue
                f = c if factors > 1 else 0
                _whiten(x[t], components, c, columns, n, lower[f], y)
                if len(noise) > 0:
                    for i in range(n):
                        for j in range(columns[i] + 1):
                            y[i] -= basis[f, i, j] * noise[t, j]
                _lift(y, columns, n, basis[f], e)
                if len(noise) > 0:
                    for j in range(d):
                        e[j] += noise[t, j]
                for i in range(d):
                    value = components.means[c, i]
                    for j in range(i + 1):
                        value += components.cholesky[f, i, j] * e[j]
                    filled[i] += resp[t, c] * value
            for i in range(d):
                if not observed[p, i]:
                    x[t, i] = filled[i]


@kernel(inline=True)
def _enter_row(row, value, seen):  # type: ignore[no-untyped-def]
    """Write the row with 0 where it is missing, and 1 or 0 for what is observed."""
    for j in range(len(row)):
        here = row[j] == row[j]
        value[j] = row[j] if here else 0.0
        seen[j] = 1.0 if here else 0.0


@kernel(inline=True)
def _log_densities(components):  # type: ignore[no-untyped-def]
    """Return what each feature adds to the log-density at its mean, (k, d)."""
    k, d = components.means.shape
    at_mean = np.empty((k, d))
    for c in range(k):
        for j in range(d):
            at_mean[c, j] = -0.5 * LOG_2PI - np.log(components.deviations[c, j])
    return at_mean


@kernel(inline=True)
def _density(value, seen, mean, deviation, at_mean, y):  # type: ignore[no-untyped-def]
    """Write y (d,), 0 where missing; return the log-density of what is observed."""
    log_density = 0.0
    for j in range(len(value)):
        y[j] = seen[j] * ((value[j] - mean[j]) / deviation[j])
        log_density += seen[j] * at_mean[j] - 0.5 * y[j] * y[j]
    return log_density


@kernel
def _diagonal_statistics(x, weight, resp, rows, components, sum_w, sum_wy, sum_wyy):  # type: ignore[no-untyped-def]
    """Add all sums; return ℓ and H. O(k d) time per row."""
    k, d = components.means.shape
    means, deviations, at_mean = components.means, components.deviations, _log_densities(components)
    every = len(sum_w)  # with noise, one more
    y, joint, r, value, seen = np.empty((k, d)), np.empty(every), np.empty(every), np.empty(d), np.empty(d)
    log_likelihood = entropy = 0.0
    for t in rows:
        w = weight[t] if len(weight) > 0 else 1.0
        if w == 0.0:
            continue
        _enter_row(x[t], value, seen)
        for c in range(k):
            density = _density(value, seen, means[c], deviations[c], at_mean[c], y[c])
            joint[c] = components.log_weights[c] + density
        if every > k:
            joint[k] = _log_noise(seen, components.noise)
        gained, spread = _posterior(joint, w, len(resp) > 0, resp, t, r)
        log_likelihood += gained
        entropy += spread
        for c in range(k, every):
            sum_w[c] += r[c]
        for c in range(k):
            if r[c] == 0.0:
                continue
            sum_w[c] += r[c]
            y_c, first, second = y[c], sum_wy[c], sum_wyy[c]
            for j in range(d):
                first[j] += r[c] * y_c[j]
                second[j] += r[c] * (y_c[j] * y_c[j] + (1.0 - seen[j]))
    return log_likelihood, entropy


@kernel
def _diagonal_log_joint(x, rows, components, out):  # type: ignore[no-untyped-def]
    """Write log-joints (n, k). O(k d) time per row."""
    d = x.shape[1]
    means, deviations, at_mean = components.means, components.deviations, _log_densities(components)
    y, value, seen = np.empty(d), np.empty(d), np.empty(d)
    for t in rows:
        _enter_row(x[t], value, seen)
        for c in range(len(means)):
            density = _density(value, seen, means[c], deviations[c], at_mean[c], y)
            out[t, c] = components.log_weights[c] + density
        if len(components.noise) > 0:
            out[t, len(means)] = _log_noise(seen, components.noise)


@kernel
def _diagonal_impute(x, rows, components, resp, noise):  # type: ignore[no-untyped-def]
    """Write ``Σ_k r_k (μ + σ η)`` to missing values, η = 0 without noise."""
    for t in rows:
        for j in range(x.shape[1]):
            if x[t, j] == x[t, j]:
                continue
            value = 0.0
            for c in range(len(components.means)):
                drawn = components.deviations[c, j] * noise[t, j] if len(noise) > 0 else 0.0
                value += resp[t, c] * (components.means[c, j] + drawn) if resp[t, c] > 0.0 else 0.0
            x[t, j] = value
