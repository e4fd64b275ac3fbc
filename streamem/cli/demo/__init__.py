"""``streamem demo``: write a mixture whose truth is known, fit it in little memory, compare.

The mixture is in `streamem.cli.demo.mixture`, what is refused in `settings`, what is reported in `result`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click

from streamem.cli.commands import SIZE, Command, end, exit_code, free_to_write, scheduled, talking
from streamem.cli.demo.result import DemoResult, document, text
from streamem.cli.demo.settings import DemoSettings, refuse_shortage
from streamem.cli.meter import Meter
from streamem.cli.output import emit
from streamem.cli.progress import follow
from streamem.cli.scratch import scratch
from streamem.convergence import Status

__all__ = ["DemoSettings", "demo"]

_DEFAULT_BYTES = 2 * 10**9
_DEFAULT_MODEL = Path("streamem-demo.npz")
_COUNT = click.IntRange(min=1)


@click.command(cls=Command)
@click.option("--size", type=SIZE, metavar="SIZE", help="Bytes of data.  [default: 2GB]")
@click.option("--rows", type=_COUNT, metavar="N", help="Rows of data, instead of --size.")
@click.option("--columns", type=_COUNT, default=32, show_default=True, metavar="N")
@click.option("--components", type=_COUNT, default=16, show_default=True, metavar="N")
@click.option(
    "--dir",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where to put the data meanwhile.  [default: the system's temporary directory]",
)
@click.option("--keep", is_flag=True, help="Do not remove the data afterwards.")
@click.option(
    "-o",
    "--model",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Where the model goes.  [default: {_DEFAULT_MODEL}]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file named by --model.")
@click.option(
    "--memory-limit", type=SIZE, default="1GiB", show_default=True, metavar="SIZE", help="Memory for the fit."
)
@click.option(
    "--tol", type=float, default=1e-6, show_default=True, help="Remaining gain to stop at, nats/row."
)
@click.option("--max-iter", type=_COUNT, default=100, show_default=True, metavar="N", help="Most passes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N")
@scheduled
@talking
def demo(
    size: int | None,
    rows: int | None,
    directory: Path | None,
    model: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit data bigger than memory; compare with the truth.

    The data are rows of a random Gaussian mixture.
    The data are written first, to a temporary directory that is removed afterwards, also after Ctrl-C. The
    fitted model stays, in streamem-demo.npz of the current directory, where the next demo replaces it.
    """
    settings = DemoSettings(
        rows=_rows(size, rows, options["columns"]),
        directory=directory or Path(tempfile.gettempdir()),
        model=model or _DEFAULT_MODEL,
        **options,
    )
    free_to_write(settings.model, overwrite or model is None)
    result = run(settings)
    emit(document(result), text(result), as_json)
    end(exit_code(result.fitted.status))


def run(settings: DemoSettings) -> DemoResult:
    """Write, fit, save and compare; the data are gone afterwards, however it ends."""
    refuse_shortage(settings)
    import numpy as np

    from streamem.cli.demo import mixture
    from streamem.scheduling import require_workers

    require_workers(settings.scheduler)

    truth = mixture.draw_truth(settings.components, settings.columns, np.random.default_rng(settings.seed))
    with scratch(settings.directory, "streamem-demo-", settings.keep) as directory:
        store = directory / "mixture.zarr"
        started = time.perf_counter()
        with follow(Meter(), settings.quiet) as hear:
            mixture.write(truth, store, settings.rows, settings.chunk_rows, settings.seed, hear)
        written = time.perf_counter()
        estimator = _fit(settings, store)
        ended = time.perf_counter()
        estimator.save(settings.model)
    comparison = mixture.compare(truth, estimator.weights_, estimator.means_, settings.rows)
    return DemoResult(settings, comparison, estimator.result_, written - started, ended - written, store)


def _fit(settings: DemoSettings, store: Path) -> Any:
    """Return the fitted estimator."""
    from streamem.estimators.gaussian_mixture import GaussianMixture

    with follow(Meter(settings.tol, settings.max_iter), settings.quiet) as hear:
        estimator = GaussianMixture(
            n_components=settings.components,
            tol=settings.tol,
            max_iter=settings.max_iter,
            random_state=settings.seed,
            memory_limit=settings.memory_limit,
            callbacks=(hear,),
        ).fit(str(store), scheduler=settings.scheduler)
    if estimator.result_.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return estimator


def _rows(size: int | None, rows: int | None, columns: int) -> int:
    if size is not None and rows is not None:
        raise click.UsageError("--size and --rows both say how much data there is: give one.")
    return rows or (size or _DEFAULT_BYTES) // (4 * columns)
