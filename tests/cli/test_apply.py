import numpy as np
import pytest

import streamem as sem


def test_predict__writes_what_the_library_would(run, model, data, rows):
    result = run("predict", model, data, "-o", "labels.npy")
    assert (result.exit_code, result.stdout) == (0, "")
    assert np.array_equal(np.load("labels.npy"), sem.load(model).predict(rows))
    assert "labels.npy" in result.stderr


def test_predict__writes_zarr(run, model, data, rows):
    zarr = pytest.importorskip("zarr")
    assert run("predict", model, data, "-o", "labels.zarr").exit_code == 0
    assert np.array_equal(zarr.open_array("labels.zarr", mode="r")[:], sem.load(model).predict(rows))


def test_predict__proba_writes_probabilities(run_json, model, data, rows):
    code, document = run_json("predict", model, data, "-o", "p.npy", "--proba")
    assert code == 0
    assert document["kind"] == "probabilities"
    assert np.array_equal(np.load("p.npy"), sem.load(model).predict_proba(rows))


def test_predict__replaces_only_when_told(run, model, data, tmp_path):
    (tmp_path / "labels.npy").write_bytes(b"precious")
    assert run("predict", model, data, "-o", "labels.npy").exit_code == 2
    assert (tmp_path / "labels.npy").read_bytes() == b"precious"
    assert run("predict", model, data, "-o", "labels.npy", "--overwrite").exit_code == 0
    assert np.load("labels.npy").shape == (600,)


@pytest.mark.parametrize("command", ["predict", "score"])
def test_apply__shows_progress_unless_quiet(run, model, data, command):
    assert "600 rows" in run(command, model, data, "-o", "a.npy").stderr
    assert "600 rows" not in run(command, model, data, "-o", "b.npy", "-q").stderr


@pytest.mark.parametrize("command", ["predict", "score"])
def test_apply__scheduler_and_memory_limit_count(run, model, data, command):
    assert run(command, model, data, "-o", "a.npy", "--scheduler", "carrier-pigeon").exit_code == 2
    assert run(command, model, data, "-o", "a.npy", "--memory-limit", 10).exit_code == 5
    assert run(command, model, data, "-o", "a.npy", "--scheduler", "synchronous").exit_code == 0


@pytest.mark.parametrize("command", ["predict", "score"])
@pytest.mark.parametrize("content", [None, b"not a model"])
def test_apply__what_is_no_model_returns_6(run, data, tmp_path, command, content):
    if content is not None:
        (tmp_path / "m.npz").write_bytes(content)
    result = run(command, "m.npz", data, "-o", "out.npy")
    assert result.exit_code == 6
    assert "m.npz" in result.stderr


def test_score__figures_are_those_of_the_library(run_json, model, data, rows):
    code, document = run_json("score", model, data)
    gm = sem.load(model)
    assert code == 0
    figures = [document[key] for key in ("log_likelihood", "bic", "aic", "icl")]
    assert figures == pytest.approx([gm.score(rows), gm.bic(rows), gm.aic(rows), gm.icl(rows)], rel=1e-14)
    assert document["output"] is None


def test_score__takes_one_pass(run, model, data):
    assert run("score", model, data).stderr.count("Reading") == 1


def test_score__weights_count(run_json, model, data, rows):
    weights = np.r_[np.zeros(200), np.full(400, 2.0)]
    np.save("w.npy", weights)
    _, document = run_json("score", model, data, "--weights", "w.npy")
    assert document["log_likelihood"] == pytest.approx(sem.load(model).score(rows[200:]), rel=1e-12)


def test_score__writes_the_score_of_each_row_if_asked(run_json, model, data, rows):
    code, document = run_json("score", model, data, "-o", "s.npy")
    assert code == 0
    assert np.load(document["output"]).mean() == pytest.approx(document["log_likelihood"], rel=1e-12)


def test_score__tells_humans(run, model, data):
    text = run("score", model, data, "-q").stderr
    assert all(word in text for word in ("log-lik/row", "BIC", "AIC"))


@pytest.fixture
def gappy(tmp_path, rows):
    """The rows in a file, a tenth of the values missing."""
    x = rows.copy()
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    np.save(tmp_path / "gappy.npy", x)
    return tmp_path / "gappy.npy"


def test_missing__is_an_error_unless_told_otherwise(run, run_json, gappy):
    x = np.load(gappy)
    assert run("fit", gappy, "-k", 2).exit_code == 2
    code, document = run_json("fit", gappy, "-k", 2, "--missing", "marginal", "-o", "m.npz")
    assert code == 0
    assert document["n_left_out"] == np.isnan(x).all(axis=1).sum()
    assert document["n_samples"] == len(x) - document["n_left_out"]
    assert run("predict", "m.npz", gappy, "-o", "l.npy").exit_code == 0
    assert np.array_equal(np.load("l.npy"), sem.load("m.npz").predict(x))
    assert run("predict", "m.npz", gappy, "-o", "d.npy", "--missing", "drop").exit_code == 0
    assert np.array_equal(np.load("d.npy") == -1, np.isnan(x).any(axis=1))
    assert run("score", "m.npz", gappy, "--missing", "raise").exit_code == 2
    _, document = run_json("score", "m.npz", gappy)
    assert document["log_likelihood"] == pytest.approx(sem.load("m.npz").score(x), rel=1e-14)


def test_impute__writes_what_the_library_would(run, run_json, model, gappy):
    x = np.load(gappy)
    code, document = run_json("impute", model, gappy, "-o", "f.npy")
    assert code == 0
    assert np.array_equal(np.load(document["output"]), sem.load(model).impute(x))
    assert run("impute", model, gappy, "-o", "f.npy", "--draws", "--seed", 3).exit_code == 2
    assert run("impute", model, gappy, "-o", "f.npy", "--draws", "--seed", 3, "--overwrite").exit_code == 0
    assert np.array_equal(np.load("f.npy"), sem.load(model).impute(x, draws=True, random_state=3))
