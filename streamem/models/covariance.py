"""The covariance types as one small algebra.

A Gaussian mixture needs the same handful of operations whatever its covariances look like; here each is
written once per shape, so that the E-step's statistics and the M-step are written once for all shapes.
"Natural shape" means: full (k, d, d), tied (d, d), diag (k, d), spherical (k,), tied_diag (d,),
tied_spherical (). L is the Cholesky factor of a covariance and A = L⁻¹ its whitening; where there are only
variances, standard deviations and their inverses. A spherical second moment is the mean over columns, a tied
one the sum over components.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtri

from streamem.errors import DegenerateComponentError
from streamem.kernels.gaussian import DiagGaussian, FullGaussian, SphericalGaussian, TiedGaussian

__all__ = ["COVARIANCES", "Array", "Covariance", "CovariancePrior"]

Array: TypeAlias = NDArray[np.float64]
LOG_2PI = float(np.log(2 * np.pi))
NULL = 1e-15  # share of the variance, per column, below which a direction of the rows holds no digits
FLOOR = 1e-13  # variance that such a direction is given instead, in the same units
FEWEST_DIGITS = 64.0  # deviations below so many units in the last place are rounding
FLOOR_DIGITS = 3e4  # units in the last place that a floor is at least, or the rounding of means would count


@dataclass(frozen=True, slots=True, eq=False)
class CovariancePrior:
    """What the rows as a whole say about covariances; shapes (d, d), (d,) or () by covariance type."""

    scale: Array
    """F with S_x + floor = F Fᵀ, S_x the covariance of all rows."""
    floor: Array
    """G with floor = G Gᵀ: variance along directions in which no row differs from another.

    Constant columns and linear dependences have no density of their own. Every component gets the same floor
    there, so that they drop out of the responsibilities.
    """
    null: Array = field(default_factory=lambda: np.zeros(()))
    """N, where N (x − μ) is what lies along those directions; zeros where there are none."""


class Covariance(Protocol):
    """Operations on arrays of natural shape; v, u are vectors (k, d), n weights (k,)."""

    family: Any
    """The kernels' argument pack for this type."""
    matrices: bool
    """Whether covariances are matrices; variances otherwise."""
    spherical: bool
    """Whether one variance serves all columns."""
    shared: bool
    """Whether one covariance serves all components."""

    def for_kernels(self, factor: Array, k: int) -> Array:
        """Return factors as the kernels take them: of each component, unless matrices are shared."""
        ...

    def from_kernels(self, second: Array, d: int) -> Array:
        """Return second moments in natural shape from those of the kernels."""
        ...

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        """Return the natural shape."""
        ...

    def count(self, k: int, d: int) -> int:
        """Return the number of free covariance parameters."""
        ...

    def apply(self, factor: Array, v: Array) -> Array:
        """Return L v, (k, d)."""
        ...

    def conjugate(self, factor: Array, second: Array) -> Array:
        """Return L U Lᵀ in natural shape; U may also be pooled."""
        ...

    def cross(self, u: Array, v: Array) -> Array:
        """Return u vᵀ in natural shape, summed where components share it."""
        ...

    def spread(self, n: Array) -> Array:
        """Return weights shaped to multiply or divide natural shape."""
        ...

    def trace(self, second: Array, k: int, d: int) -> Array:
        """Return the trace for each component, (k,)."""
        ...

    def positive(self, second: Array) -> bool:
        """Return whether all are positive definite."""
        ...

    def flat(self, second: Array) -> NDArray[np.bool_]:
        """Return what has no variance, to broadcast against natural shape: whole matrices, or single ones."""
        ...

    def root(self, covariances: Array) -> Array:
        """Return Cholesky factors; raise `DegenerateComponentError` where there is none."""
        ...

    def compose(self, factor: Array, inner: Array) -> Array:
        """Return the product of two factors."""
        ...

    def invert(self, factor: Array) -> Array:
        """Return A = L⁻¹."""
        ...

    def to_free(self, factor: Array, units: Array) -> Array:
        """Return L, without units, as unconstrained coordinates: its diagonal by logarithm."""
        ...

    def from_free(self, free: Array, k: int, units: Array) -> Array:
        """Return L from those coordinates."""
        ...

    def log_det(self, factor: Array, k: int, d: int) -> Array:
        """Return log det Σ for each component, (k,)."""
        ...

    def amplification(self, factor: Array, whitening: Array) -> float:
        """Return how much whitening may enlarge the relative rounding of x − μ, at least 1."""
        ...

    def identity(self, d: int) -> Array:
        """Return the identity, broadcastable to natural shape."""
        ...

    def gram(self, factor: Array) -> Array:
        """Return F Fᵀ in natural shape: L I Lᵀ without the identity."""
        ...

    def whitened(self, whitening: Array, factor: Array) -> Array:
        """Return A F Fᵀ Aᵀ in natural shape, F in it too or the same for all components."""
        ...

    def whitened_trace(self, whitening: Array, factor: Array, k: int, d: int) -> Array:
        """Return the trace of that for each component, (k,)."""
        ...

    def prior(self, covariance: Array, mean: Array, constant: NDArray[np.bool_]) -> CovariancePrior:
        """Return the prior of rows with this covariance (d, d), mean (d,) and these constant columns (d,)."""
        ...


def _outer(u: Array, v: Array) -> Array:
    return u[:, :, None] * v[:, None, :]


def _factor(matrix: Array) -> Array:
    """Return the lower Cholesky factor; near-singular matrices are repaired at their rounding level."""
    try:
        return np.asarray(np.linalg.cholesky(matrix))
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(matrix)
    ceiling = values[..., -1:]
    if not np.all(np.isfinite(values)) or np.any(ceiling <= 0):
        raise DegenerateComponentError(
            "M-step: a covariance has no positive eigenvalue, so a component collapsed onto a point. "
            'Use reg_covar="auto" or a larger number, or fewer components.'
        )
    values = np.maximum(values, matrix.shape[-1] * np.finfo(np.float64).eps * ceiling)
    upper = np.linalg.qr(np.swapaxes(vectors * np.sqrt(values)[..., None, :], -1, -2), mode="r")
    lower = np.swapaxes(upper, -1, -2)
    signs = np.sign(np.diagonal(lower, axis1=-2, axis2=-1))
    return np.asarray(lower * np.where(signs == 0, 1.0, signs)[..., None, :])


def _inverse(lower: Array) -> Array:
    transposed, failed = dtrtri(lower.T)  # upper triangular, in the order of memory that LAPACK takes
    if failed:
        raise np.linalg.LinAlgError("singular matrix")
    return np.asarray(transposed.T)


def _column_floors(mean: Array, constant: NDArray[np.bool_]) -> Array:
    """Return variances (d,) for constant columns, a millionth of their square, and 0 for the others."""
    return np.where(constant, 1e-6 * np.where(mean**2 > 1e-250, mean**2, 1.0), 0.0)


def _matrix_prior(covariance: Array, mean: Array, constant: NDArray[np.bool_]) -> CovariancePrior:
    """Find the null directions of the correlations, which have no units, and no digits in the rows."""
    floors = _column_floors(mean, constant)
    deviations = np.sqrt(np.where(constant, floors, np.diagonal(covariance)))
    correlation = covariance / np.outer(deviations, deviations)
    correlation[constant] = 0.0
    correlation[:, constant] = 0.0
    varying = np.flatnonzero(~constant)
    values, vectors = np.linalg.eigh(correlation[np.ix_(varying, varying)])
    last_places = (np.finfo(np.float64).eps * mean / deviations)[varying] ** 2 @ vectors**2
    null = values <= NULL * len(varying) + FEWEST_DIGITS**2 * last_places
    floors = np.maximum(FLOOR, FLOOR_DIGITS**2 * last_places)
    scale, floor = np.diag(constant.astype(float)), np.diag(constant.astype(float))
    scale[np.ix_(varying, varying)] = vectors * np.sqrt(np.where(null, floors, values))
    floor[np.ix_(varying, varying)] = vectors * np.sqrt(np.where(null, floors, 0.0))
    without = np.diag(constant.astype(float))
    without[np.ix_(varying, varying)] = vectors[:, null] @ vectors[:, null].T
    return CovariancePrior(
        deviations[:, None] * scale,
        deviations[:, None] * floor,
        deviations[:, None] * without / deviations,
    )


def _positive(variances: Array, shared: bool) -> Array:
    if not np.all(variances > 0):
        who = "all components have" if shared else f"component {np.argwhere(~(variances > 0))[0][0]} has"
        raise DegenerateComponentError(
            f"M-step: {who} variance {variances.min()}, so that only a point is left. "
            'Use reg_covar="auto" or a larger number, or fewer components.'
        )
    return np.asarray(np.sqrt(variances))


class _Own:
    """As the kernels have it: each component has its own, and sums are kept as they come."""

    matrices = False
    spherical = False
    shared = False

    def for_kernels(self, factor: Array, k: int) -> Array:
        return np.ascontiguousarray(factor)

    def from_kernels(self, second: Array, d: int) -> Array:
        return second

    def whitened(self: Any, whitening: Array, factor: Array) -> Array:
        return np.asarray(self.gram(self.compose(whitening, factor)))

    def whitened_trace(self: Any, whitening: Array, factor: Array, k: int, d: int) -> Array:
        return np.asarray(self.trace(self.whitened(whitening, factor), k, d))


class _Full(_Own):
    family: Any = FullGaussian
    matrices = True

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        return (k, d, d)

    def count(self, k: int, d: int) -> int:
        return k * d * (d + 1) // 2

    def apply(self, factor: Array, v: Array) -> Array:
        return np.asarray(np.einsum("...ij,...j->...i", factor, v))

    def conjugate(self, factor: Array, second: Array) -> Array:
        return np.asarray(factor @ second @ np.swapaxes(factor, -1, -2))

    def cross(self, u: Array, v: Array) -> Array:
        return _outer(u, v)

    def spread(self, n: Array) -> Array:
        return n[:, None, None]

    def trace(self, second: Array, k: int, d: int) -> Array:
        return np.broadcast_to(np.trace(second, axis1=-2, axis2=-1), (k,))

    def positive(self, second: Array) -> bool:
        return bool(np.all(np.linalg.eigvalsh(second) > 0))

    def flat(self, second: Array) -> NDArray[np.bool_]:
        return np.asarray((np.trace(second, axis1=-2, axis2=-1) <= 0)[..., None, None])

    def root(self, covariances: Array) -> Array:
        return _factor(covariances)

    def compose(self, factor: Array, inner: Array) -> Array:
        return np.asarray(factor @ inner)

    def invert(self, factor: Array) -> Array:
        return np.stack([_inverse(lower) for lower in factor])

    def log_det(self, factor: Array, k: int, d: int) -> Array:
        diagonal = np.diagonal(factor, axis1=-2, axis2=-1)
        return np.broadcast_to(2 * np.log(diagonal).sum(axis=-1), (k,))

    def to_free(self, factor: Array, units: Array) -> Array:
        d = len(units)
        plain = (factor / units[:, None]).reshape(-1, d, d)
        rows, columns = np.tril_indices(d, -1)
        below = plain[:, rows, columns]
        return np.concatenate([np.log(np.diagonal(plain, axis1=1, axis2=2)).ravel(), below.ravel()])

    def from_free(self, free: Array, k: int, units: Array) -> Array:
        d = len(units)
        count = len(free) // (d * (d + 1) // 2)
        plain = np.zeros((count, d, d))
        rows, columns = np.tril_indices(d, -1)
        plain[:, range(d), range(d)] = np.exp(free[: count * d]).reshape(count, d)
        plain[:, rows, columns] = free[count * d :].reshape(count, -1)
        return np.asarray((plain * units[:, None]).reshape(self.shape(k, d)))

    def amplification(self, factor: Array, whitening: Array) -> float:
        deviations = np.sqrt((factor**2).sum(axis=-1))
        return float((np.abs(whitening) * deviations[..., None, :]).sum(axis=-1).max())

    def identity(self, d: int) -> Array:
        return np.eye(d)

    def gram(self, factor: Array) -> Array:
        return np.asarray(factor @ np.swapaxes(factor, -1, -2))

    def _product(self, whitening: Array, factor: Array) -> Array:
        """Return A F without columns of zeros: a floor has few others, or none, and products are O(k d³)."""
        return self.compose(whitening, factor[..., np.any(factor.reshape(-1, factor.shape[-1]), axis=0)])

    def whitened(self, whitening: Array, factor: Array) -> Array:
        return self.gram(self._product(whitening, factor))

    def whitened_trace(self, whitening: Array, factor: Array, k: int, d: int) -> Array:
        product = self._product(whitening, factor)
        return np.broadcast_to(np.einsum("...ij,...ij->...", product, product), (k,))

    def prior(self, covariance: Array, mean: Array, constant: NDArray[np.bool_]) -> CovariancePrior:
        return _matrix_prior(covariance, mean, constant)


class _Tied(_Full):
    family = TiedGaussian
    shared = True

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        return (d, d)

    def count(self, k: int, d: int) -> int:
        return d * (d + 1) // 2

    def cross(self, u: Array, v: Array) -> Array:
        return np.asarray(u.T @ v)

    def spread(self, n: Array) -> Array:
        return np.asarray(n.sum())

    def invert(self, factor: Array) -> Array:
        return _inverse(factor)


class _Diag(_Own):
    family: Any = DiagGaussian

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        return (k, d)

    def count(self, k: int, d: int) -> int:
        return k * d

    def apply(self, factor: Array, v: Array) -> Array:
        return factor * v

    def conjugate(self, factor: Array, second: Array) -> Array:
        return np.asarray(factor**2 * second)

    def cross(self, u: Array, v: Array) -> Array:
        return u * v

    def spread(self, n: Array) -> Array:
        return n[:, None]

    def trace(self, second: Array, k: int, d: int) -> Array:
        return np.broadcast_to(second.sum(axis=-1), (k,))

    def positive(self, second: Array) -> bool:
        return bool(np.all(second > 0))

    def flat(self, second: Array) -> NDArray[np.bool_]:
        return np.asarray(second <= 0)

    def root(self, covariances: Array) -> Array:
        return _positive(covariances, self.shared)

    def compose(self, factor: Array, inner: Array) -> Array:
        return factor * inner

    def invert(self, factor: Array) -> Array:
        return np.asarray(1.0 / factor)

    def log_det(self, factor: Array, k: int, d: int) -> Array:
        return np.broadcast_to(2 * np.log(factor).sum(axis=-1), (k,))

    def to_free(self, factor: Array, units: Array) -> Array:
        return np.asarray(np.log(factor / units).ravel())

    def from_free(self, free: Array, k: int, units: Array) -> Array:
        return np.asarray(np.exp(free).reshape(self.shape(k, len(units))) * units)

    def amplification(self, factor: Array, whitening: Array) -> float:
        return 1.0

    def identity(self, d: int) -> Array:
        return np.ones(d)

    def gram(self, factor: Array) -> Array:
        return np.asarray(factor**2)

    def prior(self, covariance: Array, mean: Array, constant: NDArray[np.bool_]) -> CovariancePrior:
        floors = _column_floors(mean, constant)
        scale = np.sqrt(np.where(constant, floors, np.diagonal(covariance)))
        return CovariancePrior(scale, np.sqrt(floors), constant.astype(float))


class _Spherical(_Diag):
    family = SphericalGaussian
    spherical = True

    def from_kernels(self, second: Array, d: int) -> Array:
        return second / d

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        return (k,)

    def count(self, k: int, d: int) -> int:
        return k

    def apply(self, factor: Array, v: Array) -> Array:
        return np.asarray(factor[..., None] * v)

    def cross(self, u: Array, v: Array) -> Array:
        return np.asarray((u * v).mean(axis=-1))

    def spread(self, n: Array) -> Array:
        return n

    def trace(self, second: Array, k: int, d: int) -> Array:
        return np.broadcast_to(d * second, (k,))

    def to_free(self, factor: Array, units: Array) -> Array:
        return np.log(factor).ravel()

    def from_free(self, free: Array, k: int, units: Array) -> Array:
        return np.exp(free).reshape(self.shape(k, len(units)))

    def log_det(self, factor: Array, k: int, d: int) -> Array:
        return np.broadcast_to(2 * d * np.log(factor), (k,))

    def identity(self, d: int) -> Array:
        return np.ones(())

    def prior(self, covariance: Array, mean: Array, constant: NDArray[np.bool_]) -> CovariancePrior:
        floor = np.mean(_column_floors(mean, constant)) if constant.all() else np.zeros(())
        scale = np.sqrt(np.trace(covariance) / len(mean) + floor)
        return CovariancePrior(scale, np.sqrt(floor), np.asarray(float(constant.all())))


class _TiedDiag(_Diag):
    """Each component's variances are those that the kernels are given; sums are pooled afterwards."""

    shared = True

    def for_kernels(self, factor: Array, k: int) -> Array:
        return np.repeat(factor[None], k, axis=0)

    def from_kernels(self, second: Array, d: int) -> Array:
        return np.asarray(super().from_kernels(second, d).sum(axis=0))

    def shape(self, k: int, d: int) -> tuple[int, ...]:
        return super().shape(1, d)[1:]

    def count(self, k: int, d: int) -> int:
        return super().count(1, d)

    def cross(self, u: Array, v: Array) -> Array:
        return np.asarray(super().cross(u, v).sum(axis=0))

    def spread(self, n: Array) -> Array:
        return np.asarray(n.sum())


class _TiedSpherical(_TiedDiag, _Spherical):
    """Shared as the former, and otherwise the latter."""


COVARIANCES: dict[str, Covariance] = {
    "full": _Full(),
    "tied": _Tied(),
    "diag": _Diag(),
    "spherical": _Spherical(),
    "tied_diag": _TiedDiag(),
    "tied_spherical": _TiedSpherical(),
}
