import json

import dask
import numpy as np
import pytest

import streamem as sem
from streamem.cli import machine
from streamem.cli.demo import settings as demo_settings

SMALL = ("demo", "--rows", 6000, "--columns", 3, "--components", 3, "--dir", "data", "--seed", 1)


@pytest.fixture(autouse=True)
def place(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_demo__recovers_the_truth_and_says_so(run, place):
    result = run(*SMALL)
    assert (result.exit_code, result.stdout) == (0, "")
    for word in ("Writing", "Sampling", "Pass 1", "true weight", "Truth recovered", "passes", "peak memory"):
        assert word in result.stderr
    assert "streamem-demo.npz" in result.stderr


def test_demo__removes_the_data_and_leaves_the_model(run, place):
    run(*SMALL)
    assert list(place.iterdir()) == []
    assert sem.load("streamem-demo.npz").weights_.shape == (3,)


def test_demo__keeps_the_data_if_asked_and_says_where(run_json):
    zarr = pytest.importorskip("zarr")
    _, document = run_json(*SMALL, "--keep")
    array = zarr.open_array(document["data"], mode="r")
    assert (array.shape, array.dtype) == ((6000, 3), np.float32)
    assert np.isfinite(array[:]).all()


def test_demo__json_has_truth_result_and_resources(run_json):
    code, document = run_json(*SMALL)
    gm = sem.load(document["model"])
    assert code == 0
    assert document["recovered"] is True and document["worst_error"] <= 5
    assert sorted(document["weights"]) == sorted(gm.weights_.tolist())
    assert document["true_weights"] == sorted(document["true_weights"], reverse=True)
    assert len(document["mean_errors"]) == len(document["weight_errors"]) == 3
    assert document["n_passes"] == len(document["history"])
    assert document["n_bytes"] == 6000 * 3 * 4
    assert document["memory_limit"] == 2**30
    assert document["data"] is None


def test_demo__looks_for_the_cluster_before_it_writes(run, place):
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        result = run(*SMALL, "--keep", "--scheduler", "tcp://127.0.0.1:9")
    assert result.exit_code == 7
    assert "no scheduler answers" in result.stderr and "Writing" not in result.stderr
    assert list(place.iterdir()) == []


def test_demo__same_seed_same_result(run_json):
    documents = [run_json(*SMALL)[1] for _ in range(2)]
    other = run_json(*SMALL[:-1], 2)[1]
    assert documents[0]["weights"] == documents[1]["weights"]
    assert documents[0]["true_weights"] != other["true_weights"]


def test_demo__says_plainly_when_the_truth_was_not_recovered(run_json, run, monkeypatch):
    from streamem.cli.demo import mixture

    draw = mixture.draw_rows
    monkeypatch.setattr(mixture, "draw_rows", lambda *arguments: draw(*arguments) + np.float32(1))
    result = run(*SMALL, "--json")
    assert json.loads(result.stdout)["recovered"] is False
    assert "Truth NOT recovered" in run(*SMALL).stderr


def test_demo__that_does_not_converge_returns_3_with_its_table(run, place):
    result = run(*SMALL, "--max-iter", 1)
    assert result.exit_code == 3
    assert "max_iter" in result.stderr
    assert "true weight" in result.stderr
    assert list(place.iterdir()) == []


def test_demo__size_is_bytes_of_float32(run_json):
    arguments = ("demo", "--columns", 3, "--components", 2, "--dir", "data")
    assert run_json(*arguments, "--size", "60kB")[1]["n_samples"] == 5000


def test_demo__size_and_rows_exclude_each_other(run):
    result = run("demo", "--size", "1GB", "--rows", 10)
    assert result.exit_code == 2
    assert "--rows" in result.stderr


def test_demo__is_2_gb_by_default(run, monkeypatch):
    monkeypatch.setattr(machine, "free_disk", lambda directory: 0)
    assert "2.11 GB" in run("demo", "--dir", "data").stderr  # 239 chunks of 8 MiB, and a margin


def refused(run, place, code, *words):
    result = run(*SMALL)
    assert result.exit_code == code
    assert all(word in result.stderr for word in words)
    assert list(place.iterdir()) == []


def test_demo__refuses_a_disk_that_is_too_small_with_the_numbers(run, place, monkeypatch):
    monkeypatch.setattr(machine, "free_disk", lambda directory: 75_000)
    refused(run, place, 4, "75 kB", "75.6 kB", "--dir")


def test_demo__refuses_memory_that_is_not_there_with_the_numbers(run, place, monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 10**9)
    refused(run, place, 5, "1 GB", "1.07 GB", "--memory-limit")


def test_demo__counts_data_that_would_live_in_memory(run, place, monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 2**30 + 71_999)
    monkeypatch.setattr(machine, "in_memory", lambda directory: True)
    refused(run, place, 5, "--dir")
    monkeypatch.setattr(machine, "in_memory", lambda directory: False)
    assert run(*SMALL).exit_code == 0


def test_demo__goes_on_where_the_system_does_not_know_its_memory(run, monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: None)
    monkeypatch.setattr(machine, "peak_memory", lambda: None)
    result = run(*SMALL)
    assert result.exit_code == 0
    assert "unknown" in result.stderr


def test_demo__refuses_too_few_rows(run, place):
    result = run("demo", "--rows", 500, "--dir", "data")
    assert result.exit_code == 2
    assert "528" in result.stderr  # 16 (32 + 1)


def test_demo__replaces_its_own_model_but_no_other(run, tmp_path):
    assert [run(*SMALL).exit_code for _ in range(2)] == [0, 0]
    (tmp_path / "mine.npz").write_bytes(b"precious")
    assert run(*SMALL, "--model", "mine.npz").exit_code == 2
    assert (tmp_path / "mine.npz").read_bytes() == b"precious"
    assert run(*SMALL, "--model", "mine.npz", "--overwrite").exit_code == 0
    assert sem.load("mine.npz").weights_.shape == (3,)


@pytest.mark.parametrize("stage", ["write", "sample", "em"])
@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (OSError("disk full"), 4)])
def test_demo__removes_the_data_whenever_it_fails(run, place, monkeypatch, stage, error, code):
    from streamem.cli.meter import Meter
    from streamem.convergence import PassStarted

    take, seen = Meter.take, []

    def failing(self, event):
        if isinstance(event, PassStarted) and event.phase == stage:
            seen.append(len(list(place.iterdir())))
            raise error
        return take(self, event)

    monkeypatch.setattr(Meter, "take", failing)
    assert run(*SMALL).exit_code == code
    assert seen == [1]
    assert list(place.iterdir()) == []


def test_demo__interrupted_between_passes_leaves_no_model(run, place, tmp_path, monkeypatch):
    from streamem.cli.meter import Meter
    from streamem.convergence import PassStarted

    take = Meter.take

    def interrupting(self, event):
        if isinstance(event, PassStarted) and event.phase == "em" and event.index == 1:
            raise KeyboardInterrupt
        return take(self, event)

    monkeypatch.setattr(Meter, "take", interrupting)
    assert run(*SMALL).exit_code == 130
    assert list(place.iterdir()) == []
    assert not (tmp_path / "streamem-demo.npz").exists()


@pytest.mark.parametrize("rows, chunks", [(15_625_000, 239), (65_536, 1), (65_537, 2)])
def test_chunks__hold_8_mib_over_all_columns_and_the_last_is_stored_whole(rows, chunks):
    others = dict.fromkeys(demo_settings.DemoSettings.__dataclass_fields__)
    settings = demo_settings.DemoSettings(**{**others, "rows": rows, "columns": 32})
    assert settings.chunk_rows * 32 * 4 == 8 * 2**20
    assert settings.stored_bytes == chunks * 8 * 2**20
