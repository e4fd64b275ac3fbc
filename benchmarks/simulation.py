"""A pass, event by event: the same costs as the equations of `streamem.estimators.planning`, less simplified.

The scheduler sends one message after the other; a merge is sent when its inputs are there. Lanes (threads of
workers) take what has arrived. Those of a machine share its cores, and all machines the store. So lanes idle
while they wait for messages, for the last partitions, for the tree, where the equations count rounds and add
up what may overlap.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from streamem.estimators.planning import Layout, Measured, kept_share, row_seconds
from streamem.reduce import FAN_IN, partition_size

__all__ = ["simulate"]


@dataclass(slots=True, eq=False)
class Task:
    """A partition, or a merge of nodes of the tree."""

    rows: float
    """Work: so many rows, or what takes as long."""
    inputs: list[Task] = field(default_factory=list)
    """What a merge waits for."""
    parent: Task | None = None
    """The merge that waits for it."""


@dataclass(slots=True, eq=False)
class Machine:
    """Lanes at the same speed, so that one clock, in rows done by each, tells when tasks end."""

    lanes: int
    clock: float = 0.0
    running: list[tuple[float, int, Task]] = field(default_factory=list)

    def begin(self, task: Task) -> None:
        heapq.heappush(self.running, (self.clock + task.rows, id(task), task))

    def ended(self) -> list[Task]:
        """Return tasks whose work is done, and forget them."""
        done = []
        while self.running and self.running[0][0] <= self.clock * (1 + 1e-12):
            done.append(heapq.heappop(self.running)[2])
        return done


def simulate(measured: Measured, layout: Layout) -> float:
    """Return the seconds of a pass, without what the driver does before and after it."""
    m, where = measured, layout
    reading, compute = 1 - kept_share(m, where), m.compute_seconds * m.n_candidates
    compute += m.merge_seconds * m.n_candidates / m.block_rows

    def speed(busy: int, n_machines: int) -> float:
        return 1 / row_seconds(m, where, busy, n_machines, reading, compute)[0]

    lanes = where.n_workers * where.n_threads
    machines = [Machine(len(range(i, lanes, where.n_machines))) for i in range(where.n_machines)]
    partitions, root = _tree(m, where, speed(1, 1))
    now, free, waiting = 0.0, 0.0, deque[Task]()
    messages = deque((free := free + where.task_seconds, task) for task in partitions)
    while True:
        for machine in sorted(machines, key=lambda machine: len(machine.running) - machine.lanes):
            while waiting and len(machine.running) < machine.lanes:
                machine.begin(waiting.popleft())
        busy = [machine for machine in machines if machine.running]
        speeds = [speed(len(machine.running), len(busy)) for machine in busy]
        ends = [(one.running[0][0] - one.clock) / pace for one, pace in zip(busy, speeds, strict=True)]
        step = min([*ends, *(time - now for time, _ in list(messages)[:1])])
        for machine, pace in zip(busy, speeds, strict=True):
            machine.clock += step * pace
        now += step
        while messages and messages[0][0] <= now:
            waiting.append(messages.popleft()[1])
        for task in (task for machine in busy for task in machine.ended()):
            if task is root:
                return now
            assert task.parent is not None
            task.parent.inputs.remove(task)
            if not task.parent.inputs:
                free = max(now, free) + where.task_seconds
                messages.append((free, task.parent))


def _tree(m: Measured, where: Layout, speed: float) -> tuple[list[Task], Task]:
    """Return the partitions of a pass, and the root of their tree."""
    size = partition_size(m.n_blocks, where.n_partitions)
    n_tasks = -(-m.n_blocks // size)
    fetch = m.statistics_bytes * m.n_candidates / where.network if where.distributed else 0.0
    each = m.merge_seconds * m.n_candidates
    partitions = level = [Task(m.n_samples / n_tasks) for _ in range(n_tasks)]
    while len(level) > 1:
        groups = [level[i : i + FAN_IN] for i in range(0, n_tasks, FAN_IN) if level[i : i + FAN_IN]]
        level = [_merge(group, each, fetch, speed) if len(group) > 1 else group[0] for group in groups]
    return partitions, level[0]


def _merge(inputs: list[Task], seconds: float, fetch: float, speed: float) -> Task:
    task = Task(((len(inputs) - 1) * seconds + len(inputs) * fetch) * speed, list(inputs))
    for one in inputs:
        one.parent = task
    return task
