"""What a user can import, and what importing costs."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import streamem

HEAVY = ("numba", "dask", "distributed", "zarr", "scipy", "matplotlib", "sklearn", "rich")
MODULES = [m.name for m in pkgutil.walk_packages(streamem.__path__, "streamem.") if "__main__" not in m.name]


def loaded_after(code):
    """Heavy modules in ``sys.modules`` of a new interpreter after ``code``."""
    script = f"import sys\n{code}\nprint(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_import__loads_no_heavy_library():
    assert loaded_after("import streamem") == []


def test_help__loads_no_heavy_library():
    code = "from click.testing import CliRunner\nfrom streamem.cli import main\n"
    code += "assert CliRunner().invoke(main, ['--help']).exit_code == 0"
    assert loaded_after(code) == []


@pytest.mark.parametrize("name", streamem.__all__)
def test_exports__resolve(name):
    assert getattr(streamem, name) is not None
    assert name in dir(streamem)


def test_exports__match_their_table():
    assert sorted(streamem._EXPORTS) == sorted(streamem.__all__)


def test_unknown_name__is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        streamem.nonsense  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_all__names_exist(name):
    module = importlib.import_module(name)
    for exported in getattr(module, "__all__", ()):
        assert hasattr(module, exported), exported
