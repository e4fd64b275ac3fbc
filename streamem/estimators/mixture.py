"""What every mixture estimator does: fit, predict, score, compare, whatever its components are.

A subclass says which model its settings mean and names its estimates; see
`streamem.estimators.gaussian_mixture`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from streamem.convergence import Callback, FitResult, PassEnded, PassProgress, PassRecord, PassStarted, Status
from streamem.errors import ConvergenceWarning, InputError, NotFittedError
from streamem.estimators.criteria import Criteria
from streamem.estimators.fitting import fit
from streamem.estimators.parameters import Parameterised
from streamem.estimators.places import refuse_input_as_output
from streamem.estimators.resuming import Resume
from streamem.estimators.rows import RowData, open_rows
from streamem.persistence import Checkpoint
from streamem.protocols import Rows
from streamem.reduce import map_rows
from streamem.sinks import open_sink
from streamem.sources.opening import is_url

__all__ = ["MixtureEstimator"]

PLACES = ("scheduler", "client", "callbacks", "storage_options")


class MixtureEstimator(Parameterised):
    """A mixture model as an estimator; ``params_`` and ``stats_`` are all that it estimates."""

    n_components: int
    tol: float
    max_iter: int
    n_init: int
    random_state: Any
    warm_start: bool
    verbose: int
    acceleration: Any
    sample_size: Any
    memory_limit: int | str | None
    missing: Any
    callbacks: Iterable[Callback]
    params_: Any
    model_: Any
    stats_: Any

    def _model(self, fitted: bool = True) -> Any:
        """Return the model that the settings mean, checked; ``fitted`` with what it took from the rows."""
        raise TypeError(f"{type(self).__name__} names no model.")

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        scratch: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
        resume: Resume = False,
        storage_options: Mapping[str, Any] | None = None,
        scheduler: str | None = None,
        client: Any = None,
        callbacks: Iterable[Callback] = (),
    ) -> Self:
        """Fit to rows of any source and return the estimator.

        Parameters
        ----------
        X
            (n, d): an array, a path or URL, a zarr or dask array; see `streamem.as_source`.
        y
            (n,) labels, of any of these kinds: the component, from 0, that a row is known to come from, or −1
            where that is unknown; None where it is of all rows. A row with a label adds
            log π_c p_c(x) to the log-likelihood, and its component starts from such rows.
        sample_weight
            (n,) weights >= 0, of any of these kinds.
        scratch
            A folder for an uncompressed copy of the rows while the fit runs; see `streamem.fit`.
        checkpoint, resume
            Where to write after each pass what the fit needs to go on, and whether to go on from there; see
            `streamem.fit`.
        storage_options
            For fsspec, with whatever is given by URL: rows, weights, checkpoint; see `streamem.fit`.
        scheduler
            "threads" (default), "synchronous", "processes", or the address of a Dask scheduler.
        client
            A `distributed.Client`.
        callbacks
            Further callbacks for this fit only.

        Raises
        ------
        InputError, NonFiniteError, SourceError, MemoryLimitError
            If settings or data cannot be used.
        """
        warm = self.warm_start and hasattr(self, "params_")
        model = self._model(fitted=warm)
        result = fit(
            model,
            X,
            self.params_ if warm else None,
            sample_weight=sample_weight,
            y=y,
            tol=self.tol,
            max_iter=self.max_iter,
            n_init=self.n_init,
            random_state=self.random_state,
            acceleration=self.acceleration,
            sample_size=self.sample_size,
            memory_limit=self.memory_limit,
            missing=self.missing,
            scratch=scratch,
            checkpoint=checkpoint,
            resume=resume,
            storage_options=storage_options,
            scheduler=scheduler,
            client=client,
            callbacks=(*self.callbacks, *callbacks),
            verbose=self.verbose,
        )
        self._take(result)
        self._warn(result.status)
        return self

    def _warn(self, status: Status) -> None:
        """Say to the caller's caller that a fit did not converge."""
        if status not in (Status.CONVERGED, Status.CALLBACK):
            warnings.warn(status.value, ConvergenceWarning, stacklevel=3)

    def _take(self, result: FitResult[Any]) -> None:
        """Take over what a fit reached."""
        self.result_ = result
        self._adopt(result.params, result.stats)
        self.model_ = result.model
        self.converged_ = result.status is Status.CONVERGED
        self.n_iter_ = len(result.history)
        self.lower_bounds_ = [self._bound(record) for record in result.history]

    def fit_predict(self, X: Any, y: Any = None, **keywords: Any) -> NDArray[np.int64]:
        """Fit, then return the most probable component of each row, (n,), whatever its label."""
        where = {name: keywords[name] for name in PLACES if name in keywords}
        if not is_url(X):
            where.pop("storage_options", None)
        return self.fit(X, y, **keywords).predict(X, **where)  # type: ignore[no-any-return]

    def predict(self, X: Any, *, out: Any = None, **where: Any) -> Any:
        """Return the most probable component of each row, (n,) int64; with ``out``, write them there.

        Rows that are more likely noise, where the mixture has some, get −1.

        Parameters
        ----------
        X
            (n, d) rows of any source.
            With ``missing="marginal"``, results are given what is observed of each row, and the most probable
            component of all where nothing is. With "drop", rows with NaN get −1 here, and NaN from
            `predict_proba` and `score_samples`.
        out
            A path ending in ``.npy``, any other path or URL for zarr, or a zarr array. A path or URL holds
            all results or nothing: see `streamem.sinks`.
        where
            ``scheduler``, ``client``, ``callbacks`` as in `fit`; ``storage_options`` with whatever is given
            by URL, ``X`` or ``out``; ``overwrite=True`` to replace ``out``.
        """
        return self._rowwise("labels", X, (), np.int64, out, **where)

    def predict_proba(self, X: Any, *, out: Any = None, **where: Any) -> Any:
        """Return responsibilities p(z=k|x), (n, k); with ``out``, write them there. See `predict`."""
        return self._rowwise("responsibilities", X, (len(self._fitted().weights),), np.float64, out, **where)

    def score_samples(self, X: Any, *, out: Any = None, **where: Any) -> Any:
        """Return log p(x) of each row in nats, (n,); with ``out``, write them there. See `predict`."""
        return self._rowwise("score_samples", X, (), np.float64, out, **where)

    def _rowwise(
        self,
        method: str,
        X: Any,
        trailing_shape: tuple[int, ...],
        dtype: Any,
        out: Any,
        **where: Any,
    ) -> Any:
        """Write what a method of the model says of each row; rows that are dropped get −1 or NaN."""
        function = functools.partial(getattr(self._fitted_model(), method), self._fitted())
        if self.missing == "drop":
            function = functools.partial(_of_complete_rows, function, np.dtype(dtype))
        missing = "raise" if self.missing == "raise" else "marginal"
        return self._write_rows(function, X, trailing_shape, dtype, out, missing=missing, **where)

    def _write_rows(
        self,
        function: Callable[[Rows], NDArray[Any]],
        X: Any,
        trailing_shape: tuple[int, ...],
        dtype: Any,
        out: Any,
        *,
        missing: str,
        overwrite: bool = False,
        scheduler: str | None = None,
        client: Any = None,
        callbacks: Iterable[Callback] = (),
        storage_options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Write ``function(rows)`` of all rows to ``out``; a dtype of None is that of the rows."""
        with self._open(X, None, None, scheduler, client, callbacks, missing, storage_options, out) as data:
            blocks = data.source.blocks()
            refuse_input_as_output(X, data.source, out)
            sink = open_sink(
                out,
                n_samples=data.source.n_samples,
                trailing_shape=trailing_shape,
                dtype=np.dtype(data.source.dtype if dtype is None else dtype),
                block_rows=blocks[0].stop - blocks[0].start,
                overwrite=overwrite,
                storage_options=storage_options if is_url(out) else None,
            )
            data.notify(PassStarted("predict", 0, data.source.n_samples, data.bytes_per_pass))
            with sink:
                map_rows(
                    function,
                    data.source,
                    sink,
                    data.scheduler,
                    lambda rows: data.notify(PassProgress("predict", 0, rows)),
                )
                result = sink.commit()
            data.notify(PassEnded("predict", 0))
            return result

    def score(self, X: Any, y: Any = None, *, sample_weight: Any = None, **where: Any) -> float:
        """Return the mean log-likelihood per unit weight of the rows, and of labels as in `fit`, in nats."""
        stats = self.summarize(X, y, sample_weight=sample_weight, **where)
        return float(stats.log_likelihood / stats.weight)

    def summarize(
        self,
        X: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        scheduler: str | None = None,
        client: Any = None,
        callbacks: Iterable[Callback] = (),
        storage_options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the expected sufficient statistics of the rows under the estimates: one pass.

        ``y`` are labels as in `fit`.

        Statistics of other rows merge (``a.merge(b)``), and `update` takes the M-step of the sum.
        """
        e_step = functools.partial(self._fitted_model().e_step, self._fitted())
        with self._open(
            X, sample_weight, y, scheduler, client, callbacks, self.missing, storage_options
        ) as data:
            stats = data.one_pass(e_step, "score", 0).stats
            data.notify(PassEnded("score", 0))
            return stats

    def update(self, stats: Any) -> Self:
        """Take one M-step from statistics that `summarize` made, and return the estimator."""
        self._adopt(self._fitted_model().m_step(self._fitted(), stats), stats)
        return self

    def bic(self, X: Any = None, *, effective: Literal["weight", "kish"] = "weight") -> float:
        """Return −2ℓ + p log n; lower is better.

        n is the total weight Σ w, right where a weight of 2 is a row seen twice. Weights that only say how
        much a row should count have no scale; ``effective="kish"`` scales them, in ℓ as in n, to the number
        of equal rows that would tell as much, (Σ w)²/Σ w² (Kish 1965, section 11.7).

        Without ``X``, of the fitted rows and without another pass: exact for a converged fit; otherwise of
        the parameters that entered the last pass, which the estimates improve on.
        """
        stats = self._stats(X)
        if effective == "weight":
            return Criteria.of(stats, self._count()).bic
        if effective != "kish":
            raise InputError(f'effective: expected "weight" or "kish", got {effective!r}.')
        squares = getattr(stats, "weight_squares", np.nan)
        if not np.isfinite(squares):
            raise InputError("effective: the squares of the weights of these rows are not known. Pass X.")
        return Criteria.of(stats.scaled(stats.weight / squares), self._count()).bic

    def aic(self, X: Any = None) -> float:
        """Return −2ℓ + 2p; lower is better. See `bic` for ``X``."""
        return self._criteria(X).aic

    def icl(self, X: Any = None) -> float:
        """Return BIC + 2H, H the entropy of the responsibilities; lower is better. See `bic` for ``X``."""
        return self._criteria(X).icl

    def _criteria(self, X: Any) -> Criteria:
        return Criteria.of(self._stats(X), self._count())

    def _count(self) -> int:
        """Return the number of free parameters."""
        return int(self._fitted_model().n_parameters(self.n_features_in_))

    def _stats(self, X: Any) -> Any:
        """Return statistics of ``X``, or of the fitted rows where ``X`` is None."""
        if X is not None:
            return self.summarize(X)
        self._fitted()
        if self.stats_ is None:
            raise NotFittedError(f"{type(self).__name__}: no pass was completed. Pass X.")
        return self.stats_

    def _bound(self, record: PassRecord) -> float:
        """Return what ``lower_bounds_`` lists of a pass."""
        return record.log_likelihood

    def _adopt(self, params: Any, stats: Any) -> None:
        """Take over estimates."""
        self.params_, self.stats_ = params, stats

    def _fitted(self) -> Any:
        """Return the estimates, or say that there are none."""
        if not hasattr(self, "params_"):
            raise NotFittedError(f"{type(self).__name__} has no estimates yet. Call fit first.")
        return self.params_

    def _fitted_model(self) -> Any:
        """Return the model of the estimates, whatever the settings have become since."""
        self._fitted()
        return self.model_

    @property
    def n_features_in_(self) -> int:
        """Columns of the rows that were fitted."""
        return int(self._fitted().means.shape[1])

    @property
    def lower_bound_(self) -> float:
        """Mean log-likelihood per unit weight, in nats, of the parameters that entered the last pass."""
        self._fitted()
        return float(self.lower_bounds_[-1])

    @contextlib.contextmanager
    def _open(
        self,
        X: Any,
        sample_weight: Any,
        y: Any,
        scheduler: str | None,
        client: Any,
        callbacks: Iterable[Callback],
        missing: str,
        storage_options: Mapping[str, Any] | None,
        out: Any = None,
    ) -> Iterator[RowData]:
        """Open rows and check that they have the columns of the fit."""
        with open_rows(
            X,
            sample_weight,
            memory_limit=self.memory_limit,
            scheduler=scheduler,
            client=client,
            callbacks=(*self.callbacks, *callbacks),
            missing=missing,
            storage_options=storage_options,
            output=out,
            y=y,
        ) as data:
            if data.source.n_features != self.n_features_in_:
                raise InputError(
                    f"{data.source.name}: {data.source.n_features} columns, but the fit had "
                    f"{self.n_features_in_}. Pass the same columns."
                )
            yield data


def _of_complete_rows(function: Callable[[Rows], NDArray[Any]], dtype: np.dtype[Any], rows: Rows) -> Any:
    """Return a result for each row: −1 or NaN where a value is missing."""
    if rows.complete:
        return function(rows)
    kept = ~np.isnan(rows.x).any(axis=1)
    results = function(Rows(rows.x[kept], None, rows.start))
    out = np.full((len(rows.x), *results.shape[1:]), -1 if dtype.kind == "i" else np.nan, dtype)
    out[kept] = results
    return out
