import sys

import numpy as np
import pytest

import streamem as sem
from streamem.cli.curve import HEIGHT, curve


def test_select__saves_the_best_that_the_library_would_choose(run, data):
    result = run("select", data, "-k", "1:4", "--covariance", "full,diag", "--seed", 3)
    assert (result.exit_code, result.stdout) == (0, "")
    found = sem.select(data, range(1, 5), ("full", "diag"), random_state=3)
    saved = sem.load("model.npz")
    assert saved.covariance_type == found.best.covariance_type
    assert np.array_equal(saved.means_, found.best.means_)


def test_select__shows_progress_table_curve_and_best(run, data):
    text = run("select", data, "-k", "1:3", "--covariance", "full,tied").stderr
    assert "Pass 1" in text and "6 fits" in text
    assert "<- best" in text and "BIC" in text and "held-out" not in text
    assert "o full   x tied" in text
    assert "2 components" in text and "model.npz" in text


def test_select__quiet_leaves_the_result_only(run, data):
    text = run("select", data, "-k", "1,2", "-q").stderr
    assert "Pass 1" not in text
    assert "<- best" in text


def test_select__json_has_the_table_with_all_digits(run_json, data):
    code, document = run_json(
        "select", data, "-k", "1:2,700", "--criterion", "heldout", "--heldout-share", 0.3
    )
    found = sem.select(data, (1, 2, 700), criterion="heldout", heldout_share=0.3, random_state=0)
    assert code == 0
    assert (document["n_components"], document["covariance_type"]) == (found.best.n_components, "full")
    assert document["n_passes"] == found.n_passes
    for entry, row in zip(document["table"], found.table, strict=True):
        assert entry["n_components"] == row.n_components
        assert entry["n_passes"] == row.n_passes
        for name in ("bic", "aic", "icl", "heldout", "log_likelihood"):
            value = getattr(row, name)
            assert entry[name] == (value if np.isfinite(value) else None)
    assert [entry["status"] for entry in document["table"]][2] == "failed"
    assert "700" in document["table"][2]["message"]


def test_select__saves_all_and_draws_on_request(run, data, tmp_path):
    types, saving = ("--covariance", "full,tied_spherical"), ("--save-all", "all", "--plot", "c.svg")
    assert run("select", data, "-k", "1:2", *types, *saving).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "full-1.npz",
        "full-2.npz",
        "tied_spherical-1.npz",
        "tied_spherical-2.npz",
    ]
    assert sem.load("all/tied_spherical-2.npz").covariance_type == "tied_spherical"
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")


def test_select__replaces_nothing_unless_told_and_refuses_before_reading(run, data, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "mine").touch()
    (tmp_path / "c.png").touch()
    for option in (("--save-all", "all"), ("--plot", "c.png"), ("--plot", "c.wav"), ("-o", "c.png")):
        assert run("select", "no such data", "-k", 2, *option).exit_code == 2
    assert run("select", data, "-k", 2, "--save-all", "all", "--plot", "c.png", "--overwrite").exit_code == 0
    assert (tmp_path / "all" / "full-2.npz").exists()


def test_select__keeps_hopeless_models_if_told(run_json, data):
    settings = ("-k", "2,6", "--acceleration", "none", "--tol", "1e-8", "--max-iter", 60, "--overwrite")
    dropping, keeping = (run_json("select", data, *settings, *more)[1] for more in ([], ["--keep-hopeless"]))
    assert [entry["dropped"] for entry in dropping["table"]] == [False, True]
    assert [entry["dropped"] for entry in keeping["table"]] == [False, False]


@pytest.mark.parametrize(
    "option, value, name, expected",
    [
        ("--tol", "0.25", "tol", 0.25),
        ("--n-init", "3", "n_init", 3),
        ("--reg-covar", "0.5", "reg_covar", 0.5),
        ("--acceleration", "none", "acceleration", "none"),
        ("--memory-limit", "64MiB", "memory_limit", 64 * 2**20),
    ],
)
def test_select__options_reach_the_estimators(run, data, option, value, name, expected):
    assert run("select", data, "-k", 2, option, value).exit_code in (0, 3)
    assert getattr(sem.load("model.npz"), name) == expected


def test_select__weights_scheduler_and_scratch_reach_the_passes(run, run_json, data, tmp_path):
    np.save("w.npy", np.r_[np.zeros(200), np.ones(400)])
    (tmp_path / "scratch").mkdir()
    code, document = run_json(
        "select",
        data,
        "--weights",
        "w.npy",
        "--scheduler",
        "synchronous",
        "--scratch",
        "scratch",
        "-k",
        "1,2",
    )
    assert (code, document["n_components"]) == (0, 1)
    assert run("select", data, "-k", 2, "--scheduler", "carrier-pigeon", "--overwrite").exit_code == 2


@pytest.mark.parametrize(
    "arguments, code, word",
    [
        (("no-such.zarr",), 4, "no-such.zarr"),
        (("rows.npy", "--save", "nowhere/m.npz"), 4, "nowhere"),
        (("rows.npy", "--memory-limit", 10), 5, "memory_limit"),
        (("rows.npy", "-k", "0:3"), 2, ">= 1"),
        (("rows.npy", "-k", "3:1"), 2, ">= 1"),
        (("rows.npy", "-k", "few"), 2, "1:20"),
        (("rows.npy", "--covariance", "full,round"), 2, "round"),
        (("rows.npy", "--criterion", "taste"), 2, "taste"),
        (("rows.npy", "-k", 700), 2, "rows"),
        (("rows.npy", "--heldout-share", 2), 2, "heldout_share"),
    ],
)
def test_select__failures_have_their_codes_and_leave_no_model(run, data, tmp_path, arguments, code, word):
    result = run("select", *arguments)
    assert result.exit_code == code
    assert word in result.stderr
    assert list(tmp_path.glob("m*.npz")) == []


def test_select__that_does_not_converge_returns_3(run, data, tmp_path):
    assert run("select", data, "-k", 5, "--max-iter", 2).exit_code == 3
    assert sem.load(tmp_path / "model.npz").n_components == 5


def test_select__interrupted_saves_what_it_has_and_returns_130(run, data, monkeypatch):
    from streamem.cli.meter import Meter
    from streamem.convergence import PassStarted

    take = Meter.take

    def interrupting(self, event):
        if isinstance(event, PassStarted) and event.phase == "em" and event.index == 2:
            raise KeyboardInterrupt
        return take(self, event)

    monkeypatch.setattr(Meter, "take", interrupting)
    result = run("select", data, "-k", "5,6", "--acceleration", "none")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert sem.load("model.npz").n_iter_ == 2


def test_select__without_matplotlib_still_selects(run, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    result = run("select", data, "-k", 2, "--plot", "c.png")
    assert result.exit_code == 2
    assert "streamem[plot]" in result.stderr
    assert run("select", data, "-k", 2).exit_code == 0


def test_curve__puts_the_best_at_its_end():
    points = {"full": ([1, 2, 4], [90.0, 10.0, 20.0]), "diag": ([2, 4], [15.0, 12.0])}
    lines = curve(points).splitlines()
    assert len(lines) == HEIGHT + 2
    assert lines[HEIGHT - 1].strip().startswith("10 |   o")
    assert lines[HEIGHT].split() == ["1", "2", "4"]
    higher = curve(points, higher_is_better=True).splitlines()
    assert higher[0].strip().startswith("90 |o")


def test_curve__of_equal_values_or_one_is_drawn():
    assert "o" in curve({"full": ([3], [5.0])})
    assert curve({"full": ([1, 2], [5.0, 5.0])}).count("o") == 3  # two marks and the legend


def test_curve__of_many_sizes_stays_narrow():
    counts = list(range(1, 65))
    lines = curve({"full": (counts, [float(k) for k in counts])}).splitlines()
    assert max(map(len, lines)) <= 80
