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
def _sums(weight, y, n_features, n_vectors, stride, weighted, sum_wy, sum_wyy):
    add_gram(weight, y, n_features, n_vectors, stride, weighted, sum_wy, sum_wyy)


@kernel
def _block_at_once(weighted, y, n_vectors, stride, j, out):
    add_block_at_once(weighted, y, n_vectors, stride, j, out, 0)


@kernel
def _block_by_halves(weighted, y, n_vectors, stride, j, out):
    add_block_by_halves(weighted, y, n_vectors, stride, j, out, 0)


@kernel
def _whiten(triangle, mean, n_features, x, difference, y, y_start, y_step):
    whiten_strip(triangle, mean, n_features, x, 0, difference, y, y_start, y_step)


def by_feature(rows, room=0):
    """Rows (n, d), n a multiple of the lanes of a vector, with room for more vectors in each feature."""
    lanes = VECTOR_BYTES // rows.itemsize
    padded = np.pad(rows, ((0, room * lanes), (0, 0)), constant_values=np.nan)
    y = aligned_zeros(padded.size, rows.dtype)
    y[:] = padded.T.ravel()
    return y, len(rows) // lanes, len(padded) // lanes


def weights(n, dtype):
    w = aligned_zeros(n, dtype)
    w[:] = np.random.default_rng(n).random(n)
    w[::5] = 0
    return w


def rows(d, dtype, n_vectors=6):
    n = n_vectors * VECTOR_BYTES // np.dtype(dtype).itemsize
    return np.random.default_rng(d).normal(size=(n, d)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [4, 8, 12, 32])
@pytest.mark.parametrize("room", [0, 3])
def test_sums__are_those_of_weighted_rows_and_products(d, room, dtype):
    y = rows(d, dtype)
    w = weights(len(y), dtype)
    sum_wy, sum_wyy = aligned_zeros(d, np.float64), aligned_zeros((gram_blocks(d), 8), np.float64)
    sum_wy[:] = sum_wyy[:] = 1.0
    features, n_vectors, stride = by_feature(y, room)
    _sums(w, features, d, n_vectors, stride, aligned_zeros(4 * len(y), dtype), sum_wy, sum_wyy)
    exact, weighted = y.astype(float), w[:, None] * y.astype(float)
    atol = 1e-4 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(sum_wy, 1 + weighted.sum(axis=0), atol=atol)
    np.testing.assert_allclose(gram_matrix(sum_wyy, d), 1 + weighted.T @ exact, atol=atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("i, j", [(0, 0), (4, 0), (8, 4)])
def test_block__is_the_same_however_many_registers_there_are(i, j, dtype):
    y = rows(12, dtype)
    weighted = by_feature(weights(len(y), dtype)[:, None] * y[:, i : i + 4])[0]
    once, halves = aligned_zeros((2, 8), np.float64), aligned_zeros((2, 8), np.float64)
    _block_at_once(weighted, *by_feature(y), j, once)
    _block_by_halves(weighted, *by_feature(y), j, halves)
    np.testing.assert_array_equal(once, halves)
    expected = weighted.reshape(4, -1).astype(float) @ y[:, j : j + 4].astype(float)
    np.testing.assert_allclose(once.reshape(4, 4), expected, atol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [4, 8, 36])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("start, step", [(0, 1), (1, 3)])
def test_whiten_strip__is_the_product_with_the_triangle(start, step, d, in_place, dtype):
    x, mean = rows(d, dtype, n_vectors=STRIP_VECTORS), np.arange(d, dtype=dtype)
    triangle = np.tril(np.random.default_rng(1).normal(size=(d, d))).astype(dtype)
    strip, y = by_feature(x)[0], aligned_zeros(step * x.size, dtype)
    difference = strip if in_place else aligned_zeros(x.size, dtype)
    _whiten(triangle, mean, d, strip, difference, y, start, step)
    expected = (x - mean).astype(float) @ triangle.T.astype(float)
    np.testing.assert_array_equal(difference, by_feature(x - mean)[0])
    strips = y.reshape(d, step, -1)
    np.testing.assert_allclose(strips[:, start], expected.T, atol=1e-3 if dtype == np.float32 else 1e-12)
    assert not np.delete(strips, start, axis=1).any()
