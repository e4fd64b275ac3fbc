"""Whole fits against scikit-learn's, from the same start, for the same number of iterations, in one run."""

from __future__ import annotations

import time
import warnings
from typing import Any

import dask
import numpy as np
from threadpoolctl import threadpool_limits

import harness
import streamem as sem

CASES = (
    ("full", 1_000_000, 32, 16),
    ("tied", 1_000_000, 32, 16),
    ("diag", 1_000_000, 32, 16),
    ("spherical", 1_000_000, 32, 16),
    ("full", 1_000_000, 8, 8),
)


def settings(covariance_type: str, d: int, k: int, iterations: int) -> dict[str, Any]:
    """Return what both libraries start from."""
    natural = {
        "full": np.tile(np.eye(d), (k, 1, 1)),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }
    return {
        "n_components": k,
        "covariance_type": covariance_type,
        "tol": 0.0,
        "max_iter": iterations,
        "weights_init": np.full(k, 1 / k),
        "means_init": 0.5 * np.random.default_rng(1).normal(size=(k, d)),
        "precisions_init": natural[covariance_type],
        "reg_covar": 1e-6,
        "init_params": "random_from_data",
        "random_state": 0,
    }


def per_iteration(make: Any, x: Any, few: int, many: int) -> tuple[Any, float]:
    """Return a fit and what one more iteration takes, start-up left out."""
    times = []
    for iterations in (few, many):
        model = make(iterations)
        began = time.perf_counter()
        model.fit(x)
        times.append(time.perf_counter() - began)
    return model, (times[1] - times[0]) / (many - few)


def run(covariance_type: str, n: int, d: int, k: int, options: Any) -> dict[str, Any]:
    """Time both and compare what they reached."""
    from sklearn.mixture import GaussianMixture

    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)) + 0.5 * rng.normal(size=(k, d))[rng.integers(k, size=n)]
    with (
        warnings.catch_warnings(),
        dask.config.set(num_workers=options.threads),
        threadpool_limits(options.threads, "blas"),
    ):
        warnings.simplefilter("ignore")
        theirs, slow = per_iteration(lambda i: GaussianMixture(**settings(covariance_type, d, k, i)), x, 1, 3)
        sem.GaussianMixture(acceleration="none", **settings(covariance_type, d, k, 1)).fit(x[:5000])
        ours, fast = per_iteration(
            lambda i: sem.GaussianMixture(acceleration="none", **settings(covariance_type, d, k, i)), x, 3, 13
        )
        ours.set_params(max_iter=3).fit(x)
    return {
        "model": covariance_type,
        "n": n,
        "d": d,
        "k": k,
        "scikit-learn s": slow,
        "streamem s": fast,
        "ratio": slow / fast,
        "difference": abs(ours.lower_bound_ / theirs.lower_bound_ - 1),
    }


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print a table, and write JSON where asked to."""
    options = harness.parser(__doc__).parse_args(argv)
    cases = [("full", 2000, 4, 3)] if options.tiny else CASES
    return harness.report(options, [run(*case, options) for case in cases])


if __name__ == "__main__":
    main()
