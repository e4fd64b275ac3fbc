"""``streamem plan``: what a fit would take, here or on a cluster, from a few blocks of the data."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from streamem.cli.commands import COVARIANCE_TYPES, SIZE, Command, for_machines, missing_values
from streamem.cli.output import emit, table
from streamem.sizes import format_bytes

__all__ = ["plan"]

_COUNT = click.IntRange(min=1)
_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command(cls=Command)
@click.argument("data")
@click.option("-k", "--components", "n_components", type=_COUNT, required=True, metavar="K")
@click.option(
    "--covariance",
    "covariance_type",
    type=click.Choice(COVARIANCE_TYPES),
    default="full",
    show_default=True,
)
@click.option(
    "--workers", "n_workers", type=_COUNT, help="Worker processes of a cluster; without it, one process here."
)
@click.option(
    "--threads", "n_threads", type=_COUNT, help="Threads of each; by default, this machine's cores."
)
@click.option("--machines", "n_machines", type=_COUNT, help="Machines for the workers; by default, one each.")
@click.option("--cores", "n_cores", type=_POSITIVE, help="Cores of a machine; on a cluster, one per thread.")
@click.option("--bandwidth", type=SIZE, metavar="SIZE", help="What the store delivers per second, to all.")
@click.option(
    "--network",
    type=SIZE,
    default="1.25GB",
    show_default=True,
    metavar="SIZE",
    help="The driver's, per second.",
)
@click.option("--price-per-hour", type=_POSITIVE, help="Of one machine.")
@click.option(
    "--rows", "more_rows", type=float, default=1e12, show_default=True, help="Plan for so many rows as well."
)
@click.option("--weights", metavar="PATH", help="One weight for each row, read along with the data.")
@click.option(
    "--acceleration", default="auto", show_default=True, metavar="NAME", help='"auto", "anderson" or "none".'
)
@click.option("--memory-limit", type=SIZE, default="1GiB", show_default=True, metavar="SIZE")
@missing_values("raise")
@for_machines
def plan(data: str, weights: str | None, more_rows: float, as_json: bool, **options: Any) -> None:
    """Predict memory, time, traffic and cost of fitting DATA.

    A few blocks are read and timed; nothing is fitted. Machines are taken to be as fast as this one, and
    idle.
    """
    from streamem.estimators import plan as predict

    here = predict(data, sample_weight=weights, **options)
    there = here.of(max(1, int(more_rows)))
    document = {"command": "plan", "data": data, "prediction": _plain(here), "more_rows": _plain(there)}
    emit(document, f"{_text(here, there)}\n\n  {_caution(here)}", as_json)


def _plain(prediction: Any) -> dict[str, Any]:
    return dataclasses.asdict(prediction)


def _text(*predictions: Any) -> str:
    columns = [_facts(prediction) for prediction in predictions]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return table(("", *(f"{p.n_samples:,} rows" for p in predictions)), rows)


def _facts(p: Any) -> dict[str, str]:
    where = p.layout
    workers = f"{where.n_workers} x {where.n_threads} threads" if where.distributed else "this process"
    facts = {
        "where": workers if where.distributed else f"{workers}, {where.n_threads} threads",
        "blocks, tasks, merge levels": f"{p.n_blocks:,}, {p.n_tasks:,}, {p.tree_depth}",
        "data in memory, per process": format_bytes(p.memory_bytes),
        "data in memory, driver": format_bytes(p.driver_bytes),
        "sampling pass": _duration(p.sampling_seconds),
        "pass": f"{_duration(p.pass_seconds)}, bound by {p.limit}",
        "of it scheduler": _duration(p.overhead_seconds),
        "of it merging, M-step, network": _duration(p.merge_seconds + p.driver_seconds),
        "read per pass": format_bytes(p.read_bytes),
        "sent per pass": format_bytes(p.sent_bytes),
        "statistics per pass": format_bytes(p.statistics_bytes),
        "passes, estimated": f"{p.n_passes} ({p.fewest_passes} to {p.most_passes})",
        "work on the sample, at most": _duration(p.sample_seconds),
        "total with that, estimated": _duration(p.total_seconds),
    }
    if p.cost is not None:
        facts["cost of that, estimated"] = f"{p.cost:,.2f}"
    return facts


def _caution(p: Any) -> str:
    few = (
        "For that many parameters the sample of these rows is too small to make passes few."
        if (p.measured.acceleration, p.measured.method) == ("auto", "anderson")
        else ""
    )
    return f"Passes are a rule of thumb: they depend on how distinct the components are. {few}".rstrip()


def _duration(seconds: float) -> str:
    """Return seconds as people say them.

    Examples
    --------
    >>> _duration(0.0123), _duration(75), _duration(10_000), _duration(1e6)
    ('12 ms', '75 s', '2.78 h', '11.6 days')
    """
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms" if seconds < 0.001 else f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 172_800 else f"{seconds / 86_400:.3g} days"
