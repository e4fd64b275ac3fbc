"""`GaussianMixture`: the Gaussian mixture as an estimator.

Parameters shared with scikit-learn's class of the same name have its names and meaning. The mathematics is
in `streamem.models.gaussian_mixture`, the fit in `streamem.estimators.fitting`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from streamem.convergence import Callback, FitResult
from streamem.degeneracy import CHOICES
from streamem.errors import InputError
from streamem.estimators.fitting import as_generator, check_choice, fit
from streamem.estimators.mixture import MixtureEstimator
from streamem.estimators.rows import check_missing
from streamem.initialization import METHODS
from streamem.models.covariance import COVARIANCES, Array, CovariancePrior
from streamem.models.gaussian_mixture import (
    PARAMETERS,
    GaussianMixtureModel,
    GaussianMixtureParams,
    GaussianMixtureStats,
)
from streamem.models.normal_wishart import FRALEY_RAFTERY, ConjugatePrior, NormalInverseWishart
from streamem.persistence import Archive, write_archive

__all__ = ["GaussianMixture"]


class GaussianMixture(MixtureEstimator):
    """A mixture of Gaussians, fitted by EM with one pass over the rows per iteration.

    Parameters
    ----------
    n_components
        k, the number of Gaussians.
    covariance_type
        ``"full"``: any covariance for each component; ``"tied"``: one for all; ``"diag"``: axis-parallel;
        ``"spherical"``: one variance each; ``"tied_diag"`` and ``"tied_spherical"``: one such covariance for
        all. (mclust calls them VVV, EEE, VVI, VII, EEI and EII.)
    tol
        Nats per unit weight: stop when the estimated remaining gain in mean log-likelihood is below it.
        (scikit-learn compares the last change, which says less.)
    reg_covar
        ``"auto"``: the vanishing, scale-free penalty of Chen & Tan (2009). A number is added to the diagonal
        of each covariance, in squared units of the columns, as scikit-learn does.
    prior
        ``"fraley-raftery"``: the conjugate prior of Fraley & Raftery (2007), scaled to the rows, or a
        `NormalInverseWishart` of your own; the fit is then the mode of the posterior, and the prior takes the
        place of ``reg_covar="auto"``.
    noise
        ``"uniform"``: some rows may come from no component, but from anywhere in the smallest box around all
        rows, with the same density 1/V (Banfield & Raftery 1993); a number is V itself, of a box about the
        same middle. Their share is estimated; they get the label −1, and rows of `predict_proba` lack their
        probability to a sum of 1. The density is the same outside of the box, where new rows may be.
    fixed
        Which of ``"weights"``, ``"means"``, ``"covariances"`` stay where the fit starts: at ``weights_init``
        and so on where given.
    max_iter
        Passes at most; the first pass, which samples the rows, is not counted.
    n_init
        Starts to try; the best one is kept.
    init_params
        ``"kmeans"`` (k-means++ and a few Lloyd steps), ``"k-means++"``, ``"random"``, ``"random_from_data"``;
        or labels (n,), or responsibilities (n, k), for the rows in their order.
    weights_init, means_init, precisions_init
        (k,), (k, d) and the shape of ``precisions_``: replace what ``init_params`` finds. With ``noise``,
        weights sum to less than 1, and the rest is the noise's.
    random_state
        Seed, ``Generator`` or ``RandomState``. A seed gives the same bits on every scheduler.
    warm_start
        Whether ``fit`` continues from the last estimates.
    verbose
        Log each pass at level INFO of the logger "streamem" instead of DEBUG.
    acceleration
        ``"auto"``, ``"anderson"`` or ``"none"`` (textbook EM): see `streamem.fit`.
    sample_size
        Rows kept in memory for seeding and acceleration, or ``"auto"``: see `streamem.fit`.
    memory_limit
        Bytes for data in memory, such as ``"1GiB"``; None for no limit.
    missing
        What happens to rows with NaN. ``"raise"``: an error that says where; ``"drop"``: they are left out of
        the fit, and of no cluster afterwards (label −1, NaN elsewhere); ``"marginal"``: exact EM on what is
        observed of them, under the assumption that values are missing at random.
    on_degenerate
        What happens to a component that is responsible for less than one row. ``"reseed"``: it is given half
        of another component, once, and keeps it if that is better than to go on without (after a few steps on
        the sample; where there is none, as in a warm start, at once); ``"drop"``: once no
        row would miss it, it goes, and `n_components` of ``params_`` shrinks; ``"freeze"``: it stays where it
        is, with next to no weight; ``"raise"``: an error. A component whose rows are all alike keeps its
        covariance from then on; with ``"raise"`` that is an error too. Each time an event is logged, and kept
        in ``result_.history``.
    precision
        ``"auto"``: compute in the rows' own precision where the covariances allow it; ``"float32"`` or
        ``"float64"``. Sums are float64 in any case.
    callbacks
        Called with each `streamem.convergence.FitEvent`; one that returns True ends the fit.

    Attributes
    ----------
    weights_, means_, covariances_
        π (k,), μ (k, d), Σ: (k, d, d), (d, d), (k, d), (k,), (d,) or (), in the order of the types above.
    noise_weight_
        π_0, 0 without noise; ``weights_`` and it sum to 1.
    precisions_, precisions_cholesky_
        Σ⁻¹ and P with Σ⁻¹ = P Pᵀ, in the same shape.
    converged_, n_iter_
        Whether the fit converged; passes made.
    lower_bound_, lower_bounds_
        Mean log-likelihood per unit weight, in nats, at the last pass and at each.
    result_
        The `FitResult`: status, history.
    n_features_in_
        d.

    Examples
    --------
    >>> import numpy as np, streamem as sem
    >>> rng = np.random.default_rng(0)
    >>> x = np.concatenate([rng.normal(-4, 1, (500, 2)), rng.normal(4, 1, (500, 2))])
    >>> gm = sem.GaussianMixture(n_components=2, random_state=0).fit(x)
    >>> bool(gm.converged_), np.sort(gm.means_.round().astype(int)[:, 0]).tolist()
    (True, [-4, 4])
    >>> gm.predict(x).shape, gm.predict_proba(x[:3]).shape
    ((1000,), (3, 2))
    """

    _params_type: Any = GaussianMixtureParams

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-6,
        reg_covar: float | Literal["auto"] = "auto",
        prior: Literal["fraley-raftery"] | NormalInverseWishart | None = None,
        noise: Literal["uniform"] | float | None = None,
        fixed: Iterable[str] = (),
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str | NDArray[Any] = "kmeans",
        weights_init: NDArray[Any] | None = None,
        means_init: NDArray[Any] | None = None,
        precisions_init: NDArray[Any] | None = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        acceleration: Literal["auto", "anderson", "none"] = "auto",
        sample_size: int | Literal["auto"] = "auto",
        memory_limit: int | str | None = "1GiB",
        missing: Literal["raise", "drop", "marginal"] = "raise",
        on_degenerate: Literal["reseed", "drop", "freeze", "raise"] = "reseed",
        precision: Literal["auto", "float32", "float64"] = "auto",
        callbacks: Iterable[Callback] = (),
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.prior = prior
        self.noise = noise
        self.fixed = fixed
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.acceleration = acceleration
        self.sample_size = sample_size
        self.memory_limit = memory_limit
        self.missing = missing
        self.on_degenerate = on_degenerate
        self.precision = precision
        self.callbacks = callbacks

    def _model(self, fitted: bool = True) -> Any:
        check_settings(self)
        _check_prior(self)
        _check_noise(self)
        _check_parameters("fixed", self.fixed)
        _check_degenerate(self)
        _check_start(self)
        if fitted:
            check_same_shape(self, self.params_)
        start = self.init_params
        conjugate = FRALEY_RAFTERY if isinstance(self.prior, str) else self.prior
        same = fitted and self.reg_covar == "auto" and conjugate is self.model_.conjugate
        return GaussianMixtureModel(
            self.n_components,
            self.covariance_type,
            self.reg_covar,
            start if isinstance(start, str) else np.asarray(start),
            self.weights_init,
            self.means_init,
            self.precisions_init,
            self.model_.prior if same else None,
            self.precision,
            conjugate,
            tuple(self.fixed),
            self.on_degenerate,
            noise=self.noise,
        )

    @property
    def weights_(self) -> Array:
        """(k,) π."""
        return self._estimates().weights

    @property
    def noise_weight_(self) -> float:
        """π_0, the share of rows that come from no component."""
        return self._estimates().noise_weight

    @property
    def means_(self) -> Array:
        """(k, d) μ."""
        return self._estimates().means

    @property
    def covariances_(self) -> Array:
        """Σ: (k, d, d), (d, d), (k, d), (k,), (d,) or () by covariance type."""
        return self._estimates().covariances

    @property
    def precisions_cholesky_(self) -> Array:
        """P with Σ⁻¹ = P Pᵀ, in the shape of ``covariances_``."""
        return self._estimates().precision_cholesky

    @property
    def precisions_(self) -> Array:
        """Σ⁻¹, in the shape of ``covariances_``."""
        params = self._estimates()
        return params.shape.gram(params.precision_cholesky)

    def _take(self, result: FitResult[Any]) -> None:
        """Take over what a fit reached; the model counts the components that are left."""
        super()._take(result)
        self.model_ = replace(self.model_, n_components=len(self.params_.weights))

    def _estimates(self) -> GaussianMixtureParams:
        params: GaussianMixtureParams = self._fitted()
        return params

    def adapt(
        self,
        X: Any,
        *,
        relevance_factor: float = 16.0,
        parameters: Iterable[str] = ("means",),
        sample_weight: Any = None,
        scheduler: str | None = None,
        client: Any = None,
        callbacks: Iterable[Callback] = (),
        storage_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return a copy adapted to other rows, held to the estimates by ``relevance_factor`` rows each.

        What few rows support stays as it was; what many support follows them. EM on the rows' likelihood plus
        that prior, from these estimates, until ``tol`` or ``max_iter``; the original stays as it is.

        Parameters
        ----------
        X
            (n, d) rows of any source, with the columns of the fit.
        relevance_factor
            ρ > 0: a component with n rows moves by n/(n + ρ) of the way (Reynolds, Quatieri & Dunn 2000).
        parameters
            Which of ``"weights"``, ``"means"``, ``"covariances"`` adapt; the others stay.
        sample_weight, scheduler, client, callbacks, storage_options
            As in `fit`.

        Examples
        --------
        >>> import numpy as np, streamem as sem
        >>> x = np.random.default_rng(0).normal(size=(1000, 1))
        >>> world = sem.GaussianMixture(1, random_state=0).fit(x)
        >>> own = world.adapt(np.full((16, 1), 4.0), relevance_factor=16)
        >>> (own.means_ - world.means_).round(1), (own.covariances_ == world.covariances_).all()
        (array([[2.]]), np.True_)
        """
        _check_parameters("parameters", parameters)
        if not (isinstance(relevance_factor, Real) and 0 < float(relevance_factor) < np.inf):
            raise InputError(f"relevance_factor: expected a number > 0, got {relevance_factor!r}.")
        params = self._estimates()
        adapted = type(self)(**self.get_params())
        result = fit(
            self._fitted_model().adapting(params, float(relevance_factor), tuple(parameters)),
            X,
            params,
            sample_weight=sample_weight,
            tol=self.tol,
            max_iter=self.max_iter,
            acceleration=self.acceleration,
            memory_limit=self.memory_limit,
            missing=self.missing,
            scheduler=scheduler,
            client=client,
            callbacks=(*self.callbacks, *callbacks),
            verbose=self.verbose,
            storage_options=storage_options,
        )
        adapted._take(result)
        adapted._warn(result.status)
        return adapted

    def sample(self, n_samples: int = 1) -> tuple[Array, NDArray[np.int64]]:
        """Return ``n_samples`` rows drawn from the mixture, (n, d), and their components, (n,), in order.

        Rows of the noise come last; their component is −1.
        """
        params = self._estimates()
        if n_samples < 1:
            raise InputError(f"n_samples: expected a number >= 1, got {n_samples}.")
        rng = as_generator(self.random_state)
        counts = rng.multinomial(n_samples, params.proportions / params.proportions.sum())
        k, d = params.means.shape
        labels = np.repeat([*range(k), -1][: len(counts)], counts)
        shape = params.shape
        factors = np.broadcast_to(
            params.cholesky[..., None] if shape.spherical else params.cholesky,
            (k, d, d) if shape.matrices else (k, d),
        )
        rows = np.empty((n_samples, d))
        for component in range(k):
            chosen = labels == component
            noise = rng.standard_normal((int(counts[component]), d))
            factor = factors[component]
            rows[chosen] = params.means[component] + (
                noise @ factor.T if factor.ndim == 2 else noise * factor
            )
        if params.noise_box.size:
            low, high = params.noise_box
            rows[labels < 0] = rng.uniform(low, high, (int(counts[k]), d))
        return rows, labels

    def impute(
        self, X: Any, *, out: Any = None, draws: bool = False, random_state: Any = None, **where: Any
    ) -> Any:
        """Return the rows, (n, d), with missing values (NaN) filled in; with ``out``, write them there.

        Parameters
        ----------
        X
            (n, d) rows of any source, whatever ``missing`` says.
        out
            Where to write; see `predict`.
        draws
            False: the mean of each missing value given the observed ones, Σ_k r_k E[x_m | x_o, k], the best
            guess, but less spread than real values; True: a random draw from their distribution given the
            observed ones, all missing values of a row together, as multiple imputation wants.
        random_state
            Seed of the draws. A row's draw depends on the seed and on the row's number, not on chunks.
        where
            As in `predict`.

        Examples
        --------
        >>> import numpy as np, streamem as sem
        >>> x = np.random.default_rng(0).normal(size=(500, 1)) * [1.0, 2.0]
        >>> gm = sem.GaussianMixture(1, reg_covar=1e-6).fit(x)
        >>> gm.impute([[1.0, np.nan]]).round(2)
        array([[1., 2.]])
        """
        seeds = None
        if draws:
            generator = as_generator(random_state)
            seeds = generator.integers(2**64, size=self.n_features_in_ + 1, dtype=np.uint64)
        function = functools.partial(self._fitted_model().impute, self._fitted(), seeds)
        return self._write_rows(function, X, (self.n_features_in_,), None, out, missing="marginal", **where)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the estimator to a model file (``.npz``, no code in it) and return its path.

        Settings that are arrays or functions (``means_init``, ``callbacks``, ...) shaped the fit but are not
        part of the model, and are left out.
        """
        params = self._estimates()
        settings = {
            name: value
            for name, value in self.get_params().items()
            if value is None or isinstance(value, str | int | float) or _are_names(value)
        }
        model = self._fitted_model()
        settings |= {"n_components": len(params.weights), "covariance_type": params.covariance_type}
        arrays = _arrays("", params) | {"lower_bounds": np.asarray(getattr(self, "lower_bounds_", []))}
        if self.stats_ is not None:
            arrays |= {name: np.asarray(getattr(self.stats_, name)) for name in STATS_FIELDS}
            arrays |= _arrays("reference_", self.stats_.reference, GaussianMixtureParams)
        if model.prior is not None:
            arrays |= _arrays("prior_", model.prior)
        fixed = list(getattr(model, "fixed", ()))
        header = {"settings": settings, "fixed": fixed, "converged": bool(getattr(self, "converged_", False))}
        return write_archive(path, Archive(type(self).__name__, header, arrays))

    @classmethod
    def from_archive(cls, archive: Archive) -> Self:
        """Return the estimator that a model file holds."""
        stored = archive.header["settings"]
        settings: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in stored.items()}
        self = cls(**settings)
        arrays = archive.arrays

        stats = None
        if "sum_w" in arrays:
            values: dict[str, Any] = {
                name: arrays[name] if arrays[name].ndim else arrays[name].item()
                for name in STATS_FIELDS
                if name in arrays  # older files lack the last ones
            }
            reference = self._restored_params(GaussianMixtureParams, "reference_", arrays)
            stats = GaussianMixtureStats(reference, **values)
        self._adopt(self._restored_params(self._params_type, "", arrays), stats)
        prior = None
        if "prior_scale" in arrays:
            prior = _restored(self._prior_type(arrays), "prior_", arrays)
        self.model_ = replace(self._model(fitted=False), prior=prior)
        if archive.header.get("fixed"):
            self.model_ = replace(self.model_, fixed=tuple(archive.header["fixed"]))
        self.converged_ = archive.header["converged"]
        self.lower_bounds_ = arrays["lower_bounds"].tolist()
        self.n_iter_ = len(self.lower_bounds_)
        return self

    def _prior_type(self, arrays: dict[str, Any]) -> type[Any]:
        """Return the class of the prior that a model file holds."""
        return ConjugatePrior if "prior_counts" in arrays else CovariancePrior

    def _restored_params(self, kind: type[Any], prefix: str, arrays: dict[str, Any]) -> Any:
        whitening = COVARIANCES[self.covariance_type].invert(arrays[prefix + "cholesky"])
        noise = {}
        if prefix + "noise_box" in arrays:  # older files have none
            noise = {
                "noise_weight": float(arrays[prefix + "noise_weight"]),
                "noise_box": arrays[prefix + "noise_box"],
            }
        derived = {"covariance_type": self.covariance_type, "whitening": whitening, **noise}
        return _restored(kind, prefix, arrays, **derived)


def _are_names(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(name, str) for name in value)


def _arrays(prefix: str, record: Any, kind: Any = None) -> dict[str, NDArray[Any]]:
    """Return what a model file holds of a record: all that cannot be worked out from the rest."""
    names = [field.name for field in fields(kind or record) if field.name not in DERIVED]
    return {prefix + name: np.asarray(getattr(record, name)) for name in names}


def _restored(kind: type[Any], prefix: str, arrays: dict[str, Any], **derived: Any) -> Any:
    """Return the record that `_arrays` took apart."""
    names = [field.name for field in fields(kind) if field.name not in derived]
    return kind(**{name: arrays[prefix + name] for name in names if prefix + name in arrays}, **derived)


DERIVED = ("covariance_type", "whitening")
STATS_FIELDS = (
    *("n_samples", "weight", "log_likelihood", "entropy", "sum_w", "sum_wy", "sum_wyy", "rounding"),
    *("weight_squares", "n_left_out", "sum_noise"),
)


def check_settings(gm: GaussianMixture) -> None:
    """Refuse settings that mean nothing."""
    for name, smallest in (("n_components", 1), ("max_iter", 1), ("n_init", 1)):
        value = getattr(gm, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < smallest:
            raise InputError(f"{name}: expected a whole number >= {smallest}, got {value!r}.")
    if gm.covariance_type not in COVARIANCES:
        raise InputError(
            f"covariance_type: expected one of {', '.join(COVARIANCES)}, got {gm.covariance_type!r}."
        )
    if not (isinstance(gm.tol, Real) and gm.tol >= 0):
        raise InputError(f"tol: expected a number >= 0, got {gm.tol!r}.")
    if gm.reg_covar != "auto" and not (isinstance(gm.reg_covar, Real) and gm.reg_covar >= 0):
        raise InputError(f'reg_covar: expected "auto" or a number >= 0, got {gm.reg_covar!r}.')
    if gm.precision not in ("auto", "float32", "float64"):
        raise InputError(f'precision: expected "auto", "float32" or "float64", got {gm.precision!r}.')
    check_missing(gm.missing)
    if isinstance(gm.init_params, str) and gm.init_params not in METHODS:
        raise InputError(
            f"init_params: expected one of {', '.join(METHODS)} or an array, got {gm.init_params!r}."
        )


def _check_prior(gm: GaussianMixture) -> None:
    """Refuse what is no prior, and two that would compete."""
    if gm.prior is None:
        return
    if isinstance(gm.prior, NormalInverseWishart):
        gm.prior.check()
    elif gm.prior != "fraley-raftery":
        raise InputError(
            f'prior: expected None, "fraley-raftery" or a NormalInverseWishart, got {gm.prior!r}.'
        )
    if gm.reg_covar != "auto":
        raise InputError(
            f'reg_covar: expected "auto" beside a prior, which takes its place, got {gm.reg_covar!r}. Leave '
            "one of them out."
        )


def _check_noise(gm: GaussianMixture) -> None:
    """Refuse what is no noise."""
    noise: Any = gm.noise
    if noise is None or (isinstance(noise, str) and noise == "uniform"):
        return
    if isinstance(noise, bool | str) or not (isinstance(noise, Real) and 0 < float(noise) < np.inf):
        raise InputError(f'noise: expected None, "uniform" or a volume > 0, got {noise!r}.')


def _check_parameters(name: str, chosen: Iterable[str]) -> None:
    """Refuse names that are no parameters."""
    if isinstance(chosen, str) or not set(chosen) <= set(PARAMETERS):
        raise InputError(f"{name}: expected some of {', '.join(map(repr, PARAMETERS))}, got {chosen!r}.")


def _check_degenerate(gm: GaussianMixture) -> None:
    """Refuse what is no choice, and to drop components that something else holds."""
    check_choice("on_degenerate", gm.on_degenerate, CHOICES)
    held = "a prior" if gm.prior is not None else "fixed weights" if "weights" in gm.fixed else None
    if gm.on_degenerate == "drop" and held:
        raise InputError(
            f'on_degenerate: "drop" takes components away, but {held} would keep them. Choose another one.'
        )


def _check_start(gm: GaussianMixture) -> None:
    """Refuse starting values of the wrong shape or sign."""
    k = gm.n_components
    if gm.weights_init is not None:
        weights = np.asarray(gm.weights_init)
        total = weights.sum()
        whole = np.isclose(total, 1) if gm.noise is None else 0 < total < 1
        if weights.shape != (k,) or not np.all(weights >= 0) or not whole:
            of = "1" if gm.noise is None else "less than 1, the rest being the noise's"
            raise InputError(f"weights_init: expected ({k},) numbers >= 0 with sum {of}, got {weights!r}.")
    if gm.means_init is not None:
        means = np.asarray(gm.means_init)
        if means.ndim != 2 or len(means) != k or not np.all(np.isfinite(means)):
            raise InputError(f"means_init: expected ({k}, d) finite numbers, got shape {means.shape}.")
    if gm.precisions_init is not None:
        d = np.atleast_1d(gm.precisions_init).shape[-1]
        expected = COVARIANCES[gm.covariance_type].shape(k, d)
        if np.shape(gm.precisions_init) != expected:
            raise InputError(
                f"precisions_init: expected shape {expected}, got {np.shape(gm.precisions_init)}."
            )


def check_same_shape(gm: GaussianMixture, params: GaussianMixtureParams) -> None:
    """Refuse to continue a fit with settings that its estimates do not have."""
    fitted: dict[str, Any] = {
        "n_components": len(params.weights),
        "covariance_type": params.covariance_type,
    }
    if hasattr(gm, "noise"):
        fitted["noise"] = gm.model_.noise
    for name, value in fitted.items():
        if getattr(gm, name) != value:
            raise InputError(
                f"{name}: warm_start continues a fit with {value!r}, got {getattr(gm, name)!r}. Set it back, "
                "or warm_start=False."
            )
