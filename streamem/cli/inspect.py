"""``streamem inspect``: how a pass would go through data, or what a model file holds. No row is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from streamem.cli.apply import load_model
from streamem.cli.commands import SIZE, Command, for_machines
from streamem.cli.output import emit, pairs, table
from streamem.sizes import format_bytes

__all__ = ["inspect"]

_MOST_COLUMNS = 6
"""Columns of means that fit on a screen; ``--json`` has all."""


@click.command(cls=Command)
@click.argument("path")
@click.option(
    "--memory-limit", type=SIZE, default="1GiB", show_default=True, metavar="SIZE", help="Plan blocks for it."
)
@click.option("--weights", metavar="PATH", help="One weight for each row, read along with the data.")
@for_machines
def inspect(path: str, memory_limit: int, weights: str | None, as_json: bool) -> None:
    """Describe the model (.npz) or the data at PATH.

    Of a model: its parameters. Of data: shape, chunks, bytes, and the blocks and the memory of a pass.
    """
    if path.endswith(".npz"):
        document = _model(path)
        emit(document, _model_text(document), as_json)
    else:
        document = _data(path, weights, memory_limit)
        emit(document, _data_text(document), as_json)


def _data(path: str, weights: str | None, memory_limit: int) -> dict[str, Any]:
    from streamem.sources import as_source

    source = as_source(path, weights, memory_limit=memory_limit)
    blocks = source.blocks()
    sizes = [block.stop - block.start for block in blocks]
    return {
        "command": "inspect",
        "kind": "data",
        "data": path,
        "n_samples": source.n_samples,
        "n_features": source.n_features,
        "dtype": str(source.dtype),
        "n_bytes": source.n_samples * source.n_features * source.dtype.itemsize,
        "store": _store(path),
        "n_blocks": len(blocks),
        "block_rows_min": min(sizes, default=0),
        "block_rows_max": max(sizes, default=0),
        "block_bytes": source.block_bytes,
        "memory_limit": memory_limit,
    }


def _store(path: str) -> dict[str, Any] | None:
    """Return how a zarr array is stored; None for other kinds."""
    if not (Path(path) / "zarr.json").exists() and not (Path(path) / ".zarray").exists():
        return None
    import zarr

    array = zarr.open(path, mode="r")
    if not isinstance(array, zarr.Array):
        return None
    return {
        "dtype": str(array.dtype),
        "chunks": array.chunks,
        "shards": array.shards,
        "n_chunks": array.nchunks,
        "compressors": [type(codec).__name__ for codec in array.compressors],
        "stored_bytes": array.nbytes_stored(),
    }


def _data_text(document: dict[str, Any]) -> str:
    store, facts = document["store"], {"data": document["data"]}
    facts["rows"] = f"{document['n_samples']:,} x {document['n_features']:,} columns, {document['dtype']}"
    facts["bytes"] = f"{format_bytes(document['n_bytes'])} per pass"
    if store is not None:
        codecs = ", ".join(store["compressors"]) or "not compressed"
        shards = f", shards {_by(store['shards'])}" if store["shards"] else ""
        facts["chunks"] = f"{store['n_chunks']:,} of {_by(store['chunks'])}{shards}, {codecs}"
        facts["stored"] = f"{format_bytes(store['stored_bytes'])}, as {store['dtype']}"
    facts["blocks"] = f"{document['n_blocks']:,} of {_range(document)} rows"
    facts["memory"] = (
        f"{format_bytes(document['block_bytes'])} for a block, of {format_bytes(document['memory_limit'])}"
    )
    return pairs(facts)


def _by(lengths: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in lengths)


def _range(document: dict[str, Any]) -> str:
    least, most = document["block_rows_min"], document["block_rows_max"]
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _model(path: str) -> dict[str, Any]:
    estimator = load_model(Path(path))
    return {
        "command": "inspect",
        "kind": "model",
        "model": path,
        "class": type(estimator).__name__,
        "n_components": len(estimator.weights_),
        "n_features": estimator.n_features_in_,
        "covariance_type": estimator.covariance_type,
        "converged": bool(estimator.converged_),
        "n_iter": int(estimator.n_iter_),
        "log_likelihood": float(estimator.lower_bound_),
        "weights": estimator.weights_,
        "means": estimator.means_,
        "covariances": estimator.covariances_,
    }


def _model_text(document: dict[str, Any]) -> str:
    shown = min(_MOST_COLUMNS, document["n_features"])
    facts = {
        "model": document["model"],
        "class": f"{document['class']}, {document['covariance_type']} covariances",
        "components": f"{document['n_components']} in {document['n_features']} columns",
        "converged": f"{'yes' if document['converged'] else 'no'}, after {document['n_iter']} passes",
        "log-lik/row": f"{document['log_likelihood']:.6f}",
    }
    order = sorted(range(document["n_components"]), key=lambda j: -document["weights"][j])
    more = ("...",) if shown < document["n_features"] else ()
    headings = ("component", "weight", *(f"mean {i}" for i in range(shown)), *more)
    rows = [
        (str(j), f"{document['weights'][j]:.4f}", *(f"{m:.4g}" for m in document["means"][j][:shown]), *more)
        for j in order
    ]
    return f"{pairs(facts)}\n\n{table(headings, rows)}"
