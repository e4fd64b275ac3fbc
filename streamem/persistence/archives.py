"""The file format: one ``.npz`` of plain arrays with a JSON header; loading one runs no code from it.

The header says what the file is (format, schema version, class, settings, library version) and carries a
digest of everything else. Files appear under their final name complete or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from streamem.errors import ModelFileError, SourceError

__all__ = [
    "SCHEMA",
    "Archive",
    "appearing_whole",
    "pack",
    "read_archive",
    "sync_folder",
    "unpack",
    "write_archive",
]

FORMAT = "streamem"
SCHEMA = 1
HEADER = "header"
PARTIAL = ".partial"


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """The content of a model file."""

    kind: str
    """Name of the class that wrote it."""
    header: dict[str, Any]
    """Settings and scalars."""
    arrays: dict[str, NDArray[Any]]
    """Named arrays."""


def write_archive(path: str | os.PathLike[str], archive: Archive) -> Path:
    """Write a model file and return its path.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_archive(folder + "/m.npz", Archive("Demo", {"k": 2}, {"a": np.arange(3)}))
    ...     read_archive(path).arrays["a"]
    array([0, 1, 2])
    """
    path = Path(path)
    with appearing_whole(path) as file:
        pack(archive, file, np.savez_compressed)
    return path


def pack(archive: Archive, file: BinaryIO, save: Callable[..., None] = np.savez) -> None:
    """Write the bytes of a file; ``save`` says whether they are compressed."""
    from streamem import __version__

    header = {
        "format": FORMAT,
        "schema": SCHEMA,
        "class": archive.kind,
        "version": __version__,
        "content": archive.header,
        "digest": _digest(archive.header, archive.arrays),
    }
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    save(file, **{HEADER: text}, **archive.arrays)


def read_archive(path: str | os.PathLike[str]) -> Archive:
    """Read a model file.

    Raises
    ------
    ModelFileError
        If the file is missing, not ours, written by a newer schema, or damaged.
    """
    try:
        with open(path, "rb") as file:
            return unpack(path, file)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: there is no such file. Check the path.") from None
    except OSError as error:
        raise ModelFileError(f"{path}: not a streamem model file ({error}). Check the path.") from error


def unpack(path: str | os.PathLike[str], file: BinaryIO) -> Archive:
    """Read the bytes of a file that messages call ``path``."""
    try:
        with zipfile.ZipFile(file), np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays.pop(HEADER).tobytes())
    except Exception as error:  # there is no list of what zipfile and numpy make of damaged bytes
        raise ModelFileError(f"{path}: not a streamem model file ({error}). Check the path.") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFileError(f"{path}: not a streamem model file. Check the path.")
    if header.get("schema", 0) > SCHEMA:
        raise ModelFileError(
            f"{path}: written by streamem {header.get('version')} with schema {header['schema']}, newer than "
            f"the schema {SCHEMA} known here. Update streamem."
        )
    if header["digest"] != _digest(header["content"], arrays):
        raise ModelFileError(f"{path}: the content does not match its digest; the file is damaged.")
    return Archive(header["class"], header["content"], arrays)


def _digest(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return a digest of the content."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def appearing_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary neighbour that takes the final name once it is complete and on disk."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    except OSError as error:
        raise SourceError(f"{path}: cannot be written here ({error}). Choose another folder.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where folders can be synced."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
