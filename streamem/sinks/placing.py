"""Putting finished files and directories in place under their final name, in one step."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid

from streamem.errors import InputError, SourceError

__all__ = ["hidden_name", "place", "refuse_existing", "remove"]


def hidden_name(path: str) -> str:
    """Return a name for unfinished work beside the final one."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.{uuid.uuid4().hex[:12]}.tmp")


def refuse_existing(path: str, *, overwrite: bool, directory: bool) -> None:
    """Raise unless the name is free, or holds the same kind of thing and may be replaced."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise InputError(f"{path}: there is no directory {parent}. Create it first.")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise InputError(
            f"{path}: exists already. Pass overwrite=True to replace it, or choose another name."
        )
    same_kind = _is_zarr(path) if directory else os.path.isfile(path)
    if not same_kind:
        what = "zarr directory" if directory else "file"
        raise InputError(f"{path}: is not a {what}, and will not be replaced by one. Choose another name.")


def place(hidden: str, path: str, *, overwrite: bool) -> None:
    """Flush a finished file or directory to disk and rename it, away with what was there.

    What was there stays until the new one is complete, and comes back if the renaming fails.
    """
    directory = os.path.isdir(hidden)
    refuse_existing(path, overwrite=overwrite, directory=directory)
    try:
        _flush(hidden)
        if directory and os.path.lexists(path):
            _swap(hidden, path)
        else:
            os.replace(hidden, path)
        _sync(os.path.dirname(path))
    except OSError as error:
        raise SourceError(
            f"{path}: the finished result could not be put in place ({error}). "
            "Check the free space and permissions there."
        ) from error


def remove(path: str) -> None:
    """Remove a file or directory if it is there."""
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def _swap(hidden: str, path: str) -> None:
    """Exchange a directory for the one that is there."""
    old = hidden_name(path)
    os.rename(path, old)
    try:
        os.rename(hidden, path)
    except OSError:
        os.rename(old, path)
        raise
    remove(old)


def _is_zarr(path: str) -> bool:
    """Whether a directory is one zarr array; a group may hold much else."""
    if os.path.isfile(os.path.join(path, ".zarray")):
        return True
    try:
        with open(os.path.join(path, "zarr.json")) as file:
            return bool(json.load(file).get("node_type") == "array")
    except (OSError, ValueError, AttributeError):
        return False


def _flush(path: str) -> None:
    """Have a file, or all files and directories below, written to the disk."""
    for parent, _, files in os.walk(path):
        for name in files:
            _sync(os.path.join(parent, name))
        _sync(parent)
    if os.path.isfile(path):
        _sync(path)


def _sync(path: str) -> None:
    if os.name == "nt" and os.path.isdir(path):
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
