"""What the benchmarks share: medians, ratios within one run, a table on the screen, JSON with the machine.

Machines are shared and noisy, so a number means something only beside a peer or a limit measured in the same
run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

TURNS_SECONDS = 1.0
"""What each of several that are compared is repeated for."""
PACKAGES = ("streamem", "numpy", "numba", "dask", "zarr", "scikit-learn")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--out", type=Path, help="file for the results as JSON")
    options.add_argument("--tiny", action="store_true", help="seconds in all, for the tests")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return options


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Return the median time, after one run that does not count."""
    return medians({"": work}, repeats)[""]


def medians(
    works: Mapping[Hashable, Callable[[], Any]], repeats: int, seconds: float = 0.0
) -> dict[Any, float]:
    """Return the median time of each, after one run that does not count.

    They take turns, so that what else goes on hits all alike; each is repeated until it took so many seconds.
    """
    for work in works.values():
        work()
    times: dict[Hashable, list[float]] = {name: [] for name in works}
    while wanting := [name for name, its in times.items() if len(its) < repeats or sum(its) < seconds]:
        for name in wanting:
            start = time.perf_counter()
            works[name]()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(its) for name, its in times.items()}


def machine() -> dict[str, Any]:
    """Describe what the numbers were measured on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print dictionaries with the same keys as a table."""
    shown = [[_text(value) for value in row.values()] for row in rows]
    names = list(rows[0])
    widths = [max(len(name), *(len(row[i]) for row in shown)) for i, name in enumerate(names)]
    for row in [names, *shown]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), flush=True)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def report(options: argparse.Namespace, rows: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Print the table, write JSON where asked to, and return it."""
    print_table(rows)
    result = {"machine": machine(), "threads": options.threads, **more, "results": list(rows)}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1))
    return result
