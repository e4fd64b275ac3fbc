"""What a command says: one JSON document on stdout for machines, or text on stderr for humans.

A result is delivered once: as the document where ``--json`` was given, as text otherwise.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

__all__ = ["emit", "note", "pairs", "plain", "table"]


def emit(document: Mapping[str, object], text: str, as_json: bool) -> None:
    """Deliver a result to whoever asked for it."""
    if as_json:
        click.echo(json.dumps(plain(document), allow_nan=False))
    else:
        note(text)


def note(text: str) -> None:
    """Write a line for humans to stderr, above a live display if there is one."""
    click.echo(text, file=sys.stderr)  # err=True would reach round the display, to the terminal behind it


def plain(value: Any) -> Any:
    """Return what JSON can hold: arrays become lists, numpy scalars Python's, NaN and Inf null.

    Examples
    --------
    >>> import numpy as np
    >>> plain({"means": np.array([[1.0, np.nan]]), "n": np.int64(3)})
    {'means': [[1.0, None]], 'n': 3}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return right-aligned columns under their headings.

    Examples
    --------
    >>> print(table(("k", "weight"), [("1", "0.25")]))
      k  weight
      1    0.25
    """
    lines = [tuple(headings), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "".join(f"  {cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def pairs(items: Mapping[str, object]) -> str:
    """Return one ``name  value`` per line, the values aligned.

    Examples
    --------
    >>> print(pairs({"rows": 3, "chunks": 1}))
      rows    3
      chunks  1
    """
    width = max(map(len, items))
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in items.items())
