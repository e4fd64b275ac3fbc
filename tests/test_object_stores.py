"""Rows and results in an S3-compatible object store, on loopback; its credentials are told to nobody."""

import contextlib
import io
import logging
import urllib.request

import numpy as np
import pytest
import zarr

import streamem as sem

from .cluster import in_process_cluster

pytest.importorskip("s3fs")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # s3fs leaves sessions open
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

KEY, SECRET = "AKIAVERYKEY", "very-secret-indeed"
RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(-3, 1, (3000, 3)), RNG.normal(3, 1, (6000, 3))])
X = X[RNG.permutation(len(X))]


@pytest.fixture(scope="module")
def endpoint():
    """The address of an object store that lives in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="module")
def options(endpoint):
    """What opens the store."""
    return {"key": KEY, "secret": SECRET, "endpoint_url": endpoint}


@pytest.fixture
def bucket(endpoint, options):
    """The URL of a new bucket that holds the rows as ``x.zarr``; whatever was in the store is gone."""
    reset = urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()  # what the store holds outlives its server
    s3(options).mkdir("rows")
    array = zarr.create_array(
        "s3://rows/x.zarr", shape=X.shape, chunks=(1000, 3), dtype="f8", storage_options=options
    )
    array[:] = X
    return "s3://rows"


def s3(options):
    """The object store's files, as they are now."""
    import s3fs

    store = s3fs.S3FileSystem(**options)
    store.invalidate_cache()
    return store


def files(options, place):
    """Names of what lies at a place."""
    store = s3(options)
    return sorted(name.removeprefix(f"{place}/") for name in store.find(place))


@pytest.mark.filterwarnings("ignore::streamem.ConvergenceWarning")
@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_all_of_it__works_on_an_object_store(bucket, options, tmp_path, caplog, where):
    """Rows, checkpoints and results there; nothing of the credentials in any of them, nor in the model."""
    zarr.create_array(tmp_path / "x.zarr", shape=X.shape, chunks=(1000, 3), dtype="f8")[:] = X
    settings = {"acceleration": "none", "tol": 0, "random_state": 0}
    here = sem.GaussianMixture(2, max_iter=6, **settings).fit(str(tmp_path / "x.zarr"))
    rows, place = f"{bucket}/x.zarr", f"{bucket}/{where}"
    with contextlib.ExitStack() as stack, caplog.at_level(logging.DEBUG, "streamem"):
        there = {"storage_options": options}
        if where == "cluster":
            there["client"] = stack.enter_context(in_process_cluster(2))
        kept = {"checkpoint": f"{place}/run", **there}
        sem.GaussianMixture(2, max_iter=4, **settings).fit(rows, **kept)
        gm = sem.GaussianMixture(2, max_iter=6, **settings).fit(rows, resume=True, **kept)
        assert gm.lower_bounds_ == here.lower_bounds_
        for method in ("predict", "predict_proba", "score_samples"):
            out = f"{place}/{method}.zarr"
            result = getattr(gm, method)(rows, out=out, **there)
            np.testing.assert_array_equal(result[:], getattr(here, method)(X))
            stored = zarr.open_array(out, mode="r", storage_options=options)
            np.testing.assert_array_equal(stored[:], result[:])
        np.testing.assert_array_equal(gm.impute(rows, **there), X)
        assert gm.score(rows, **there) == here.score(str(tmp_path / "x.zarr"))
        assert sem.select(rows, (1, 2), random_state=0, **there).best.n_components == 2
    gm.save(tmp_path / "model.npz")
    for name in files(options, f"rows/{where}/run"):
        archive = np.load(io.BytesIO(s3(options).cat_file(f"rows/{where}/run/{name}")))
        content = b"".join(archive[part].tobytes() for part in archive)
        assert SECRET.encode() not in content and KEY.encode() not in content
    with np.load(tmp_path / "model.npz") as model:
        content = b"".join(model[name].tobytes() for name in model)
        assert SECRET.encode() not in content and KEY.encode() not in content
    assert SECRET not in caplog.text and KEY not in caplog.text


def test_predict__that_fails_leaves_nothing_in_an_object_store(bucket, options):
    spoiled = X.copy()
    spoiled[-1, 0] = np.nan
    gm = sem.GaussianMixture(2, random_state=0).fit(X)
    with in_process_cluster(2) as client, pytest.raises(sem.NonFiniteError):
        gm.predict(spoiled, out=f"{bucket}/failed.zarr", client=client, storage_options=options)
    assert files(options, "rows/failed.zarr") == []


def test_rows_and_results__may_be_in_different_kinds_of_places(bucket, options, tmp_path):
    gm = sem.GaussianMixture(2, random_state=0).fit(X)
    out = gm.predict(X, out=f"{bucket}/mixed.zarr", storage_options=options)
    np.testing.assert_array_equal(out[:], gm.predict(X))
    labels = gm.predict(f"{bucket}/x.zarr", out=tmp_path / "labels.npy", storage_options=options)
    np.testing.assert_array_equal(labels, gm.predict(X))
    own = sem.GaussianMixture(2, random_state=0)
    np.testing.assert_array_equal(own.fit_predict(f"{bucket}/x.zarr", storage_options=options), gm.predict(X))
    assert sem.plan(f"{bucket}/x.zarr", 2, storage_options=options).n_samples == len(X)


def test_options__that_open_nothing_are_refused(bucket, options):
    gm = sem.GaussianMixture(2, random_state=0).fit(X)
    with pytest.raises(sem.InputError, match="nothing here is given by a URL"):
        gm.predict(X, storage_options=options)
    rows = sem.as_source(f"{bucket}/x.zarr", storage_options=options)
    with pytest.raises(sem.InputError, match="open already"):
        sem.as_source(rows, storage_options=options)


def test_fit__reads_an_object_store_from_worker_processes(bucket, options):
    import dask

    rows = sem.as_source(f"{bucket}/x.zarr", storage_options=options)
    here = sem.GaussianMixture(2, random_state=0).fit(rows, scheduler="synchronous")
    with dask.config.set(num_workers=1):
        there = sem.GaussianMixture(2, random_state=0).fit(rows, scheduler="processes")
    assert there.lower_bounds_ == here.lower_bounds_


@pytest.mark.filterwarnings("ignore::streamem.ConvergenceWarning")
def test_checkpoints__are_kept_in_an_object_store(bucket, options, caplog):
    rows = sem.as_source(f"{bucket}/x.zarr", storage_options=options)
    where = sem.Checkpoint(f"{bucket}/run", keep=2, storage_options=options)
    settings = {"acceleration": "none", "tol": 0, "random_state": 0}
    whole = sem.GaussianMixture(3, max_iter=6, **settings).fit(rows)
    sem.GaussianMixture(3, max_iter=4, **settings).fit(rows, checkpoint=where)
    again = sem.GaussianMixture(3, max_iter=6, **settings).fit(rows, checkpoint=where, resume=True)
    assert again.lower_bounds_ == whole.lower_bounds_
    np.testing.assert_array_equal(again.covariances_, whole.covariances_)
    import s3fs

    names = s3fs.S3FileSystem(**options).ls("rows/run", refresh=True)
    assert [name.split("/")[-1][:11] for name in sorted(names)] == [
        "pass-000005",
        "pass-000006",
        "sample-0000",
    ]
    assert SECRET not in caplog.text + repr(where)


def test_credentials__come_from_the_environment(bucket, endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    assert sem.as_source(f"{bucket}/x.zarr").n_samples == len(X)


def test_credentials__are_told_to_nobody(bucket, options, caplog):
    """Neither by what works, nor by what fails, nor by what is shown of a source."""
    import s3fs

    told = []
    with caplog.at_level(logging.DEBUG, "streamem"):
        rows = sem.as_source(f"{bucket}/x.zarr", storage_options=options)
        sem.GaussianMixture(2, random_state=0, verbose=1).fit(rows)
        told += [repr(rows), str(rows.blocks()[0]), repr(rows.blocks()[0])]
        with pytest.raises(sem.SourceError) as missing:
            sem.as_source(f"{bucket}/none.zarr", storage_options=options)
        s3fs.S3FileSystem(**options).pipe_file("rows/x.zarr/c/0/0", b"no chunk")
        with pytest.raises(sem.SourceError) as spoiled:
            rows.blocks()[0].load()
        with pytest.raises(sem.InputError, match="storage_options") as url:
            sem.as_source(f"s3://{KEY}:{SECRET}@rows/x.zarr")
        told += [str(error.value) for error in (missing, spoiled, url)]
    assert "none.zarr" in told[3]
    for text in [*told, caplog.text]:
        assert SECRET not in text and KEY not in text
