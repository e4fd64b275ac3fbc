"""A pass on one thread against several, beside what numpy's own matrix product gains from them."""

from __future__ import annotations

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
    rows = []
    for covariance_type, k in CASES:
        e_step = problem(covariance_type, k)
        alone = 0.0
        for threads in counts:
            with dask.config.set(num_workers=threads), open_scheduler(source=source) as scheduler:
                seconds = harness.median_seconds(
                    lambda e_step=e_step, scheduler=scheduler: map_reduce(e_step, source, scheduler),
                    options.repeats,
                )
            alone = alone or seconds
            rows.append(
                {
                    "model": f"{covariance_type} k={k}",
                    "threads": threads,
                    "s": seconds,
                    "gain": alone / seconds,
                }
            )
    return harness.report(
        options, rows + _matrix_product(counts, 200 if options.tiny else 2000, options.repeats)
    )


def _matrix_product(counts: list[int], size: int, repeats: int) -> list[dict[str, Any]]:
    """Time numpy's matrix product on as many threads."""
    a = np.random.default_rng(0).normal(size=(size, size))
    rows: list[dict[str, Any]] = []
    for threads in counts:
        with threadpool_limits(threads, "blas"):
            seconds = harness.median_seconds(lambda: a @ a, repeats)
        gain = rows[0]["s"] / seconds if rows else 1.0
        rows.append({"model": "numpy a @ a", "threads": threads, "s": seconds, "gain": gain})
    return rows


if __name__ == "__main__":
    main()
