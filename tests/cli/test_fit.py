import json
import re
from pathlib import Path

import dask
import numpy as np
import pytest

import streamem as sem
from streamem.cli.commands import COVARIANCE_TYPES
from streamem.models.covariance import COVARIANCES


def test_fit__writes_the_model_that_the_library_would(run, data, rows):
    result = run("fit", data, "-k", 2, "--seed", 3, "-o", "m.npz")
    assert (result.exit_code, result.stdout) == (0, "")
    saved, direct = sem.load("m.npz"), sem.GaussianMixture(2, random_state=3).fit(rows)
    assert np.array_equal(saved.means_, direct.means_)
    assert np.array_equal(saved.covariances_, direct.covariances_)


def test_fit__tells_humans_how_it_went(run, data):
    text = run("fit", data, "-k", 2).stderr
    assert "Pass 1" in text
    assert "Converged" in text
    assert "0.6667" in text
    assert "model.npz" in text


def test_fit__quiet_leaves_the_result_only(run, data):
    text = run("fit", data, "-k", 2, "-q").stderr
    assert "Pass 1" not in text
    assert "Converged" in text
    assert re.search(r"thread time +[\d.]+ s reading, [\d.]+ s decoding, [\d.]+ s computing", text)


def test_fit__json_has_the_result_with_all_digits(run_json, data, rows):
    code, document = run_json("fit", data, "-k", 2)
    direct = sem.GaussianMixture(2, random_state=0).fit(rows)
    assert code == 0
    assert document["means"] == direct.means_.tolist()
    assert document["weights"] == direct.weights_.tolist()
    assert document["bic"] == direct.bic()
    assert document["status"] == "converged" and document["converged"] is True
    assert [entry["log_likelihood"] for entry in document["history"]] == direct.lower_bounds_
    assert document["history"][0]["remaining_gain"] is None  # unknown, not Infinity
    seconds = {"read_seconds", "decode_seconds", "compute_seconds"}
    assert all(seconds <= set(entry) for entry in document["history"])
    assert (document["n_samples"], document["n_features"]) == (600, 2)


def test_fit__progress_stays_on_stderr_with_json(run, data):
    result = run("fit", data, "-k", 2, "--json")
    assert "Pass 1" in result.stderr
    assert json.loads(result.stdout)["command"] == "fit"


def test_fit__that_does_not_converge_returns_3_and_writes_the_model(run_json, data, tmp_path):
    code, document = run_json("fit", data, "-k", 5, "--max-iter", 2)
    assert code == 3
    assert document["status"] == "max_iter" and document["converged"] is False
    assert sem.load(tmp_path / "model.npz").weights_.shape == (5,)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_fit__covariance_has_the_type_asked_for(run, data, kind):
    assert run("fit", data, "-k", 2, "--covariance", kind).exit_code == 0
    saved = sem.load("model.npz")
    assert (saved.covariance_type, saved.covariances_.shape) == (kind, COVARIANCES[kind].shape(2, 2))


def test_covariance_types__are_those_of_the_models():
    assert tuple(COVARIANCES) == COVARIANCE_TYPES


def test_fit__weights_count(run, data):
    np.save("w.npy", np.r_[np.zeros(200), np.ones(400)])
    assert run("fit", data, "-k", 1, "--weights", "w.npy").exit_code == 0
    assert sem.load("model.npz").means_[0] == pytest.approx([5, 5], abs=0.3)


def test_fit__uniform_component_takes_the_outliers(run, run_json, rows):
    outliers = np.random.default_rng(1).uniform(-50, 50, (60, 2))
    np.save("rows.npy", np.concatenate([rows, outliers]))
    code, document = run_json("fit", "rows.npy", "-k", 2, "--noise")
    assert (code, document["noise_weight"]) == (0, pytest.approx(60 / 660, abs=0.02))
    assert sem.load("model.npz").noise == "uniform"
    assert "noise" in run("fit", "rows.npy", "-k", 2, "--noise", "--overwrite").stderr
    assert "noise" not in run("fit", "rows.npy", "-k", 2, "--overwrite").stderr
    assert sem.load("model.npz").noise_weight_ == 0


def test_fit__labels_say_which_component_is_which(run, data):
    for first in (0, 1):
        labels = np.full(600, -1)
        labels[[0, 599]] = first, 1 - first
        np.save("y.npy", labels)
        assert run("fit", data, "-k", 2, "--labels", "y.npy", "--overwrite").exit_code == 0
        direct = sem.GaussianMixture(2, random_state=0).fit(data, labels)
        assert np.array_equal(sem.load("model.npz").means_, direct.means_)
        assert direct.means_[first, 0] < 0


@pytest.mark.parametrize(
    "option, value, name, expected",
    [
        ("--tol", "0.25", "tol", 0.25),
        ("--n-init", "3", "n_init", 3),
        ("--init", "random_from_data", "init_params", "random_from_data"),
        ("--reg-covar", "0.5", "reg_covar", 0.5),
        ("--sample-size", "500", "sample_size", 500),
        ("--acceleration", "none", "acceleration", "none"),
        ("--memory-limit", "64MiB", "memory_limit", 64 * 2**20),
        ("--max-iter", "50", "max_iter", 50),
        ("--seed", "9", "random_state", 9),
    ],
)
def test_fit__options_reach_the_estimator(run, data, option, value, name, expected):
    assert run("fit", data, "-k", 2, option, value).exit_code in (0, 3)
    assert getattr(sem.load("model.npz"), name) == expected


def test_fit__scheduler_reaches_the_pass(run, data):
    assert run("fit", data, "-k", 2, "--scheduler", "synchronous").exit_code == 0
    assert run("fit", data, "-k", 2, "--scheduler", "carrier-pigeon", "--overwrite").exit_code == 2


def test_fit__replaces_a_model_only_when_told_and_refuses_before_reading(run, tmp_path, data):
    (tmp_path / "model.npz").write_bytes(b"precious")
    assert run("fit", "no such data", "-k", 2).exit_code == 2
    assert (tmp_path / "model.npz").read_bytes() == b"precious"
    assert run("fit", data, "-k", 2, "--overwrite").exit_code == 0
    assert sem.load("model.npz").n_components == 2


@pytest.mark.parametrize(
    "arguments, code, word",
    [
        (("no-such.zarr", "-k", 2), 4, "no-such.zarr"),
        (("rows.npy", "-k", 2, "-o", "nowhere/m.npz"), 4, "nowhere"),
        (("nan.npy", "-k", 2), 2, "non-finite"),
        (("rows.npy", "-k", 2, "--memory-limit", 10), 5, "memory_limit"),
        (("rows.npy",), 2, "components"),
        (("rows.npy", "-k", 0), 2, "0"),
        (("rows.npy", "-k", 2, "--memory-limit", "lots"), 2, "2GB"),
        (("rows.npy", "-k", 2, "--reg-covar", "some"), 2, "auto"),
        (("rows.npy", "-k", 2, "--init", "magic"), 2, "magic"),
    ],
)
def test_fit__failures_have_their_codes_and_leave_no_model(run, data, tmp_path, arguments, code, word):
    bad = np.ones((50, 2))
    bad[7, 1] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    result = run("fit", *arguments)
    assert result.exit_code == code
    assert word in result.stderr
    assert list(tmp_path.glob("m*.npz")) == []


def test_fit__interrupted_after_a_pass_saves_what_it_has_and_returns_130(run, data, monkeypatch):
    from streamem.cli.meter import Meter
    from streamem.convergence import PassStarted

    take = Meter.take

    def interrupting(self, event):
        if isinstance(event, PassStarted) and event.phase == "em" and event.index == 2:
            raise KeyboardInterrupt
        return take(self, event)

    monkeypatch.setattr(Meter, "take", interrupting)
    result = run("fit", data, "-k", 6, "--acceleration", "none")
    assert result.exit_code == 130
    assert "Interrupted" in result.stderr
    assert sem.load("model.npz").n_iter_ == 2


def test_fit__precision_and_scratch_reach_the_fit(run_json, tmp_path, rows):
    np.save(tmp_path / "f4.npy", rows.astype(np.float32))
    (tmp_path / "scratch").mkdir()
    documents = [
        run_json("fit", "f4.npy", "-k", 2, "--overwrite", *more)[1]
        for more in ([], ["--precision", "float64"], ["--scratch", "scratch"])
    ]
    assert documents[0]["bic"] != documents[1]["bic"]
    assert documents[0]["means"] == documents[2]["means"]
    assert run_json("fit", "f4.npy", "-k", 2, "--overwrite", "--scratch", "missing")[0] == 4


CONFIG = """
data = "rows.npy"
components = 2
max-iter = 50
seed = 3
output = "configured.npz"
"""


def test_config__gives_options_and_the_command_line_has_the_last_word(run, data, tmp_path):
    (tmp_path / "fit.toml").write_text(CONFIG)
    assert run("fit", "-c", "fit.toml", "--seed", 4).exit_code == 0
    saved = sem.load("configured.npz")
    assert (saved.n_components, saved.max_iter, saved.random_state) == (2, 50, 4)


@pytest.mark.parametrize(
    "text, word",
    [
        ("component = 2", "unknown option 'component'. Known are "),
        ("components = 'two'", "'two'"),
        ("components = ", "is not TOML"),
    ],
)
def test_config__that_is_wrong_is_refused_with_its_place(run, data, tmp_path, text, word):
    (tmp_path / "fit.toml").write_text(text)
    result = run("fit", "rows.npy", "-k", 2, "-c", "fit.toml") if "two" not in text else None
    result = result or run("fit", "rows.npy", "-c", "fit.toml")
    assert result.exit_code == 2
    assert word in result.stderr


def test_configs__of_the_repository_name_options_that_exist(tmp_path):
    from click.testing import CliRunner

    from streamem.cli import main

    paths = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
    assert paths
    for path in paths:
        result = CliRunner().invoke(
            main, ["fit", "-c", str(path), str(tmp_path / "missing.npy"), "-o", "x.npz"]
        )
        assert result.exit_code == 4, result.output
        assert "missing.npy" in result.stderr


def test_scheduler__that_is_not_there_returns_7(run_json, data):
    with dask.config.set({"distributed.comm.timeouts.connect": "200ms"}):
        code, document = run_json("fit", data, "-k", 2, "--scheduler", "tcp://127.0.0.1:9")
    assert code == 7
    assert "no scheduler answers" in document["error"]["message"]
