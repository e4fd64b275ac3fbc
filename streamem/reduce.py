"""One pass over the rows: map blocks to statistics, merge them in a tree, on any Dask scheduler.

The tree belongs to the data, not to the machine, and a partition (one Dask task) is one inner node of it (see
`streamem.tree`), so every scheduler and any number of workers or partitions gives the same bits. Parameters
go out and statistics come back; rows stay where they are read. Where tasks run is in `streamem.scheduling`.
"""

from __future__ import annotations

import functools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import dask
import numpy as np

from streamem.cluster import travelling, versions
from streamem.errors import SourceError
from streamem.protocols import Block, Buffer, EStep, Pass, Rows, Source, Stats
from streamem.retries import persistently
from streamem.scheduling import LOCAL_SCHEDULERS, Scheduler, Task, open_scheduler
from streamem.tree import FAN_IN, Node, Stack, fold, height, merge_in_groups, stacked, top
from streamem.watching import StoppedError, Watch

__all__ = ["LOCAL_SCHEDULERS", "Scheduler", "map_reduce", "map_rows", "open_scheduler"]

S = TypeVar("S", bound=Stats)
T = TypeVar("T")

RETRIES = 3

_thread = threading.local()


def map_reduce(
    e_step: EStep[S],
    source: Source,
    scheduler: Scheduler,
    progress: Callable[[int], object] = lambda rows: None,
    row_work: float | None = None,
) -> Pass[S]:
    """Return the merged statistics of all rows: one pass.

    Parameters
    ----------
    e_step
        From rows to statistics; pickled, so bind parameters to it with `functools.partial`.
    progress
        Called with the number of rows done so far, from any thread.
    row_work
        Multiplications that a row takes, if known: little work is not shared out.
    """
    blocks = source.blocks()
    total = None if row_work is None else row_work * source.n_samples
    runs = scheduler.cut(len(blocks), _row_bytes(source), total)
    work = _Work(e_step, scheduler, runs)
    if len(runs) == 1 and scheduler.in_process:  # nothing to share out
        alone = _fold(work.run(blocks), _Opaque(e_step))
        progress(source.n_samples)
        return alone
    leaves = [work.task(run, _fold, blocks[run.start : run.stop]) for run in runs]
    nodes = list(zip(runs, leaves, strict=True))
    if scheduler.client is None:
        root = work.after("top", _top, work.in_order(_stacked, (), nodes))
    else:
        root = merge_in_groups(nodes, work.merge)
    done = _Counter([blocks[run[-1]].stop - blocks[run[0]].start for run in runs], progress)
    return scheduler.compute(work.tasks, leaves, root, work.watch, done)  # type: ignore[no-any-return]


def _row_bytes(source: Source) -> int:
    """Return the bytes of all rows, decoded."""
    return source.n_samples * source.n_features * np.dtype(source.dtype).itemsize


class _Opaque(Generic[T]):
    """Hides a value from Dask, which would otherwise walk through it looking for collections."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _Opaque, (self.value,)


class _Run:
    """The blocks of one task, offered until the pass is stopped."""

    __slots__ = ("attempts", "blocks", "keys", "watch")

    def __init__(
        self, blocks: Sequence[Block], watch: Watch, attempts: int = 1, keys: tuple[str, ...] = ()
    ) -> None:
        self.blocks, self.watch, self.attempts, self.keys = blocks, watch, attempts, keys

    def __iter__(self) -> Iterator[Block]:
        for block in self.blocks:
            if self.watch.stopped:
                raise StoppedError
            yield block

    def __reduce__(self) -> tuple[Any, ...]:
        return _Run, (self.blocks, self.watch, self.attempts, self.keys)

    def load(self, block: Block) -> Rows:
        """Read a block into this thread's buffer, again if the store fails for a while."""
        what = f"Block {block.index} (rows {block.start:,}-{block.stop:,})"
        return persistently(lambda: block.load(thread_buffer()), what, self.attempts)

    def write(self, sink: Any, start: int, results: np.ndarray[Any, Any]) -> None:
        """Write results, again if the store fails for a while: the same rows get the same numbers."""
        what = f"Results of rows {start:,}-{start + len(results):,}"
        persistently(lambda: sink.write(start, results), what, self.attempts)

    def given(self, values: Sequence[Any]) -> _Run:
        """Return the run with the values that the cluster holds for it."""
        if not values:
            return self
        held: Any = dict(zip(self.keys, values, strict=True))
        blocks: Any = self.blocks
        return _Run([block.given(held) for block in blocks], self.watch, self.attempts)


class _Work:
    """Makes the tasks of one pass. What they share is one task of its own, so it travels once per worker.

    Higher nodes of the tree go first, on a cluster, by Dask's priorities: large runs before small ones, and
    merges before runs of their size. The smallest have Dask's usual one, so that others have their turn.
    """

    def __init__(self, shared: Any, scheduler: Scheduler, runs: Sequence[range]) -> None:
        self.watch, self._name, self._scheduler = Watch(), uuid.uuid4().hex, scheduler
        self._attempts = 1 + int(dask.config.get("streamem.retries", RETRIES))
        self._lowest = min((height(run) for run in runs), default=0)
        self._step = f"step-{self._name}"
        self.tasks: dict[str, Any] = {self._step: _Opaque(shared)}

    def run(self, blocks: Sequence[Block]) -> _Run:
        return _Run(blocks, self.watch, self._attempts, tuple(self._inputs(blocks)))

    def task(self, run: range, function: Callable[..., Any], blocks: Sequence[Block], *arguments: Any) -> str:
        """Add a task: ``function(blocks, *arguments, shared, *values that the cluster holds)``."""
        call = functools.partial(function, self.run(blocks), *arguments)
        return self._add(
            f"partition-{self._name}-{run.start}", call, self._step, *self._inputs(blocks).values(), above=run
        )

    def in_order(self, function: Callable[..., Any], state: Any, nodes: Sequence[Node[str]]) -> str:
        """Add the tasks of ``state = function(runs, state, *results)`` over groups of nodes; return the last.

        Dask's own schedulers begin what these wait for first: so runs start in order, the large ones first.
        """
        last = f"start-{self._name}"
        self.tasks[last] = state
        for i in range(0, len(nodes), FAN_IN):
            runs, names = zip(*nodes[i : i + FAN_IN], strict=True)
            last = self.after(f"group-{i}", functools.partial(function, runs), last, *names)
        return last

    def after(self, what: str, function: Callable[..., Any], *names: str) -> str:
        """Add a task of what others have returned."""
        return self._add(f"{what}-{self._name}", function, *names)

    def merge(self, nodes: Sequence[Node[str]]) -> str:
        """Add a task that merges the results of others."""
        runs = tuple(run for run, _ in nodes)
        above = range(runs[0].start, runs[-1].stop)
        name = f"merge-{self._name}-{above.start}-{above.stop}"
        return self._add(name, functools.partial(_merge_all, runs), *(name for _, name in nodes), above=above)

    def _add(self, name: str, call: Callable[..., Any], *inputs: Any, above: range | None = None) -> str:
        priority = 0 if above is None else height(above) - self._lowest
        self.tasks[name] = Task(self._travelling(call), inputs, priority)
        return name

    def _travelling(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call whose failure reaches this process."""
        return call if self._scheduler.in_process else functools.partial(travelling, call, versions())

    def _inputs(self, blocks: Sequence[Block]) -> dict[str, Any]:
        """Return the futures that blocks are made from, where the tasks run on their cluster."""
        if self._scheduler.client is None:
            return {}
        return {future.key: future for block in blocks for future in getattr(block, "inputs", ())}


class _Counter:
    """Adds up the rows of finished partitions."""

    def __init__(self, rows: Sequence[int], progress: Callable[[int], object]) -> None:
        self._rows, self._progress, self._done, self._lock = rows, progress, 0, threading.Lock()

    def __call__(self, partition: int) -> None:
        with self._lock:
            self._done += self._rows[partition]
            self._progress(self._done)


def _merge(left: Pass[S], right: Pass[S]) -> Pass[S]:
    return left.merge(right)


def _stacked(runs: Sequence[range], stack: Stack[Pass[S]], *nodes: Pass[S]) -> Stack[Pass[S]]:
    return stacked(stack, zip(runs, nodes, strict=True), _merge)


def _top(stack: Stack[Pass[S]]) -> Pass[S]:
    return top(stack, _merge)


def _merge_all(runs: Sequence[range], *nodes: Pass[S]) -> Pass[S]:
    return fold(zip(runs, nodes, strict=True), _merge)


def _fold(run: _Run, e_step: _Opaque[EStep[S]], *values: Any) -> Pass[S]:
    """Return the tree's node over one run of blocks."""
    run = run.given(values)
    with run.watch.task():
        return fold(((range(1), _leaf(run, block, e_step.value)) for block in run), _merge)


def _leaf(run: _Run, block: Block, e_step: EStep[S]) -> Pass[S]:
    """Return the statistics of one block."""
    began = time.perf_counter()
    rows = run.load(block)
    loaded = time.perf_counter()
    stats = e_step(rows)
    compute_seconds = time.perf_counter() - loaded
    read_seconds = loaded - began - rows.decode_seconds  # waiting for a store that failed is reading, too
    return Pass(stats, rows.n_bytes, read_seconds, rows.decode_seconds, compute_seconds)


def thread_buffer() -> Buffer:
    """Return the buffer of this thread: blocks are read into it again and again."""
    if not hasattr(_thread, "buffer"):
        _thread.buffer = Buffer()
    return _thread.buffer  # type: ignore[no-any-return]


def map_rows(
    function: Callable[[Rows], np.ndarray[Any, Any]],
    source: Source,
    sink: Any,
    scheduler: Scheduler,
    progress: Callable[[int], object] = lambda rows: None,
) -> None:
    """Write ``function(rows)``, one result per row, into ``sink``; a task writes whole chunks only.

    Where the blocks do not line up with the sink's chunks, a block on a border is read by both sides.
    """
    blocks = source.blocks()
    starts = range(0, source.n_samples, sink.chunk_rows)
    runs = scheduler.cut(len(starts), _row_bytes(source))
    bounds = [(starts[run[0]], min(starts[run[-1]] + sink.chunk_rows, source.n_samples)) for run in runs]
    first_rows = np.array([b.start for b in blocks])
    work = _Work((function, sink.chunk_rows, sink), scheduler, runs)
    leaves = []
    for run, (start, stop) in zip(runs, bounds, strict=True):
        first = int(np.searchsorted(first_rows, start, "right")) - 1
        last = int(np.searchsorted(first_rows, stop, "left"))
        leaves.append(work.task(run, _write_run, blocks[first:last], start, stop))
    if scheduler.client is None:
        root = work.in_order(_count, 0, list(zip(runs, leaves, strict=True)))
    else:
        root = work.after("count", functools.partial(_count, runs, 0), *leaves)
    done = _Counter([stop - start for start, stop in bounds], progress)
    written = scheduler.compute(work.tasks, leaves, root, work.watch, done)
    if written != source.n_samples:
        raise SourceError(
            f"{source.name}: {written:,} of {source.n_samples:,} results were written. Run again."
        )


def _count(runs: Sequence[range], before: int, *rows: int) -> int:
    return before + sum(rows)


def _write_run(run: _Run, start: int, stop: int, step: _Opaque[Any], *values: Any) -> int:
    """Write the results of rows ``start:stop``, chunk by chunk, reading each block once."""
    function, chunk_rows, sink = step.value
    pending: list[np.ndarray[Any, Any]] = []
    position, held, run = start, 0, run.given(values)
    with run.watch.task():
        for block in run:
            results = function(run.load(block))
            piece = results[max(0, start - block.start) : stop - block.start]
            pending.append(piece)
            held += len(piece)
            while held >= chunk_rows or (held and position + held == stop):
                joined = pending[0] if len(pending) == 1 else np.concatenate(pending)
                take = min(chunk_rows, stop - position)
                run.write(sink, position, joined[:take])
                position, held, pending = position + take, held - take, [joined[take:]]
    return stop - start
