"""A curve in characters: values over numbers of components, one mark for each covariance type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["curve"]

HEIGHT = 12
WIDEST = 64
MARKS = "ox+*"
SHOWN = 0.75  # of the values; the worst, often far off, would flatten the rest

Points = tuple[Sequence[int], Sequence[float]]


def curve(curves: Mapping[str, Points], higher_is_better: bool = False) -> str:
    """Return lines to print; values too bad to show lie on the edge.

    Examples
    --------
    >>> print(curve({"full": ([1, 2, 3], [5.0, 2.0, 4.0])}).replace(" " * 13 + "|\\n", ""))
               5 |o
                 |      o
               2 |   o
                  1  2  3
      o full
    """
    counts = sorted({k for its_counts, _ in curves.values() for k in its_counts})
    values = np.concatenate([its_values for _, its_values in curves.values()])
    low, high = _range(values, higher_is_better)
    step = min(3, max(1, WIDEST // len(counts)))
    grid = [[" "] * (step * len(counts)) for _ in range(HEIGHT)]
    for mark, (its_counts, its_values) in zip(MARKS, curves.values(), strict=False):
        for k, value in zip(its_counts, its_values, strict=True):
            height = (np.clip(value, low, high) - low) / (high - low) if high > low else 0.0
            grid[round((1 - height) * (HEIGHT - 1))][step * counts.index(k)] = mark
    labels = {0: f"{high:.8g}", HEIGHT - 1: f"{low:.8g}"}
    lines = [f"{labels.get(i, ''):>12} |{''.join(line)}".rstrip() for i, line in enumerate(grid)]
    legend = "   ".join(f"{mark} {name}" for mark, name in zip(MARKS, curves, strict=False))
    return "\n".join([*lines, " " * 14 + _axis(counts, step), f"  {legend}"])


def _range(
    values: np.ndarray[tuple[int], np.dtype[np.float64]], higher_is_better: bool
) -> tuple[float, float]:
    """Return the lowest and the highest value shown."""
    if higher_is_better:
        return float(np.quantile(values, 1 - SHOWN, method="lower")), float(values.max())
    return float(values.min()), float(np.quantile(values, SHOWN, method="higher"))


def _axis(counts: Sequence[int], step: int) -> str:
    """Return numbers of components below their columns, those left out that would touch."""
    line = ""
    for i, k in enumerate(counts):
        if len(line) < step * i or not line:
            line = line.ljust(step * i) + str(k)
    return line
