"""``streamem predict``, ``score`` and ``impute``: a saved model on rows of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from streamem.cli.commands import Command, free_to_write, missing_values, reading, talking
from streamem.cli.meter import Meter
from streamem.cli.output import emit, pairs
from streamem.cli.progress import follow

__all__ = ["impute", "load_model", "predict", "score"]

_MODEL = click.argument("model", type=click.Path(path_type=Path))
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace the output.")


@click.command(cls=Command)
@_MODEL
@click.argument("data")
@click.option(
    "-o",
    "--output",
    metavar="PLACE",
    required=True,
    help="Path or URL of a zarr array to write, e.g. labels.zarr.",
)
@click.option(
    "--proba", is_flag=True, help="Write the probability of each component instead of the likeliest."
)
@_OVERWRITE
@missing_values(None)
@reading
@talking
def predict(
    model: Path,
    data: str,
    output: str,
    proba: bool,
    overwrite: bool,
    missing: str | None,
    quiet: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Write the likeliest component of MODEL for each row of DATA."""
    free_to_write(output, overwrite)
    with follow(Meter(), quiet) as hear:
        estimator = load_model(model, where["memory_limit"], missing)
        method = estimator.predict_proba if proba else estimator.predict
        method(data, out=output, overwrite=overwrite, scheduler=where["scheduler"], callbacks=(hear,))
    written = _full(output)
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
    metavar="PLACE",
    help="Path or URL of a zarr array for the log-likelihood of each row: one more pass.",
)
@click.option("--weights", metavar="PATH", help="One weight for each row.")
@_OVERWRITE
@missing_values(None)
@reading
@talking
def score(
    model: Path,
    data: str,
    output: str | None,
    overwrite: bool,
    weights: str | None,
    missing: str | None,
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
        estimator = load_model(model, where["memory_limit"], missing)
        running = {"scheduler": where["scheduler"], "callbacks": (hear,)}
        if output is not None:
            estimator.score_samples(data, out=output, overwrite=overwrite, **running)
        stats = estimator.summarize(data, sample_weight=weights, **running)
    estimator.stats_ = stats  # so that the criteria below cost no further pass
    figures = {
        "log_likelihood": stats.log_likelihood / stats.weight,
        "bic": estimator.bic(),
        "aic": estimator.aic(),
        "icl": estimator.icl(),
    }
    where_to = None if output is None else _full(output)
    document = {"command": "score", "model": str(model), "data": data, **figures, "output": where_to}
    labels = ("log-lik/row", "BIC", "AIC", "ICL")
    emit(document, pairs(dict(zip(labels, figures.values(), strict=True))), as_json)


@click.command(cls=Command)
@_MODEL
@click.argument("data")
@click.option(
    "-o",
    "--output",
    metavar="PLACE",
    required=True,
    help="Path or URL of a zarr array to write, e.g. filled.zarr.",
)
@click.option("--draws", is_flag=True, help="Draw at random given what is observed, instead of the mean.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@_OVERWRITE
@reading
@talking
def impute(
    model: Path,
    data: str,
    output: str,
    draws: bool,
    seed: int,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Write DATA with missing values filled in by MODEL."""
    free_to_write(output, overwrite)
    with follow(Meter(), quiet) as hear:
        load_model(model, where["memory_limit"]).impute(
            data,
            out=output,
            draws=draws,
            random_state=seed,
            overwrite=overwrite,
            scheduler=where["scheduler"],
            callbacks=(hear,),
        )
    written = _full(output)
    document = {"command": "impute", "model": str(model), "data": data, "output": written, "draws": draws}
    emit(document, pairs({"rows": written}), as_json)


def _full(place: str) -> str:
    """Return an absolute path, or the URL."""
    return place if "://" in place else str(Path(place).absolute())


def load_model(path: Path, memory_limit: int | None = None, missing: str | None = None) -> Any:
    """Return a saved estimator with ``memory_limit`` and ``missing`` as given, where they are.

    Raises
    ------
    ModelFileError
        If the file is missing, not ours, too new, or damaged.
    """
    from streamem.estimators import load

    estimator = load(path)
    if memory_limit is not None:
        estimator.memory_limit = memory_limit
    if missing is not None:
        estimator.missing = missing
    return estimator
