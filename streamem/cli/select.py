"""``streamem select``: which number of components, and which covariance type."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from streamem.cli import machine
from streamem.cli.commands import COVARIANCE_TYPES, Command, end, exit_code, free_to_write, reading, talking
from streamem.cli.curve import curve
from streamem.cli.fit import RESUME, fitting, goes_on
from streamem.cli.meter import Meter
from streamem.cli.output import emit, pairs, table
from streamem.cli.progress import follow
from streamem.cli.scratch import endings_interrupt
from streamem.convergence import Status
from streamem.errors import InputError
from streamem.sizes import format_bytes

__all__ = ["select"]

_OWN = (
    "data",
    "weights",
    "save",
    "save_all",
    "plot",
    "overwrite",
    "quiet",
    "as_json",
    "keep_hopeless",
    "resume",
)
_FIGURES = ("log_likelihood", "bic", "aic", "icl", "heldout")


class _Counts(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers: 1:20 (20 included), 2:20:2, or 1,2,4,8."""

    name = "counts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        counts: list[int] = []
        for part in value.split(","):
            try:
                first, *rest = map(int, part.split(":"))
                last, step = rest[0] if rest else first, rest[1] if len(rest) > 1 else 1
                counts += range(first, last + 1, step)
            except ValueError:
                self.fail(f"{value!r} is no such list. Write it as 1:20, 2:20:2 or 1,2,4,8.", param, ctx)
        if not counts or min(counts) < 1:
            self.fail(f"{value!r} names no numbers >= 1. Write it as 1:20, 2:20:2 or 1,2,4,8.", param, ctx)
        return counts


class _Types(click.ParamType):  # type: ignore[type-arg]
    """Covariance types with commas between."""

    name = "types"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        types: list[str] = [part.strip() for part in value.split(",")]
        for each in types:
            if each not in COVARIANCE_TYPES:
                self.fail(f"{each!r} is not one of {', '.join(COVARIANCE_TYPES)}.", param, ctx)
        return types


@click.command(cls=Command)
@click.argument("data")
@click.option(
    "-k",
    "--components",
    "n_components",
    type=_Counts(),
    default="1:10",
    show_default=True,
    metavar="LIST",
    help="Numbers of components: 1:20, 2:20:2, or 1,2,4,8.",
)
@click.option(
    "--covariance",
    "covariance_type",
    type=_Types(),
    default="full",
    show_default=True,
    metavar="LIST",
    help=f"Covariance types: {','.join(COVARIANCE_TYPES)}.",
)
@click.option(
    "--criterion",
    type=click.Choice(["bic", "aic", "icl", "heldout"]),
    default="bic",
    show_default=True,
    help="By what the best is chosen.",
)
@click.option(
    "--heldout-share", type=float, metavar="SHARE", help="Share of rows that no model is fitted to."
)
@click.option("--keep-hopeless", is_flag=True, help="Fit hopeless models to the end, for the whole curve.")
@click.option(
    "-o",
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    default="model.npz",
    show_default=True,
    help="Where the best model goes.",
)
@click.option(
    "--save-all",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for all models, as full-3.npz and so on.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Picture of the curve: .png, .svg."
)
@click.option("--overwrite", is_flag=True, help="Replace files.")
@fitting
@reading
@talking
def select(**options: Any) -> None:
    """Choose the number of components for DATA.

    Gaussian mixtures of all sizes and types are fitted in shared passes, and the best is saved. DATA is
    the path or URL of a zarr array, or a .npy file.
    """
    _check_outputs(options | {"overwrite": options["overwrite"] or goes_on(options)})
    began = time.perf_counter()
    with endings_interrupt(), follow(Meter(options["tol"], options["max_iter"]), options["quiet"]) as hear:
        found = _select(options, hear)
    _write(options, found)
    document = _document(options, found, time.perf_counter() - began)
    emit(document, _text(document, found), options["as_json"])
    interrupted = any(row.status is Status.INTERRUPTED for row in found.table)
    end(exit_code(Status.INTERRUPTED if interrupted else found.best.result_.status))


def _check_outputs(options: dict[str, Any]) -> None:
    """Refuse, before any work, results that could not be written."""
    free_to_write(options["save"], options["overwrite"])
    if options["plot"] is not None:
        from streamem.report.selection import check_plot

        check_plot(options["plot"])
        free_to_write(options["plot"], options["overwrite"])
    folder = options["save_all"]
    if folder is not None:
        free_to_write(folder, overwrite=True)
        if not options["overwrite"] and folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty. Pass --overwrite to write there, or choose another.")


def _select(options: dict[str, Any], hear: Any) -> Any:
    from streamem.selection import select

    given = {name: value for name, value in options.items() if name not in _OWN}
    if given["memory_limit"] is None:
        del given["memory_limit"]  # the estimator has a default
    return select(
        options["data"],
        sample_weight=options["weights"],
        drop_hopeless=not options["keep_hopeless"],
        resume=RESUME[options["resume"]],
        callbacks=(hear,),
        **given,
    )


def _write(options: dict[str, Any], found: Any) -> None:
    """Write models and picture."""
    found.best.save(options["save"])
    if options["save_all"] is not None:
        options["save_all"].mkdir(exist_ok=True)
        for row in found.table:
            if row.model is not None:
                row.model.save(options["save_all"] / f"{row.covariance_type}-{row.n_components}.npz")
    if options["plot"] is not None:
        from streamem.report.selection import plot_selection

        plot_selection(found, options["plot"])


def _document(options: dict[str, Any], found: Any, seconds: float) -> dict[str, object]:
    best = found.best_row
    return {
        "command": "select",
        "data": options["data"],
        "criterion": found.criterion,
        "model": str(options["save"].absolute()),
        "n_components": best.n_components,
        "covariance_type": best.covariance_type,
        "n_passes": found.n_passes,
        "seconds": seconds,
        "peak_memory_bytes": machine.peak_memory(),
        "table": [_row(row) for row in found.table],
    }


def _row(row: Any) -> dict[str, object]:
    names = ("n_components", "covariance_type", "n_parameters", *_FIGURES, "n_passes", "dropped", "message")
    status = "failed" if row.status is None else row.status.name.lower()
    return {name: getattr(row, name) for name in names} | {"status": status}


def _text(document: dict[str, Any], found: Any) -> str:
    figures = [
        name
        for name in _FIGURES
        if name != "heldout" or any(row.heldout == row.heldout for row in found.table)
    ]
    lines = [
        (
            row.covariance_type,
            str(row.n_components),
            str(row.n_parameters),
            *(_figure(name, getattr(row, name)) for name in figures),
            str(row.n_passes),
            _row(row)["status"],
            "<- best" if row is found.best_row else "",
        )
        for row in found.table
    ]
    titles = {"log_likelihood": "log-lik/row", "heldout": "held-out/row"}
    headings = (
        "type",
        "k",
        "params",
        *(titles.get(name, name.upper()) for name in figures),
        "passes",
        "",
        "",
    )
    failed = [
        f"  {row.covariance_type}, {row.n_components}: {row.message}"
        for row in found.table
        if row.status is None
    ]
    peak = document["peak_memory_bytes"]
    facts = {
        "best": f"{document['n_components']} components, {document['covariance_type']}",
        "passes": f"{document['n_passes']} shared, in {document['seconds']:.1f} s",
        "peak memory": "unknown" if peak is None else f"{format_bytes(peak)}, of the whole process",
        "model": document["model"],
    }
    drawn = curve(found.curves(), higher_is_better=found.criterion == "heldout")
    return "\n".join(
        ["", table(headings, lines), *failed, "", f"  {found.criterion}", drawn, "", pairs(facts)]
    )


def _figure(name: str, value: float) -> str:
    if value != value:
        return ""
    return f"{value:.6f}" if name in ("log_likelihood", "heldout") else f"{value:.1f}"
