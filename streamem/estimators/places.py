"""Where rows lie and results go, as far as it can be told, and what is refused because of that."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from streamem.errors import InputError
from streamem.sources.opening import is_url

__all__ = ["refuse_idle_options", "refuse_input_as_output"]


def refuse_idle_options(storage_options: Mapping[str, Any] | None, *places: Any) -> None:
    """Refuse storage options that open nothing.

    Examples
    --------
    >>> refuse_idle_options({"anon": True}, "s3://bucket/x.zarr", None)
    >>> refuse_idle_options({"anon": True}, "x.zarr", None)
    Traceback (most recent call last):
    ...
    streamem.errors.InputError: storage_options: nothing here is given by a URL. Leave them out.
    """
    if storage_options is not None and not any(is_url(getattr(place, "place", place)) for place in places):
        raise InputError("storage_options: nothing here is given by a URL. Leave them out.")


def refuse_input_as_output(x: Any, source: Any, out: Any) -> None:
    """Refuse to write where the rows are read: replacing them cannot be undone."""
    target = _place(out)
    if target is None:
        return
    stores = (getattr(store, "array", store) for store in getattr(source, "stores", ()))
    for place in map(_place, (x, *stores)):
        if place is not None and (place == target or place.startswith(f"{target}{_separator(target)}")):
            raise InputError(
                f"{out}: this is where the rows are, and would replace them. Choose another name for out."
            )


def _place(x: Any) -> str | None:
    """Return the path or URL of something, if it has one."""
    filesystem = getattr(getattr(x, "store", None), "fs", None)
    if filesystem is not None:
        return _url_of(x, filesystem)
    if isinstance(x, np.memmap):
        x = x.filename
    elif not isinstance(x, str | os.PathLike):
        x = getattr(x, "store_path", None) or getattr(x, "path", None)
    if x is None:
        return None
    location = str(x).removeprefix("file://")
    return location.rstrip("/") if "://" in location else os.path.realpath(location)


def _url_of(array: Any, filesystem: Any) -> str:
    """Return the URL of a zarr array behind fsspec."""
    protocol = filesystem.protocol if isinstance(filesystem.protocol, str) else filesystem.protocol[0]
    return f"{protocol}://{array.store.path.strip('/')}/{array.path}".rstrip("/")


def _separator(place: str) -> str:
    return "/" if "://" in place else os.sep
