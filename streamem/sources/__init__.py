"""Where rows come from: `as_source` turns anything array-like into a `streamem.protocols.Source`.

Each kind of store has a file of its own that knows how to read a run of rows (`handles.ArrayHandle`), and is
imported when its kind is first given. What all kinds share is written once: cutting rows into blocks
(`planning`), converting and checking them (`checking`), and the source itself (`streaming`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamem.errors import InputError
from streamem.protocols import Source
from streamem.sources.opening import OpenOptions, is_url, open_array
from streamem.sources.streaming import open_source

__all__ = ["as_source"]


def as_source(
    x: Any,
    sample_weight: Any = None,
    *,
    y: Any = None,
    memory_limit: int | None = 2**30,
    missing: str = "raise",
    missing_chunks: str = "warn",
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    """Return a source of the rows of ``x``; no row is read.

    Parameters
    ----------
    x
        (n, d) rows: ndarray, nested lists, numpy memmap, path of a ``.npy`` file, path or URL of a zarr array
        (v2 or v3, sharded or not, in a directory or ``.zip``) or of a group that holds one, ``zarr.Array``,
        dask array, numeric dataframe, xarray DataArray. A source is returned as it is.
    sample_weight
        (n,) weights >= 0, of any of these kinds and chunked in any way; None where every row weighs 1. A row
        of weight 0 counts as absent, but must be finite all the same.
    y
        (n,) labels, of any of these kinds and chunked in any way: the component, from 0, that a row is known
        to come from, −1 where that is unknown; None where it is of all.
    memory_limit
        Bytes that one load may need at its peak; None for no limit. Blocks are planned from it and from the
        store's chunks, and from nothing else.
    missing
        What to do about NaN: "raise" an error in the pass that reads it, or "keep" it as a missing value, for
        models that take those.
    missing_chunks
        What to do about zarr chunks that were never written, and so read as the fill value: "warn", "raise"
        or "ignore". The first two list the store's objects once; "ignore" does not.
    storage_options
        Passed to zarr with a path or URL, e.g. ``{"anon": True}`` for ``s3://``.

    Raises
    ------
    InputError
        The shape, dtype or kind of ``x``, of the weights or of the labels cannot be used.
    SourceError
        The store cannot be opened.
    MemoryLimitError
        One load needs more than ``memory_limit``, however it is cut.

    Examples
    --------
    >>> import numpy as np
    >>> source = as_source(np.arange(12).reshape(6, 2))
    >>> source.n_samples, source.n_features, source.dtype
    (6, 2, dtype('float64'))
    >>> source.blocks()[0].load().x[-1]
    array([10., 11.])
    """
    if missing_chunks not in ("warn", "raise", "ignore"):
        raise InputError(f'missing_chunks: {missing_chunks!r} is not one of "warn", "raise", "ignore".')
    if missing not in ("raise", "keep"):
        raise InputError(f'missing: expected "raise" or "keep", got {missing!r}.')
    if isinstance(x, Source):
        return _unchanged(x, sample_weight, y, storage_options)
    if storage_options is not None and not any(map(is_url, (x, sample_weight, y))):
        raise InputError("storage_options: none of x, sample_weight and y is a URL. Leave them out.")
    options = OpenOptions(missing_chunks, storage_options, memory_limit)
    rows = open_array(x, "x", options)
    weight = None if sample_weight is None else open_array(sample_weight, "sample_weight", options)
    label = None if y is None else open_array(y, "y", options)
    return open_source(rows, weight, memory_limit, missing, label)


def _unchanged(source: Source, sample_weight: Any, y: Any, storage_options: Any) -> Source:
    """Refuse weights and labels for something that carries its own, and options for what is open."""
    if storage_options is not None:
        raise InputError(
            f"{source.name}: storage_options were given for a source, which is open already. Leave them out."
        )
    for name, value, what in (("sample_weight", sample_weight, "weights"), ("y", y, "labels")):
        if value is not None:
            raise InputError(
                f"{source.name}: {name} was given for a source, which carries its own {what}. "
                f"Give the {what} to as_source together with the rows, or have the source return them."
            )
    return source
