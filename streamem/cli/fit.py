"""``streamem fit``: a Gaussian mixture from a data file to a model file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from streamem.cli import machine
from streamem.cli.commands import (
    COVARIANCE_TYPES,
    Command,
    end,
    exit_code,
    free_to_write,
    missing_values,
    reading,
    talking,
)
from streamem.cli.config import configurable
from streamem.cli.meter import Meter
from streamem.cli.output import emit, pairs
from streamem.cli.progress import Listener, follow
from streamem.cli.scratch import endings_interrupt
from streamem.convergence import FitResult, PassRecord
from streamem.sizes import format_bytes

__all__ = ["RESUME", "fit", "fit_summary", "fitting", "goes_on"]

F = TypeVar("F", bound=Callable[..., Any])

_OWN = (
    "data",
    "weights",
    "labels",
    "output",
    "overwrite",
    "scratch",
    "checkpoint",
    "resume",
    "scheduler",
    "quiet",
    "as_json",
)
"""Parameters of the command that the estimator's constructor does not know."""


RESUME: dict[str, Any] = {"yes": True, "no": False, "auto": "auto"}


class _AutoOr(click.ParamType):  # type: ignore[type-arg]
    """ "auto", or a number."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.name, self._kind = f"auto|{kind.__name__}", kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto":
            return value
        try:
            return self._kind(value)
        except ValueError:
            self.fail(f'{value!r} is neither "auto" nor a number.', param, ctx)


_SETTINGS = (
    click.option(
        "--weights", metavar="PATH", help="One weight for each row, e.g. a .npy file or a zarr array."
    ),
    click.option(
        "--tol", type=float, default=1e-6, show_default=True, help="Remaining gain to stop at, nats/row."
    ),
    click.option("--max-iter", type=click.IntRange(min=1), default=100, show_default=True),
    click.option(
        "--n-init", type=click.IntRange(min=1), default=1, show_default=True, help="Starts to choose from."
    ),
    click.option(
        "--init", "init_params", default="kmeans", show_default=True, metavar="NAME", help="How to start."
    ),
    click.option("--seed", "random_state", type=click.IntRange(min=0), default=0, show_default=True),
    click.option("--reg-covar", type=_AutoOr(float), default="auto", show_default=True),
    click.option("--sample-size", type=_AutoOr(int), default="auto", show_default=True),
    click.option(
        "--acceleration", default="auto", show_default=True, metavar="NAME", help='"auto" or "none".'
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "float64"]),
        default="auto",
        show_default=True,
        help="What to compute in.",
    ),
    missing_values("raise"),
    click.option(
        "--scratch", metavar="DIR", help="Folder for an uncompressed copy of the rows while fitting."
    ),
    click.option(
        "--checkpoint",
        metavar="DIR",
        help="Folder or URL for what is needed to go on, written after each pass.",
    ),
    click.option(
        "--resume",
        type=click.Choice(["yes", "no", "auto"]),
        default="no",
        show_default=True,
        help="Go on from --checkpoint; auto: start anew where there is none.",
    ),
)
"""Options of every command that fits."""


def fitting(command: F) -> F:
    """Add the settings of a fit: when it stops, where it starts, what it computes in."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


@click.command(cls=Command)
@click.argument("data")
@click.option("-k", "--components", "n_components", type=click.IntRange(min=1), required=True, metavar="K")
@click.option(
    "--covariance",
    "covariance_type",
    type=click.Choice(COVARIANCE_TYPES),
    default="full",
    show_default=True,
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="model.npz",
    show_default=True,
    help="Where the model goes.",
)
@click.option("--overwrite", is_flag=True, help="Replace the model file.")
@click.option(
    "--noise",
    is_flag=True,
    default=None,
    flag_value="uniform",
    help="Rows may be outliers, from anywhere in the box around all rows.",
)
@click.option(
    "--labels",
    metavar="PATH",
    help="A number for each row: the component, from 0, that it comes from; -1: unknown.",
)
@fitting
@reading
@configurable
@talking
def fit(**options: Any) -> None:
    """Fit a Gaussian mixture to DATA and save it.

    DATA is the path or URL of a zarr array, or a .npy file. Where the fit stops before it converged, or is
    interrupted (Ctrl-C, SIGTERM) after its first pass, the model is saved all the same.
    """
    free_to_write(options["output"], options["overwrite"] or goes_on(options))
    began = time.perf_counter()
    with endings_interrupt(), follow(Meter(options["tol"], options["max_iter"]), options["quiet"]) as hear:
        estimator = _estimator(options, hear)
        estimator.fit(
            options["data"],
            y=options["labels"],
            sample_weight=options["weights"],
            scratch=options["scratch"],
            checkpoint=options["checkpoint"],
            resume=RESUME[options["resume"]],
            scheduler=options["scheduler"],
        )
    estimator.save(options["output"])
    document = _document(options, estimator, time.perf_counter() - began)
    emit(document, _text(document), options["as_json"])
    end(exit_code(estimator.result_.status))


def fit_summary(result: FitResult[Any]) -> dict[str, object]:
    """Return how a fit went, for machines."""
    return {
        "status": result.status.name.lower(),
        "status_text": result.status.value,
        "converged": result.status.name == "CONVERGED",
        "n_passes": len(result.history),
        "log_likelihood": result.history[-1].log_likelihood if result.history else None,
        "history": [_pass(record) for record in result.history],
    }


def goes_on(options: dict[str, Any]) -> bool:
    """Return whether this is the same command again, whose results may be there already."""
    if options["checkpoint"] is None or options["resume"] == "no":
        return False
    from streamem.persistence import Checkpoint

    return Checkpoint(options["checkpoint"]).exists


def _estimator(options: dict[str, Any], hear: Listener) -> Any:
    from streamem.estimators.gaussian_mixture import GaussianMixture

    given = {name: value for name, value in options.items() if name not in _OWN}
    if given["memory_limit"] is None:
        del given["memory_limit"]  # the estimator has a default
    return GaussianMixture(**given, callbacks=(hear,))


def _document(options: dict[str, Any], estimator: Any, seconds: float) -> dict[str, object]:
    return {
        "command": "fit",
        "data": options["data"],
        "model": str(options["output"].absolute()),
        "n_components": options["n_components"],
        "covariance_type": options["covariance_type"],
        "n_samples": estimator.result_.stats.n_samples,
        "n_left_out": estimator.result_.stats.n_left_out,
        "n_features": estimator.n_features_in_,
        **fit_summary(estimator.result_),
        "bic": estimator.bic(),
        "aic": estimator.aic(),
        "icl": estimator.icl(),
        "seconds": seconds,
        "peak_memory_bytes": machine.peak_memory(),
        "weights": estimator.weights_,
        "noise_weight": estimator.noise_weight_,
        "means": estimator.means_,
    }


def _text(document: dict[str, Any]) -> str:
    peak = document["peak_memory_bytes"]
    facts = {
        "log-lik/row": f"{document['log_likelihood']:.6f}",
        "BIC": f"{document['bic']:.6g}",
        "passes": f"{document['n_passes']} in {document['seconds']:.1f} s",
        "thread time": _split(document["history"]),
        "peak memory": "unknown" if peak is None else f"{format_bytes(peak)}, of the whole process",
        "weights": _first(document["weights"]),
        **({"noise": f"{document['noise_weight']:.4f}"} if document["noise_weight"] else {}),
        "model": document["model"],
    }
    return f"\n{document['status_text']}\n\n{pairs(facts)}"


def _split(history: Sequence[dict[str, Any]]) -> str:
    """Return what the passes of a fit spent their time on, summed over threads or workers."""
    parts = [
        f"{sum(entry[f'{what}_seconds'] for entry in history):.1f} s {name}"
        for what, name in (("read", "reading"), ("decode", "decoding"), ("compute", "computing"))
    ]
    return ", ".join(parts)


def _first(weights: Sequence[float], most: int = 8) -> str:
    """Return the largest weights."""
    ranked = sorted(weights, reverse=True)
    return ", ".join(f"{w:.4f}" for w in ranked[:most]) + (", ..." if len(ranked) > most else "")


def _pass(record: PassRecord) -> dict[str, object]:
    return {
        "log_likelihood": record.log_likelihood,
        "objective": record.objective,
        "remaining_gain": record.remaining_gain,
        "seconds": record.seconds,
        "bytes_read": record.bytes_read,
        "read_seconds": record.read_seconds,
        "decode_seconds": record.decode_seconds,
        "compute_seconds": record.compute_seconds,
        "candidates": record.candidates,
        "accepted": record.accepted,
        "events": [{"kind": e.kind, "message": e.message, "component": e.component} for e in record.events],
    }
