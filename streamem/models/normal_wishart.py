"""The conjugate prior of a Gaussian's mean and covariance, and how it meets the statistics.

μ | Σ ~ N(m₀, Σ/β₀) and Σ⁻¹ ~ Wishart(Ψ₀⁻¹, ν₀), which is to say Σ ~ inverse-Wishart(Ψ₀, ν₀). Mean and
covariance of the posterior (`streamem.models.bayesian_mixture`) come from the same two sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, gammaln

from streamem.models.covariance import Array, Covariance
from streamem.models.gaussian_statistics import GaussianMixtureStats

__all__ = ["NormalWishart", "mean_log_det", "triangular"]


@dataclass(frozen=True, slots=True, eq=False)
class NormalWishart:
    """The prior of every component; matrices are (d, d), (d,) or () by covariance type."""

    precision: float
    """β₀, how many rows the prior mean is worth."""
    mean: Array
    """(d,) m₀, in the units of the columns."""
    degrees: float
    """ν₀ > d − 1, how many rows the prior covariance is worth."""
    scale: Array
    """F, triangular, with Ψ₀ = F Fᵀ: a sum of squares, in squared units of the columns."""
    floor: Array
    """G: every row is known up to a variance of G Gᵀ; see `streamem.models.covariance.CovariancePrior`."""

    def means(self, stats: GaussianMixtureStats) -> Array:
        """Return (β₀ m₀ + n x̄)/(β₀ + n), (k, d)."""
        shape, reference, n = stats.reference.shape, stats.reference, stats.sum_w
        pull = self.precision * (self.mean - reference.means)
        sums = shape.apply(reference.cholesky, stats.sum_wy)
        return np.asarray(reference.means + (pull + sums) / (self.precision + n)[:, None])

    def scatter(self, stats: GaussianMixtureStats, copies: Array) -> Array:
        """Return Ψ₀ + n S + n β₀/(β₀ + n) (x̄ − m₀)(x̄ − m₀)ᵀ as the old factors see it: L⁻¹ · L⁻ᵀ.

        ``copies`` (k,) is how often a component counts Ψ₀; what components share is summed.
        """
        shape, reference, n = stats.reference.shape, stats.reference, stats.sum_w
        delta = stats.sum_wy / np.where(n > 0, n, 1.0)[:, None]
        away = shape.apply(reference.whitening, reference.means - self.mean) + delta
        shrunk = (n * self.precision / (self.precision + n))[:, None]
        prior, floor = (
            shape.gram(shape.compose(reference.whitening, factor)) for factor in (self.scale, self.floor)
        )
        return np.asarray(
            stats.sum_wyy
            - shape.cross(n[:, None] * delta, delta)
            + shape.cross(shrunk * away, away)
            + shape.spread(copies) * prior
            + shape.spread(n) * floor
        )

    def divergence(
        self,
        shape: Covariance,
        precision: Array,
        means: Array,
        degrees: Array,
        cholesky: Array,
        whitening: Array,
    ) -> float:
        """Return Σ_k KL(q(μ_k, Λ_k) ‖ prior) in nats, q Normal-Wishart with E[Λ_k] = Σ_k⁻¹ = ``degrees`` W_k.

        Bishop (2006), eqs. 10.74, 10.77, B.79: the covariance type shapes W_k, and q stays a Wishart
        distribution over all matrices.
        """
        k, d = means.shape
        ratio = self.precision / precision
        away = shape.apply(whitening, means - self.mean)
        of_means = d * (ratio - 1 - np.log(ratio)) + self.precision * (away**2).sum(axis=-1)
        degrees = np.broadcast_to(degrees, (k,))
        trace = shape.trace(shape.gram(shape.compose(whitening, self.scale)), k, d)
        log_det = shape.log_det(self.scale, k, d) - shape.log_det(cholesky, k, d) - d * np.log(degrees)
        of_precisions = (
            trace
            - d * degrees
            - self.degrees * log_det
            + 2 * (_log_gamma(self.degrees, d) - _log_gamma(degrees, d))
            + (degrees - self.degrees) * _digamma(degrees, d)
        )
        return float(0.5 * np.sum(of_means + of_precisions))


def mean_log_det(shape: Covariance, degrees: Array, cholesky: Array, k: int, d: int) -> Array:
    """Return E[log det Λ_k], (k,), of a Wishart distribution with mean Σ_k⁻¹ (Bishop 2006, eq. 10.65)."""
    return np.asarray(_digamma(degrees, d) + d * np.log(2 / degrees) - shape.log_det(cholesky, k, d))


def triangular(factor: Array) -> Array:
    """Return L, lower triangular and its diagonal positive, with L Lᵀ = F Fᵀ; (d,) and () are that."""
    if factor.ndim < 2:
        return factor
    lower = np.asarray(np.linalg.qr(factor.T, mode="r")).T
    return np.asarray(lower * np.where(np.diagonal(lower) < 0, -1.0, 1.0))


def _digamma(degrees: Array, d: int) -> Array:
    """Return Σ_j ψ((ν − j)/2) over j = 0..d−1."""
    return np.asarray(digamma(0.5 * (np.asarray(degrees)[..., None] - np.arange(d))).sum(axis=-1))


def _log_gamma(degrees: Array | float, d: int) -> Array:
    """Return log Γ_d(ν/2) but for its constant d(d − 1)/4 log π."""
    return np.asarray(gammaln(0.5 * (np.asarray(degrees)[..., None] - np.arange(d))).sum(axis=-1))
