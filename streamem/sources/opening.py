"""Choosing how to read something by what it is. Each kind's file is imported when that kind is given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from streamem.errors import InputError, SourceError
from streamem.sources.handles import ArrayHandle

__all__ = ["OpenOptions", "is_url", "open_array"]

OTHER_FILES = {
    ".npz": "Save the array on its own with np.save, or give np.load(path)[name].",
    ".csv": "Convert it to zarr once, or read it with dask.dataframe and give the values as a dask array.",
    ".parquet": "Read it with dask.dataframe.read_parquet(path).to_dask_array(lengths=True).",
    ".h5": "Wrap its dataset with dask.array.from_array(dataset).",
    ".hdf5": "Wrap its dataset with dask.array.from_array(dataset).",
}
"""What to do about files that cannot be streamed as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenOptions:
    """How to open stores."""

    missing_chunks: str
    """What to do about chunks that were never written: "warn", "raise" or "ignore"."""
    storage_options: Mapping[str, Any] | None
    """Passed on with a URL."""
    memory_limit: int | None
    """Bytes; None for no limit."""


def is_url(x: Any) -> bool:
    """Return whether x is a URL of something that is not a local file."""
    return isinstance(x, str) and "://" in x and not x.startswith("file://")


def open_array(x: Any, name: str, options: OpenOptions) -> ArrayHandle:
    """Return a handle of whatever x is; ``name`` is what to call it if it has no name of its own.

    Raises
    ------
    InputError
        Nothing here can stream such a thing; the message says what can be done.
    SourceError
        The store cannot be opened.
    """
    if isinstance(x, str | os.PathLike):
        return _open_location(os.fspath(x), options)
    packages = {kind.__module__.partition(".")[0] for kind in type(x).__mro__}
    if "zarr" in packages and hasattr(x, "store_path"):
        from streamem.sources.zarr_arrays import from_zarr

        return from_zarr(x, None, options.missing_chunks)
    if hasattr(x, "to_dask_array"):
        raise InputError(
            f"{name}: the number of rows of a dask dataframe is unknown. Give x.to_dask_array(lengths=True)."
        )
    if "dask" in packages and hasattr(x, "chunks"):
        from streamem.sources.dask_arrays import from_dask

        return from_dask(x, name)
    return _open_object(x, name, options)


def _open_location(location: str | bytes, options: OpenOptions) -> ArrayHandle:
    """Open a path or URL."""
    if isinstance(location, bytes):
        location = os.fsdecode(location)
    path = url2pathname(urlsplit(location).path) if location.startswith("file://") else location
    if is_url(path):
        _refuse_credentials(path)
    else:
        _check_file(path)
        path = os.path.abspath(path)  # workers have working directories of their own
        if path.lower().endswith(".npy"):
            from streamem.sources.npy_files import from_npy

            return from_npy(path)
    from streamem.sources.zarr_arrays import from_zarr, open_zarr

    node = open_zarr(path, options.storage_options if is_url(path) else None)
    return from_zarr(node, location.rstrip("/"), options.missing_chunks)


def _refuse_credentials(url: str) -> None:
    """Refuse a URL with a password: the names of stores are in messages, logs and files."""
    place = urlsplit(url)
    if place.password is not None:
        shown = f"{place.scheme}://***@{place.netloc.rpartition('@')[2]}{place.path}"
        raise InputError(
            f"{shown}: a URL must hold no password. Give it in the environment, or in storage_options."
        )


def _check_file(path: str) -> None:
    """Refuse files that do not exist or are of a kind that cannot be streamed."""
    if not os.path.exists(path):
        raise SourceError(f"{path}: there is no such file or directory. Check the path.")
    advice = OTHER_FILES.get(os.path.splitext(path)[1].lower())
    if advice is not None:
        raise InputError(f"{path}: files of this kind cannot be streamed as they are. {advice}")
    if os.path.isfile(path) and not path.lower().endswith((".npy", ".zip")):
        raise InputError(f"{path}: not a .npy file, and not a zarr directory or .zip. Convert it to zarr.")


def _open_object(x: Any, name: str, options: OpenOptions) -> ArrayHandle:
    """Open something that holds an array, or that numpy can turn into one."""
    if hasattr(x, "data_vars"):
        raise InputError(
            f'{name}: a Dataset holds several arrays. Give one, or x.to_dataarray("column").T of all.'
        )
    if hasattr(x, "dims") and hasattr(x, "values"):
        return _open_labelled(x, name, options)
    if hasattr(x, "toarray"):
        raise InputError(
            f"{name}: sparse arrays cannot be streamed. Give x.toarray() if it fits into memory."
        )
    if hasattr(x, "chunks") and not isinstance(x, np.ndarray):
        raise InputError(f"{name}: {_kind(x)} cannot be streamed as it is. Give dask.array.from_array(x).")
    if isinstance(x, np.memmap):
        from streamem.sources.npy_files import from_memmap

        handle = from_memmap(x, os.path.basename(str(x.filename)))
        if handle is not None:
            return handle
    from streamem.sources.memory_arrays import from_array_like, from_frame

    if hasattr(x, "to_numpy"):
        return from_frame(x, name)
    if not isinstance(x, list | tuple) and not hasattr(x, "__array__"):
        raise InputError(
            f"{name}: {_kind(x)} is not a table of numbers. "
            "Give an array, the path of a .npy file or zarr store, a zarr array or a dask array."
        )
    return from_array_like(x, name)


def _open_labelled(x: Any, name: str, options: OpenOptions) -> ArrayHandle:
    """Open the array inside an xarray object; one that is not loaded yet is loaded only if it fits."""
    limit = options.memory_limit
    if x.chunks is None and limit is not None and x.nbytes > limit:
        raise InputError(
            f"{name}: {x.nbytes:,} bytes without dask chunks are more than memory_limit = {limit:,}. "
            "Open it with chunks={}, or give x.values if it is in memory."
        )
    return open_array(x.data, name, options)


def _kind(x: Any) -> str:
    return f"{type(x).__module__}.{type(x).__qualname__}"
