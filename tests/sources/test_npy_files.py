"""Arrays in plain files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamem.errors import InputError, SourceError
from streamem.protocols import Buffer
from streamem.sources import as_source
from streamem.sources.npy_files import FileArray

from .conformance import SourceTests, loaded, numbers


class TestNpy(SourceTests):
    """``.npy`` files, by path."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        np.save(directory / "x.npy", array)
        return directory / "x.npy"


class TestFortranNpy(SourceTests):
    """``.npy`` files in column-major order, by name."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        np.save(directory / "x.npy", np.asfortranarray(array))
        return str(directory / "x.npy")


class TestMemmap(SourceTests):
    """Slices of memory maps."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        if array.size == 0:
            return array
        padded = np.concatenate([array[:1], array, array[-1:]])
        mapped = np.memmap(directory / "x.bin", array.dtype, "w+", 0, padded.shape)
        mapped[:] = padded
        return mapped[1:][:-1]


def test_memmap__travels_as_a_path_with_the_rows_of_its_slice(tmp_path: Path) -> None:
    array = numbers(50_000, 3)
    np.save(tmp_path / "x.npy", array)
    window = np.load(tmp_path / "x.npy", mmap_mode="r")[101:][:40_000]
    source = as_source(window)
    assert isinstance(source.x, FileArray)
    assert len(pickle.dumps(source.blocks()[0])) < 1000
    np.testing.assert_array_equal(loaded(source), array[101:40_101])


def test_memmap__that_differs_from_its_file_is_read_from_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers(10, 2))
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[0, 0] = -5
    np.testing.assert_array_equal(loaded(as_source(private)), private)
    columns = np.load(tmp_path / "x.npy", mmap_mode="r")[:, :1]
    np.testing.assert_array_equal(loaded(as_source(columns)), numbers(10, 2)[:, :1])
    transposed = np.load(tmp_path / "x.npy", mmap_mode="r").T
    np.testing.assert_array_equal(loaded(as_source(transposed)), numbers(10, 2).T)


def test_load__reuses_the_buffer(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers(10_000, 2))
    buffer = Buffer()
    first, *_, last = (block.load(buffer).x for block in as_source(tmp_path / "x.npy").blocks())
    assert np.shares_memory(first, last)


def test_load__of_a_truncated_file_names_the_block(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, numbers(10_000, 2))
    blocks = as_source(path).blocks()
    with open(path, "r+b") as file:
        file.truncate(100_000)
    blocks[0].load()
    with pytest.raises(
        SourceError, match=r"Block 1 \(rows 5,000-10,000 of .*x\.npy\): .* bytes too early"
    ) as caught:
        blocks[1].load()
    assert isinstance(caught.value.__cause__, EOFError)


def test_load__of_a_file_that_is_gone_names_the_block(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers(10, 2))
    (block,) = as_source(tmp_path / "x.npy").blocks()
    (tmp_path / "x.npy").unlink()
    with pytest.raises(SourceError, match=r"Block 0 .*FileNotFoundError"):
        block.load()


def test_npy__that_cannot_be_read_in_place_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}, []], dtype=object))
    with pytest.raises(InputError, match="Save it again as numbers"):
        as_source(tmp_path / "x.npy")
