"""What progress events amount to: rates, time left, and the line that each pass leaves behind.

Arithmetic only; `streamem.cli.progress` draws it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from streamem.convergence import FitEvent, PassEnded, PassProgress, PassRecord, PassStarted
from streamem.sizes import format_bytes

__all__ = ["Meter", "View", "duration", "passes_left"]

_TITLES = {
    "sample": "Sampling",
    "em": "Pass",
    "write": "Writing",
    "predict": "Predicting",
    "score": "Scoring",
}


@dataclass(frozen=True, slots=True)
class View:
    """What a display shows at one moment."""

    title: str
    """The pass under way."""
    fraction: float
    """How much of it is done, 0 to 1."""
    figures: str
    """Its rows/s, GB/s and time left."""
    state: str
    """Log-likelihood, gain left and time of the whole fit."""


@dataclass(slots=True)
class Meter:
    """Follows one fit; takes events from any thread."""

    tol: float | None = None
    """Remaining gain at which the fit stops, nats per row; None where nothing is fitted."""
    max_iter: int | None = None
    """Passes at which it stops anyway."""
    clock: Callable[[], float] = time.perf_counter
    """Seconds since whenever."""
    current: PassStarted | None = None
    """The pass under way."""
    done: int = 0
    """Rows of it that are done."""
    records: list[PassRecord] = field(default_factory=list)
    """The passes before it."""
    _began: float = 0.0
    _first: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, event: FitEvent) -> list[str]:
        """Count an event; return the lines that it leaves behind."""
        with self._lock:
            if isinstance(event, PassStarted):
                return self._start(event)
            if isinstance(event, PassProgress):
                self.done = max(self.done, event.n_samples)  # workers may report out of order
                return []
            return self._end(event)

    def view(self) -> View:
        """Return what there is to draw at this moment."""
        with self._lock:
            return View(self._title(), self._fraction(), self._figures(), self._state())

    def _start(self, event: PassStarted) -> list[str]:
        first = self._first is None
        if event.phase == "em" and event.index == 0:
            self.records.clear()  # one of several starts
        self.current, self.done, self._began = event, 0, self.clock()
        self._first = self._began if self._first is None else self._first
        return [_announcement(event)] if first else []

    def _end(self, event: PassEnded) -> list[str]:
        title, started = self._title(), self.current
        seconds = self.clock() - self._began
        self.current, self.done = None, 0
        n_samples, n_bytes = (started.n_samples, started.n_bytes) if started else (0, 0)
        if event.record is None:
            return [_line(title, n_samples, n_bytes, seconds)]
        self.records.append(event.record)
        timing = _line(title, n_samples, event.record.bytes_read, event.record.seconds)
        shared = f"  {event.n_fits} fits" if event.n_fits > 1 else ""
        return [
            f"{timing}  log-lik/row {event.record.log_likelihood:.6f}  left {_gain(event.record)}{shared}"
        ]

    def _title(self) -> str:
        if self.current is None:
            return "Computing" if self.records else "Starting"
        title = _TITLES.get(self.current.phase, self.current.phase.capitalize())
        return f"{title} {self.current.index + 1}" if self.current.phase == "em" else title

    def _fraction(self) -> float:
        return (
            min(1.0, self.done / self.current.n_samples) if self.current and self.current.n_samples else 0.0
        )

    def _figures(self) -> str:
        """Return rates and time left of the pass; empty before its first rows."""
        fraction, seconds = self._fraction(), self.clock() - self._began
        if self.current is None or fraction == 0 or seconds <= 0:
            return ""
        rates = _rates(self.done, self.current.n_bytes * fraction, seconds)
        return f"{rates}  {duration(seconds * (1 / fraction - 1))} left"

    def _state(self) -> str:
        """Return where the whole fit stands."""
        parts = []
        if self.records:
            last = self.records[-1]
            parts = [f"log-lik/row {last.log_likelihood:.6f}", f"gain left {_gain(last)}{self._goal()}"]
        elif self.max_iter is not None:
            parts = [f"at most {self.max_iter} passes"]
        elapsed, left = self.clock() - self._first if self._first is not None else 0.0, self._seconds_left()
        return " · ".join(
            [*parts, duration(elapsed) + ("" if left is None else f" + ~{duration(left)} left")]
        )

    def _goal(self) -> str:
        return "" if self.tol is None else f" (tol {self.tol:.0e})"

    def _seconds_left(self) -> float | None:
        """Return seconds until convergence, if the gains go on shrinking as they did; None if unknown."""
        passes = passes_left(self.records, self.tol)
        if passes is None:
            return None
        if self.max_iter is not None:
            passes = min(passes, self.max_iter - len(self.records))
        return max(0.0, passes - self._fraction()) * self.records[-1].seconds


def passes_left(records: Sequence[PassRecord], tol: float | None) -> int | None:
    """Return how many more passes the gain takes to fall below the tolerance, if it falls as it last did."""
    if tol is None or len(records) < 2:
        return None
    before, now = records[-2].remaining_gain, records[-1].remaining_gain
    if now <= tol:
        return 0
    if not (tol > 0 and math.isfinite(before) and now < before):
        return None
    return max(1, math.ceil(math.log(now / tol) / math.log(before / now)))


def duration(seconds: float) -> str:
    """Return seconds as a clock shows them.

    Examples
    --------
    >>> duration(7.4), duration(3725)
    ('0:07', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _announcement(event: PassStarted) -> str:
    verb = "Writing" if event.phase == "write" else "Reading"
    return f"{verb} {event.n_samples:,} rows, {format_bytes(event.n_bytes)}"


def _gain(record: PassRecord) -> str:
    return f"{record.remaining_gain:.1e}" if math.isfinite(record.remaining_gain) else "unknown"


def _line(title: str, n_samples: int, n_bytes: float, seconds: float) -> str:
    return f"{title:<8} {seconds:5.1f} s {_rates(n_samples, n_bytes, max(seconds, 1e-9))}"


def _rates(n_samples: float, n_bytes: float, seconds: float) -> str:
    return f"{n_samples / seconds / 1e6:5.2f} M rows/s {n_bytes / seconds / 1e9:4.2f} GB/s"
