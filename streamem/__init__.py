"""Expectation-maximisation for data bigger than memory.

The algorithm is `streamem.em`; a pass over the rows is `streamem.reduce`; models, kernels and sources have
a package each. Importing this module loads none of them: names are resolved on first use.

Examples
--------
>>> import numpy as np, streamem as sem
>>> x = np.concatenate([np.zeros((50, 1)), np.ones((50, 1))]) + np.linspace(0, 0.1, 100)[:, None]
>>> gm = sem.GaussianMixture(n_components=2, random_state=0).fit(x)
>>> gm.weights_.round(2)
array([0.5, 0.5])
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

logging.getLogger("streamem").addHandler(logging.NullHandler())  # silent unless the user asks for logs

_EXPORTS = {
    "BayesianGaussianMixture": "streamem.estimators",
    "Callback": "streamem.convergence",
    "Checkpoint": "streamem.persistence",
    "ClusterError": "streamem.errors",
    "ConvergenceWarning": "streamem.errors",
    "DegenerateComponentError": "streamem.errors",
    "FitResult": "streamem.convergence",
    "GaussianMixture": "streamem.estimators",
    "InputError": "streamem.errors",
    "MemoryLimitError": "streamem.errors",
    "ModelFileError": "streamem.errors",
    "NonFiniteError": "streamem.errors",
    "NormalInverseWishart": "streamem.models.normal_wishart",
    "NotFittedError": "streamem.errors",
    "SourceError": "streamem.errors",
    "Status": "streamem.convergence",
    "StreamEMError": "streamem.errors",
    "as_source": "streamem.sources",
    "fit": "streamem.estimators",
    "load": "streamem.estimators",
    "plan": "streamem.estimators",
    "select": "streamem.selection",
}

__all__ = [
    "BayesianGaussianMixture",
    "Callback",
    "Checkpoint",
    "ClusterError",
    "ConvergenceWarning",
    "DegenerateComponentError",
    "FitResult",
    "GaussianMixture",
    "InputError",
    "MemoryLimitError",
    "ModelFileError",
    "NonFiniteError",
    "NormalInverseWishart",
    "NotFittedError",
    "SourceError",
    "Status",
    "StreamEMError",
    "as_source",
    "fit",
    "load",
    "plan",
    "select",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'streamem' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])


if TYPE_CHECKING:
    from streamem.convergence import Callback, FitResult, Status
    from streamem.errors import (
        ClusterError,
        ConvergenceWarning,
        DegenerateComponentError,
        InputError,
        MemoryLimitError,
        ModelFileError,
        NonFiniteError,
        NotFittedError,
        SourceError,
        StreamEMError,
    )
    from streamem.estimators import BayesianGaussianMixture, GaussianMixture, fit, load, plan
    from streamem.models.normal_wishart import NormalInverseWishart
    from streamem.persistence import Checkpoint
    from streamem.selection import select
    from streamem.sources import as_source
