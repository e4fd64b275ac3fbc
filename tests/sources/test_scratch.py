"""The scratch file: decoded once, the same rows and bits, and never left behind."""

import os
import pickle

import numpy as np
import pytest
import zarr

import streamem as sem
from streamem.protocols import Buffer
from streamem.sources import as_source
from streamem.sources.scratch import open_scratch
from streamem.sources.streaming import ArrayBlock

X = np.random.default_rng(0).normal(size=(50_000, 3)).astype(np.float32)
WEIGHT = np.random.default_rng(1).uniform(0, 2, 50_000)


@pytest.fixture
def store(tmp_path):
    z = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(5000, 3), dtype="f4")
    z[:] = X
    return z


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_rows__come_back_as_they_went(store, tmp_path, weight, monkeypatch):
    with open_scratch(as_source(store, weight), tmp_path) as source:
        buffer = Buffer()
        for _ in range(2):
            for block in source.blocks():
                rows = block.load(buffer)
                np.testing.assert_array_equal(rows.x, X[block.start : block.stop])
                if weight is None:
                    assert rows.weight is None
                else:
                    np.testing.assert_array_equal(rows.weight, weight[block.start : block.stop])
                assert rows.x.flags.c_contiguous
                assert rows.start == block.start
            monkeypatch.setattr(ArrayBlock, "load", None)  # the store is not read again


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_labels__come_back_as_they_went(store, tmp_path, weight, monkeypatch):
    label = np.arange(50_000) % 7 - 1
    with open_scratch(as_source(store, weight, y=label), tmp_path) as source:
        for _ in range(2):
            for block in source.blocks():
                rows = block.load(Buffer())
                np.testing.assert_array_equal(rows.label, label[block.start : block.stop])
                np.testing.assert_array_equal(rows.x, X[block.start : block.stop])
                if weight is not None:
                    np.testing.assert_array_equal(rows.weight, weight[block.start : block.stop])
            monkeypatch.setattr(ArrayBlock, "load", None)


def test_block__travels_without_the_file(store, tmp_path):
    with open_scratch(as_source(store), tmp_path) as source:
        block = pickle.loads(pickle.dumps(source.blocks()[3]))
        np.testing.assert_array_equal(block.load().x, X[block.start : block.stop])


def test_fit__gives_the_same_bits_and_leaves_nothing(store, tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    settings = {"random_state": 0, "tol": 1e-3, "memory_limit": "8MiB"}
    with_scratch = sem.GaussianMixture(3, **settings).fit(store, sample_weight=WEIGHT, scratch=folder)
    without = sem.GaussianMixture(3, **settings).fit(store, sample_weight=WEIGHT)
    np.testing.assert_array_equal(with_scratch.covariances_, without.covariances_)
    assert os.listdir(folder) == []


def test_scratch__for_other_processes_is_refused(store, tmp_path):
    with pytest.raises(sem.InputError, match="scratch"):
        sem.GaussianMixture(3).fit(store, scratch=tmp_path, scheduler="processes")


def test_folder__that_does_not_exist_is_a_source_error(store, tmp_path):
    with pytest.raises(sem.SourceError, match="no scratch file"):
        sem.GaussianMixture(3).fit(store, scratch=tmp_path / "missing")


def test_room__is_checked_before_the_first_read(store, tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage)
    with pytest.raises(sem.SourceError, match="1,000 are free"):
        sem.GaussianMixture(3).fit(store, scratch=tmp_path)


def test_error_of_the_fit__is_not_blamed_on_the_scratch_file(store, tmp_path):
    store[100, 1] = np.nan
    with pytest.raises(sem.NonFiniteError, match="row 100, column 1"):
        sem.GaussianMixture(3).fit(store, scratch=tmp_path)


def test_late_thread__never_writes_into_another_file(store, tmp_path):
    """The file's number is not given to anyone else while a block that may write to it is alive."""
    with open_scratch(as_source(store), tmp_path) as source:
        late = source.blocks()[-1]
    del source
    other = tmp_path / "other"
    with open(other, "wb") as file:
        late.load()
        file.write(b"mine")
    assert other.read_bytes() == b"mine"
