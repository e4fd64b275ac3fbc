"""Working memory of kernels: one per thread and shape, not one per call.

Allocating it anew, and touching its pages for the first time, costs more than an E-step on some hundred rows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["aligned_zeros", "enter", "kept_by_thread"]

P = ParamSpec("P")
T = TypeVar("T", bound=NamedTuple)

THREAD_BYTES = 1 << 24
"""How much a thread keeps: the least recently used is freed, what is larger is not kept at all."""


class _Kept(threading.local):
    """What this thread keeps; freed when the thread ends."""

    def __init__(self) -> None:
        self.held: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self.n_bytes = 0


_kept = _Kept()


def kept_by_thread(allocate: Callable[P, T]) -> Callable[P, T]:
    """Make a function that allocates return what the same thread got for the same arguments before.

    With whatever a call left in it: what has to be zero must be written again. One call at a time can use it.
    """

    def reuse(*args: P.args, **kwargs: P.kwargs) -> T:
        key = (allocate, args, *kwargs.items())
        if key in _kept.held:
            _kept.held.move_to_end(key)
            return _kept.held[key][0]  # type: ignore[no-any-return]
        memory = allocate(*args, **kwargs)
        n_bytes = sum(part.nbytes for part in memory if isinstance(part, np.ndarray))
        if n_bytes <= THREAD_BYTES:
            _kept.held[key] = memory, n_bytes
            _kept.n_bytes += n_bytes
            while _kept.n_bytes > THREAD_BYTES:
                _kept.n_bytes -= _kept.held.popitem(last=False)[1][1]
        return memory

    return reuse


def aligned_zeros(shape: int | tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return zeros that start at a cache line, so that no vector straddles two."""
    size = int(np.prod(shape))
    itemsize = np.dtype(dtype).itemsize
    memory = np.zeros(size + 64 // itemsize, dtype)
    start = (-memory.ctypes.data % 64) // itemsize
    return memory[start : start + size].reshape(shape)


def enter(values: NDArray[np.float64], out: NDArray[Any]) -> None:
    """Write values to the leading corner of `out`, and zeros to the rest."""
    if values.shape != out.shape:
        out.fill(0)
    out[tuple(slice(n) for n in values.shape)] = values
