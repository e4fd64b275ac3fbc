"""Model files: what goes in comes out, and nothing else gets in."""

import json
import os

import numpy as np
import pytest

from streamem.errors import ModelFileError, SourceError
from streamem.persistence import SCHEMA, Archive, read_archive, write_archive

ARCHIVE = Archive("Demo", {"k": 2, "name": "é"}, {"a": np.arange(6.0).reshape(2, 3), "b": np.float64(1.5)})


def test_archive__comes_back_as_it_went(tmp_path):
    got = read_archive(write_archive(tmp_path / "m.npz", ARCHIVE))
    assert (got.kind, got.header) == (ARCHIVE.kind, ARCHIVE.header)
    for name, array in ARCHIVE.arrays.items():
        np.testing.assert_array_equal(got.arrays[name], array)


def test_file__is_an_ordinary_npz_without_pickles(tmp_path):
    path = write_archive(tmp_path / "m.npz", ARCHIVE)
    with np.load(path, allow_pickle=False) as stored:
        assert set(stored.files) == {"header", "a", "b"}


def rewrite(path, **changes):
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    header = json.loads(arrays["header"].tobytes())
    header.update(changes)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": SCHEMA + 1}, "newer than the schema"),
        ({"format": "other"}, "not a streamem model file"),
        ({"content": {"k": 3}}, "damaged"),
    ],
)
def test_file__that_is_not_ours_is_refused(tmp_path, changes, message):
    path = write_archive(tmp_path / "m.npz", ARCHIVE)
    rewrite(path, **changes)
    with pytest.raises(ModelFileError, match=message):
        read_archive(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04garbage"])
def test_garbage__is_refused(tmp_path, content):
    path = tmp_path / "m.npz"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"m\.npz"):
        read_archive(path)


def test_truncated_file__is_refused(tmp_path):
    path = write_archive(tmp_path / "m.npz", ARCHIVE)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelFileError):
        read_archive(path)


def test_plain_array_file__is_refused(tmp_path):
    np.save(tmp_path / "m.npy", np.arange(3))
    with pytest.raises(ModelFileError):
        read_archive(tmp_path / "m.npy")


def test_missing_file__is_said_to_be_missing(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        read_archive(tmp_path / "none.npz")


def test_pickles__are_never_loaded(tmp_path):
    class Boom:
        def __reduce__(self):
            return os.abort, ()

    np.savez(tmp_path / "m.npz", header=np.array([Boom()], dtype=object))
    with pytest.raises(ModelFileError):
        read_archive(tmp_path / "m.npz")


def test_failed_write__leaves_the_old_file_and_no_other(tmp_path):
    path = write_archive(tmp_path / "m.npz", ARCHIVE)
    broken = Archive("Demo", {}, {"a": np.array([object()])})
    with pytest.raises((ValueError, TypeError)):
        write_archive(path, Archive("Demo", {"bad": object()}, broken.arrays))
    assert read_archive(path).header == ARCHIVE.header
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


def test_unwritable_folder__is_a_source_error(tmp_path):
    with pytest.raises(SourceError, match="cannot be written"):
        write_archive(tmp_path / "missing" / "m.npz", ARCHIVE)
