"""One pass over the rows: map blocks to statistics, merge them in a tree, on any Dask scheduler.

The tree belongs to the data, not to the machine: blocks are its leaves in store order, neighbours are
merged level by level, and an odd one moves up unchanged. A partition (one Dask task) is an aligned run of
2^m blocks, hence one inner node of that tree, so every scheduler and any number of workers or partitions
gives the same bits. Parameters go out and statistics come back; rows stay where they are read.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import dask
import numpy as np
from dask.callbacks import Callback as DaskCallback
from dask.system import CPU_COUNT

from streamem.errors import InputError, MemoryLimitError, SourceError
from streamem.protocols import Block, Buffer, EStep, Pass, Rows, Source, Stats

__all__ = ["LOCAL_SCHEDULERS", "Scheduler", "map_reduce", "map_rows", "open_scheduler"]

S = TypeVar("S", bound=Stats)
T = TypeVar("T")

LOCAL_SCHEDULERS = ("threads", "synchronous", "processes")
PARTITIONS_PER_WORKER = {
    "threads": 32,
    "synchronous": 128,
    "processes": 16,
}  # a task costs 0.1 ms: fine progress
CLUSTER_PARTITIONS_PER_WORKER = 4  # a task costs 2 ms

_thread = threading.local()


@dataclass(frozen=True, slots=True, eq=False)
class Scheduler:
    """Where tasks run: a local Dask scheduler by name, or a `distributed.Client`."""

    name: str
    """One of `LOCAL_SCHEDULERS`, or "distributed"."""
    n_workers: int
    """Tasks that run at once."""
    client: Any = None
    """The client, if distributed."""
    pool: Any = None
    """The process pool that lives as long as the fit, if processes."""

    def partition_count(self) -> int:
        """Return how many partitions to aim at: enough to balance and to show progress, no more."""
        return self.n_workers * PARTITIONS_PER_WORKER.get(self.name, CLUSTER_PARTITIONS_PER_WORKER)

    @property
    def in_process(self) -> bool:
        """Whether tasks share this process's memory."""
        return self.name in ("threads", "synchronous")

    def local(self) -> Scheduler:
        """Return a scheduler for rows that are in this process's memory."""
        return self if self.in_process else Scheduler("threads", CPU_COUNT)

    def compute(self, leaves: Sequence[Any], root: Any, watch: _Watch, done: Callable[[int], object]) -> Any:
        """Compute ``root``; call ``done(i)`` whenever ``leaves[i]`` is finished.

        However this returns, no task is still at work on what the caller may now close or remove.
        """
        position = {leaf.key: i for i, leaf in enumerate(leaves)}
        if self.client is not None:
            return _compute_on_cluster(self.client, leaves, root, done)

        def posttask(key: Any, *_: Any) -> None:
            if key in position:
                done(position[key])

        with watch, DaskCallback(posttask=posttask):
            return root.compute(
                scheduler=self.name, num_workers=self.n_workers, pool=self.pool, optimize_graph=False
            )


def _compute_on_cluster(client: Any, leaves: Sequence[Any], root: Any, done: Callable[[int], object]) -> Any:
    """Compute on a cluster; whatever happens, nothing keeps running after this returns."""
    *parts, future = client.compute([*leaves, root], optimize_graph=False)
    failures: list[BaseException] = []

    def tell(i: int, finished: Any) -> None:  # on a thread of the client, which would only log what is raised
        try:
            if finished.status == "finished":
                done(i)
        except BaseException as error:
            failures.append(error)
            client.cancel([future])

    for i, part in enumerate(parts):
        part.add_done_callback(functools.partial(tell, i))
    try:
        result = future.result()
    except BaseException as error:
        client.cancel([*parts, future])
        raise (failures[0] if failures else error) from None
    if failures:
        raise failures[0]
    return result


@contextlib.contextmanager
def open_scheduler(
    scheduler: str | None = None, client: Any = None, *, source: Source, memory_limit: int | None = None
) -> Iterator[Scheduler]:
    """Choose where to run: ``client``, an active client, an address, or local threads by default.

    Local workers are as many as the cores allow (``dask.config.set(num_workers=...)`` says otherwise) and
    as ``memory_limit`` can hold blocks for; neither changes a bit of the result.

    Raises
    ------
    MemoryLimitError
        If even one block at a time does not fit.
    InputError
        If ``scheduler`` is none of the names and no address.
    """
    if memory_limit is not None and source.block_bytes > memory_limit:
        raise MemoryLimitError(
            f"{source.name}: reading its largest block takes {source.block_bytes:,} bytes, but memory_limit "
            f"is {memory_limit:,}. Raise memory_limit, or store the rows in smaller chunks."
        )
    if client is None and scheduler is None:
        client = _active_client()
        scheduler = "synchronous" if _inside_task() else "threads"
    with contextlib.ExitStack() as stack:
        if client is None and scheduler is not None and "://" in scheduler:
            from distributed import Client

            client = stack.enter_context(Client(scheduler, set_as_default=False))
        if client is not None:
            threads = sum(client.nthreads().values())
            yield Scheduler("distributed", max(1, threads), client=client)
            return
        if scheduler not in LOCAL_SCHEDULERS:
            raise InputError(
                f"scheduler: expected one of {', '.join(LOCAL_SCHEDULERS)}, or an address such as "
                f"'tcp://host:8786', got {scheduler!r}. Pass one of these, or client=."
            )
        workers = int(dask.config.get("num_workers", None) or CPU_COUNT)
        if memory_limit is not None:
            # A quarter of the limit is for reading; zarr's threads may still hold the chunk before.
            workers = max(1, min(workers, memory_limit // 4 // max(1, 2 * source.block_bytes)))
        if scheduler == "synchronous":
            workers = 1
        pool = stack.enter_context(_process_pool(workers)) if scheduler == "processes" else None
        with _blas_threads(1):
            yield Scheduler(scheduler, workers, pool=pool)


def _process_pool(n_workers: int) -> Any:
    """Return worker processes that outlive a pass, so that each compiles and imports once per fit."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    return ProcessPoolExecutor(n_workers, mp_context=get_context("spawn"))


def _blas_threads(limit: int) -> Any:
    """Hold BLAS to ``limit`` threads while Dask supplies the parallelism."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limit, "blas")


def _active_client() -> Any:
    """Return the client that the caller made, if any; never start one."""
    import sys

    if "distributed" not in sys.modules or _inside_task():
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


def _inside_task() -> bool:
    """Return whether this code runs inside a task of a cluster, where waiting for the cluster deadlocks."""
    import sys

    if "distributed" not in sys.modules:
        return False
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        return False
    return True


def map_reduce(
    e_step: EStep[S],
    source: Source,
    scheduler: Scheduler,
    progress: Callable[[int], object] = lambda rows: None,
) -> Pass[S]:
    """Return the merged statistics of all rows: one pass.

    Parameters
    ----------
    e_step
        From rows to statistics; pickled, so bind parameters to it with `functools.partial`.
    progress
        Called with the number of rows done so far, from any thread.
    """
    blocks = source.blocks()
    size = partition_size(len(blocks), scheduler.partition_count())
    runs = [blocks[i : i + size] for i in range(0, len(blocks), size)]
    name, watch = uuid.uuid4().hex, _Watch()
    step = dask.delayed(_Opaque(e_step), name=f"step-{name}", traverse=False)
    leaves = [
        dask.delayed(functools.partial(_fold, _Run(run, watch)), pure=False, traverse=False)(
            step, dask_key_name=f"partition-{name}-{i}"
        )
        for i, run in enumerate(runs)
    ]
    root = _tree(leaves, dask.delayed(_merge, pure=False, traverse=False))
    done = _Counter([_rows(run) for run in runs], progress)
    return scheduler.compute(leaves, root, watch, done)  # type: ignore[no-any-return]


def partition_size(n_blocks: int, n_partitions: int) -> int:
    """Return the largest power of two that still gives ``n_partitions`` runs, or 1.

    Examples
    --------
    >>> partition_size(1000, 8), partition_size(3, 8)
    (64, 1)
    """
    return int(2 ** max(0, (n_blocks // max(1, n_partitions)).bit_length() - 1))


class _Opaque(Generic[T]):
    """Hides a value from Dask, which would otherwise walk through it looking for collections."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _Opaque, (self.value,)


class _StoppedError(Exception):
    """Ends a task of a pass that has failed already; nobody sees it."""


class _Watch:
    """Knows which tasks of a pass are at work in this process, and has them finish when it fails.

    A failed or interrupted pass leaves threads in the middle of a block; files that they use must not be
    closed, removed or, worse, reused under them.
    """

    def __init__(self) -> None:
        self._condition, self._running, self.stopped = threading.Condition(), 0, False

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            with self._condition:
                self.stopped = True
                self._condition.wait_for(lambda: self._running == 0)

    @contextlib.contextmanager
    def task(self) -> Iterator[None]:
        """Count a task while it is at work."""
        with self._condition:
            if self.stopped:
                raise _StoppedError
            self._running += 1
        try:
            yield
        finally:
            with self._condition:
                self._running -= 1
                self._condition.notify_all()

    def __reduce__(self) -> tuple[Any, ...]:
        """Arrive in another process with nothing to watch."""
        return _Watch, ()


class _Run:
    """The blocks of one task, offered until the pass is stopped."""

    __slots__ = ("blocks", "watch")

    def __init__(self, blocks: Sequence[Block], watch: _Watch) -> None:
        self.blocks, self.watch = blocks, watch

    def __iter__(self) -> Iterator[Block]:
        for block in self.blocks:
            if self.watch.stopped:
                raise _StoppedError
            yield block

    def __reduce__(self) -> tuple[Any, ...]:
        return _Run, (self.blocks, self.watch)


class _Counter:
    """Adds up the rows of finished partitions."""

    def __init__(self, rows: Sequence[int], progress: Callable[[int], object]) -> None:
        self._rows, self._progress, self._done, self._lock = rows, progress, 0, threading.Lock()

    def __call__(self, partition: int) -> None:
        with self._lock:
            self._done += self._rows[partition]
            self._progress(self._done)


def _rows(run: Sequence[Block]) -> int:
    return run[-1].stop - run[0].start


def _merge(left: Pass[S], right: Pass[S]) -> Pass[S]:
    return left.merge(right)


def _tree(nodes: Sequence[T], merge: Callable[[T, T], T]) -> T:
    """Merge neighbours level by level; an odd one moves up."""
    while len(nodes) > 1:
        odd = nodes[len(nodes) - len(nodes) % 2 :]
        nodes = [merge(a, b) for a, b in zip(nodes[::2], nodes[1::2], strict=False)] + list(odd)
    return nodes[0]


def _fold(run: _Run, e_step: _Opaque[EStep[S]]) -> Pass[S]:
    """Return the tree's node over one run of blocks, holding no more statistics than the tree is deep."""
    stack: list[tuple[int, Pass[S]]] = []
    with run.watch.task():
        for block in run:
            height, node = 0, _leaf(block, e_step.value)
            while stack and stack[-1][0] == height:
                height, node = height + 1, _merge(stack.pop()[1], node)
            stack.append((height, node))
    node = stack.pop()[1]
    while stack:
        node = _merge(stack.pop()[1], node)
    return node


def _leaf(block: Block, e_step: EStep[S]) -> Pass[S]:
    """Return the statistics of one block."""
    began = time.perf_counter()
    rows = block.load(thread_buffer())
    loaded = time.perf_counter()
    stats = e_step(rows)
    return Pass(stats, rows.n_bytes, loaded - began, time.perf_counter() - loaded)


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
    size = max(1, len(starts) // scheduler.partition_count())
    runs = [
        (starts[i], min(starts[i] + size * sink.chunk_rows, source.n_samples))
        for i in range(0, len(starts), size)
    ]
    first_rows = np.array([b.start for b in blocks])
    name, watch = uuid.uuid4().hex, _Watch()
    step = dask.delayed(_Opaque((function, sink.chunk_rows, sink)), name=f"step-{name}", traverse=False)
    leaves = []
    for i, (start, stop) in enumerate(runs):
        first = int(np.searchsorted(first_rows, start, "right")) - 1
        last = int(np.searchsorted(first_rows, stop, "left"))
        task = functools.partial(_write_run, _Run(blocks[first:last], watch), start, stop)
        leaves.append(
            dask.delayed(task, pure=False, traverse=False)(step, dask_key_name=f"partition-{name}-{i}")
        )
    root = dask.delayed(_count, pure=False)(leaves)
    done = _Counter([stop - start for start, stop in runs], progress)
    written = scheduler.compute(leaves, root, watch, done)
    if written != source.n_samples:
        raise SourceError(
            f"{source.name}: {written:,} of {source.n_samples:,} results were written. Run again."
        )


def _count(rows: Sequence[int]) -> int:
    return sum(rows)


def _write_run(run: _Run, start: int, stop: int, step: _Opaque[Any]) -> int:
    """Write the results of rows ``start:stop``, chunk by chunk, reading each block once."""
    function, chunk_rows, sink = step.value
    pending: list[np.ndarray[Any, Any]] = []
    position, held = start, 0
    with run.watch.task():
        for block in run:
            values = function(block.load(thread_buffer()))
            piece = values[max(0, start - block.start) : stop - block.start]
            pending.append(piece)
            held += len(piece)
            while held >= chunk_rows or (held and position + held == stop):
                joined = pending[0] if len(pending) == 1 else np.concatenate(pending)
                take = min(chunk_rows, stop - position)
                sink.write(position, joined[:take])
                position, held, pending = position + take, held - take, [joined[take:]]
    return stop - start
