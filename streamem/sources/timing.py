"""Telling the time that goes into fetching what is stored from the rest of a load."""

from __future__ import annotations

import threading
import time

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up the time during which at least one of several things is under way, on any thread.

    Chunks of a block may be fetched side by side: what counts is how long some of them were waited for.

    Examples
    --------
    >>> fetching = Stopwatch()
    >>> with fetching, fetching:
    ...     pass
    >>> 0 < fetching.seconds < 1
    True
    """

    __slots__ = ("_began", "_lock", "_under_way", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock, self._under_way, self._began = threading.Lock(), 0, 0.0

    def __enter__(self) -> None:
        with self._lock:
            if not self._under_way:
                self._began = time.perf_counter()
            self._under_way += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._under_way -= 1
            if not self._under_way:
                self.seconds += time.perf_counter() - self._began
