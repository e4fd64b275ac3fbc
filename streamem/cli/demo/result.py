"""What a demo found out, as text for humans and as a document for machines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamem.cli import machine
from streamem.cli.demo.settings import DemoSettings
from streamem.cli.fit import fit_summary
from streamem.cli.output import pairs, table
from streamem.convergence import FitResult
from streamem.sizes import format_bytes

if TYPE_CHECKING:
    from streamem.cli.demo.mixture import Comparison

__all__ = ["DemoResult", "document", "text"]

_RECOVERED = 5.0
"""Standard errors within which a parameter counts as recovered."""


@dataclass(frozen=True, slots=True, eq=False)
class DemoResult:
    """What ``streamem demo`` found out."""

    settings: DemoSettings
    comparison: Comparison
    fitted: FitResult[Any]
    write_seconds: float
    fit_seconds: float
    store: Path

    @property
    def recovered(self) -> bool:
        """Whether every weight and mean is where it should be."""
        return self.comparison.worst <= _RECOVERED


def text(result: DemoResult) -> str:
    """Return what a person reads at the end."""
    settings, found, history = result.settings, result.comparison, result.fitted.history
    rows = zip(found.true_weights, found.weights, found.weight_errors, found.mean_errors, strict=True)
    components = table(
        ("component", "true weight", "recovered", "off by", "mean off by"),
        [
            (str(i + 1), f"{w:.5f}", f"{v:.5f}", f"{e:.1f} s.e.", f"{m:.1f} s.e.")
            for i, (w, v, e, m) in enumerate(rows)
        ],
    )
    seconds = max(1e-9, sum(record.seconds for record in history))
    read, n_bytes = len(history) * settings.rows, sum(record.bytes_read for record in history)
    peak = machine.peak_memory()
    used = "unknown" if peak is None else format_bytes(peak)
    facts = {
        "passes": f"{len(history)}, after one that samples; {result.fit_seconds:.1f} s in all",
        "speed": f"{read / seconds / 1e6:.2f} M rows/s, {n_bytes / seconds / 1e9:.2f} GB/s",
        "peak memory": f"{used} of the whole process; limit of the fit {format_bytes(settings.memory_limit)}",
        "model": settings.model.absolute(),
        "data": result.store if settings.keep else f"removed ({format_bytes(settings.n_bytes)})",
    }
    return "\n".join(("", components, "", _verdict(result), "", pairs(facts)))


def _verdict(result: DemoResult) -> str:
    """Say in a sentence whether the fit found the truth."""
    worst, allowed = f"{result.comparison.worst:.1f}", f"{_RECOVERED:.0f}"
    found = f"Truth recovered: all weights and means within {allowed} standard errors (worst {worst})."
    if not result.recovered:
        found = f"Truth NOT recovered: a weight or mean is {worst} standard errors off ({allowed} allowed)."
    return f"{result.fitted.status.value}\n{found}"


def document(result: DemoResult) -> dict[str, object]:
    """Return what a machine reads at the end."""
    settings, found = result.settings, result.comparison
    return {
        "command": "demo",
        "n_samples": settings.rows,
        "n_features": settings.columns,
        "n_components": settings.components,
        "n_bytes": settings.n_bytes,
        "seed": settings.seed,
        "recovered": result.recovered,
        "worst_error": found.worst,
        "true_weights": found.true_weights,
        "weights": found.weights,
        "weight_errors": found.weight_errors,
        "mean_errors": found.mean_errors,
        **fit_summary(result.fitted),
        "write_seconds": result.write_seconds,
        "fit_seconds": result.fit_seconds,
        "memory_limit": settings.memory_limit,
        "peak_memory_bytes": machine.peak_memory(),
        "model": str(settings.model.absolute()),
        "data": str(result.store) if settings.keep else None,
    }
