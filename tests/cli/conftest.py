import json

import numpy as np
import pytest
from click.testing import CliRunner

from streamem.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command line in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def run_json(run):
    """Run a command with ``--json``; return its exit code and its document."""

    def invoke(*arguments):
        result = run(*arguments, "--json")
        return result.exit_code, json.loads(result.stdout)

    return invoke


@pytest.fixture
def rows():
    """(600, 2): two clusters, of one third and two thirds."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(-5, 1, (200, 2)), rng.normal(5, 1, (400, 2))])


@pytest.fixture
def data(tmp_path, rows):
    """The rows in a file."""
    path = tmp_path / "rows.npy"
    np.save(path, rows)
    return path


@pytest.fixture
def model(run, data, tmp_path):
    """The file of a model fitted to the rows."""
    assert run("fit", data, "-k", 2, "-o", tmp_path / "fitted.npz", "-q").exit_code == 0
    return tmp_path / "fitted.npz"
