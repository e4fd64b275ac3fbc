"""Random kills of the driver over small fits: every result has the bits of the undisturbed one.

A child process is killed (SIGKILL) at a random moment of its fit, writes of checkpoints included, and another
goes on from the checkpoints, until the fit is done. ``--kills 100`` takes some minutes; the tests run ten.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import kills
import streamem
from streamem.convergence import PassEnded, PassStarted

ROOT = Path(__file__).parent.parent
KINDS = [(a, c) for a in ("none", "anderson", "auto") for c in ("full", "diag")]
MOST_PER_FIT = 4


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print a table, and write JSON where asked to."""
    return kills.run(__doc__, argv, _fits, MOST_PER_FIT)


@contextlib.contextmanager
def _fits() -> Iterator[Any]:
    """Yield what makes a fit that is killed and goes on; each time one of another kind."""
    kinds, calm = itertools.cycle(KINDS), {}
    with tempfile.TemporaryDirectory() as scratch, _nursery() as start:
        folder = Path(scratch)
        np.save(folder / "x.npy", _rows())

        def disturbed(chance: random.Random, most: int) -> kills.Row:
            kind = next(kinds)
            if kind not in calm:
                calm[kind] = _undisturbed(start, folder, kind)
            return _disturbed(start, folder, kind, chance, most, *calm[kind])

        yield disturbed


def _undisturbed(start: Any, folder: Path, kind: tuple[str, str]) -> tuple[bytes, float]:
    """Return the result of a fit, and how long it takes."""
    name = "-".join(kind)
    child = start(folder, f"{name}-calm", *kind)
    began = time.perf_counter()
    assert child.wait() == 0
    return (folder / f"{name}-calm.result").read_bytes(), time.perf_counter() - began


def _disturbed(
    start: Any,
    folder: Path,
    kind: tuple[str, str],
    chance: random.Random,
    most: int,
    calm: bytes,
    seconds: float,
) -> dict[str, Any]:
    """Kill a fit a few times, let it end, and compare."""
    name, killed = f"fit-{time.monotonic_ns()}", 0
    while True:
        child = start(folder, name, *kind)
        if killed == most:
            assert child.wait() == 0
            break
        time.sleep(chance.uniform(0, seconds))
        child.kill()
        if child.wait() == 0:
            break
        killed += 1
    events = (folder / f"{name}.events").read_text().split()
    begun = [event for event in events if event.startswith("began")]
    lost = len(begun) - len(set(begun))
    if lost > killed:
        raise SystemExit(f"{lost} passes were lost by {killed} kills")
    return {
        "acceleration": kind[0],
        "covariance": kind[1],
        "kills": killed,
        "passes": len(set(begun)),
        "passes lost": lost,
        "same bits": (folder / f"{name}.result").read_bytes() == calm,
    }


@contextlib.contextmanager
def _nursery() -> Iterator[Any]:
    """Yield what starts a fit in a process of its own: a fork of one that has imported all there is."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, __file__, "--nursery"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        yield functools.partial(_Child, process)
        assert process.stdin is not None
        process.stdin.close()


class _Child:
    """A fit under way."""

    def __init__(self, nursery: Any, folder: Path, *what: str) -> None:
        self._nursery = nursery
        nursery.stdin.write("\t".join([str(folder), *what]) + "\n")
        nursery.stdin.flush()
        self._pid = int(nursery.stdout.readline())

    def kill(self) -> None:
        """Kill it as the system would; nothing happens where it is done."""
        os.kill(self._pid, signal.SIGKILL)  # a zombie until it is waited for, so the number is its own

    def wait(self) -> int:
        """Return how it ended."""
        self._nursery.stdin.write("\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())


def nursery() -> None:
    """Fork a fit for each line of standard input, and tell how it ended after an empty one."""
    x = _rows()
    for acceleration, covariance in KINDS:  # compile before the first fork
        _estimator(acceleration, covariance).fit(x, scheduler="synchronous")
    pid = 0
    for line in sys.stdin:
        if line.strip():
            pid = os.fork()
            if pid == 0:
                try:
                    _fit(*line.strip().split("\t"))
                    os._exit(0)
                except BaseException as error:
                    print(repr(error), file=sys.stderr)
                    os._exit(1)
            print(pid, flush=True)
        else:
            print(os.waitpid(pid, 0)[1], flush=True)


def _fit(folder: str, name: str, acceleration: str, covariance: str) -> None:
    """Go on with a fit; write what it comes to."""
    place = os.path.join(folder, name)
    events = os.open(f"{place}.events", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def tell(event: Any) -> None:
        if isinstance(event, PassStarted | PassEnded) and event.phase == "em":
            word = "began" if isinstance(event, PassStarted) else "ended"
            os.write(events, f"{word}-{event.index}\n".encode())

    gm = _estimator(acceleration, covariance).fit(
        os.path.join(folder, "x.npy"),
        checkpoint=place,
        resume="auto",
        scheduler="synchronous",
        callbacks=[tell],
    )
    history = np.array([(r.objective, r.remaining_gain) for r in gm.result_.history])
    arrays = [gm.weights_, gm.means_, gm.covariances_, gm.precisions_cholesky_, history]
    Path(f"{place}.part").write_bytes(b"".join(array.tobytes() for array in arrays))
    os.replace(f"{place}.part", f"{place}.result")


def _estimator(acceleration: str, covariance: str) -> streamem.GaussianMixture:
    warnings.simplefilter("ignore", streamem.ConvergenceWarning)
    return streamem.GaussianMixture(
        3,
        covariance_type=covariance,
        acceleration=acceleration,  # type: ignore[arg-type]
        tol=0,
        max_iter=12,
        sample_size=1500,
        random_state=0,
    )


def _rows() -> Any:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(m, 1.5, (2_000, 3)) for m in (-2, 0, 2)])
    return x[rng.permutation(len(x))]


if __name__ == "__main__":
    nursery() if "--nursery" in sys.argv else main()
