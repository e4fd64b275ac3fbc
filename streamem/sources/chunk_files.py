"""Chunks that lie in files of their own, read on the thread that wants their rows.

A local zarr store keeps every chunk of an array without shards in a file: values row by row, compressed or
not. zarr would collect the chunks of all threads on its one event loop, and allocate memory for each; here a
file is read or decompressed into the reused buffer. What is laid out otherwise is for `zarr_reading`.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numcodecs.abc import Codec
from numcodecs.registry import get_codec
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ZstdCodec
from zarr.storage import LocalStore

from streamem.protocols import Buffer
from streamem.sources.npy_files import read_fully
from streamem.sources.timing import Stopwatch

__all__ = ["ChunkFiles", "chunk_files", "chunk_path", "gone", "stored_shape"]

COMPRESSORS = {BloscCodec: "blosc", GzipCodec: "gzip", ZstdCodec: "zstd"}
"""zarr's compressors by the names that numcodecs, which does the work, has for them."""
ZSTD_MAGIC = bytes.fromhex("28b52ffd")

_thread = threading.local()


@dataclass(frozen=True, slots=True, eq=False)
class ChunkFiles:
    """An array whose chunks are files that hold whole rows."""

    array: zarr.Array[Any]
    """The open array."""
    decoder: Codec | None
    """What decompresses a chunk; None where they are not compressed."""
    strict: bool
    """Whether a chunk without a file is an error; it reads as the fill value otherwise."""

    @property
    def reused_bytes(self) -> int:
        """One chunk as stored, and one decompressed, of which some rows are wanted."""
        chunk = math.prod(self.array.chunks) * np.dtype(self.array.dtype).itemsize
        return 0 if self.decoder is None else 2 * chunk

    def read(self, start: int, stop: int, out: NDArray[Any], fetching: Stopwatch) -> None:
        """Read rows ``start:stop`` into ``out``, the files while the watch is running."""
        rows = self.array.chunks[0]
        for index in range(start // rows, -(-stop // rows)):
            first = index * rows
            begin, end = max(start, first), min(stop, first + rows)
            self._read_chunk(index, begin - first, out[begin - start : end - start], fetching)

    def _read_chunk(self, index: int, skip: int, out: NDArray[Any], fetching: Stopwatch) -> None:
        """Fill ``out`` with rows of a chunk, from number ``skip`` on."""
        path = chunk_path(self.array, (index, *(0 for _ in self.array.shape[1:])))
        read = self._read_values if self.decoder is None else self._decompress
        try:
            read(path, skip, out, fetching)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            if self.strict:
                raise gone(path) from None
            out[...] = 0 if self.array.fill_value is None else self.array.fill_value

    def _read_values(self, path: str, skip: int, out: NDArray[Any], fetching: Stopwatch) -> None:
        """Read values that are stored as they are."""
        row_bytes = math.prod(out.shape[1:]) * out.itemsize
        with fetching, open(path, "rb", buffering=0) as file:
            _check_size(path, os.fstat(file.fileno()).st_size, self.array.chunks[0] * row_bytes)
            file.seek(skip * row_bytes)
            read_fully(file, out)

    def _decompress(self, path: str, skip: int, out: NDArray[Any], fetching: Stopwatch) -> None:
        """Read and decompress a chunk, into ``out`` itself where all of it is wanted."""
        with fetching, open(path, "rb", buffering=0) as file:
            stored = _memory("stored").take((os.fstat(file.fileno()).st_size,), np.dtype(np.uint8))
            read_fully(file, stored)
        shape = self.array.chunks
        chunk = out if out.shape == shape else _memory("chunk").take(shape, out.dtype)
        _decode(path, self.decoder, stored, chunk.reshape(-1).view(np.uint8))
        if chunk is not out:
            out[...] = chunk[skip : skip + len(out)]


def chunk_files(array: zarr.Array[Any], strict: bool) -> ChunkFiles | None:
    """Return a reader of the files of an array; None where zarr has to read them."""
    if type(array.store) is not LocalStore or not array.shape:  # others may do more than read a file
        return None
    stored = stored_shape(array)
    whole_rows = bool(stored) and array.shards is None and stored[1:] == array.shape[1:]
    decoders = _decoders(array) if whole_rows else None
    if decoders is None or len(decoders) > 1:
        return None
    return ChunkFiles(array, decoders[0] if decoders else None, strict)


def stored_shape(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Return the shape of what is stored in one piece, shard or chunk; nothing where pieces differ."""
    try:
        return array.shards or array.chunks
    except NotImplementedError:  # chunks of varying size (zarr >= 3.3)
        return ()


def chunk_path(array: zarr.Array[Any], place: tuple[int, ...]) -> str:
    """Return the file of a chunk, or of a shard, in a local store."""
    store: Any = array.store
    return os.path.join(store.root, array.path, array.metadata.encode_chunk_key(place))


def gone(path: str) -> FileNotFoundError:
    """Return the error of a chunk that was there before."""
    return FileNotFoundError(errno.ENOENT, "a chunk that was there when the array was opened is gone", path)


def _decoders(array: zarr.Array[Any]) -> list[Any] | None:
    """Return what turns a chunk into values in the order and dtype of ``array``; None if more is needed."""
    compressors: Any = array.compressors
    if array.filters:
        return None
    if array.metadata.zarr_format == 2:
        plain = array.order == "C" and all(isinstance(each, Codec) for each in compressors)
        return list(compressors) if plain else None
    if type(array.serializer) is not BytesCodec or not np.dtype(array.dtype).isnative:
        return None
    endian: Any = array.serializer.endian
    if getattr(endian, "value", endian) not in (None, sys.byteorder):
        return None
    if any(type(each) not in COMPRESSORS for each in compressors):
        return None
    return [get_codec({"id": COMPRESSORS[type(each)]}) for each in compressors]


def _decode(path: str, decoder: Any, stored: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Decompress a chunk into ``out``, which it must fill: decoders accept it if it is too large, too."""
    size = _decoded_bytes(decoder.codec_id, stored)
    if size is not None:
        _check_size(path, size, out.nbytes)
        decoder.decode(stored, out=out)
        return
    decoded = np.frombuffer(decoder.decode(stored), np.uint8)
    _check_size(path, decoded.nbytes, out.nbytes)
    out[:] = decoded


def _decoded_bytes(codec: str, stored: NDArray[np.uint8]) -> int | None:
    """Return how many bytes a compressed chunk says that it holds; None where it does not say."""
    head = stored[:18].tobytes()
    if codec == "blosc" and len(stored) >= 16:
        n_bytes, _, stored_bytes = np.frombuffer(head, "<u4", 3, offset=4).tolist()
        if stored_bytes != len(stored):  # blosc would read on in memory
            raise ValueError(f"a chunk of {stored_bytes:,} compressed bytes is stored in {len(stored):,}")
        return int(n_bytes)
    if codec == "zstd" and len(head) == 18 and head[:4] == ZSTD_MAGIC:  # RFC 8878, 3.1.1.1
        single = head[4] >> 5 & 1
        width, place = (single, 2, 4, 8)[head[4] >> 6], 6 - single + (0, 1, 2, 4)[head[4] & 3]
        size = int.from_bytes(head[place : place + width], "little")
        return size + 256 * (width == 2) if width else None
    return None


def _check_size(path: str, size: int, expected: int) -> None:
    if size != expected:
        raise ValueError(f"{path} holds {size:,} bytes of values, and a chunk {expected:,}")


def _memory(name: str) -> Buffer:
    """Return a buffer of this thread."""
    if not hasattr(_thread, name):
        setattr(_thread, name, Buffer())
    return getattr(_thread, name)  # type: ignore[no-any-return]
