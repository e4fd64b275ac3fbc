"""What all commands share: how they fail, the options they have in common, and their exit codes."""

from __future__ import annotations

import enum
import errno
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from streamem.cli.output import emit, note
from streamem.convergence import Status
from streamem.errors import (
    ClusterError,
    ConvergenceWarning,
    InputError,
    ModelFileError,
    SourceError,
    StreamEMError,
)
from streamem.sizes import parse_bytes

__all__ = [
    "COVARIANCE_TYPES",
    "SIZE",
    "Command",
    "Exit",
    "end",
    "exit_code",
    "for_machines",
    "free_to_write",
    "missing_values",
    "reading",
    "scheduled",
    "talking",
]

F = TypeVar("F", bound=Callable[..., Any])

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")
"""Those of `streamem.models.covariance`, which help would take too long to import."""


class Exit(enum.IntEnum):
    """What the process returns."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    NOT_CONVERGED = 3
    SOURCE = 4
    MEMORY = 5
    MODEL_FILE = 6
    CLUSTER = 7
    INTERRUPTED = 130


_CODES: tuple[tuple[type[BaseException], Exit], ...] = (  # the first that fits
    (KeyboardInterrupt, Exit.INTERRUPTED),
    (ModelFileError, Exit.MODEL_FILE),
    (MemoryError, Exit.MEMORY),
    (InputError, Exit.USAGE),
    (ClusterError, Exit.CLUSTER),
    (OSError, Exit.SOURCE),
)


def exit_code(reason: BaseException | Status) -> Exit:
    """Return what an exception, or the end of a fit, means for the process.

    Examples
    --------
    >>> exit_code(Status.MAX_ITER).name, exit_code(SourceError("gone")).name
    ('NOT_CONVERGED', 'SOURCE')
    """
    if isinstance(reason, BaseException):
        return next((code for kind, code in _CODES if isinstance(reason, kind)), Exit.UNEXPECTED)
    ends = {Status.CONVERGED: Exit.OK, Status.INTERRUPTED: Exit.INTERRUPTED}
    return ends.get(reason, Exit.NOT_CONVERGED)


class Command(click.Command):
    """A command whose expected failures are one message and an exit code, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, and turn what it raises into what the process returns."""
        try:
            with _library_messages(quiet=ctx.params.get("quiet", False)):
                return super().invoke(ctx)
        except (StreamEMError, OSError, MemoryError, KeyboardInterrupt) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of our output went away: click ends quietly
            _tell(error, ctx.params.get("as_json", False))
            ctx.exit(int(exit_code(error)))


def _tell(error: BaseException, as_json: bool) -> None:
    """Write an expected failure: a line for humans and, if asked for, a document for machines."""
    interrupted = isinstance(error, KeyboardInterrupt)
    message = str(error) or ("Interrupted." if interrupted else repr(error))
    note(message if interrupted else f"Error: {message}")
    if as_json:
        failure = {"kind": type(error).__name__, "message": message, "exit_code": int(exit_code(error))}
        emit({"error": failure}, "", as_json)


class _Size(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """A number of bytes such as 2GB or 512MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        try:
            return parse_bytes(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


SIZE = _Size()


def missing_values(default: str | None) -> Callable[[F], F]:
    """Return the option that says what happens to rows with NaN; None: what the model was fitted with."""
    return click.option(
        "--missing",
        type=click.Choice(["raise", "drop", "marginal"]),
        default=default,
        show_default="as in the fit" if default is None else True,
        help="Rows with NaN: an error, left out, or taken for what is observed of them.",
    )


def talking(command: F) -> F:
    """Add ``--quiet`` and ``--json``."""
    command = click.option("-q", "--quiet", is_flag=True, help="No progress; errors and results only.")(
        command
    )
    return for_machines(command)


def for_machines(command: F) -> F:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="One JSON document on stdout instead of text on stderr."
    )(command)


class _Scheduler(click.ParamType):  # type: ignore[type-arg]
    """Where to run, checked before anything is read or written."""

    name = "scheduler"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from streamem.scheduling import check_scheduler

        try:
            check_scheduler(value)
        except InputError as error:
            self.fail(str(error), param, ctx)
        return value


def scheduled(command: F) -> F:
    """Add ``--scheduler``."""
    return click.option(
        "--scheduler",
        type=_Scheduler(),
        metavar="WHERE",
        help='"threads" (default), "synchronous", "processes", or a Dask cluster: tcp://HOST:8786.',
    )(command)


def reading(command: F) -> F:
    """Add what every command that goes through the data has: memory limit and scheduler."""
    command = scheduled(command)
    return click.option("--memory-limit", type=SIZE, metavar="SIZE", help="Memory to work in, such as 1GiB.")(
        command
    )


def free_to_write(place: str | Path, overwrite: bool) -> None:
    """Refuse, before any work, a result path that is taken or that cannot be written; not so a URL.

    Raises
    ------
    InputError
        Where something is there already.
    SourceError
        Where its directory is missing.
    """
    if "://" in str(place):
        return  # who opens it will tell, before any work too
    path = Path(place)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already. Pass --overwrite to replace it, or choose another path.")
    if not path.absolute().parent.is_dir():
        raise SourceError(f"{path}: the directory {path.absolute().parent} does not exist. Create it first.")


@contextmanager
def _library_messages(quiet: bool) -> Iterator[None]:
    """Show what the library logs and warns of as plain lines; how a fit ended is told by its result."""
    handler, logger = _Notes(), logging.getLogger("streamem")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.showwarning = _show_warning
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Stand in for `warnings.showwarning`."""
    note(f"Warning: {message}")


def end(code: Exit) -> None:
    """Leave with an exit code, results written."""
    click.get_current_context().exit(int(code))
