"""Distances for k-means++ and Lloyd's iterations on rows in memory."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamem.kernels.compile import kernel

__all__ = ["assign", "min_squared_distance_update"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]
Float64Array: TypeAlias = NDArray[np.float64]


def min_squared_distance_update(
    x: FloatArray, center_row: Float64Array, scale: Float64Array, closest: Float64Array
) -> None:
    """Lower `closest` (n,) in place to the squared distance of rows to one more centre.

    Distances are those of columns multiplied by `scale` (d,).
    """
    _min_squared_distance_update(x, center_row, scale, closest)


def assign(x: FloatArray, centers: Float64Array, scale: Float64Array) -> NDArray[np.int64]:
    """Return (n,) the nearest of centers (k, d) to each row, in columns multiplied by `scale` (d,)."""
    out = np.empty(len(x), dtype=np.int64)
    _assign(x, centers, scale, out)
    return out


@kernel(inline=True)
def _squared_distance(row, center, scale):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(center)):
        difference = (row[i] - center[i]) * scale[i]
        total += difference * difference
    return total


@kernel
def _min_squared_distance_update(x, center_row, scale, closest):  # type: ignore[no-untyped-def]
    """Write min(closest, ‖scale (x - center_row)‖²) to closest (n,). O(n d) time, no memory."""
    for t in range(len(x)):
        closest[t] = min(closest[t], _squared_distance(x[t], center_row, scale))


@kernel
def _assign(x, centers, scale, out):  # type: ignore[no-untyped-def]
    """Write the nearest of centers (k, d) to out (n,). O(n k d) time, no memory."""
    for t in range(len(x)):
        best = np.inf
        out[t] = 0
        for c in range(len(centers)):
            distance = _squared_distance(x[t], centers[c], scale)
            if distance < best:
                best = distance
                out[t] = c
