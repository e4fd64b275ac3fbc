"""Arrays in memory."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamem.errors import InputError
from streamem.sources import as_source

from .conformance import SourceTests, loaded, numbers


class TestArray(SourceTests):
    """C-contiguous ndarrays."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        return array


class TestFortranArray(SourceTests):
    """Column-major ndarrays."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        return np.asfortranarray(array)


class TestStridedArray(SourceTests):
    """Every other row and column of a larger ndarray."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        return np.repeat(np.repeat(array, 2, axis=0), 2, axis=-1)[::2, ..., ::2] if array.ndim > 1 else array


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_load__of_contiguous_floats_is_a_view(dtype: str) -> None:
    array = numbers(100, 2, dtype)
    assert np.shares_memory(as_source(array).blocks()[0].load().x, array)


def test_blocks__of_many_rows_suffice_for_parallel_work() -> None:
    sizes = {block.stop - block.start for block in as_source(np.zeros((200_000, 1))).blocks()[:-1]}
    assert sizes == {6250}
    assert len(as_source(np.zeros((200_000, 1))).blocks()) == 32
    for rows, blocks in ((1, 1), (8192, 1), (8193, 2), (16_385, 4), (60_000, 8), (10**6, 32)):
        sizes = [block.stop - block.start for block in as_source(np.zeros((rows, 1))).blocks()]
        assert len(sizes) == blocks and sum(sizes) == rows
        assert max(sizes) - min(sizes) < len(sizes)


def test_pickle__of_a_source_keeps_everything() -> None:
    array = numbers(100, 2)
    np.testing.assert_array_equal(loaded(pickle.loads(pickle.dumps(as_source(array)))), array)


def test_lists__become_arrays() -> None:
    source = as_source([[1, 2], [3, 4]], [1, 0])
    rows = source.blocks()[0].load()
    np.testing.assert_array_equal(rows.x, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(rows.weight, [1, 0])
    with pytest.raises(InputError, match="equal length"):
        as_source([[1, 2], [3]])


class Frame:
    """As much of a dataframe as sources look at."""

    def __init__(self, **columns: Any) -> None:
        self.columns = {name: np.asarray(values) for name, values in columns.items()}
        self.dtypes = {name: values.dtype for name, values in self.columns.items()}

    def to_numpy(self) -> np.ndarray[Any, Any]:
        if len(set(self.dtypes.values())) == 1:
            return np.stack(list(self.columns.values()), axis=1)
        return np.array(
            list(zip(*(values.tolist() for values in self.columns.values()), strict=True)), dtype=object
        )


def test_frames__of_numbers_become_arrays() -> None:
    np.testing.assert_array_equal(loaded(as_source(Frame(a=[1.0, 2.0], b=[3.0, 4.0]))), [[1, 3], [2, 4]])
    np.testing.assert_array_equal(loaded(as_source(Frame(a=[True, False], b=[3.5, 4.0]))), [[1, 3.5], [0, 4]])


def test_frames__with_other_columns_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="columns name are not numbers"):
        as_source(Frame(a=[1.0, 2.0], name=["x", "y"]))


def test_masked_arrays__are_refused() -> None:
    with pytest.raises(InputError, match=r"filled"):
        as_source(np.ma.masked_less(np.arange(6.0).reshape(3, 2), 2))


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.array([["a", "b"]]), "encode categories"),
        (np.array([[object()]]), "encode categories"),
        (np.array([["2020-01-01"]], "datetime64[D]"), "unit you choose"),
        (np.zeros((2, 1), [("a", "f4"), ("b", "f4")]), r"fields \(a, b\)"),
    ],
)
def test_dtype__that_holds_no_numbers_is_refused_with_advice(array: Any, advice: str) -> None:
    with pytest.raises(InputError, match=advice):
        as_source(array)
