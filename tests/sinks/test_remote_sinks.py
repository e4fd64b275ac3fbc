"""Behind a URL there are all results or no array, though nothing can be renamed there."""

from __future__ import annotations

import uuid
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr

import streamem as sem
from streamem.errors import InputError, SourceError
from streamem.sinks import Sink, open_sink

VALUES = np.arange(1000)


@pytest.fixture
def url() -> str:
    """A place of its own in a store that lives in this process."""
    return f"memory://{uuid.uuid4().hex}/labels.zarr"


def names(url: str) -> list[str]:
    """All objects there, without chunks' numbers."""
    filesystem, root = fsspec.core.url_to_fs(url)
    return sorted({name.removeprefix(root).strip("/").split("/")[0] for name in filesystem.find(root)})


def open_at(url: str, **options: Any) -> Sink:
    return open_sink(url, n_samples=1000, trailing_shape=(), dtype="int64", block_rows=64, **options)


def write(url: str, values: np.ndarray[Any, Any] = VALUES, **options: Any) -> Any:
    with open_at(url, **options) as sink:
        for start in range(0, 1000, sink.chunk_rows):
            sink.write(start, values[start : start + sink.chunk_rows])
        return sink.commit()


def test_metadata__comes_last_and_makes_the_array(url: str) -> None:
    with open_at(url) as sink:
        for start in range(0, 1000, sink.chunk_rows):
            sink.write(start, np.zeros(min(sink.chunk_rows, 1000 - start), "int64"))
        assert names(url) == ["c"]
        with pytest.raises(FileNotFoundError):
            zarr.open_array(url, mode="r")
        array = sink.commit()
    assert names(url) == ["c", "zarr.json"]
    assert array.nchunks_initialized == array.nchunks > 1  # zeros are stored too: a missing chunk shows
    assert array.read_only


def test_commit__returns_what_was_written(url: str) -> None:
    array = write(url)
    np.testing.assert_array_equal(array[:], VALUES)
    np.testing.assert_array_equal(zarr.open_array(url, mode="r")[:], VALUES)


def test_interruption__leaves_nothing(url: str) -> None:
    def interrupted(sink: Sink) -> None:
        with sink:
            sink.write(0, VALUES[: sink.chunk_rows])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(open_at(url))
    assert names(url) == []


def test_array_that_is_there__is_refused_or_replaced(url: str) -> None:
    write(url)
    with pytest.raises(InputError, match=r"exists already\. Pass overwrite=True"):
        open_at(url)
    np.testing.assert_array_equal(write(url, VALUES + 1, overwrite=True)[:], VALUES + 1)


def test_array_that_is_replaced__is_there_until_the_new_one_is(url: str) -> None:
    """Whoever looks finds the old results or the new ones, and of neither a part."""
    for generation in range(3):
        write(url, VALUES + generation, overwrite=True)
        before = names(url)
        with open_at(url, overwrite=True) as sink:
            for start in range(0, 1000, sink.chunk_rows):
                sink.write(start, -VALUES[start : start + sink.chunk_rows])
                np.testing.assert_array_equal(zarr.open_array(url, mode="r")[:], VALUES + generation)
            if generation == 1:
                sink.commit()
        expected = -VALUES if generation == 1 else VALUES + generation
        np.testing.assert_array_equal(zarr.open_array(url, mode="r")[:], expected)
        assert (names(url) == before) == (generation != 1)
        assert len({name.partition(".")[0] for name in names(url)}) == 2  # metadata, and one kind of chunks


def test_chunks_of_a_run_that_was_killed__do_no_harm(url: str) -> None:
    write(url)
    filesystem, root = fsspec.core.url_to_fs(url)
    filesystem.pipe_file(f"{root}/c.0", b"torn")
    filesystem.pipe_file(f"{root}/c.999", b"torn")
    np.testing.assert_array_equal(write(url, VALUES + 1, overwrite=True)[:], VALUES + 1)
    assert "c.999" not in names(url)


@pytest.mark.parametrize("settings", [{"zarr_format": 2}, {"chunk_key_encoding": {"name": "v2"}}])
def test_arrays_of_another_kind__are_replaced_too(url: str, settings: Any) -> None:
    zarr.create_array(url, shape=(7, 3), chunks=(2, 2), dtype="f4", **settings)[:] = 1.0
    np.testing.assert_array_equal(write(url, VALUES + 1, overwrite=True)[:], VALUES + 1)
    assert names(url) == ["c", "zarr.json"]


def test_what_cannot_be_removed_of_an_array__does_not_fail_the_new_one(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(url)
    filesystem, _ = fsspec.core.url_to_fs(url)

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError("may not delete")

    with open_at(url, overwrite=True) as sink:
        for start in range(0, 1000, sink.chunk_rows):
            sink.write(start, VALUES[start : start + sink.chunk_rows] + 1)
        monkeypatch.setattr(type(filesystem), "rm", denied)
        sink.commit()
    np.testing.assert_array_equal(zarr.open_array(url, mode="r")[:], VALUES + 1)
    assert "may not delete" in caplog.text and "The array there is complete" in caplog.text


def test_something_else__is_never_replaced(url: str) -> None:
    filesystem, root = fsspec.core.url_to_fs(url)
    filesystem.pipe_file(f"{root}/notes.txt", b"mine")
    with pytest.raises(InputError, match="is not a zarr array"):
        open_at(url, overwrite=True)
    assert names(url) == ["notes.txt"]


def test_group__which_may_hold_much_else_is_never_replaced(url: str) -> None:
    group = zarr.open_group(url, mode="w")
    group.create_array("mine", shape=(3,), dtype="f8")[:] = 2.0
    with pytest.raises(InputError, match="is not a zarr array"):
        open_at(url, overwrite=True)
    assert zarr.open_group(url, mode="r")["mine"][0] == 2.0


@pytest.mark.parametrize(
    "place, error, message",
    [
        ("s3://key:word@bucket/labels.zarr", InputError, "must hold no password"),
        ("memory://bucket/labels.npy", InputError, r"\.npy file cannot be written"),
        ("carrier-pigeon://loft/labels.zarr", SourceError, "cannot be opened"),
    ],
)
def test_urls__that_cannot_be_written_to_are_refused(
    place: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        open_at(place)
    assert "word@" not in str(caught.value)


def test_rows__are_not_replaced_by_results(url: str) -> None:
    x = np.random.default_rng(0).normal(size=(1000, 2))
    zarr.create_array(url, shape=x.shape, chunks=(100, 2), dtype="f8")[:] = x
    gm = sem.GaussianMixture(1).fit(x)
    for rows in (url, sem.as_source(url), zarr.open_array(url, mode="r")):
        with pytest.raises(InputError, match="this is where the rows are"):
            gm.predict(rows, out=url, overwrite=True)
    np.testing.assert_array_equal(zarr.open_array(url, mode="r")[:], x)


def test_rows__of_a_source_are_not_replaced_either(tmp_path: Any) -> None:
    x = np.random.default_rng(0).normal(size=(1000, 2))
    np.save(tmp_path / "x.npy", x)
    gm = sem.GaussianMixture(1).fit(x)
    with pytest.raises(InputError, match="this is where the rows are"):
        gm.score_samples(sem.as_source(tmp_path / "x.npy"), out=tmp_path / "x.npy", overwrite=True)
