"""Blocks that stay in memory: read once, the same rows, and no more of them than there is room for."""

import pickle

import numpy as np
import pytest
import zarr

import streamem as sem
from streamem.protocols import Buffer
from streamem.sources import as_source
from streamem.sources.keeping import KeepingSource
from streamem.sources.streaming import ArrayBlock

X = np.random.default_rng(0).normal(size=(50_000, 3))


@pytest.fixture
def loads(monkeypatch):
    """How often each block of a store was read."""
    counts = {}
    load = ArrayBlock.load

    def counted(self, buffer=None):
        counts[self.index] = counts.get(self.index, 0) + 1
        return load(self, buffer)

    monkeypatch.setattr(ArrayBlock, "load", counted)
    return counts


@pytest.fixture
def store(tmp_path):
    z = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(5000, 3), dtype="f8")
    z[:] = X
    return z


def read(source):
    buffer = Buffer()
    return np.concatenate([block.load(buffer).x.copy() for block in source.blocks()])


def test_kept_blocks__are_read_once(store, loads):
    source = KeepingSource(as_source(store), 10**9)
    for _ in range(3):
        np.testing.assert_array_equal(read(source), X)
    assert set(loads.values()) == {1}


def test_room__decides_how_many_blocks_are_kept(store, loads):
    source = KeepingSource(as_source(store), 22_000 * 32)
    for _ in range(3):
        np.testing.assert_array_equal(read(source), X)
    assert [loads[i] for i in sorted(loads)] == [1] * 4 + [3] * 6
    assert sum(rows.n_bytes for rows in source.kept.values()) <= 22_000 * 32


def test_kept_weights_and_labels__stay_with_their_rows(store):
    weight = np.arange(50_000.0)
    source = KeepingSource(as_source(store, weight, y=weight), 10**9)
    for _ in range(2):
        buffer = Buffer()
        for block in source.blocks():
            np.testing.assert_array_equal(block.load(buffer).weight, weight[block.start : block.stop])
            np.testing.assert_array_equal(block.load(buffer).label, weight[block.start : block.stop])


def test_kept_block__travels_without_its_rows(store):
    source = KeepingSource(as_source(store), 10**9)
    block = source.blocks()[2]
    rows = block.load()
    sent = pickle.dumps(block)
    assert len(sent) < 5000
    np.testing.assert_array_equal(pickle.loads(sent).load().x, rows.x)


def test_fit__reads_what_fits_once_and_the_bits_are_the_same(store, loads):
    fits = {}
    for limit in ("1GiB", None):
        loads.clear()
        fits[limit] = sem.GaussianMixture(
            3, random_state=0, tol=1e-3, memory_limit=limit, acceleration="none"
        ).fit(store)
        reads = set(loads.values())
        assert reads == ({1} if limit else {fits[limit].n_iter_ + 1})
    np.testing.assert_array_equal(fits["1GiB"].covariances_, fits[None].covariances_)


def test_fit__of_rows_in_memory_keeps_no_copy(loads):
    gm = sem.GaussianMixture(3, random_state=0, tol=1e-3, acceleration="none").fit(X)
    assert max(loads.values()) == gm.n_iter_ + 1


def test_time__to_decode_is_that_of_the_first_load(store):
    block = KeepingSource(as_source(store), n_bytes=10**9).blocks()[0]
    assert block.load().decode_seconds > 0
    assert block.load().decode_seconds == 0
