"""Which tasks of a pass are at work in a process, so that a pass that fails can end them before it returns.

A failed or interrupted pass leaves threads in the middle of a block, here or on workers; files that they use
must not be closed, removed or, worse, reused under them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

__all__ = ["StoppedError", "Watch", "end_pass"]

POLL_SECONDS = 0.02
REMEMBERED = 1000  # passes that were ended, in case a task of theirs comes late


class StoppedError(Exception):
    """Ends a task of a pass that has failed already; nobody sees it."""


class Watch:
    """Knows the tasks of one pass that are at work in this process, and has them finish when it fails.

    Pickled, it arrives as the one that watches the same pass in the other process.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name or uuid.uuid4().hex
        self._condition, self.running, self.stopped = threading.Condition(), 0, False
        _watches[self.name] = self

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            self.stop()
            with self._condition:
                self._condition.wait_for(lambda: self.running == 0)

    def stop(self) -> None:
        """Have tasks at work end after their block, and no other begin."""
        with self._condition:
            self.stopped = True

    @contextlib.contextmanager
    def task(self) -> Iterator[None]:
        """Count a task while it is at work."""
        with self._condition:
            if self.stopped:
                raise StoppedError
            self.running += 1
        try:
            yield
        finally:
            with self._condition:
                self.running -= 1
                self._condition.notify_all()

    def __reduce__(self) -> tuple[Any, ...]:
        return _watch_here, (self.name,)


_watches: WeakValueDictionary[str, Watch] = WeakValueDictionary()
_ended: deque[str] = deque(maxlen=REMEMBERED)
_lock = threading.Lock()


def _watch_here(name: str) -> Watch:
    """Return what watches this pass in this process."""
    with _lock:
        watch = _watches.get(name) or Watch(name)
        if name in _ended:
            watch.stop()
        return watch


async def end_pass(name: str, seconds: float) -> bool:
    """End the tasks of a pass in this process; return whether none was at work any more in time."""
    with _lock:
        _ended.append(name)
    watch, end = _watch_here(name), time.monotonic() + seconds
    while watch.running and time.monotonic() < end:
        await asyncio.sleep(POLL_SECONDS)
    return watch.running == 0
