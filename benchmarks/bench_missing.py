"""Time of one E-step over rows with missing values, against the same rows complete, in the same run.

One block of the usual size per call, as a pass works through one after the other; factors of patterns are
kept between blocks, as they are within a pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import harness
from streamem.models.gaussian_mixture import GaussianMixtureModel, GaussianMixtureParams
from streamem.protocols import Rows

BLOCK_BYTES = 16 << 20


class Case(NamedTuple):
    covariance_type: str
    d: int
    k: int
    share: float
    """Of the entries, missing."""
    patterns: int | None
    """How many ways of missing them; None for entries missing independently."""
    dtype: str = "float64"
    rows: int | None = None
    """Fewer than a block holds."""


CASES = [
    Case("full", 32, 16, 0.1, 100),
    Case("full", 32, 16, 0.1, 100, "float32"),
    Case("tied", 32, 16, 0.1, 100),
    Case("diag", 32, 16, 0.1, 100),
    Case("spherical", 32, 16, 0.1, 100),
    Case("full", 32, 16, 0.1, 10),
    Case("full", 8, 8, 0.1, 100),
    Case("full", 32, 16, 0.5, None, rows=4096),
    Case("full", 8, 8, 0.5, None),
]
TINY_CASES = [Case("full", 6, 3, 0.1, 5, rows=4000), Case("diag", 6, 3, 0.5, None, rows=4000)]


def problem(case: Case) -> tuple[GaussianMixtureModel, GaussianMixtureParams, Any, Any]:
    """Return a model, parameters, rows, and the same rows with gaps."""
    rng = np.random.default_rng(0)
    d, k = case.d, case.k
    n = case.rows or BLOCK_BYTES // (d * np.dtype(case.dtype).itemsize)
    means = 0.5 * rng.normal(size=(k, d))
    factors = rng.normal(size=(k, d, d)) / np.sqrt(d)
    matrices = factors @ factors.transpose(0, 2, 1) + 0.5 * np.eye(d)
    natural = {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.array([np.diag(m) for m in matrices]),
        "spherical": matrices[:, 0, 0],
    }
    params = GaussianMixtureParams.from_covariances(
        case.covariance_type, np.full(k, 1 / k), means, natural[case.covariance_type]
    )
    x = (means[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype(case.dtype)
    gaps = rng.random((n if case.patterns is None else case.patterns, d)) < case.share
    gappy = np.where(gaps if case.patterns is None else gaps[rng.integers(case.patterns, size=n)], np.nan, x)
    return GaussianMixtureModel(k, case.covariance_type), params, x, gappy.astype(case.dtype)


def run(case: Case, repeats: int) -> dict[str, Any]:
    """Time both."""
    model, params, x, gappy = problem(case)
    whole = harness.median_seconds(lambda: model.e_step(params, Rows(x, None, 0)), repeats)
    partly = harness.median_seconds(lambda: model.e_step(params, Rows(gappy, None, 0, False)), repeats)
    return {
        **case._asdict(),
        "rows": len(x),
        "missing": float(np.isnan(gappy).mean()),
        "complete s": whole,
        "missing s": partly,
        "ratio": partly / whole,
    }


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print a table, and write JSON where asked to."""
    options = harness.parser(__doc__).parse_args(argv)
    cases = TINY_CASES if options.tiny else CASES
    return harness.report(options, [run(case, options.repeats) for case in cases])


if __name__ == "__main__":
    main()
