import numpy as np
import pytest


@pytest.fixture
def floats(tmp_path):
    path = tmp_path / "floats.npy"
    np.save(path, np.random.default_rng(0).normal(size=(20_000, 6)).astype("f4"))
    return path


def test_plan__predicts_for_these_rows_and_for_more(run_json, floats):
    code, document = run_json("plan", floats, "-k", 2, "--workers", 40, "--threads", 8, "--rows", 1e12)
    assert code == 0
    here, there = document["prediction"], document["more_rows"]
    assert (here["n_samples"], there["n_samples"]) == (20_000, 10**12)
    assert here["layout"]["n_workers"] == 40
    assert here["layout"]["n_threads"] == here["layout"]["n_cores"] == 8
    assert there["read_bytes"] == 10**12 * 24
    assert there["total_seconds"] > here["total_seconds"] > 0


@pytest.mark.parametrize(
    "option, value, field, expected",
    [
        ("--machines", 2, "n_machines", 2),
        ("--cores", 3, "n_cores", 3.0),
        ("--bandwidth", "1MB", "bandwidth", 1e6),
        ("--network", "5MB", "network", 5e6),
        ("--price-per-hour", 2.5, "price_per_hour", 2.5),
    ],
)
def test_option__reaches_the_layout(run_json, floats, option, value, field, expected):
    _, document = run_json("plan", floats, "-k", 2, "--workers", 4, option, value)
    assert document["prediction"]["layout"][field] == expected


def test_text__is_a_table_with_the_estimates_named_so(run, floats):
    result = run("plan", floats, "-k", 2, "--price-per-hour", 2)
    assert result.exit_code == 0
    for words in (
        "20,000 rows",
        "1,000,000,000,000 rows",
        "passes, estimated",
        "work on the sample, at most",
        "total with that, estimated",
        "cost of that, estimated",
        "rule of thumb",
    ):
        assert words in result.stderr


def test_data__that_is_not_there_has_its_code(run):
    assert run("plan", "none.zarr", "-k", 2).exit_code == 4
