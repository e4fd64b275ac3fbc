"""The laws of every source: subclass `SourceTests`, say how the kind stores an array, inherit the tests."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamem.errors import InputError, NonFiniteError
from streamem.protocols import Block, Buffer, Source
from streamem.sources import as_source

lenient = settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


def numbers(n: int, d: int, dtype: Any = "float64") -> np.ndarray[Any, Any]:
    """Return an (n, d) array in which every value is different."""
    return (np.arange(n * d).reshape(n, d) % 30_011).astype(dtype)


def limit_for(rows: int, array: np.ndarray[Any, Any]) -> int:
    """Return the memory limit at which blocks hold about so many rows of an array."""
    return 32 * rows * array.shape[1] * array.dtype.itemsize


def loaded(source: Source) -> np.ndarray[Any, Any]:
    """Return all rows, read block by block into one buffer."""
    buffer = Buffer()
    return np.concatenate([block.load(buffer).x.copy() for block in source.blocks()])


class SourceTests:
    """What holds for any source, whatever stores the rows."""

    dtypes = (
        "float32",
        "float64",
        "int8",
        "uint16",
        "int32",
        "int64",
        "bool",
        "float16",
        ">f4",
        ">f8",
        ">i2",
    )
    """What the kind can store."""

    def make(self, array: np.ndarray[Any, Any], chunk_rows: int, directory: Path) -> Any:
        """Store an array, 1-D or 2-D, and return what `as_source` is to be given."""
        raise NotImplementedError

    @pytest.fixture
    def make_source(self, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Source]:
        def make(array: Any, chunk_rows: int = 7, weight: Any = None, limit: int | None = None) -> Source:
            x = self.make(array, chunk_rows, tmp_path_factory.mktemp("store"))
            return as_source(x, weight, memory_limit=limit or limit_for(2 * chunk_rows, array))

        return make

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (100, 1), (100, 3), (5000, 2)])
    def test_blocks__cover_every_row_once(self, make_source: Any, shape: tuple[int, int]) -> None:
        source = make_source(numbers(*shape))
        blocks = source.blocks()
        assert [block.index for block in blocks] == list(range(len(blocks)))
        assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
        assert blocks[-1].stop == source.n_samples == shape[0]
        assert source.n_features == shape[1]
        assert all(block.start < block.stop for block in blocks)

    def test_blocks__follow_the_protocols(self, make_source: Any) -> None:
        source = make_source(numbers(40, 3))
        assert isinstance(source, Source)
        assert isinstance(source.blocks()[0], Block)
        assert as_source(source) is source
        with pytest.raises(InputError, match="carries its own weights"):
            as_source(source, np.ones(40))

    def test_blocks__are_the_same_at_every_call(self, make_source: Any) -> None:
        source = make_source(numbers(100, 3))
        first, second = ([(b.start, b.stop) for b in source.blocks()] for _ in range(2))
        assert first == second
        assert len(first) > 1

    def test_load__gives_the_rows(self, make_source: Any) -> None:
        array = numbers(100, 3)
        source = make_source(array)
        for block in source.blocks():
            rows = block.load()
            assert rows.start == block.start
            assert rows.weight is None
            assert rows.x.flags.c_contiguous
            np.testing.assert_array_equal(rows.x, array[block.start : block.stop])

    def test_load__into_a_reused_buffer_gives_the_same(self, make_source: Any) -> None:
        array, weight = numbers(100, 3), numbers(100, 1)[:, 0]
        blocks = make_source(array, weight=weight).blocks()
        buffer = Buffer()
        for block in [*blocks, *reversed(blocks)]:
            rows = block.load(buffer)
            np.testing.assert_array_equal(rows.x, array[block.start : block.stop])
            np.testing.assert_array_equal(rows.weight, weight[block.start : block.stop])

    def test_load__in_place_leaves_other_buffers_alone(self, make_source: Any) -> None:
        array = numbers(100, 3)
        first, last = make_source(array).blocks()[0], make_source(array).blocks()[-1]
        kept = first.load(Buffer())
        last.load(Buffer())
        np.testing.assert_array_equal(kept.x, array[: first.stop])

    def test_load__of_a_pickled_block_gives_the_same(self, make_source: Any) -> None:
        array, weight = numbers(100, 3), numbers(100, 1)[:, 0]
        for block in make_source(array, weight=weight).blocks():
            rows = pickle.loads(pickle.dumps(block)).load(Buffer())
            np.testing.assert_array_equal(rows.x, array[block.start : block.stop])
            np.testing.assert_array_equal(rows.weight, weight[block.start : block.stop])

    def test_pickle__of_a_block_does_not_carry_the_other_rows(self, make_source: Any) -> None:
        array = np.random.default_rng(0).normal(size=(200_000, 2))
        source = make_source(array, chunk_rows=1000)
        assert len(pickle.dumps(source.blocks()[3])) < array.nbytes / 20

    def test_dtype__is_a_float_that_holds_every_digit(self, make_source: Any) -> None:
        for name in self.dtypes:
            array = numbers(50, 2, name)
            source = make_source(array)
            exact = array.dtype.itemsize <= 2 or array.dtype in (np.dtype("f4"), np.dtype(">f4"))
            assert source.dtype == np.dtype("float32" if exact else "float64"), name
            x = loaded(source)
            assert x.dtype == source.dtype, name
            np.testing.assert_array_equal(x, array)

    def test_dtype__complex_is_refused_with_advice(self, make_source: Any) -> None:
        with pytest.raises(InputError, match=r"complex.* as columns"):
            make_source(np.ones((20, 2), "complex128"))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_non_finite__is_reported_with_block_row_and_column(
        self, make_source: Any, bad: float, dtype: str
    ) -> None:
        array = numbers(100, 5, dtype)
        array[61, 3] = array[61, 4] = bad
        source = make_source(array)
        block = next(b for b in source.blocks() if b.start <= 61 < b.stop)
        with pytest.raises(NonFiniteError) as caught:
            block.load()
        cure = "Drop those rows, or impute them before fitting."
        if np.isnan(bad):
            cure = 'Drop those rows, impute them, or pass missing="marginal" or "drop", for NaN alone.'
        assert str(caught.value) == (
            f"Block {block.index} (rows {block.start}-{block.stop} of {source.name}): 2 non-finite values, "
            f"first in row 61, column 3. {cure}"
        )
        source.blocks()[0].load()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_missing__is_kept_where_asked_for_and_infinity_is_not(
        self, tmp_path_factory: pytest.TempPathFactory, dtype: str
    ) -> None:
        array = numbers(100, 5, dtype)
        array[61, 3] = array[62, 4] = np.nan
        array[80] = np.nan
        for worse in (False, True):
            if worse:
                array[62, 0] = np.inf
            x = self.make(array, 7, tmp_path_factory.mktemp("store"))
            source = as_source(x, memory_limit=limit_for(14, array), missing="keep")
            for block in pickle.loads(pickle.dumps(source.blocks())):
                expected = array[block.start : block.stop]
                if np.isinf(expected).any():
                    with pytest.raises(
                        NonFiniteError, match=r"1 non-finite value, first in row 62, column 0"
                    ):
                        block.load()
                    continue
                rows = block.load()
                np.testing.assert_array_equal(rows.x, expected)
                assert rows.complete == (not np.isnan(expected).any())

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_non_finite__is_not_claimed_of_large_values(self, make_source: Any, dtype: str) -> None:
        array = np.full((60, 2), np.finfo(dtype).max, dtype)
        np.testing.assert_array_equal(loaded(make_source(array)), array)

    def test_weight__of_any_kind_belongs_to_its_row(
        self, make_source: Any, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        array, weight = numbers(100, 3), numbers(100, 1)[:, 0]
        for chunk_rows in (1, 9, 100):
            stored = self.make(weight.astype("float32"), chunk_rows, tmp_path_factory.mktemp("weight"))
            for block in make_source(array, weight=stored).blocks():
                rows = block.load(Buffer())
                assert rows.weight is not None and rows.weight.dtype == np.float64
                np.testing.assert_array_equal(rows.weight, weight[block.start : block.stop])
                np.testing.assert_array_equal(rows.x, array[block.start : block.stop])

    @pytest.mark.parametrize(
        ("bad", "error"), [(-1.0, InputError), (np.nan, NonFiniteError), (np.inf, NonFiniteError)]
    )
    def test_weight__that_is_no_weight_is_reported_with_its_row(
        self, make_source: Any, bad: float, error: type[Exception]
    ) -> None:
        weight = np.ones(100)
        weight[43] = bad
        block = next(
            b for b in make_source(numbers(100, 2), weight=weight).blocks() if b.start <= 43 < b.stop
        )
        with pytest.raises(
            error, match=rf"Block {block.index} .*1 sample weights .* first in row 43 \({bad}\)"
        ):
            block.load()

    @pytest.mark.parametrize("shape", [(99,), (101,), (100, 1), ()])
    def test_weight__of_another_shape_is_refused(self, make_source: Any, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match="sample_weight"):
            make_source(numbers(100, 2), weight=np.ones(shape))

    def test_label__of_any_kind_belongs_to_its_row(
        self, make_source: Any, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        array, label, weight = numbers(100, 3), np.arange(100) % 5 - 1, numbers(100, 1)[:, 0]
        for chunk_rows, dtype, w in ((1, "int8", weight), (9, "float32", None), (100, "int64", weight)):
            x = self.make(array, 7, tmp_path_factory.mktemp("x"))
            y = self.make(label.astype(dtype), chunk_rows, tmp_path_factory.mktemp("label"))
            source = as_source(x, w, y=y, memory_limit=limit_for(14, array))
            for block in [*source.blocks(), *pickle.loads(pickle.dumps(source.blocks()))]:
                rows = block.load(Buffer())
                assert rows.label is not None and rows.label.dtype == np.int64
                np.testing.assert_array_equal(rows.label, label[block.start : block.stop])
                np.testing.assert_array_equal(rows.x, array[block.start : block.stop])
                if w is not None:
                    np.testing.assert_array_equal(rows.weight, w[block.start : block.stop])

    def test_shape__other_than_a_table_is_refused(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        cases = {
            (20,): r"reshape\(-1, 1\)",
            (4, 3, 2): r"reshape\(len\(x\), -1\)",
            (0, 3): "rows",
            (3, 0): "columns",
        }
        for shape, advice in cases.items():
            x = self.make(np.ones(shape), 4, tmp_path_factory.mktemp("store"))
            with pytest.raises(InputError, match=advice):
                as_source(x)

    def test_block_bytes__hold_for_every_block(self, make_source: Any) -> None:
        array = numbers(100, 3)
        source = make_source(array)
        assert source.block_bytes >= max(block.load().x.nbytes for block in source.blocks())
        assert source.block_bytes <= limit_for(14, array)

    @lenient
    @given(st.data())
    def test_chunking__does_not_change_the_rows(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        n, d = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 4))
        chunks = [data.draw(st.integers(1, n + 3)) for _ in range(2)]
        array, weight = numbers(n, d), numbers(n, 1)[:, 0]
        x = self.make(array, chunks[0], tmp_path_factory.mktemp("x"))
        w = self.make(weight, chunks[1], tmp_path_factory.mktemp("w"))
        limit = limit_for(data.draw(st.integers(1, 70)), array) + 64 * max(chunks) * d
        source = as_source(x, w, memory_limit=limit)
        np.testing.assert_array_equal(loaded(source), array)
        weights = [block.load().weight for block in source.blocks()]
        np.testing.assert_array_equal(np.concatenate(weights), weight)
        assert source.block_bytes <= limit
