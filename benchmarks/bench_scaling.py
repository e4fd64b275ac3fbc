"""A pass on one thread against several, beside what numpy's own matrix product gains from them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import dask
import numpy as np
from threadpoolctl import threadpool_limits

import harness
from bench_io import problem
from streamem.reduce import map_reduce, open_scheduler
from streamem.sources import as_source

CASES = (("full", 16), ("full", 64), ("diag", 16), ("diag", 4))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print a table, and write JSON where asked to."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args(argv)
    n = 5000 if options.tiny else options.rows
    source = as_source(np.random.default_rng(0).normal(size=(n, 32)), memory_limit=None)
    counts = sorted({1, options.threads} | {2**i for i in range(1, 8) if 2**i < options.threads})
    work: dict[tuple[str, int], Callable[[], Any]] = {}
    for (covariance_type, k), threads in itertools.product(CASES, counts):
        e_step = problem(covariance_type, k)
        work[f"{covariance_type} k={k}", threads] = functools.partial(_pass, e_step, source, threads)
    size = 200 if options.tiny else 2000
    a = np.random.default_rng(0).normal(size=(size, size))
    work |= {("numpy a @ a", threads): functools.partial(_product, a, threads) for threads in counts}
    seconds = harness.medians(work, options.repeats, 0.0 if options.tiny else harness.TURNS_SECONDS)
    rows = [
        {"model": name, "threads": threads, "s": its, "gain": seconds[name, 1] / its}
        for (name, threads), its in seconds.items()
    ]
    return harness.report(options, rows)


def _pass(e_step: Any, source: Any, threads: int) -> None:
    with dask.config.set(num_workers=threads), open_scheduler(source=source) as scheduler:
        map_reduce(e_step, source, scheduler)


def _product(a: Any, threads: int) -> None:
    with threadpool_limits(threads, "blas"):
        a @ a


if __name__ == "__main__":
    main()
