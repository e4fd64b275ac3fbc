"""The tree in which statistics are merged, and how it is cut into tasks.

The tree belongs to the data: blocks are its leaves in store order, neighbours are merged level by level, and
an odd one moves up unchanged. A run of 2^m blocks from a multiple of 2^m on is an inner node of it, so any
cut into such runs, and any grouping of merges, builds the same tree. Nothing here knows tasks or statistics.

The cut is a guided one (Polychronopoulos & Kuck 1987; Hummel, Schonberg & Flynn 1992): large runs first, and
towards the end runs of half of that, a quarter, and so on. All then wait for a small one at most, whatever
the speeds of the threads and the number of tasks that each of them holds in reserve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

__all__ = ["FAN_IN", "Node", "Stack", "cut", "fold", "height", "merge_in_groups", "stacked", "top"]

T = TypeVar("T")
Node = tuple[range, T]
Stack = tuple[tuple[int, T], ...]
"""Nodes from left to right and their heights, each less than the one before."""

FAN_IN = 8
"""Most nodes that one task merges: on a cluster a task costs 2 ms."""
AHEAD = 1.5
"""Runs that there must be for each thread in what is left, for them to stay as large as they are."""
SMALLEST = 32
"""By how much the last runs are smaller than the first."""


def cut(n_blocks: int, n_runs: int, n_threads: int = 0) -> list[range]:
    """Return the blocks of each task: at least ``n_runs`` runs of one size, smaller ones towards the end.

    Their number for each of the threads is less than that of the large runs and eight more. Without threads,
    all are as large as the first.

    Examples
    --------
    >>> [len(run) for run in cut(100, 4)]
    [16, 16, 16, 16, 16, 16, 4]
    >>> [len(run) for run in cut(100, 4, n_threads=2)]
    [16, 16, 16, 16, 8, 8, 4, 4, 4, 2, 2, 1, 1, 1, 1]
    """
    size = int(2 ** max(0, (n_blocks // max(1, n_runs)).bit_length() - 1))
    smallest, start, runs = max(1, size // SMALLEST), 0, []
    while start < n_blocks:
        while size > smallest and n_blocks - start < AHEAD * n_threads * size:
            size //= 2
        runs.append(range(start, min(start + size, n_blocks)))
        start += size
    return runs


def height(run: range) -> int:
    """Return how far above the leaves the node of a run is.

    Examples
    --------
    >>> height(range(8, 16)), height(range(8, 13)), height(range(8, 9))
    (3, 3, 0)
    """
    return (len(run) - 1).bit_length()


def fold(nodes: Iterable[Node[T]], merge: Callable[[T, T], T]) -> T:
    """Return the tree's node above neighbouring ones, holding no more of them than the tree is deep.

    Examples
    --------
    >>> fold([(range(0, 4), "a"), (range(4, 6), "b"), (range(6, 7), "c")], lambda a, b: f"({a}{b})")
    '(a(bc))'
    """
    return top(stacked((), nodes, merge), merge)


def stacked(stack: Stack[T], nodes: Iterable[Node[T]], merge: Callable[[T, T], T]) -> Stack[T]:
    """Return the stack with the nodes that follow it to the right: two of the same height become one.

    Examples
    --------
    >>> stacked(((2, "a"), (1, "b")), [(range(6, 7), "c"), (range(7, 8), "d")], lambda a, b: f"({a}{b})")
    ((3, '(a(b(cd)))'),)
    """
    held = list(stack)
    for run, node in nodes:
        level = height(run)
        while held and held[-1][0] == level:
            level, node = level + 1, merge(held.pop()[1], node)
        held.append((level, node))
    return tuple(held)


def top(stack: Stack[T], merge: Callable[[T, T], T]) -> T:
    """Return the tree's node above all that are in the stack."""
    *rest, (_, node) = stack
    for _, left in reversed(rest):
        node = merge(left, node)
    return node


def merge_in_groups(nodes: Sequence[Node[T]], merge: Callable[[Sequence[Node[T]]], T]) -> T:
    """Return the root above all nodes, where ``merge`` makes one of up to `FAN_IN` neighbours.

    Examples
    --------
    >>> nodes = [(range(i, i + 1), str(i)) for i in range(10)]
    >>> merge_in_groups(nodes, lambda group: f"({' '.join(name for _, name in group)})")
    '((0 1 2 3 4 5 6 7) (8 9))'
    """
    blocks = nodes[-1][0].stop
    few = _few(nodes, range(1 << height(range(blocks))), merge)
    return merge(few) if len(few) > 1 else few[0][1]


def _few(nodes: Sequence[Node[T]], window: range, merge: Callable[[Sequence[Node[T]]], T]) -> list[Node[T]]:
    """Return no more than `FAN_IN` nodes that cover the same blocks, all of them of one window."""
    if len(nodes) <= FAN_IN:
        return list(nodes)
    middle = (window.start + window.stop) // 2
    left = _few([node for node in nodes if node[0].start < middle], range(window.start, middle), merge)
    right = _few([node for node in nodes if node[0].start >= middle], range(middle, window.stop), merge)
    if len(left) + len(right) <= FAN_IN:
        return left + right
    return [
        (range(half[0][0].start, half[-1][0].stop), merge(half)) if len(half) > 1 else half[0]
        for half in (left, right)
    ]
