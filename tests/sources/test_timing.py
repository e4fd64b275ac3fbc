"""The watch that tells fetching from decoding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from streamem.sources import timing


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def test_stopwatch__counts_what_overlaps_once_and_pauses_not_at_all(clock: Clock) -> None:
    watch = timing.Stopwatch()
    with watch:
        clock.now += 1
        with watch:
            clock.now += 2
        clock.now += 4
    clock.now += 8
    with watch:
        clock.now += 16
    assert watch.seconds == 1 + 2 + 4 + 16


def test_stopwatch__counts_what_failed(clock: Clock) -> None:
    watch = timing.Stopwatch()

    def fail() -> Any:
        with watch:
            clock.now += 1
            raise OSError("unplugged")

    for _ in range(2):
        with pytest.raises(OSError, match="unplugged"):
            fail()
        clock.now += 5
    assert watch.seconds == 2
