"""Timing a few blocks, to say before a fit what it would take; the equations are in `planning`."""

from __future__ import annotations

import functools
import pickle
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from streamem.errors import InputError
from streamem.estimators.fitting import ACCELERATIONS, check_choice, informed
from streamem.estimators.gaussian_mixture import GaussianMixture
from streamem.estimators.planning import Layout, Measured, Prediction, predict
from streamem.estimators.resident import reading_dominates, sample_rows
from streamem.estimators.rows import byte_limit, open_rows
from streamem.initialization import seeding_rows
from streamem.models.summary import Summarize
from streamem.protocols import Block, Pass, Rows, Several, Source, bytes_per_thread
from streamem.reduce import thread_buffer
from streamem.scheduling import CPU_COUNT, threads_within
from streamem.sources.planning import target_rows

__all__ = ["plan"]

ALONE = 3  # blocks timed one after the other
MOST_THREADS = 8  # blocks timed side by side
FIRST_ROWS = 1024  # E-step rows that tell how many more are affordable
ROWS_SECONDS = 0.25  # of each timed E-step
ENDLESS = 10**18


def plan(
    X: Any,
    n_components: int = 1,
    *,
    covariance_type: str = "full",
    n_workers: int | None = None,
    n_threads: int | None = None,
    n_machines: int | None = None,
    n_cores: float | None = None,
    bandwidth: float | None = None,
    network: float = 1.25e9,
    price_per_hour: float | None = None,
    sample_weight: Any = None,
    acceleration: Literal["auto", "anderson", "none"] = "auto",
    memory_limit: int | str | None = "1GiB",
    missing: Literal["raise", "drop", "marginal"] = "raise",
    storage_options: Mapping[str, Any] | None = None,
) -> Prediction:
    """Predict what fitting a Gaussian mixture would take, from a few blocks of the data. Nothing is fitted.

    Parameters
    ----------
    X
        (n, d) rows of any source; see `streamem.as_source`. Up to eleven blocks of them are read.
    n_components, covariance_type, acceleration, memory_limit, missing, sample_weight, storage_options
        As in `GaussianMixture` and its ``fit``.
    n_workers
        Worker processes of a cluster; without it, threads of one process on this machine.
    n_threads
        Threads of each worker; as many as this machine has cores by default.
    n_machines
        Machines that the workers are on, as fast as this one; by default each has its own.
    n_cores
        Cores of each machine; by default one for each thread on a cluster, else this machine's.
    bandwidth
        Bytes per second that the store delivers to all workers together; no limit by default.
    network
        Bytes per second between driver and workers.
    price_per_hour
        Of one machine, in any currency.

    Returns
    -------
    Prediction
        ``.of(10**12)`` is the same for so many rows of the same shape.

    Raises
    ------
    InputError, NonFiniteError, SourceError, MemoryLimitError
        If settings or data cannot be used.

    Examples
    --------
    >>> import numpy as np, streamem as sem
    >>> x = np.random.default_rng(0).normal(size=(20_000, 4))
    >>> prediction = sem.plan(x, 3, n_workers=40, n_threads=8)
    >>> prediction.n_samples, prediction.of(10**12).n_samples
    (20000, 1000000000000)
    """
    check_choice("acceleration", acceleration, ACCELERATIONS)
    settings = {"n_workers": n_workers, "n_threads": n_threads, "n_machines": n_machines}
    for name, count in settings.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise InputError(f"{name}: expected a whole number >= 1, got {count!r}.")
    rates = {"n_cores": n_cores, "bandwidth": bandwidth, "network": network, "price_per_hour": price_per_hour}
    for name, value in rates.items():
        if value is not None and not value > 0:
            raise InputError(f"{name}: expected a number > 0, got {value!r}.")
    estimator = GaussianMixture(
        n_components, covariance_type=covariance_type, memory_limit=memory_limit, missing=missing
    )
    model = estimator._model(fitted=False)
    distributed = n_workers is not None
    with open_rows(
        X,
        sample_weight,
        memory_limit=memory_limit,
        scheduler="synchronous",
        missing=missing,
        storage_options=storage_options,
    ) as data:
        measured = _measure(model, data.source, acceleration, byte_limit(memory_limit))
        threads = n_threads or CPU_COUNT
        if not distributed:
            threads = threads_within(byte_limit(memory_limit), threads, data.source)
    workers = n_workers or 1
    machines = min(n_machines or workers, workers)
    cores = n_cores or (threads * workers / machines if distributed and n_machines is None else CPU_COUNT)
    layout = Layout(
        workers, threads, machines, cores, distributed, bandwidth or np.inf, network, price_per_hour
    )
    return predict(measured, layout)


def _measure(model: Any, source: Source, acceleration: str, memory_limit: int | None) -> Measured:
    """Return what a few blocks, spread over the rows, tell about all of them."""
    blocks = source.blocks()
    if source.n_samples < model.n_components:
        raise InputError(
            f"{source.name}: {source.n_samples} rows for n_components={model.n_components}. Use fewer."
        )
    n_together = threads_within(memory_limit, min(MOST_THREADS, CPU_COUNT), source)
    n_timed = min(len(blocks), ALONE + n_together)
    chosen = [blocks[i * len(blocks) // n_timed] for i in range(n_timed)]
    alone, together = chosen[:ALONE], chosen[ALONE:]
    n_parameters = int(model.n_parameters(source.n_features))
    capacity = sample_rows(model, _Endless(source), "auto", memory_limit, acceleration)
    summarize = Summarize.plan(0, min(capacity, source.n_samples // 4 + 1), source.n_samples)
    model, params = _start(model, alone)
    e_step = functools.partial(model.e_step, params)
    stats = e_step(_part(alone[0].load(thread_buffer()), FIRST_ROWS))  # compiles
    summarize(_part(alone[0].load(thread_buffer()), FIRST_ROWS))
    rows_timed = _affordable(e_step, alone[0].load(thread_buffer()))
    times = [_time(block, e_step, summarize, rows_timed) for block in alone]
    read, cpu, compute, sampling = (
        min(getattr(time, name) for time in times)  # whatever else runs here only adds
        for name in ("read", "read_cpu", "compute", "sampling")
    )
    row_bytes = source.n_features * source.dtype.itemsize
    in_memory = bool(getattr(source, "in_memory", False))
    few = list(alone[:1]), list(alone[:2]) if len(alone) > 1 else [*alone, *alone]
    task_bytes, task_bytes_of_two = (len(pickle.dumps(blocks)) for blocks in few)
    travelling: Any = Several((stats,))
    return Measured(
        n_samples=source.n_samples,
        n_features=source.n_features,
        block_rows=source.n_samples / len(blocks),
        block_rows_wanted=float(target_rows(ENDLESS, row_bytes, memory_limit)[0]),
        thread_bytes=bytes_per_thread(source),
        row_bytes=row_bytes,
        stored_row_bytes=_stored_bytes(source, row_bytes, in_memory) / source.n_samples,
        read_seconds=read,
        read_cpu_seconds=cpu,
        compute_seconds=compute,
        sampling_seconds=sampling,
        contention=_contention(together or alone, e_step, rows_timed, compute, n_together),
        merge_seconds=_best(lambda: travelling.merge(travelling)),
        m_step_seconds=_best(lambda: model.m_step(params, stats)),
        parameter_bytes=len(pickle.dumps(params)),
        statistics_bytes=len(pickle.dumps(Pass(travelling))),
        task_bytes=task_bytes,
        further_block_bytes=task_bytes_of_two - task_bytes,
        n_parameters=n_parameters,
        sample_rows=capacity,
        reading_dominates=reading_dominates(n_parameters, source, row_bytes),
        acceleration=acceleration,
        keeps=not in_memory,
        memory_limit=memory_limit,
    )


@dataclass(frozen=True, slots=True)
class _Endless:
    """A source as it would be with no end of rows, for `sample_rows`."""

    source: Source
    n_samples: int = ENDLESS

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds per row."""

    read: float
    read_cpu: float
    compute: float
    sampling: float


def _start(model: Any, blocks: Sequence[Block]) -> tuple[Any, Any]:
    """Return the model, informed, and starting parameters, both from some rows of these blocks."""
    wanted = 4096 + 32 * model.n_components
    loaded = [_part(block.load(), -(-wanted // len(blocks))) for block in blocks]
    x = np.concatenate([rows.x for rows in loaded])
    weight = None
    if loaded[0].weight is not None:
        weight = np.concatenate([rows.weight for rows in loaded if rows.weight is not None])
    order = np.random.default_rng(0).permutation(len(x))
    rows = Rows(x[order], None if weight is None else weight[order], 0, all(r.complete for r in loaded))
    if rows.n_samples < model.n_components:
        raise InputError(
            f"Blocks at the start, the middle and the end hold {rows.n_samples} rows that count, too few "
            f"for n_components={model.n_components}. Use fewer, or other rows."
        )
    model = informed(model, Summarize(0, len(x))(rows))
    return model, model.init(seeding_rows(rows, model.n_components), np.random.default_rng(0))


def _part(rows: Rows, n: int) -> Rows:
    """Return leading rows."""
    weight = None if rows.weight is None else rows.weight[:n]
    index = None if rows.index is None else rows.index[:n]
    return replace(rows, x=rows.x[:n], weight=weight, index=index)


def _affordable(e_step: Callable[[Rows], Any], rows: Rows) -> int:
    """Return how many rows an E-step of `ROWS_SECONDS` goes through."""
    few = _part(rows, FIRST_ROWS)
    seconds = _best(lambda: e_step(few))
    return max(FIRST_ROWS, int(ROWS_SECONDS / max(seconds, 1e-9) * max(1, len(few.x))))


def _time(block: Block, e_step: Callable[[Rows], Any], summarize: Summarize, n: int) -> _Times:
    """Time one block: reading by the clock, and the E-step of at most ``n`` rows by the processor."""
    began, cpu_began = time.perf_counter(), time.process_time()
    rows = block.load(thread_buffer())
    read, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    part, n_rows = _part(rows, n), max(1, block.stop - block.start)
    share = n_rows / max(1, len(part.x)) if len(part.x) < len(rows.x) else 1.0
    compute, sampling = _seconds(lambda: e_step(part)), _seconds(lambda: summarize(part))
    return _Times(read / n_rows, cpu / n_rows, share * compute / n_rows, share * sampling / n_rows)


def _contention(
    blocks: Sequence[Block], e_step: Callable[[Rows], Any], n: int, compute: float, n_threads: int
) -> float:
    """Return σ from E-steps of several threads at once."""
    if n_threads == 1:
        return 0.0
    barrier = threading.Barrier(n_threads)
    parts = [_part(blocks[i % len(blocks)].load(), n) for i in range(n_threads)]

    def work(rows: Rows) -> float:
        barrier.wait()
        return _seconds(lambda: e_step(rows))

    with ThreadPoolExecutor(n_threads) as pool:
        taken = min(sum(pool.map(work, parts)) for _ in range(4))  # the first one allocates
    slowdown = taken / max(1e-12, compute * sum(len(rows.x) for rows in parts))
    return min(1.0, max(0.0, (slowdown - 1) / (n_threads - 1)))


def _stored_bytes(source: Any, row_bytes: int, in_memory: bool) -> float:
    """Return the bytes that a pass reads from the store, as stored where the store says."""
    if in_memory:
        return 0.0
    stored = getattr(source, "stored_bytes", None)
    return float(source.n_samples * row_bytes if stored is None else stored)


def _seconds(work: Callable[[], Any]) -> float:
    """Return core-seconds of this thread: others who use the machine meanwhile do not count."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def _best(work: Callable[[], Any], times: int = 3) -> float:
    """Return the shortest of some times."""
    return min(_seconds(work) for _ in range(times))
