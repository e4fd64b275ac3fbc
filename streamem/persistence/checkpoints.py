"""Checkpoints: the last few files of a fit under way, in a folder or behind a URL.

A file has its final name only once it is complete: on disk it is renamed after it was synced, on an object
store it is put in one piece. Names are never used twice, so nothing that is good is ever written over.
"""

from __future__ import annotations

import io
import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from streamem.errors import InputError, ModelFileError, SourceError
from streamem.persistence.archives import PARTIAL, Archive, appearing_whole, pack, sync_folder, unpack

__all__ = ["Checkpoint", "Checkpoints"]

log = logging.getLogger("streamem")

KEEP = 3
NAME = re.compile(r"(pass|sample)-(\d+)-[0-9a-f]+\.npz")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a fit writes what it needs to go on, for where a path or URL alone does not say enough.

    Examples
    --------
    >>> import tempfile, numpy as np, streamem as sem
    >>> x = np.random.default_rng(0).normal(size=(300, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     where = sem.Checkpoint(folder, keep=2)
    ...     first = sem.GaussianMixture(1, random_state=0).fit(x, checkpoint=where)
    ...     again = sem.GaussianMixture(1, random_state=0).fit(x, checkpoint=where, resume=True)
    >>> bool(np.all(first.means_ == again.means_))
    True
    """

    place: str | os.PathLike[str]
    """A folder, made if it is missing, or the URL of one, such as ``s3://bucket/run``."""
    keep: int = KEEP
    """Files to keep: the newest, and the ones before in case it is damaged."""
    storage_options: Mapping[str, Any] | None = None
    """For fsspec, with a URL. Never logged."""

    def __post_init__(self) -> None:
        if isinstance(self.keep, bool) or not isinstance(self.keep, int) or self.keep < 1:
            raise InputError(f"checkpoint: keep must be a whole number >= 1, got {self.keep!r}.")

    def __repr__(self) -> str:
        return f"Checkpoint({os.fspath(self.place)!r}, keep={self.keep})"

    @property
    def exists(self) -> bool:
        """Whether a fit wrote something there."""
        return bool(Checkpoints(self).names("pass"))


class Checkpoints:
    """The files at such a place."""

    def __init__(self, where: Checkpoint) -> None:
        self.where = where
        self._store = _open(where)
        self._good: list[str] = []
        """Files of passes that the fit builds on, the newest last."""

    def __str__(self) -> str:
        return os.fspath(self.where.place)

    def names(self, kind: str) -> list[str]:
        """Return the files of a kind, "pass" or "sample", in the order of their passes."""
        matches = (NAME.fullmatch(name) for name in self._store.names())
        return [match[0] for match in sorted(filter(None, matches), key=_age) if match[1] == kind]

    def archives(self) -> Iterator[Archive]:
        """Yield what can be read of the passes, the newest first; others are removed at the next write."""
        self._good = self.names("pass")
        for name in reversed(self._good):
            try:
                yield self.read(name)
            except ModelFileError as error:
                log.warning("%s Going back to the checkpoint before it.", error)
            self._good.remove(name)

    def read(self, name: str) -> Archive:
        """Read one file.

        Raises
        ------
        ModelFileError
            If it is damaged or gone.
        """
        return unpack(f"{self}/{name}", io.BytesIO(self._store.read(name)))

    def write(self, kind: str, index: int, archive: Archive) -> str:
        """Write a file of a kind for a pass, remove the ones that are not kept, and return its name."""
        name = f"{kind}-{index:06d}-{uuid.uuid4().hex[:8]}.npz"
        self._store.write(name, archive)
        if kind == "pass":
            self._good = [*self._good, name][-self.where.keep :]
            kept = self._good
        else:
            kept = [name]
        for other in self.names(kind):
            if other not in kept:
                self._store.remove(other)
        return name


def _age(match: re.Match[str]) -> tuple[int, str]:
    return int(match[2]), match[0]


class _Store(Protocol):
    """Files by name."""

    def names(self) -> list[str]: ...
    def read(self, name: str) -> bytes: ...
    def write(self, name: str, archive: Archive) -> None: ...
    def remove(self, name: str) -> None: ...


def _open(where: Checkpoint) -> _Store:
    place = os.fspath(where.place)
    if not isinstance(place, str) or not place:
        raise InputError(f"checkpoint: expected a path or URL, got {place!r}.")
    if "://" in place and not place.startswith("file://"):
        if urlsplit(place).password is not None:  # messages and logs name the place
            raise InputError("checkpoint: a URL must hold no password. Give it in storage_options.")
        return _Bucket(place, where.storage_options or {})
    if where.storage_options is not None:
        raise InputError(f"checkpoint: storage_options are for URLs, but {place} is a path. Leave them out.")
    return _Folder(Path(place.removeprefix("file://")))


class _Folder:
    """A folder on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        try:
            return os.listdir(self._path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SourceError(f"{self._path}: is no folder to read ({error}). Choose another.") from error

    def read(self, name: str) -> bytes:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            raise ModelFileError(f"{self._path / name}: is gone.") from None
        except OSError as error:
            raise SourceError(f"{self._path / name}: cannot be read ({error}).") from error

    def write(self, name: str, archive: Archive) -> None:
        try:
            if not self._path.is_dir():
                self._path.mkdir(parents=True, exist_ok=True)
                sync_folder(self._path.parent)
            with appearing_whole(self._path / name) as file:
                pack(archive, file)
            for other in self.names():  # what a killed process left
                if other.endswith(PARTIAL) and NAME.match(other[1:]):
                    self.remove(other)
        except SourceError:
            raise
        except OSError as error:
            raise SourceError(
                f"{self._path / name}: cannot be written ({error}). Make room, or choose another folder."
            ) from error

    def remove(self, name: str) -> None:
        try:
            (self._path / name).unlink(missing_ok=True)
        except OSError as error:
            raise SourceError(f"{self._path / name}: cannot be removed ({error}).") from error


class _Bucket:
    """A folder behind a URL."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        from fsspec.core import url_to_fs

        self._url = url.rstrip("/")
        try:
            self._fs, root = url_to_fs(self._url, **options)
        except Exception as error:  # whatever the library behind the URL raises
            raise SourceError(
                f"{url}: cannot be opened ({type(error).__name__}: {error}). Check the URL, and that the "
                "library for it is installed."
            ) from error
        self._root = root.rstrip("/")

    def names(self) -> list[str]:
        try:
            self._fs.invalidate_cache()
            found = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._failed("listed", "", error) from error
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in found]

    def read(self, name: str) -> bytes:
        try:
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            raise ModelFileError(f"{self._url}/{name}: is gone.") from None
        except Exception as error:
            raise self._failed("read", name, error) from error

    def write(self, name: str, archive: Archive) -> None:
        file = io.BytesIO()
        pack(archive, file)
        try:
            self._fs.pipe_file(f"{self._root}/{name}", file.getvalue())
        except Exception as error:
            raise self._failed("written", name, error) from error

    def remove(self, name: str) -> None:
        try:
            self._fs.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failed("removed", name, error) from error

    def _failed(self, done: str, name: str, error: Exception) -> SourceError:
        return SourceError(
            f"{self._url}/{name}: could not be {done} ({type(error).__name__}: {error}). Check that the "
            "store is reachable, and that you may write there."
        )
