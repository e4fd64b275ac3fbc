"""On a cluster of processes: what scheduling costs, what the client holds, and speed beside threads."""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import zarr

import harness
from clusters import cluster_process
from streamem.protocols import Rows
from streamem.reduce import map_reduce, open_scheduler
from streamem.scheduling import cut_for
from streamem.sources import as_source

COLUMNS = 32
SATURATION = "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION"
PEAK = "int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
"""Peak of resident memory, in KiB; unlike `resource.getrusage`, without the parent's. Linux only."""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print a table, and write JSON where asked to."""
    parser = harness.parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of rows, for the comparison")
    parser.add_argument(
        "--driver", nargs=2, metavar=("ADDRESS", "STORE"), help="be the client that is measured"
    )
    options = parser.parse_args(argv)
    if options.driver:
        print(_driver(*options.driver))
        return {}
    with tempfile.TemporaryDirectory() as folder:
        rows = [_overhead(options)]
        rows += [_share(options, *how) for how in itertools.product((None, 1.0), (64, 55))]
        rows += [_driver_memory(options, Path(folder)), _speed(options, Path(folder))]
    return harness.report(options, rows)


@dataclass(frozen=True)
class Count:
    """Statistics of next to nothing."""

    n_samples: int
    weight: float = 1.0
    log_likelihood: float = 0.0
    seconds: float = 0.0
    """Spent in E-steps."""

    def merge(self, other: Count) -> Count:
        return Count(self.n_samples + other.n_samples, seconds=self.seconds + other.seconds)


@dataclass(frozen=True)
class EmptyBlock:
    """A block that costs nothing to read."""

    index: int

    @property
    def start(self) -> int:
        return self.index

    @property
    def stop(self) -> int:
        return self.index + 1

    def load(self, buffer: Any = None) -> Rows:
        return Rows(np.zeros((1, 1)), None, self.index)


@dataclass(frozen=True)
class EmptySource:
    """So many of them."""

    n_samples: int
    n_features: int = 1
    dtype: Any = np.float64
    block_bytes: int = 8
    name: str = "nothing"

    def blocks(self) -> Sequence[EmptyBlock]:
        return [EmptyBlock(i) for i in range(self.n_samples)]


def count(rows: Rows) -> Count:
    """Stand in for an E-step."""
    return Count(len(rows.x))


def _overhead(options: Any) -> dict[str, Any]:
    """Time a pass over 200 partitions in which there is nothing to do."""
    n = 16 if options.tiny else 200
    source = EmptySource(n)
    with (
        cluster_process(2, threads=n // 5) as (_, client),  # so many that all partitions are of one block
        open_scheduler(client=client, source=source) as scheduler,
    ):
        seconds = harness.median_seconds(lambda: map_reduce(count, source, scheduler), options.repeats)
    return {"what": f"overhead of a pass, {n} partitions, s", "value": seconds, "limit": 0.6}


def sleep(seconds: float, rows: Rows) -> Count:
    """Stand in for an E-step that takes a while, on cores of its own."""
    start = time.perf_counter()
    time.sleep(seconds)
    return Count(len(rows.x), seconds=time.perf_counter() - start)


def _share(options: Any, saturation: float | None, per_thread: int) -> dict[str, Any]:
    """Time a pass of tasks of a second on average against these seconds, on four workers of two threads.

    Blocks are as many for each thread. Dask hands workers more tasks than they have threads, by a factor
    that is a setting of its scheduler.
    """
    threads, each = 8, 0.02 if options.tiny else 1.0
    source = EmptySource(per_thread * threads)
    share = len(cut_for("distributed", threads, source.n_samples, 0)) / threads * each
    e_step = functools.partial(sleep, share / per_thread)
    setting = {} if saturation is None else {SATURATION: str(saturation)}
    with (
        mock.patch.dict(os.environ, setting),
        cluster_process(threads // 2, threads=2) as (_, client),
        open_scheduler(client=client, source=source) as scheduler,
    ):
        over = [_above_fair_share(e_step, source, scheduler, threads) for _ in range(1 + options.repeats)]
    setting_is = f"worker-saturation {saturation or 'as it is'}"
    what = f"overhead of a pass, {each:g} s per task, {per_thread} blocks per thread, {setting_is}, %"
    return {"what": what, "value": 100 * statistics.median(over[1:]), "limit": 5.0}


def _above_fair_share(e_step: Any, source: Any, scheduler: Any, threads: int) -> float:
    """Return how much longer a pass takes than its E-steps, shared out to the instant."""
    start = time.perf_counter()
    stats = map_reduce(e_step, source, scheduler).stats
    return (time.perf_counter() - start) * threads / stats.seconds - 1


def _driver_memory(options: Any, folder: Path) -> dict[str, Any]:
    """Measure the peak of a client that reads 10,000 blocks, above that of a bare interpreter."""
    n_blocks, path = (64 if options.tiny else 10_000), folder / "blocks.zarr"
    zarr.create_array(path, shape=(200 * n_blocks, 4), chunks=(200, 4), dtype="f8")[:] = 1.0
    with cluster_process(2) as (cluster, _):
        done = subprocess.run(
            [sys.executable, __file__, "--driver", cluster.address, str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
    return {"what": f"client's memory, {n_blocks} blocks, MB", "value": float(done.stdout), "limit": 300.0}


def _driver(address: str, store: str) -> float:
    """Return the MB that this process takes for two passes, libraries included, above a bare interpreter."""
    source = as_source(store, memory_limit=32 * 32 * 200)
    with open_scheduler(address, source=source) as scheduler:
        for _ in range(2):
            map_reduce(count, source, scheduler)
    bare = subprocess.run([sys.executable, "-c", f"print({PEAK})"], capture_output=True, check=True)
    return (eval(PEAK) - int(bare.stdout)) / 1024


def _speed(options: Any, folder: Path) -> dict[str, Any]:
    """Compare two process workers with two threads."""
    from bench_io import problem

    n = 20_000 if options.tiny else int(options.gigabytes * 1e9 / 8 / COLUMNS)
    path, rng = folder / "rows.zarr", np.random.default_rng(0)
    array = zarr.create_array(path, shape=(n, COLUMNS), chunks=(min(n, 32_768), COLUMNS), dtype="f8")
    for start in range(0, n, 32_768):
        array[start : start + 32_768] = rng.normal(size=(min(32_768, n - start), COLUMNS))
    source, e_step = as_source(str(path)), problem("full", 16)

    def seconds(**where: Any) -> float:
        with open_scheduler(source=source, **where) as scheduler:
            work = functools.partial(map_reduce, e_step, source, scheduler)
            return harness.median_seconds(work, options.repeats)

    threads = seconds(scheduler="threads")
    with cluster_process(2) as (_, client):
        workers = seconds(client=client)
    size = source.n_samples * COLUMNS * 8 / 1e9
    return {"what": f"2 workers' speed / threads', {size:.2g} GB", "value": threads / workers, "limit": 0.85}


if __name__ == "__main__":
    main()
