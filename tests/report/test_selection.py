"""The picture of a selection."""

import sys

import numpy as np
import pytest

import streamem as sem
from streamem.report.selection import check_plot, plot_selection

X = np.concatenate([np.random.default_rng(0).normal(m, 1, (100, 1)) for m in (-5, 5)])


@pytest.fixture(scope="module")
def found():
    return sem.select(X, (1, 2, 3), ("full", "tied"), random_state=0)


@pytest.mark.parametrize("name, begins", [("curve.png", b"\x89PNG"), ("curve.svg", b"<?xml")])
def test_picture__is_of_the_kind_that_its_name_says(found, tmp_path, name, begins):
    assert plot_selection(found, tmp_path / name).read_bytes().startswith(begins)


def test_picture__shows_each_curve_and_the_best(found, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self.axes[0]))
    plot_selection(found, tmp_path / "curve.png")
    (axes,) = drawn
    full, tied, best = axes.lines
    assert full.get_ydata().tolist() == [row.bic for row in found.table[:3]]
    assert tied.get_ydata().tolist() == [row.bic for row in found.table[3:]]
    assert best.get_xdata()[0] == found.best.n_components == 2
    assert axes.get_ylabel() == "BIC"


def test_picture__of_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(sem.InputError, match=r"\.wav"):
        check_plot(tmp_path / "curve.wav")
    with pytest.raises(sem.InputError, match="without suffix"):
        check_plot(tmp_path / "curve")


def test_picture__that_cannot_be_written_is_a_source_error(found, tmp_path):
    with pytest.raises(sem.SourceError, match="nowhere"):
        plot_selection(found, tmp_path / "nowhere" / "curve.png")


def test_picture__without_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    with pytest.raises(sem.InputError, match=r"streamem\[plot\]"):
        check_plot(tmp_path / "curve.png")
