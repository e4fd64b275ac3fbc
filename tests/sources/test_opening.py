"""Choosing the kind of a source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from streamem.errors import InputError, SourceError
from streamem.sources import as_source

from .conformance import loaded, numbers


def test_import__loads_neither_zarr_nor_dask() -> None:
    code = (
        "import sys, numpy as np; from streamem.sources import as_source; "
        "as_source(np.ones((3, 2))).blocks()[0].load(); "
        "print(sorted({'zarr', 'dask', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["x.csv", "x.npz", "x.parquet", "x.h5", "x.bin"])
def test_files__of_other_kinds_are_refused_with_advice(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"1,2,3")
    with pytest.raises(InputError, match=r"x\.[a-z0-9]+: .*\. [A-Z]"):
        as_source(tmp_path / name)


def test_files__that_do_not_exist_are_refused(tmp_path: Path) -> None:
    for name in ("x.npy", "x.zarr"):
        with pytest.raises(SourceError, match="there is no such file"):
            as_source(tmp_path / name)


@pytest.mark.parametrize("x", [None, 3, iter([[1.0]]), {"a": [1.0]}, {1.0}])
def test_objects__that_are_no_tables_are_refused(x: Any) -> None:
    with pytest.raises(InputError, match="is not a table of numbers"):
        as_source(x)


def test_sparse_arrays__are_refused() -> None:
    with pytest.raises(InputError, match="toarray"):
        as_source(SimpleNamespace(toarray=lambda: np.ones((2, 2))))


def test_lazy_arrays__of_other_libraries_are_refused_rather_than_loaded() -> None:
    with pytest.raises(InputError, match=r"dask\.array\.from_array"):
        as_source(SimpleNamespace(shape=(10, 2), chunks=(5, 2), __array__=None))


def labelled(array: np.ndarray[Any, Any], chunks: Any = None) -> Any:
    """Return as much of a DataArray as sources look at."""
    return SimpleNamespace(
        dims=("row", "column"), data=array, values=array, chunks=chunks, nbytes=array.nbytes
    )


def test_labelled_arrays__are_their_data() -> None:
    array = numbers(100, 2)
    np.testing.assert_array_equal(loaded(as_source(labelled(array))), array)
    np.testing.assert_array_equal(
        loaded(as_source(labelled(array, chunks=(50, 2)), memory_limit=1000)), array
    )


def test_labelled_arrays__that_may_not_fit_are_not_loaded() -> None:
    with pytest.raises(InputError, match=r"chunks=\{\}"):
        as_source(labelled(numbers(100, 2)), memory_limit=1000)


def test_datasets__are_refused() -> None:
    with pytest.raises(InputError, match="several arrays"):
        as_source(SimpleNamespace(data_vars={}))
