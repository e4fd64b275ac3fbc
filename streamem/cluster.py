"""What is peculiar to a Dask cluster: connecting, checking workers, and waiting without ever hanging.

Only public parts of `distributed` are used, so that any client will do: a `LocalCluster`'s, the Kubernetes
operator's, jobqueue's, a gateway's. Nothing is scaled and nothing is started here. Two settings of Dask bound
every wait: ``streamem.timeout`` (without a worker, or without an answer of the scheduler) and
``streamem.stall-timeout`` (with workers, but without a finished partition).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import platform
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import cloudpickle
import dask
from dask.utils import parse_timedelta

from streamem.errors import ClusterError, InputError, StreamEMError
from streamem.protocols import Source
from streamem.watching import Watch, end_pass

__all__ = [
    "active_client",
    "check_workers",
    "compute",
    "connect",
    "inside_task",
    "thread_count",
    "travelling",
    "versions",
]

T = TypeVar("T")

log = logging.getLogger("streamem")

TIMEOUT, STALL_TIMEOUT = "5 minutes", "2 hours"
TICK_SECONDS = 5.0
SETTLE_SECONDS = 60.0
LARGE_GRAPH = "distributed.admin.large-graph-warning-threshold"
FAILED = ("error", "cancelled")


def active_client() -> Any:
    """Return the client that the caller made, if any; never start one."""
    if "distributed" not in sys.modules or inside_task():
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


def inside_task() -> bool:
    """Return whether this code runs inside a task of a cluster, where waiting for the cluster deadlocks."""
    if "distributed" not in sys.modules:
        return False
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def connect(address: str) -> Iterator[Any]:
    """Yield a client of the scheduler at an address such as ``tcp://host:8786``.

    Raises
    ------
    ClusterError
        If nothing answers there.
    InputError
        If that is no address.
    """
    from distributed import Client

    try:
        client = Client(address, set_as_default=False)
    except OSError as error:
        raise ClusterError(
            f"{address}: no scheduler answers ({error}). Check the address, and that its port can be reached."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{address}: not the address of a scheduler ({error}). Give tcp://host:8786."
        ) from error
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=TICK_SECONDS)


def check_workers(client: Any, source: Source | None = None) -> None:
    """Wait for a worker, then ask all of them whether they can do the work, before any of it is sent.

    Raises
    ------
    ClusterError
        If there is no worker, or one has no streamem, or another version of it or of Python.
    SourceError
        If a worker does not see the store.
    """
    if getattr(client, "asynchronous", False):
        raise InputError("client: it is asynchronous, and fits wait. Pass Client(..., asynchronous=False).")
    _Patience(client).await_workers()
    found = _ask(client, lambda: client.run(_version_probe(), on_error="return"))
    found = {worker: answer for worker, answer in found.items() if not isinstance(answer, BaseException)}
    _require_versions(found, versions())
    for store in getattr(source, "stores", ()):
        answers = _ask(client, functools.partial(client.run, _look, store, on_error="return"))
        for worker, problem in answers.items():
            if isinstance(problem, StreamEMError):
                raise type(problem)(f"Worker {worker}: {problem}")


def _version_probe() -> Callable[[], tuple[str, str]]:
    """Return a function that travels by value: where it runs, there may be no streamem."""

    def probe() -> tuple[str, str]:
        import platform

        try:
            from streamem import __version__
        except Exception as error:
            return f"none ({type(error).__name__}: {error})", platform.python_version()
        return __version__, platform.python_version()

    return probe


def versions() -> tuple[str, str]:
    """Return the versions of streamem and of Python that run here."""
    from streamem import __version__

    return __version__, platform.python_version()


def _require_versions(found: Mapping[str, tuple[str, str]], ours: tuple[str, str]) -> None:
    """Refuse workers with another streamem, or another minor version of Python, than the client."""
    other = {
        worker: f"streamem {version}, Python {python}"
        for worker, (version, python) in found.items()
        if version != ours[0] or python.split(".")[:2] != ours[1].split(".")[:2]
    }
    if other:
        worker, has = next(iter(other.items()))
        more = f" (and {len(other) - 1:,} more workers)" if len(other) > 1 else ""
        raise ClusterError(
            f"Worker {worker}{more}: it has {has}; the client has streamem {ours[0]}, Python {ours[1]}. "
            "Install the same versions everywhere, or use one image for client, scheduler and workers."
        )


def _look(store: Any) -> StreamEMError | None:
    """Return why this process does not see a store, if it does not."""
    try:
        store.require_visible()
    except StreamEMError as error:
        return type(error)(str(error))
    return None


def thread_count(client: Any) -> int:
    """Return the threads of all workers there are at the moment."""
    return int(sum(_ask(client, client.nthreads).values()))


def compute(
    client: Any, leaves: Sequence[Any], root: Any, watch: Watch, done: Callable[[int], object]
) -> Any:
    """Return the value of ``root``; call ``done(i)``, on this thread, whenever ``leaves[i]`` is finished.

    Workers that die have their tasks run again elsewhere. Whatever happens, this returns or raises: see
    `_Patience` for how long it waits for what.

    What is left of a pass that failed is released, not cancelled: to cancel a task, the scheduler goes
    through those that depend on it, and drops the client (and with it all else that it holds or computes)
    on meeting one that the client did not ask for itself, such as a merge between partitions and root.
    Tasks that run on workers by then are ended and waited for.
    """
    with dask.config.set({LARGE_GRAPH: "1 TiB"}):  # parameters of many MB are meant to travel
        futures = _ask(client, lambda: client.compute([*leaves, root], optimize_graph=False))
    try:
        result = _gather(client, futures, done)
    except BaseException:
        _release(futures)
        _settle(client, watch.name)
        raise
    _release(futures)
    return result


def _release(futures: Sequence[Any]) -> None:
    """Give up what the scheduler still does or holds for a pass."""
    for future in futures:
        future.release()


def _settle(client: Any, name: str) -> None:
    """Return when no worker is at work on a pass any more, or after a while."""
    seconds = min(SETTLE_SECONDS, _seconds("streamem.timeout", TIMEOUT))
    try:
        ended = _ask(
            client, lambda: client.run(end_pass, name, seconds, on_error="return"), seconds + TICK_SECONDS
        )
        busy = [worker for worker, answer in ended.items() if answer is False]
    except Exception as error:
        log.info("%s: its workers could not be told that the pass has ended (%s)", _address(client), error)
        return
    if busy:
        log.warning(
            "Worker %s: still at work on a block of a pass that failed %g s ago. What it writes now may be "
            "left behind.",
            ", ".join(busy),
            seconds,
        )


def _gather(client: Any, futures: list[Any], done: Callable[[int], object]) -> Any:
    """Wait for the last future, and tell of the others as they come.

    One that has come may be lost by the time it is looked at, with its worker. It is computed again if need
    be, and has been told of.
    """
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    for i, future in enumerate(futures):
        future.add_done_callback(lambda _, i=i: ended.put(i))
    patience, last = _Patience(client), len(futures) - 1
    while True:
        try:
            i = ended.get(timeout=patience.tick)
        except queue.Empty:
            patience.check()
            continue
        patience.reset()
        if futures[i].status in FAILED:
            raise _failure(client, futures[i], patience)
        if i == last:
            return _result(client, futures[i], patience)
        done(i)
        if futures[i].key != futures[last].key:  # where there is one partition, it is the root
            futures[i].release()


def _result(client: Any, future: Any, patience: _Patience) -> Any:
    """Fetch a finished result; should its worker die now, wait until it is computed again."""
    while True:
        try:
            return future.result(timeout=patience.tick)
        except TimeoutError:
            patience.check()
        except Exception as error:
            if future.status not in FAILED:
                raise
            raise _failure(client, future, patience) from error


def _failure(client: Any, future: Any, patience: _Patience) -> BaseException:
    """Return what to raise for a future that failed or was cancelled."""
    from distributed import KilledWorker

    if future.status == "cancelled":
        return ClusterError(
            f"{_address(client)}: the work was cancelled there: the scheduler was lost or restarted, "
            "or somebody cancelled it. Check its log, and fit again."
        )
    error = future.exception(timeout=patience.timeout)
    if isinstance(error, KilledWorker):
        return ClusterError(
            f"{_address(client)}: several workers died over the same partition, the last at "
            f"{getattr(error.last_worker, 'address', error.last_worker)}. Look for lack of memory in their "
            "logs; lower memory_limit, run fewer threads on a worker, or store the rows in smaller chunks."
        )
    if isinstance(error, ImportError) and "streamem" in str(error):
        return ClusterError(
            f"{_address(client)}: a worker that came later cannot import streamem ({error}). Install the "
            "same versions everywhere."
        )
    return error  # type: ignore[no-any-return]


class _Patience:
    """Decides how long to go on waiting when nothing comes back."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.timeout = _seconds("streamem.timeout", TIMEOUT)
        self._stall_timeout = _seconds("streamem.stall-timeout", STALL_TIMEOUT)
        self.tick = min(TICK_SECONDS, self.timeout / 4)
        self.reset()

    def reset(self) -> None:
        """Something came back."""
        self._quiet_since = time.monotonic()
        self._alone_since: float | None = None

    def check(self) -> None:
        """Raise if there has been no worker, no answer, or nothing finished for too long."""
        now = time.monotonic()
        if thread_count(self._client):
            self._alone_since = None
            if now - self._quiet_since > self._stall_timeout:
                quiet = now - self._quiet_since
                raise ClusterError(
                    f"{_address(self._client)}: no partition was finished in {quiet:,.0f} s, though "
                    "there are workers. Look at what they do; raise the Dask setting "
                    "streamem.stall-timeout if a partition may take that long."
                )
            return
        if self._alone_since is None:
            self._alone_since = now
            log.warning("%s: no workers; waiting %g s for some", _address(self._client), self.timeout)
        if now - self._alone_since >= self.timeout:
            raise ClusterError(
                f"{_address(self._client)}: no workers for {now - self._alone_since:,.0f} s. Start some, or "
                "raise the Dask setting streamem.timeout if they take longer to come."
            )

    def await_workers(self) -> None:
        """Return as soon as there is a worker."""
        while not thread_count(self._client):
            self.check()
            time.sleep(min(0.2, self.tick))


def _seconds(name: str, default: str) -> float:
    return float(parse_timedelta(dask.config.get(name, default)))


def _ask(client: Any, question: Callable[[], T], timeout: float | None = None) -> T:
    """Return what the scheduler answers, within the limit; `distributed` itself would wait for ever."""
    timeout = _seconds("streamem.timeout", TIMEOUT) if timeout is None else timeout
    answer: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put((question(), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=ask, name="streamem-ask", daemon=True).start()
    try:
        value, error = answer.get(timeout=timeout)
    except queue.Empty:
        raise ClusterError(
            f"{_address(client)}: the scheduler has not answered for {timeout:g} s. Check that it runs and "
            "can be reached; raise the Dask setting streamem.timeout if it is only slow."
        ) from None
    if isinstance(error, OSError) or client.status == "closed":
        raise ClusterError(
            f"{_address(client)}: the connection to the scheduler is lost ({error}). Check that it runs, and "
            "fit again."
        ) from error
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _this_worker() -> str:
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return platform.node()


def _address(client: Any) -> str:
    scheduler = getattr(client, "scheduler", None)
    return f"Scheduler {getattr(scheduler, 'address', '(gone)')}"


def travelling(task: Callable[..., T], sender: tuple[str, str], *arguments: Any) -> T:
    """Run a task that came from another process, of the same versions; its failure must reach that.

    Workers that join in the middle of a fit were not there to be asked for their versions: their first task
    refuses to run. Of an exception, what cannot be pickled is left behind.
    """
    try:
        if versions() != sender:
            _require_versions({_this_worker(): versions()}, sender)
        return task(*arguments)
    except Exception as error:
        failure = error
    failure.__cause__ = failure.__context__ = None  # our messages hold the cause; it may hold locks and files
    try:
        cloudpickle.loads(cloudpickle.dumps(failure))
    except Exception:
        failure = ClusterError(
            f"A worker raised {type(failure).__qualname__}: {failure}. (It cannot be sent as it is.)"
        ).with_traceback(failure.__traceback__)
    raise failure
