"""Information criteria: what a likelihood is worth once its parameters are paid for. Lower is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

__all__ = ["Criteria"]


@dataclass(frozen=True, slots=True)
class Criteria:
    """With ℓ the log-likelihood, p the free parameters, n the total weight, H the posterior entropy."""

    bic: float
    """−2ℓ + p log n (Schwarz 1978)."""
    aic: float
    """−2ℓ + 2p (Akaike 1974)."""
    icl: float
    """BIC + 2H (Biernacki, Celeux & Govaert 2000): components that overlap cost."""

    @classmethod
    def of(cls, stats: Any, n_parameters: int) -> Self:
        """Return the criteria of a mixture from its statistics: no pass is needed."""
        fit = -2 * float(stats.log_likelihood)
        bic = fit + n_parameters * float(np.log(stats.weight))
        return cls(bic, fit + 2 * n_parameters, bic + 2 * float(stats.entropy))
