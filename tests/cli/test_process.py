"""What can only be seen from outside: what a process imports, and what a signal leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("numba", "dask", "distributed", "zarr", "scipy", "matplotlib", "rich", "pandas", "sklearn")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}


def loaded_by(code):
    """Return which heavy libraries a program loads."""
    ask = f"\nimport sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + ask], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([c, "--help"] for c in ("fit", "demo", "inspect"))]
)
def test_help__loads_no_heavy_library(arguments):
    assert loaded_by(f"from streamem.cli import main; main({arguments!r}, standalone_mode=False)") == []


def test_import__loads_no_heavy_library():
    assert loaded_by("import streamem") == []


def test_inspect__of_a_file_loads_no_numba(tmp_path):
    import numpy as np

    np.save(tmp_path / "x.npy", np.ones((5, 2)))
    arguments = ["inspect", str(tmp_path / "x.npy")]
    loaded = loaded_by(f"from streamem.cli import main; main({arguments!r}, standalone_mode=False)")
    assert "numba" not in loaded


def test_module__is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "streamem", "--version"], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.stdout.startswith("streamem, version ")


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("wait_for", ["Writing", "Pass 1"])
def test_demo__a_signal_removes_the_data_and_returns_130(tmp_path, name, wait_for):
    place = tmp_path / "data"
    place.mkdir()
    size = "500MB" if wait_for == "Writing" else "4MB"
    arguments = ["demo", "--size", size, "--dir", str(place), "--tol", "0", "--max-iter", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamem", *arguments],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = next(line for line in process.stderr if line.startswith(wait_for))
    while not list(place.iterdir()):
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 130, line + rest
    assert "Interrupted" in rest
    assert "Traceback" not in rest
    assert list(place.iterdir()) == []
