"""Moments of raw rows about a given point, in one reading."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel

__all__ = ["Moments", "moments"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]
Float64Array: TypeAlias = NDArray[np.float64]


class Moments(NamedTuple):
    """Weighted sums of rows about a shift, and the range of the rows."""

    weight: float
    """``Σ w``."""
    minimum: Float64Array
    """(d,) smallest values; +inf where there are no rows."""
    maximum: Float64Array
    """(d,) largest values; -inf where there are no rows."""
    sum_wd: Float64Array
    """(d,) ``Σ w (x - shift)``."""
    sum_wdd: Float64Array
    """(d, d) ``Σ w (x - shift)(x - shift)ᵀ``."""


def moments(x: FloatArray, weight: Float64Array | None, shift: Float64Array) -> Moments:
    """Return the weighted moments of (n, d) rows about `shift`; rows of weight 0 are as if absent."""
    w = np.ones(len(x)) if weight is None else weight
    return Moments(*_moments(x, w, shift))


@kernel
def _moments(x, weight, shift):  # type: ignore[no-untyped-def]
    n, d = x.shape
    total = 0.0
    minimum, maximum = np.full(d, np.inf), np.full(d, -np.inf)
    sum_wd, sum_wdd = np.zeros(d), np.zeros((d, d))
    diff = np.empty(d)
    for t in range(n):
        w = weight[t]
        if w == 0.0:
            continue
        total += w
        for i in range(d):
            value = np.float64(x[t, i])
            minimum[i] = min(minimum[i], value)
            maximum[i] = max(maximum[i], value)
            diff[i] = value - shift[i]
            sum_wd[i] += w * diff[i]
        for i in range(d):
            for j in range(d):
                sum_wdd[i, j] += w * diff[i] * diff[j]
    return total, minimum, maximum, sum_wd, sum_wdd
