"""Rows held out: the same under every chunking, and apart from the rows that are fitted."""

import functools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamem.models.gaussian_mixture import GaussianMixtureModel
from streamem.models.heldout import HeldOut
from streamem.protocols import Rows
from tests import naive
from tests.strategies import clusters, partitions, split

X, _ = clusters(n=200, d=2, k=2)
WEIGHT = np.random.default_rng(3).uniform(0, 2, 200) * (np.arange(200) % 4 > 0)
MODEL = GaussianMixtureModel(2, "diag")
PARAMS = MODEL.init(Rows(X, None, 0), np.random.default_rng(0))


def test_mask__is_the_hash_below_the_share():
    expected = [naive.split_mix_64(i, 5) < 0.3 * 2**64 for i in range(100, 160)]
    np.testing.assert_array_equal(HeldOut(0.3, 5).mask(100, 60), expected)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@settings(max_examples=25)
@given(data=st.data())
def test_scores__are_those_of_a_naive_split_whatever_the_chunking(weight, data):
    heldout = HeldOut(0.3, 5)
    runs = data.draw(partitions(len(X)))
    parts = [heldout.e_steps([(MODEL, PARAMS)], rows) for rows in split(X, weight, runs)]
    (got,) = functools.reduce(lambda a, b: a.merge(b), parts)
    w = np.ones(len(X)) if weight is None else weight
    held = heldout.mask(0, len(X))
    choleskys = naive.full_cholesky("diag", PARAMS.covariances, 2, 2)
    scores = naive.score_samples(X, PARAMS.weights, PARAMS.means, choleskys)
    assert got.heldout == pytest.approx(np.average(scores[held], weights=w[held]), rel=1e-12)
    assert got.heldout_weight == pytest.approx(w[held].sum())
    assert got.n_samples == np.count_nonzero(w[~held])
    alone = MODEL.e_step(PARAMS, Rows(X[~held], w[~held], 0))
    assert got.weight == pytest.approx(alone.weight)
    assert got.log_likelihood == pytest.approx(alone.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(got.training.sum_wyy, alone.sum_wyy, rtol=1e-11)


def test_score__of_no_rows_is_not_a_number():
    (scored,) = HeldOut(1e-9, 5).e_steps([(MODEL, PARAMS)], Rows(X, None, 0))
    assert np.isnan(scored.heldout)
    assert scored.n_samples == len(X)


def test_heldout__travels():
    again = pickle.loads(pickle.dumps(HeldOut(0.3, 5)))
    np.testing.assert_array_equal(again.mask(0, 50), HeldOut(0.3, 5).mask(0, 50))
