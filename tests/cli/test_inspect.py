import numpy as np
import pytest

import streamem as sem


def test_inspect__data_has_shape_bytes_and_planned_blocks(run_json, data):
    code, document = run_json("inspect", data, "--memory-limit", "64MiB")
    assert code == 0
    source = sem.as_source(str(data), memory_limit=64 * 2**20)
    assert (document["kind"], document["n_samples"], document["n_features"]) == ("data", 600, 2)
    assert document["n_bytes"] == 600 * 2 * 8
    assert document["n_blocks"] == len(source.blocks())
    assert document["block_bytes"] == source.block_bytes
    assert document["memory_limit"] == 64 * 2**20


@pytest.mark.parametrize("version", [2, 3])
def test_inspect__zarr_shows_how_it_is_stored(run_json, run, tmp_path, version):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(1000, 4), chunks=(300, 4), dtype="float32", zarr_format=version
    )
    array[:] = np.arange(4000).reshape(1000, 4)
    _, document = run_json("inspect", "a.zarr")
    store = document["store"]
    assert (store["chunks"], store["n_chunks"], store["dtype"]) == ([300, 4], 4, "float32")
    assert 0 < store["stored_bytes"] < document["n_bytes"]
    text = run("inspect", "a.zarr").stderr
    assert "300 x 4" in text
    assert "1,000 x 4" in text


def test_inspect__weights_are_checked_against_the_rows(run, data):
    np.save("w.npy", np.ones(7))
    result = run("inspect", data, "--weights", "w.npy")
    assert result.exit_code == 2
    assert "7" in result.stderr


def test_inspect__model_has_its_parameters(run_json, model):
    code, document = run_json("inspect", model)
    gm = sem.load(model)
    assert code == 0
    assert document["kind"] == "model"
    assert document["weights"] == gm.weights_.tolist()
    assert document["means"] == gm.means_.tolist()
    assert document["covariances"] == gm.covariances_.tolist()
    assert document["converged"] is True


def test_inspect__model_lists_components_heaviest_first(run, model):
    lines = run("inspect", model).stderr.splitlines()
    table = [line.split() for line in lines[lines.index("") + 2 :]]
    assert [row[1] for row in table] == ["0.6667", "0.3333"]


@pytest.mark.parametrize("path, code", [("none.zarr", 4), ("none.npy", 4), ("none.npz", 6)])
def test_inspect__what_is_not_there_has_the_code_of_its_kind(run, path, code):
    assert run("inspect", path).exit_code == code
