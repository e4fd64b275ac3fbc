"""Gaussian components as the kernels take them: one NamedTuple per covariance type.

Means are relative to a common reference point, which is subtracted from every row in float64 before anything
else; covariances come as the inverses of their Cholesky factors. The loops are in `streamem.kernels.mixture`.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["DiagGaussian", "FullGaussian", "GaussianFamily", "SphericalGaussian", "TiedGaussian"]

Float64Array: TypeAlias = NDArray[np.float64]


class FullGaussian(NamedTuple):
    """Components with covariances of their own, ``Σ_k = L_k L_kᵀ``."""

    center: Float64Array
    """(d,) the reference point, in the units of the rows."""
    means: Float64Array
    """(k, d) component means minus `center`."""
    whitening: Float64Array
    """(k, d, d) ``L_k⁻¹``, lower triangular; the upper triangle must hold zeros."""
    log_const: Float64Array
    """(k,) ``log π_k - d/2 log 2π - Σ log diag L_k``; -inf for a dead component."""


class TiedGaussian(NamedTuple):
    """Components that share one covariance, ``Σ = L Lᵀ``."""

    center: Float64Array
    """(d,) the reference point, in the units of the rows."""
    means: Float64Array
    """(k, d) component means minus `center`."""
    whitening: Float64Array
    """(d, d) ``L⁻¹``, lower triangular; the upper triangle must hold zeros."""
    log_const: Float64Array
    """(k,) ``log π_k - d/2 log 2π - Σ log diag L``; -inf for a dead component."""


class DiagGaussian(NamedTuple):
    """Components with diagonal covariances."""

    center: Float64Array
    """(d,) the reference point, in the units of the rows."""
    means: Float64Array
    """(k, d) component means minus `center`."""
    whitening: Float64Array
    """(k, d) one over the standard deviations."""
    log_const: Float64Array
    """(k,) ``log π_k - d/2 log 2π - Σ log σ_k``; -inf for a dead component."""


class SphericalGaussian(NamedTuple):
    """Components with one variance for all features."""

    center: Float64Array
    """(d,) the reference point, in the units of the rows."""
    means: Float64Array
    """(k, d) component means minus `center`."""
    whitening: Float64Array
    """(k,) one over the standard deviation."""
    log_const: Float64Array
    """(k,) ``log π_k - d/2 log 2π - d log σ_k``; -inf for a dead component."""


GaussianFamily: TypeAlias = FullGaussian | TiedGaussian | DiagGaussian | SphericalGaussian
