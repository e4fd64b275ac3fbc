"""From data to a fit: open the source, look at it once, start on the sample, iterate over all rows.

`fit` serves every model, the built-in ones and a user's own; estimators are thin over it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from streamem import em
from streamem.acceleration import Accelerator, Anderson, CorrectedSample, PlainEM
from streamem.convergence import Callback, FitEvent, FitResult, PassEnded, PassProgress, PassStarted, Status
from streamem.errors import InputError
from streamem.initialization import seeding_rows
from streamem.models.summary import DataSummary, Sample, Summarize
from streamem.protocols import Model, Pass, Rows, Several, Source, Stats
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
SAMPLE_SHARE = 4  # at most one row in so many
SAMPLE_MEMORY_SHARE = 16  # one part in so many of the memory limit, as a merge holds it twice
SAMPLE_ROWS_PER_PARAMETER = 200
SMALLEST_SAMPLE = 20_000
FEWEST_ROWS_PER_PARAMETER = 20  # a smaller sample says too little about the rest
SAMPLE_BUDGET = 4  # work on the sample that one pass may cost, in passes over all rows
FIRST_BUDGET = 4  # times that, before the first pass: the closer the start, the better the correction
READ_BOUND = 8  # multiplications per byte of a row below which a second candidate costs little


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
    if not np.isfinite(summary.scatter).all():
        column = int(np.argmin(np.isfinite(np.diagonal(summary.scatter))))
        raise InputError(
            f"{data.source.name}: column {column} holds values from {summary.minimum[column]:.3g} to "
            f"{summary.maximum[column]:.3g}, whose squares overflow. Rescale it, or drop those rows."
        )
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
    acceleration: Literal["auto", "anderson", "none"] = "auto",
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
        Starts to try. They compete on the sample with ``acceleration="auto"``, on all rows otherwise.
    random_state
        Seed, `numpy.random.Generator` or ``RandomState``.
    acceleration
        ``"auto"``: EM on the resident sample first, then passes over all rows that correct the sample;
        ``"anderson"``: Anderson acceleration from the start; ``"none"``: textbook EM from the start. All
        have the same fixed points; see `streamem.acceleration`.
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
    _check_choice("acceleration", acceleration, ("auto", "anderson", "none"))
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
        sample = summary.sample if params is None else None
        method = _accelerator(model, data, sample, acceleration, tol)
        run = functools.partial(_iterate, model, data, method, tol=tol, max_iter=max_iter)
        if params is not None:
            return run(params)
        assert sample is not None
        starts = _starts(model, sample, data.source.n_samples, n_init, rng)
        if acceleration == "auto":
            return run(_best_on_sample(model, starts, sample, data, tol))
        return max((run(start) for start in starts), key=lambda result: result.history[-1].objective)


def _iterate(
    model: Model[P, S],
    data: RowData,
    method: Callable[[], Accelerator[P, S]],
    params: P,
    *,
    tol: float,
    max_iter: int,
) -> FitResult[P]:
    """Run EM over all rows of ``data``."""
    result = em.iterate(
        model,
        _passes(model, data),
        params,
        accelerate=method(),
        tol=tol,
        max_iter=max_iter,
        notify=data.notify,
    )
    return replace(result, model=model)


def _passes(model: Model[P, S], data: RowData) -> Callable[[Sequence[P]], Pass[Any]]:
    """Return what reads all rows once and takes the statistics of each candidate."""
    index = itertools.count()
    return lambda candidates: data.one_pass(
        functools.partial(_e_steps, model, tuple(candidates)), "em", next(index)
    )


def _e_steps(model: Model[P, S], candidates: Sequence[P], rows: Rows) -> Several[S]:
    return Several(model.e_step(params, rows) for params in candidates)


def _accelerator(
    model: Any, data: RowData, sample: Sample | None, acceleration: str, tol: float
) -> Callable[[], Accelerator[Any, Any]]:
    """Return what makes the accelerator: the strongest that model and sample allow.

    Work is counted, never timed, so that the same store gets the same candidates on every machine.
    """
    if acceleration == "none" or not getattr(model, "ascends", True) or not hasattr(model, "to_vector"):
        return lambda: PlainEM(model)
    row_bytes = (
        0 if getattr(data.source, "in_memory", False) else data.bytes_per_pass // data.source.n_samples
    )
    with_em = _parameters(model, data.source) <= READ_BOUND * row_bytes
    anderson = functools.partial(Anderson, model, with_em=with_em)
    rows = 0 if sample is None else len(sample.index)
    enough = rows >= FEWEST_ROWS_PER_PARAMETER * _parameters(model, data.source)
    if acceleration == "anderson" or sample is None or not enough or rows > data.source.n_samples // 2:
        return anderson
    solve = functools.partial(_solve, model, tol=tol / 10)
    budget = _steps(data.source, rows)
    return lambda: CorrectedSample(model, _passes(model, _resident(data, sample)), solve, budget, with_em)


def _solve(model: Any, one_pass: Any, params: Any, max_iter: int, *, tol: float) -> FitResult[Any]:
    """Run accelerated EM in memory; an interrupt is for the whole fit."""
    result = em.iterate(model, one_pass, params, accelerate=Anderson(model), tol=tol, max_iter=max_iter)
    if result.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return result


def _parameters(model: Any, source: Source) -> int:
    return int(model.n_parameters(source.n_features))


def _steps(source: Source, sample_rows: int) -> int:
    """Return how many steps on the sample are as much work as the budget in passes."""
    return int(np.clip(SAMPLE_BUDGET * source.n_samples // sample_rows, 10, 500))


def _resident(data: RowData, sample: Sample) -> RowData:
    """Return the sample as data, worked through in this process."""
    source = as_source(sample.x, sample.weight, memory_limit=None)
    return replace(data, source=source, scheduler=data.scheduler.local(), callbacks=())


def _starts(
    model: Model[P, S], sample: Sample, n_samples: int, n_init: int, rng: np.random.Generator
) -> Iterator[P]:
    """Yield one start after the other, each from its own stream of random numbers."""
    k = getattr(model, "n_components", 1)
    if len(sample.index) < k:
        raise InputError(
            f"n_components={k} is more than the {len(sample.index)} rows with positive weight. Use fewer."
        )
    rows = seeding_rows(sample.rows(), k)
    start = getattr(model, "start", None)
    if isinstance(start, np.ndarray) and len(np.atleast_1d(start)) != n_samples:
        raise InputError(
            f"init_params: expected an entry for each of the {n_samples:,} rows, got {start.shape}."
        )
    if isinstance(start, np.ndarray):  # one entry for each row of the data: pick those of the sample
        model = replace(model, start=start[sample.index[: len(rows.x)]])  # type: ignore[type-var]
    for stream in rng.spawn(n_init):
        yield model.init(rows, stream)


def _best_on_sample(model: Model[P, S], starts: Iterator[P], sample: Sample, data: RowData, tol: float) -> P:
    """Return the best start after a short EM on the sample, which costs no pass.

    The work is counted in rows, so that the same store always gets the same number of steps.
    """
    candidates = list(starts)
    if len(candidates) == 1 and len(sample.index) > data.source.n_samples // 2:
        return candidates[0]
    resident = _resident(data, sample)
    steps = FIRST_BUDGET * _steps(data.source, len(sample.index))
    method = _accelerator(model, resident, None, "anderson", tol)
    results = [_iterate(model, resident, method, params, tol=tol, max_iter=steps) for params in candidates]
    if any(result.status is Status.INTERRUPTED for result in results):
        raise KeyboardInterrupt
    best = max(results, key=lambda result: result.history[-1].objective)
    log.debug("sample of %d rows: %d steps", len(sample.index), len(best.history))
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
        wanted = min(wanted, max(1, memory_limit // SAMPLE_MEMORY_SHARE // row_bytes))
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
