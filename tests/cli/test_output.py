import json
import math

import numpy as np

from streamem.cli.output import emit, pairs, plain, table


def test_emit__json_is_one_document_on_stdout_with_all_digits(capsys):
    third = 1 / 3
    emit({"a": np.array([third]), "b": np.float32(0.5), "c": None, "d": (1, True)}, "text", as_json=True)
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {"a": [third], "b": 0.5, "c": None, "d": [1, True]}


def test_emit__text_goes_to_stderr(capsys):
    emit({"a": 1}, "text", as_json=False)
    assert capsys.readouterr() == ("", "text\n")


def test_plain__has_no_nan_and_no_infinity():
    assert plain([math.nan, math.inf, np.float64("-inf"), np.array(np.nan)]) == [None] * 4


def test_table__aligns_right():
    lines = table(("a", "long heading"), [("10", "x"), ("7", "y")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].endswith("  x")


def test_pairs__aligns_values():
    first, second = pairs({"a": 1, "longer": 2}).splitlines()
    assert first.index("1") == second.index("2")
