"""A pass over zarr against a pass that only reads and a pass that only computes, in one run.

The ideal is the slower of the two: reading and computing overlap. "only reads" loads and checks every block;
"only computes" takes statistics of one block in memory as often as there are blocks. Decoding wants the same
cores as computing, so no pass can be faster than "cores": the processor's time of both over the cores.
"""

from __future__ import annotations

import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import numpy as np
import zarr

import harness
from streamem.models.gaussian_mixture import GaussianMixtureModel, GaussianMixtureParams, GaussianMixtureStats
from streamem.protocols import Rows
from streamem.reduce import map_reduce, open_scheduler
from streamem.sources import as_source
from streamem.sources.keeping import KeepingSource
from streamem.sources.scratch import open_scratch

COLUMNS = 32


def write(folder: str, n: int, compressed: bool) -> str:
    """Write float32 rows, rounded to 12 bits of mantissa so that compression has something to do."""
    path = f"{folder}/{'zstd' if compressed else 'raw'}.zarr"
    options: dict[str, Any] = {} if compressed else {"compressors": None}
    z = zarr.create_array(path, shape=(n, COLUMNS), chunks=(min(n, 65_536), COLUMNS), dtype="f4", **options)
    rng = np.random.default_rng(0)
    for start in range(0, n, 65_536):
        rows = rng.standard_normal((min(65_536, n - start), COLUMNS), dtype=np.float32)
        z[start : start + len(rows)] = (rows.view(np.uint32) & 0xFFFFF800).view(np.float32)
    return path


def problem(covariance_type: str, k: int) -> functools.partial[GaussianMixtureStats]:
    """Return an E-step at parameters that leave nothing out."""
    means = 0.5 * np.random.default_rng(1).normal(size=(k, COLUMNS))
    natural = np.tile(np.eye(COLUMNS), (k, 1, 1)) if covariance_type == "full" else np.ones((k, COLUMNS))
    params = GaussianMixtureParams.from_covariances(covariance_type, np.full(k, 1 / k), means, natural)
    return functools.partial(GaussianMixtureModel(k, covariance_type).e_step, params)


class OnlyCompute:
    """A source whose blocks are all the same rows, in memory."""

    def __init__(self, source: Any) -> None:
        self.rows = source.blocks()[0].load()
        self.source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def blocks(self) -> list[Any]:
        return [_Ready(block, self.rows) for block in self.source.blocks()]


class _Ready:
    def __init__(self, block: Any, rows: Rows) -> None:
        self.index, self.start, self.stop = block.index, block.start, block.stop
        self.rows = rows

    def load(self, buffer: Any = None) -> Rows:
        n = self.stop - self.start
        return Rows(self.rows.x[:n], None, self.start)


def only_read(rows: Rows) -> GaussianMixtureStats:
    """Return statistics that say nothing."""
    zero = np.zeros(0)
    return GaussianMixtureStats(NOTHING, len(rows.x), float(len(rows.x)), 0.0, 0.0, zero, zero, zero)


NOTHING = GaussianMixtureParams("diag", np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0)))


def run(path: str, covariance_type: str, k: int, options: Any) -> dict[str, Any]:
    """Time the pass and its two limits."""
    source = as_source(path)
    e_step = problem(covariance_type, k)

    def seconds(step: Any, rows: Any) -> float:
        with open_scheduler(source=rows, memory_limit=2**31) as scheduler:
            return harness.median_seconds(lambda: map_reduce(step, rows, scheduler), options.repeats)

    def processor_seconds(step: Any, rows: Any) -> float:
        with open_scheduler(source=rows, memory_limit=2**31) as scheduler:
            began = time.process_time()
            map_reduce(step, rows, scheduler)
            return time.process_time() - began

    with dask.config.set(num_workers=options.threads), tempfile.TemporaryDirectory() as folder:
        read, compute = seconds(only_read, source), seconds(e_step, OnlyCompute(source))
        cores = processor_seconds(only_read, source) + processor_seconds(e_step, OnlyCompute(source))
        bound = max(read, compute, cores / options.threads)
        wall = seconds(e_step, source)
        kept = seconds(e_step, KeepingSource(source, 2**40))
        with open_scratch(source, folder) as scratch:
            scratched = seconds(e_step, scratch)
    n_bytes = source.n_samples * source.n_features * 4
    return {
        "store": Path(path).stem,
        "model": f"{covariance_type} k={k}",
        "GB": n_bytes / 1e9,
        "read s": read,
        "compute s": compute,
        "pass s": wall,
        "pass / max": wall / max(read, compute),
        "cores s": cores / options.threads,
        "pass / bound": wall / bound,
        "kept / compute": kept / compute,
        "scratch / max": scratched / max(read, compute),
    }


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print a table, and write JSON where asked to."""
    parser = harness.parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--dir", help="folder for the stores")
    options = parser.parse_args(argv)
    n = 3000 if options.tiny else int(options.gigabytes * 1e9) // (4 * COLUMNS)
    models = [("diag", 4), ("full", 2 if options.tiny else 32)]
    rows = []
    for compressed in (True, False):
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            path = write(folder, n, compressed)
            rows += [run(path, covariance_type, k, options) for covariance_type, k in models]
    return harness.report(options, rows)


if __name__ == "__main__":
    main()
