"""What a fit costs on other machines and of more rows: equations, and nothing that reads or times.

What goes in is `Measured`, by `streamem.estimators.measuring`, and `Layout`; what comes out is `Prediction`.

A row takes r seconds to read and decode and c to go through the E-step, alone on a core; u core-seconds in
all. With b threads at work on a machine of q cores, each is slowed by 1 + σ(min(b, q) − 1), the contention of
Amdahl's law as in Gunther (2007, "Guerrilla Capacity Planning", eq. 4.5), and a little more where they take
turns and find caches cold: γ(b) = 1 + σ(min(b, q) − 1) + κ max(b − q, 0). Reading and computing share the
cores; and M machines share what the store can deliver, β bytes per second, at s bytes per row. Each of W
workers takes h of a core for itself, for heartbeats and the like, which leaves q' = q − h W/M. So a row takes
a thread

    τ(b) = max((r + c) γ(b),  u γ(b) b/q',  s b M/β).

W workers of t threads on M machines run L = Wt tasks at once. T tasks, large ones first, go to whichever
of the L is free, as `streamem.tree` cuts them: f rows later the first of these finds none left, and after
g rows the last, one of e that have as many, is done. A pass takes

    f τ(L/M) + (g − f) τ(⌈e/M⌉)                the rows; each block's statistics are merged on the way
    + min(h τ(L/M), 0.2 s)/2                   a last task, of h rows, that waits while a thread has none
    + p + w W + o (T + merges)                 overhead of the scheduler: a pass, its workers, its tasks
    + Σ ((a − 1) m + a S/ν)                    the tree after the last task: merging a nodes, fetching them
    + (W P + T D + S)/ν + M-step               parameters and tasks out, statistics back, at the driver

with m seconds per merge, S bytes of statistics, P of parameters, D of a task's description, and ν bytes per
second of the driver's network; within one process S, P, D, p, w and h are nothing. A task waits because Dask
gives a worker one more than it has threads, and takes it back for an idle one only where the worker has more
than 0.2 s of work; in some passes none waits, in others one does, hence the half. Overheads add to the rows'
time although part of them overlaps it: more workers pay until w W + o T, which grows with them, is as much.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamem.estimators.resident import (
    FEWEST_ROWS_PER_PARAMETER,
    FIRST_BUDGET,
    SAMPLE_BUDGET,
    SAMPLE_SHARE,
    SMALLEST_SAMPLE,
)
from streamem.estimators.rows import KEPT_SHARE
from streamem.scheduling import cut_for
from streamem.tree import Node, height, merge_in_groups

__all__ = ["Layout", "Measured", "Prediction", "kept_share", "predict", "row_seconds"]

THREAD_TASK_SECONDS, CLUSTER_TASK_SECONDS = 2e-4, 1.2e-3
CLUSTER_PASS_SECONDS, CLUSTER_WORKER_SECONDS = 0.02, 0.006  # before and after all tasks, and for each worker
HOUSEKEEPING_CORES = 0.03  # that a worker process keeps busy, whatever its tasks do
TURNS_SLOWDOWN = 0.02  # κ: of all threads, by each one more than there are cores
STEAL_SECONDS = 0.2  # of work, from which on Dask moves a waiting task to an idle worker
BLOCK_OBJECT_BYTES = 200  # what the driver holds of a block: where it begins and ends
PASSES = {"corrected": (2, 6, 40), "anderson": (29, 40, 100), "none": (60, 80, 1000)}
"""Fewest, usual and most passes, the sampling pass not counted: a rule of thumb from the README's table."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Data and model, as a few blocks showed them."""

    n_samples: int
    """Rows."""
    n_features: int
    """Columns."""
    block_rows: float
    """Rows of a block, on average."""
    block_rows_wanted: float
    """Rows that blocks of more data of this shape would have at least."""
    thread_bytes: int
    """Bytes that a thread holds which loads one block after the other."""
    row_bytes: float
    """Bytes of a decoded row."""
    stored_row_bytes: float
    """Bytes of a row in the store, compressed; 0 in memory."""
    read_seconds: float
    """To read and decode a row, alone."""
    read_cpu_seconds: float
    """Core-seconds of that; more than `read_seconds` where a read uses several cores."""
    compute_seconds: float
    """E-step of a row, for one candidate, alone: core-seconds, as of an idle machine."""
    sampling_seconds: float
    """Of a row in the sampling pass, besides reading it."""
    contention: float
    """σ: how much each further busy core slows the others."""
    merge_seconds: float
    """To merge two statistics."""
    m_step_seconds: float
    """Of one M-step."""
    parameter_bytes: int
    """Parameters of one candidate, as they travel."""
    statistics_bytes: int
    """Statistics of one candidate, as they travel."""
    task_bytes: int
    """Description of a task of one block, as it travels."""
    further_block_bytes: int
    """What each further block adds to it."""
    n_parameters: int
    """Free parameters of the model."""
    sample_rows: int
    """Rows that the resident sample would have of endless data."""
    reading_dominates: bool
    """Whether a second candidate costs little beside bringing in the rows."""
    acceleration: str
    """"auto", "anderson" or "none"."""
    keeps: bool
    """Whether decoded blocks may stay in memory between passes."""
    memory_limit: int | None
    """Bytes for data in memory."""

    def of(self, n_samples: int) -> Measured:
        """Return the same for another number of rows of the same shape."""
        wanted = self.block_rows_wanted if n_samples > self.n_samples else 1.0
        block_rows = min(float(n_samples), max(self.block_rows, wanted))
        grown = self.thread_bytes * max(1.0, block_rows / self.block_rows)
        return replace(self, n_samples=n_samples, block_rows=block_rows, thread_bytes=int(grown))

    @property
    def n_blocks(self) -> int:
        """Blocks of all rows."""
        return max(1, round(self.n_samples / self.block_rows))

    @property
    def resident_rows(self) -> int:
        """Rows of the sample, as `streamem.estimators.resident.sample_rows` has it."""
        return min(self.sample_rows, max(self.n_samples // SAMPLE_SHARE, SMALLEST_SAMPLE), self.n_samples)

    @property
    def method(self) -> str:
        """What makes passes few, see `PASSES`, as `streamem.estimators.resident.accelerator` chooses it."""
        enough = self.resident_rows >= FEWEST_ROWS_PER_PARAMETER * self.n_parameters
        if self.acceleration == "auto":
            return "corrected" if enough and self.resident_rows <= self.n_samples // 2 else "anderson"
        return self.acceleration

    @property
    def n_candidates(self) -> int:
        """Candidates that a pass evaluates, as a rule: a corrected sample proves itself soon."""
        return 2 if self.method == "anderson" and self.reading_dominates else 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a fit would run."""

    n_workers: int
    """Worker processes."""
    n_threads: int
    """Threads of each."""
    n_machines: int
    """Machines that the workers are spread over."""
    n_cores: float
    """Cores of each machine."""
    distributed: bool
    """Whether workers are processes of a cluster; otherwise they are threads of the driver."""
    bandwidth: float = math.inf
    """Bytes per second that the store can deliver to all workers together."""
    network: float = 1.25e9
    """Bytes per second between driver and workers."""
    price_per_hour: float | None = None
    """Of one machine, in any currency."""

    @property
    def task_seconds(self) -> float:
        """Overhead of one task, measured on common machines."""
        return CLUSTER_TASK_SECONDS if self.distributed else THREAD_TASK_SECONDS

    @property
    def pass_seconds(self) -> float:
        """Overhead of a pass, besides that of its tasks."""
        if not self.distributed:
            return 0.0
        return CLUSTER_PASS_SECONDS + CLUSTER_WORKER_SECONDS * self.n_workers

    @property
    def free_cores(self) -> float:
        """Cores of a machine that are left for tasks."""
        taken = HOUSEKEEPING_CORES * self.n_workers / self.n_machines if self.distributed else 0.0
        return max(self.n_cores - taken, self.n_cores / 2)

    def cut(self, measured: Measured) -> list[range]:
        """Return the blocks of each task of a pass, as `streamem.reduce` has them."""
        scheduler = "distributed" if self.distributed else "threads"
        n_bytes = measured.n_samples * measured.row_bytes
        return cut_for(scheduler, self.n_workers * self.n_threads, measured.n_blocks, n_bytes)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a fit would take: estimates, of seconds on idle machines, and far less sure of passes."""

    measured: Measured
    """What it follows from."""
    layout: Layout
    """Where it would run."""
    n_samples: int
    """Rows."""
    n_blocks: int
    """Blocks of all rows."""
    n_tasks: int
    """Partitions of a pass."""
    tree_depth: int
    """Levels of merge tasks."""
    memory_bytes: int
    """Data in memory of one worker process; interpreter and libraries come on top."""
    driver_bytes: int
    """Data in memory of the driver: sample, statistics, the list of blocks."""
    sampling_seconds: float
    """The first pass."""
    pass_seconds: float
    """Every other pass."""
    rows_seconds: float
    """Of that, reading and E-steps, and threads without a task while others have one."""
    overhead_seconds: float
    """Of that, the scheduler."""
    merge_seconds: float
    """Of that, the tree after the last task."""
    driver_seconds: float
    """Of that, M-step, and what driver and workers send each other."""
    limit: str
    """What the rows' time is bound by: "threads", "cores" or "bandwidth"."""
    read_bytes: int
    """Read from the store in a pass, as stored."""
    sent_bytes: int
    """Parameters and tasks that go out in a pass."""
    statistics_bytes: int
    """Statistics that cross the network in a pass, at most."""
    fewest_passes: int
    """Where components are distinct and the sample says much."""
    n_passes: int
    """By a rule of thumb, the sampling pass not counted."""
    most_passes: int
    """Where the likelihood is flat; even that is no bound."""
    sample_seconds: float
    """Work on the resident sample at the driver, at most: it ends early as a rule."""
    total_seconds: float
    """Sampling pass, `n_passes`, and `sample_seconds`."""
    cost: float | None
    """Of `total_seconds` of all machines."""

    def of(self, n_samples: int) -> Prediction:
        """Return the prediction for another number of rows of the same shape."""
        return predict(self.measured.of(n_samples), self.layout)


def predict(measured: Measured, layout: Layout) -> Prediction:
    """Return what a fit would take: see the module's docstring."""
    m, where = measured, layout
    runs = where.cut(m)
    candidates = m.n_candidates
    reading = 1.0 - kept_share(m, where)
    per_merge = m.merge_seconds * candidates
    rows, limit = _rows_seconds(m, where, runs, reading, m.compute_seconds * candidates, per_merge)
    first, _ = _rows_seconds(m, where, runs, 1.0, m.sampling_seconds, 0.0)
    sample_bytes = m.resident_rows * (m.row_bytes + 24)
    statistics = m.statistics_bytes * candidates
    fetch = statistics / where.network if where.distributed else 0.0
    tree = _tree(runs, per_merge, fetch)
    n_tasks, merges = len(runs), tree.merges
    overhead = where.pass_seconds + where.task_seconds * (n_tasks + merges)
    sent = crossing = 0
    driver = m.m_step_seconds
    if where.distributed:
        tasks = n_tasks * m.task_bytes + (m.n_blocks - n_tasks) * m.further_block_bytes
        sent = int(where.n_workers * m.parameter_bytes * candidates + tasks)
        moved = (n_tasks + merges - 1) * (1 - 1 / where.n_workers)  # the others are where they are wanted
        crossing = int(statistics * (moved + 1))
        driver += (sent + statistics) / where.network
        first += 2 * sample_bytes / where.network
    fewest, usual, most = PASSES[m.method]
    pass_seconds = rows + overhead + tree.seconds + driver
    on_sample = _sample_seconds(m, where, usual)
    total = first + overhead + usual * pass_seconds + on_sample
    held = statistics * (2 + height(runs[0]))
    driver_bytes = 2 * sample_bytes + statistics * (1 + tree.depth) + BLOCK_OBJECT_BYTES * m.n_blocks
    memory: float = where.n_threads * (m.thread_bytes + held)
    if not where.distributed:
        memory += driver_bytes + (1 - reading) * m.n_samples * m.row_bytes
    return Prediction(
        measured=m,
        layout=where,
        n_samples=m.n_samples,
        n_blocks=m.n_blocks,
        n_tasks=n_tasks,
        tree_depth=tree.depth,
        memory_bytes=int(memory),
        driver_bytes=int(driver_bytes),
        sampling_seconds=first + overhead,
        pass_seconds=pass_seconds,
        rows_seconds=rows,
        overhead_seconds=overhead,
        merge_seconds=tree.seconds,
        driver_seconds=driver,
        limit=limit,
        read_bytes=int(reading * m.n_samples * m.stored_row_bytes),
        sent_bytes=sent,
        statistics_bytes=crossing,
        fewest_passes=fewest,
        n_passes=usual,
        most_passes=most,
        sample_seconds=on_sample,
        total_seconds=total,
        cost=None if where.price_per_hour is None else total / 3600 * where.n_machines * where.price_per_hour,
    )


@dataclass(frozen=True, slots=True)
class _Tree:
    """A node of the tree of tasks."""

    merges: int = 0
    """Tasks that merge, this one and those below it."""
    depth: int = 0
    """Levels of them."""
    seconds: float = 0.0
    """From the end of the last partition to the end of this one."""


def _tree(runs: Sequence[range], per_merge: float, fetch: float) -> _Tree:
    """Return the root over runs that all end at the same time."""

    def merge(nodes: Sequence[Node[_Tree]]) -> _Tree:
        below = [node for _, node in nodes]
        return _Tree(
            1 + sum(node.merges for node in below),
            1 + max(node.depth for node in below),
            max(node.seconds for node in below) + (len(below) - 1) * per_merge + len(below) * fetch,
        )

    return merge_in_groups([(run, _Tree()) for run in runs], merge)


def kept_share(m: Measured, where: Layout) -> float:
    """Return the share of the rows that stays decoded between passes."""
    if where.distributed or not m.keeps or m.memory_limit is None:
        return 0.0
    return min(1.0, KEPT_SHARE * m.memory_limit / (m.n_samples * m.row_bytes))


def _rows_seconds(
    m: Measured, where: Layout, runs: Sequence[range], reading: float, compute: float, per_merge: float
) -> tuple[float, str]:
    """Return the time that the rows take in one pass, and what bounds it."""
    lanes, machines = where.n_workers * where.n_threads, min(where.n_machines, len(runs))
    blocks, rows = _shares(runs, lanes), m.n_samples / m.n_blocks
    compute += per_merge / m.block_rows
    full, limit = row_seconds(m, where, lanes / where.n_machines, machines, reading, compute)
    busy = math.ceil(blocks.count(max(blocks)) / where.n_machines)
    last, limit_of_last = row_seconds(m, where, busy, machines, reading, compute)
    waits = where.distributed and len(runs) > lanes > 1
    waiting = min(len(runs[-1]) * rows * full, STEAL_SECONDS) / 2 if waits else 0.0
    seconds = rows * (min(blocks) * full + (max(blocks) - min(blocks)) * last) + waiting
    return seconds, limit if min(blocks) else limit_of_last


def _shares(runs: Sequence[range], n_threads: int) -> list[int]:
    """Return the blocks of each thread, where a run goes to whoever has the fewest.

    Examples
    --------
    >>> _shares([range(4), range(4, 6), range(6, 7), range(7, 8)], 2)
    [4, 4]
    """
    blocks = [0] * n_threads
    for run in runs:
        heapq.heapreplace(blocks, blocks[0] + len(run))
    return blocks


def row_seconds(
    m: Measured, where: Layout, busy: float, n_machines: int, reading: float, compute: float
) -> tuple[float, str]:
    """Return what a row takes a thread, one of ``busy`` on each of so many machines, and what bounds it.

    ``reading`` is the share of the rows that are read, ``compute`` the seconds of their E-step, alone.
    """
    slowdown = _slowdown(m, where, busy)
    return max(
        ((reading * m.read_seconds + compute) * slowdown, "threads"),
        ((reading * m.read_cpu_seconds + compute) * slowdown * busy / where.free_cores, "cores"),
        (reading * m.stored_row_bytes * busy * n_machines / where.bandwidth, "bandwidth"),
    )


def _slowdown(m: Measured, where: Layout, busy: float) -> float:
    at_once = max(0.0, min(busy, where.n_cores) - 1)
    return 1 + m.contention * at_once + TURNS_SLOWDOWN * max(0.0, busy - where.n_cores)


def _sample_seconds(m: Measured, where: Layout, n_passes: int) -> float:
    """Return the work on the sample that its budget allows, on the driver's cores."""
    if m.method == "none":
        return 0.0
    n = m.resident_rows
    steps = min(500, max(10, SAMPLE_BUDGET * m.n_samples // n))
    rows = n * steps * (FIRST_BUDGET + (n_passes if m.method == "corrected" else 0))
    return rows * m.compute_seconds * _slowdown(m, where, where.n_cores) / where.n_cores
