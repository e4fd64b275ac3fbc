"""Parameters of a Gaussian mixture, and its expected sufficient statistics.

All second moments are taken of y = L⁻¹(x − μ), the row whitened by the parameters of the E-step, which makes
them immune to offset and to conditioning. The model that maps one to the other is in
`streamem.models.gaussian_mixture`.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from streamem.models.covariance import COVARIANCES, LOG_2PI, Array, Covariance

__all__ = ["GaussianMixtureParams", "GaussianMixtureStats"]


def _once(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make a method of parameters work out its result but once for each: every block asks for it."""
    results: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    @functools.wraps(method)
    def known(params: Any) -> Any:
        result = results.get(params)
        if result is None:  # several threads may do so at once, to the same bits
            result = results[params] = method(params)
        return result

    return known


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class GaussianMixtureParams:
    """θ: weights, means and factored covariances."""

    covariance_type: str
    """One of `streamem.models.covariance.COVARIANCES`."""
    weights: Array
    """(k,) π, summing to 1 with `noise_weight`; 0 is a component without support."""
    means: Array
    """(k, d) μ, in the units of the columns."""
    cholesky: Array
    """Lower triangular L with Σ = L Lᵀ, or standard deviations, in the natural shape of the type."""
    whitening: Array
    """The same shape: A = L⁻¹."""
    noise_weight: float = field(default=0.0, kw_only=True)
    """π_0, of rows that come from no component but are anywhere with the same density."""
    noise_box: Array = field(default_factory=lambda: np.empty((2, 0)), kw_only=True)
    """(2, d) lowest and highest values of such rows; (2, 0) where all come from components."""

    @classmethod
    def from_covariances(
        cls, covariance_type: str, weights: Array, means: Array, covariances: Array
    ) -> GaussianMixtureParams:
        """Return parameters from covariances of natural shape."""
        shape = COVARIANCES[covariance_type]
        factor = shape.root(np.asarray(covariances, dtype=np.float64))
        return cls(covariance_type, weights, means, factor, shape.invert(factor))

    @property
    def covariances(self) -> Array:
        """Σ in the natural shape of its type, in squared units of the columns."""
        return self.shape.gram(self.cholesky)

    @property
    def precision_cholesky(self) -> Array:
        """P with Σ⁻¹ = P Pᵀ: upper triangular, L⁻ᵀ."""
        return np.swapaxes(self.whitening, -1, -2) if self.shape.matrices else self.whitening

    @property
    def shape(self) -> Covariance:
        """The algebra of this covariance type."""
        return COVARIANCES[self.covariance_type]

    @property
    def proportions(self) -> Array:
        """(k,) π, or (k + 1,) with the weight of the noise, where there is one, as the last: sums to 1."""
        return np.append(self.weights, self.noise_weight) if self.noise_box.size else self.weights

    @property
    def noise(self) -> Array:
        """(d + 1,) log-density of the noise along each column, and log π_0; (0,) where there is none."""
        if not self.noise_box.size:
            return np.empty(0)
        low, high = self.noise_box
        with np.errstate(divide="ignore"):
            return np.append(-np.log(high - low), np.log(self.noise_weight))

    @property
    def log_noise(self) -> float | None:
        """Log-joint of the noise, the same for all rows, in nats; None where there is none."""
        return float(self.noise.sum()) if self.noise_box.size else None

    @property
    def log_weights(self) -> Array:
        """(k,) log π, what a component adds to the log-density of a row; −inf where it has no support."""
        with np.errstate(divide="ignore"):
            return np.log(self.weights)

    @property
    def log_peaks(self) -> Array:
        """(k,) log N(μ; μ, Σ), nats: the log-density of each component at its mean."""
        k, d = self.means.shape
        return np.asarray(-0.5 * (d * LOG_2PI + self.shape.log_det(self.cholesky, k, d)))

    def marginal(self, columns: NDArray[np.int64], cholesky: Array, whitening: Array) -> Self:
        """Return the mixture of some columns, given the factors of their covariances."""
        box = self.noise_box[:, columns] if self.noise_box.size else self.noise_box
        means = np.ascontiguousarray(self.means[:, columns])
        return replace(self, means=means, cholesky=cholesky, whitening=whitening, noise_box=box)

    @_once
    def kernel_arguments(self) -> Any:
        """Return what the kernels take: rows and means about a common centre, whitening, log constants."""
        center = self.weights @ self.means
        if 0 < self.noise_weight < 1:
            center /= self.weights.sum()
        log_const = self.log_weights + self.log_peaks
        whitening = self.shape.for_kernels(self.whitening, len(self.weights))
        return self.shape.family(center, self.means - center, whitening, log_const)


@dataclass(frozen=True, slots=True, eq=False)
class GaussianMixtureStats:
    """Expected sufficient statistics of y = L⁻¹(x − μ) under the reference parameters."""

    reference: GaussianMixtureParams
    """The parameters of the E-step: what y is relative to."""
    n_samples: int
    """Rows seen, those of weight zero left out."""
    weight: float
    """Σ w."""
    log_likelihood: float
    """Σ w log p(x), nats; the ELBO where responsibilities were given instead of inferred."""
    entropy: float
    """−Σ w r log r, nats."""
    sum_w: Array
    """(k,) Σ w r."""
    sum_wy: Array
    """(k, d) Σ w r y."""
    sum_wyy: Array
    """Σ w r y yᵀ in natural shape: diag, squares; spherical, their mean; tied, summed over components.

    Where values are missing, y and y yᵀ are expectations given what is observed, here and in `sum_wy`.
    """
    rounding: float = 0.0
    """Relative rounding of the log-likelihood, by what the kernels computed in."""
    weight_squares: float = np.nan
    """Σ w²: with equal weights (Σ w)²/Σ w² is the number of rows. NaN where it is not known."""
    n_left_out: int = 0
    """Rows left out because values are missing: all of them, or any where such rows were dropped."""
    sum_noise: float = 0.0
    """Σ w r of the noise."""

    def merge(self, other: GaussianMixtureStats) -> GaussianMixtureStats:
        """Return the statistics of both sets of rows; those at other parameters are re-referenced first."""
        other = other.at(self.reference)
        return GaussianMixtureStats(
            self.reference,
            self.n_samples + other.n_samples,
            self.weight + other.weight,
            self.log_likelihood + other.log_likelihood,
            self.entropy + other.entropy,
            self.sum_w + other.sum_w,
            self.sum_wy + other.sum_wy,
            self.sum_wyy + other.sum_wyy,
            max(self.rounding, other.rounding),
            self.weight_squares + other.weight_squares,
            self.n_left_out + other.n_left_out,
            self.sum_noise + other.sum_noise,
        )

    def scaled(self, factor: float) -> GaussianMixtureStats:
        """Return the statistics of rows that weigh ``factor`` times as much; −1 is to subtract."""
        return replace(
            self,
            weight=factor * self.weight,
            weight_squares=factor**2 * self.weight_squares,
            log_likelihood=factor * self.log_likelihood,
            entropy=factor * self.entropy,
            sum_w=factor * self.sum_w,
            sum_wy=factor * self.sum_wy,
            sum_wyy=factor * self.sum_wyy,
            sum_noise=factor * self.sum_noise,
        )

    @property
    def rounding_error(self) -> float:
        """Nats per unit weight that rounding can do to the log-likelihood: of kernels, or of the means.

        A mean is kept to its last digit, which far from zero may be much beside a small deviation. Half its
        square is what it costs, in whitened units.
        """
        last_places = np.finfo(np.float64).eps * np.abs(self.reference.means)
        apart = self.reference.shape.apply(np.abs(self.reference.whitening), last_places)
        shares = self.sum_w / self.weight
        of_means = 0.5 * float(shares @ (apart**2).sum(axis=1))
        return max(self.rounding * max(1.0, abs(self.log_likelihood) / self.weight), of_means)

    def scored(self, log_likelihood: float) -> GaussianMixtureStats:
        """Return the same moments with another log-likelihood, in nats."""
        return replace(self, log_likelihood=log_likelihood)

    def at(self, reference: GaussianMixtureParams) -> GaussianMixtureStats:
        """Return the same moments relative to other parameters, exactly.

        With e = μ_old − μ_new: Σ(d+e) = s₁ + n e and Σ(d+e)(d+e)ᵀ = S₂ + s₁eᵀ + e s₁ᵀ + n e eᵀ.
        """
        if _same(self.reference, reference):
            return self
        shape = reference.shape
        e = self.reference.means - reference.means
        first, second = self._moments(e)
        return replace(
            self,
            reference=reference,
            sum_wy=shape.apply(reference.whitening, first),
            sum_wyy=shape.conjugate(reference.whitening, second),
        )

    def _moments(self, e: Array) -> tuple[Array, Array]:
        """Return Σ w r (d+e) and Σ w r (d+e)(d+e)ᵀ with d = x − μ, in the columns' units."""
        shape, factor = self.reference.shape, self.reference.cholesky
        first = shape.apply(factor, self.sum_wy)
        shift = self.sum_w[:, None] * e
        second = shape.conjugate(factor, self.sum_wyy) + shape.cross(first, e) + shape.cross(e, first + shift)
        return first + shift, second

    @property
    def sum_wx(self) -> Array:
        """(k, d) Σ w r x. Digits are lost where means are far from zero; the fit itself never uses it."""
        return self._moments(self.reference.means)[0]

    @property
    def sum_wxx(self) -> Array:
        """Σ w r x xᵀ in natural shape; the same caution holds."""
        return self._moments(self.reference.means)[1]


def _same(a: GaussianMixtureParams, b: GaussianMixtureParams) -> bool:
    return a is b or (np.array_equal(a.means, b.means) and np.array_equal(a.whitening, b.whitening))
