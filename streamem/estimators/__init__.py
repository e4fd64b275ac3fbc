"""The friendly layer: estimators that validate, choose, call and copy results."""

from __future__ import annotations

import os

from streamem.errors import ModelFileError
from streamem.estimators.bayesian_mixture import BayesianGaussianMixture
from streamem.estimators.fitting import fit
from streamem.estimators.gaussian_mixture import GaussianMixture
from streamem.estimators.measuring import plan
from streamem.persistence import read_archive

__all__ = ["BayesianGaussianMixture", "GaussianMixture", "fit", "load", "plan"]

_CLASSES: dict[str, type[GaussianMixture]] = {
    "BayesianGaussianMixture": BayesianGaussianMixture,
    "GaussianMixture": GaussianMixture,
}


def load(path: str | os.PathLike[str]) -> GaussianMixture:
    """Return the estimator that ``save`` wrote to ``path``. No code from the file runs.

    Raises
    ------
    ModelFileError
        If the file is missing, not a model, newer than this library, or damaged.
    """
    archive = read_archive(path)
    if archive.kind == "Checkpoint":
        raise ModelFileError(
            f"{path}: is a checkpoint of a fit. Go on with fit(..., checkpoint=<its folder>, resume=True), "
            "then save."
        )
    if archive.kind not in _CLASSES:
        raise ModelFileError(
            f"{path}: holds a {archive.kind!r}, which this version does not know. Update streamem."
        )
    return _CLASSES[archive.kind].from_archive(archive)
