"""Bytes as people write them: "2GB", "1 GiB", 512 MiB as an integer; and back."""

from __future__ import annotations

import operator
import re
from decimal import Decimal
from typing import SupportsIndex

from streamem.errors import InputError

__all__ = ["format_bytes", "parse_bytes"]

_PREFIXES = "kmgtp"
_SIZE = re.compile(
    rf"\s*([0-9]+(?:\.[0-9]*)?(?:e\+?[0-9]{{1,2}})?)\s*([{_PREFIXES}]?)(i?)b?\s*", re.IGNORECASE
)


def parse_bytes(text: str | SupportsIndex | None) -> int | None:
    """Return a number of bytes; None stays None.

    Decimal prefixes are powers of 1000 and binary ones powers of 1024, whatever the case; the final B may
    be missing.

    Raises
    ------
    InputError
        Where the text is no size, or the size is not positive.

    Examples
    --------
    >>> parse_bytes("2GB"), parse_bytes("1 GiB"), parse_bytes("1.5k"), parse_bytes(4096)
    (2000000000, 1073741824, 1500, 4096)
    """
    if text is None:
        return None
    n_bytes = _from_text(text) if isinstance(text, str) else _from_number(text)
    if n_bytes <= 0:
        raise InputError(f"A size in bytes must be positive, not {text!r}. {_HOW}")
    return n_bytes


def format_bytes(n_bytes: float) -> str:
    """Return bytes with three digits and a decimal prefix (powers of 1000, as in GB/s).

    Examples
    --------
    >>> format_bytes(2_000_000_000), format_bytes(1 << 30), format_bytes(17)
    ('2 GB', '1.07 GB', '17 B')
    """
    value, prefix = float(n_bytes), ""
    for larger in ("k", "M", "G", "T", "P"):
        if abs(value) < 999.5:
            break
        value, prefix = value / 1000, larger
    return f"{value:.3g} {prefix}B" if abs(value) < 999.5 else f"{value:.0f} {prefix}B"


def _from_text(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None or (match[3] and not match[2]):
        raise InputError(f"{text!r} is no size in bytes. {_HOW}")
    power = _PREFIXES.index(match[2].lower()) + 1 if match[2] else 0
    return int(Decimal(match[1]) * (1024 if match[3] else 1000) ** power)


def _from_number(number: SupportsIndex) -> int:
    try:
        if isinstance(number, bool):
            raise TypeError
        return operator.index(number)
    except TypeError:
        raise InputError(f"{number!r} is no size in bytes. {_HOW}") from None


_HOW = 'Write it as "2GB", "512MiB" or a whole number of bytes.'
