"""The Gaussian mixture with distributions over its parameters: variational Bayes on the same E-step.

q(z, θ) = q(z) q(θ) maximises ELBO = E_q[log p(x, z, θ) − log q(z) − log q(θ)] in turns, in place of
log p(x; θ). For given q(θ) the best q(z) has log r_k = E[log π_k] + E[log N(x; μ_k, Λ_k⁻¹)] up to a constant:
the kernels of the Gaussian mixture with other log constants. With it

    ELBO = Σ_i log Σ_k exp(E[log π_k] + E[log N(x_i; μ_k, Λ_k⁻¹)]) − KL(q(θ) ‖ p(θ)),

so that −KL is this model's log-prior and the loop need not know (Bishop 2006, section 10.2; Blei & Jordan
2006 for the Dirichlet process). The M-step is the posterior given expected statistics.

Of a row with missing values x_m, q(x_m | z) is free as well. The expected log-joint is a quadratic form in
E[Λ_k] = Σ_k⁻¹, so that the best q(x_m | z=k) is normal, with the conditional mean and covariance of
N(E[μ_k], Σ_k) given x_o: statistics are expanded as in `streamem.models.missing`. Integrating x_m out leaves
(2π)^|m|/2 |(Σ_k⁻¹)_mm|^(−1/2), and as |(Σ_k⁻¹)_mm| = |Σ_oo|/|Σ_k|, the row adds

    log Σ_k exp(E[log π_k] + c_k + log N(x_o; E[μ_k], Σ_k,oo)),    c_k = ½(E[log |Λ_k|] + log |Σ_k| − d/β_k),

to the bound, with the same c_k whatever is missing: E[log π_k] + c_k are the log-weights of a mixture that
the kernels for rows with missing values take as any other.

The covariance type shapes the mean of q(Λ_k), as in scikit-learn: q is Wishart, and its scale the best
diagonal, spherical or common one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, digamma, gammaln

from streamem.errors import InputError
from streamem.initialization import responsibilities
from streamem.models.covariance import COVARIANCES, LOG_2PI, Array, Covariance, CovariancePrior
from streamem.models.gaussian_mixture import STEPS, STEPS_IF_MISSING, GaussianMixtureModel
from streamem.models.gaussian_statistics import GaussianMixtureParams, GaussianMixtureStats
from streamem.models.missing import filled_with_means
from streamem.models.normal_wishart import NormalWishart, mean_log_det, root_of, triangular, unbiased
from streamem.models.summary import DataSummary
from streamem.protocols import FloatArray, Rows

__all__ = ["WEIGHT_PRIORS", "BayesianGaussianMixtureModel", "BayesianGaussianMixtureParams"]


@dataclass(frozen=True, slots=True, eq=False)
class BayesianGaussianMixtureParams(GaussianMixtureParams):
    """q(θ); weights, means and covariances are E[π], E[μ] and E[Λ]⁻¹."""

    weight_concentration: Array
    """(k,) of a Dirichlet distribution; or (2, k) of the Beta distributions of a stick-breaking process."""
    mean_precision: Array
    """(k,) β: μ_k | Λ_k ~ N(means_k, (β_k Λ_k)⁻¹)."""
    degrees_of_freedom: Array
    """(k,) ν of the Wishart distributions; () where components share one."""
    log_const: Array
    """(k,) what a row's expected log-joint has beside its squared distance, nats."""

    @property
    def log_weights(self) -> Array:
        """(k,) what a row's expected log-joint has beside log N(x; means, covariances), nats."""
        return self.log_const - self.log_peaks

    def marginal(
        self, columns: NDArray[np.int64], cholesky: Array, whitening: Array
    ) -> BayesianGaussianMixtureParams:
        """Return what some columns of a row add to the bound where the others are missing."""
        left = GaussianMixtureParams.marginal(self, columns, cholesky, whitening)
        return replace(left, log_const=self.log_weights + left.log_peaks)

    def kernel_arguments(self) -> Any:
        """Return what the kernels take: expectations over q(θ) in place of logarithms of estimates."""
        return GaussianMixtureParams.kernel_arguments(self)._replace(log_const=self.log_const)


class _Dirichlet:
    """π ~ Dirichlet(a, ..., a)."""

    def posterior(self, a: float, n: Array) -> Array:
        return a + n

    def weights(self, posterior: Array) -> Array:
        return np.asarray(posterior / posterior.sum())

    def mean_log(self, posterior: Array) -> Array:
        return np.asarray(digamma(posterior) - digamma(posterior.sum()))

    def divergence(self, a: float, posterior: Array) -> float:
        norms = [gammaln(c.sum()) - gammaln(c).sum() for c in (posterior, np.full(len(posterior), a))]
        return float(norms[0] - norms[1] + (posterior - a) @ self.mean_log(posterior))


class _StickBreaking:
    """π_k = v_k Π_{j<k} (1 − v_j), v_k ~ Beta(1, a): a Dirichlet process whose q(z) stops at k."""

    def posterior(self, a: float, n: Array) -> Array:
        after = np.append(np.cumsum(n[:0:-1])[::-1], 0.0)
        return np.stack([1.0 + n, a + after])

    def weights(self, posterior: Array) -> Array:
        taken = posterior[0] / posterior.sum(axis=0)
        left = np.append(1.0, np.cumprod(1 - taken)[:-1])
        return np.asarray(taken * left / (taken @ left))

    def mean_log(self, posterior: Array) -> Array:
        taken, left = digamma(posterior) - digamma(posterior.sum(axis=0))
        return np.asarray(taken + np.append(0.0, np.cumsum(left)[:-1]))

    def divergence(self, a: float, posterior: Array) -> float:
        taken, left = digamma(posterior) - digamma(posterior.sum(axis=0))
        norms = betaln(1.0, a) - betaln(*posterior)
        return float(np.sum(norms + (posterior[0] - 1) * taken + (posterior[1] - a) * left))


WEIGHT_PRIORS: dict[str, Any] = {
    "dirichlet_process": _StickBreaking(),
    "dirichlet_distribution": _Dirichlet(),
}


@dataclass(frozen=True, slots=True, eq=False)
class BayesianGaussianMixtureModel:
    """Hyper-parameters of a Gaussian mixture's prior; what is None follows the rows of the first pass."""

    n_components: int
    """k, the number of components at most."""
    covariance_type: str = "full"
    """One of `COVARIANCES`."""
    weight_concentration_prior_type: str = "dirichlet_process"
    """One of `WEIGHT_PRIORS`."""
    weight_concentration_prior: float | None = None
    """a > 0; None is 1/k."""
    mean_precision_prior: float | None = None
    """β₀ > 0; None is 1."""
    mean_prior: Array | None = None
    """(d,) m₀; None is the mean of all rows."""
    degrees_of_freedom_prior: float | None = None
    """ν₀ > d − 1; None is d."""
    covariance_prior: Array | None = None
    """Ψ₀: (d, d), (d,) or (), as a component's covariance is kept; None is the covariance of all rows."""
    reg_covar: float | Literal["auto"] = "auto"
    """A number is added to the covariance of each component's rows, as scikit-learn does."""
    start: str | NDArray[Any] = "kmeans"
    """How to start: a method of `streamem.initialization`, or labels (n,) or responsibilities (n, k)."""
    precision: Literal["auto", "float32", "float64"] = "auto"
    """What the kernels compute in."""
    prior: NormalWishart | None = None
    """The prior of means and covariances with all that came from the rows."""
    class_means: Array | None = None
    """(k, d) means of the rows with each label, as the first pass has them; NaN where there are none."""

    takes_missing: ClassVar[bool] = True
    """Rows may have missing values: see `streamem.models.missing`."""
    takes_labels: ClassVar[bool] = True
    """Rows may have labels: see `streamem.models.labelled`."""

    @property
    def shape(self) -> Covariance:
        """The algebra of this covariance type."""
        return COVARIANCES[self.covariance_type]

    @property
    def ascends(self) -> bool:
        """Whether the M-step is a maximiser: adding a number to each covariance is not."""
        return self.reg_covar == "auto" or self.reg_covar == 0

    @property
    def uninformed(self) -> bool:
        """Whether the prior still has to be taken from a summary of the rows."""
        return self.prior is None

    @property
    def concentration(self) -> float:
        """The prior's weight concentration a."""
        given = self.weight_concentration_prior
        return 1 / self.n_components if given is None else float(given)

    def informed_by(self, summary: DataSummary) -> BayesianGaussianMixtureModel:
        """Return the model with its prior completed by the rows that were summarised, and their classes."""
        if summary.classes is not None:
            self = replace(self, class_means=summary.classes.centers(summary.mean))
        if not self.uninformed:
            return self
        d = len(summary.mean)
        rows = GaussianMixtureModel(self.n_components, self.covariance_type).informed_by(summary).prior
        assert rows is not None
        floor = rows.floor
        if self.reg_covar != "auto":
            floor = np.sqrt(float(self.reg_covar)) * self.shape.identity(d)
        beta, nu, mean = self.mean_precision_prior, self.degrees_of_freedom_prior, self.mean_prior
        given = self.covariance_prior
        prior = NormalWishart(
            1.0 if beta is None else float(beta),
            summary.mean if mean is None else np.asarray(mean, dtype=np.float64),
            float(d) if nu is None else float(nu),
            triangular(np.sqrt(unbiased(summary)) * rows.scale)
            if given is None
            else root_of(given, "covariance_prior"),
            floor,
        )
        _check_prior(prior, summary.mean, rows.scale)
        return replace(self, prior=prior)

    @property
    def mixture(self) -> GaussianMixtureModel:
        """The Gaussian mixture that this is a distribution over, to do what both do alike."""
        units = None if self.prior is None else CovariancePrior(self.prior.scale, self.prior.floor)
        return GaussianMixtureModel(
            self.n_components,
            self.covariance_type,
            start=self.start,
            prior=units,
            precision=self.precision,
            class_means=self.class_means,
        )

    def init(self, sample: Rows, rng: np.random.Generator) -> BayesianGaussianMixtureParams:
        """Return the M-step of starting responsibilities on the sample."""
        filled = filled_with_means(sample)
        known = self.mixture.known_means(filled)
        resp = responsibilities(self.start, filled, self.n_components, rng, known=known)
        return self.from_responsibilities(sample, resp)

    def from_responsibilities(self, sample: Rows, resp: Array) -> BayesianGaussianMixtureParams:
        """Return the M-step for given responsibilities (n, k): an E-step whose q(z) someone else chose."""
        mixture = self.mixture
        params: Any = mixture.yardstick(sample)
        for _ in range(STEPS if sample.complete else STEPS_IF_MISSING):
            params = self.m_step(params, mixture.given(params, sample, resp))
        return cast(BayesianGaussianMixtureParams, params)

    def e_step(self, params: BayesianGaussianMixtureParams, rows: Rows) -> GaussianMixtureStats:
        """Return expected sufficient statistics under the best q(z); their likelihood is the ELBO plus KL."""
        return self.mixture.e_step(params, rows)

    def labels(self, params: BayesianGaussianMixtureParams, rows: Rows) -> NDArray[np.int64]:
        """Return the most probable component of each row, (n,)."""
        return self.mixture.labels(params, rows)

    def responsibilities(self, params: BayesianGaussianMixtureParams, rows: Rows) -> Array:
        """Return q(z=k), (n, k)."""
        return self.mixture.responsibilities(params, rows)

    def score_samples(self, params: BayesianGaussianMixtureParams, rows: Rows) -> Array:
        """Return log Σ_k exp E[log p(x, z=k)], (n,), in nats: what a row adds to the bound."""
        return self.mixture.score_samples(params, rows)

    def impute(
        self, params: BayesianGaussianMixtureParams, seeds: NDArray[np.uint64] | None, rows: Rows
    ) -> FloatArray:
        """Return the rows with missing values replaced by their means, or draws, under q(x_m, z)."""
        return self.mixture.impute(params, seeds, rows)

    def m_step(
        self, params: GaussianMixtureParams, stats: GaussianMixtureStats
    ) -> BayesianGaussianMixtureParams:
        """Return the q(θ) that maximises the ELBO (Bishop 2006, eqs. 10.58-10.63).

        β = β₀ + n, ν = ν₀ + n, m = (β₀ m₀ + n x̄)/β, and Σ = [Ψ₀ + n S + n β₀/β (x̄ − m₀)(x̄ − m₀)ᵀ]/ν. A common
        Σ and ν are the means over components of numerator and denominator.
        """
        assert self.prior is not None, "a model takes its prior from the first pass"
        shape, reference, n = self.shape, stats.reference, stats.sum_w
        scatter = self.prior.scatter(stats)
        cholesky = shape.compose(
            reference.cholesky, shape.root(scatter / shape.spread(self.prior.degrees + n))
        )
        return self._posterior(n, self.prior.means(stats), cholesky, shape.invert(cholesky))

    def _posterior(
        self, n: Array, means: Array, cholesky: Array, whitening: Array
    ) -> BayesianGaussianMixtureParams:
        """Return q(θ) where components have taken n (k,) rows."""
        assert self.prior is not None
        (k, d), shape, of_weights = means.shape, self.shape, self._of_weights
        concentration = of_weights.posterior(self.concentration, n)
        precision = self.prior.precision + n
        degrees = self.prior.degrees + (n.mean() if shape.shared else n)
        log_const = (
            of_weights.mean_log(concentration)
            + 0.5 * mean_log_det(shape, degrees, cholesky, k, d)
            - 0.5 * d * (LOG_2PI + 1 / precision)
        )
        if self.reg_covar == "auto":
            log_const -= 0.5 * shape.whitened_trace(whitening, self.prior.floor, k, d)
        return BayesianGaussianMixtureParams(
            self.covariance_type,
            of_weights.weights(concentration),
            means,
            cholesky,
            whitening,
            concentration,
            precision,
            np.asarray(degrees),
            log_const,
        )

    @property
    def _of_weights(self) -> Any:
        return WEIGHT_PRIORS[self.weight_concentration_prior_type]

    def log_prior(self, params: BayesianGaussianMixtureParams, stats: GaussianMixtureStats) -> float:
        """Return −KL(q(θ) ‖ p(θ)) in nats."""
        assert self.prior is not None
        of_components = self.prior.divergence(
            self.shape,
            params.mean_precision,
            params.means,
            params.degrees_of_freedom,
            params.cholesky,
            params.whitening,
        )
        of_weights = self._of_weights.divergence(self.concentration, params.weight_concentration)
        return float(-of_weights - of_components)

    def expected_log_joint(self, params: BayesianGaussianMixtureParams, stats: GaussianMixtureStats) -> float:
        """Return E log p(x, z | θ) over q(z, θ) from statistics alone, in nats: linear in them."""
        return self.mixture.expected_log_joint(params, stats)

    def feasible(self, stats: GaussianMixtureStats) -> bool:
        """Return whether rows could have such statistics: differences may not be any rows'."""
        return self.mixture.feasible(stats)

    def to_vector(self, params: BayesianGaussianMixtureParams) -> Array:
        """Return unconstrained coordinates; β stands for all that follows from n."""
        share = params.mean_precision / params.mean_precision.sum()
        return self.mixture.to_vector(replace(params, weights=share))

    def from_vector(
        self, vector: Array, like: BayesianGaussianMixtureParams
    ) -> BayesianGaussianMixtureParams | None:
        """Return the q(θ) with these coordinates and the rows of ``like``, or None where they overflow."""
        assert self.prior is not None
        point = self.mixture.from_vector(vector, like)
        if point is None:
            return None
        total = like.mean_precision.sum()
        n = np.maximum(point.weights * total - self.prior.precision, 0.0)
        if not n.sum() > 0:
            return None
        n *= (total - len(n) * self.prior.precision) / n.sum()
        return self._posterior(n, point.means, point.cholesky, point.whitening)

    def n_parameters(self, n_features: int) -> int:
        """Return the number of free parameters of the mixture."""
        return self.mixture.n_parameters(n_features)


def _check_prior(prior: NormalWishart, mean: Array, scale: Array) -> None:
    """Refuse a prior for other columns, or of no distribution."""
    d = len(mean)
    if prior.mean.shape != (d,) or not np.all(np.isfinite(prior.mean)):
        raise InputError(f"mean_prior: expected ({d},) finite numbers, got {prior.mean!r}.")
    if prior.scale.shape != scale.shape:
        raise InputError(f"covariance_prior: expected shape {scale.shape}, got {prior.scale.shape}.")
    if not prior.degrees > d - 1:
        raise InputError(f"degrees_of_freedom_prior: expected a number > {d - 1}, got {prior.degrees}.")
