"""The conjugate prior of a Gaussian's mean and covariance, and how it meets the statistics.

μ | Σ ~ N(m₀, Σ/β₀) and Σ⁻¹ ~ Wishart(Ψ₀⁻¹, ν₀), which is to say Σ ~ inverse-Wishart(Ψ₀, ν₀). The mean of the
posterior (`streamem.models.bayesian_mixture`) and its mode (`streamem.models.gaussian_mixture`) come from the
same two sums, as if further rows had been seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import digamma, gammaln

from streamem.errors import InputError
from streamem.models.covariance import COVARIANCES, Array, Covariance, CovariancePrior
from streamem.models.gaussian_statistics import GaussianMixtureParams, GaussianMixtureStats
from streamem.models.summary import DataSummary

__all__ = [
    "FRALEY_RAFTERY",
    "ConjugatePrior",
    "NormalInverseWishart",
    "NormalWishart",
    "mean_log_det",
    "root_of",
    "triangular",
    "unbiased",
]


@dataclass(frozen=True, slots=True, eq=False)
class NormalWishart:
    """The prior of every component; matrices are (d, d), (d,) or () by covariance type."""

    precision: float
    """β₀, how many rows the prior mean is worth."""
    mean: Array
    """(d,) m₀, or (k, d), in the units of the columns."""
    degrees: float
    """How many rows the prior covariance is worth: ν₀ > d − 1 for the mean of the posterior."""
    scale: Array
    """F, triangular, with Ψ₀ = F Fᵀ: a sum of squares, in squared units of the columns."""
    floor: Array
    """G: every row is known up to a variance of G Gᵀ; see `streamem.models.covariance.CovariancePrior`."""
    null: Array = field(default_factory=lambda: np.zeros(()), kw_only=True)
    """N, where N (x − μ) is what lies along directions without variance; zeros where there are none."""

    def means(self, stats: GaussianMixtureStats) -> Array:
        """Return (β₀ m₀ + n x̄)/(β₀ + n), (k, d)."""
        shape, reference, n = stats.reference.shape, stats.reference, stats.sum_w
        pull = self.precision * (self.mean - reference.means)
        sums = shape.apply(reference.cholesky, stats.sum_wy)
        total = self.precision + n
        return np.asarray(reference.means + (pull + sums) / np.where(total > 0, total, 1.0)[:, None])

    def scatter(self, stats: GaussianMixtureStats, means: Array | None = None) -> Array:
        """Return Ψ₀ + n S + n β₀/(β₀ + n) (x̄ − m₀)(x̄ − m₀)ᵀ as the old factors see it: L⁻¹ · L⁻ᵀ.

        About other ``means`` μ (k, d) it is Ψ₀ + n S + n (x̄ − μ)(x̄ − μ)ᵀ + β₀ (μ − m₀)(μ − m₀)ᵀ. What
        components share is summed over them, Ψ₀ included.
        """
        shape, reference, n = stats.reference.shape, stats.reference, stats.sum_w
        delta = stats.sum_wy / np.where(n > 0, n, 1.0)[:, None]
        away = shape.apply(reference.whitening, reference.means - self.mean)
        if means is None:
            total = self.precision + n
            shrunk = n * self.precision / np.where(total > 0, total, 1.0)
            about = shape.cross(shrunk[:, None] * (away + delta), away + delta)
        else:
            moved = shape.apply(reference.whitening, means - reference.means)
            about = shape.cross(n[:, None] * (delta - moved), delta - moved)
            about = about + self.precision * shape.cross(away + moved, away + moved)
        prior, floor = (shape.whitened(reference.whitening, factor) for factor in (self.scale, self.floor))
        centred = stats.sum_wyy - shape.cross(n[:, None] * delta, delta)
        if np.any(self.null):  # along these, rows have no variance, and missing values none either
            along = shape.compose(shape.compose(reference.whitening, self.null), reference.cholesky)
            centred = shape.conjugate(shape.identity(delta.shape[1]) - along, centred)
        return np.asarray(centred + about + shape.spread(np.ones(len(n))) * prior + shape.spread(n) * floor)

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
        trace = shape.whitened_trace(whitening, self.scale, k, d)
        log_det = shape.log_det(self.scale, k, d) - shape.log_det(cholesky, k, d) - d * np.log(degrees)
        of_precisions = (
            trace
            - d * degrees
            - self.degrees * log_det
            + 2 * (_log_gamma(self.degrees, d) - _log_gamma(degrees, d))
            + (degrees - self.degrees) * _digamma(degrees, d)
        )
        return float(0.5 * np.sum(of_means + of_precisions))


@dataclass(frozen=True, slots=True, eq=False)
class ConjugatePrior(NormalWishart):
    """A prior whose posterior mode is wanted; ``degrees`` are then the rows that Σ is divided by."""

    counts: Array
    """(k,) or () α − 1 >= 0: rows that the weights' Dirichlet prior adds to each component."""
    noise_count: float = 0.0
    """Rows that it adds to the noise."""

    def weights(self, n: Array, noise: float) -> tuple[Array, float]:
        """Return (n + α − 1)/Σ(n + α − 1), (k,), and the like of the noise, which counts in the sum."""
        counts, noise = n + self.counts, noise + self.noise_count
        total = counts.sum() + noise
        return np.asarray(counts / total), float(noise / total)

    def log_density(self, params: GaussianMixtureParams, n: Array) -> float:
        """Return the log-prior in nats, up to a constant; n (k,) are the rows that the floor is given to."""
        (k, d), shape = params.means.shape, params.shape
        pull, floor = (
            shape.whitened_trace(params.whitening, factor, k, d) for factor in (self.scale, self.floor)
        )
        away = shape.apply(params.whitening, params.means - self.mean)
        of_components = pull + self.degrees * shape.log_det(params.cholesky, k, d)
        of_components = of_components + self.precision * (away**2).sum(axis=-1)
        counts = np.broadcast_to(self.counts, (k,))
        counted = counts > 0
        with np.errstate(divide="ignore"):
            of_weights = counts[counted] @ np.log(params.weights[counted])
            if self.noise_count > 0:
                of_weights += self.noise_count * np.log(params.noise_weight)
        return float(of_weights - 0.5 * np.sum(of_components) - 0.5 * (n @ floor))


@dataclass(frozen=True, slots=True, eq=False)
class NormalInverseWishart:
    """Settings of a conjugate prior; what is None is as Fraley & Raftery (2007) take it from the rows.

    Examples
    --------
    >>> import numpy as np, streamem as sem
    >>> x = np.repeat(np.eye(3), 20, axis=0)  # three points: no likelihood has a maximum there
    >>> prior = sem.NormalInverseWishart(weight_concentration=5.0)
    >>> gm = sem.GaussianMixture(3, prior=prior, random_state=0).fit(x)
    >>> bool(gm.converged_), gm.weights_.round(2).tolist()
    (True, [0.33, 0.33, 0.33])
    """

    mean_precision: float = 0.01
    """κ > 0, how many rows the prior mean is worth."""
    mean: Array | None = None
    """(d,) prior mean; None is the mean of the rows."""
    degrees_of_freedom: float | None = None
    """ν; None is d + 2."""
    scale: Array | float | None = None
    """Full and tied: Ψ (d, d). Others: ς², one number. None is the covariance of the rows, or the mean of the
    columns' variances, divided by k^(2/d)."""
    weight_concentration: float = 1.0
    """α >= 1 of the weights' Dirichlet prior; 1 leaves them alone."""

    def informed_by(
        self, summary: DataSummary, rows: CovariancePrior, covariance_type: str, k: int
    ) -> ConjugatePrior:
        """Return the prior that these settings mean for the rows that were summarised.

        Fraley & Raftery (2007), table 1. The divisor of the mode is twice the power of |Σ| in the density:
        that of the inverse-Wishart distribution (for variances, inverse-gamma), and 1 for each mean.
        """
        d = len(summary.mean)
        nu = d + 2.0 if self.degrees_of_freedom is None else float(self.degrees_of_freedom)
        degrees, share = {
            "full": (nu + d + 2, 1.0),
            "tied": ((nu + d + 1) / k + 1, 1 / k),  # one Σ, k means: each component brings its part
            "diag": (nu + 3, 1.0),
            "spherical": ((nu + 2) / d + 1, 1 / d),  # sums over columns are kept as means over them
            "tied_diag": ((nu + 2) / k + 1, 1 / k),
            "tied_spherical": ((nu + 2) / (d * k) + 1, 1 / (d * k)),
        }[covariance_type]
        matrix = COVARIANCES[covariance_type].matrices
        zero = np.zeros_like(rows.floor)
        shrunk = unbiased(summary) * k ** (-2 / d)
        if self.scale is not None:
            scale, floor = np.sqrt(share) * root_of(self.scale, "prior.scale"), zero
            expected = rows.scale.shape if matrix else ()
            if scale.shape != expected:
                raise InputError(f"prior.scale: expected shape {expected}, got {scale.shape}.")
        elif matrix:  # along directions without variance, Σ is the floor whatever n
            floor = rows.floor
            beside = np.sqrt(degrees - share * shrunk) * floor
            scale = triangular(np.hstack([np.sqrt(share * shrunk) * rows.scale, beside]))
        else:
            variance = np.mean(rows.scale**2 - rows.floor**2)
            floor = zero if variance > 0 else rows.floor
            scale = np.sqrt(share * shrunk * variance + degrees * floor**2)
        mean = summary.mean if self.mean is None else np.asarray(self.mean, dtype=np.float64)
        if mean.shape != (d,):
            raise InputError(f"prior.mean: expected shape ({d},), got {mean.shape}.")
        counts = np.asarray(self.weight_concentration - 1.0)
        return ConjugatePrior(
            float(self.mean_precision),
            mean,
            degrees,
            np.broadcast_to(scale, zero.shape).copy(),
            floor,
            counts,
            null=rows.null if np.any(floor) else zero,
        )

    def check(self) -> None:
        """Refuse numbers of no distribution."""
        if not 0 < self.mean_precision < np.inf:
            raise InputError(f"prior.mean_precision: expected a number > 0, got {self.mean_precision!r}.")
        if not 1 <= self.weight_concentration < np.inf:
            raise InputError(
                f"prior.weight_concentration: expected a number >= 1, got {self.weight_concentration!r}."
            )
        if self.degrees_of_freedom is not None and not 0 < self.degrees_of_freedom < np.inf:
            raise InputError(
                f"prior.degrees_of_freedom: expected a number > 0, got {self.degrees_of_freedom!r}."
            )
        if self.mean is not None and not np.all(np.isfinite(self.mean)):
            raise InputError(f"prior.mean: expected finite numbers, got {self.mean!r}.")


FRALEY_RAFTERY = NormalInverseWishart()


def unbiased(summary: DataSummary) -> float:
    """Return n/(n − 1), n the total weight; 2 at most."""
    return summary.weight / max(summary.weight - 1, summary.weight / 2)


def root_of(covariance: Any, name: str) -> Array:
    """Return the Cholesky factor of a matrix, or square roots of variances; refuse what has none."""
    given = np.asarray(covariance, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        try:
            factor = np.linalg.cholesky(given) if given.ndim == 2 else np.sqrt(given)
        except np.linalg.LinAlgError:
            factor = np.zeros(1)
    diagonal = np.diagonal(factor) if factor.ndim == 2 else factor
    if given.ndim > 2 or not np.all(np.isfinite(factor)) or not np.all(diagonal > 0):
        raise InputError(f"{name}: expected a positive definite covariance, got {given!r}.")
    return np.asarray(factor)


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
