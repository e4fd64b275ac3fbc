"""Results in a new zarr array behind a URL, where nothing can be renamed.

Workers write chunks first. They are no array yet: what makes them one, the metadata, is put by `commit`, last
and in one piece. So a reader finds all results or no array, whenever it looks. Where there is an array to be
replaced, its chunks and the new ones have different separators in their names: it stays what it is until its
metadata is overwritten, and only then are its chunks removed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import zarr
from zarr.storage import FsspecStore, MemoryStore, StorePath

from streamem.errors import InputError, SourceError
from streamem.sinks.sink import Sink
from streamem.sinks.zarr_sinks import ZarrWriter, create_array

__all__ = ["open_remote"]

logger = logging.getLogger("streamem")

METADATA, V2_METADATA = "zarr.json", ".zarray"
SEPARATORS = ("/", ".")


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A folder of objects behind a URL."""

    url: str
    filesystem: Any = field(repr=False)
    root: str

    def do(self, what: str, action: Any, *arguments: Any, **keywords: Any) -> Any:
        """Call the file system, whatever its errors are called."""
        try:
            self.filesystem.invalidate_cache()
            return action(*arguments, **keywords)
        except Exception as error:
            raise SourceError(
                f"{self.url}: could not be {what} ({type(error).__name__}: {error}). Check that the store is "
                "reachable, and that you may write there."
            ) from error

    def holds(self, name: str = "") -> bool:
        """Return whether there is such an object, or anything at all."""
        return bool(self.do("looked at", self.filesystem.exists, f"{self.root}/{name}".rstrip("/")))

    def metadata(self) -> bytes | None:
        """Return what makes an array of version 3 of what is there, if anything."""
        if not self.holds(METADATA):
            return None
        return bytes(self.do("looked at", self.filesystem.cat_file, f"{self.root}/{METADATA}"))

    def remove(self) -> None:
        """Remove all objects, the metadata first: without it there is no array."""
        for name in (METADATA, V2_METADATA):
            if self.holds(name):
                self.do("removed", self.filesystem.rm_file, f"{self.root}/{name}")
        if self.holds():
            self.do("removed", self.filesystem.rm, self.root, recursive=True)

    def remove_those(self, which: Callable[[str], bool]) -> None:
        """Remove objects by their names."""
        found = self.do("looked at", self.filesystem.find, self.root) if self.holds() else []
        start = len(self.root.strip("/")) + 1
        paths = [path for path in found if which(path.strip("/")[start:])]
        if paths:
            self.do("removed", self.filesystem.rm, paths)


class RemoteSink(Sink):
    """Chunks behind a URL that are to become a zarr array."""

    def __init__(
        self,
        place: _Place,
        metadata: bytes,
        separator: str,
        writer: ZarrWriter,
        chunk_rows: int,
        overwrite: bool,
        options: dict[str, Any],
    ) -> None:
        super().__init__(chunk_rows)
        self._place, self._metadata, self._separator = place, metadata, separator
        self._zarr, self._overwrite, self._options = writer, overwrite, options

    def _writer(self) -> ZarrWriter:
        return self._zarr

    def _commit(self) -> Any:
        place = self._place
        place.do("written", place.filesystem.pipe_file, f"{place.root}/{METADATA}", self._metadata)
        if self._overwrite:
            self._remove_old()
        return zarr.open_array(place.url, mode="r", storage_options=self._options)

    def _remove_old(self) -> None:
        """Remove what was replaced, of which no chunk has a name of ours."""
        try:
            self._place.remove_those(lambda name: name != METADATA and not _is_chunk(name, self._separator))
        except SourceError as error:
            logger.warning("%s (The array there is complete; of one before it, chunks are left.)", error)

    def _discard(self) -> None:
        if self._place.metadata() in (None, self._metadata):
            self._place.remove()
        else:
            self._place.remove_those(lambda name: _is_chunk(name, self._separator))


def open_remote(
    url: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunk_rows: int,
    overwrite: bool,
    storage_options: Mapping[str, Any] | None,
) -> RemoteSink:
    """Return a sink for a new zarr array behind a URL.

    Raises
    ------
    InputError
        Something is there already, or the URL is none that can be written to.
    SourceError
        The store cannot be reached.
    """
    options = dict(storage_options or {})
    place = _open(url, options)
    separator = _free_separator(place, overwrite)
    staged: dict[str, Any] = {}
    create_array(MemoryStore(staged), shape, dtype, chunk_rows, separator)
    metadata = staged[METADATA].to_bytes()
    store = FsspecStore.from_url(url, storage_options=options)
    array = zarr.Array.from_dict(StorePath(store), json.loads(metadata))
    writer = ZarrWriter(url, array.with_config({"write_empty_chunks": True}))
    return RemoteSink(place, metadata, separator, writer, chunk_rows, overwrite, options)


def _open(url: str, options: Mapping[str, Any]) -> _Place:
    from fsspec.core import url_to_fs

    if urlsplit(url).password is not None:  # messages and logs name the place
        raise InputError("out: a URL must hold no password. Give it in storage_options.")
    if url.endswith(".npy"):
        raise InputError(f"{url}: a .npy file cannot be written piece by piece behind a URL. Use zarr.")
    try:
        filesystem, root = url_to_fs(url, **options)
    except Exception as error:  # whatever the library behind the URL raises
        raise SourceError(
            f"{url}: cannot be opened ({type(error).__name__}: {error}). Check the URL, and that the library "
            "for it is installed."
        ) from error
    return _Place(url, filesystem, root.rstrip("/"))


def _free_separator(place: _Place, overwrite: bool) -> str:
    """Return what no chunk there has in its name; refuse what is there unless it may be replaced."""
    if not place.holds():
        return SEPARATORS[0]
    if not overwrite:
        raise InputError(
            f"{place.url}: exists already. Pass overwrite=True to replace it, or choose another name."
        )
    metadata = place.metadata()
    described = {} if metadata is None else json.loads(metadata)
    if described.get("node_type") != "array" and not place.holds(V2_METADATA):
        raise InputError(
            f"{place.url}: is not a zarr array, and will not be replaced by one. Choose another name."
        )
    separator = next(free for free in SEPARATORS if free != _separator(described))
    place.remove_those(lambda name: _is_chunk(name, separator))  # of a run that was killed
    return separator


def _separator(metadata: Mapping[str, Any]) -> str | None:
    """Return the separator in the names of an array's chunks, as far as they begin like ours."""
    encoding = metadata.get("chunk_key_encoding", {})
    if encoding.get("name") != "default":
        return None
    return str(encoding.get("configuration", {}).get("separator", SEPARATORS[0]))


def _is_chunk(name: str, separator: str) -> bool:
    return name.startswith(f"c{separator}")
