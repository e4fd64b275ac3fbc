import numpy as np
import pytest

from streamem.kernels.kmeans import assign, min_squared_distance_update
from tests import naive


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n, d, k", [(0, 3, 2), (1, 1, 1), (100, 1, 3), (130, 7, 20), (65, 33, 5)])
def test_assign__chooses_the_nearest_center(n, d, k, dtype):
    rng = np.random.default_rng(0)
    x, centers, scale = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(k, d)), rng.random(d) + 0.1
    chosen = assign(x, centers, scale)
    assert chosen.dtype == np.int64
    np.testing.assert_array_equal(chosen, naive.squared_distances(x, centers, scale).argmin(axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_min_squared_distance_update__keeps_the_smallest(dtype):
    rng = np.random.default_rng(0)
    x, centers, scale = rng.normal(size=(100, 5)).astype(dtype), rng.normal(size=(4, 5)), rng.random(5)
    closest = np.full(100, np.inf)
    for center in centers:
        min_squared_distance_update(x, center, scale, closest)
    np.testing.assert_allclose(closest, naive.squared_distances(x, centers, scale).min(axis=1), rtol=1e-12)
