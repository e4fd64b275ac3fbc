"""Arrays in zarr stores."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, ZipStore

from streamem.errors import InputError, MemoryLimitError, SourceError
from streamem.protocols import Buffer
from streamem.sources import as_source
from streamem.sources.streaming import ArraySource

from .conformance import SourceTests, loaded, numbers


def create(store: Any, array: np.ndarray[Any, Any], chunk_rows: int, **options: Any) -> zarr.Array[Any]:
    """Write an array in chunks of whole rows; every chunk is stored, zeros too."""
    chunks = tuple(max(1, n) for n in (min(chunk_rows, max(1, len(array))), *array.shape[1:]))
    settings = {"chunks": chunks, "config": {"write_empty_chunks": True}, "overwrite": True} | options
    stored = zarr.create_array(store, shape=array.shape, dtype=array.dtype, **settings)
    if array.size:
        stored[...] = array
    return stored


class TestZarr(SourceTests):
    """Format 3, by path."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        create(str(directory / "x.zarr"), array, chunk_rows)
        return directory / "x.zarr"


class TestUncompressedZarr(SourceTests):
    """Format 3 without compression, given as an open array."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        return create(str(directory / "x.zarr"), array, chunk_rows, compressors=None)


class TestZarr2(SourceTests):
    """Format 2 in column-major order, as an array within a group."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        path = str(directory / "g.zarr")
        zarr.open_group(path, mode="w", zarr_format=2)
        create(f"{path}/sub/x", array, chunk_rows, zarr_format=2, order="F")
        return f"{path}/sub/x"


class TestShardedZarr(SourceTests):
    """Shards of three chunks each."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        rows = max(1, chunk_rows // 3)
        shards = (3 * rows, *(max(1, n) for n in array.shape[1:]))
        return create(str(directory / "x.zarr"), array, rows, shards=shards, chunks=(rows, *shards[1:]))


class TestZarrInMemory(SourceTests):
    """Arrays that other processes cannot open: their blocks carry the rows."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        return create({}, array, chunk_rows)


class TestZarrBehindUrl(SourceTests):
    """Stores behind fsspec."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        url = f"memory://{directory}/x.zarr"
        create(url, array, chunk_rows)
        return url


def spans(source: Any) -> list[tuple[int, int]]:
    return [(block.start, block.stop) for block in source.blocks()]


def test_blocks__join_small_chunks_and_begin_where_chunks_begin(tmp_path: Path) -> None:
    create(str(tmp_path / "x.zarr"), numbers(20_000, 2), 100)
    edges = spans(as_source(tmp_path / "x.zarr"))
    assert edges == [(0, 5000), (5000, 10000), (10000, 15000), (15000, 20000)]


def test_blocks__are_whole_chunks_where_these_are_large(tmp_path: Path) -> None:
    create(str(tmp_path / "x.zarr"), numbers(20_000, 2), 8000)
    assert spans(as_source(tmp_path / "x.zarr", memory_limit=2**20)) == [
        (0, 8000),
        (8000, 16000),
        (16000, 20000),
    ]


def test_blocks__cut_a_chunk_that_does_not_fit(tmp_path: Path) -> None:
    array = numbers(20_000, 2)
    create(str(tmp_path / "x.zarr"), array, 20_000)
    needed = as_source(tmp_path / "x.zarr").block_bytes
    assert needed == 3 * array.nbytes  # compressed, decoded, and the rows themselves
    source = as_source(tmp_path / "x.zarr", memory_limit=needed - 1)
    assert spans(source) == [(0, 10_000), (10_000, 20_000)]
    assert source.block_bytes < needed
    np.testing.assert_array_equal(loaded(source), array)


def test_blocks__follow_shards_or_the_chunks_in_large_ones(tmp_path: Path) -> None:
    create(str(tmp_path / "x.zarr"), numbers(20_000, 2), 500, shards=(6000, 2))
    assert spans(as_source(tmp_path / "x.zarr")) == [
        (0, 6000),
        (6000, 12_000),
        (12_000, 18_000),
        (18_000, 20_000),
    ]
    inner = spans(as_source(tmp_path / "x.zarr", memory_limit=32 * 2000 * 16))
    assert inner[:4] == [(0, 2000), (2000, 4000), (4000, 6000), (6000, 8000)]


def test_memory_limit__that_cannot_be_met_is_refused_before_reading(tmp_path: Path) -> None:
    create(str(tmp_path / "x.zarr"), numbers(20_000, 2), 20_000)
    shutil.rmtree(tmp_path / "x.zarr" / "c")
    with pytest.raises(
        MemoryLimitError, match=r"rows 0-20,000, stored as one chunk, needs .* MiB even in 8 parts"
    ):
        as_source(tmp_path / "x.zarr", memory_limit=2**18, missing_chunks="ignore")


def test_block_bytes__count_chunks_that_overhang_the_array(tmp_path: Path) -> None:
    create(str(tmp_path / "x.zarr"), numbers(10, 2), 10, chunks=(10_000, 50))
    assert as_source(tmp_path / "x.zarr").block_bytes > 10_000 * 50 * 8


LAYOUTS: dict[str, dict[str, Any]] = {
    "zstd": {"chunks": (10_000, 8)},
    "raw": {"chunks": (10_000, 8), "compressors": None},
    "version 2": {"chunks": (10_000, 8), "zarr_format": 2},
    "whole shards": {"chunks": (1000, 8), "shards": (10_000, 8)},
    "parts of shards": {"chunks": (10_000, 8), "shards": (40_000, 8)},
}


class OwnStore(LocalStore):
    """A local store that may do more than read a file, so that zarr does."""


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("through_zarr", [True, False])
def test_block_bytes__are_what_a_load_takes(tmp_path: Path, layout: str, through_zarr: bool) -> None:
    array = np.random.default_rng(0).normal(size=(40_000, 8))
    create(str(tmp_path / "x.zarr"), array, 1, **LAYOUTS[layout])
    x = zarr.open_array(OwnStore(tmp_path / "x.zarr"), mode="r") if through_zarr else tmp_path / "x.zarr"
    source = as_source(x, memory_limit=2**25)
    block = source.blocks()[0]
    block.load()
    peaks = []
    for _ in range(5):  # zarr's own threads may still hold what the last load decoded
        time.sleep(0.02)
        thread = threading.Thread(target=block.load)  # without what other loads left to reuse
        tracemalloc.start()
        thread.start()
        thread.join()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks) < source.block_bytes + 200_000
    assert min(peaks) > (0.5 if through_zarr else 0.25) * source.block_bytes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_thread_bytes__are_what_a_thread_holds_that_reads_on(tmp_path: Path, layout: str) -> None:
    """Files are read into the same memory again and again, so that twice as many threads have room."""
    array = np.random.default_rng(0).normal(size=(40_000, 8))
    create(str(tmp_path / "x.zarr"), array, 1, **LAYOUTS[layout])
    source = as_source(tmp_path / "x.zarr", memory_limit=2**25)
    assert isinstance(source, ArraySource) and len(source.blocks()) >= 4

    def work() -> None:
        buffer = Buffer()
        for block in source.blocks():
            block.load(buffer)

    work()
    thread = threading.Thread(target=work)
    tracemalloc.start()
    thread.start()
    thread.join()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < source.thread_bytes + 200_000
    sharded = "shards" in LAYOUTS[layout]
    assert source.thread_bytes == 2 * source.block_bytes if sharded else peak > 0.6 * source.thread_bytes


def test_columns__split_over_chunks_are_read_with_a_warning(tmp_path: Path) -> None:
    array = numbers(3000, 5)
    create(str(tmp_path / "x.zarr"), array, 1000, chunks=(1000, 2))
    with pytest.warns(UserWarning, match=r"columns are split over 3 chunks of shape \(1000, 2\)"):
        source = as_source(tmp_path / "x.zarr")
    np.testing.assert_array_equal(loaded(source), array)


def test_load__reads_into_the_buffer(tmp_path: Path) -> None:
    create(str(tmp_path / "x.zarr"), numbers(20_000, 2), 100)
    buffer = Buffer()
    first, *_, last = (block.load(buffer).x for block in as_source(tmp_path / "x.zarr").blocks())
    assert np.shares_memory(first, last)


def test_pickle__of_a_block_carries_the_location_alone(tmp_path: Path) -> None:
    create(str(tmp_path / "x.zarr"), numbers(20_000, 2), 10_000)
    assert len(pickle.dumps(as_source(tmp_path / "x.zarr").blocks()[0])) < 4000


def test_group__with_one_array_is_that_array(tmp_path: Path) -> None:
    array = numbers(50, 2)
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    with pytest.raises(InputError, match="holds no array"):
        as_source(tmp_path / "g.zarr")
    group.create_array("deep/x", shape=array.shape, dtype=array.dtype)[...] = array
    for x in (tmp_path / "g.zarr", group):
        source = as_source(x)
        assert source.name.endswith("g.zarr/deep/x")
        np.testing.assert_array_equal(loaded(source), array)
    create(str(tmp_path / "g.zarr/y"), array, 10)
    with pytest.raises(InputError, match=r"holds 2 arrays: deep/x \(50, 2\), y \(50, 2\)"):
        as_source(tmp_path / "g.zarr")


def test_location__may_be_a_file_url_or_a_zip(tmp_path: Path) -> None:
    array = numbers(50, 2)
    create(str(tmp_path / "my x.zarr"), array, 10)
    np.testing.assert_array_equal(loaded(as_source((tmp_path / "my x.zarr").as_uri())), array)
    store = ZipStore(tmp_path / "x.zip", mode="w")
    create(store, array, 10, overwrite=False)
    store.close()
    for block in as_source(tmp_path / "x.zip").blocks():
        rows = pickle.loads(pickle.dumps(block)).load()
        np.testing.assert_array_equal(rows.x, array[block.start : block.stop])


def test_location__without_zarr_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be opened as zarr"):
        as_source(tmp_path)
    with pytest.raises(SourceError, match="cannot be opened as zarr"):
        as_source("memory://nowhere/x.zarr")


def test_storage_options__reach_the_store() -> None:
    with pytest.raises((InputError, SourceError), match=r"memory://x\.zarr.*"):
        as_source("memory://x.zarr", storage_options={"no_such_option": 1})
    with pytest.raises(InputError, match="storage_options"):
        as_source(np.ones((2, 2)), storage_options={"anon": True})


def unwritten(path: Path, **options: Any) -> Path:
    """Create an array of 10 rows in 5 chunks of which only the first is written."""
    array = zarr.create_array(str(path), shape=(10, 2), chunks=(2, 2), dtype="float32", **options)
    array[0:2] = 1
    return path


def test_missing_chunks__are_counted(tmp_path: Path) -> None:
    x = unwritten(tmp_path / "x.zarr")
    with pytest.warns(UserWarning, match=r"4 of 5 chunks were never written and read as the fill value 0\.0"):
        as_source(x)
    with pytest.raises(SourceError, match=r"4 of 5 chunks .*write_empty_chunks"):
        as_source(x, missing_chunks="raise")
    with warnings.catch_warnings(action="error"):
        assert loaded(as_source(x, missing_chunks="ignore")).sum() == 4
    with pytest.raises(InputError, match="missing_chunks: 'never'"):
        as_source(x, missing_chunks="never")


def test_missing_chunks__are_counted_in_shards(tmp_path: Path) -> None:
    x = unwritten(tmp_path / "x.zarr", shards=(4, 2))
    with pytest.raises(SourceError, match="2 of 3 shards"):
        as_source(x, missing_chunks="raise")


def test_missing_chunks__are_counted_in_version_2(tmp_path: Path) -> None:
    x = unwritten(tmp_path / "x.zarr", zarr_format=2, fill_value=7)
    with pytest.raises(SourceError, match=r"4 of 5 chunks .* fill value 7\.0"):
        as_source(x, missing_chunks="raise")


def test_missing_chunks__of_weights_are_counted(tmp_path: Path) -> None:
    weight = zarr.create_array(str(tmp_path / "w.zarr"), shape=(10,), chunks=(2,), dtype="float32")
    with pytest.raises(SourceError, match=r"w\.zarr: 5 of 5 chunks"):
        as_source(np.ones((10, 2)), weight, missing_chunks="raise")


@pytest.mark.parametrize("options", [{}, {"zarr_format": 2}, {"shards": (8000, 2)}])
def test_load__of_a_damaged_chunk_names_the_block(tmp_path: Path, options: dict[str, Any]) -> None:
    create(str(tmp_path / "x.zarr"), numbers(20_000, 2), 4000, **options)
    files = [
        path for path in (tmp_path / "x.zarr").rglob("*") if path.is_file() and path.name[-4:] not in META
    ]
    for path in files:
        os.truncate(path, path.stat().st_size // 2)
    block = as_source(tmp_path / "x.zarr").blocks()[1]
    with pytest.raises(SourceError, match=r"Block 1 \(rows .* of .*x\.zarr\)") as caught:
        block.load(Buffer())
    assert caught.value.__cause__ is not None


META = ("json", "rray", "ttrs", "roup")
"""How the names of files that hold no chunk end."""


class BrokenStore(LocalStore):
    """A store on a disk that fails when the second chunk is read."""

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        if key.endswith("c/1/0"):
            raise OSError("the disk is on fire")
        return await super().get(key, *args, **options)


def test_load__of_a_chunk_that_cannot_be_read_names_the_block(tmp_path: Path) -> None:
    create(str(tmp_path / "x.zarr"), numbers(20_000, 2), 4000)
    source = as_source(zarr.open_array(BrokenStore(tmp_path / "x.zarr"), mode="r"))
    with pytest.raises(SourceError, match=r"Block 1 \(rows 4,000-8,000 of .*x\.zarr\).*on fire") as caught:
        source.blocks()[1].load()
    assert isinstance(caught.value.__cause__, OSError)
    source.blocks()[0].load()


def test_load__of_a_chunk_that_vanished_is_an_error(tmp_path: Path) -> None:
    create(str(tmp_path / "x.zarr"), numbers(20_000, 2), 4000)
    block = as_source(tmp_path / "x.zarr").blocks()[1]
    (tmp_path / "x.zarr" / "c" / "1" / "0").unlink()
    for same in (block, pickle.loads(pickle.dumps(block))):
        with pytest.raises(SourceError, match=r"Block 1 .*was there when the array was opened is gone"):
            same.load()
