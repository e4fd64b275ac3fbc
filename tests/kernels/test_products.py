import numpy as np
import pytest

from streamem.kernels.compile import kernel
from streamem.kernels.memory import aligned_zeros
from streamem.kernels.products import (
    STRIP_BYTES,
    add_block_at_once,
    add_block_by_halves,
    add_gram,
    gram_blocks,
    gram_matrix,
    spaced,
)


@kernel
def _gram(z, n_features, n_strips, out):
    add_gram(z, n_features, n_strips, out, 0)


@kernel
def _block_at_once(z, apart, n_strips, i, j, out):
    add_block_at_once(z, apart, n_strips, i, j, out, 0)


@kernel
def _block_by_halves(z, apart, n_strips, i, j, out):
    add_block_by_halves(z, apart, n_strips, i, j, out, 0)


def in_strips(rows, apart):
    """Rows (n, d) as strips that begin so many features from one another; NaN in between."""
    lanes = STRIP_BYTES // rows.itemsize
    strips = aligned_zeros(len(rows) * apart, rows.dtype)
    strips[:] = np.nan
    by_feature = rows.reshape(-1, lanes, rows.shape[1]).swapaxes(1, 2)
    strips.reshape(-1, apart, lanes)[:, : rows.shape[1]] = by_feature
    return strips


def rows(d, dtype, n_strips=3):
    return (
        np.random.default_rng(d)
        .normal(size=(n_strips * STRIP_BYTES // np.dtype(dtype).itemsize, d))
        .astype(dtype)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [4, 8, 12, 32])
def test_gram__is_the_sum_of_products(d, dtype):
    z = rows(d, dtype)
    out = aligned_zeros((gram_blocks(d), 8), np.float64)
    out[:] = 1.0
    _gram(in_strips(z, spaced(d)), d, 3, out)
    expected = 1 + z.astype(float).T @ z.astype(float)
    np.testing.assert_allclose(gram_matrix(out, d), expected, atol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("i, j", [(0, 0), (4, 0), (8, 4)])
def test_block__is_the_same_however_many_registers_there_are(i, j, dtype):
    z = rows(12, dtype)
    once, halves = aligned_zeros((2, 8), np.float64), aligned_zeros((2, 8), np.float64)
    _block_at_once(in_strips(z, 12), 12, 3, i, j, once)
    _block_by_halves(in_strips(z, 12), 12, 3, i, j, halves)
    np.testing.assert_array_equal(once, halves)
    expected = z[:, i : i + 4].astype(float).T @ z[:, j : j + 4].astype(float)
    np.testing.assert_allclose(once.reshape(4, 4), expected, atol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("d", [4, 8, 32, 36, 128])
def test_spaced__strips_share_no_set_of_a_cache_more_often_than_they_must(d):
    """64 sets of 64 bytes: what 16 strips hold of one block of 4 features lies in 64 of them."""
    lines = spaced(d) * np.arange(16)[:, None] + np.arange(4)
    assert spaced(d) >= d
    assert len(np.unique(lines % 64)) == 64
