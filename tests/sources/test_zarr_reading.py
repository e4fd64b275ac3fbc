"""Which way zarr arrays are read, that all ways give the same, and what of it was fetching."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import GzipCodec
from zarr.codecs.numcodecs import LZMA
from zarr.storage import LocalStore, MemoryStore, ZipStore

from streamem.errors import SourceError
from streamem.protocols import Rows
from streamem.sources import as_source, chunk_files, streaming, timing, zarr_reading
from streamem.sources.chunk_files import ChunkFiles
from streamem.sources.zarr_reading import ThroughZarr

from .test_timing import Clock

DEFAULT = zarr.config.defaults[0]["codec_pipeline"]["path"]
FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
ZARRS = "zarrs.ZarrsCodecPipeline"


def offered(name: str) -> bool:
    """Return whether the installed zarr has a pipeline."""
    from zarr.registry import get_pipeline_class

    try:
        with zarr.config.set({"codec_pipeline.path": name}):
            return bool(get_pipeline_class())
    except Exception:
        return False


PIPELINES = [
    pytest.param(name, marks=pytest.mark.skipif(not offered(name), reason="not installed"))
    for name in (DEFAULT, FUSED, ZARRS)
]
LAYOUTS: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (100, 4)},
    "as they are": {"chunks": (100, 4), "compressors": None},
    "shards": {"chunks": (50, 4), "shards": (200, 4)},
    "shards, as they are": {"chunks": (50, 4), "shards": (200, 4), "compressors": None},
    "split columns": {"chunks": (100, 3)},
    "2 columns first": {"chunks": (100, 4), "zarr_format": 2, "order": "F"},
}
ROWS = np.random.default_rng(0).normal(size=(730, 4))


def write(place: Any, values: Any = ROWS, **options: Any) -> Any:
    array = zarr.create_array(place, shape=values.shape, dtype=values.dtype, **options)
    array[...] = values
    return place


@contextlib.contextmanager
def only(name: str) -> Iterator[None]:
    """Have arrays opened here read through one pipeline, none faster, and none of their files directly."""
    with pytest.MonkeyPatch.context() as patch, zarr.config.set({"codec_pipeline.path": name}):
        patch.setattr(zarr_reading, "chunk_files", lambda array, strict: None)
        patch.setattr(zarr_reading, "FASTER", ())
        yield


def reader(source: Any) -> Any:
    return source.x.reader


def load(source: Any) -> Any:
    return np.concatenate([block.load().x for block in source.blocks()])


@pytest.mark.filterwarnings("ignore:.*columns are split")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines__give_the_same_bits(tmp_path: Path, name: str, layout: str) -> None:
    place = write(tmp_path / "x.zarr", **LAYOUTS[layout])
    with only(name):
        source = as_source(place, memory_limit=20_000)
        assert zarr_reading._pipeline(reader(source).array) == name
        assert len(source.blocks()) > 1
        np.testing.assert_array_equal(load(source), ROWS)
    chosen = as_source(place, memory_limit=20_000)
    assert [b.stop for b in chosen.blocks()] == [b.stop for b in source.blocks()]
    np.testing.assert_array_equal(load(chosen), ROWS)


@pytest.mark.parametrize("layout", ["chunks", "as they are"])
def test_files__are_read_directly(tmp_path: Path, layout: str) -> None:
    place = write(tmp_path / "x.zarr", **LAYOUTS[layout])
    for x in (place, zarr.open_array(place, mode="r")):
        assert isinstance(reader(as_source(x)), ChunkFiles)


def test_faster_pipeline__reads_what_was_opened_here(tmp_path: Path) -> None:
    place = write(tmp_path / "x.zarr", **LAYOUTS["shards"])
    best = next(name for name in (ZARRS, FUSED, DEFAULT) if offered(name))
    assert zarr_reading._pipeline(reader(as_source(place)).array) == best
    assert zarr.config.get("codec_pipeline.path") == DEFAULT
    theirs = zarr.open_array(place, mode="r")
    assert zarr_reading._pipeline(reader(as_source(theirs)).array) == DEFAULT


@pytest.mark.parametrize("name", PIPELINES[1:])
def test_configured_pipeline__reads_everything(tmp_path: Path, name: str) -> None:
    for layout in ("chunks", "shards"):
        place = write(tmp_path / layout, **LAYOUTS[layout])
        with zarr.config.set({"codec_pipeline.path": name}):
            for x in (place, zarr.open_array(place, mode="r")):
                chosen = reader(as_source(x))
                assert isinstance(chosen, ThroughZarr) and zarr_reading._pipeline(chosen.array) == name


@pytest.mark.skipif(not offered(ZARRS), reason="not installed")
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in")
def test_zarrs__that_refuses_is_passed_over_without_a_word(tmp_path: Path) -> None:
    write(tmp_path / "x.zarr", chunks=(100, 4), compressors=LZMA())
    source = as_source(tmp_path / "x.zarr")
    assert not zarr_reading._pipeline(reader(source).array).startswith("zarrs")
    np.testing.assert_array_equal(load(source), ROWS)


@pytest.mark.skipif(not offered(ZARRS), reason="not installed")
def test_zarrs__is_for_local_stores_and_native_numbers(tmp_path: Path) -> None:
    with ZipStore(tmp_path / "x.zip", mode="w") as store:
        write(store, **LAYOUTS["shards"])
    write(tmp_path / "x.zarr", ROWS.astype(">f8"), **LAYOUTS["2 columns first"])
    for place in (tmp_path / "x.zip", tmp_path / "x.zarr"):
        source = as_source(place)
        assert not zarr_reading._pipeline(reader(source).array).startswith("zarrs")
        np.testing.assert_array_equal(load(source), ROWS)


def test_block__travels_without_what_reads_it(tmp_path: Path) -> None:
    """Another process may have another zarr."""
    block = as_source(write(tmp_path / "x.zarr", **LAYOUTS["shards"])).blocks()[0]
    sent = pickle.dumps(block)
    assert b"zarrs" not in sent.replace(b"zarrs_", b"") and b"Fused" not in sent and len(sent) < 4000
    with only(DEFAULT):
        there: Any = pickle.loads(sent)
        assert zarr_reading._pipeline(there.x.reader.array) == DEFAULT
        np.testing.assert_array_equal(there.load().x, ROWS[there.start : there.stop])
    assert type(pickle.loads(sent).x.reader) is type(block.x.reader)


@pytest.mark.parametrize("layout", ["chunks", "shards", "2 columns first"])
@pytest.mark.parametrize("name", [None, *PIPELINES])
def test_chunk__that_vanished_is_an_error(tmp_path: Path, name: str | None, layout: str) -> None:
    place = write(tmp_path / "x.zarr", **LAYOUTS[layout])
    with contextlib.nullcontext() if name is None else only(name):
        source = as_source(place, memory_limit=20_000)
        careless = as_source(place, memory_limit=20_000, missing_chunks="ignore")
        stored = [file for file in place.rglob("*") if file.as_posix().endswith(("c/1/0", "1.0"))]
        assert len(stored) == 1
        stored[0].unlink()
        with pytest.raises(SourceError, match=r"x\.zarr could not be read.*is gone"):
            load(source)
        assert np.count_nonzero(np.all(load(careless) == 0, axis=1)) in (100, 200)


def test_chunk__that_vanished_from_elsewhere_is_an_error() -> None:
    """Where there are no files to look for, zarr tells, if it can."""
    objects: dict[str, Any] = {}
    write(MemoryStore(objects), **LAYOUTS["shards"])
    source = as_source(zarr.open_array(MemoryStore(objects), mode="r"))
    if not hasattr(getattr(reader(source).array, "config", None), "read_missing_chunks"):
        pytest.skip("older zarr cannot tell")
    del objects["c/1/0"]
    with pytest.raises(SourceError, match="ChunkNotFoundError"):
        load(source)


class SlowStore(LocalStore):
    """A store that takes 1000 s to answer: to each thread at once."""

    clock = Clock()

    async def get(self, *request: Any, **options: Any) -> Any:
        self.clock.now += 1000
        return await super().get(*request, **options)

    def get_sync(self, *request: Any, **options: Any) -> Any:
        self.clock.now += 1000
        return super().get_sync(*request, **options)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still but for what a test adds: 1 s for each run of numbers that is checked."""
    clock = SlowStore.clock = Clock()
    for module in (timing, streaming):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    check = streaming.check_rows

    def slow_check(*arguments: Any) -> bool:
        clock.now += 1
        return check(*arguments)

    monkeypatch.setattr(streaming, "check_rows", slow_check)
    return clock


def split(block: Any, clock: Clock) -> tuple[float, float]:
    """Return the seconds that a load took to fetch, and to decode."""
    began = clock.now
    rows = block.load()
    assert isinstance(rows, Rows)
    return clock.now - began - rows.decode_seconds, rows.decode_seconds


@pytest.mark.parametrize("name", PIPELINES[:2])
def test_time__in_the_store_is_fetching(tmp_path: Path, clock: Clock, name: str) -> None:
    write(tmp_path / "x.zarr", chunks=(730, 4))
    with only(name):
        block = as_source(zarr.open_array(SlowStore(tmp_path / "x.zarr"), mode="r")).blocks()[0]
        assert split(block, clock)[1] == 1  # the first of a process looks for the metadata, too
        assert split(block, clock) == (1000, 1)
        assert split(pickle.loads(pickle.dumps(block)), clock) == (1000, 1)


@pytest.mark.parametrize("name", PIPELINES[:2])
def test_time__to_fetch_parts_of_shards_is_fetching(tmp_path: Path, clock: Clock, name: str) -> None:
    write(tmp_path / "x.zarr", chunks=(50, 4), shards=(1000, 4))
    with only(name):
        source = as_source(zarr.open_array(SlowStore(tmp_path / "x.zarr"), mode="r"), memory_limit=20_000)
        assert len(source.blocks()) > 1
        for block in source.blocks():
            reading, decoding = split(block, clock)
            assert reading >= 1000 and decoding == 1  # the index of a shard, and what is wanted of it


def test_time__in_the_codec_is_decoding(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "x.zarr", chunks=(100, 4), compressors=GzipCodec())
    decode, read = chunk_files._decode, chunk_files.read_fully

    def slow_decode(*arguments: Any) -> None:
        clock.now += 10
        decode(*arguments)

    def slow_read(*arguments: Any) -> None:
        clock.now += 100
        read(*arguments)

    monkeypatch.setattr(chunk_files, "_decode", slow_decode)
    monkeypatch.setattr(chunk_files, "read_fully", slow_read)
    (block,) = as_source(tmp_path / "x.zarr").blocks()
    assert split(block, clock) == (800, 81)


@pytest.mark.skipif(not offered(ZARRS), reason="not installed")
def test_time__of_zarrs_is_fetching(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fetches and decodes in one."""
    place = write(tmp_path / "x.zarr", **LAYOUTS["shards"])
    (block,) = as_source(place).blocks()
    get = zarr.Array.get_basic_selection

    def slow_get(*arguments: Any, **options: Any) -> Any:
        clock.now += 1000
        return get(*arguments, **options)

    monkeypatch.setattr(zarr.Array, "get_basic_selection", slow_get)
    assert split(block, clock) == (1000, 1)


def test_time__of_rows_in_memory_is_decoding(clock: Clock, tmp_path: Path) -> None:
    assert split(as_source(ROWS).blocks()[0], clock) == (0, 1)
    np.save(tmp_path / "x.npy", ROWS)
    assert split(as_source(tmp_path / "x.npy").blocks()[0], clock) == (0, 1)


def test_store__is_named_as_it_is(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert str(zarr_reading.TimedStore(store, timing.Stopwatch())) == str(store)
