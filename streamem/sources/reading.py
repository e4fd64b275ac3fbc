"""Reading a run of rows as native, C-contiguous floats, into memory that is reused between reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.sources.handles import ArrayHandle
from streamem.sources.timing import Stopwatch

__all__ = ["peak_bytes", "read_floats", "scratch_bytes"]

ALIGNMENT = 64


def scratch_bytes(array: ArrayHandle, n: int, dtype: np.dtype[Any]) -> int:
    """Return the memory that `read_floats` wants for n rows; 0 where a view will do."""
    return _stored_bytes(array, n, dtype) + (0 if _is_ready(array, dtype) else _aligned(array, n, dtype))


def peak_bytes(array: ArrayHandle, start: int, stop: int, dtype: np.dtype[Any]) -> int:
    """Return the bytes that reading these rows needs at its peak; rows that are in memory count too."""
    n = stop - start
    floats = _aligned(array, n, dtype)
    return _stored_bytes(array, n, dtype) + floats + array.read_bytes(start, stop)


def thread_bytes(array: ArrayHandle, start: int, stop: int, dtype: np.dtype[Any]) -> int:
    """Return the bytes that a thread holds which reads one such run of rows after the other."""
    if array.reused_bytes is None:  # what the last read allocated may not be free yet
        return 2 * peak_bytes(array, start, stop, dtype)
    n = stop - start
    return _stored_bytes(array, n, dtype) + _aligned(array, n, dtype) + array.reused_bytes


def read_floats(
    array: ArrayHandle,
    start: int,
    stop: int,
    dtype: np.dtype[Any],
    memory: NDArray[np.uint8],
    fetching: Stopwatch,
) -> NDArray[Any]:
    """Return rows ``start:stop`` as ``dtype``, (n,) or (n, d), in `scratch_bytes` of memory or as a view."""
    shape = (stop - start, *array.shape[1:])
    stored_bytes = _stored_bytes(array, stop - start, dtype)
    stored, floats = memory[:stored_bytes], memory[stored_bytes:]
    out = (
        None if array.memory is not None else _shaped(stored if stored_bytes else floats, shape, array.dtype)
    )
    values = array.read(start, stop, out, fetching)
    if values.shape != shape:
        raise ValueError(f"expected an array of shape {shape}, the store gave {values.shape}")
    if values.dtype == dtype and values.flags.c_contiguous:
        return values
    converted = _shaped(floats, shape, dtype)
    np.copyto(converted, values, casting="unsafe")
    return converted


def _is_ready(array: ArrayHandle, dtype: np.dtype[Any]) -> bool:
    """Whether views of an array in memory are what is wanted."""
    memory = array.memory
    return memory is not None and memory.dtype == dtype and memory.flags.c_contiguous


def _stored_bytes(array: ArrayHandle, n: int, dtype: np.dtype[Any]) -> int:
    """Bytes for n rows as stored, before conversion; 0 if they need none or are in memory."""
    return 0 if array.memory is not None or array.dtype == dtype else _aligned(array, n, array.dtype)


def _aligned(array: ArrayHandle, n: int, dtype: np.dtype[Any]) -> int:
    n_bytes = n * math.prod(array.shape[1:]) * dtype.itemsize
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def _shaped(memory: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    return memory[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
