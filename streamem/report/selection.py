"""The curve of a model selection as a picture."""

from __future__ import annotations

from pathlib import Path

from streamem.errors import InputError, SourceError
from streamem.selection import ModelSelection

__all__ = ["check_plot", "plot_selection"]

_LABELS = {"bic": "BIC", "aic": "AIC", "icl": "ICL", "heldout": "held-out log-likelihood per row (nats)"}


def check_plot(path: Path) -> None:
    """Refuse, before any work, a picture that could not be drawn.

    Raises
    ------
    InputError
        If matplotlib is missing, or does not know the kind of file.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise InputError(
            f'{path}: drawing it needs matplotlib, which is not installed. Run pip install "streamem[plot]".'
        ) from None
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise InputError(
            f"{path}: no picture can be written as {path.suffix or 'a file without suffix'!r}. Choose a name "
            "ending in .png or .svg."
        )


def plot_selection(selection: ModelSelection, path: Path) -> Path:
    """Draw the criterion over the number of components, a line for each covariance type; return the path.

    Raises
    ------
    InputError
        If matplotlib is missing, or does not know the kind of file.
    SourceError
        If the file cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for covariance_type, (counts, values) in selection.curves().items():
        axes.plot(counts, values, marker="o", markersize=4, label=covariance_type)
    best = selection.best_row
    axes.plot(
        best.n_components,
        getattr(best, selection.criterion),
        marker="*",
        markersize=15,
        color="black",
        linestyle="none",
        label=f"best: {best.covariance_type}, {best.n_components}",
    )
    axes.set_xlabel("components")
    axes.set_ylabel(_LABELS[selection.criterion])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise SourceError(f"{path}: cannot be written ({error}). Choose another place.") from error
    return path
