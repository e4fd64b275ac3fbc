"""Imports point downwards: data → E-step → reduce → M-step can be read off the import table."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "streamem"

BOTTOM = {"errors", "protocols", "convergence", "sizes"}
ALLOWED = {  # layer: (layers of ours, libraries)
    "errors": (set(), set()),
    "sizes": ({"errors"}, set()),
    "protocols": (set(), {"numpy"}),
    "convergence": (set(), {"numpy"}),
    "em": ({"protocols", "convergence", "acceleration", "errors"}, {"numpy"}),
    "acceleration": ({"protocols", "convergence"}, {"numpy"}),
    "corrected_sample": ({"acceleration", "protocols", "convergence", "errors"}, {"numpy"}),
    "degeneracy": ({"acceleration", "protocols", "convergence", "errors"}, {"numpy"}),
    "moves": ({"acceleration", "protocols", "convergence"}, {"numpy"}),
    "kernels": (set(), {"numpy", "numba", "llvmlite"}),
    "initialization": ({"protocols", "kernels", "errors"}, {"numpy"}),
    "models": ({"kernels", "initialization", "protocols", "convergence", "errors"}, {"numpy", "scipy"}),
    "retries": ({"errors"}, set()),
    "watching": (set(), set()),
    "tree": (set(), set()),
    "cluster": ({"watching", "protocols", "errors"}, {"cloudpickle", "dask", "distributed"}),
    "scheduling": ({"cluster", "tree", "watching", "protocols", "errors"}, {"dask", "threadpoolctl"}),
    "reduce": (
        {"scheduling", "cluster", "tree", "watching", "retries", "protocols", "errors"},
        {"numpy", "dask"},
    ),
    "persistence": ({"protocols", "convergence", "errors"}, {"numpy", "fsspec"}),
    "sources": ({"protocols", "errors"}, {"numpy", "zarr", "numcodecs", "dask", "distributed"}),
    "sinks": ({"protocols", "errors"}, {"numpy", "zarr", "fsspec"}),
    "estimators": (
        BOTTOM
        | {"em", "acceleration", "corrected_sample", "degeneracy", "moves", "initialization", "models"}
        | {"reduce", "scheduling", "tree", "persistence", "sources", "sinks"},
        {"numpy", "sklearn"},
    ),
    "selection": (BOTTOM | {"estimators", "models", "persistence"}, {"numpy"}),
    "report": (BOTTOM | {"selection"}, {"numpy", "matplotlib"}),
    "cli": (
        BOTTOM | {"estimators", "selection", "report", "sources", "persistence", "scheduling"},
        {"numpy", "click", "rich", "scipy", "zarr", "threadpoolctl"},
    ),
}


def layer_of(path):
    """The first part of a module's path below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every module that a file imports, at any depth; names under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "streamem":
                yield from (f"streamem.{alias.name}" for alias in node.names)
            else:
                yield node.module


FILES = sorted(p for p in PACKAGE.rglob("*.py") if layer_of(p) not in ("__init__", "__main__"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports__point_downwards(path):
    layer = layer_of(path)
    ours, libraries = ALLOWED[layer]
    for module in imports(path):
        top, *rest = module.split(".")
        if top == "streamem":
            target = rest[0]
            assert target in ours | {layer, "__version__"} or (layer == "cli" and target not in ALLOWED), (
                module
            )
        elif top not in sys.stdlib_module_names:
            assert top in libraries, f"{layer} imports {module}"


def test_layers__have_no_catch_all_module():
    names = {p.stem for p in PACKAGE.iterdir()}
    assert not names & {"core", "utils", "base", "helpers", "common"}


def test_em__is_read_without_numba_dask_or_zarr():
    libraries = {m.split(".")[0] for m in imports(PACKAGE / "em.py")}
    assert not libraries & {"numba", "dask", "zarr", "sklearn", "distributed"}
