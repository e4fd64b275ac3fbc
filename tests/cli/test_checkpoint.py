"""``streamem fit --checkpoint``: the same command goes on, whatever ended it."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import streamem as sem
from tests.cli.test_process import ENVIRONMENT

MANY = ("-k", 4, "--acceleration", "none", "--tol", 0, "--max-iter")


def test_same_command__goes_on(run_json, data):
    assert run_json("fit", data, *MANY, 9, "-o", "whole.npz")[0] == 3
    assert run_json("fit", data, *MANY, 4, "--checkpoint", "run", "--resume", "auto")[0] == 3
    code, document = run_json("fit", data, *MANY, 9, "--checkpoint", "run", "--resume", "auto")
    assert (code, document["n_passes"]) == (3, 9)
    assert np.array_equal(sem.load("model.npz").means_, sem.load("whole.npz").means_)


def test_select__goes_on(run_json, data):
    sweep = ("select", data, "-k", "1:3", "--acceleration", "none", "--tol", 0)
    whole = run_json(*sweep, "--max-iter", 6, "--save", "whole.npz")[1]
    run_json(*sweep, "--max-iter", 3, "--checkpoint", "run")
    document = run_json(*sweep, "--max-iter", 6, "--checkpoint", "run", "--resume", "auto")[1]
    assert document["table"] == whole["table"]


def test_progress__counts_on(run, data):
    run("fit", data, *MANY, 2, "--checkpoint", "run")
    text = run("fit", data, *MANY, 4, "--checkpoint", "run", "--resume", "yes").stderr
    assert "Pass 3" in text and "Pass 1 " not in text


def test_resume__does_not_replace_another_model(run, data, tmp_path):
    (tmp_path / "model.npz").write_bytes(b"precious")
    assert run("fit", data, *MANY, 2, "--checkpoint", "run", "--resume", "auto").exit_code == 2
    assert (tmp_path / "model.npz").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--checkpoint", "run"), "holds a fit already"),
        (("--checkpoint", "run", "--resume", "yes", "--seed", 1), "random_state was"),
        (("--checkpoint", "none", "--resume", "yes"), "no checkpoint"),
        (("--resume", "auto"), "Pass checkpoint as well"),
    ],
)
def test_refusals__are_errors_of_usage(run, data, arguments, words):
    run("fit", data, *MANY, 2, "--checkpoint", "run", "-o", "first.npz")
    result = run("fit", data, *MANY, 4, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_damage__is_told(run, data, tmp_path):
    run("fit", data, *MANY, 3, "--checkpoint", "run")
    newest = max((tmp_path / "run").glob("pass-*"))
    newest.write_bytes(b"")
    result = run("fit", data, *MANY, 4, "--checkpoint", "run", "--resume", "yes")
    assert newest.name in result.stderr and "Going back" in result.stderr
    assert sem.load("model.npz").n_iter_ == 4


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signal__ends_the_fit_with_a_checkpoint_and_a_model(run, data, tmp_path, name):
    command = [str(data), *map(str, MANY), "100000", "--checkpoint", "run", "--resume", "auto"]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamem", "fit", *command],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = [next(line for line in process.stderr if line.startswith("Pass 5"))]
    process.send_signal(getattr(signal, name))
    lines += process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 130, lines
    assert not any("Traceback" in line for line in lines)
    done = sem.load(tmp_path / "model.npz").n_iter_
    newest = int(max((tmp_path / "run").glob("pass-*")).name.split("-")[1])
    assert newest in (done - 1, done)  # an M-step that is interrupted ends no pass
    assert run("fit", data, *MANY, done + 2, "--checkpoint", "run", "--resume", "yes").exit_code == 3
    assert sem.load(tmp_path / "model.npz").n_iter_ == done + 2
