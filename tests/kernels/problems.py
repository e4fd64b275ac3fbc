"""Random mixtures, in the form of the oracle and in the form of the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamem.kernels.gaussian import DiagGaussian, FullGaussian, SphericalGaussian, TiedGaussian
from tests import naive

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


@dataclass(frozen=True)
class Problem:
    """Rows, and a mixture twice."""

    covariance_type: str
    x: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    choleskys: np.ndarray
    family: Any

    @property
    def oracle(self):
        """Arguments of the functions of `naive`."""
        return self.weights, self.means, self.choleskys


def problem(covariance_type, n, d, k, seed=0, offset=0.0, separation=1.0, dtype=np.float64, dead=()):
    """A mixture whose components have deviations near 1, and rows drawn around its means."""
    rng = np.random.default_rng(seed)
    means = offset + separation * rng.normal(size=(k, d))
    weights = rng.dirichlet(np.full(k, 5.0))
    weights[list(dead)] = 0.0
    factors = rng.normal(size=(k, d, d)) / np.sqrt(d)
    matrices = factors @ factors.transpose(0, 2, 1) + 0.5 * np.eye(d)
    covariances = {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.array([np.diag(m) for m in matrices]),
        "spherical": matrices[:, 0, 0],
    }[covariance_type]
    choleskys = naive.full_cholesky(covariance_type, covariances, k, d)
    x = (means[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype(dtype)
    return Problem(
        covariance_type, x, weights, means, choleskys, family(covariance_type, weights, means, choleskys)
    )


def family(covariance_type, weights, means, choleskys):
    """The kernels' arguments for a mixture."""
    d = means.shape[1]
    center = means.mean(axis=0)
    inverses = np.tril(np.linalg.inv(choleskys))
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    diagonals = np.array([np.diag(c) for c in choleskys])
    log_const = log_weights - d / 2 * np.log(2 * np.pi) - np.log(diagonals).sum(axis=1)
    kind, whitening = {
        "full": (FullGaussian, inverses),
        "tied": (TiedGaussian, inverses[0]),
        "diag": (DiagGaussian, 1 / diagonals),
        "spherical": (SphericalGaussian, 1 / diagonals[:, 0]),
    }[covariance_type]
    return kind(center, means - center, np.ascontiguousarray(whitening), log_const)


def assert_sums_close(actual, expected, n, rtol=1e-9):
    """Compare two MixtureSums: relative to the size of what is summed, not to sums that may cancel."""
    np.testing.assert_allclose(actual[0], expected[0], rtol=rtol, atol=rtol * n)
    np.testing.assert_allclose(actual[1], expected[1], rtol=rtol, atol=rtol * n)
    for a, e in zip(actual[2:5], expected[2:5], strict=True):
        assert a.shape == np.shape(e)
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * max(1.0, np.max(np.abs(e), initial=0.0)))
