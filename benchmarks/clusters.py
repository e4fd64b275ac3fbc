"""A Dask cluster in processes of its own, so that its scheduler and workers can die like anybody's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class ClusterProcess:
    """A scheduler, and worker processes that are started again when they die."""

    def __init__(self, n_workers: int, processes: bool = True, threads: int = 1) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(n_workers), str(int(processes)), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def scale(self, n_workers: int) -> None:
        """Have so many workers from now on."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{n_workers}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """End it, whatever state it is in."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe and pipe.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def cluster_process(n_workers: int, threads: int = 1) -> Iterator[tuple[ClusterProcess, Any]]:
    """Yield such a cluster and a client of it."""
    from distributed import Client

    with (
        contextlib.closing(ClusterProcess(n_workers, threads=threads)) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        client.wait_for_workers(n_workers, timeout=120)
        yield cluster, client


def kill(client: Any, count: int = 1) -> int:
    """Kill some workers as the system would; return how many there were."""
    answers = client.run(os.getpid, on_error="return").values()
    pids = [pid for pid in answers if isinstance(pid, int)][:count]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


class Workers:
    """Worker processes that are started again whenever they end, as an orchestrator would.

    Dask's nannies do not: they give up a process that ends before it has reported.
    """

    def __init__(self, address: str, threads: int) -> None:
        options = ["--no-nanny", "--no-dashboard", "--memory-limit", "0", "--nthreads", str(threads)]
        self._command = [sys.executable, "-m", "distributed.cli.dask_worker", address, *options]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._wanted, self._changed = 0, threading.Condition()
        threading.Thread(target=self._mind, daemon=True).start()

    def scale(self, n_workers: int) -> None:
        """Have so many from now on."""
        with self._changed:
            self._wanted = n_workers
            self._changed.notify()

    def close(self) -> None:
        """End them all."""
        with self._changed:
            self._wanted = 0
            for process in self._processes:
                process.kill()

    def _mind(self) -> None:
        with self._changed:
            while True:
                self._processes = [process for process in self._processes if process.poll() is None]
                for process in self._processes[self._wanted :]:
                    process.terminate()
                while len(self._processes) < self._wanted:
                    self._processes.append(subprocess.Popen(self._command))
                self._changed.wait(0.1)


def main(n_workers: int, processes: bool, threads: int) -> None:
    """Run a cluster until standard input ends; a line there is a new number of workers."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=0 if processes else n_workers,
        threads_per_worker=threads,
        processes=False,
        protocol="tcp://",
        dashboard_address=":0",
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        with contextlib.closing(Workers(cluster.scheduler_address, threads)) as workers:
            workers.scale(n_workers if processes else 0)
            for line in sys.stdin:
                workers.scale(int(line))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "1", int(sys.argv[3]))
