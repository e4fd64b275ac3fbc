"""Cutting rows into blocks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamem.errors import MemoryLimitError
from streamem.sources.planning import MAX_PIECES, TARGET_BYTES, block_edges, target_rows


def free(start: int, stop: int) -> int:
    return 0


@given(
    st.integers(1, 10**4), st.integers(1, 500), st.integers(1, 20), st.integers(1, 1000), st.integers(0, 1000)
)
def test_edges__begin_where_the_store_allows(
    n: int, chunk: int, per_shard: int, join: int, more: int
) -> None:
    grids = [range(0, n, chunk * per_shard), range(0, n, chunk)]
    edges = block_edges("x", n, grids, (join, join + more), free, None)
    assert edges[0] == 0 and edges[-1] == n
    assert all(a < b for a, b in pairwise(edges))
    assert all(edge % chunk == 0 for edge in edges[:-1])
    assert all(b - a <= max(chunk, join + more) for a, b in pairwise(edges))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=50), st.integers(1, 100))
def test_edges__follow_uneven_chunks(lengths: list[int], join: int) -> None:
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    edges = block_edges("x", sum(lengths), [starts], (join, join), free, None)
    assert set(edges[:-1]) <= set(starts)
    assert all(b - a <= join or (a in starts and b in (*starts, sum(lengths))) for a, b in pairwise(edges))


def test_edges__keep_a_shard_whole_rather_than_leave_scraps() -> None:
    assert block_edges("x", 300, [range(0, 300, 100), range(0, 300, 10)], (90, 100), free, None) == (
        0,
        100,
        200,
        300,
    )


def test_edges__cut_a_long_shard_evenly() -> None:
    assert block_edges("x", 100, [[0], range(0, 100, 10)], (20, 60), free, None) == (0, 20, 40, 60, 80, 100)


def test_chunks__are_cut_into_the_fewest_parts_that_fit() -> None:
    def cost(start: int, stop: int) -> int:
        return 200 + stop - start

    grid = [range(0, 200, 100)]
    assert block_edges("x", 200, grid, (10, 10), cost, 300) == (0, 100, 200)
    assert block_edges("x", 200, grid, (10, 10), cost, 299) == (0, 50, 100, 150, 200)
    assert block_edges("x", 200, grid, (10, 10), cost, 213)[:2] == (0, -(-100 // MAX_PIECES))
    with pytest.raises(MemoryLimitError):
        block_edges("x", 200, grid, (10, 10), cost, 212)


@given(st.integers(1, 10**9), st.integers(1, 10**6), st.one_of(st.none(), st.integers(1, 2**40)))
def test_target__is_bounded_by_the_limit(n: int, row_bytes: int, limit: int | None) -> None:
    join, most = target_rows(n, row_bytes, limit)
    assert 1 <= join <= most
    assert most == 1 or most * row_bytes <= min(TARGET_BYTES, (limit or 2**60) // 32)
