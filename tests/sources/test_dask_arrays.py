"""Dask arrays."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

from streamem.errors import InputError, SourceError
from streamem.sources import as_source

from .conformance import SourceTests, loaded, numbers


class TestDask(SourceTests):
    """Chunks of equal length."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        return da.from_array(array, chunks=(chunk_rows, *array.shape[1:]))


class TestUnevenDask(SourceTests):
    """Chunks of growing length, with columns split."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        chunks, left = [], len(array) if array.ndim else 0
        while left:
            chunks.append(min(left, 1 + len(chunks) % chunk_rows))
            left -= chunks[-1]
        return da.from_array(
            array, chunks=(tuple(chunks) or (0,), *(max(1, n // 2) for n in array.shape[1:]))
        )


def test_blocks__follow_uneven_chunks() -> None:
    x = da.zeros((20_000, 2), chunks=((1000, 9000, 300, 300, 9400), (2,)))
    source = as_source(x, memory_limit=32 * 16 * 5000)
    assert [block.start for block in source.blocks()] == [0, 1000, 10_000, 10_600]


def test_chunks__of_unknown_length_are_refused_with_advice() -> None:
    x = da.from_array(numbers(20, 2), chunks=(5, 2))
    with pytest.raises(InputError, match="compute_chunk_sizes"):
        as_source(x[x[:, 0] > 3])


def test_load__computes_its_own_chunks_only() -> None:
    computed: list[int] = []

    def note(part: Any, block_info: Any = None) -> Any:
        computed.append(block_info[0]["chunk-location"][0])
        return part

    x = da.from_array(numbers(20_000, 2), chunks=(5000, 2)).map_blocks(
        note, dtype="float64", meta=np.empty((0, 2))
    )
    blocks = as_source(x).blocks()
    blocks[2].load()
    assert computed == [2]


def test_load__is_serial_under_any_scheduler() -> None:
    def scheduler(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a block is loaded inside a task, and must not wait for others")

    array = numbers(100, 2)
    with dask.config.set(scheduler=scheduler):
        np.testing.assert_array_equal(loaded(as_source(da.from_array(array, chunks=(7, 2)))), array)


def test_load__that_fails_names_the_block() -> None:
    def fail(part: Any) -> Any:
        raise ZeroDivisionError("no such luck")

    x = da.from_array(numbers(20, 2), chunks=(5, 2)).map_blocks(fail, dtype="float64", meta=np.empty((0, 2)))
    with pytest.raises(SourceError, match=r"Block 0 \(rows 0-20 of x\).*no such luck"):
        as_source(x).blocks()[0].load()


def test_load__of_rows_that_are_not_as_promised_names_the_block() -> None:
    x = da.from_array(numbers(20, 2), chunks=(5, 2)).map_blocks(
        lambda part: part[:3], dtype="float64", meta=np.empty((0, 2))
    )
    with pytest.raises(SourceError, match=r"expected an array of shape \(20, 2\), the store gave \(12, 2\)"):
        as_source(x).blocks()[0].load()


def test_pickle__of_a_block_carries_its_part_of_the_graph() -> None:
    blocks = as_source(da.from_array(numbers(20_000, 2), chunks=(5000, 2))).blocks()
    assert len(pickle.dumps(blocks[0])) < 5000 * 2 * 8 + 10_000


def test_dataframes__of_unknown_length_are_refused_with_advice() -> None:
    class Frame:
        def to_dask_array(self) -> None: ...

    with pytest.raises(InputError, match=r"to_dask_array\(lengths=True\)"):
        as_source(Frame())
