"""What benchmarks of random kills share: options, when they are done, and what they say."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import harness

__all__ = ["Row", "run"]

Row = dict[str, Any]
"""Of one fit: its ``kills``, and whether it has the ``same bits`` as the undisturbed one, among others."""


def run(
    description: str | None, argv: list[str] | None, fits: Callable[[], Any], most: int
) -> dict[str, Any]:
    """Disturb fits until so many kills are done; print a table, and write JSON where asked to.

    Parameters
    ----------
    fits
        A context manager that yields what makes a fit, killed at most so many times at moments
        that a generator chooses, and returns its row.
    most
        Kills per fit.
    """
    parser = harness.parser(description)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(argv)
    kills, chance = (10 if options.tiny else options.kills), random.Random(options.seed)
    rows: list[Row] = []
    done = 0
    with fits() as disturbed:
        while done < kills:
            rows.append(disturbed(chance, min(kills - done, most)))
            done += rows[-1]["kills"]
            identical = sum(row["same bits"] for row in rows)
            print(f"{done} kills, {len(rows)} fits, {identical} of them identical", file=sys.stderr)
    if identical < len(rows):
        raise SystemExit(f"{len(rows) - identical} of {len(rows)} fits differ from the undisturbed one")
    return harness.report(options, rows, kills=done, fits=len(rows), identical=identical)
