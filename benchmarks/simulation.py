"""A pass, event by event: the same costs as the equations of `streamem.estimators.planning`, less simplified.

The scheduler sends one message after the other, first to who has least to do; a merge is sent, to a worker
that has one of its inputs, when these are there. As Dask does, it gives a worker few more tasks than it has
threads, keeps the others for who has ended one, and moves a task to an idle worker where it would wait for
long. Threads of a machine share its cores, and all machines the store. So threads idle while they wait for
messages, for the last partitions, for the tree, where the equations count rounds and add up what may overlap.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field

from streamem.estimators.planning import STEAL_SECONDS, Layout, Measured, kept_share, row_seconds
from streamem.tree import merge_in_groups

__all__ = ["simulate"]

SATURATION = 1.1
"""Tasks that a worker is given, for each of its threads, rounded up: Dask's ``worker-saturation``."""


@dataclass(slots=True, eq=False)
class Task:
    """A partition, or a merge of nodes of the tree."""

    rows: float
    """Work: so many rows, or what takes as long."""
    inputs: list[Task] = field(default_factory=list)
    """What a merge waits for."""
    parent: Task | None = None
    """The merge that waits for it."""
    holders: list[Worker] = field(default_factory=list)
    """Of a merge: who has inputs of it."""


@dataclass(slots=True, eq=False)
class Machine:
    """Threads at the same speed, so that one clock, in rows done by each, tells when tasks end."""

    speed: float = 1.0
    clock: float = 0.0
    running: list[tuple[float, int, Task, Worker]] = field(default_factory=list)

    def begin(self, task: Task, worker: Worker) -> None:
        heapq.heappush(self.running, (self.clock + task.rows, id(task), task, worker))

    def ended(self) -> list[tuple[Task, Worker]]:
        """Return tasks whose work is done, and who did it, and forget them."""
        done = []
        while self.running and self.running[0][0] <= self.clock * (1 + 1e-12):
            done.append(heapq.heappop(self.running)[2:])
        return done


@dataclass(slots=True, eq=False)
class Worker:
    """Some threads of a machine, and tasks that wait for them."""

    machine: Machine
    threads: int
    most: int
    """Tasks that it is given at once."""
    given: int = 0
    """Tasks that were sent to it and have not ended."""
    busy: int = 0
    """Threads that have a task."""
    waiting: deque[Task] = field(default_factory=deque)
    """What has arrived and waits for a thread."""

    @property
    def room(self) -> int:
        """How many more tasks it is given."""
        return self.most - self.given

    def begin(self) -> None:
        """Begin what there is a thread for."""
        while self.waiting and self.busy < self.threads:
            self.busy += 1
            self.machine.begin(self.waiting.popleft(), self)


@dataclass(slots=True, eq=False)
class Scheduler:
    """Sends messages, one after the other."""

    workers: list[Worker]
    queued: deque[Task]
    task_seconds: float
    free: float
    """When it has sent all that it has decided to send."""
    messages: list[tuple[float, int, Task, Worker]] = field(default_factory=list)
    count: itertools.count[int] = field(default_factory=itertools.count)

    def send(self, now: float, task: Task, worker: Worker) -> None:
        self.free = max(now, self.free) + self.task_seconds
        worker.given += 1
        heapq.heappush(self.messages, (self.free, next(self.count), task, worker))

    def hand_out(self, now: float) -> None:
        """Send partitions to who has room for them."""
        while self.queued:
            worker = min(self.workers, key=lambda worker: -worker.room)
            if worker.room <= 0:
                return
            self.send(now, self.queued.popleft(), worker)

    def steal(self, now: float, speed: float) -> None:
        """Move tasks that would wait for long to workers with a thread that has none."""
        for thief in (worker for worker in self.workers if worker.given < worker.threads):
            victim = max(self.workers, key=lambda worker: len(worker.waiting))
            if not victim.waiting or 2 * victim.waiting[-1].rows / speed < STEAL_SECONDS:
                return
            victim.given -= 1
            self.send(now, victim.waiting.pop(), thief)

    def arrive(self, now: float) -> None:
        """Let messages arrive; merges go first."""
        while self.messages and self.messages[0][0] <= now:
            _, _, task, worker = heapq.heappop(self.messages)
            (worker.waiting.appendleft if task.holders else worker.waiting.append)(task)
            worker.begin()

    def ended(self, now: float, task: Task, worker: Worker) -> None:
        """Take notice of the end of a task."""
        worker.given, worker.busy = worker.given - 1, worker.busy - 1
        worker.begin()
        if task.parent is not None:
            task.parent.inputs.remove(task)
            task.parent.holders.append(worker)
            if not task.parent.inputs:
                self.send(now, task.parent, min(task.parent.holders, key=lambda holder: holder.given))


def simulate(
    measured: Measured,
    layout: Layout,
    saturation: float = SATURATION,
    jitter: float = 0.0,
    slowest: float = 1.0,
) -> float:
    """Return the seconds of a pass, without what the driver does before and after it.

    Each partition takes up to ``jitter`` of its time more or less; one machine has ``slowest`` of the speed
    of the others.
    """
    m, where = measured, layout
    reading, compute = 1 - kept_share(m, where), m.compute_seconds * m.n_candidates
    compute += m.merge_seconds * m.n_candidates / m.block_rows

    def speed(busy: int, n_machines: int) -> float:
        return 1 / row_seconds(m, where, busy, n_machines, reading, compute)[0]

    machines = [Machine(1.0 if i else slowest) for i in range(where.n_machines)]
    most = max(1, math.ceil(saturation * where.n_threads))
    workers = [Worker(machines[i % where.n_machines], where.n_threads, most) for i in range(where.n_workers)]
    partitions, root = _tree(m, where, speed(1, 1))
    rng = random.Random(0)
    for partition in partitions:
        partition.rows *= 1 + jitter * rng.uniform(-1, 1)
    scheduler = Scheduler(workers, deque(partitions), where.task_seconds, where.pass_seconds)
    now, pace = 0.0, speed(1, 1)
    while True:
        scheduler.hand_out(now)
        if not scheduler.queued:
            scheduler.steal(now, pace)
        busy = [machine for machine in machines if machine.running]
        speeds = [speed(len(machine.running), len(busy)) * machine.speed for machine in busy]
        pace = min(speeds, default=pace)
        ends = [(one.running[0][0] - one.clock) / its for one, its in zip(busy, speeds, strict=True)]
        step = min([*ends, *(message[0] - now for message in scheduler.messages[:1])])
        for machine, its in zip(busy, speeds, strict=True):
            machine.clock += step * its
        now += step
        scheduler.arrive(now)
        for task, worker in [pair for machine in busy for pair in machine.ended()]:
            if task is root:
                return now
            scheduler.ended(now, task, worker)


def _tree(m: Measured, where: Layout, speed: float) -> tuple[list[Task], Task]:
    """Return the partitions of a pass, and the root of their tree."""
    runs = where.cut(m)
    fetch = m.statistics_bytes * m.n_candidates / where.network if where.distributed else 0.0
    each = m.merge_seconds * m.n_candidates
    partitions = [Task(len(run) * m.n_samples / m.n_blocks) for run in runs]
    root = merge_in_groups(
        list(zip(runs, partitions, strict=True)),
        lambda nodes: _merge([task for _, task in nodes], each, fetch, speed),
    )
    return partitions, root


def _merge(inputs: list[Task], seconds: float, fetch: float, speed: float) -> Task:
    task = Task(((len(inputs) - 1) * seconds + len(inputs) * fetch) * speed, list(inputs))
    for one in inputs:
        one.parent = task
    return task
