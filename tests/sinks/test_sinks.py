"""The laws of every sink, and what is special about each kind."""

from __future__ import annotations

import os
import pickle
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from streamem.errors import InputError, SourceError
from streamem.sinks import Sink, open_sink, output_ranges, result_chunk_rows

N = 1000


def results(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def write_all(sink: Sink, values: np.ndarray[Any, Any], run: Callable[..., Any] = map) -> None:
    spans = output_ranges(len(values), sink.chunk_rows)
    list(run(sink.write, [start for start, _ in spans], [values[start:stop] for start, stop in spans]))


def listing(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def given_array(path: Path, shape: tuple[int, ...], dtype: str, **options: Any) -> Any:
    chunks = (min(64, shape[0]), *shape[1:])
    return zarr.create_array(str(path), shape=shape, dtype=dtype, chunks=chunks, **options)


OUTS: dict[str, Callable[[Path, tuple[int, ...], str], Any]] = {
    "memory": lambda directory, shape, dtype: None,
    "npy": lambda directory, shape, dtype: directory / "result.npy",
    "zarr": lambda directory, shape, dtype: directory / "result.zarr",
    "other": lambda directory, shape, dtype: str(directory / "result"),
    "array": lambda directory, shape, dtype: given_array(directory / "given.zarr", shape, dtype),
}
FILES = ["npy", "zarr", "other"]


def open_for(
    kind: str, directory: Path, shape: tuple[int, ...] = (N,), dtype: str = "int64", **options: Any
) -> Sink:
    out = OUTS[kind](directory, shape, dtype)
    options = {"block_rows": 64} | options
    return open_sink(out, n_samples=shape[0], trailing_shape=shape[1:], dtype=dtype, **options)


@pytest.mark.parametrize("kind", OUTS)
@pytest.mark.parametrize("shape", [(N,), (N, 3), (1,), (N, 2, 2)])
@pytest.mark.parametrize("dtype", ["int64", "float32", "bool"])
def test_commit__returns_what_was_written(
    tmp_path: Path, kind: str, shape: tuple[int, ...], dtype: str
) -> None:
    values = results(shape, dtype)
    with open_for(kind, tmp_path, shape, dtype) as sink:
        write_all(sink, values)
        result = sink.commit()
    assert result.dtype == values.dtype
    np.testing.assert_array_equal(np.asarray(result[...]), values)


@pytest.mark.parametrize("kind", OUTS)
@pytest.mark.parametrize("where", ["threads", "processes"])
def test_write__works_from_threads_and_processes(tmp_path: Path, kind: str, where: str) -> None:
    values = results((N, 3), "float64")
    pool: Any = ThreadPoolExecutor(2) if where == "threads" else ProcessPoolExecutor(2, get_context("spawn"))
    with pool, open_for(kind, tmp_path, (N, 3), "float64") as sink:
        write_all(sink, values, pool.map)
        result = sink.commit()
    np.testing.assert_array_equal(np.asarray(result[...]), values)


@pytest.mark.parametrize("kind", FILES)
def test_commit__puts_one_thing_under_the_final_name(tmp_path: Path, kind: str) -> None:
    name = OUTS[kind](tmp_path, (), "")
    with open_for(kind, tmp_path) as sink:
        write_all(sink, results((N,), "int64"))
        assert not os.path.exists(name)
        assert all(entry.startswith(".") for entry in listing(tmp_path))
        sink.commit()
        sink.abort()
    assert listing(tmp_path) == [os.path.basename(name)]
    stored = np.load(name) if kind == "npy" else zarr.open_array(str(name), mode="r")[...]
    np.testing.assert_array_equal(stored, results((N,), "int64"))


@pytest.mark.parametrize("kind", FILES)
def test_interruption__leaves_nothing(tmp_path: Path, kind: str) -> None:
    def interrupted(sink: Sink) -> None:
        with sink:
            sink.write(0, results((64,), "int64"))
            raise KeyboardInterrupt

    sink = open_for(kind, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        interrupted(sink)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("kind", FILES)
def test_existing_result__is_refused_before_anything_is_written(tmp_path: Path, kind: str) -> None:
    with open_for(kind, tmp_path) as sink:
        write_all(sink, results((N,), "int64"))
        sink.commit()
    before = listing(tmp_path)
    with pytest.raises(InputError, match=r"exists already. Pass overwrite=True"):
        open_for(kind, tmp_path)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("kind", FILES)
def test_existing_result__appearing_meanwhile_is_not_replaced(tmp_path: Path, kind: str) -> None:
    with open_for(kind, tmp_path) as first, open_for(kind, tmp_path) as second:
        write_all(first, results((N,), "int64"))
        write_all(second, np.zeros(N, "int64"))
        first.commit()
        with pytest.raises(InputError, match="exists already"):
            second.commit()
    (name,) = listing(tmp_path)
    assert not name.startswith(".")


@pytest.mark.parametrize("kind", FILES)
def test_overwrite__keeps_the_old_result_until_commit(tmp_path: Path, kind: str) -> None:
    values = results((N,), "int64")
    with open_for(kind, tmp_path) as sink:
        write_all(sink, values)
        sink.commit()
    with open_for(kind, tmp_path, overwrite=True) as sink:
        sink.write(0, -values[: sink.chunk_rows])
    assert as_stored(tmp_path, kind)[1] == 1
    with open_for(kind, tmp_path, overwrite=True) as sink:
        write_all(sink, -values)
        sink.commit()
    assert as_stored(tmp_path, kind)[1] == -1
    assert len(listing(tmp_path)) == 1


def as_stored(directory: Path, kind: str) -> Any:
    name = OUTS[kind](directory, (), "")
    return np.load(name) if kind == "npy" else zarr.open_array(str(name), mode="r")[...]


def test_overwrite__spares_what_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    (tmp_path / "file.zarr").write_text("...")
    (tmp_path / "directory.npy").mkdir()
    for name in ("thesis", "file.zarr", "directory.npy"):
        with pytest.raises(InputError, match="Choose another name"):
            open_sink(
                tmp_path / name, n_samples=3, trailing_shape=(), dtype="int64", block_rows=3, overwrite=True
            )
    assert listing(tmp_path) == ["directory.npy", "file.zarr", "thesis"]
    assert listing(tmp_path / "thesis") == ["chapter.tex"]


@contextmanager
def no_room(n_bytes: int) -> Iterator[None]:
    """Refuse files of more than n bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk__is_found_when_a_file_is_created(tmp_path: Path) -> None:
    with no_room(4000), pytest.raises(SourceError, match=r"result\.npy: cannot be created .*free space"):
        open_for("npy", tmp_path)
    assert listing(tmp_path) == []


def test_full_disk__is_an_error_that_names_the_rows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2**60, N)
    with open_for("zarr", tmp_path, block_rows=600) as sink, no_room(1000):
        with pytest.raises(
            SourceError, match=r"result\.zarr: results of rows 600-1,000 could not be written"
        ) as caught:
            sink.write(600, noise[600:])
        assert caught.value.__cause__ is not None
    assert listing(tmp_path) == []


def test_directory__that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no directory .*nowhere"):
        open_for("npy", tmp_path / "nowhere")


@pytest.mark.parametrize("out", [3, np.zeros(3)])
def test_out__of_other_kinds_is_refused(out: Any) -> None:
    with pytest.raises(InputError, match="Give a path"):
        open_sink(out, n_samples=3, trailing_shape=(), dtype="int64", block_rows=3)


def test_zarr__stores_every_chunk_so_that_a_missing_one_shows(tmp_path: Path) -> None:
    with open_for("zarr", tmp_path, (N, 3), "float32") as sink:
        write_all(sink, np.zeros((N, 3), "float32"))
        array = sink.commit()
    assert array.chunks == (sink.chunk_rows, 3)
    assert array.nchunks_initialized == array.nchunks == -(-N // sink.chunk_rows)
    assert array.metadata.zarr_format == 3


def test_zarr__stores_every_chunk_from_other_processes_too(tmp_path: Path) -> None:
    with open_for("zarr", tmp_path) as sink:
        write_all(pickle.loads(pickle.dumps(Renamed(sink.chunk_rows, sink))), np.zeros(N, "int64"))
        array = sink.commit()
    assert array.nchunks_initialized == array.nchunks


class Renamed:
    """A sink's bound method as it arrives in another process."""

    def __init__(self, chunk_rows: int, sink: Sink) -> None:
        self.chunk_rows, self.write = chunk_rows, sink.write


def test_given_array__is_written_in_whole_chunks_or_shards(tmp_path: Path) -> None:
    plain = given_array(tmp_path / "a", (N,), "int32")
    shards = given_array(tmp_path / "b", (N,), "int32", shards=(128,))
    for array, rows in ((plain, 192), (shards, 256)):
        sink = open_sink(array, n_samples=N, trailing_shape=(), dtype="int64", block_rows=200)
        assert sink.chunk_rows == rows
        write_all(sink, results((N,), "int64"))
        assert sink.commit() is array
        np.testing.assert_array_equal(array[...], np.arange(N))


def test_given_array__that_does_not_fit_is_refused(tmp_path: Path) -> None:
    array = given_array(tmp_path / "a", (N,), "int32")
    cases: list[tuple[Any, tuple[int, ...], str, str]] = [
        (array, (3,), "int64", r"shape \(1000, 3\), not \(1000,\)"),
        (array, (), "float64", "cannot hold results of dtype float64"),
        (zarr.open_array(str(tmp_path / "a"), mode="r"), (), "int32", "reading only"),
        (zarr.open_group(str(tmp_path / "g"), mode="w"), (), "int32", "it is a group"),
    ]
    for out, trailing, dtype, message in cases:
        with pytest.raises(InputError, match=message):
            open_sink(out, n_samples=N, trailing_shape=trailing, dtype=dtype, block_rows=64)


def test_given_array__in_memory_cannot_go_to_other_processes() -> None:
    array = zarr.create_array(MemoryStore(), shape=(N,), chunks=(64,), dtype="int64")
    sink = open_sink(array, n_samples=N, trailing_shape=(), dtype="int64", block_rows=64)
    with pytest.raises(InputError, match="cannot write into an array in memory"):
        pickle.dumps(sink.write)


def test_memory__keeps_what_was_written_before_it_travels(tmp_path: Path) -> None:
    sink = open_for("memory", tmp_path)
    sink.write(0, results((64,), "int64"))
    elsewhere = pickle.loads(pickle.dumps(sink.write))
    elsewhere(64, results((N,), "int64")[64:])
    scratch = elsewhere.__self__.path
    assert os.path.exists(scratch)
    np.testing.assert_array_equal(sink.commit(), np.arange(N))
    assert not os.path.exists(scratch)


def test_memory__removes_its_scratch_file_when_aborted(tmp_path: Path) -> None:
    with open_for("memory", tmp_path) as sink:
        scratch = pickle.loads(pickle.dumps(sink.write)).__self__.path
    assert not os.path.exists(scratch)


def test_chunk_rows__follow_blocks_within_sensible_sizes() -> None:
    def rows(shape: tuple[int, ...], block_rows: int) -> int:
        return result_chunk_rows(shape, np.dtype("float64"), block_rows)

    assert rows((10**9,), 1000) == 131_000  # joined up to 1 MiB
    assert rows((100_000,), 1000) == 1000  # but not when few are left to compute at once
    assert rows((10**9,), 10**6) == 10**6
    assert rows((10**9, 100), 10**6) * 800 <= 16 * 2**20  # cut where results are wide
    assert rows((5,), 10) == 10


def test_output_ranges__cover_every_row_once() -> None:
    assert output_ranges(0, 3) == []
    assert output_ranges(7, 3) == [(0, 3), (3, 6), (6, 7)]
