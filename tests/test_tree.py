"""Any cut into runs, and any grouping of merges, builds the tree that the number of blocks alone decides."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamem.tree import FAN_IN, SMALLEST, cut, fold, merge_in_groups, stacked, top

from . import naive


def both(left, right):
    return f"({left}{right})"


def node(run):
    """The node of a run of blocks, by the loop that reads like the law."""
    return naive.tree([f"<{i}>" for i in run])


def folded(runs):
    return fold([(run, node(run)) for run in runs], both)


@st.composite
def aligned(draw, start, stop, n):
    """Any cut of a window into nodes of the tree."""
    if start >= n:
        return []
    if stop - start == 1 or draw(st.integers(0, 3)) == 0:
        return [range(start, min(stop, n))]
    middle = (start + stop) // 2
    return draw(aligned(start, middle, n)) + draw(aligned(middle, stop, n))


@st.composite
def any_cut(draw):
    n = draw(st.integers(1, 150))
    return draw(aligned(0, 1 << (n - 1).bit_length(), n))


@settings(max_examples=200)
@given(any_cut(), st.integers(1, 20))
def test_tree__depends_on_the_blocks_alone(runs, split):
    n = runs[-1].stop
    merged = []

    def merge(nodes):
        merged.append(len(nodes))
        return fold(nodes, both)

    expected = naive.tree([f"<{i}>" for i in range(n)])
    assert folded(runs) == expected
    stack = ()
    for some in np.array_split(np.arange(len(runs)), split):
        stack = stacked(stack, [(runs[i], node(runs[i])) for i in some], both)
    assert top(stack, both) == expected
    assert merge_in_groups([(run, node(run)) for run in runs], merge) == expected
    assert all(1 < many <= FAN_IN for many in merged)


@settings(max_examples=300)
@given(n_blocks=st.integers(1, 3000), n_runs=st.integers(1, 80), n_threads=st.integers(0, 40))
def test_cut__is_into_nodes_of_the_tree(n_blocks, n_runs, n_threads):
    """Of the whole, each with its whole window but for the last one, and never growing."""
    runs = cut(n_blocks, n_runs, n_threads)
    assert [block for run in runs for block in run] == list(range(n_blocks))
    sizes = [1 << (len(run) - 1).bit_length() for run in runs]
    assert all(len(run) == size for run, size in zip(runs[:-1], sizes, strict=False))
    assert all(run.start % size == 0 for run, size in zip(runs, sizes, strict=True))
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert len(runs) >= min(n_blocks, n_runs)


@pytest.mark.parametrize("n_blocks", [1, 3, 7, 8, 9, 203, 1000, 4097])
@pytest.mark.parametrize("n_threads", [0, 1, 2, 7, 40, 320])
def test_cut__builds_the_same_tree_for_any_number_of_threads(n_blocks, n_threads):
    runs = cut(n_blocks, 2 * n_threads, n_threads)
    assert folded(runs) == naive.tree([f"<{i}>" for i in range(n_blocks)])


@settings(max_examples=300)
@given(n_threads=st.integers(1, 320), per_thread=st.integers(2 * SMALLEST, 500), more=st.integers(0, 319))
def test_cut__has_few_large_runs_for_each_thread_and_small_ones_in_the_end(n_threads, per_thread, more):
    """Two to four times as many large ones would be all; the last ones are a small part as large."""
    n_blocks = n_threads * per_thread + min(more, n_threads - 1)
    runs = cut(n_blocks, 2 * n_threads, n_threads)
    large = len(runs[0])
    assert 2 <= n_blocks / large / n_threads < 4
    assert len(runs) < n_blocks / large + 7.5 * n_threads + 4
    assert {len(run) for run in runs[-n_threads:-1]} <= {max(1, large // SMALLEST)}
    busy = [0] * n_threads
    for run in runs:  # who is free takes the next one
        busy[busy.index(min(busy))] += len(run)
    assert max(busy) <= math.ceil(n_blocks / n_threads) + large // SMALLEST


def test_merging__takes_few_tasks():
    """Some two milliseconds are spent on each task of a cluster."""
    for n_threads in (0, 8, 40):
        runs, made = cut(4096, 80, n_threads), []
        merge_in_groups([(run, None) for run in runs], made.append)
        assert len(made) < len(runs) / 5
