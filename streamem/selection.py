"""How many components, and of which covariance type: many models fitted side by side, and compared.

All models share one first pass with its sample, and then each reading of the rows, so that a whole sweep
reads no more often than its slowest model does alone. Each model gets the numbers that it would get alone
(`streamem.em.share_passes`), leaves when it has converged, and is given up early when it is hopeless
(`streamem.estimators.sharing`).
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal

import numpy as np

from streamem.convergence import Callback, Status
from streamem.errors import ConvergenceWarning, InputError
from streamem.estimators.criteria import Criteria
from streamem.estimators.fitting import (
    ACCELERATIONS,
    as_generator,
    check_choice,
    fits_of,
    informed,
    log_pass,
    starts_of,
)
from streamem.estimators.gaussian_mixture import GaussianMixture
from streamem.estimators.heldout import ScoringReading, TrainingRows
from streamem.estimators.resident import sample_rows, summarize_rows
from streamem.estimators.resuming import Resume, described_model, open_kept
from streamem.estimators.rows import RowData, byte_limit, open_rows
from streamem.estimators.sharing import Fit, Reading, Worth, best_fit, best_of, hoped_gain, iterate_together
from streamem.models.heldout import HeldOut
from streamem.models.summary import DataSummary
from streamem.persistence import Checkpoint

__all__ = ["CRITERIA", "Criterion", "ModelSelection", "SelectedModel", "select"]

Criterion = Literal["bic", "aic", "icl", "heldout"]
CRITERIA: tuple[Criterion, ...] = ("bic", "aic", "icl", "heldout")
HELDOUT_SHARE = 0.2
FAILURES = (InputError, ArithmeticError, np.linalg.LinAlgError)
"""What may go wrong with one model and not with others."""


@dataclass(frozen=True, slots=True, eq=False)
class SelectedModel:
    """One row of the table: a model that was tried."""

    n_components: int
    """k."""
    covariance_type: str
    """As in `GaussianMixture`."""
    n_parameters: int
    """Free parameters."""
    message: str
    """Why the fit stopped, or what went wrong."""
    status: Status | None = None
    """The same for programs; None where it failed."""
    log_likelihood: float = np.nan
    """Mean log-likelihood per unit weight of the rows that were fitted, nats."""
    bic: float = np.nan
    """Lower is better, as with all criteria but ``heldout``."""
    aic: float = np.nan
    """−2ℓ + 2p."""
    icl: float = np.nan
    """BIC + 2H."""
    heldout: float = np.nan
    """Mean log-likelihood per unit weight of the rows held out, nats; higher is better."""
    n_passes: int = 0
    """Passes that the model took part in, over all its starts the most."""
    model: GaussianMixture | None = None
    """The fitted estimator; None where the fit failed."""

    @property
    def dropped(self) -> bool:
        """Whether it was given up before it converged."""
        return self.status is Status.DROPPED


@dataclass(frozen=True, slots=True, eq=False)
class ModelSelection:
    """What `select` returns."""

    best_row: SelectedModel
    """The row of the best model."""
    criterion: Criterion
    """By what it is the best."""
    table: tuple[SelectedModel, ...]
    """All models in the order of the grid."""
    n_passes: int
    """Readings of the rows that all models shared; the first one, which samples, is not counted."""

    @property
    def best(self) -> GaussianMixture:
        """The fitted estimator of the best model."""
        assert self.best_row.model is not None
        return self.best_row.model

    def curves(self, criterion: Criterion | None = None) -> dict[str, tuple[list[int], list[float]]]:
        """Return, for each covariance type, numbers of components and the values of a criterion there."""
        curves: dict[str, tuple[list[int], list[float]]] = {}
        for row in sorted(self.table, key=lambda row: row.n_components):
            value = getattr(row, criterion or self.criterion)
            if np.isfinite(value):
                counts, values = curves.setdefault(row.covariance_type, ([], []))
                counts.append(row.n_components)
                values.append(value)
        return curves


def select(
    X: Any,
    n_components: int | Iterable[int] = range(1, 11),
    covariance_type: str | Iterable[str] = "full",
    criterion: Criterion = "bic",
    *,
    sample_weight: Any = None,
    heldout_share: float | None = None,
    drop_hopeless: bool = True,
    scratch: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    resume: Resume = False,
    storage_options: Mapping[str, Any] | None = None,
    scheduler: str | None = None,
    client: Any = None,
    callbacks: Iterable[Callback] = (),
    **settings: Any,
) -> ModelSelection:
    """Fit Gaussian mixtures of several sizes and covariance types in shared passes, and choose one.

    Parameters
    ----------
    X
        (n, d) rows: an array, a path or URL, a zarr or dask array; see `streamem.as_source`.
    n_components
        Numbers of components to try, such as ``range(1, 21)``.
    covariance_type
        Covariance types to try with each: ``"full"``, or ``("full", "diag")``.
    criterion
        ``"bic"``, ``"aic"``, ``"icl"`` (BIC plus twice the entropy of the responsibilities: wants components
        apart), or ``"heldout"``: the mean log-likelihood of rows that no model was fitted to.
    sample_weight
        (n,) weights >= 0: 0 leaves a row out, an integer repeats it.
    heldout_share
        Share of the rows to hold out, chosen by a hash of their index and scored in the same passes; by
        default 0.2 with ``criterion="heldout"`` and none otherwise.
    drop_hopeless
        Whether to give up a model that would fall short of one that has converged even if it gained 100
        times the largest of its last five estimates of what it will gain; the table says which. A model that
        leaves a saddle late can be misjudged. With False each model is fitted to its end.
    scratch, checkpoint, resume, storage_options, scheduler, client, callbacks
        As in `streamem.fit`. A callback sees one event per shared reading.
    settings
        Further parameters of `GaussianMixture`: ``tol``, ``max_iter``, ``n_init``, ``random_state``,
        ``acceleration``, ``memory_limit``, ``reg_covar``, ``precision``, ...

    Returns
    -------
    ModelSelection
        ``best``, the fitted estimator, and ``table``, one `SelectedModel` for each model. A model that cannot
        be fitted, say for want of rows, is reported there and harms no other. Values of a fit that did not
        converge are those of the parameters that entered its last pass.

    Raises
    ------
    InputError, NonFiniteError, SourceError, MemoryLimitError
        If settings or data cannot be used, or no model can be fitted.

    Notes
    -----
    Each model that was not dropped is bit for bit what ``GaussianMixture(k, ...).fit(X)`` gives with the same
    settings and seed; with rows held out, what it gives where those have a ``sample_weight`` of 0.

    Where the statistics of all models would take more than an eighth of ``memory_limit``, some wait until
    others are done.

    Examples
    --------
    >>> import numpy as np, streamem as sem
    >>> rng = np.random.default_rng(0)
    >>> x = np.concatenate([rng.normal(m, 1, (400, 2)) for m in (-6, 0, 6)])
    >>> found = sem.select(x, range(1, 6), ("full", "diag"), random_state=0)
    >>> found.best.n_components, found.best.covariance_type, len(found.table)
    (3, 'diag', 10)
    """
    check_choice("criterion", criterion, CRITERIA)
    given_seed = settings.get("random_state")
    settings["random_state"] = seed = _seed(given_seed)
    trials = [
        Trial(GaussianMixture(k, covariance_type=shape, **settings))
        for shape, k in _grid(n_components, covariance_type)
    ]
    first = trials[0].estimator
    check_choice("acceleration", first.acceleration, ACCELERATIONS)
    limit, share = byte_limit(first.memory_limit), _share(criterion, heldout_share)
    with open_rows(
        X,
        sample_weight,
        memory_limit=limit,
        scheduler=scheduler,
        client=client,
        callbacks=(functools.partial(log_pass, logging.INFO if first.verbose else logging.DEBUG), *callbacks),
        passes=True,
        scratch=scratch,
        missing=first.missing,
        storage_options=storage_options,
        output=checkpoint,
    ) as data:
        if data.labelled:
            raise InputError(
                f"y: select compares models without labels, but {data.source.name} has some. Leave them out, "
                "or fit each model on its own."
            )
        capacities = [
            sample_rows(trial.model, data.source, first.sample_size, limit, first.acceleration)
            for trial in trials
        ]
        whose = _whose(trials, given_seed, share, drop_hopeless and criterion, max(capacities))
        kept = open_kept(checkpoint, resume, data, whose, seed)
        rng = as_generator(kept.seed if kept else seed)
        sample_seed, heldout_seed = (int(rng.integers(2**63)) for _ in range(2))
        heldout = None if share is None else HeldOut(share, heldout_seed)
        rows = (
            data
            if heldout is None
            else TrainingRows(data.source, data.scheduler, data.callbacks, data.missing, heldout)
        )
        summary = (kept.summary if kept else summarize_rows)(rows, max(capacities), sample_seed)
        counts = kept.counts if kept and kept.stored else [0] * len(trials)
        for trial, capacity, count in zip(trials, capacities, counts, strict=True):
            trial.estimator.random_state = kept.seed if kept else seed
            trial.start(data, summary, capacity, count)
        slowest_first = sorted(trials, key=lambda trial: -trial.n_parameters)
        fits = [fit for trial in slowest_first for fit in trial.fits]
        reading = Reading(data) if heldout is None else ScoringReading(data, heldout=heldout, fits=fits)
        judge = Judge(criterion, data.source.n_features, reading.scores)
        if kept and kept.stored:
            kept.restored(fits)
        elif kept:
            kept.counts = [len(trial.fits) for trial in trials]
        iterate_together(fits, reading, limit, judge.worth if drop_hopeless else None, kept)
    table = tuple(trial.row(judge) for trial in trials)
    best = _best(table, criterion, trials)
    if best.status not in (Status.CONVERGED, Status.CALLBACK):
        warnings.warn(f"{_title(best)}: {best.message}", ConvergenceWarning, stacklevel=2)
    return ModelSelection(best, criterion, table, reading.n_passes)


def _seed(random_state: Any) -> int:
    """Return a seed that all models share, so that each can be fitted alone to the same bits."""
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        return int(random_state)
    return int(as_generator(random_state).integers(2**31))


def _grid(n_components: int | Iterable[int], covariance_type: str | Iterable[str]) -> list[tuple[str, int]]:
    """Return all pairs, each once; by covariance type, then by size."""
    types = [covariance_type] if isinstance(covariance_type, str) else list(covariance_type)
    counts = list(n_components) if isinstance(n_components, Iterable) else [n_components]
    if not types or not counts:
        raise InputError(
            f"select: nothing to choose from, with n_components={counts} and covariance_type={types}. "
            "Give at least one of each."
        )
    return list(dict.fromkeys((shape, k) for shape in types for k in counts))


def _share(criterion: Criterion, share: float | None) -> float | None:
    """Return what share of the rows is held out, if any is."""
    if share is None and criterion != "heldout":
        return None
    share = HELDOUT_SHARE if share is None else share
    if not (isinstance(share, Real) and 0 < share < 1):
        raise InputError(f"heldout_share: expected a number between 0 and 1, got {share!r}.")
    return float(share)


def _whose(
    trials: Sequence[Trial], random_state: Any, share: float | None, dropping: Any, capacity: int
) -> dict[str, Any]:
    """Return what decides the bits of a sweep, described."""
    first = trials[0].estimator
    names = ("tol", "n_init", "acceleration", "missing")
    return {
        **described_model(trials[0].model),
        **{name: getattr(first, name) for name in names},
        "n_components": ", ".join(f"{trial.estimator.n_components}" for trial in trials),
        "covariance_type": ", ".join(trial.estimator.covariance_type for trial in trials),
        "random_state": None if random_state is None else f"seed {first.random_state}",
        "heldout_share": share,
        "drop_hopeless": dropping,
        "sample_size": capacity,
    }


@dataclass(slots=True, eq=False)
class Trial:
    """A model that is tried: its estimator, and its fits once there is a sample to start them on."""

    estimator: GaussianMixture
    """What will hold the estimates."""
    model: Any = field(init=False)
    """The model that its settings mean."""
    n_parameters: int = 0
    """Free parameters."""
    fits: list[Fit] = field(default_factory=list)
    """One, or one for each start."""
    error: Exception | None = None
    """What was in the way of fitting it."""

    def __post_init__(self) -> None:
        self.model = self.estimator._model(fitted=False)

    def start(self, data: RowData, summary: DataSummary, capacity: int, count: int) -> None:
        """Make the fits, on the sample that the model would have alone; ``count`` > 0 are to go on."""
        own, sample = self.estimator, summary.sample.leading(capacity)
        self.model = informed(self.model, summary)
        self.n_parameters = self.model.n_parameters(data.source.n_features)
        rng = as_generator(own.random_state)
        try:
            starts = [None] * count or starts_of(
                self.model, data, sample, own.acceleration, own.tol, own.n_init, rng
            )
            self.fits = fits_of(self.model, data, sample, own.acceleration, own.tol, own.max_iter, starts)
        except FAILURES as error:
            self.error = error

    def row(self, judge: Judge) -> SelectedModel:
        """Return the row of the table."""
        own = self.estimator
        row = SelectedModel(own.n_components, own.covariance_type, self.n_parameters, str(self.error))
        if self.error is not None:
            return row
        try:
            fit, result = best_fit(self.fits), best_of(self.fits)
        except FAILURES as error:
            self.error = error
            return replace(row, message=str(error))
        row = replace(row, message=result.status.value, status=result.status)
        if fit.best is None:  # interrupted before its turn
            return row
        own._take(result)
        count = own._count()  # fewer than at the start where components were dropped
        criteria = Criteria.of(result.stats, count)
        return replace(
            row,
            n_parameters=count,
            log_likelihood=result.stats.log_likelihood / result.stats.weight,
            bic=criteria.bic,
            aic=criteria.aic,
            icl=criteria.icl,
            heldout=judge.heldout(fit.best.params),
            n_passes=max(len(fit.history) for fit in self.fits),
            model=own,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Says how good fits are by a criterion, in nats per unit weight."""

    criterion: Criterion
    """By what."""
    n_features: int
    """d."""
    scores: Mapping[Any, float]
    """Held-out log-likelihoods of the parameters that passes evaluated."""

    def heldout(self, params: Any) -> float:
        """Return the mean log-likelihood of the rows held out; NaN where there are none."""
        return self.scores.get(params, np.nan)

    def worth(self, fit: Fit) -> Worth:
        """Return how good a fit is; an ICL may yet lose all its entropy."""
        assert fit.best is not None
        gain = hoped_gain(fit)
        if self.criterion == "heldout":
            now = self.heldout(fit.best.params)
            return Worth(now, now + gain)
        criteria = Criteria.of(fit.best.stats, fit.model.n_parameters(self.n_features))  # type: ignore[attr-defined]
        value = getattr(criteria, self.criterion)
        bound = criteria.bic if self.criterion == "icl" else value
        scale = -2 * fit.best.stats.weight
        return Worth(value / scale, bound / scale + gain)


def _best(table: Sequence[SelectedModel], criterion: Criterion, trials: Sequence[Trial]) -> SelectedModel:
    """Return the best row; of equals that with the fewest parameters, then the first."""
    sign = -1 if criterion == "heldout" else 1
    finite = [row for row in table if np.isfinite(getattr(row, criterion))]
    if finite:
        return min(finite, key=lambda row: (sign * getattr(row, criterion), row.n_parameters))
    for trial in trials:
        if trial.error is not None:
            raise trial.error
    raise InputError(
        f"select: no model has a finite {criterion}. Give more rows, or another share of them to hold out."
    )


def _title(row: SelectedModel) -> str:
    return f"{row.n_components} components, {row.covariance_type}"
