import numpy as np
import pytest

from streamem.kernels.compile import kernel
from streamem.kernels.memory import aligned_zeros
from streamem.kernels.products import (
    add_block_at_once,
    add_block_by_halves,
    add_gram,
    gram_blocks,
    gram_matrix,
    whiten_strip,
)
from streamem.kernels.simd import STRIP_VECTORS, VECTOR_BYTES


@kernel
def _gram(z, n_features, n_vectors, out):
    add_gram(z, n_features, n_vectors, out, 0)


@kernel
def _block_at_once(z, n_vectors, i, j, out):
    add_block_at_once(z, n_vectors, i, j, out, 0)


@kernel
def _block_by_halves(z, n_vectors, i, j, out):
    add_block_by_halves(z, n_vectors, i, j, out, 0)


@kernel
def _whiten(triangle, mean, n_features, x, difference, y):
    whiten_strip(triangle, mean, n_features, x, 0, difference, y, 0)


def by_feature(rows):
    """Rows (n, d), n a multiple of the lanes of a vector, and how many vectors each feature takes."""
    z = aligned_zeros(rows.size, rows.dtype)
    z[:] = rows.T.ravel()
    return z, len(rows) * rows.itemsize // VECTOR_BYTES


def rows(d, dtype, n_vectors=6):
    n = n_vectors * VECTOR_BYTES // np.dtype(dtype).itemsize
    return np.random.default_rng(d).normal(size=(n, d)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [4, 8, 12, 32])
def test_gram__is_the_sum_of_products(d, dtype):
    z = rows(d, dtype)
    out = aligned_zeros((gram_blocks(d), 8), np.float64)
    out[:] = 1.0
    features, n_vectors = by_feature(z)
    _gram(features, d, n_vectors, out)
    expected = 1 + z.astype(float).T @ z.astype(float)
    np.testing.assert_allclose(gram_matrix(out, d), expected, atol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("i, j", [(0, 0), (4, 0), (8, 4)])
def test_block__is_the_same_however_many_registers_there_are(i, j, dtype):
    z = rows(12, dtype)
    once, halves = aligned_zeros((2, 8), np.float64), aligned_zeros((2, 8), np.float64)
    _block_at_once(*by_feature(z), i, j, once)
    _block_by_halves(*by_feature(z), i, j, halves)
    np.testing.assert_array_equal(once, halves)
    expected = z[:, i : i + 4].astype(float).T @ z[:, j : j + 4].astype(float)
    np.testing.assert_allclose(once.reshape(4, 4), expected, atol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [4, 8, 36])
@pytest.mark.parametrize("in_place", [False, True])
def test_whiten_strip__is_the_product_with_the_triangle(d, dtype, in_place):
    x, mean = rows(d, dtype, n_vectors=STRIP_VECTORS), np.arange(d, dtype=dtype)
    triangle = np.tril(np.random.default_rng(1).normal(size=(d, d))).astype(dtype)
    strip, y = by_feature(x)[0], aligned_zeros(x.size, dtype)
    difference = strip if in_place else aligned_zeros(x.size, dtype)
    _whiten(triangle, mean, d, strip, difference, y)
    expected = (x - mean).astype(float) @ triangle.T.astype(float)
    np.testing.assert_array_equal(difference, by_feature(x - mean)[0])
    np.testing.assert_allclose(y, by_feature(expected)[0], atol=1e-3 if dtype == np.float32 else 1e-12)
