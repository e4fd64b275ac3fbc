"""`BayesianGaussianMixture`: the Gaussian mixture with distributions over its parameters, as an estimator.

Parameters shared with scikit-learn's class of the same name have its names and meaning. The mathematics is
in `streamem.models.bayesian_mixture`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from numbers import Real
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from streamem.convergence import Callback, PassRecord
from streamem.errors import InputError
from streamem.estimators.gaussian_mixture import GaussianMixture, check_same_shape, check_settings
from streamem.models.bayesian_mixture import (
    WEIGHT_PRIORS,
    BayesianGaussianMixtureModel,
    BayesianGaussianMixtureParams,
)
from streamem.models.covariance import Array
from streamem.models.normal_wishart import NormalWishart

__all__ = ["BayesianGaussianMixture"]


class BayesianGaussianMixture(GaussianMixture):
    """A mixture of Gaussians under priors, fitted by variational Bayes, one pass over the rows per iteration.

    ``n_components`` is an upper limit: components that the rows do not ask for end with next to no weight.

    Parameters
    ----------
    n_components, covariance_type, tol, max_iter, n_init, init_params, random_state, warm_start, verbose
        As in `GaussianMixture`.
    reg_covar
        ``"auto"``: no more than columns that are constant or depend on others need. A number is added to the
        diagonal of the covariance of each component's rows, as scikit-learn does.
    weight_concentration_prior_type
        ``"dirichlet_process"`` (stick-breaking) or ``"dirichlet_distribution"``.
    weight_concentration_prior
        a > 0; the smaller, the fewer components. None is 1/k.
    mean_precision_prior
        β₀ > 0, how many rows the prior mean is worth. None is 1.
    mean_prior
        (d,) m₀. None is the mean of the rows, from the first pass.
    degrees_of_freedom_prior
        ν₀ > d − 1, how many rows the prior covariance is worth. None is d.
    covariance_prior
        Ψ₀: (d, d), (d,) or a number, as a component's covariance is kept, in squared units of the columns.
        None is the covariance of the rows, from the first pass.
    missing
        What happens to rows with NaN, as in `GaussianMixture`. ``"marginal"``: q covers the missing values
        too, and the ELBO is of what is observed.
    acceleration, sample_size, memory_limit, precision, callbacks
        As in `GaussianMixture`.

    Attributes
    ----------
    weights_, means_, covariances_, precisions_, precisions_cholesky_
        E[π], E[μ], E[Λ]⁻¹, E[Λ] and its factor, in the shapes of `GaussianMixture`.
    weight_concentration_
        (k,), or the two parameters (k,) of the Beta distributions of the process.
    mean_precision_, degrees_of_freedom_
        β (k,) and ν: (k,), or one number for tied covariances.
    weight_concentration_prior_, mean_precision_prior_, mean_prior_, degrees_of_freedom_prior_,
    covariance_prior_
        The prior that was used.
    lower_bound_, lower_bounds_
        The ELBO per unit weight, in nats, at the last pass and at each: all of it, so that it compares fits
        with other priors and numbers of components. (scikit-learn leaves constants out.)
    converged_, n_iter_, result_, n_features_in_
        As in `GaussianMixture`.

    Examples
    --------
    >>> import numpy as np, streamem as sem
    >>> rng = np.random.default_rng(0)
    >>> x = np.concatenate([rng.normal(-4, 1, (500, 2)), rng.normal(4, 1, (500, 2))])
    >>> bgm = sem.BayesianGaussianMixture(n_components=5, random_state=0, max_iter=500).fit(x)
    >>> int(np.sum(bgm.weights_ > 0.01))
    2
    """

    _params_type = BayesianGaussianMixtureParams

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-6,
        reg_covar: float | Literal["auto"] = "auto",
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str | NDArray[Any] = "kmeans",
        weight_concentration_prior_type: str = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: NDArray[Any] | None = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: NDArray[Any] | float | None = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        acceleration: Literal["auto", "anderson", "none"] = "auto",
        sample_size: int | Literal["auto"] = "auto",
        memory_limit: int | str | None = "1GiB",
        missing: Literal["raise", "drop", "marginal"] = "raise",
        precision: Literal["auto", "float32", "float64"] = "auto",
        callbacks: Iterable[Callback] = (),
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.acceleration = acceleration
        self.sample_size = sample_size
        self.memory_limit = memory_limit
        self.missing = missing
        self.precision = precision
        self.callbacks = callbacks

    def _model(self, fitted: bool = True) -> BayesianGaussianMixtureModel:
        check_settings(self)
        _check_prior(self)
        if fitted:
            check_same_shape(self, self.params_)
        start = self.init_params
        model = BayesianGaussianMixtureModel(
            self.n_components,
            self.covariance_type,
            self.weight_concentration_prior_type,
            self.weight_concentration_prior,
            self.mean_precision_prior,
            self.mean_prior,
            self.degrees_of_freedom_prior,
            None if self.covariance_prior is None else np.asarray(self.covariance_prior),
            self.reg_covar,
            start if isinstance(start, str) else np.asarray(start),
            self.precision,
        )
        same = fitted and all(_same(getattr(model, name), getattr(self.model_, name)) for name in OF_PRIOR)
        return replace(model, prior=self.model_.prior) if same else model

    @property
    def weight_concentration_(self) -> Array | tuple[Array, Array]:
        """(k,) of the Dirichlet distribution, or two (k,) of the Beta distributions of the process."""
        concentration: Array = self._fitted().weight_concentration
        return concentration if concentration.ndim == 1 else (concentration[0], concentration[1])

    @property
    def mean_precision_(self) -> Array:
        """(k,) β: μ_k | Λ_k ~ N(means_k, (β_k Λ_k)⁻¹)."""
        return np.asarray(self._fitted().mean_precision)

    @property
    def degrees_of_freedom_(self) -> Array:
        """(k,) ν of the Wishart distributions; () for tied covariances."""
        return np.asarray(self._fitted().degrees_of_freedom)

    @property
    def weight_concentration_prior_(self) -> float:
        """The prior's a."""
        return float(self._fitted_model().concentration)

    @property
    def mean_precision_prior_(self) -> float:
        """β₀."""
        return float(self._fitted_model().prior.precision)

    @property
    def mean_prior_(self) -> Array:
        """(d,) m₀."""
        return np.asarray(self._fitted_model().prior.mean)

    @property
    def degrees_of_freedom_prior_(self) -> float:
        """ν₀."""
        return float(self._fitted_model().prior.degrees)

    @property
    def covariance_prior_(self) -> Array:
        """Ψ₀: (d, d), (d,) or (), as a component's covariance is kept."""
        model = self._fitted_model()
        return np.asarray(model.shape.gram(model.prior.scale))

    def adapt(self, X: Any, **keywords: Any) -> Self:
        """Refuse: the priors here are one for all components."""
        raise InputError(
            f"{type(self).__name__}: adapt is for GaussianMixture, whose components can have priors of their "
            "own. Set mean_prior and covariance_prior instead."
        )

    def _prior_type(self, arrays: dict[str, Any]) -> type[Any]:
        return NormalWishart

    def _bound(self, record: PassRecord) -> float:
        return record.objective

    def _count(self) -> int:
        raise InputError(
            f"{type(self).__name__}: BIC, AIC and ICL are for maximum likelihood. Compare lower_bound_: it "
            "accounts for the parameters already."
        )


OF_PRIOR = (
    *("mean_precision_prior", "mean_prior", "degrees_of_freedom_prior", "covariance_prior"),
    "reg_covar",
)
"""What the prior of means and covariances comes from, beside the rows."""


def _same(a: Any, b: Any) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _check_prior(bgm: BayesianGaussianMixture) -> None:
    """Refuse a prior that is none; what depends on the columns is checked once they are known."""
    chosen = bgm.weight_concentration_prior_type
    if chosen not in WEIGHT_PRIORS:
        raise InputError(
            f"weight_concentration_prior_type: expected one of {', '.join(map(repr, WEIGHT_PRIORS))}, "
            f"got {chosen!r}."
        )
    for name in ("weight_concentration_prior", "mean_precision_prior", "degrees_of_freedom_prior"):
        value = getattr(bgm, name)
        if value is not None and not (isinstance(value, Real) and 0 < float(value) < np.inf):
            raise InputError(f"{name}: expected a number > 0 or None, got {value!r}.")
