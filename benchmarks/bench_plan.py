"""What `streamem.plan` predicts for a pass, against passes made here: threads, and workers of a cluster.

Workers are processes that share the cores of this machine, and the plan is told so. A prediction is for an
idle machine; ``got`` is the share of the cores that the fit could use which others left to it, so that what
it waits for itself stays in. ``ratio`` is predicted over measured, ``adjusted`` the same with the measured
time scaled by that share, ``simulated`` the adjusted ratio of the simulation's seconds. Where rows are
"asleep", threads sleep instead of reading and computing: what remains is the cluster's own time.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import tempfile
import time
import warnings
from typing import Any

import dask
import numpy as np
import psutil

import harness
import streamem as sem
from bench_cluster import EmptySource, sleep
from bench_io import COLUMNS, write
from clusters import cluster_process
from simulation import simulate
from streamem.estimators.planning import Layout, Prediction, predict
from streamem.reduce import map_reduce, open_scheduler

CORES = os.cpu_count() or 1
MEMORY_LIMIT = "512MiB"
WARMING = 2
"""Passes: the one that samples, and the first of EM, in which workers load machine code."""
ASLEEP = [(32, 0.05), (128, 0.02)]
"""Blocks, and seconds that each takes."""
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
"""States of a core that is taken, as `psutil` calls them."""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print a table, and write JSON where asked to."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("-k", type=int, default=16)
    options = parser.parse_args(argv)
    n, k = (10_000, 3) if options.tiny else (options.rows, options.k)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = write(folder, n, compressed=True)
        for threads in sorted({1, min(2, options.threads)}):
            with dask.config.set(num_workers=threads):
                rows.append(_compare(store, k, options.repeats, {"n_threads": threads}))
        for workers in (1,) if options.tiny else (1, 2, 4, 8):
            where = {"n_workers": workers, "n_threads": 1, "n_machines": 1, "n_cores": CORES}
            with cluster_process(workers) as (_, client):
                rows.append(_compare(store, k, options.repeats, where, client))
                rows += [_asleep(*work, options.repeats, workers, client) for work in ASLEEP]
    return harness.report(options, rows, columns=COLUMNS, n_samples=n, n_components=k)


def _compare(store: str, k: int, repeats: int, where: dict[str, int], client: Any = None) -> dict[str, Any]:
    """Return what was predicted and measured; the first passes of the fit, which warm up, do not count."""
    prediction = sem.plan(store, k, acceleration="none", memory_limit=MEMORY_LIMIT, **where)
    clock = _PassClock(client)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        sem.GaussianMixture(
            k,
            acceleration="none",
            init_params="random_from_data",
            tol=0.0,
            max_iter=repeats + WARMING,
            memory_limit=MEMORY_LIMIT,
            random_state=0,
            callbacks=(clock,),
        ).fit(store, client=client)
    wall, others = np.diff(np.array(clock.ends)[WARMING:], axis=0).T
    seconds = statistics.median(wall)
    busy = min(CORES, where.get("n_workers", 1) * where["n_threads"])
    got = min(1.0, (CORES - float(others.sum() / wall.sum())) / busy)
    name = "cluster" if client is not None else "threads"
    return _row(name, where.get("n_workers", 1) * where["n_threads"], prediction, seconds, got)


def _row(where: str, workers: int, prediction: Prediction, seconds: float, got: float) -> dict[str, Any]:
    """Return a line of the table."""
    simulated = simulate(prediction.measured, prediction.layout) + prediction.driver_seconds
    return {
        "where": where,
        "workers": workers,
        "predicted": prediction.pass_seconds,
        "measured": seconds,
        "ratio": prediction.pass_seconds / seconds,
        "got": got,
        "adjusted": prediction.pass_seconds / (seconds * got),
        "simulated": simulated / (seconds * got),
    }


def _asleep(n_blocks: int, block_seconds: float, repeats: int, workers: int, client: Any) -> dict[str, Any]:
    """Compare passes over blocks of one row that take so long, without work for a core."""
    few = sem.plan(np.random.default_rng(0).normal(size=(1000, 1)), 1, acceleration="none").measured
    measured = dataclasses.replace(
        few, n_samples=n_blocks, block_rows=1.0, compute_seconds=block_seconds, contention=0.0, keeps=False
    )
    source = EmptySource(n_blocks)
    with open_scheduler(client=client, source=source) as scheduler:
        work = functools.partial(map_reduce, functools.partial(sleep, block_seconds), source, scheduler)
        seconds = harness.median_seconds(work, repeats)
    return _row("asleep", workers, predict(measured, Layout(workers, 1, 1, workers, True)), seconds, 1.0)


class _PassClock:
    """Notes when passes end, and the core-seconds that others have taken of this machine by then."""

    def __init__(self, client: Any) -> None:
        self.ends: list[tuple[float, float]] = []
        self._client, self._asking = client, 0.0

    def __call__(self, event: Any) -> None:
        if type(event).__name__ != "PassEnded":
            return
        now = time.perf_counter()
        times = psutil.cpu_times()._asdict()
        taken = sum(times[name] for name in BUSY if name in times)
        self.ends.append((now - self._asking, taken - self._ours()))
        self._asking += time.perf_counter() - now

    def _ours(self) -> float:
        """Return the core-seconds of driver, scheduler and workers."""
        if self._client is None:
            return time.process_time()
        workers = self._client.run(time.process_time).values()
        return time.process_time() + sum(workers) + self._client.run_on_scheduler(time.process_time)


if __name__ == "__main__":
    main()
