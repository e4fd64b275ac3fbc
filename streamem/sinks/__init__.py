"""Where row-wise results go: `open_sink` returns a place to write one result per row, piece by piece.

Nothing half-written ever stands under the final name: results grow under a hidden name in the same directory
and are renamed by `commit`. Nothing can be renamed behind a URL: there, chunks are no array until `commit`
adds the metadata, last and in one piece, and an array that is to be replaced goes first. Each kind has a file
of its own; who computes which rows is up to the caller.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from streamem.errors import InputError
from streamem.sinks.ranges import output_ranges, result_chunk_rows
from streamem.sinks.sink import Sink

__all__ = ["Sink", "open_sink", "output_ranges", "result_chunk_rows"]


def open_sink(
    out: Any,
    *,
    n_samples: int,
    trailing_shape: tuple[int, ...],
    dtype: Any,
    block_rows: int,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Sink:
    """Return a sink for an array of shape ``(n_samples, *trailing_shape)``.

    Parameters
    ----------
    out
        None: the result is an ndarray. A path that ends in ``.npy``: such a file. Any other path: a zarr (v3)
        array in this directory. A URL that fsspec can write to: a zarr array there. A writable
        ``zarr.Array`` that fits: it is written in place.
    block_rows
        Rows that are computed at once; the sink's ``chunk_rows`` follow it where the kind leaves a choice.
    overwrite
        Whether what is at the path already may be replaced; it stays as it is until `commit`. An array
        behind a URL is removed at once.
    storage_options
        For fsspec, with a URL.

    Raises
    ------
    InputError
        Something is at the path already, or ``out`` is nothing that can be written to, or does not fit.
    SourceError
        The result cannot be created, e.g. because the disk is full.

    Examples
    --------
    >>> import numpy as np
    >>> with open_sink(None, n_samples=5, trailing_shape=(), dtype="int64", block_rows=2) as sink:
    ...     for start, stop in output_ranges(5, sink.chunk_rows):
    ...         sink.write(start, np.arange(start, stop))
    ...     result = sink.commit()
    >>> result
    array([0, 1, 2, 3, 4])
    """
    shape, dtype = (n_samples, *trailing_shape), np.dtype(dtype)
    if hasattr(out, "store_path"):
        from streamem.sinks.zarr_sinks import open_given_array

        return open_given_array(out, shape, dtype, block_rows)
    chunk_rows = result_chunk_rows(shape, dtype, block_rows)
    if out is None:
        from streamem.sinks.memory_sinks import MemorySink

        return MemorySink(shape, dtype, chunk_rows)
    path = _path(out)
    if "://" in path:
        from streamem.sinks.remote_sinks import open_remote

        return open_remote(path, shape, dtype, chunk_rows, overwrite, storage_options)
    if path.endswith(".npy"):
        from streamem.sinks.npy_sinks import open_npy

        return open_npy(path, shape, dtype, chunk_rows, overwrite)
    from streamem.sinks.zarr_sinks import open_zarr

    return open_zarr(path, shape, dtype, chunk_rows, overwrite)


def _path(out: Any) -> str:
    """Return out as an absolute path or a URL, or say what it should be."""
    if not isinstance(out, str | os.PathLike):
        kind = type(out).__qualname__
        raise InputError(
            f"out: cannot write to an object of type {kind}. Give a path or URL, a zarr.Array, or None."
        )
    path = os.fsdecode(out).removeprefix("file://")
    return path.rstrip("/") if "://" in path else os.path.abspath(path)
