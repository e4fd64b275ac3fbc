"""Endings from outside: SIGTERM and SIGHUP become interrupts, and a temporary directory is gone after all."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from streamem.cli.output import note

__all__ = ["endings_interrupt", "scratch"]

_ENDINGS = ("SIGTERM", "SIGHUP")


@contextmanager
def scratch(parent: Path, prefix: str, keep: bool = False) -> Iterator[Path]:
    """Yield a new directory below ``parent``; remove it and what is in it, unless it is to be kept."""
    with endings_interrupt():
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            yield directory
        finally:
            if not keep:
                _remove(directory)


def _remove(directory: Path) -> None:
    """Remove a directory; a second Ctrl-C does not leave half of it."""
    with _handling(signal.SIG_IGN, ("SIGINT", *_ENDINGS)):
        shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        note(f"Warning: {directory} could not be removed. Remove it by hand.")


@contextmanager
def endings_interrupt() -> Iterator[None]:
    """Let signals that would end the process on the spot raise KeyboardInterrupt instead."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt(f"Interrupted by {signal.Signals(number).name}.")

    with _handling(interrupt, _ENDINGS):
        yield


@contextmanager
def _handling(handler: object, names: tuple[str, ...]) -> Iterator[None]:
    """Handle signals in a way of our own for a while, those ignored (nohup) excepted."""
    mine = threading.current_thread() is threading.main_thread()
    known = [getattr(signal, name) for name in names if hasattr(signal, name)] if mine else []
    taken = [number for number in known if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, handler) for number in taken}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
