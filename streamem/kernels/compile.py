"""How every kernel is compiled, and where the machine code is kept between processes.

numba's own cache notices a changed entry function only; what it calls from other files is not looked at.
So the cache directory is named by a digest of all kernel sources: no change can meet a stale entry.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numba
import numpy as np
from numba.core import event
from numba.extending import register_jitable
from numpy.typing import NDArray

__all__ = ["INLINED", "cache_directory", "kernel", "unwritable"]

logger = logging.getLogger("streamem")

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
    "boundscheck": False,
    "error_model": "numpy",
    "no_cfunc_wrapper": True,
}
"""How numba is to compile. Infinities and NaN keep their meaning: dead components and overflow rely on it."""


INLINED: dict[str, Any] = {**OPTIONS, "forceinline": True}
"""How numba is to compile a piece of other kernels."""


@overload
def kernel(function: Callable[..., Any]) -> Callable[..., Any]: ...
@overload
def kernel(*, inline: bool | Literal["once"]) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...


def kernel(function: Any = None, *, inline: bool | Literal["once"] = False) -> Any:
    """Compile a function on its first call, without the GIL, and keep the machine code on disk.

    Parameters
    ----------
    function
        Plain loops over arrays.
    inline
        For a piece of other kernels: always inlined, never kept on its own. "once" for one that any kernel
        calls from a single place: it becomes part of its caller before types are inferred, and is not
        compiled on its own first.

    Notes
    -----
    Never ``parallel=True``: the threads belong to the scheduler that calls. Whatever a kernel calls has to be
    inlined: of a function of its own, the process that compiled has two copies, and may use the other one
    than a process that loads the machine code. They can round differently.
    """
    if function is None:
        return partial(kernel, inline=inline)
    if inline == "once":
        return numba.njit(inline="always", **OPTIONS)(function)
    if inline:
        return register_jitable(**INLINED)(function)
    directory = cache_directory()
    with _numba_cache_in(directory):
        try:
            dispatcher = numba.njit(cache=directory is not None, **OPTIONS)(function)
        except RuntimeError:  # no file to compare with: numba has nowhere to keep it
            dispatcher = numba.njit(**OPTIONS)(function)
    _entries.add(dispatcher)
    return dispatcher


def unwritable(array: NDArray[Any]) -> NDArray[Any]:
    """Return a C-ordered view that cannot be written to, or such a copy of an array in another order.

    Kernels go through memory in order, whatever the strides; and as some rows cannot be written to, numba
    would compile for both.
    """
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def cache_directory() -> Path | None:
    """Return the writable directory for this version of the kernels, or None where there is none."""
    global _directory
    if _directory is _UNKNOWN:
        _directory = _first_writable()
    return _directory  # type: ignore[return-value]


def _first_writable() -> Path | None:
    name = f"kernels-{_sources_digest()}"
    for parent in _parents():
        try:
            (parent / name).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=parent / name).close()
        except OSError:
            continue
        return parent / name
    return None


def _parents() -> Iterator[Path]:
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(chosen)
        return
    try:
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamem"
    except RuntimeError:  # no home directory
        return


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _numba_cache_in(directory: Path | None) -> Iterator[None]:
    """Point numba's cache at the directory while one function is decorated, and at no other time."""
    if directory is None:
        yield
        return
    with _lock:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(directory)
        try:
            yield
        finally:
            numba.config.CACHE_DIR = before


class _CompilationLog(event.Listener):  # type: ignore[misc]
    """Say that a kernel is being compiled: otherwise the first call is just slow."""

    def on_start(self, happened: Any) -> None:
        dispatcher = happened.data["dispatcher"]
        if dispatcher in _entries:
            logger.info("Compiling %s (once%s)", dispatcher.__name__, "" if _directory else " per process")

    def on_end(self, happened: Any) -> None:
        pass


_UNKNOWN = object()
_directory: object = _UNKNOWN
_entries: set[Any] = set()
_lock = threading.Lock()
event.register("numba:compile", _CompilationLog())
