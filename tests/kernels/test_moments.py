import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamem.kernels.moments import moments
from tests import naive


@settings(max_examples=30)
@given(
    n=st.sampled_from([0, 1, 2, 15, 16, 17, 127, 128, 129, 300]),
    d=st.integers(1, 9),
    dtype=st.sampled_from([np.float32, np.float64]),
    weighted=st.booleans(),
)
def test_moments__are_the_formulas(n, d, dtype, weighted):
    rng = np.random.default_rng(n + d)
    x = (5 + rng.normal(size=(n, d))).astype(dtype)
    weight = rng.integers(0, 3, size=n) * 1.5 if weighted else None
    shift = rng.normal(size=d)
    for a, e in zip(moments(x, weight, shift), naive.moments(x, weight, shift), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("weight", [None, np.zeros(0)])
def test_moments__of_no_rows_are_the_neutral_element(weight):
    m = moments(np.empty((0, 3)), weight, np.zeros(3))
    assert m.weight == 0 and (m.minimum == np.inf).all() and (m.maximum == -np.inf).all()
    assert not m.sum_wd.any() and not m.sum_wdd.any()


def test_moments__ignore_rows_of_weight_zero():
    x = np.array([[1.0, 2.0], [np.nan, np.inf], [3.0, 4.0]])
    for a, e in zip(
        moments(x, np.array([1.0, 0, 2]), np.ones(2)),
        moments(x[::2].copy(), np.array([1.0, 2]), np.ones(2)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, e)
