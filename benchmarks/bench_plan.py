"""What `streamem.plan` predicts for a pass, against passes made here: threads, and workers of a cluster.

A prediction is for an idle machine; ``got`` is the share of the cores that the passes were given, in
core-seconds over seconds, relative to the threads that could run. ``ratio`` is predicted over measured,
``adjusted`` the same with the measured time scaled by that share.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from typing import Any

import dask
import numpy as np

import harness
import streamem as sem
from bench_io import COLUMNS, write

CORES = os.cpu_count() or 1


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print a table, and write JSON where asked to."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
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
            rows.append(_on_cluster(store, k, options.repeats, workers))
    return harness.report(options, rows, columns=COLUMNS, n_samples=n, n_components=k)


def _on_cluster(store: str, k: int, repeats: int, workers: int) -> dict[str, Any]:
    """Compare on workers of one thread each in this process, which share its cores."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            dashboard_address=":0",
            protocol="tcp://",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        where = {"n_workers": workers, "n_threads": 1, "n_machines": 1, "n_cores": CORES}
        return _compare(store, k, repeats, where, client=client)


def _compare(store: str, k: int, repeats: int, where: dict[str, int], client: Any = None) -> dict[str, Any]:
    """Return what was predicted and measured; the first pass of the fit, which warms up, does not count."""
    prediction = sem.plan(store, k, acceleration="none", memory_limit="64MiB", **where)
    ends: list[tuple[float, float]] = []

    def note(event: Any) -> None:
        if type(event).__name__ == "PassEnded":
            ends.append((time.perf_counter(), time.process_time()))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        sem.GaussianMixture(
            k,
            acceleration="none",
            init_params="random_from_data",
            tol=0.0,
            max_iter=repeats + 1,
            memory_limit="64MiB",
            random_state=0,
            callbacks=(note,),
        ).fit(store, client=client)
    wall, cpu = np.diff(np.array(ends)[1:], axis=0).T
    seconds = statistics.median(wall)
    busy = min(CORES, where.get("n_workers", 1) * where["n_threads"])
    got = min(1.0, float(cpu.sum() / wall.sum()) / busy)
    return {
        "where": "cluster" if client is not None else "threads",
        "workers": where.get("n_workers", 1) * where["n_threads"],
        "predicted": prediction.pass_seconds,
        "measured": seconds,
        "ratio": prediction.pass_seconds / seconds,
        "got": got,
        "adjusted": prediction.pass_seconds / (seconds * got),
    }


if __name__ == "__main__":
    main()
