"""Random kills of workers over small fits: every result has the bits of the undisturbed one.

``--kills 100`` takes some minutes; the tests run ten.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import kills
import streamem
from clusters import cluster_process, kill

N_WORKERS = 2
MOST_PER_FIT = 3
"""A scheduler gives a task up when more workers than that died over it (allowed-failures)."""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print a table, and write JSON where asked to."""
    return kills.run(__doc__, argv, _fits, MOST_PER_FIT)


@contextlib.contextmanager
def _fits() -> Iterator[Any]:
    """Yield what makes a fit whose workers are killed meanwhile."""
    with tempfile.TemporaryDirectory() as folder, cluster_process(N_WORKERS) as (_, client):
        store = _store(Path(folder) / "x.zarr")
        expected = _fit(store, scheduler="synchronous")
        calm = min(_seconds(lambda: _fit(store, client=client)) for _ in range(2))  # the first one compiles

        def disturbed(chance: random.Random, most: int) -> kills.Row:
            killer = _Killer(client, chance, most, calm)
            seconds = _seconds(lambda: killer.during(lambda: _fit(store, client=client)))
            same = _same(killer.result, expected)
            return {"kills": killer.kills, "s": seconds, "calm s": calm, "same bits": same}

        yield disturbed


class _Killer:
    """Kills one or all workers at random moments of a piece of work."""

    def __init__(self, client: Any, chance: random.Random, most: int, seconds: float) -> None:
        self.kills, self.result = 0, None
        self._client, self._ended = client, threading.Event()
        self._plan = [(chance.uniform(0, seconds), chance.choice((1, 1, N_WORKERS))) for _ in range(most)]

    def during(self, work: Any) -> None:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            self.result = work()
        finally:
            self._ended.set()
            thread.join()

    def _run(self) -> None:
        for pause, count in self._plan:
            if self._ended.wait(pause):
                return
            while not (killed := kill(self._client, count)) and not self._ended.wait(0.02):
                pass  # all are on their way up
            self.kills += killed > 0


def _store(path: Path) -> str:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(m, 1.5, (20_000, 4)) for m in (-2, 0, 2)])
    zarr.create_array(path, shape=x.shape, chunks=(500, 4), dtype="f8")[:] = x[rng.permutation(len(x))]
    return str(path)


def _fit(store: str, **where: Any) -> streamem.GaussianMixture:
    gm = streamem.GaussianMixture(3, random_state=0, acceleration="none", tol=0, max_iter=25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", streamem.ConvergenceWarning)
        return gm.fit(store, **where)


def _same(a: Any, b: Any) -> bool:
    return bool(a.lower_bounds_ == b.lower_bounds_ and np.array_equal(a.covariances_, b.covariances_))


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
