"""Passes over rows of which some are held out: fits see the training rows, and are scored on the others."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from streamem.estimators.rows import RowData
from streamem.estimators.sharing import Fit, Reading
from streamem.models.heldout import HeldOut
from streamem.protocols import EStep, Pass, Rows, Stats

__all__ = ["ScoringReading", "TrainingRows"]

S = TypeVar("S", bound=Stats)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRows(RowData):
    """Rows of which those held out weigh nothing."""

    heldout: HeldOut

    @property
    def rows_expected(self) -> int:
        return round(self.source.n_samples * (1 - self.heldout.share))

    def one_pass(self, e_step: EStep[S], phase: str, index: int, row_work: float | None = None) -> Pass[S]:
        of_training = functools.partial(_of_training, self.heldout, e_step)
        return RowData.one_pass(self, of_training, phase, index, row_work)


def _of_training(heldout: HeldOut, e_step: EStep[S], rows: Rows) -> S:
    return e_step(heldout.split(rows)[0])


@dataclass(slots=True, eq=False, kw_only=True)
class ScoringReading(Reading):
    """Reads all rows for E-steps on the training rows, and scores their candidates on the others."""

    heldout: HeldOut
    """Which rows the fits do not see."""
    fits: Sequence[Fit]
    """Whose best parameters keep their scores."""

    def __call__(self, wanted: Sequence[tuple[Any, Any]]) -> Pass[Any]:
        """Return the statistics of the training rows for each pair of a model and parameters."""
        rows = self.read(wanted, self.heldout.e_steps)
        best = {fit.best.params for fit in self.fits if fit.best is not None}
        for params in [params for params in self.scores if params not in best]:
            del self.scores[params]
        for (_, params), scored in zip(wanted, rows.stats, strict=True):
            self.scores[params] = scored.heldout
        return replace(rows, stats=[scored.training for scored in rows.stats])
