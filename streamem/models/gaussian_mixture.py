"""The Gaussian mixture: parameters, statistics and the three verbs of EM.

p(x) = Σ_k π_k N(x; μ_k, Σ_k), with z the component a row came from, plus π_0/V where some rows come from
none (noise of the same density all over a volume V). The E-step's responsibilities are
r_k = p(z=k|x); the M-step's maximisers of Q are the weighted proportion, mean and covariance. Parameters and
statistics are in `streamem.models.gaussian_statistics`, kernels in `streamem.kernels`, shapes in
`streamem.models.covariance`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from streamem.errors import InputError
from streamem.initialization import responsibilities
from streamem.kernels import mixture
from streamem.kernels.moments import moments as block_moments
from streamem.kernels.patterns import patterns
from streamem.models import degenerate, labelled, missing, split_merge
from streamem.models.covariance import COVARIANCES, FEWEST_DIGITS, Array, Covariance, CovariancePrior
from streamem.models.gaussian_statistics import GaussianMixtureParams, GaussianMixtureStats
from streamem.models.normal_wishart import ConjugatePrior, NormalInverseWishart, triangular
from streamem.models.summary import DataSummary
from streamem.protocols import FloatArray, Rows

__all__ = ["PARAMETERS", "GaussianMixtureModel", "GaussianMixtureParams", "GaussianMixtureStats"]

PARAMETERS = ("weights", "means", "covariances")
NOISE_START = 0.05  # share of the rows that are taken for noise at first
STEPS, STEPS_IF_MISSING = 2, 6  # from starting responsibilities to parameters
MOST_LOG_DET = 1e4  # beyond, a proposal is no parameters
NEGLIGIBLE = 1e-12  # share of all weight that a component has to hold, or no row would miss it
MOST_AMPLIFIED = 1e3  # float32 leaves four digits of y then
ROUNDING: dict[type[np.floating[Any]], float] = {np.float32: 1e-6, np.float64: 1e-9}


@dataclass(frozen=True, slots=True, eq=False)
class GaussianMixtureModel:
    """Hyper-parameters of a Gaussian mixture.

    With ``reg_covar="auto"`` covariances carry the vanishing penalty of Chen & Tan (2009), a log-prior
    −a Σ_k [tr(S_x Σ_k⁻¹) + log det Σ_k] with S_x the covariance of all rows and a = n^(−1/2): it has no
    units, keeps the likelihood bounded and leaves the M-step closed. S_x comes from the first pass through
    `informed_by`; a model that was not informed maximises the likelihood alone. A ``conjugate`` prior takes
    the place of the penalty.
    """

    n_components: int
    """k."""
    covariance_type: str = "full"
    """One of `COVARIANCES`."""
    reg_covar: float | Literal["auto"] = "auto"
    """A number is added to the diagonal of each covariance, as scikit-learn does; it maximises nothing."""
    start: str | NDArray[Any] = "kmeans"
    """How to start: a method of `streamem.initialization`, or labels (n,) or responsibilities (n, k)."""
    weights_init: Array | None = None
    """(k,) starting weights."""
    means_init: Array | None = None
    """(k, d) starting means."""
    precisions_init: Array | None = None
    """Starting precisions Σ⁻¹ in natural shape."""
    prior: CovariancePrior | ConjugatePrior | None = None
    """The penalty of ``reg_covar="auto"``, or the conjugate prior, as the first pass has it."""
    precision: Literal["auto", "float32", "float64"] = "auto"
    """What the kernels compute in; "auto" is the rows' own, as long as the covariances allow it."""
    conjugate: NormalInverseWishart | None = None
    """Settings of a prior whose mode the M-step takes."""
    fixed: tuple[str, ...] = ()
    """Which of `PARAMETERS` stay where the fit starts."""
    on_degenerate: str = "freeze"
    """What fits do about components that lose their rows: one of `streamem.degeneracy.CHOICES`."""
    class_means: Array | None = None
    """(k, d) means of the rows with each label, as the first pass has them; NaN where there are none."""
    noise: Literal["uniform"] | float | None = None
    """Whether rows may come from no component, but from anywhere in the box around all rows, or in one of
    this volume about the same middle (Banfield & Raftery 1993)."""
    box: Array | None = None
    """(2, d) lowest and highest values of such rows, as the first pass has them."""

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
        """Whether the penalty still has to be taken from a summary of the rows."""
        return self.reg_covar == "auto" and self.prior is None

    def informed_by(self, summary: DataSummary) -> GaussianMixtureModel:
        """Return the model with its penalty scaled to the rows that were summarised, and their classes."""
        if summary.classes is not None:
            self = replace(self, class_means=summary.classes.centers(summary.mean))
        if self.noise is not None:
            self = replace(self, box=_box(summary, self.noise))
        if not self.uninformed:
            return self
        digits = FEWEST_DIGITS * np.finfo(np.float64).eps * summary.mean
        constant = ~(np.diagonal(summary.covariance) > digits**2) | (summary.minimum == summary.maximum)
        rows = self.shape.prior(summary.covariance, summary.mean, constant)
        if self.conjugate is None:
            return replace(self, prior=rows)
        prior = self.conjugate.informed_by(summary, rows, self.covariance_type, self.n_components)
        return replace(self, prior=prior)

    def init(self, sample: Rows, rng: np.random.Generator) -> GaussianMixtureParams:
        """Return the M-step of starting responsibilities on the sample, overridden by what was given."""
        self._check_start(sample.x.shape[1])
        filled = missing.filled_with_means(sample)
        resp = responsibilities(
            self.start, filled, self.n_components, rng, self.means_init, self.known_means(filled)
        )
        return self._override(self._with_noise(self.from_responsibilities(sample, resp)))

    def _with_noise(self, params: GaussianMixtureParams) -> GaussianMixtureParams:
        """Return starting parameters with a share of noise, if there is to be some."""
        if self.noise is None:
            return params
        assert self.box is not None, "a model takes its box from the first pass"
        weights = (1 - NOISE_START) * params.weights
        return replace(params, weights=weights, noise_weight=NOISE_START, noise_box=self.box)

    def known_means(self, sample: Rows) -> Array | None:
        """Return means of the rows of each label: of all rows, or of those of the sample."""
        if self.class_means is not None or sample.label is None:
            return self.class_means
        return labelled.ClassMeans.of(sample, self.n_components).centers(np.zeros(sample.x.shape[1]))

    def _check_start(self, d: int) -> None:
        """Refuse starting values for another number of columns."""
        expected = {
            "means_init": (self.n_components, d),
            "precisions_init": self.shape.shape(self.n_components, d),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise InputError(
                    f"{name}: expected shape {shape}, got {np.shape(value)}. Give one for these rows."
                )

    def from_responsibilities(self, sample: Rows, resp: Array) -> GaussianMixtureParams:
        """Return the M-step for given responsibilities (n, k): an E-step whose q someone else chose."""
        unit, free = self.yardstick(sample), replace(self, fixed=())
        # Twice: far apart or ill-conditioned components are better measured from themselves.
        # More often where values are missing: those take their means from the components so far.
        params = unit
        for _ in range(STEPS if sample.complete else STEPS_IF_MISSING):
            params = free.m_step(params, self.given(params, sample, resp))
        return params

    def yardstick(self, sample: Rows) -> GaussianMixtureParams:
        """Return round components at the mean of the sample, to measure its moments from."""
        filled = missing.filled_with_means(sample)
        first = filled.x[0].astype(np.float64)
        total = block_moments(filled.x, filled.weight, first)
        delta = total.sum_wd / total.weight
        variances = np.diag(total.sum_wdd) / total.weight - delta**2
        scale = np.sqrt(np.where(variances > 0, variances, 1.0))
        return self._reference(np.tile(first + delta, (self.n_components, 1)), scale)

    def _reference(self, means: Array, scale: Array) -> GaussianMixtureParams:
        """Return round components of one size, to measure moments from."""
        k, d = means.shape
        variances = scale**2
        natural = {
            "full": np.broadcast_to(np.diag(variances), (k, d, d)),
            "tied": np.diag(variances),
            "diag": np.broadcast_to(variances, (k, d)),
            "spherical": np.full(k, variances.mean()),
            "tied_diag": variances,
            "tied_spherical": variances.mean(),
        }[self.covariance_type]
        return GaussianMixtureParams.from_covariances(self.covariance_type, np.full(k, 1 / k), means, natural)

    def _override(self, params: GaussianMixtureParams) -> GaussianMixtureParams:
        """Put in what the caller gave."""
        if self.weights_init is not None:
            weights = np.asarray(self.weights_init, dtype=np.float64)
            noise = 0.0 if self.noise is None else float(1 - weights.sum())
            params = replace(params, weights=weights, noise_weight=noise)
        if self.means_init is not None:
            params = replace(params, means=np.asarray(self.means_init, dtype=np.float64))
        if self.precisions_init is not None:
            # Σ⁻¹ = P Pᵀ; the factor of the reversed matrix, reversed, is upper triangular: P itself.
            precisions = np.asarray(self.precisions_init, dtype=np.float64)
            if self.shape.matrices:
                upper = self.shape.root(precisions[..., ::-1, ::-1])[..., ::-1, ::-1]
                whitening = np.ascontiguousarray(np.swapaxes(upper, -1, -2))
            else:
                whitening = self.shape.root(precisions)
            params = replace(params, whitening=whitening, cholesky=self.shape.invert(whitening))
        return params

    def e_step(self, params: GaussianMixtureParams, rows: Rows) -> GaussianMixtureStats:
        """Return expected sufficient statistics under the posterior q = p(z|x; params), heeding labels."""
        if not labelled.has_labels(rows):
            return self._statistics(params, rows, None)
        labelled.check(rows, len(params.weights))
        return labelled.statistics(params, rows, functools.partial(self._statistics, resp=None))

    def given(self, params: GaussianMixtureParams, rows: Rows, resp: Array) -> GaussianMixtureStats:
        """Return expected sufficient statistics under given responsibilities (n, k)."""
        return self._statistics(params, rows, resp)

    def labels(self, params: GaussianMixtureParams, rows: Rows) -> NDArray[np.int64]:
        """Return the most probable component of each row, (n,); −1 for noise."""
        if not rows.complete:
            return self._by_row(self.labels, functools.partial(_likeliest, len(params.weights)), params, rows)
        return mixture.labels(rows.x, params.kernel_arguments(), self._dtype(params, rows), params.log_noise)

    def responsibilities(self, params: GaussianMixtureParams, rows: Rows) -> Array:
        """Return p(z=k|x), (n, k); what they lack to a sum of 1 is noise."""
        if not rows.complete:
            k = len(params.weights)
            return self._by_row(
                self.responsibilities, lambda joint: missing.posterior(joint)[:, :k], params, rows
            )
        return mixture.responsibilities(
            rows.x, params.kernel_arguments(), self._dtype(params, rows), params.log_noise
        )

    def score_samples(self, params: GaussianMixtureParams, rows: Rows) -> Array:
        """Return log p(x), (n,), in nats; of the observed values, where some are missing."""
        if not rows.complete:
            return self._by_row(self.score_samples, missing.log_density, params, rows)
        return mixture.score_samples(
            rows.x, params.kernel_arguments(), self._dtype(params, rows), params.log_noise
        )

    def impute(
        self, params: GaussianMixtureParams, seeds: NDArray[np.uint64] | None, rows: Rows
    ) -> FloatArray:
        """Return the rows with missing values replaced: see `streamem.models.missing.impute`."""
        return missing.impute(params, rows, seeds)

    def _by_row(
        self,
        of_complete: Callable[[GaussianMixtureParams, Rows], NDArray[Any]],
        of_joint: Callable[[Array], NDArray[Any]],
        params: GaussianMixtureParams,
        rows: Rows,
    ) -> NDArray[Any]:
        """Return a result for each row, the same bits whatever rows it comes with."""
        self._dtype(params, rows)
        gaps = np.isnan(rows.x).any(axis=1)
        found = of_joint(missing.log_joint(params, rows.x[gaps]))
        out = np.empty((len(rows.x), *found.shape[1:]), found.dtype)
        out[gaps], out[~gaps] = found, of_complete(params, Rows(rows.x[~gaps], None, 0))
        return out

    def _dtype(self, params: GaussianMixtureParams, rows: Rows) -> type[np.floating[Any]]:
        """Return what to compute in: float32 costs half, but not where whitening would use up its digits."""
        if rows.x.shape[1] != params.means.shape[1]:  # kernels would read past the end of the rows
            raise InputError(
                f"The rows have {rows.x.shape[1]} columns, but the parameters (params, or those that "
                f"warm_start continues from) are for {params.means.shape[1]}. Give parameters for these rows."
            )
        if self.precision != "auto":
            return np.float32 if self.precision == "float32" else np.float64
        if rows.x.dtype != np.float32:
            return np.float64
        amplified = params.shape.amplification(params.cholesky, params.whitening)
        return np.float32 if amplified < MOST_AMPLIFIED else np.float64

    def _statistics(
        self, params: GaussianMixtureParams, rows: Rows, resp: Array | None
    ) -> GaussianMixtureStats:
        dtype: Any = np.float64 if resp is not None else self._dtype(params, rows)
        if rows.complete:
            log_noise = None if resp is not None else params.log_noise
            sums = mixture.statistics(rows.x, rows.weight, params.kernel_arguments(), resp, dtype, log_noise)
        else:
            found = patterns(rows.x)
            rows = missing.without_unobserved(rows, found)
            sums, dtype = missing.statistics(params, rows, found, resp, self._dtype)
        return GaussianMixtureStats(
            params,
            rows.n_samples,
            rows.total_weight,
            sums.log_likelihood,
            sums.entropy,
            sums.sum_w,
            sums.sum_wy,
            self.shape.from_kernels(sums.sum_wyy, rows.x.shape[1]),
            ROUNDING[np.dtype(dtype).type],
            rows.total_squared_weight,
            rows.n_left_out,
            sums.sum_noise,
        )

    def m_step(self, params: GaussianMixtureParams, stats: GaussianMixtureStats) -> GaussianMixtureParams:
        """Return argmax_θ Q(θ, θ_t) (plus log-prior), in closed form.

        With n = Σr, δ = Σry/n in whitened units: π = n/Σn, μ' = μ + Lδ, L' = L chol(Σryyᵀ/n − δδᵀ); a prior
        counts as further rows. Without one, a component without support keeps its mean and has weight 0, and
        one whose rows are all alike keeps its covariance: Q rises all the same. What is ``fixed`` is as in
        ``params``, and covariances are then about those means. Noise has a weight, and no other parameter.
        """
        prior = self._conjugate(stats)
        weights, noise = prior.weights(stats.sum_w, stats.sum_noise)
        means = params.means if "means" in self.fixed else prior.means(stats)
        left = replace(params, means=means)
        if "weights" not in self.fixed:
            left = replace(left, weights=weights, noise_weight=noise)
        if "covariances" in self.fixed:
            return left
        return self._covariances(left, stats, params.means if "means" in self.fixed else None)[0]

    def _covariances(
        self, params: GaussianMixtureParams, stats: GaussianMixtureStats, means: Array | None
    ) -> tuple[GaussianMixtureParams, NDArray[np.bool_]]:
        """Return the M-step for covariances about ``means``, and (k,) which had to stay as they were."""
        shape, reference, prior = self.shape, stats.reference, self._conjugate(stats)
        scatter = prior.scatter(stats, means)
        counts = stats.sum_w + prior.degrees
        kept = shape.spread(np.where(counts > 0, counts, 1.0))
        identity = shape.identity(params.means.shape[1])
        inner = np.where(shape.spread(counts) > 0, scatter / kept, identity)
        flat = shape.flat(inner)
        inner = np.where(flat, identity, inner)
        cholesky = shape.compose(reference.cholesky, shape.root(inner))
        with np.errstate(divide="ignore", over="ignore"):
            new = replace(params, cholesky=cholesky, whitening=shape.invert(cholesky))
        frozen = degenerate.too_thin(new)
        if frozen.any():
            frozen &= ~degenerate.too_thin(reference)
            stays = shape.spread(frozen.astype(float)) > 0
            new = replace(
                new,
                cholesky=np.where(stays, reference.cholesky, new.cholesky),
                whitening=np.where(stays, reference.whitening, new.whitening),
            )
        return new, frozen | np.broadcast_to(
            flat.reshape(1 if shape.shared else len(flat), -1).any(axis=1), frozen.shape
        )

    def _conjugate(self, stats: GaussianMixtureStats) -> ConjugatePrior:
        """Return the prior on these rows in conjugate form, of no weight where there is none."""
        if isinstance(self.prior, ConjugatePrior):
            return self.prior
        anywhere, zero = stats.reference.means, np.zeros(())
        if self.prior is None:
            identity = self.shape.identity(anywhere.shape[1])
            added = 0.0 if self.reg_covar == "auto" else float(self.reg_covar)
            return ConjugatePrior(0.0, anywhere, 0.0, 0.0 * identity, np.sqrt(added) * identity, zero)
        pulls = 2 * stats.weight**-0.5
        scale, floor, null = np.sqrt(pulls) * self.prior.scale, self.prior.floor, self.prior.null
        return ConjugatePrior(0.0, anywhere, pulls, scale, floor, zero, null=null)

    def feasible(self, stats: GaussianMixtureStats) -> bool:
        """Return whether rows, with those of the prior, could have such statistics: differences may not."""
        scatter = self._conjugate(stats).scatter(stats, None)
        none_less = np.all(stats.sum_w >= 0) and stats.sum_noise >= 0
        return bool(none_less) and self.shape.positive(scatter)

    def expected_log_joint(self, params: GaussianMixtureParams, stats: GaussianMixtureStats) -> float:
        """Return Q(θ) = E log p(x, z; θ) from statistics alone, in nats: linear in them.

        Σ_k n_k (log π_k − d/2 log 2π − ½ log det Σ_k) − ½ Σ_k tr Σ w r y yᵀ with y whitened by θ.
        """
        shape, stats = self.shape, stats.at(params)
        k, d = params.means.shape
        log_const = params.kernel_arguments().log_const
        present = stats.sum_w != 0
        traces = shape.trace(stats.sum_wyy, k, d)
        total = traces[0] if shape.shared else traces.sum()
        joint = float(stats.sum_w[present] @ log_const[present] - 0.5 * total)
        log_noise = params.log_noise
        return joint if log_noise is None or not stats.sum_noise else joint + stats.sum_noise * log_noise

    def to_vector(self, params: GaussianMixtureParams) -> Array:
        """Return unconstrained coordinates: centred log-weights, means, and L with a log-diagonal.

        The noise, where there is some, has the last of the log-weights. Means and L are in units of ``prior``
        where there is one. Not finite where a component weighs nothing.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            log_weights = np.log(params.proportions)
            log_weights = log_weights - log_weights.mean()
        units = self._units(params.means.shape[1])
        cholesky = self.shape.to_free(params.cholesky, units)
        return np.concatenate([log_weights, (params.means / units).ravel(), cholesky])

    def from_vector(self, vector: Array, like: GaussianMixtureParams) -> GaussianMixtureParams | None:
        """Return the parameters with these coordinates, or None where they overflow."""
        (k, d), m = like.means.shape, len(like.proportions)
        units = self._units(d)
        with np.errstate(over="ignore", invalid="ignore"):
            weights = np.exp(vector[:m] - vector[:m].max())
            means = vector[m : m + k * d].reshape(k, d) * units
            cholesky = self.shape.from_free(vector[m + k * d :], k, units)
        finite = all(np.all(np.isfinite(part)) for part in (weights, means, cholesky))
        if not finite or not np.all(np.abs(self.shape.log_det(cholesky, k, d)) < MOST_LOG_DET):
            return None
        whitening, weights = self.shape.invert(cholesky), weights / weights.sum()
        params = GaussianMixtureParams(
            self.covariance_type,
            weights[:k],
            means,
            cholesky,
            whitening,
            noise_weight=float(weights[k:].sum()),
            noise_box=like.noise_box,
        )
        return self._holding(params, like)

    def _holding(self, params: GaussianMixtureParams, held: GaussianMixtureParams) -> GaussianMixtureParams:
        """Return the parameters with what is fixed as ``held`` has it."""
        names = {
            "weights": ("weights", "noise_weight"),
            "means": ("means",),
            "covariances": ("cholesky", "whitening"),
        }
        parts = [part for name in self.fixed for part in names[name]]
        return replace(params, **{part: getattr(held, part) for part in parts})

    def adapting(
        self, params: GaussianMixtureParams, relevance_factor: float, parameters: tuple[str, ...]
    ) -> GaussianMixtureModel:
        """Return the model whose prior holds each component to ``params`` by ``relevance_factor`` rows.

        Its M-step for those of ``parameters``: μ' = (n x̄ + ρ μ)/(n + ρ),
        Σ' + μ'μ'ᵀ = (Σ r x xᵀ + ρ (Σ + μ μᵀ))/(n + ρ) (Reynolds, Quatieri & Dunn 2000, eqs. 12-14), and
        π' = (n + ρ k π)/(N + ρ k) (Gauvain & Lee 1994: the rule of the former for weights maximises nothing).
        """
        rho, k = relevance_factor, len(params.weights)
        fixed = tuple(name for name in PARAMETERS if name not in parameters)
        factor, zero = params.cholesky, np.zeros(())
        prior = ConjugatePrior(
            rho,
            params.means,
            rho,
            np.sqrt(rho) * factor,
            zero * factor,
            rho * k * params.weights,
            rho * k * params.noise_weight,
        )
        return replace(self, prior=prior, fixed=fixed, reg_covar="auto", on_degenerate="freeze")

    def _units(self, d: int) -> Array:
        """Return a length for each column, (d,)."""
        if self.prior is None:
            return np.ones(d)
        squares = np.asarray(self.prior.scale**2)
        if self.shape.matrices:
            squares = squares.sum(axis=-1)
        elif self.shape.spherical:
            squares = squares[..., None]
        variances = squares.reshape(-1, squares.shape[-1]).mean(axis=0)
        return np.asarray(np.sqrt(np.broadcast_to(variances, (d,))))

    def log_prior(self, params: GaussianMixtureParams, stats: GaussianMixtureStats) -> float:
        """Return the log-prior of ``params`` in nats, up to a constant; 0 without one."""
        if self.prior is None:
            return 0.0
        prior = self._conjugate(stats)
        density = prior.log_density(params, stats.sum_w)
        if isinstance(self.prior, ConjugatePrior):
            return density
        # The constant that makes the penalty of a component without rows 0, so that it can be left out.
        k, d = params.means.shape
        log_det = self.shape.log_det(triangular(self.prior.scale), k, d)
        return float(density + 0.5 * prior.degrees * np.sum(np.broadcast_to(d + log_det, (k,))))

    def support(self, stats: GaussianMixtureStats) -> Array:
        """Return (k,) how many rows of average weight each component is responsible for."""
        return degenerate.support(stats)

    def collapsed(self, params: GaussianMixtureParams, stats: GaussianMixtureStats) -> NDArray[np.intp]:
        """Return the components with rows whose covariances an M-step to ``params`` had to leave alone."""
        k, reference = len(params.weights), stats.reference.cholesky
        if "covariances" in self.fixed or self.shape.shared:
            same = np.full(k, "covariances" not in self.fixed and np.array_equal(params.cholesky, reference))
        else:
            same = (params.cholesky == reference).reshape(k, -1).all(axis=1)
        if not same.any():
            return np.flatnonzero(same)
        means = params.means if "means" in self.fixed else None
        return np.flatnonzero(same & (stats.sum_w > 0) & self._covariances(params, stats, means)[1])

    def negligible(self, params: GaussianMixtureParams, stats: GaussianMixtureStats) -> list[int]:
        """Return components whose rows, if any, would lose less than rounding without them."""
        none = (self.support(stats) < 1) & (stats.sum_w <= NEGLIGIBLE * stats.weight)
        return [int(k) for k in np.flatnonzero(none)]

    def without(
        self, params: GaussianMixtureParams, stats: GaussianMixtureStats, gone: Sequence[int]
    ) -> tuple[GaussianMixtureParams, GaussianMixtureStats]:
        """Return parameters and statistics without components that are negligible."""
        return degenerate.without(params, stats, gone)

    def splits(self, params: GaussianMixtureParams, empty: int) -> Iterator[GaussianMixtureParams]:
        """Yield parameters in which component ``empty`` is half of another one."""
        if "means" not in self.fixed:
            for split in degenerate.splits(params, empty, self._units(params.means.shape[1])):
                yield self._holding(split, params)

    def moves(
        self, params: GaussianMixtureParams, rows: Rows, each: Callable[..., Iterable[Any]] = map
    ) -> Iterator[tuple[GaussianMixtureParams, str]]:
        """Yield parameters with two components merged and a third split, and a sentence, the best first."""
        return split_merge.moves(self, params, rows, self._units(params.means.shape[1]), each)

    def n_parameters(self, n_features: int) -> int:
        """Return the number of free parameters."""
        k, d = self.n_components, n_features
        counts = {
            "weights": k - 1 + (self.noise is not None),
            "means": k * d,
            "covariances": self.shape.count(k, d),
        }
        return sum(count for name, count in counts.items() if name not in self.fixed)


def _likeliest(n_components: int, joint: Array) -> NDArray[np.int64]:
    """Return the component of the largest log-joint, (n,); −1 where it is the noise's, which comes last."""
    found = joint.argmax(axis=1)
    return np.where(found < n_components, found, -1)


def _box(summary: DataSummary, noise: Literal["uniform"] | float) -> Array:
    """Return the box around all rows, (2, d), or one of the volume ``noise`` about the same middle."""
    low, high = summary.minimum, summary.maximum
    flat = np.flatnonzero(~(high > low))
    if len(flat):
        raise InputError(
            f"noise: column {flat[0]} is {low[flat[0]]:.6g} in every row, so that a box around them has no "
            "volume. Leave the column out."
        )
    if isinstance(noise, str):
        return np.stack([low, high])
    sides = high - low
    larger = np.exp((np.log(noise) - np.log(sides).sum()) / len(sides)) - 1
    return np.stack([low - 0.5 * larger * sides, high + 0.5 * larger * sides])
