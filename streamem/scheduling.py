"""Where a pass runs: local threads or processes, this thread alone, or a Dask cluster.

A `Scheduler` computes a graph of tasks and tells of each finished partition. What is peculiar to a cluster
is in `streamem.cluster`; the tasks themselves are made in `streamem.reduce`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

import dask
import dask.multiprocessing
import dask.threaded
from dask.callbacks import Callback as DaskCallback
from dask.system import CPU_COUNT

from streamem import cluster
from streamem.errors import ClusterError, InputError, MemoryLimitError
from streamem.protocols import Source, bytes_per_thread
from streamem.tree import cut
from streamem.watching import Watch

__all__ = [
    "CPU_COUNT",
    "LOCAL_SCHEDULERS",
    "Scheduler",
    "Task",
    "check_scheduler",
    "cut_for",
    "open_scheduler",
    "require_workers",
    "threads_within",
]

T = TypeVar("T")
R = TypeVar("R")

_GET = {"threads": dask.threaded.get, "synchronous": dask.get, "processes": dask.multiprocessing.get}
LOCAL_SCHEDULERS = tuple(_GET)
PARTITIONS_PER_WORKER = {
    "threads": 32,
    "synchronous": 128,
    "processes": 16,
}  # a task costs 0.1 ms: fine progress
FEWEST_PER_WORKER, PARTITION_BYTES = 4, 1 << 25  # where the rows are few, so that tasks are worth it
ALONE_BYTES, MOST_ALONE_BYTES = 1 << 19, 1 << 23  # fewer take less time than a graph, which costs some 5 ms:
ALONE_WORK = 25_000_000  # where the work is not known, and where so many multiplications are
LARGE_RUNS_PER_THREAD = 2  # on a cluster, at least: a task costs 2 ms, and small ones follow


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A call, given the results of other tasks."""

    function: Callable[..., Any]
    """What is called."""
    inputs: tuple[Any, ...] = ()
    """Names of the tasks whose results are its arguments; on a cluster futures as well."""
    priority: int = 0
    """The higher, the earlier a cluster runs it."""


@dataclass(frozen=True, slots=True, eq=False)
class Scheduler:
    """Where tasks run: a local Dask scheduler by name, or a `distributed.Client`."""

    name: str
    """One of `LOCAL_SCHEDULERS`, or "distributed"."""
    n_workers: int
    """Tasks that run at once; on a cluster, when the scheduler was opened."""
    client: Any = None
    """The client, if distributed."""
    pool: Any = None
    """The process pool that lives as long as the fit, if processes."""

    def cut(self, n_blocks: int, n_bytes: int, work: float | None = None) -> list[range]:
        """Return the blocks of each task, for so many bytes of rows and, if known, multiplications."""
        n_workers = self.n_workers
        if self.client is not None:  # workers come and go
            n_workers = cluster.thread_count(self.client) or n_workers
        return cut_for(self.name, n_workers, n_blocks, n_bytes, work)

    @property
    def in_process(self) -> bool:
        """Whether tasks share this process's memory."""
        return self.name in ("threads", "synchronous")

    def local(self) -> Scheduler:
        """Return a scheduler for rows that are in this process's memory."""
        return self if self.in_process else Scheduler("threads", CPU_COUNT)

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return the results of what needs no rows but those in this process's memory, in order."""
        calls = {str(i): Task(partial(function, item)) for i, item in enumerate(items)}
        return list(self.local()._get(calls, list(calls)))

    def compute(
        self,
        tasks: Mapping[str, Any],
        leaves: Sequence[str],
        root: str,
        watch: Watch,
        done: Callable[[int], object],
    ) -> Any:
        """Compute the task ``root``; call ``done(i)`` whenever ``leaves[i]`` is finished.

        What is no `Task` among the tasks is a result that is known. However this returns, no task is still at
        work on what the caller may now close or remove; on a cluster, none on a worker that answers.
        """
        if self.client is not None:
            delayed = _delayed(tasks)
            return cluster.compute(
                self.client, [delayed[leaf] for leaf in leaves], delayed[root], watch, done
            )
        position = {leaf: i for i, leaf in enumerate(leaves)}

        def posttask(key: Any, *_: Any) -> None:
            if key in position:
                done(position[key])

        try:
            with watch, DaskCallback(posttask=posttask):
                return self._get(tasks, root)
        except BaseException as error:
            if self.pool is not None:
                self.pool.settle()
            if not isinstance(error, BrokenExecutor):
                raise
            raise ClusterError(
                f"scheduler={self.name!r}: a worker process died ({error}). Look for lack of memory: lower "
                "memory_limit, or set fewer workers with dask.config.set(num_workers=...)."
            ) from error

    def _get(self, tasks: Mapping[str, Any], wanted: Any) -> Any:
        """Return the results wanted, by Dask's own scheduler of this name.

        A plain graph costs 0.1 ms for each task, where one of delayed calls takes half a millisecond.
        """
        graph = {
            name: (task.function, *task.inputs) if isinstance(task, Task) else task
            for name, task in tasks.items()
        }
        options: dict[str, Any] = {}
        if self.name == "processes":  # which are given one task at once
            options = {"pool": self.pool, "optimize_graph": False, "chunksize": 1}
        return _GET[self.name](graph, wanted, num_workers=self.n_workers, **options)


def _delayed(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tasks, each given after those that it needs, as calls that a cluster can be asked for."""
    delayed: dict[str, Any] = {}
    for name, task in tasks.items():
        if isinstance(task, Task):
            inputs = [delayed.get(one, one) if isinstance(one, str) else one for one in task.inputs]
            with dask.annotate(priority=task.priority):
                call = dask.delayed(task.function, pure=False, traverse=False)
                delayed[name] = call(*inputs, dask_key_name=name)
        else:
            delayed[name] = dask.delayed(task, name=name, traverse=False)
    return delayed


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
    ClusterError, SourceError
        If the cluster does not answer, or a worker cannot do the work: see `streamem.cluster`.
    """
    if scheduler is not None:
        check_scheduler(scheduler)
    if memory_limit is not None and source.block_bytes > memory_limit:
        raise MemoryLimitError(
            f"{source.name}: reading its largest block takes {source.block_bytes:,} bytes, but memory_limit "
            f"is {memory_limit:,}. Raise memory_limit, or store the rows in smaller chunks."
        )
    if client is None and scheduler is None:
        inside = cluster.inside_task()
        client = None if inside else getattr(source, "client", None) or cluster.active_client()
        scheduler = "synchronous" if inside else "threads"
    with contextlib.ExitStack() as stack:
        if client is None and scheduler is not None and "://" in scheduler:
            client = stack.enter_context(cluster.connect(scheduler))
        if client is not None:
            cluster.check_workers(client, source)
            yield Scheduler("distributed", max(1, cluster.thread_count(client)), client=client)
            return
        assert scheduler is not None
        workers = int(dask.config.get("num_workers", None) or CPU_COUNT)
        workers = threads_within(memory_limit, workers, source)
        if scheduler == "synchronous":
            workers = 1
        pool = stack.enter_context(_ProcessPool(workers)) if scheduler == "processes" else None
        with _blas_threads(1):
            yield Scheduler(scheduler, workers, pool=pool)


def cut_for(
    scheduler: str, n_workers: int, n_blocks: int, n_bytes: float, work: float | None = None
) -> list[range]:
    """Return the blocks of each task: runs enough to balance and to show progress, no more.

    Examples
    --------
    >>> [len(cut_for("threads", 2, 1000, n_bytes)) for n_bytes in (1e5, 1e6, 1e9, 1e10)]
    [1, 27, 42, 131]
    >>> [len(cut_for("threads", 2, 1000, 1e6, work)) for work in (1e6, 1e9)]
    [1, 27]
    >>> len(cut_for("distributed", 2, 1000, 1e9))
    20
    """
    if scheduler not in LOCAL_SCHEDULERS:
        return cut(n_blocks, n_workers * LARGE_RUNS_PER_THREAD, n_workers)
    little = n_bytes < ALONE_BYTES if work is None else work < ALONE_WORK and n_bytes < MOST_ALONE_BYTES
    if scheduler != "processes" and little:
        return [range(n_blocks)] if n_blocks else []
    worthwhile = max(n_workers * FEWEST_PER_WORKER, int(n_bytes / PARTITION_BYTES))
    return cut(n_blocks, min(n_workers * PARTITIONS_PER_WORKER[scheduler], worthwhile), n_workers)


def check_scheduler(scheduler: Any) -> None:
    """Refuse what is neither the name of a local scheduler nor like an address."""
    if scheduler not in LOCAL_SCHEDULERS and "://" not in str(scheduler):
        raise InputError(
            f"scheduler: expected one of {', '.join(LOCAL_SCHEDULERS)}, or an address such as "
            f"'tcp://host:8786', got {scheduler!r}. Pass one of these, or client=."
        )


def require_workers(scheduler: str | None) -> None:
    """Refuse an address where no scheduler answers, or whose workers are not like this process.

    Raises
    ------
    ClusterError
        See `streamem.cluster.connect` and `check_workers`.
    """
    if scheduler is not None and scheduler not in LOCAL_SCHEDULERS:
        with cluster.connect(scheduler) as client:
            cluster.check_workers(client)


def threads_within(memory_limit: int | None, n_threads: int, source: Source) -> int:
    """Return how many of the threads have room to read blocks, in a quarter of the limit; at least one."""
    if memory_limit is None:
        return n_threads
    return max(1, min(n_threads, memory_limit // 4 // max(1, bytes_per_thread(source))))


class _ProcessPool(ProcessPoolExecutor):
    """Worker processes that outlive a pass, so that each compiles and imports once per fit."""

    def __init__(self, n_workers: int) -> None:
        super().__init__(n_workers, mp_context=get_context("spawn"))
        self._under_way: set[Future[Any]] = set()

    def submit(self, *call: Any, **keywords: Any) -> Future[Any]:
        """Start a call, and remember it until it has ended."""
        future = super().submit(*call, **keywords)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def settle(self) -> None:
        """Return when no call is under way any more; those that have not begun never do."""
        calls = list(self._under_way)
        for call in calls:
            call.cancel()
        wait(calls)


def _blas_threads(limit: int) -> Any:
    """Hold BLAS to ``limit`` threads while Dask supplies the parallelism."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limit, "blas")
