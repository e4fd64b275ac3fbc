"""Fits that outlive their process: what a checkpoint holds, whose it is, and how a fit goes on from it.

After each pass all that the fits know is written. What can be made again from settings and data (the model,
functions, the scheduler) is not: a fit is set up as at first, and then takes over the state that was stored.
Settings and data must be those of the checkpoint, for only then do the same bits follow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from streamem.convergence import Status
from streamem.errors import DegenerateComponentError, InputError, ModelFileError, SourceError
from streamem.estimators.resident import starts, summarize_rows
from streamem.estimators.rows import RowData
from streamem.estimators.sharing import Fit, Reading
from streamem.models.summary import DataSummary, Sample
from streamem.persistence import Archive, Checkpoint, Checkpoints, decode, encode
from streamem.protocols import Block, Rows
from streamem.reduce import map_reduce
from streamem.sources.opening import is_url
from streamem.sources.wrapping import WrappedSource

__all__ = ["Kept", "Resume", "described", "described_model", "open_kept"]

Resume: TypeAlias = bool | Literal["auto"]

log = logging.getLogger("streamem")

KIND = "Checkpoint"
PROBES = 3  # blocks whose rows are looked at to tell data from other data
TRIAL_ROWS = 8
ERRORS = {
    kind.__name__: kind for kind in (DegenerateComponentError, np.linalg.LinAlgError, FloatingPointError)
}


def open_kept(
    checkpoint: str | os.PathLike[str] | Checkpoint | None,
    resume: Resume,
    data: RowData,
    settings: Mapping[str, Any],
    seed: int,
) -> Kept | None:
    """Open the checkpoints of a fit: to go on from the newest one, or to start anew.

    Parameters
    ----------
    settings
        What decides the bits of the fit, described; see `described`.
    seed
        What is random; one that was stored replaces it (`Kept.seed`).

    Raises
    ------
    InputError
        If there is nothing to go on from (``resume=True``); if there is something (``resume=False``); or if
        it is of a fit with other settings or data.
    """
    if resume not in (True, False, "auto"):
        raise InputError(f'resume: expected True, False or "auto", got {resume!r}.')
    if checkpoint is None:
        if resume:
            raise InputError(f"resume={resume!r}: there is nothing to go on from. Pass checkpoint as well.")
        return None
    place = Checkpoints(_located(checkpoint, data.storage_options))
    if not resume and place.names("pass"):
        raise InputError(
            f'checkpoint: {place} holds a fit already. Pass resume=True or "auto" to go on with it, or '
            "choose another place."
        )
    stored = next(place.archives(), None) if resume else None
    if stored is None and resume is True:
        raise InputError(
            f"resume=True: {place} holds no checkpoint that can be read. Check the path, or pass "
            'resume="auto" to start anew.'
        )
    whose = {"settings": dict(settings), "data": _described_data(data)}
    kept = Kept(place, data, whose, seed)
    if stored is not None:
        kept.take(stored)
    return kept


def _located(
    checkpoint: str | os.PathLike[str] | Checkpoint, storage_options: Mapping[str, Any] | None
) -> Checkpoint:
    """Return where checkpoints are; a URL that brings no options of its own is opened with those given."""
    where = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    if where.storage_options is None and is_url(where.place):
        return dataclasses.replace(where, storage_options=storage_options)
    return where


@dataclass(slots=True, eq=False)
class Kept:
    """The checkpoints of one fit, or of several that share passes."""

    place: Checkpoints
    data: RowData
    whose: dict[str, Any]
    """Settings and data, described."""
    seed: int
    """What is random."""
    stored: Archive | None = None
    """What to go on from."""
    sample: str | None = None
    """File of the first pass."""
    counts: list[int] = field(default_factory=list)
    """Fits of each model, where there are several models."""
    types: dict[str, type] = field(default_factory=dict)
    """Of a model that is not ours."""

    def take(self, stored: Archive) -> None:
        """Go on from a checkpoint, if it is of the same fit."""
        from streamem import __version__

        header = stored.header
        if stored.kind != KIND:
            raise ModelFileError(f"{self.place}: holds a {stored.kind!r}, not checkpoints. Choose another.")
        _refuse_other(str(self.place), header["whose"], self.whose)
        if header["name"] != self.data.source.name:
            log.warning(
                "%s: the rows were called %s, now %s; their shape and blocks agree.",
                self.place,
                header["name"],
                self.data.source.name,
            )
        if header["version"] != __version__:
            log.warning(
                "%s: written by streamem %s, this is %s; the bits that follow may be others.",
                self.place,
                header["version"],
                __version__,
            )
        self.stored, self.seed, self.sample = stored, header["seed"], header["sample"]
        self.counts = header["counts"]

    @property
    def n_fits(self) -> int:
        """Fits to go on with; 0 to start anew."""
        return 0 if self.stored is None else int(self.stored.header["n_fits"])

    def summary(self, data: RowData, capacity: int, seed: int, n_components: int = 0) -> DataSummary:
        """Return what the first pass found; it is made only where that is not stored."""
        if self.sample is not None:
            try:
                archive = self.place.read(self.sample)
                summary: DataSummary = decode(archive.header["tree"], archive.arrays)
                return summary
            except ModelFileError as error:
                log.warning("%s Sampling the rows again.", error)
        summary = summarize_rows(data, capacity, seed, n_components)
        encoded = encode(summary, "sample")
        archive = Archive(KIND, {"tree": encoded.tree}, encoded.arrays)
        self.sample = self.place.write("sample", 0, archive)
        return summary

    def learn_types(self, model: Any, params: Any, sample: Sample | None) -> None:
        """Learn the types of a model that is not ours from its parameters and a few rows' statistics.

        Without parameters a start on the sample shows theirs.

        Raises
        ------
        InputError
            If they cannot be written: now, and not after hours.
        """
        if _is_ours(type(model)):
            return
        if params is None:
            assert sample is not None
            rng = np.random.default_rng(0)
            params = next(starts(model, sample, self.data.source.n_samples, 1, rng))
        self.types |= encode(params, "params").types
        rows = self.data.source.blocks()[0].load() if sample is None else sample.rows()
        stats = model.e_step(params, rows.some(np.arange(min(TRIAL_ROWS, len(rows.x)))))
        self.types |= encode(stats, "stats").types

    def restored(self, fits: list[Fit]) -> list[Fit]:
        """Return ``n_fits`` fits, set up as at first, in the state that was stored."""
        assert self.stored is not None
        tree = decode(self.stored.header["tree"], self.stored.arrays, self.types)
        for fit, state in zip(fits, tree["fits"], strict=True):
            _set_state(fit, state)
        most = max(len(fit.history) for fit in fits)
        if most > fits[0].max_iter:
            raise InputError(
                f"{self.place}: {most} passes are done already, more than max_iter={fits[0].max_iter}. "
                "Pass a larger max_iter to go on."
            )
        return fits

    def begin(self, fits: Sequence[Fit], reading: Reading) -> Callable[[], object]:
        """Write the start of fits, and return what writes them after a pass."""
        if self.stored is None:
            self._write(fits, reading)
        else:
            reading.n_passes = int(self.stored.header["n_passes"])
            scores = zip(fits, self.stored.header["scores"], strict=True)
            reading.scores |= {
                fit.best.params: score for fit, score in scores if fit.best and score is not None
            }
        return lambda: self._after_pass(fits, reading)

    def _after_pass(self, fits: Sequence[Fit], reading: Reading) -> None:
        """Write fits after a pass; an interrupt waits for that, and a failure for the next time."""
        if any(fit.status is Status.INTERRUPTED for fit in fits):
            return  # half-way between two passes: the checkpoint before is whole
        try:
            self._try_to_write(fits, reading)
        except KeyboardInterrupt:
            self._try_to_write(fits, reading)
            for fit in fits:
                fit.status = fit.status or Status.INTERRUPTED

    def _try_to_write(self, fits: Sequence[Fit], reading: Reading) -> None:
        try:
            self._write(fits, reading)
        except SourceError as error:
            log.warning("Pass %d has no checkpoint. %s", reading.n_passes, error)

    def _write(self, fits: Sequence[Fit], reading: Reading) -> None:
        from streamem import __version__

        scores = reading.scores  # parameters need no hash where there are none
        encoded = encode({"fits": [_state(fit, fit.model) for fit in fits]}, "fit")
        header = {
            "whose": self.whose,
            "name": self.data.source.name,
            "version": __version__,
            "seed": self.seed,
            "sample": self.sample,
            "n_passes": reading.n_passes,
            "n_fits": len(fits),
            "counts": self.counts,
            "scores": [scores.get(fit.best.params) if scores and fit.best else None for fit in fits],
            "tree": encoded.tree,
        }
        self.place.write("pass", reading.n_passes, Archive(KIND, header, encoded.arrays))


def _state(value: Any, model: Any) -> dict[str, Any]:
    """Return what changes in an object of ours as a fit goes on: not the model, nor functions."""
    state = {}
    for part in dataclasses.fields(value):
        its = getattr(value, part.name)
        if part.name == "max_iter":
            continue  # may be raised
        if _has_state(its):
            state[part.name] = _state(its, model)
        elif isinstance(its, Exception):
            state[part.name] = {"kind": type(its).__name__, "message": str(its)}
        elif its is not model and not callable(its):
            state[part.name] = its
    return state


def _set_state(value: Any, state: Mapping[str, Any]) -> None:
    """Give an object of ours the state that was stored."""
    for name, its in state.items():
        if name not in {part.name for part in dataclasses.fields(value)}:
            raise ModelFileError(
                f"checkpoint: {type(value).__name__} has no {name!r} any more. Use the version that wrote it."
            )
        old = getattr(value, name)
        if _has_state(old):
            _set_state(old, its)
        elif isinstance(its, Mapping) and its.keys() == {"kind", "message"}:
            setattr(value, name, ERRORS.get(its["kind"], ArithmeticError)(its["message"]))
        else:
            setattr(value, name, its)


def _has_state(value: Any) -> bool:
    """Return whether this is one of our objects that change, and no value."""
    settings = getattr(type(value), "__dataclass_params__", None)
    return _is_ours(type(value)) and settings is not None and not settings.frozen


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("streamem.")


def described(value: Any) -> Any:
    """Return a setting in a few characters that tell it from another: a digest of what is large.

    Examples
    --------
    >>> described(0.5), described(np.zeros((2, 3)))
    (0.5, 'ndarray (2, 3) 88ed3621')
    """
    if value is None or isinstance(value, bool | str | int | float):
        return value
    kind = " ".join([type(value).__name__, *([str(value.shape)] if isinstance(value, np.ndarray) else [])])
    try:
        encoded = encode(value)
    except InputError:  # a function, say: its name must do
        return kind
    digest = hashlib.sha256(json.dumps(encoded.tree, sort_keys=True).encode())
    for array in encoded.arrays.values():
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return f"{kind} {digest.hexdigest()[:8]}"


def described_model(model: Any) -> dict[str, Any]:
    """Return the public attributes of a model, described; under names apart where it is not ours."""
    if dataclasses.is_dataclass(model):
        names: Iterable[str] = [part.name for part in dataclasses.fields(model)]
    else:
        names = getattr(model, "__dict__", ())
    prefix = "" if _is_ours(type(model)) else "model."
    settings = {prefix + name: described(getattr(model, name)) for name in names if not name.startswith("_")}
    return {**settings, "model": type(model).__qualname__}


def _described_data(data: RowData) -> dict[str, Any]:
    """Return what tells rows from other rows: shape, blocks, and the rows of some blocks."""
    source, blocks = data.source, data.source.blocks()
    edges = np.array([(block.start, block.stop) for block in blocks], dtype="<i8")
    probed = sorted({round(i * (len(blocks) - 1) / (PROBES - 1)) for i in range(PROBES)})
    few = _Some(source, tuple(blocks[i] for i in probed))
    probe = map_reduce(_probe, few, data.scheduler).stats
    return {
        "n_samples": source.n_samples,
        "n_features": source.n_features,
        "dtype": str(source.dtype),
        "blocks": f"{len(blocks)} ({hashlib.sha256(edges.tobytes()).hexdigest()[:8]})",
        **{f"rows {start:,}-{stop:,}": digest for start, stop, digest in sorted(probe.digests)},
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Some(WrappedSource):
    """A source of which only some blocks are read."""

    chosen: tuple[Block, ...]

    def blocks(self) -> Sequence[Block]:
        return self.chosen


@dataclass(frozen=True, slots=True, eq=False)
class _Probe:
    """Digests of blocks, as statistics of their rows."""

    n_samples: int
    weight: float
    digests: tuple[tuple[int, int, str], ...]
    log_likelihood: float = 0.0

    def merge(self, other: _Probe) -> _Probe:
        return _Probe(
            self.n_samples + other.n_samples, self.weight + other.weight, self.digests + other.digests
        )


def _probe(rows: Rows) -> _Probe:
    digest = hashlib.sha256(np.ascontiguousarray(rows.x).tobytes())
    what = ""
    for part, name in ((rows.weight, " weighted"), (rows.label, " labelled")):
        if part is not None:
            digest.update(part.tobytes())
            what += name
    place = (rows.start, rows.start + len(rows.x), digest.hexdigest()[:16] + what)
    return _Probe(rows.n_samples, rows.total_weight, (place,))


def _refuse_other(place: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another fit, and name all that is different."""
    settings = _differences(theirs["settings"], ours["settings"])
    if settings:
        raise InputError(
            f"checkpoint: {place} is of a fit with other settings: {'; '.join(settings)}. Set them back, or "
            "choose another place."
        )
    differences = _differences(theirs["data"], ours["data"])
    plan = [text for text in differences if not text.startswith("rows ")]
    if differences:
        raise InputError(
            f"checkpoint: {place} is of a fit to other data: {'; '.join(plan or differences)}. Give the data "
            "(and the memory_limit) that it was begun with, or choose another place."
        )


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    absent = "nothing"
    return [
        f"{name} was {theirs.get(name, absent)!r}, now {ours.get(name, absent)!r}"
        for name in {**theirs, **ours}
        if theirs.get(name, absent) != json.loads(json.dumps(ours.get(name, absent)))
    ]
