"""``streamem predict`` and ``streamem score``: a saved model on rows of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from streamem.cli.commands import Command, free_to_write, reading, talking
from streamem.cli.meter import Meter
from streamem.cli.output import emit, pairs
from streamem.cli.progress import follow

__all__ = ["load_model", "predict", "score"]

_MODEL = click.argument("model", type=click.Path(path_type=Path))


@click.command(cls=Command)
@_MODEL
@click.argument("data")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="A zarr array to write, e.g. labels.zarr.",
)
@click.option(
    "--proba", is_flag=True, help="Write the probability of each component instead of the likeliest."
)
@click.option("--overwrite", is_flag=True, help="Replace the output.")
@reading
@talking
def predict(
    model: Path,
    data: str,
    output: Path,
    proba: bool,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Write the likeliest component of MODEL for each row of DATA."""
    free_to_write(output, overwrite)
    with follow(Meter(), quiet) as hear:
        estimator = load_model(model, where["memory_limit"])
        method = estimator.predict_proba if proba else estimator.predict
        method(data, out=str(output), overwrite=overwrite, scheduler=where["scheduler"], callbacks=(hear,))
    written = str(output.absolute())
    kind = "probabilities" if proba else "labels"
    document = {
        "command": "predict",
        "model": str(model),
        "data": data,
        "output": written,
        "kind": kind,
        "n_components": len(estimator.weights_),
    }
    emit(document, pairs({kind: written}), as_json)


@click.command(cls=Command)
@_MODEL
@click.argument("data")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A zarr array to write the log-likelihood of each row to: one more pass.",
)
@click.option("--weights", metavar="PATH", help="One weight for each row.")
@click.option("--overwrite", is_flag=True, help="Replace the output.")
@reading
@talking
def score(
    model: Path,
    data: str,
    output: Path | None,
    overwrite: bool,
    weights: str | None,
    quiet: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Say how well MODEL describes DATA.

    That is: the mean log-likelihood per row, BIC, AIC and ICL.
    """
    if output is not None:
        free_to_write(output, overwrite)
    with follow(Meter(), quiet) as hear:
        estimator = load_model(model, where["memory_limit"])
        running = {"scheduler": where["scheduler"], "callbacks": (hear,)}
        if output is not None:
            estimator.score_samples(data, out=str(output), overwrite=overwrite, **running)
        stats = estimator.summarize(data, sample_weight=weights, **running)
    estimator.stats_ = stats  # so that the criteria below cost no further pass
    figures = {
        "log_likelihood": stats.log_likelihood / stats.weight,
        "bic": estimator.bic(),
        "aic": estimator.aic(),
        "icl": estimator.icl(),
    }
    where_to = None if output is None else str(output.absolute())
    document = {"command": "score", "model": str(model), "data": data, **figures, "output": where_to}
    labels = ("log-lik/row", "BIC", "AIC", "ICL")
    emit(document, pairs(dict(zip(labels, figures.values(), strict=True))), as_json)


def load_model(path: Path, memory_limit: int | None = None) -> Any:
    """Return a saved estimator that works in ``memory_limit`` bytes, where that is given.

    Raises
    ------
    ModelFileError
        If the file is missing, not ours, too new, or damaged.
    """
    from streamem.estimators import load

    estimator = load(path)
    if memory_limit is not None:
        estimator.memory_limit = memory_limit
    return estimator
