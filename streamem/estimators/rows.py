"""Rows of any source, opened together with a place to work through them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from streamem.convergence import Callback, FitEvent, PassProgress, PassStarted
from streamem.errors import InputError
from streamem.estimators.places import refuse_idle_options
from streamem.protocols import Pass, Rows, Source, Stats
from streamem.reduce import Scheduler, map_reduce, open_scheduler
from streamem.sizes import parse_bytes
from streamem.sources import as_source
from streamem.sources.dropping import DroppingSource
from streamem.sources.keeping import KeepingSource
from streamem.sources.opening import is_url
from streamem.sources.scratch import open_scratch

__all__ = ["RowData", "byte_limit", "check_missing", "open_rows"]

T = TypeVar("T", bound=Stats)

MISSING = ("raise", "drop", "marginal")
KEPT_SHARE = 0.5  # of the memory limit, for decoded blocks that stay between passes


@dataclass(frozen=True, slots=True, eq=False)
class RowData:
    """Rows, where to run, and whom to tell."""

    source: Source
    scheduler: Scheduler
    callbacks: tuple[Callback, ...]
    missing: str
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False, kw_only=True)
    """What opens the URLs that results and checkpoints go to."""

    @property
    def bytes_per_pass(self) -> int:
        return self.source.n_samples * self.source.n_features * self.source.dtype.itemsize

    @property
    def labelled(self) -> bool:
        """Whether rows come with labels."""
        return bool(getattr(self.source, "labelled", False))

    @property
    def rows_expected(self) -> int:
        """Rows that a pass is about to see, for all that is known before it."""
        return self.source.n_samples

    def one_pass(
        self, e_step: Callable[[Rows], T], phase: str, index: int, row_work: float | None = None
    ) -> Pass[T]:
        """Read all rows once; ``row_work`` is as for `streamem.reduce.map_reduce`."""
        self.notify(PassStarted(phase, index, self.source.n_samples, self.bytes_per_pass))
        result = map_reduce(
            e_step,
            self.source,
            self.scheduler,
            lambda rows: self.notify(PassProgress(phase, index, rows)),
            row_work,
        )
        if not result.stats.weight > 0 and getattr(result.stats, "n_left_out", 0) > 0:
            raise InputError(
                f"{self.source.name}: no row is left, because values are missing in all of them. Leave out "
                'the columns that are missing most, or pass missing="marginal".'
            )
        if not result.stats.weight > 0:
            raise InputError(f"{self.source.name}: all sample weights are zero. Give some rows weight.")
        return result

    def notify(self, event: FitEvent) -> bool:
        """Tell the callbacks; return whether one of them wants the fit to end."""
        return any([callback(event) is True for callback in self.callbacks])


@contextlib.contextmanager
def open_rows(
    x: Any,
    sample_weight: Any = None,
    *,
    memory_limit: int | str | None = "1GiB",
    scheduler: str | None = None,
    client: Any = None,
    callbacks: Iterable[Callback] = (),
    passes: bool = False,
    scratch: str | os.PathLike[str] | None = None,
    missing: str = "raise",
    storage_options: Mapping[str, Any] | None = None,
    output: Any = None,
    y: Any = None,
) -> Iterator[RowData]:
    """Open data and a scheduler for it; for several ``passes``, keep decoded what there is room for.

    ``missing`` is "raise", "drop" or "marginal": what happens to rows with NaN; the last hands them over.
    ``storage_options`` open whatever is given by URL: the rows, their weights and labels ``y``, and
    ``output``, the place of results or checkpoints.
    """
    check_missing(missing)
    refuse_idle_options(storage_options, x, sample_weight, y, output)
    limit = byte_limit(memory_limit)
    source: Any = as_source(
        x,
        sample_weight,
        y=y,
        memory_limit=limit,
        missing="raise" if missing == "raise" else "keep",
        storage_options=storage_options if any(map(is_url, (x, sample_weight, y))) else None,
    )
    if missing == "raise" and getattr(source, "missing", "raise") != "raise":
        raise InputError(
            f'{source.name}: was opened with missing="keep", but this is with missing="raise". Pass '
            '"drop" or "marginal".'
        )
    with contextlib.ExitStack() as stack:
        widest = DroppingSource(source) if missing == "drop" else source
        where = stack.enter_context(open_scheduler(scheduler, client, source=widest, memory_limit=limit))
        if scratch is not None:
            if not where.in_process:
                raise InputError(
                    f'scratch: works with scheduler="threads" or "synchronous", not with {where.name!r}.'
                )
            source = stack.enter_context(open_scratch(source, scratch))
        if missing == "drop":
            source = DroppingSource(source)
        if passes and limit is not None and where.in_process and not getattr(source, "in_memory", False):
            source = KeepingSource(source, int(limit * KEPT_SHARE))
        yield RowData(source, where, tuple(callbacks), missing, storage_options=storage_options)


def check_missing(missing: Any) -> None:
    """Refuse what is no way to treat missing values."""
    if missing not in MISSING:
        raise InputError(f"missing: expected one of {', '.join(map(repr, MISSING))}, got {missing!r}.")


def byte_limit(memory_limit: int | str | None) -> int | None:
    """Return the memory limit in bytes."""
    try:
        return parse_bytes(memory_limit)
    except InputError as error:
        raise InputError(f"memory_limit: {error}") from None
