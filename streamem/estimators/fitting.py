"""From data to a fit: open the rows, look at them once, start on the sample, iterate over all of them.

`fit` serves every model, the built-in ones and a user's own; estimators are thin over it.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from streamem.convergence import Callback, FitEvent, FitResult, PassEnded
from streamem.em import Ascent
from streamem.errors import InputError
from streamem.estimators.resident import (
    accelerator,
    best_on_sample,
    sample_rows,
    starts,
    summarize_rows,
)
from streamem.estimators.resuming import Resume, described, described_model, open_kept
from streamem.estimators.rows import RowData, byte_limit, open_rows
from streamem.estimators.sharing import Fit, Reading, best_of, iterate_together
from streamem.models.summary import DataSummary, Sample
from streamem.persistence import Checkpoint
from streamem.protocols import Model, Stats

__all__ = [
    "ACCELERATIONS",
    "as_generator",
    "check_choice",
    "fit",
    "fits_of",
    "informed",
    "log_pass",
    "starts_of",
]

P = TypeVar("P")
S = TypeVar("S", bound=Stats)

log = logging.getLogger("streamem")

ACCELERATIONS = ("auto", "anderson", "none")


def fit(
    model: Model[P, S],
    x: Any,
    params: P | None = None,
    *,
    sample_weight: Any = None,
    y: Any = None,
    tol: float = 1e-6,
    max_iter: int = 100,
    n_init: int = 1,
    random_state: Any = None,
    acceleration: Literal["auto", "anderson", "none"] = "auto",
    sample_size: int | Literal["auto"] = "auto",
    memory_limit: int | str | None = "1GiB",
    missing: Literal["raise", "drop", "marginal"] = "raise",
    scratch: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    resume: Resume = False,
    storage_options: Mapping[str, Any] | None = None,
    scheduler: str | None = None,
    client: Any = None,
    callbacks: Iterable[Callback] = (),
    verbose: int = 0,
) -> FitResult[P]:
    """Fit any model by expectation-maximisation, reading the rows once per iteration.

    Parameters
    ----------
    model
        An object with ``init``, ``e_step`` and ``m_step``, as `streamem.protocols.Model` says.
    x
        (n, d) rows: an array, a path or URL, a zarr or dask array; see `streamem.sources.as_source`.
    params
        Where to start. Without it, a first pass samples the rows and ``model.init`` starts from those.
    sample_weight
        (n,) weights >= 0: 0 leaves a row out, an integer repeats it.
    y
        (n,) labels, of any of the kinds of ``x``: the component, from 0, that a row is known to come from, or
        −1 where that is unknown. For models with ``takes_labels = True`` only.
    tol
        Nats per unit weight: stop when the estimated remaining gain is below it.
    max_iter
        Passes at most, the sampling pass not counted.
    n_init
        Starts to try. They compete on the sample with ``acceleration="auto"``; otherwise on all rows, where
        they share each reading.
    random_state
        Seed, `numpy.random.Generator` or ``RandomState``.
    acceleration
        ``"auto"``: EM on the resident sample first, then passes over all rows that correct the sample;
        ``"anderson"``: Anderson acceleration from the start; ``"none"``: textbook EM from the start. All
        have the same fixed points; see `streamem.acceleration` and `streamem.corrected_sample`.
    sample_size
        Rows of the resident sample; ``"auto"`` follows the memory limit and the number of parameters. More
        than 200 rows for each of these, and 20,000, are for data of which so many say too little.
    memory_limit
        Bytes for data in memory, such as ``"1GiB"``; None for no limit, and then nothing is kept between
        passes.
    missing
        What happens to rows with NaN. ``"raise"``: an error in the pass that reads them; ``"drop"``: they
        count as absent, which is biased unless values are missing completely at random; ``"marginal"``: the
        model gets them as they are, for models with ``takes_missing = True`` only.
    scratch
        A folder for an uncompressed copy of the rows, made by the first pass, read by the others, and
        removed: for stores that are slow to decode or far away. Threads only.
    checkpoint
        A folder or URL, or a `streamem.Checkpoint`: what the fit needs to go on is written there after each
        pass, the first one included. Parameters and statistics of an own model must be numbers, strings,
        arrays, or dataclasses, lists, tuples or dictionaries of those; its public attributes count as its
        settings.
    resume
        Whether to go on from the newest checkpoint there, to the same bits as without a break. True: there
        must be one; ``"auto"``: start anew where there is none; False: there must be none. ``max_iter``,
        ``scheduler``, ``client``, ``scratch``, ``callbacks`` and ``verbose`` may be others than before.
    storage_options
        For fsspec, with whatever is given by URL here: rows, weights, checkpoint. They travel to workers with
        the source, and are never logged or written. Without them, credentials come from the environment.
    scheduler, client
        Where to run: see `streamem.reduce.open_scheduler`.
    callbacks
        Called with each `streamem.convergence.FitEvent`; one that returns True ends the fit.
    verbose
        Log each pass at level INFO of the logger "streamem" instead of DEBUG.

    Returns
    -------
    FitResult

    Raises
    ------
    InputError, NonFiniteError, SourceError, MemoryLimitError
        If the data cannot be used, or a checkpoint is of another fit; the message says where and what to do.

    Examples
    --------
    A model of one's own: rows from an exponential distribution with unknown rate, nothing latent.

    >>> from dataclasses import dataclass
    >>> import numpy as np, streamem
    >>> @dataclass(frozen=True)
    ... class Sums:
    ...     n_samples: int
    ...     weight: float
    ...     log_likelihood: float
    ...     total: float
    ...     def merge(self, other):
    ...         return Sums(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))
    >>> class Exponential:
    ...     def init(self, sample, rng):
    ...         return 1.0
    ...     def e_step(self, rate, rows):
    ...         n, total = len(rows.x), float(rows.x.sum())
    ...         return Sums(n, n, n * np.log(rate) - rate * total, total)
    ...     def m_step(self, rate, stats):
    ...         return stats.weight / stats.total
    >>> x = np.array([[1.0], [2.0], [6.0]])
    >>> streamem.fit(Exponential(), x).params
    0.3333333333333333
    """
    check_choice("acceleration", acceleration, ACCELERATIONS)
    if missing == "marginal" and not getattr(model, "takes_missing", False):
        raise InputError(
            f'missing="marginal": {type(model).__name__} does not say that it takes rows with NaN '
            '(takes_missing = True). Pass missing="drop", or fill the values.'
        )
    rng = as_generator(random_state)
    with open_rows(
        x,
        sample_weight,
        memory_limit=memory_limit,
        scheduler=scheduler,
        client=client,
        callbacks=(functools.partial(log_pass, logging.INFO if verbose else logging.DEBUG), *callbacks),
        passes=True,
        scratch=scratch,
        missing=missing,
        storage_options=storage_options,
        output=checkpoint,
        y=y,
    ) as data:
        _check_labels(model, data)
        limit, seed = byte_limit(memory_limit), int(rng.integers(2**63))
        sampled = params is None or getattr(model, "uninformed", False)
        capacity = sample_rows(model, data.source, sample_size, limit, acceleration) if sampled else 0
        settings = {
            "params": described(params),
            "tol": tol,
            "n_init": n_init,
            "acceleration": acceleration,
            "sample_size": capacity,
            "missing": missing,
            "random_state": None if random_state is None else f"seed {seed}",
        }
        kept = open_kept(checkpoint, resume, data, described_model(model) | settings, seed)
        sample = None
        if sampled:
            summarize = kept.summary if kept else summarize_rows
            k = getattr(model, "n_components", 0)
            summary = summarize(data, capacity, kept.seed if kept else seed, k)
            model = informed(model, summary)
            sample = summary.sample if params is None else None
        if kept:
            kept.learn_types(model, params, sample)
        begin = functools.partial(fits_of, model, data, sample, acceleration, tol, max_iter)
        if kept and kept.n_fits:
            fits = kept.restored(begin([params] * kept.n_fits))
        else:
            fits = begin(
                starts_of(model, data, sample, acceleration, tol, n_init, rng)
                if sample is not None
                else [params]
            )
        iterate_together(fits, Reading(data), limit, kept=kept)
        return best_of(fits)


def _check_labels(model: Any, data: RowData) -> None:
    """Refuse labels to models that would ignore them, and where components may get other numbers."""
    if not data.labelled:
        return
    if not getattr(model, "takes_labels", False):
        raise InputError(
            f"y: {type(model).__name__} does not say that it heeds labels (takes_labels = True), but "
            f"{data.source.name} has some. Leave them out."
        )
    if getattr(model, "on_degenerate", None) == "drop":
        raise InputError(
            'y: labels name components by number, but on_degenerate="drop" would renumber them. Choose '
            '"reseed", "freeze" or "raise".'
        )


def informed(model: Any, summary: DataSummary) -> Any:
    """Return the model with what it takes from the first pass, if it takes anything."""
    return model.informed_by(summary) if hasattr(model, "informed_by") else model


def starts_of(
    model: Any,
    data: RowData,
    sample: Sample,
    acceleration: str,
    tol: float,
    n_init: int,
    rng: np.random.Generator,
) -> list[Any]:
    """Return the parameters to start from: the best on the sample, or each."""
    every = starts(model, sample, data.source.n_samples, n_init, rng)
    return [best_on_sample(model, every, sample, data, tol)] if acceleration == "auto" else list(every)


def fits_of(
    model: Any,
    data: RowData,
    sample: Sample | None,
    acceleration: str,
    tol: float,
    max_iter: int,
    starts: Iterable[Any],
) -> list[Fit]:
    """Return the fits of one model, ready for their first pass."""
    method = accelerator(model, data, sample, acceleration, tol)
    return [Ascent(model, start, method(), tol, max_iter) for start in starts]


def as_generator(random_state: Any) -> np.random.Generator:
    """Return a generator from None, a seed, a ``Generator`` or a legacy ``RandomState``."""
    if isinstance(random_state, np.random.RandomState):
        random_state = random_state.randint(2**31)
    try:
        return np.random.default_rng(random_state)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"random_state: expected None, a whole number >= 0, a Generator or a RandomState, got "
            f"{random_state!r} ({error})."
        ) from None


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of its choices."""
    if value not in choices:
        raise InputError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}.")


def log_pass(level: int, event: FitEvent) -> None:
    """Write one log line per pass."""
    if isinstance(event, PassEnded) and event.record is not None:
        record = event.record
        log.log(
            level,
            "pass %d: %.9g nats per row, about %.3g to gain, %.2f s",
            event.index + 1,
            record.log_likelihood,
            record.remaining_gain,
            record.seconds,
        )
        for happened in record.events:
            log.warning("pass %d: %s", event.index + 1, happened.message)
