"""From data to a fit: open the source, look at it once, start on the sample, iterate over all rows.

`fit` serves every model, the built-in ones and a user's own; estimators are thin over it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from streamem import em
from streamem.convergence import Callback, FitEvent, FitResult, PassEnded, PassProgress, PassStarted, Status
from streamem.errors import InputError
from streamem.initialization import seeding_rows
from streamem.models.summary import DataSummary, Sample, Summarize
from streamem.protocols import Model, Pass, Rows, Source, Stats
from streamem.reduce import Scheduler, map_reduce, open_scheduler
from streamem.sizes import parse_bytes
from streamem.sources import as_source
from streamem.sources.keeping import KeepingSource
from streamem.sources.scratch import open_scratch

__all__ = ["RowData", "as_generator", "fit", "open_rows", "summarize_rows"]

P = TypeVar("P")
S = TypeVar("S", bound=Stats)
T = TypeVar("T", bound=Stats)

log = logging.getLogger("streamem")

KEPT_SHARE = 0.5  # of the memory limit, for decoded blocks that stay between passes
SAMPLE_SHARE = 8  # of the memory limit, and at most of the rows, one part in so many
SAMPLE_ROWS_PER_PARAMETER = 200
SMALLEST_SAMPLE = 20_000
SAMPLE_BUDGET = 2  # work on the sample before the first iteration, in passes over all rows


@dataclass(frozen=True, slots=True, eq=False)
class RowData:
    """Rows, where to run, and whom to tell."""

    source: Source
    scheduler: Scheduler
    callbacks: tuple[Callback, ...]

    @property
    def bytes_per_pass(self) -> int:
        return self.source.n_samples * self.source.n_features * self.source.dtype.itemsize

    def one_pass(self, e_step: Callable[[Rows], T], phase: str, index: int) -> Pass[T]:
        """Read all rows once."""
        self.notify(PassStarted(phase, index, self.source.n_samples, self.bytes_per_pass))
        result = map_reduce(
            e_step, self.source, self.scheduler, lambda rows: self.notify(PassProgress(phase, index, rows))
        )
        if not result.stats.weight > 0:
            raise InputError(f"{self.source.name}: all sample weights are zero. Give some rows weight.")
        return result

    def notify(self, event: FitEvent) -> bool:
        """Tell the callbacks; return whether one of them wants the fit to end."""
        return any([callback(event) is True for callback in self.callbacks])


@contextlib.contextmanager
def open_rows(
    x: Any,
    sample_weight: Any = None,
    *,
    memory_limit: int | str | None = "1GiB",
    scheduler: str | None = None,
    client: Any = None,
    callbacks: Iterable[Callback] = (),
    passes: bool = False,
    scratch: str | os.PathLike[str] | None = None,
) -> Iterator[RowData]:
    """Open data and a scheduler for it; for several ``passes``, keep decoded what there is room for."""
    limit = _limit(memory_limit)
    source = as_source(x, sample_weight, memory_limit=limit)
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(open_scheduler(scheduler, client, source=source, memory_limit=limit))
        if scratch is not None:
            if not where.in_process:
                raise InputError(
                    f'scratch: works with scheduler="threads" or "synchronous", not with {where.name!r}.'
                )
            source = stack.enter_context(open_scratch(source, scratch))
        if passes and limit is not None and where.in_process and not getattr(source, "in_memory", False):
            source = KeepingSource(source, int(limit * KEPT_SHARE))
        yield RowData(source, where, tuple(callbacks))


def summarize_rows(data: RowData, capacity: int, seed: int) -> DataSummary:
    """Make the first pass: moments of all rows, and the resident sample."""
    plan = Summarize.plan(seed, capacity, data.source.n_samples)
    summary = data.one_pass(plan, "sample", 0).stats
    if plan.missed(summary):  # most rows weigh nothing: look at all hashes
        summary = data.one_pass(Summarize(seed, capacity), "sample", 0).stats
    data.notify(PassEnded("sample", 0))
    return summary.sorted()


def fit(
    model: Model[P, S],
    x: Any,
    params: P | None = None,
    *,
    sample_weight: Any = None,
    tol: float = 1e-6,
    max_iter: int = 100,
    n_init: int = 1,
    random_state: Any = None,
    acceleration: Literal["auto", "none"] = "auto",
    sample_size: int | Literal["auto"] = "auto",
    memory_limit: int | str | None = "1GiB",
    scratch: str | os.PathLike[str] | None = None,
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
    tol
        Nats per unit weight: stop when the estimated remaining gain is below it.
    max_iter
        Passes at most, the sampling pass not counted.
    n_init
        Starts to try. They compete on the sample; with ``acceleration="none"``, on all rows.
    random_state
        Seed, `numpy.random.Generator` or ``RandomState``.
    acceleration
        ``"auto"`` runs a short EM on the resident sample before the first full iteration; ``"none"`` is
        textbook EM from the start.
    sample_size
        Rows of the resident sample; ``"auto"`` follows the memory limit and the number of parameters.
    memory_limit
        Bytes for data in memory, such as ``"1GiB"``; None for no limit, and then nothing is kept between
        passes.
    scratch
        A folder for an uncompressed copy of the rows, made by the first pass, read by the others, and
        removed: for stores that are slow to decode or far away. Threads only.
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
        If the data cannot be used; the message says where and what to do.

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
    _check_choice("acceleration", acceleration, ("auto", "none"))
    rng = as_generator(random_state)
    with open_rows(
        x,
        sample_weight,
        memory_limit=memory_limit,
        scheduler=scheduler,
        client=client,
        callbacks=(functools.partial(_log_pass, logging.INFO if verbose else logging.DEBUG), *callbacks),
        passes=True,
        scratch=scratch,
    ) as data:
        if params is None or getattr(model, "uninformed", False):
            capacity = sample_rows(model, data.source, sample_size, _limit(memory_limit))
            summary = summarize_rows(data, capacity, int(rng.integers(2**63)))
            model = model.informed_by(summary) if hasattr(model, "informed_by") else model
        run = functools.partial(_iterate, model, tol=tol, max_iter=max_iter)
        if params is not None:
            return run(data, params)
        sample = summary.sample
        starts = _starts(model, sample, n_init, rng)
        if acceleration == "none":
            return max(
                (run(data, start) for start in starts), key=lambda result: result.history[-1].objective
            )
        return run(data, _best_on_sample(model, starts, sample, data, tol))


def _iterate(model: Model[P, S], data: RowData, params: P, *, tol: float, max_iter: int) -> FitResult[P]:
    """Run EM over all rows of ``data``."""
    passes = iter(range(max_iter))
    result = em.iterate(
        model,
        lambda params: data.one_pass(functools.partial(model.e_step, params), "em", next(passes)),
        params,
        tol=tol,
        max_iter=max_iter,
        notify=data.notify,
    )
    return replace(result, model=model)


def _starts(model: Model[P, S], sample: Sample, n_init: int, rng: np.random.Generator) -> Iterator[P]:
    """Yield one start after the other, each from its own stream of random numbers."""
    k = getattr(model, "n_components", 1)
    if len(sample.index) < k:
        raise InputError(
            f"n_components={k} is more than the {len(sample.index)} rows with positive weight. Use fewer."
        )
    rows = seeding_rows(sample.rows(), k)
    start = getattr(model, "start", None)
    if isinstance(start, np.ndarray):  # one entry for each row of the data: pick those of the sample
        model = replace(model, start=start[sample.index[: len(rows.x)]])  # type: ignore[type-var]
    for stream in rng.spawn(n_init):
        yield model.init(rows, stream)


def _best_on_sample(model: Model[P, S], starts: Iterator[P], sample: Sample, data: RowData, tol: float) -> P:
    """Return the best start after a short EM on the sample, which costs no pass.

    The work is counted in rows, so that the same store always gets the same number of steps.
    """
    candidates = list(starts)
    few = len(sample.index) > data.source.n_samples // 2
    if len(candidates) == 1 and few:
        return candidates[0]
    steps = int(np.clip(SAMPLE_BUDGET * data.source.n_samples // len(sample.index), 10, 100))
    where = data.scheduler.local()
    resident = replace(
        data, source=as_source(sample.x, sample.weight, memory_limit=None), scheduler=where, callbacks=()
    )
    results = [_iterate(model, resident, params, tol=tol, max_iter=steps) for params in candidates]
    if any(result.status is Status.INTERRUPTED for result in results):
        raise KeyboardInterrupt
    best = max(results, key=lambda result: result.history[-1].objective)
    log.debug(
        "sample of %d rows: %d steps, %.6f nats per row",
        len(sample.index),
        len(best.history),
        best.history[-1].objective,
    )
    return best.params


def sample_rows(model: Any, source: Source, sample_size: int | str, memory_limit: int | None) -> int:
    """Return how many rows the resident sample holds."""
    if sample_size != "auto":
        if not isinstance(sample_size, int) or sample_size < 1:
            raise InputError(f'sample_size: expected "auto" or a number of rows >= 1, got {sample_size!r}.')
        return min(sample_size, source.n_samples)
    count = getattr(model, "n_parameters", None)
    wanted = SAMPLE_ROWS_PER_PARAMETER * count(source.n_features) if count else SMALLEST_SAMPLE
    wanted = min(max(wanted, SMALLEST_SAMPLE), max(source.n_samples // SAMPLE_SHARE, SMALLEST_SAMPLE))
    if memory_limit is not None:
        row_bytes = source.n_features * source.dtype.itemsize + 24
        # A merge holds both sides and the result for a moment.
        wanted = min(wanted, max(1, memory_limit // (2 * SAMPLE_SHARE) // row_bytes))
    return min(wanted, source.n_samples)


def as_generator(random_state: Any) -> np.random.Generator:
    """Return a generator from None, a seed, a ``Generator`` or a legacy ``RandomState``."""
    if isinstance(random_state, np.random.RandomState):
        random_state = random_state.randint(2**31)
    return np.random.default_rng(random_state)


def _limit(memory_limit: int | str | None) -> int | None:
    """Return the memory limit in bytes."""
    try:
        return parse_bytes(memory_limit)
    except InputError as error:
        raise InputError(f"memory_limit: {error}") from None


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}.")


def _log_pass(level: int, event: FitEvent) -> None:
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
