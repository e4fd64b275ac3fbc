"""What the resident sample is for: starts, and where the next candidates come from.

Work on the sample is counted in rows and never timed, so that the same store gets the same candidates on
every machine.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from streamem import em
from streamem.acceleration import Accelerator, Anderson, PlainEM
from streamem.convergence import Enough, FitResult, PassEnded, Status
from streamem.corrected_sample import CorrectedSample, Resident
from streamem.degeneracy import Mending
from streamem.errors import InputError
from streamem.estimators.rows import RowData
from streamem.estimators.sharing import Reading
from streamem.initialization import seeding_rows
from streamem.models.summary import DataSummary, Sample, Summarize
from streamem.moves import Moving, Search
from streamem.protocols import Model, Pass, Source, Stats
from streamem.sources import as_source

__all__ = [
    "accelerator",
    "best_on_sample",
    "reading_dominates",
    "sample_rows",
    "starts",
    "summarize_rows",
]

P = TypeVar("P")
S = TypeVar("S", bound=Stats)

log = logging.getLogger("streamem")

SAMPLE_SHARE = 4  # at most one row in so many
SAMPLE_MEMORY_SHARE = 16  # one part in so many of the memory limit, as a merge holds it twice
SAMPLE_ROWS_PER_PARAMETER = 200  # that are asked first
SMALLEST_SAMPLE = 20_000
RESERVE = 16  # times that, at most, for data of which so few rows say too little
FEWEST_ROWS_PER_PARAMETER = 20  # a smaller sample says too little about the rest
SAMPLE_BUDGET = 4  # work on the sample that one pass may cost, in passes over all rows
SAMPLE_TOL = 0.01  # of parameters per row of the sample, nats: its bias is 50 times as much
MOVE_TOL = 0.001  # the same after moves, from where climbs begin slowly
HELD_OUT = 5  # one row of the sample in so many judges the starts
FIRST_BUDGET = 4  # times that, before the first pass: the closer the start, the better the correction
FIRST_MOVES = 10  # of components, on the sample, before the first pass
COARSER = 4  # times fewer rows: EM goes from coarse parts of the sample to all of it
COARSEST_ROWS_PER_PARAMETER, COARSEST = 5, 4000  # rows of the smallest part, at least
WORTH_THREADS = 1 << 22  # bytes of rows that rank moves: of less, most of the work holds the GIL
SEARCH_STEPS = 30  # on the rows that rank moves take as long as a search for them
FEWEST_PASSES = 6  # that take as long: where fewer do, a search is worth its time at once
MOVED = 3  # components that a move changes
MOVE_MARGIN = 2.0  # nats on the sample, per parameter of a component, that a move has to gain
BOLD = 10  # patience of Anderson acceleration on the sample, where a rejection costs little
READ_BOUND = 8  # multiplications per byte of a row below which a second candidate costs little


def sample_rows(
    model: Any, source: Source, sample_size: int | str, memory_limit: int | None, acceleration: str
) -> int:
    """Return how many rows the resident sample holds, with a reserve where passes may ask for it."""
    if sample_size != "auto":
        if not isinstance(sample_size, int | np.integer) or sample_size < 1:
            raise InputError(f'sample_size: expected "auto" or a number of rows >= 1, got {sample_size!r}.')
        return min(sample_size, source.n_samples)
    correctable = acceleration == "auto" and hasattr(model, "expected_log_joint")
    wanted = (RESERVE if correctable else 1) * _usual_rows(model, source)
    wanted = min(wanted, max(source.n_samples // SAMPLE_SHARE, SMALLEST_SAMPLE))
    if memory_limit is not None:
        row_bytes = source.n_features * source.dtype.itemsize + 24 + 8 * getattr(source, "labelled", False)
        wanted = min(wanted, max(1, memory_limit // SAMPLE_MEMORY_SHARE // row_bytes))
    return min(wanted, source.n_samples)


def _usual_rows(model: Any, source: Source) -> int:
    """Return how many rows of the sample are enough for most data."""
    if not hasattr(model, "n_parameters"):
        return SMALLEST_SAMPLE
    return max(SAMPLE_ROWS_PER_PARAMETER * _parameters(model, source), SMALLEST_SAMPLE)


def _rungs(model: Any, sample: Sample, data: RowData) -> list[Sample]:
    """Return the part of the sample that is enough for most data, and larger ones for other data."""
    rungs, rows = [], _usual_rows(model, data.source)
    while rows < len(sample.index):
        rungs.append(sample.leading(rows))
        rows *= COARSER
    return [*rungs, sample]


def summarize_rows(data: RowData, capacity: int, seed: int, n_components: int = 0) -> DataSummary:
    """Make the first pass: moments of all rows, and the resident sample; ``n_components`` for labels."""
    plan = Summarize.plan(seed, capacity, data.rows_expected, n_components)
    summary = data.one_pass(plan, "sample", 0).stats
    if plan.missed(summary):  # most rows weigh nothing: look at all hashes
        every = Summarize(seed, capacity, n_components=n_components)
        summary = data.one_pass(every, "sample", 0).stats
    data.notify(PassEnded("sample", 0))
    if summary.n_left_out:
        lacking = "some" if data.missing == "drop" else "all"
        log.warning(
            "%s: %d rows are left out: %s values are missing", data.source.name, summary.n_left_out, lacking
        )
    if not np.isfinite(summary.minimum).all():
        column = int(np.argmin(np.isfinite(summary.minimum)))
        raise InputError(
            f"{data.source.name}: column {column} is missing in every row, so nothing can be said about it. "
            "Leave the column out."
        )
    if not np.isfinite(summary.scatter).all():
        column = int(np.argmin(np.isfinite(np.diagonal(summary.scatter))))
        raise InputError(
            f"{data.source.name}: column {column} holds values from {summary.minimum[column]:.3g} to "
            f"{summary.maximum[column]:.3g}, whose squares overflow. Rescale it, or drop those rows."
        )
    return summary.sorted()


def starts(
    model: Model[P, S], sample: Sample, n_samples: int, n_init: int, rng: np.random.Generator
) -> Iterator[P]:
    """Yield one start after the other, each from its own stream of random numbers."""
    k = getattr(model, "n_components", 1)
    if len(sample.index) < k <= n_samples and sample.weight is None:
        raise InputError(
            f"n_components={k} is more than the {len(sample.index)} rows that the sample may hold. Raise "
            "sample_size or memory_limit."
        )
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


def best_on_sample(model: Model[P, S], starts: Iterator[P], sample: Sample, data: RowData, tol: float) -> P:
    """Return the best start after EM on the sample, which costs no pass.

    Several starts compete on most of the sample and are judged by the rest of it. The work is counted in
    rows, so that the same store always gets the same number of steps; it ends where the sample has no more to
    say, as its optimum is some p/2 nats in all away from that of all rows. Of a sample that is most of the
    rows, EM on all of it is left to the passes; and moves are, where many passes take no longer.
    """
    candidates, sample = list(starts), _rungs(model, sample, data)[0]
    if len(candidates) > 1:
        params = _by_held_out(model, candidates, sample, data, tol)
        return _climb(model, params, [sample], data, tol)
    parts = _parts(model, sample, data)
    moving = _search_passes(model, sample, data) == 0
    return _climb(model, candidates[0], parts[:-1] if _is_most(sample, data) else parts, data, tol, moving)


def _is_most(sample: Sample | None, data: RowData) -> bool:
    """Return whether the sample is most of the rows, so that passes cost little more than steps on it."""
    return sample is not None and len(sample.index) > data.source.n_samples // 2


def _by_held_out(model: Model[P, S], candidates: Sequence[P], sample: Sample, data: RowData, tol: float) -> P:
    """Return the start that leads to the highest likelihood of rows that it did not see."""
    seen = len(sample.index) - len(sample.index) // HELD_OUT
    parts = _parts(model, sample.part(0, seen), data)
    fitted = [_climb(model, params, parts, data, tol) for params in candidates]
    held_out = _passes(model, _resident(data, sample.part(seen, len(sample.index))))
    scores = [stats.log_likelihood for stats in held_out(fitted).stats]
    return fitted[int(np.argmax(scores))]


def _climb(
    model: Model[P, S],
    params: P,
    parts: Sequence[Sample],
    data: RowData,
    tol: float,
    moving: bool = True,
) -> P:
    """Return where EM leads on ever more of the sample, mostly on little of it, and moves where they pay."""
    telling = _telling(parts)
    for part in parts:
        climb = _moving_on(model, part, data, tol) if moving and part is telling[0] else None
        if climb is None:
            enough = Enough(_worth_a_step(model, part, data, tol))
            climb = functools.partial(_em_on(model, part, data, tol, budget=FIRST_BUDGET), notify=enough)
        result: FitResult[P] = climb(params)
        log.debug("sample of %d rows: %d steps", len(part.index), len(result.history))
        params = result.params
    return params


def _moving_on(model: Any, sample: Sample, data: RowData, tol: float) -> Callable[..., FitResult[Any]] | None:
    """Return what runs EM on the sample, and moves where a step gains less, if model and sample allow it."""
    search = _search(model, data, sample, tol, COARSEST_ROWS_PER_PARAMETER)
    if search is None:
        return None
    least = _margin(model, data, sample)

    def moving(make: Callable[[], Accelerator[Any, Any]]) -> Accelerator[Any, Any]:
        return Moving(model, search.at_once, least, 0, tol, make, rounds=FIRST_MOVES)

    return _em_on(model, sample, data, tol, MOVE_TOL, FIRST_BUDGET, moving)


def _em_on(
    model: Any,
    sample: Sample,
    data: RowData,
    tol: float,
    share: float = SAMPLE_TOL,
    budget: int = 1,
    around: Callable[[Any], Accelerator[Any, Any]] = lambda make: make(),
) -> Callable[..., FitResult[Any]]:
    """Return what runs EM on the sample from given parameters, until it has no more to say.

    Its accelerator is made by ``around``, from what makes the usual one.
    """
    tol = _worth_a_step(model, sample, data, tol, share)
    one_pass, steps = _passes(model, _resident(data, sample)), _steps(data.source, len(sample.index))
    return functools.partial(_solve, model, one_pass, max_iter=budget * steps, tol=tol, around=around)


def _worth_a_step(model: Any, sample: Sample, data: RowData, tol: float, share: float = SAMPLE_TOL) -> float:
    """Return what has to be left to gain on the sample, nats per unit weight, for EM on it to go on."""
    if not hasattr(model, "n_parameters"):
        return tol
    return max(tol, share * _parameters(model, data.source) / len(sample.index))


def _parts(model: Any, sample: Sample, data: RowData) -> list[Sample]:
    """Return ever larger parts of the sample, and all of it in the end."""
    parts = [sample]
    if not hasattr(model, "n_parameters"):
        return parts
    least = max(COARSEST, COARSEST_ROWS_PER_PARAMETER * _parameters(model, data.source))
    while len(parts[0].index) >= COARSER * least:
        parts.insert(0, _leading(sample, len(parts[0].index) // COARSER))
    return parts


def _leading(sample: Sample, n: int) -> Sample:
    """Return the first rows of the sample, which weigh as much as all: so a prior counts the same."""
    return sample.leading(n).weighted(len(sample.index) / n)


def _telling(parts: Sequence[Sample]) -> Sequence[Sample]:
    """Return the parts that are enough to tell moves that pay from others."""
    return [part for part in parts if len(part.index) >= SMALLEST_SAMPLE] or parts[-1:]


def accelerator(
    model: Any, data: RowData, sample: Sample | None, acceleration: str, tol: float
) -> Callable[[], Accelerator[Any, Any]]:
    """Return what makes the accelerator: the strongest that model and sample allow.

    It minds degenerate components where the model can tell them.
    """
    rungs = [] if sample is None else _rungs(model, sample, data)
    make = _fastest(model, data, rungs, acceleration, tol)
    if hasattr(model, "on_degenerate"):
        sample_pass = _passes(model, _resident(data, rungs[0])) if rungs else None
        make = functools.partial(Mending, model, make, sample_pass)
    if acceleration != "auto" or not rungs:
        return make
    sample = rungs[0]
    share = len(sample.index) / data.source.n_samples
    search = _search(model, data, sample.weighted(1 / share), tol, FEWEST_ROWS_PER_PARAMETER)
    if search is None:
        return make
    least = _margin(model, data, sample) + (1 - share) * _bias(model, data, sample)
    worth = _search_passes(model, sample, data)
    return lambda: Moving(model, search, max(least, tol), worth, tol, make)


def _search(model: Any, data: RowData, sample: Sample, tol: float, fewest: int) -> Search[Any] | None:
    """Return what looks for better parameters elsewhere, given so many rows per parameter."""
    able = _can_mix(model) and hasattr(model, "moves") and hasattr(model, "n_parameters")
    if not able or len(sample.index) < fewest * _parameters(model, data.source):
        return None
    ranking = _leading(sample, _ranking_rows(model, sample, data))
    climbs = [_em_on(model, part, data, tol, MOVE_TOL) for part in _telling(_parts(model, sample, data))]
    each = data.scheduler.each if ranking.x.nbytes >= WORTH_THREADS else map
    return Search(model, ranking.rows(), climbs, each)


def _ranking_rows(model: Any, sample: Sample, data: RowData) -> int:
    """Return how many rows of the sample are enough to rank moves."""
    least = max(SMALLEST_SAMPLE, COARSEST_ROWS_PER_PARAMETER * _parameters(model, data.source))
    return min(least, len(sample.index))


def _search_passes(model: Any, sample: Sample, data: RowData) -> int:
    """Return how many passes take as long as a search for moves; 0 if few, or if nothing tells work."""
    if not hasattr(model, "n_parameters"):
        return 0
    passes = SEARCH_STEPS * _ranking_rows(model, sample, data) // data.source.n_samples
    return passes if passes >= FEWEST_PASSES else 0


def _margin(model: Any, data: RowData, sample: Sample) -> float:
    """Return what a component's parameters gain by chance on the sample, nats per row."""
    return MOVE_MARGIN * _of_component(model, data) / len(sample.index)


def _bias(model: Any, data: RowData, sample: Sample) -> float:
    """Return how far below its optimum all other rows see what a move changes, nats per row."""
    return MOVED * _of_component(model, data) / (2 * len(sample.index))


def _of_component(model: Any, data: RowData) -> float:
    return _parameters(model, data.source) / int(model.n_components)


def _fastest(
    model: Any,
    data: RowData,
    rungs: Sequence[Sample],
    acceleration: str,
    tol: float,
) -> Callable[[], Accelerator[Any, Any]]:
    """Return what makes the accelerator proper, which may ask a sample, and larger ones if need be.

    Work is counted, never timed, so that the same store gets the same candidates on every machine.
    """
    if acceleration == "none" or not _can_mix(model):
        return lambda: PlainEM(model)
    if not hasattr(model, "n_parameters"):  # nothing to count work by
        return functools.partial(Anderson, model)
    row_bytes = data.bytes_per_pass // data.source.n_samples
    with_em = reading_dominates(_parameters(model, data.source), data.source, row_bytes)
    anderson = functools.partial(Anderson, model, with_em=with_em)
    if acceleration == "anderson" or not rungs or not hasattr(model, "expected_log_joint"):
        return anderson
    n_parameters = _parameters(model, data.source)
    if len(rungs[0].index) < FEWEST_ROWS_PER_PARAMETER * n_parameters or _is_most(rungs[0], data):
        return anderson
    resident: Any = None
    for sample in reversed(rungs):
        rows = len(sample.index)
        one_pass, share = _passes(model, _resident(data, sample)), SAMPLE_TOL * n_parameters / rows
        resident = Resident(one_pass, _steps(data.source, rows), share, resident)
    solve = functools.partial(_solve, model, tol=tol / 10)
    return functools.partial(CorrectedSample, model, resident, solve, with_em, tol)


def reading_dominates(n_parameters: int, source: Source, row_bytes: int) -> bool:
    """Return whether a second candidate costs little beside bringing in the rows."""
    return n_parameters <= READ_BOUND * (0 if getattr(source, "in_memory", False) else row_bytes)


def _passes(model: Model[P, S], data: RowData) -> Callable[[Sequence[P]], Pass[Any]]:
    """Return what reads all rows once and takes the statistics of each candidate."""
    reading = Reading(data)
    return lambda candidates: reading([(model, params) for params in candidates])


def _solve(
    model: Any,
    one_pass: Any,
    params: Any,
    max_iter: int,
    notify: Callable[[PassEnded], object] = lambda event: None,
    *,
    tol: float,
    around: Callable[[Any], Accelerator[Any, Any]] = lambda make: make(),
) -> FitResult[Any]:
    """Run EM in memory, accelerated where the model allows it; an interrupt is for the whole fit."""
    bold, plain = functools.partial(Anderson, model, patience=BOLD), functools.partial(PlainEM, model)
    result = em.iterate(
        model,
        one_pass,
        params,
        accelerate=around(bold if _can_mix(model) else plain),
        tol=tol,
        max_iter=max_iter,
        notify=notify,
    )
    if result.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return result


def _can_mix(model: Any) -> bool:
    """Return whether Anderson acceleration has a map to work on, and an objective to be judged by."""
    return getattr(model, "ascends", True) and hasattr(model, "to_vector")


def _parameters(model: Any, source: Source) -> int:
    return int(model.n_parameters(source.n_features))


def _steps(source: Source, sample_rows: int) -> int:
    """Return how many steps on the sample are as much work as the budget in passes."""
    return int(np.clip(SAMPLE_BUDGET * source.n_samples // sample_rows, 10, 500))


def _resident(data: RowData, sample: Sample) -> RowData:
    """Return the sample as data, worked through in this process."""
    source = as_source(sample.x, sample.weight, y=sample.label, memory_limit=None, missing="keep")
    return replace(data, source=source, scheduler=data.scheduler.local(), callbacks=())
