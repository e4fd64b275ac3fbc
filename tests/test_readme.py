"""The README's commands and examples are what continuous integration runs."""

import doctest
import os
import re
import subprocess
from pathlib import Path

import streamem

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_ci__runs_the_readmes_test_command(tmp_path):
    """The first line that names pytest is the command, whole and alone in its code block."""
    commands = [line for line in README.splitlines() if ".venv/bin/pytest" in line]
    assert commands[0] == 'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/pytest'
    script = (ROOT / ".ci" / "run").read_text()
    assert "grep -m 1 -F '.venv/bin/pytest' README.md" in script
    assert 'eval "$command"' in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_run_command__is_one_line():
    assert (
        "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/streamem demo"
        in README.splitlines()
    )


def test_examples__run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    text = "\n".join(blocks)
    assert ">>>" in text
    parsed = doctest.DocTestParser().get_doctest(text, {}, "README", "README.md", 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(parsed)
    assert runner.summarize(verbose=False).failed == 0


def test_changelog__names_this_version():
    assert f"### {streamem.__version__}" in README
