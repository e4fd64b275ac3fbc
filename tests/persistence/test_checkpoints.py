"""A place for checkpoints, on disk and behind a URL: whole files only, the last few, damage passed over."""

import logging
import os
import uuid

import fsspec
import numpy as np
import pytest

from streamem.errors import InputError, ModelFileError, SourceError
from streamem.persistence import Archive, Checkpoint, Checkpoints, checkpoints


def archive(index):
    return Archive("Checkpoint", {"index": index}, {"a": np.arange(5.0) + index})


@pytest.fixture(params=["folder", "memory"])
def where(request, tmp_path):
    return str(tmp_path / "deep" / "run") if request.param == "folder" else f"memory://{uuid.uuid4().hex}/run"


def damage(where, name, change):
    """Change the bytes of a file."""
    fs, root = fsspec.core.url_to_fs(where)
    path = f"{root}/{name}"
    fs.pipe_file(path, change(fs.cat_file(path)))


def indices(place):
    return [found.header["index"] for found in place.archives()]


def test_last_few__are_kept(where):
    place = Checkpoints(Checkpoint(where, keep=2))
    assert place.names("pass") == []
    for index in range(12):
        place.write("pass", index, archive(index))
    assert [name[:11] for name in place.names("pass")] == ["pass-000010", "pass-000011"]
    assert indices(Checkpoints(Checkpoint(where))) == [11, 10]


def test_sample__is_one(where):
    place = Checkpoints(Checkpoint(where))
    place.write("pass", 0, archive(0))
    first, second = (place.write("sample", 0, archive(i)) for i in range(2))
    assert place.names("sample") == [second]
    assert place.read(second).header == {"index": 1}
    with pytest.raises(ModelFileError, match="is gone"):
        place.read(first)


@pytest.mark.parametrize(
    "change",
    [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b[:-1], lambda b: b[:300] + b"\x55" + b[301:]],
)
def test_damaged_file__is_passed_over_and_then_removed(where, change, caplog):
    place = Checkpoints(Checkpoint(where))
    for index in range(4):
        place.write("pass", index, archive(index))
    damaged = place.names("pass")[-1]
    damage(where, damaged, change)
    again = Checkpoints(Checkpoint(where))
    with caplog.at_level(logging.WARNING, "streamem"):
        found = next(again.archives())
    assert found.header["index"] == 2
    assert damaged in caplog.text and "Going back" in caplog.text
    np.testing.assert_array_equal(found.arrays["a"], np.arange(5.0) + 2)
    again.write("pass", 3, archive(3))
    assert damaged not in again.names("pass")
    assert indices(Checkpoints(Checkpoint(where))) == [3, 2, 1]


def test_all_damaged__do_not_outlive_a_new_start(where):
    place = Checkpoints(Checkpoint(where))
    place.write("pass", 9, archive(9))
    damage(where, place.names("pass")[0], lambda b: b[:50])
    again = Checkpoints(Checkpoint(where))
    assert list(again.archives()) == []
    again.write("pass", 0, archive(0))
    assert indices(again) == [0]


@pytest.mark.parametrize("failing", ["pack", "fsync", "replace"])
def test_interrupted_write__leaves_nothing_under_a_final_name(tmp_path, monkeypatch, failing):
    place = Checkpoints(Checkpoint(tmp_path))
    place.write("pass", 0, archive(0))
    before = place.names("pass")

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints if failing == "pack" else os, failing, interrupt)
        with pytest.raises(KeyboardInterrupt):
            place.write("pass", 1, archive(1))
    assert os.listdir(tmp_path) == before
    assert indices(Checkpoints(Checkpoint(tmp_path))) == [0]


def test_file__is_synced_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    Checkpoints(Checkpoint(tmp_path)).write("pass", 0, archive(0))
    assert done == ["sync", "rename", "sync"]


def test_what_a_killed_process_left__is_ignored_and_removed(tmp_path):
    place = Checkpoints(Checkpoint(tmp_path))
    place.write("pass", 3, archive(3))
    (tmp_path / ".pass-000004-0a1b2c3d.npz.x8fz.partial").write_bytes(b"PK half")
    (tmp_path / ".other.partial").write_bytes(b"mine")
    assert indices(Checkpoints(Checkpoint(tmp_path))) == [3]
    place.write("pass", 4, archive(4))
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".partial") == [".other.partial"]


def test_other_files__are_left_alone(where):
    place = Checkpoints(Checkpoint(where, keep=1))
    place.write("pass", 0, archive(0))
    fs, root = fsspec.core.url_to_fs(where)
    for name in ("model.npz", "pass-me-not.npz", "notes.txt"):
        fs.pipe_file(f"{root}/{name}", b"mine")
    place.write("pass", 1, archive(1))
    assert len(fs.ls(root, detail=False)) == 4
    assert indices(place) == [1]


@pytest.mark.parametrize("keep", [0, -1, 1.5, True])
def test_keep__is_a_number_of_files(keep):
    with pytest.raises(InputError, match="keep"):
        Checkpoint("run", keep=keep)


@pytest.mark.parametrize("place", ["", b"x"])
def test_place__is_a_path_or_url(place):
    with pytest.raises(InputError, match="path or URL"):
        Checkpoints(Checkpoint(place))


def test_storage_options__need_a_url_and_are_not_shown(tmp_path):
    secret = Checkpoint(tmp_path, storage_options={"secret": "hunter2"})
    assert "hunter2" not in repr(secret)
    with pytest.raises(InputError, match="URL"):
        Checkpoints(secret)


def test_password__is_refused_and_not_told():
    with pytest.raises(InputError, match="storage_options") as caught:
        Checkpoints(Checkpoint("s3://me:hunter2@bucket/run"))
    assert "hunter2" not in str(caught.value)


def test_unwritable_place__is_a_source_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceError, match="file"):
        Checkpoints(Checkpoint(tmp_path / "file")).write("pass", 0, archive(0))
    with pytest.raises(SourceError, match="nonsense"):
        Checkpoints(Checkpoint("nonsense://bucket/run"))


def test_failing_store__is_a_source_error(monkeypatch):
    place = Checkpoints(Checkpoint(f"memory://{uuid.uuid4().hex}"))

    def fail(*_, **__):
        raise PermissionError("no")

    for method in ("ls", "cat_file", "pipe_file"):
        monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, method, fail)
    for work in (
        lambda: place.names("pass"),
        lambda: place.read("x"),
        lambda: place.write("pass", 0, archive(0)),
    ):
        with pytest.raises(SourceError, match="could not be"):
            work()
