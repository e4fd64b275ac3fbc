"""Time of one E-step against scikit-learn's iteration, numpy's matrix product, and merely reading the rows.

All in one run on the same cores, so that the ratios mean something on a shared machine. Rows are worked
through in blocks by a pool of threads, as a pass does.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

import harness
from streamem.kernels import mixture
from streamem.kernels.gaussian import DiagGaussian, FullGaussian, SphericalGaussian, TiedGaussian

BLOCK_BYTES = 16 << 20
SMALL_BYTES = 1 << 18
"""What one thread works through alone."""


class Case(NamedTuple):
    covariance_type: str
    n: int
    d: int
    k: int
    separation: float = 0.5
    """Standard deviation of the component means, in those of the components."""


CASES = [
    Case("full", 1_000_000, 32, 16),
    Case("full", 200_000, 128, 16),
    Case("full", 1_000_000, 8, 8),
    Case("full", 500_000, 32, 64),
    Case("full", 500_000, 32, 64, separation=5.0),
    Case("tied", 1_000_000, 32, 16),
    Case("diag", 1_000_000, 32, 16),
    Case("spherical", 1_000_000, 32, 16),
]
SMALL_CASES = [
    Case("full", 1_000_000, 1, 1),
    Case("full", 1_000_000, 3, 5),
    Case("full", 20_000, 300, 4),
    Case("full", 5_000, 4, 1000),
    Case("full", 1, 3, 1),
    Case("full", 50, 2, 3),
    Case("full", 200, 8, 8),
    Case("full", 200, 32, 16),
    Case("full", 2000, 5, 4),
    Case("tied", 200, 8, 8),
    Case("diag", 200, 8, 8),
    Case("spherical", 200, 8, 8),
    Case("diag", 1_000_000, 2, 3),
    Case("tied", 20_000, 2, 1000),
]
TINY_CASES = [Case("full", 2000, 4, 3), Case("diag", 2000, 4, 3)]


def times(case: Case) -> int:
    """Return how often to repeat what takes no time: up to 200 times."""
    return max(3, min(200, int(1e8 / (case.n * case.k * (case.d + 10)))))


def make_problem(case: Case) -> tuple[Any, Any]:
    """Return rows and components."""
    rng = np.random.default_rng(0)
    k, d = case.k, case.d
    means = case.separation * rng.normal(size=(k, d))
    x = rng.normal(size=(case.n, d))
    x += means[rng.integers(k, size=case.n)]
    whitening = 0.05 * np.tril(rng.normal(size=(k, d, d))) + np.eye(d)
    log_const = np.full(k, -np.log(k) - d / 2 * np.log(2 * np.pi))
    kind, own = {
        "full": (FullGaussian, whitening),
        "tied": (TiedGaussian, whitening[0]),
        "diag": (DiagGaussian, np.ones((k, d))),
        "spherical": (SphericalGaussian, np.ones(k)),
    }[case.covariance_type]
    return x, kind(np.zeros(d), means, np.ascontiguousarray(own), log_const)


def by_blocks(x: Any, work: Callable[[Any], Any], threads: int) -> Callable[[], Any]:
    """Return a call that works through the blocks of x, with a pool of threads if there are several."""
    rows = max(1, BLOCK_BYTES // x[:1].nbytes)
    blocks = [x[i : i + rows] for i in range(0, len(x), rows)]
    if len(blocks) < threads and x.nbytes > SMALL_BYTES:
        blocks = np.array_split(x, threads)
    if len(blocks) == 1:
        return lambda: work(x)

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, blocks))

    return run


def product(size: int, threads: int) -> Callable[[], None]:
    """Return a call of numpy's own matrix product, 2 size³ operations."""
    a = np.random.default_rng(0).normal(size=(size, size))

    def run() -> None:
        with threadpool_limits(threads, "blas"):
            a @ a

    return run


def sklearn_seconds(case: Case, x: Any, family: Any, threads: int) -> dict[str, float]:
    """Return the time of one of scikit-learn's iterations (several, less one) and of scoring."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    iterations = times(case)
    shape = {"full": (case.k, case.d, case.d), "tied": (case.d, case.d), "diag": (case.k, case.d)}
    precisions = np.ones(case.k)
    if case.covariance_type in shape:
        precisions = np.zeros(shape[case.covariance_type])
        precisions[...] = np.eye(case.d) if case.covariance_type != "diag" else 1.0

    def fit(max_iter: int) -> tuple[GaussianMixture, float]:
        model = GaussianMixture(
            case.k,
            covariance_type=case.covariance_type,
            max_iter=max_iter,
            tol=0.0,
            init_params="random_from_data",
            weights_init=np.full(case.k, 1 / case.k),
            means_init=family.means,
            precisions_init=precisions,
            random_state=0,
        )
        start = time.perf_counter()
        with warnings.catch_warnings(), threadpool_limits(threads, "blas"):
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x)
        return model, time.perf_counter() - start

    model, once = fit(1)
    repeats = 1 if once > 5.0 else 3
    more = [fit(1 + iterations)[1] - fit(1)[1] for _ in range(repeats)]
    start = time.perf_counter()
    with threadpool_limits(threads, "blas"):
        model.score_samples(x)
    scoring = time.perf_counter() - start
    return {"sklearn": max(statistics.median(more), 1e-9) / iterations, "sklearn_score_samples": scoring}


def run_case(case: Case, options: Any) -> dict[str, Any]:
    """Time everything for one case, the matrix product as well: rates change from minute to minute."""
    x, family = make_problem(case)
    single, threads = x.astype(np.float32), options.threads
    repeats, seconds = max(options.repeats, times(case)), 0.0 if options.tiny else harness.TURNS_SECONDS
    each = {
        "float64": lambda block: mixture.statistics(block, None, family),
        "score_samples": lambda block: mixture.score_samples(block, family),
        "labels": lambda block: mixture.labels(block, family),
        "responsibilities": lambda block: mixture.responsibilities(block, family),
        "read": lambda block: block.sum(),
    }
    work = {name: by_blocks(x, one, threads) for name, one in each.items()}
    work["float32"] = by_blocks(
        single, lambda block: mixture.statistics(block, None, family, precision=np.float32), threads
    )
    size = 200 if options.tiny else 1000 if options.small else 2000
    if case.covariance_type == "full":
        work["dgemm"] = product(size, threads)
    with threadpool_limits(1, "blas"):
        result: dict[str, Any] = harness.medians(work, repeats, seconds)
    result |= case._asdict()
    if "dgemm" in result:
        gflops = 2 * size**3 / result["dgemm"] / 1e9
        share = 2 * case.n * case.k * case.d**2 / result["float64"] / 1e9 / gflops
        result |= {"dgemm_gflops": gflops, "dgemm_share": share}
    if not options.no_sklearn and case.n >= max(2, case.k):  # it takes no less
        result |= sklearn_seconds(case, x, family, threads)
    return result


OURS = ("float64", "float32", "score_samples", "labels", "responsibilities", "read")
COLUMNS = (*OURS, "sklearn", "sklearn_score_samples")


def header() -> str:
    """Return the head of the table."""
    names = " ".join(f"{name[-13:]:>13}" for name in COLUMNS)
    return f"{'seconds of one pass':36} {names} {'ratio':>7} {'dgemm':>6}"


def line(r: dict[str, Any]) -> str:
    """Return one case as a line of the table."""
    name = f"{r['covariance_type']} n={r['n']} d={r['d']} k={r['k']} sep={r['separation']}"
    seconds = " ".join(f"{r[c]:13.3g}" if c in r else " " * 13 for c in COLUMNS)
    ratio = f"{r['sklearn'] / r['float64']:6.1f}x" if "sklearn" in r else " " * 7
    share = f"{r['dgemm_share']:6.0%}" if "dgemm_share" in r else ""
    return f"{name:36} {seconds} {ratio} {share}"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print a table, and write JSON where asked to."""
    parser = harness.parser(__doc__)
    parser.add_argument("--small", action="store_true", help="unusual shapes instead")
    parser.add_argument("--no-sklearn", action="store_true", help="leave out the slow peer")
    parser.add_argument("--types", nargs="*", default=["full", "tied", "diag", "spherical"])
    options = parser.parse_args(argv)
    cases = TINY_CASES if options.tiny else SMALL_CASES if options.small else CASES
    cases = [case for case in cases if case.covariance_type in options.types]
    print(header(), flush=True)
    results = []
    for case in cases:
        results.append(run_case(case, options))
        print(line(results[-1]), flush=True)
    report = {"machine": harness.machine(), "threads": options.threads, "results": results}
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))
    return report


if __name__ == "__main__":
    main()
