import errno
import json
import logging
import warnings

import click
import pytest
from click.testing import CliRunner

from streamem.cli import main
from streamem.cli.commands import Command, Exit, end, exit_code, for_machines, talking
from streamem.convergence import Status
from streamem.errors import (
    ConvergenceWarning,
    DegenerateComponentError,
    InputError,
    MemoryLimitError,
    ModelFileError,
    NonFiniteError,
    SourceError,
)

CODES = [
    (InputError("x"), 2),
    (NonFiniteError("x"), 2),
    (SourceError("x"), 4),
    (PermissionError("x"), 4),
    (MemoryLimitError("x"), 5),
    (MemoryError("x"), 5),
    (ModelFileError("x"), 6),
    (KeyboardInterrupt(), 130),
    (DegenerateComponentError("x"), 1),
    (Status.CONVERGED, 0),
    (Status.MAX_ITER, 3),
    (Status.FELL, 3),
    (Status.CALLBACK, 3),
    (Status.INTERRUPTED, 130),
]


def command_that(act):
    """Return a command that does this."""

    @click.command(cls=Command)
    @talking
    def command(as_json, quiet):
        act()

    return command


def failing(error):
    def act():
        raise error

    return command_that(act)


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--size", "1MB"),
        ("fit", "none.npy", "-k", 2),
        ("select", "none.npy", "-k", "1:2"),
        ("predict", "none.npz", "none.npy", "-o", "labels.zarr"),
        ("score", "none.npz", "none.npy"),
        ("impute", "none.npz", "none.npy", "-o", "filled.zarr"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_scheduler__is_checked_before_anything_is_read_or_written(run, arguments, tmp_path):
    result = run(*arguments, "--scheduler", "thread")
    assert result.exit_code == 2
    assert "expected one of threads, synchronous, processes, or an address" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reason, code", CODES)
def test_exit_code__is_as_documented(reason, code):
    assert exit_code(reason) == code


def test_help__documents_every_exit_code():
    text = CliRunner().invoke(main, ["--help"]).output
    after = text[text.index("Exit codes:") :]
    assert [int(line.split()[0]) for line in after.splitlines()[1:] if line.strip()] == sorted(Exit)


def test_help__says_in_full_what_each_command_does():
    text = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    listed = text[text.index("Commands:") : text.index("Results go")]
    assert {line.split()[0] for line in listed.splitlines()[1:] if line.strip()} == set(main.commands)
    assert "..." not in listed


@pytest.mark.parametrize(
    "error, code", [(reason, code) for reason, code in CODES if not isinstance(reason, Status)]
)
def test_failure__is_a_line_on_stderr_and_an_exit_code(error, code):
    result = CliRunner().invoke(failing(error))
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("Interrupted" if code == 130 else "Error: ")
    assert len(result.stderr.splitlines()) == 1


def test_failure__with_json_is_a_document_too():
    result = CliRunner().invoke(failing(NonFiniteError("Block 3: NaN.")), ["--json"])
    expected = {"kind": "NonFiniteError", "message": "Block 3: NaN.", "exit_code": 2}
    assert json.loads(result.stdout) == {"error": expected}
    assert result.stderr == "Error: Block 3: NaN.\n"


def test_failure__that_nobody_expects_keeps_its_traceback():
    result = CliRunner().invoke(failing(ZeroDivisionError("bug")))
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_failure__of_a_closed_pipe_is_silent():
    result = CliRunner().invoke(failing(BrokenPipeError(errno.EPIPE, "gone")))
    assert "Error" not in result.stderr


def test_end__returns_the_code():
    assert CliRunner().invoke(command_that(lambda: end(Exit.NOT_CONVERGED))).exit_code == 3
    assert CliRunner().invoke(command_that(lambda: end(Exit.OK))).exit_code == 0


def test_warnings__are_lines_for_humans_even_when_quiet():
    def act():
        warnings.warn("chunks are missing", UserWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = CliRunner().invoke(command_that(act), ["-q"])
    assert result.stderr == "Warning: chunks are missing\n"


def test_warnings__of_convergence_are_told_by_the_result_alone():
    def act():
        warnings.warn("slow", ConvergenceWarning, stacklevel=1)

    assert CliRunner().invoke(command_that(act)).output == ""


@pytest.mark.parametrize("arguments, expected", [([], "Compiling\nBad\n"), (["-q"], "Bad\n")])
def test_log__is_lines_for_humans(arguments, expected):
    logger = logging.getLogger("streamem")
    before = logger.level, list(logger.handlers)

    def act():
        logger.info("Compiling")
        logger.warning("Bad")

    assert CliRunner().invoke(command_that(act), arguments).stderr == expected
    assert (logger.level, logger.handlers) == before


def test_for_machines__alone_is_enough():
    @click.command(cls=Command)
    @for_machines
    def command(as_json):
        raise InputError("no")

    assert CliRunner().invoke(command, ["--json"]).exit_code == 2
