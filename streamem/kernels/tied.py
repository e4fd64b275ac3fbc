"""Components that share one covariance: rows are whitened once, and k components cost O(k d) per row.

With ``z = L⁻¹(x - center)``, ``m_k = L⁻¹ μ_k``, ``s = Σ_k r_k`` and ``ȳ = z - Σ_k r_k m_k / s``, the
second moment of one row over its components is

    Σ_k r_k (z - m_k)(z - m_k)ᵀ = s ȳ ȳᵀ + 1/(2 s) Σ_kl r_k r_l (m_k - m_l)(m_k - m_l)ᵀ,

so a d×d and a k×k sum over rows say all that k sums of d×d would, and nothing cancels. Where k exceeds
d², those are the cheaper ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel
from streamem.kernels.gaussian import TiedGaussian
from streamem.kernels.memory import aligned_zeros, enter, kept_by_thread
from streamem.kernels.products import STRIP_BYTES, add_gram, gram_blocks, gram_matrix, whiten_strip
from streamem.kernels.simd import (
    STRIP_VECTORS,
    element,
    load_strip,
    multiply_add,
    rows_per_strip,
    square_root,
    store,
    where_positive,
    zero_strip,
)
from streamem.kernels.spherical import add_first_moments, first_moments, squared_distances
from streamem.kernels.tiles import add_moments, implements, log_joint, padded

__all__ = ["TiedComponents", "tied_components", "tied_sums"]


class TiedComponents(NamedTuple):
    """`TiedGaussian` in the dtype of tiles, features padded to a multiple of 4; memory to work in; sums."""

    means: NDArray[Any]
    """(k, padded d) ``m_k = L⁻¹ μ_k``."""
    whitening: NDArray[Any]
    """(padded d, padded d)."""
    log_const: NDArray[np.float64]
    """(k,)."""
    pooled: bool
    """Whether second moments are taken about ȳ, with products of responsibilities."""
    origin: NDArray[Any]
    """(padded d,) zeros: rows are whitened about the center of the tile."""
    difference: NDArray[Any]
    """One strip."""
    z: NDArray[Any]
    """A tile of whitened rows, in strips."""
    y: NDArray[Any]
    """A tile of rows about their ȳ, or about one mean where second moments are not pooled, by feature."""
    total: NDArray[Any]
    """(rows,) ``w s``."""
    r: NDArray[Any]
    """A tile of ``r √(w / s)``, by component, where second moments are pooled."""
    ones: NDArray[Any]
    """(rows,) the weights of these."""
    weighted: NDArray[Any]
    """(4 rows,) whitened rows times their weights, four features at a time."""
    spare: NDArray[np.float64]
    """(padded d or k,) sums that are not asked for."""
    sum_wy: NDArray[np.float64]
    """(k, padded d), where second moments are not pooled."""
    sum_wd: NDArray[np.float64]
    """(pairs of k, padded d / 4, 8) of `add_first_moments`, where they are."""
    sum_wyy: NDArray[np.float64]
    """(gram_blocks(d), 8) ``Σ w s ȳ ȳᵀ``, or the whole second moment."""
    sum_wrr: NDArray[np.float64]
    """(gram_blocks(k), 8) ``Σ w r_k r_l / s``."""


def tied_components(family: TiedGaussian, n_rows: int, dtype: Any) -> TiedComponents:
    """Prepare components for tiles of n_rows rows. The thread's next may be in the same memory."""
    k, d = family.means.shape
    components = _memory(k, d, n_rows, np.dtype(dtype))
    enter(family.means @ family.whitening.T, components.means)
    enter(family.whitening, components.whitening)
    components.log_const[:] = family.log_const
    for sums in (components.sum_wd, components.sum_wy, components.sum_wyy, components.sum_wrr):
        sums.fill(0.0)
    return components


@kept_by_thread
def _memory(k: int, d: int, n_rows: int, dtype: np.dtype[Any]) -> TiedComponents:
    p = padded(d)
    pooled = k <= d * d
    q = padded(k) if pooled else 0
    return TiedComponents(
        means=np.empty((k, p), dtype),
        whitening=np.empty((p, p), dtype),
        log_const=np.empty(k),
        pooled=pooled,
        origin=np.zeros(p, dtype),
        difference=aligned_zeros(p * STRIP_BYTES // dtype.itemsize, dtype),
        z=aligned_zeros(p * n_rows, dtype),
        y=aligned_zeros(p * n_rows, dtype),
        total=aligned_zeros(n_rows, dtype),
        r=aligned_zeros(q * n_rows, dtype),
        ones=np.ones(n_rows, dtype),
        weighted=aligned_zeros(4 * n_rows, dtype),
        spare=aligned_zeros(max(p, q), np.float64),
        sum_wy=aligned_zeros((0 if pooled else k, p), np.float64),
        sum_wd=aligned_zeros((-(-k // 2) if pooled else 0, p // 4, 8), np.float64),
        sum_wyy=aligned_zeros((gram_blocks(p), 8), np.float64),
        sum_wrr=aligned_zeros((gram_blocks(q), 8), np.float64),
    )


def tied_sums(
    family: TiedGaussian, components: TiedComponents
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum_wy (k, d) and sum_wyy (d, d), over all components."""
    k, d = family.means.shape
    sum_wyy = gram_matrix(components.sum_wyy, d)
    if components.pooled:
        means = components.means[:, :d].astype(np.float64)
        cross = gram_matrix(components.sum_wrr, k)
        for mean, row in zip(means, cross, strict=True):
            apart = means - mean
            sum_wyy += 0.5 * (apart.T * row) @ apart
        return first_moments(components.sum_wd, (k, d)), sum_wyy
    return components.sum_wy[:, :d].copy(), sum_wyy


@implements(log_joint, TiedComponents)
@kernel(inline=True)
def _log_joint(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Write z, and ``log_const - ‖z - m_k‖² / 2``. O(d² / 2 + k d) time per row."""
    x, z, n_features = tile.x, components.z, components.means.shape[1]
    triangle, origin, difference = components.whitening, components.origin, components.difference
    for s in range(n_strips):
        strip = s * n_features
        whiten_strip(triangle, origin, n_features, x, strip, difference, z, strip, 1)
    squared_distances(z, components.means, n_strips, tile.resp)
    for c in range(len(components.means)):
        joint, const = tile.resp[c], z.dtype.type(components.log_const[c])
        for t in range(n_strips * rows_per_strip(z)):
            joint[t] = const - z.dtype.type(0.5) * joint[t]


@implements(add_moments, TiedComponents)
@kernel(inline=True)
def _add_moments(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Add ``Σ w r y`` of each component, and the second moments of all of them together."""
    if components.pooled:
        add_first_moments(components.z, components.means, tile.resp, n_strips, components.sum_wd)
        _add_pooled_moments(components, tile, n_strips)
    else:
        _add_direct_moments(components, tile, n_strips)


@kernel(inline="once")
def _add_direct_moments(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Add ``Σ w r y`` and ``Σ w r y yᵀ`` component by component. O(k d² / 2) time per row."""
    y, z, n_features = components.y, components.z, components.means.shape[1]
    n_vectors = STRIP_VECTORS * n_strips
    for c in range(len(components.means)):
        resp = tile.resp[c]
        for s in range(n_strips):
            r = load_strip(resp, s)
            for i in range(n_features):
                away = load_strip(z, s * n_features + i) - element(components.means, c * n_features + i)
                store(y, i * n_strips + s, where_positive(r, away))
        sum_wy, sum_wyy = components.sum_wy[c], components.sum_wyy
        add_gram(resp, y, n_features, n_vectors, n_vectors, components.weighted, sum_wy, sum_wyy)


@kernel(inline="once")
def _add_pooled_moments(components, tile, n_strips):  # type: ignore[no-untyped-def]
    """Add ``Σ w s ȳ ȳᵀ`` and ``Σ w r_k r_l / s``. O(k d + d² / 2 + k² / 2) time per row."""
    y, z, r, means = components.y, components.z, components.r, components.means
    k, n_features = means.shape
    one = z.dtype.type(1)
    for s in range(n_strips):
        total = zero_strip(z)
        for c in range(k):
            total = total + load_strip(tile.resp[c], s)
        root = square_root(total)
        inverse = where_positive(root, one / root)
        store(components.total, s, total)
        for c in range(k):
            store(r, c * n_strips + s, load_strip(tile.resp[c], s) * inverse)
        for i in range(0, n_features, 4):
            at, to = s * n_features + i, i * n_strips + s
            m0, m1, m2, m3 = zero_strip(z), zero_strip(z), zero_strip(z), zero_strip(z)
            for c in range(k):
                share, mean = load_strip(r, c * n_strips + s), c * n_features + i
                m0 = multiply_add(share, element(means, mean), m0)
                m1 = multiply_add(share, element(means, mean + 1), m1)
                m2 = multiply_add(share, element(means, mean + 2), m2)
                m3 = multiply_add(share, element(means, mean + 3), m3)
            store(y, to, where_positive(root, load_strip(z, at) - inverse * m0))
            store(y, to + n_strips, where_positive(root, load_strip(z, at + 1) - inverse * m1))
            store(y, to + 2 * n_strips, where_positive(root, load_strip(z, at + 2) - inverse * m2))
            store(y, to + 3 * n_strips, where_positive(root, load_strip(z, at + 3) - inverse * m3))
    n, weighted, spare = STRIP_VECTORS * n_strips, components.weighted, components.spare
    add_gram(components.total, y, n_features, n, n, weighted, spare, components.sum_wyy)
    add_gram(components.ones, r, padded(k), n, n, weighted, spare, components.sum_wrr)
