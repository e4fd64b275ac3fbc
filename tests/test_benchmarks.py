"""Every benchmark runs once, tiny, so that none can rot. No timing decides anything."""

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("bench_*.py"))


def test_benchmarks__are_found():
    assert len(NAMES) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_benchmark__runs_and_writes_its_results(name, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    out = tmp_path / "out.json"
    importlib.import_module(name).main(["--tiny", "--repeats", "1", "--out", str(out)])
    sys.modules.pop(name)
    written = json.loads(out.read_text())
    assert written["results"]
    assert written["machine"]["cores"] >= 1
    assert len(capsys.readouterr().out.splitlines()) >= 2
