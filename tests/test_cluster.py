"""On a Dask cluster: little travels, persisted rows stay, failures change no bit, no wait is without end."""

import contextlib
import dataclasses
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
import zarr

import streamem as sem
from benchmarks.clusters import ClusterProcess, cluster_process, kill
from streamem import cluster, reduce
from streamem.convergence import PassProgress
from streamem.protocols import Rows
from streamem.scheduling import Scheduler

from .cluster import CountingProxy, in_process_cluster, local_cluster, until

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(m, 1, (1500, 3)) for m in (-4, 0, 4)])
X = X[RNG.permutation(len(X))]
SETTINGS = {"n_components": 3, "random_state": 0, "acceleration": "none", "max_iter": 8, "tol": 1e-3}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "x.zarr"
    zarr.create_array(path, shape=X.shape, chunks=(100, 3), dtype="f8")[:] = X
    return str(path)


@pytest.fixture(scope="module")
def expected(store):
    return fit(store, scheduler="synchronous")


@pytest.fixture(scope="module")
def workers():
    """A cluster of two worker processes, each with a nanny."""
    with cluster_process(2) as pair:
        yield pair


@pytest.fixture(scope="module")
def client(workers):
    return workers[1]


@pytest.fixture(scope="module")
def threads():
    """A client of two workers that are threads of this process."""
    with in_process_cluster(2) as client:
        yield client


def fit(x, **where):
    weight = where.pop("sample_weight", None)
    gm = sem.GaussianMixture(**SETTINGS, memory_limit=where.pop("memory_limit", "128KiB"))
    return gm.fit(x, sample_weight=weight, **where)


def assert_same(gm, other):
    assert gm.lower_bounds_ == other.lower_bounds_
    np.testing.assert_array_equal(gm.covariances_, other.covariances_)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Statistics of a given size."""

    array: np.ndarray
    n_samples: int = 1
    weight: float = 1.0
    log_likelihood: float = 0.0

    def merge(self, other):
        return Sizes(self.array + other.array, self.n_samples + other.n_samples)


@dataclasses.dataclass(frozen=True)
class Step:
    """An E-step whose parameters and statistics have a given size."""

    params: np.ndarray

    def __call__(self, rows):
        return Sizes(self.params * rows.x.sum(), len(rows.x))


@dataclasses.dataclass(frozen=True)
class Block:
    index: int
    start: int
    stop: int

    def load(self, buffer=None):
        return Rows(np.full((self.stop - self.start, 1), float(self.index)), None, self.start)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """A source of so many blocks of ten rows."""

    n_blocks: int
    make: type = Block
    n_features: int = 1
    dtype: type = float
    block_bytes: int = 80
    name: str = "blocks"

    @property
    def n_samples(self):
        return 10 * self.n_blocks

    def blocks(self):
        return [self.make(i, 10 * i, 10 * i + 10) for i in range(self.n_blocks)]


# --- where


def test_active_client__is_found_unless_told_otherwise(threads):
    """A client that the caller made current is used; nothing is started where there is none."""
    with threads.as_current():
        with reduce.open_scheduler(source=Blocks(3)) as found:
            assert found.client is threads
        with reduce.open_scheduler("threads", source=Blocks(3)) as told:
            assert told.client is None
    with reduce.open_scheduler(source=Blocks(3)) as none:
        assert (none.client, none.name) == (None, "threads")


# --- what travels


def test_traffic__is_parameters_out_and_statistics_back(tmp_path):
    """Rows are read where they are: what crosses to and from the scheduler does not grow with them."""
    from distributed import Client, LocalCluster, Worker

    paths = [str(tmp_path / f"{n}.zarr") for n in (4000, 64_000)]
    for path in paths:
        n = int(os.path.basename(path).removesuffix(".zarr"))
        rows = np.random.default_rng(0).normal(size=(n, 32))
        zarr.create_array(path, shape=rows.shape, chunks=(n // 16, 32), dtype="f8")[:] = rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sem.ConvergenceWarning)
        gm = sem.GaussianMixture(32, random_state=0, acceleration="none", max_iter=1, memory_limit="8MiB")
        gm.fit(paths[0], scheduler="synchronous")
    crossed = []
    with (
        LocalCluster(n_workers=0, processes=False, protocol="tcp://", dashboard_address=":0") as local,
        contextlib.closing(CountingProxy(local.scheduler_address)) as proxy,
    ):

        async def start():
            return await Worker(proxy.address, nthreads=2)

        worker = local.sync(start)
        with Client(proxy.address, set_as_default=False) as client:
            for path in paths:
                before = proxy.sent + proxy.received
                gm.score(path, client=client)
                crossed.append(proxy.sent + proxy.received - before)
        local.sync(worker.close)
    params = pickle_bytes(gm.params_)
    stats = pickle_bytes(gm.stats_)
    # Parameters cross twice on their way to one worker, statistics once or twice on their way back.
    assert crossed[0] < 2 * (params + stats) + 16 * 10_000
    assert abs(crossed[1] - crossed[0]) < 50_000  # though there are sixteen times the rows


def pickle_bytes(value):
    return len(pickle.dumps(value))


@pytest.mark.parametrize("n_bytes", [2 * 2**20, 24 * 2**20])
def test_parameters__of_many_megabytes_travel_without_complaint(threads, n_bytes):
    """Dask warns of graphs of 10 MB, and a warning is an error here."""
    step = Step(np.ones(n_bytes // 8))
    there = reduce.map_reduce(step, Blocks(9), Scheduler("distributed", 2, client=threads)).stats
    here = reduce.map_reduce(step, Blocks(9), Scheduler("synchronous", 1)).stats
    np.testing.assert_array_equal(there.array, here.array)
    assert there.n_samples == 90


@pytest.mark.parametrize("n_blocks", [1, 2, 70])
def test_pass__of_any_number_of_blocks_gives_the_same_bits(threads, n_blocks):
    there, here = (
        reduce.map_reduce(Step(np.ones(3)), Blocks(n_blocks), scheduler).stats
        for scheduler in (Scheduler("distributed", 2, client=threads), Scheduler("synchronous", 1))
    )
    np.testing.assert_array_equal(there.array, here.array)
    assert there.n_samples == here.n_samples == 10 * n_blocks


BEGUN = []


def _note(rows):
    """An E-step of this process's workers that tells which rows they come to."""
    BEGUN.append(rows.start // 10)
    return Sizes(np.zeros(1), len(rows.x))


def test_large_runs__begin_before_small_ones(threads):
    """Else whoever is last may have a large one; left alone, Dask begins with any of them.

    Two workers of a thread each hold two tasks at most, so that four of the larger ones may still wait.
    """
    scheduler = Scheduler("distributed", 2, client=threads)
    size_of = {run.start: len(run) for run in scheduler.cut(768, 0)}
    assert len(set(size_of.values())) == 6
    BEGUN.clear()
    reduce.map_reduce(_note, Blocks(768), scheduler)
    sizes = [size_of[block] for block in BEGUN if block in size_of]
    assert len(sizes) == len(size_of)
    for i, size in enumerate(sizes):
        assert sum(later > size for later in sizes[i + 1 :]) <= 4


# --- persisted collections


def lazily(x, chunk=300):
    """An array that counts how often its parts are computed."""
    return da.from_array(x, chunks=(chunk, -1))


def test_persisted__rows_are_reused_where_they_are(threads, store):
    computed = []

    def note(part):
        computed.append(len(part))
        return part

    x = lazily(X).map_blocks(note, dtype=X.dtype, meta=X[:0])
    reference = fit(lazily(X), scheduler="synchronous")
    held = threads.persist(x)
    computed.clear()
    assert_same(fit(held, client=threads), reference)
    assert computed == []
    np.testing.assert_array_equal(reference.predict(held, client=threads), reference.predict(X))


def test_persisted__rows_may_have_lazy_work_on_top(threads):
    reference = fit(lazily(X), scheduler="synchronous")
    held = threads.persist(lazily(X / 2, 137))
    assert_same(fit((held * 2).rechunk((300, -1)), client=threads), reference)


def test_persisted__weights_are_reused_too(threads):
    w = np.linspace(0.5, 1.5, len(X))
    reference = fit(lazily(X), sample_weight=w, scheduler="synchronous")
    held = threads.persist(da.from_array(w, chunks=517))
    assert_same(fit(lazily(X), sample_weight=held, client=threads), reference)


def test_persisted__rows_say_where_to_run(threads):
    held = threads.persist(lazily(X))
    with dask.config.set(scheduler="synchronous"):
        source = sem.as_source(held)
    assert source.client is threads
    assert_same(fit(held), fit(lazily(X), scheduler="synchronous"))


def test_persisted__rows_can_be_fetched_by_threads_but_not_by_processes(threads):
    held = threads.persist(lazily(X))
    assert_same(fit(held, scheduler="threads"), fit(lazily(X), scheduler="synchronous"))
    with pytest.raises(sem.SourceError, match="persisted on a cluster"), dask.config.set(num_workers=1):
        fit(held, scheduler="processes")


# --- failures


def on_progress(action, at=6):
    """A callback that acts once, when so many partitions are done."""
    seen = []

    def hear(event):
        if isinstance(event, PassProgress):
            seen.append(event)
            if len(seen) == at:
                action()

    return hear


@pytest.mark.parametrize("count", [1, 2])
def test_workers__killed_in_mid_pass_change_no_bit(client, store, expected, count):
    client.wait_for_workers(2, timeout=120)
    assert_same(fit(store, client=client, callbacks=[on_progress(lambda: kill(client, count))]), expected)


def test_partitions__lost_before_anybody_looks_are_computed_again(client, store, expected):
    """All workers die between the end of some partitions and the driver's notice of it."""
    client.wait_for_workers(2, timeout=120)

    def lose():
        before = set(client.nthreads())
        kill(client, 2)
        assert until(lambda: not before & set(client.nthreads()))

    for at in (1, 20):
        assert_same(fit(store, client=client, callbacks=[on_progress(lose, at)]), expected)


def test_workers__killed_with_persisted_rows_change_no_bit(client):
    client.wait_for_workers(2, timeout=120)
    held = client.persist(lazily(X))
    reference = fit(lazily(X), scheduler="synchronous")
    assert_same(fit(held, client=client, callbacks=[on_progress(lambda: kill(client, 1))]), reference)


def test_worker__added_in_mid_fit_changes_no_bit(workers, store, expected):
    local, client = workers
    try:
        assert_same(fit(store, client=client, callbacks=[on_progress(lambda: local.scale(3))]), expected)
        assert until(lambda: len(client.nthreads()) == 3)
        assert_same(fit(store, client=client), expected)
    finally:
        local.scale(2)
        assert until(lambda: len(client.nthreads()) == 2)


def test_worker__that_dies_again_and_again_is_an_error(workers):
    client = workers[1]
    client.wait_for_workers(2, timeout=120)

    def die(rows):
        os.kill(os.getpid(), signal.SIGKILL)

    # Two deaths suffice where the scheduler says so; each costs the start of a process.
    client.run_on_scheduler(lambda dask_scheduler=None: setattr(dask_scheduler, "allowed_failures", 1))
    try:
        with pytest.raises(sem.ClusterError, match="several workers died over the same partition"):
            reduce.map_reduce(die, Blocks(1), Scheduler("distributed", 2, client=client))
    finally:
        client.run_on_scheduler(lambda dask_scheduler=None: setattr(dask_scheduler, "allowed_failures", 3))


class LockedError(RuntimeError):
    """An error that cannot be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


def test_errors__arrive_with_their_type_whatever_hangs_on_them(threads):
    scheduler = Scheduler("distributed", 2, client=threads)

    def ours(rows):
        try:
            raise LockedError("cause")
        except LockedError as error:
            raise sem.NonFiniteError("Block 3: bad rows.") from error

    def foreign(rows):
        raise LockedError("no such luck")

    def plain(rows):
        raise ZeroDivisionError("by zero")

    with pytest.raises(sem.NonFiniteError, match=r"Block 3: bad rows\."):
        reduce.map_reduce(ours, Blocks(9), scheduler)
    with pytest.raises(sem.ClusterError, match="LockedError: no such luck"):
        reduce.map_reduce(foreign, Blocks(9), scheduler)
    with pytest.raises(ZeroDivisionError, match="by zero"):
        reduce.map_reduce(plain, Blocks(9), scheduler)


def test_pass__that_fails_harms_nothing_else_of_the_client(threads):
    """What is left of it is dropped, and all else stays: a scheduler drops clients that cancel merges."""
    held = threads.submit(lambda: 7, pure=False)
    assert held.result() == 7
    connections = scheduler_of(threads, lambda s: [id(comm) for comm in s.client_comms.values()])
    before = scheduler_of(threads, lambda s: set(s.tasks))

    def bad(rows):
        raise ZeroDivisionError("by zero")

    for _ in range(3):
        with pytest.raises(ZeroDivisionError, match="by zero"):
            reduce.map_reduce(bad, Blocks(70), Scheduler("distributed", 2, client=threads))
    assert until(lambda: scheduler_of(threads, lambda s: set(s.tasks)) <= before)
    assert scheduler_of(threads, lambda s: [id(comm) for comm in s.client_comms.values()]) == connections
    assert held.status == "finished" and held.result() == 7


def test_pass__that_fails_returns_when_no_worker_is_at_work_on_it(threads):
    """Whatever results were written to may be removed then; a long partition ends after its block."""
    slow = _Slow()
    _events[id(slow)] = slow
    with pytest.raises(ZeroDivisionError):
        reduce.map_reduce(_SlowStep(id(slow)), Blocks(64), Scheduler("distributed", 2, client=threads))
    assert slow.ended == 1


class _Slow:
    """What the tasks of one process share."""

    def __init__(self):
        self.first, self.started, self.ended = threading.Lock(), threading.Event(), 0


@dataclasses.dataclass(frozen=True)
class _SlowStep:
    """Takes its time over the first block that comes, and fails meanwhile in others."""

    slow: int

    def __call__(self, rows):
        slow = _events[self.slow]
        if not slow.first.acquire(blocking=False):
            slow.started.wait(60)
            raise ZeroDivisionError("by zero")
        slow.started.set()
        time.sleep(1.0)
        slow.ended += 1
        slow.first.release()  # the next block of this partition would be slow again
        return Sizes(np.zeros(1))


def scheduler_of(client, question):
    """Ask the scheduler of a client something."""
    return client.run_on_scheduler(lambda dask_scheduler=None: question(dask_scheduler))


def test_pass__that_fails_in_process_workers_returns_when_none_is_at_work(tmp_path):
    with (
        dask.config.set(num_workers=2),
        reduce.open_scheduler("processes", source=Blocks(2)) as scheduler,
        pytest.raises(ZeroDivisionError),
    ):
        reduce.map_reduce(_SlowFiles(str(tmp_path)), Blocks(2), scheduler)
    assert (tmp_path / "ended").exists()


@dataclasses.dataclass(frozen=True)
class _SlowFiles:
    """The same for processes, which share files."""

    folder: str

    def __call__(self, rows):
        begun, ended = (os.path.join(self.folder, name) for name in ("begun", "ended"))
        if rows.start == 0:
            assert until(lambda: os.path.exists(begun), 60)
            raise ZeroDivisionError("by zero")
        open(begun, "w").close()
        time.sleep(1.0)
        open(ended, "w").close()
        return Sizes(np.zeros(1))


def test_errors__of_process_workers_arrive_too():
    def foreign(rows):
        raise LockedError("no such luck")

    with (
        dask.config.set(num_workers=1),
        reduce.open_scheduler("processes", source=Blocks(2)) as scheduler,
    ):
        with pytest.raises(sem.ClusterError, match="LockedError: no such luck"):
            reduce.map_reduce(foreign, Blocks(2), scheduler)

        def die(rows):
            os.kill(os.getpid(), signal.SIGKILL)

        with pytest.raises(sem.ClusterError, match="a worker process died"):
            reduce.map_reduce(die, Blocks(2), scheduler)


# --- checked before the first pass


@contextlib.contextmanager
def changed(client, change, undo):
    """Change one worker for a while."""
    one = list(client.nthreads())[:1]
    client.run(change, workers=one)
    try:
        yield
    finally:
        client.run(undo, workers=one)


def test_worker__without_streamem_is_named_before_the_first_pass(client, store):
    client.wait_for_workers(2, timeout=120)

    def hide():
        for name in [name for name in sys.modules if name.startswith("streamem")]:
            del sys.modules[name]
        sys.modules["streamem"] = None

    def show():
        del sys.modules["streamem"]

    with changed(client, hide, show), pytest.raises(sem.ClusterError, match=r"Worker tcp://.*streamem none"):
        fit(store, client=client)


def test_worker__of_another_version_is_named_before_the_first_pass(client, store):
    client.wait_for_workers(2, timeout=120)

    def older():
        import streamem

        streamem.__version__ = "0.0.1"

    def back():
        import importlib

        import streamem

        importlib.reload(streamem)

    with (
        changed(client, older, back),
        pytest.raises(sem.ClusterError, match=r"streamem 0\.0\.1.*same versions"),
    ):
        fit(store, client=client)


@pytest.mark.parametrize("kind", ["zarr", "npy"])
def test_worker__that_does_not_see_the_path_is_named_before_the_first_pass(client, tmp_path, kind):
    client.wait_for_workers(2, timeout=120)
    path, passes = tmp_path / f"x.{kind}", []
    if kind == "zarr":
        zarr.create_array(path, shape=X.shape, chunks=(100, 3), dtype="f8")[:] = X
    else:
        np.save(path, X)
    source = sem.as_source(str(path), memory_limit=2**17)
    os.rename(path, tmp_path / "elsewhere")  # as if it were another machine's disk
    with pytest.raises(sem.SourceError, match=r"Worker tcp://.*does not see it at .* same on every worker"):
        fit(source, client=client, callbacks=[passes.append])
    assert passes == []


def test_worker__of_another_version_that_comes_later_refuses_its_tasks(client, store):
    client.wait_for_workers(2, timeout=120)
    one = list(client.nthreads())[:1]

    def older():
        import streamem

        streamem.__version__ = "0.0.1"

    def back():
        import importlib

        import streamem

        importlib.reload(streamem)

    try:
        with pytest.raises(
            sem.ClusterError, match=rf"Worker {one[0]}: it has streamem 0\.0\.1.*same versions"
        ):
            fit(store, client=client, callbacks=[on_progress(lambda: client.run(older, workers=one))])
    finally:
        client.run(back, workers=one)


@pytest.mark.parametrize("kind", ["drop", "plain"])
def test_wrapped_rows__are_checked_and_found_as_those_within(threads, tmp_path, kind):
    """Rows with missing values left out are rows of the same store, on the same cluster."""
    from streamem.sources.dropping import DroppingSource

    wrap = DroppingSource if kind == "drop" else lambda source: source
    np.save(tmp_path / "x.npy", X)
    (store,) = wrap(sem.as_source(tmp_path / "x.npy")).stores
    assert store.path == str(tmp_path / "x.npy")
    assert wrap(sem.as_source(threads.persist(lazily(X)))).client is threads


# --- everything that reads rows


def table(found):
    """What a sweep found, bit for bit."""
    return [(row.covariance_type, row.n_components, row.bic, row.n_passes) for row in found.table]


@pytest.mark.filterwarnings("ignore::streamem.ConvergenceWarning")
@pytest.mark.parametrize("noise", [None, "uniform"])
def test_labels__of_a_store_are_read_by_the_workers(client, store, expected, tmp_path, noise):
    known = np.where(RNG.random(len(X)) < 0.05, expected.predict(X), -1)
    labels = str(tmp_path / "y.zarr")
    zarr.create_array(labels, shape=known.shape, chunks=(100,), dtype="i8")[:] = known

    def labelled(y, **where):
        return sem.GaussianMixture(**SETTINGS, memory_limit="128KiB", noise=noise).fit(store, y, **where)

    here, there = labelled(labels, scheduler="synchronous"), labelled(labels, client=client)
    assert_same(there, here)
    assert there.lower_bounds_ != labelled(None, client=client).lower_bounds_


@pytest.fixture(scope="module")
def gappy(tmp_path_factory):
    """Rows with missing values, and a model of them."""
    x = np.where(np.random.default_rng(1).random(X.shape) < 0.1, np.nan, X)
    path = tmp_path_factory.mktemp("gappy") / "x.zarr"
    zarr.create_array(path, shape=x.shape, chunks=(100, 3), dtype="f8")[:] = x
    gm = sem.GaussianMixture(**SETTINGS, memory_limit="128KiB", missing="marginal")
    return str(path), gm.fit(str(path), scheduler="synchronous")


@pytest.mark.filterwarnings("ignore::streamem.ConvergenceWarning")
@pytest.mark.parametrize(
    "work",
    [
        lambda path, gm, **where: gm.summarize(path, **where).sum_wxx,
        lambda path, gm, **where: gm.score(path, **where),
        lambda path, gm, **where: gm.impute(path, **where),
        lambda path, gm, **where: gm.impute(path, draws=True, random_state=3, **where),
        lambda path, gm, **where: gm.predict(path, **where),
        lambda path, gm, **where: gm.predict_proba(path, **where),
        lambda path, gm, **where: gm.score_samples(path, **where),
        lambda path, gm, **where: gm.adapt(path, **where).means_,
        lambda path, gm, **where: (
            sem.BayesianGaussianMixture(2, random_state=0, max_iter=3).fit(X, **where).means_
        ),
        lambda path, gm, **where: table(
            sem.select(
                path, (1, 2, 3), ("full", "diag"), missing="marginal", random_state=0, max_iter=4, **where
            )
        ),
    ],
    ids=[
        *("summarize", "score", "impute", "draws", "predict", "predict_proba", "score_samples"),
        *("adapt", "bayesian", "select"),
    ],
)
def test_everything__has_the_same_bits_on_a_cluster(threads, gappy, work):
    here, there = (work(*gappy, **where) for where in ({"scheduler": "synchronous"}, {"client": threads}))
    np.testing.assert_array_equal(np.asarray(here, dtype=object), np.asarray(there, dtype=object))


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Labels of a tenth of the rows, the others unknown, and a store of them chunked as no rows are."""
    y = np.where(np.arange(len(X)) % 10 == 0, 2 - np.digitize(X[:, 0], [-2, 2]), -1)
    path = tmp_path_factory.mktemp("labels") / "y.zarr"
    zarr.create_array(path, shape=y.shape, chunks=(137,), dtype="i2")[:] = y
    return y, str(path)


@pytest.mark.parametrize("acceleration, missing", [("auto", "raise"), ("none", "marginal")])
def test_labels__give_the_same_bits_on_a_cluster(client, store, gappy, labels, acceleration, missing):
    """Read by worker processes from a store of their own, or sent along with rows, as in this process."""
    client.wait_for_workers(2, timeout=120)
    y, path = labels
    x = store if missing == "raise" else gappy[0]
    settings = SETTINGS | {"acceleration": acceleration, "missing": missing, "memory_limit": "512KiB"}
    reference = sem.GaussianMixture(**settings).fit(x, y, scheduler="synchronous")
    known = y >= 0
    assert np.mean(reference.predict(X)[known] == y[known]) > 0.95  # the labels number the components
    for given in (path, y, client.persist(da.from_array(y, chunks=517))):
        gm = sem.GaussianMixture(**settings).fit(x, given, client=client)
        assert_same(gm, reference)
        np.testing.assert_array_equal(gm.means_, reference.means_)
    assert gm.score(x, path, client=client) == reference.score(x, y, scheduler="synchronous")


def test_results__are_written_by_the_workers(client, store, expected, tmp_path):
    client.wait_for_workers(2, timeout=120)
    for name in ("labels.zarr", "labels.npy"):
        out = expected.predict(store, out=tmp_path / name, client=client)
        np.testing.assert_array_equal(out[:], expected.predict(X))
    assert sorted(os.listdir(tmp_path)) == ["labels.npy", "labels.zarr"]


def test_results__of_a_failed_pass_leave_nothing(client, store, expected, tmp_path):
    client.wait_for_workers(2, timeout=120)
    path = tmp_path / "bad.zarr"
    bad = X.copy()
    bad[2000, 1] = np.inf
    zarr.create_array(path, shape=X.shape, chunks=(100, 3), dtype="f8")[:] = bad
    with pytest.raises(sem.NonFiniteError, match="row 2,000"):
        expected.predict(str(path), out=tmp_path / "labels.zarr", client=client)
    assert os.listdir(tmp_path) == ["bad.zarr"]


# --- going on


@pytest.mark.filterwarnings("ignore::streamem.ConvergenceWarning")
def test_driver__that_is_killed_goes_on_with_a_cluster_to_the_same_bits(workers, store, tmp_path):
    local, client = workers
    client.wait_for_workers(2, timeout=120)
    settings = {"acceleration": "none", "tol": 0, "random_state": 0, "memory_limit": 2**17}
    options = ["-k", "3", "--acceleration", "none", "--tol", "0", "--max-iter", "100000"]
    place = ["--memory-limit", "128KiB", "--scheduler", local.address, "--checkpoint", str(tmp_path / "run")]
    driver = subprocess.Popen(
        [sys.executable, "-m", "streamem", "fit", store, *options, *place],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert next((line for line in driver.stderr if line.startswith("Pass 3")), None)
    finally:
        driver.kill()
        driver.communicate()
    done = int(max((tmp_path / "run").glob("pass-*")).name.split("-")[1])
    gm = sem.GaussianMixture(3, max_iter=done + 3, **settings)
    gm.fit(store, checkpoint=tmp_path / "run", resume="auto", client=client)
    assert gm.n_iter_ == done + 3 > 5
    assert_same(gm, sem.GaussianMixture(3, max_iter=done + 3, **settings).fit(store, scheduler="synchronous"))


# --- no wait without an end


def test_scheduler__that_is_not_there_is_an_error():
    with dask.config.set({"distributed.comm.timeouts.connect": "300ms"}):
        with pytest.raises(sem.ClusterError, match=r"tcp://127\.0\.0\.1:9: no scheduler answers"):
            fit(X, scheduler="tcp://127.0.0.1:9")
        with pytest.raises(sem.InputError, match="Give tcp://host:8786"):
            fit(X, scheduler="carrier-pigeon://loft")


def test_cluster__without_workers_is_an_error_after_a_while(caplog):
    with (
        dask.config.set({"streamem.timeout": "500ms"}),
        local_cluster(0, processes=False) as (_, client),
        caplog.at_level(logging.WARNING, "streamem"),
        pytest.raises(sem.ClusterError, match=r"no workers for \d+ s\. Start some"),
    ):
        fit(X, client=client)
    assert "no workers; waiting 0.5 s" in caplog.text


def test_cluster__that_loses_all_workers_is_an_error_after_a_while(store):
    with (
        dask.config.set({"streamem.timeout": "1s"}),
        local_cluster(1, processes=False) as (local, client),
        pytest.raises(sem.ClusterError, match="no workers for"),
    ):
        fit(store, client=client, callbacks=[on_progress(lambda: local.scale(0), at=2)])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_scheduler__lost_in_mid_fit_is_an_error(store, how):
    local = ClusterProcess(1, processes=False)
    lost = on_progress(lambda: local.process.send_signal(how), at=3)
    try:
        with (
            dask.config.set({"streamem.timeout": "2s", "distributed.comm.timeouts.connect": "1s"}),
            pytest.raises(sem.ClusterError, match=r"scheduler .*(lost|not answered)|connection .* lost"),
        ):
            fit(store, scheduler=local.address, callbacks=[lost])
    finally:
        local.process.kill()
        local.close()


def test_partition__that_never_ends_is_an_error(threads):
    stop = threading.Event()
    cluster_wait = {"streamem.timeout": "400ms", "streamem.stall-timeout": "1s"}
    _events[id(stop)] = stop
    try:
        with (
            dask.config.set(cluster_wait),
            pytest.raises(sem.ClusterError, match="no partition was finished"),
        ):
            reduce.map_reduce(_Waiting(id(stop)), Blocks(2), Scheduler("distributed", 2, client=threads))
    finally:
        stop.set()


_events = {}


@dataclasses.dataclass(frozen=True)
class _Waiting:
    event: int

    def __call__(self, rows):
        _events[self.event].wait(60)
        return Sizes(np.zeros(1))


def test_client__that_is_asynchronous_is_refused():
    class Client:
        asynchronous = True

    with pytest.raises(sem.InputError, match="asynchronous"):
        cluster.check_workers(Client(), Blocks(1))


def test_progress__is_told_within_a_pass_and_on_the_callers_thread(threads, store):
    seen = []
    fit(store, client=threads, callbacks=[lambda e: seen.append((e, threading.get_ident()))])
    inner = [e.n_samples for e, _ in seen if isinstance(e, PassProgress) and e.index == 0 and e.phase == "em"]
    assert len(inner) > 4
    assert inner == sorted(inner) and inner[-1] == len(X)
    assert {ident for _, ident in seen} == {threading.get_ident()}


def test_inside_a_task__the_library_runs_serially(threads, store, expected):
    def work(path):
        return fit(path).lower_bounds_

    assert threads.submit(work, store, pure=False).result(timeout=120) == expected.lower_bounds_
