"""Rows with a missing value are left out; the others keep their places."""

from __future__ import annotations

import itertools
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from streamem.errors import NonFiniteError
from streamem.protocols import Buffer
from streamem.sources import as_source, dropping
from streamem.sources.dropping import DroppingSource
from streamem.sources.keeping import KeepingSource
from streamem.sources.scratch import open_scratch

X = np.random.default_rng(0).normal(size=(20_000, 3))
X[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
X[:5000] = 1.0  # the first block is complete
WEIGHT = np.arange(20_000) % 3.0
KEPT = ~np.isnan(X).any(axis=1)


@pytest.fixture
def source():
    return as_source(X, WEIGHT, missing="keep", memory_limit=2**21)


def read(source):
    """What all blocks hold: rows, weights, places, and how many were left out."""
    every = [block.load(Buffer()) for block in source.blocks()]
    places = [np.arange(r.start, r.start + len(r.x)) if r.index is None else r.index for r in every]
    x, weight = np.concatenate([r.x for r in every]), np.concatenate([r.weight for r in every])
    return x, weight, np.concatenate(places), sum(r.n_left_out for r in every)


def assert_complete_rows(source):
    x, weight, index, n_left_out = read(source)
    np.testing.assert_array_equal(x, X[KEPT])
    np.testing.assert_array_equal(weight, WEIGHT[KEPT])
    np.testing.assert_array_equal(index, np.flatnonzero(KEPT))
    assert n_left_out == np.count_nonzero(WEIGHT[~KEPT])  # those of weight 0 were absent before


def test_rows__are_the_complete_ones_in_their_places(source):
    assert len(source.blocks()) > 2
    assert_complete_rows(DroppingSource(source))


def test_rows__are_kept_between_passes_and_dropped_again_elsewhere(source, tmp_path):
    kept = KeepingSource(DroppingSource(source), 10**9)
    for _ in range(2):
        assert_complete_rows(kept)
    with open_scratch(source, tmp_path) as scratch:
        for _ in range(2):
            assert_complete_rows(DroppingSource(scratch))
    block = pickle.loads(pickle.dumps(kept.blocks()[-1]))
    np.testing.assert_array_equal(block.load().x, kept.blocks()[-1].load().x)


def test_labels__stay_with_their_rows():
    label = np.arange(len(X)) % 5 - 1
    source = DroppingSource(as_source(X, y=label, missing="keep", memory_limit=2**21))
    found = [block.load().label for block in source.blocks()]
    assert len(found) > 2
    np.testing.assert_array_equal(np.concatenate(found), label[KEPT])


def test_complete_block__is_not_copied():
    dropping = DroppingSource(as_source(X[:5000], missing="keep"))
    assert all(np.shares_memory(block.load().x, X) for block in dropping.blocks())


def test_block_bytes__counts_the_copy(source):
    dropping = DroppingSource(source)
    largest = max(rows.x.nbytes for rows in (block.load() for block in dropping.blocks()))
    assert dropping.block_bytes >= source.block_bytes + largest


def test_infinity__is_refused():
    x = X.copy()
    x[7000, 1] = np.inf
    with pytest.raises(NonFiniteError, match="row 7,000, column 1"):
        read(DroppingSource(as_source(x, WEIGHT, missing="keep")))


def test_time__to_drop_rows_is_decoding(source, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(dropping, "time", SimpleNamespace(perf_counter=lambda: 1000.0 * next(ticks)))
    assert 1000 < DroppingSource(source).blocks()[-1].load().decode_seconds < 2000
