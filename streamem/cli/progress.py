"""Progress on stderr: two living lines on a terminal, one plain line per pass elsewhere.

The callable that `follow` yields goes into an estimator's ``callbacks``; it may be called from any thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamem.cli.meter import Meter, View
from streamem.cli.output import note
from streamem.convergence import FitEvent

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Listener", "follow", "follow_live", "follow_plainly"]

Listener = Callable[[FitEvent], None]


@contextmanager
def follow(meter: Meter, quiet: bool = False) -> Iterator[Listener]:
    """Yield a callback that shows what it hears, in the way that suits where stderr goes."""
    if quiet:
        yield _ignore
        return
    with (follow_live if _is_screen() else follow_plainly)(meter) as listener:
        yield listener


@contextmanager
def follow_plainly(meter: Meter) -> Iterator[Listener]:
    """Yield a callback that writes finished lines only, for logs and pipes."""

    def hear(event: FitEvent) -> None:
        for line in meter.take(event):
            note(line)

    yield hear


@contextmanager
def follow_live(meter: Meter, console: Console | None = None) -> Iterator[Listener]:
    """Yield a callback behind a display that moves: the pass on one line, the whole fit on the next."""
    from rich.console import Console
    from rich.live import Live

    console = console or Console(stderr=True, highlight=False)
    live = Live(
        get_renderable=lambda: _draw(meter.view()), console=console, refresh_per_second=5, transient=True
    )

    def hear(event: FitEvent) -> None:
        for line in meter.take(event):
            console.print(line, markup=False, soft_wrap=True)

    with live:
        yield hear


def _draw(view: View) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    bar = ProgressBar(total=1.0, completed=view.fraction, pulse=not view.fraction)
    grid.add_row(Text(view.title), bar, Text(f"{view.fraction:4.0%} {view.figures}" if view.fraction else ""))
    return Group(grid, Text(view.state, style="dim", no_wrap=True, overflow="ellipsis"))


def _is_screen() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _ignore(event: FitEvent) -> None:
    """Hear nothing: ``--quiet``."""
