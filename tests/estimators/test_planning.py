"""The model of a fit's costs: how predictions must scale, whatever was measured."""

import dataclasses
import math
import pickle

import numpy as np
import pytest

import streamem as sem
from streamem.estimators.planning import Layout, Measured, predict
from streamem.estimators.rows import open_rows
from streamem.protocols import Pass, Several
from streamem.reduce import map_reduce
from streamem.scheduling import cut_for

MEASURED = Measured(
    n_samples=10**9,
    n_features=32,
    block_rows=65_536,
    block_rows_wanted=65_536,
    thread_bytes=2**25,
    row_bytes=256,
    stored_row_bytes=200,
    read_seconds=1e-7,
    read_cpu_seconds=1e-7,
    compute_seconds=1e-6,
    sampling_seconds=1e-7,
    contention=0.1,
    merge_seconds=1e-4,
    m_step_seconds=1e-3,
    parameter_bytes=10**6,
    statistics_bytes=2 * 10**6,
    task_bytes=2000,
    further_block_bytes=30,
    n_parameters=10_000,
    sample_rows=200_000,
    reading_dominates=False,
    acceleration="auto",
    keeps=True,
    memory_limit=2**30,
)
CLUSTER = Layout(8, 4, 8, 4, True)
THREADS = Layout(1, 4, 1, 4, False)


def of(layout=CLUSTER, measured=MEASURED, **changes):
    """A prediction with some fields changed, of whichever has them."""
    names = {field.name for field in dataclasses.fields(Layout)}
    there = {name: value for name, value in changes.items() if name in names}
    here = {name: value for name, value in changes.items() if name not in names}
    return predict(dataclasses.replace(measured, **here), dataclasses.replace(layout, **there))


@pytest.mark.parametrize("layout", [CLUSTER, THREADS])
def test_seconds__are_linear_in_rows(layout):
    few, many = (of(layout).of(n) for n in (2**24 * 10**3, 2**26 * 10**3))
    assert many.rows_seconds / few.rows_seconds == pytest.approx(4, rel=0.05)
    assert many.read_bytes / few.read_bytes == pytest.approx(4, rel=0.05)
    assert many.overhead_seconds == pytest.approx(few.overhead_seconds, rel=1)


def test_seconds__fall_with_workers_until_overhead_is_as_much():
    counts = [2**i for i in range(14)]
    passes = [of(n_workers=w, n_machines=w) for w in counts]
    assert passes[3].pass_seconds / passes[4].pass_seconds == pytest.approx(2, rel=0.1)
    best = min(passes, key=lambda p: p.pass_seconds)
    assert 1 < best.layout.n_workers < counts[-1]
    assert best.overhead_seconds > 0.1 * best.pass_seconds
    assert passes[-1].pass_seconds > best.pass_seconds


def test_memory__is_independent_of_rows():
    of_cluster = [of().of(n).memory_bytes for n in (10**9, 10**10, 10**11)]
    assert max(of_cluster) < min(of_cluster) + 10 * 32 * MEASURED.statistics_bytes
    assert max(of_cluster) < 2**30
    assert of().of(10**12).driver_bytes < 4 * 10**9


def test_work__is_bound_by_threads_cores_or_bandwidth():
    alone = MEASURED.n_samples * (MEASURED.read_seconds + MEASURED.compute_seconds)
    one = of(n_workers=1, n_threads=1, n_machines=1, n_cores=2)
    assert (one.limit, one.rows_seconds) == ("threads", pytest.approx(alone, rel=0.01))
    crowded = of(n_workers=8, n_threads=1, n_machines=1, n_cores=2)
    assert crowded.limit == "cores"
    slowdown = 1 + 0.1 + 0.02 * (8 - 2)  # contention of two cores, and six threads that wait for their turn
    assert crowded.rows_seconds == pytest.approx(slowdown * alone / (2 - 8 * 0.03), rel=0.02)
    slow = of(bandwidth=1e6)
    assert slow.limit == "bandwidth"
    assert slow.rows_seconds == pytest.approx(MEASURED.n_samples * 200 / 1e6, rel=0.05)


def test_rounds__wait_for_the_last_tasks():
    """Nine tasks on eight threads take two rounds, by hand, and on a cluster one may wait."""
    p = of(n_samples=9, block_rows=1.0, block_rows_wanted=1.0, n_threads=1, contention=0.0, merge_seconds=0.0)
    assert (p.n_tasks, p.tree_depth) == (9, 2)
    assert p.rows_seconds == pytest.approx(2.5 * 1.1e-6)
    assert p.of(8).rows_seconds == pytest.approx(1.1e-6)


def test_waiting__ends_where_dask_moves_tasks():
    """Tasks of seconds wait for 0.1 s as a rule, and with one thread for nobody."""
    long = of(n_threads=1, contention=0.0, merge_seconds=0.0)
    evenly = long.n_samples / 8 * 1.1e-6
    assert evenly + 0.1 < long.rows_seconds < 1.05 * evenly + 0.1
    alone = of(n_workers=1, n_threads=1, n_machines=1, contention=0.0, merge_seconds=0.0)
    assert alone.rows_seconds == pytest.approx(10**9 * 1.1e-6)


def test_overhead__is_of_passes_workers_and_tasks():
    """Cores are shared with what workers do besides; the scheduler's time is for each worker and task."""
    few, many = (of(n_workers=w, n_threads=64 // w, n_machines=1, n_cores=4) for w in (4, 16))
    assert many.rows_seconds / few.rows_seconds == pytest.approx((4 - 0.12) / (4 - 0.48), rel=0.01)
    few, many = (of(n_workers=w) for w in (1, 16))
    tasks = [p.n_tasks + sum(-(-p.n_tasks // 8**i) for i in range(1, p.tree_depth + 1)) for p in (few, many)]
    expected = 15 * 0.006 + 1.2e-3 * (tasks[1] - tasks[0])
    assert many.overhead_seconds - few.overhead_seconds == pytest.approx(expected, rel=0.05)


def test_traffic__is_parameters_out_and_statistics_back():
    p = of()
    assert p.n_tasks == len(cut_for("distributed", 8 * 4, p.n_blocks, 0))
    tasks = p.n_tasks * 2000
    assert 8 * 10**6 + tasks <= p.sent_bytes < 8 * 10**6 + tasks + 30 * p.n_blocks
    assert p.n_tasks * 10**6 < p.statistics_bytes < 2 * p.n_tasks * 2 * 10**6
    assert of(THREADS).sent_bytes == of(THREADS).statistics_bytes == 0
    slow = of(network=1e6)
    assert slow.driver_seconds == pytest.approx(1e-3 + (p.sent_bytes + 2 * 10**6) / 1e6)


def test_kept_blocks__are_not_read_again():
    small = of(THREADS, n_samples=10**6)
    assert small.read_bytes == 0
    assert of(THREADS, n_samples=10**6, keeps=False).read_bytes == 2 * 10**8
    assert of(n_samples=10**6).read_bytes == 2 * 10**8


def test_cost__is_machines_by_hours():
    p = of(price_per_hour=3.0)
    assert p.cost == pytest.approx(8 * 3.0 * p.total_seconds / 3600)
    assert of().cost is None
    assert p.sample_seconds > 0
    passes = p.sampling_seconds + p.n_passes * p.pass_seconds
    assert p.total_seconds == pytest.approx(passes + p.sample_seconds)


def test_candidates__cost_computing_but_no_reading():
    one, two = (of(THREADS, acceleration="anderson", reading_dominates=two) for two in (False, True))
    assert one.rows_seconds < two.rows_seconds < 2 * one.rows_seconds
    assert one.read_bytes == two.read_bytes


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(30_000, 6)).astype("f4")


@pytest.fixture(scope="module")
def planned(rows):
    return sem.plan(rows, 12)


def test_statistics_bytes__are_those_of_real_statistics(rows, planned):
    with pytest.warns(sem.ConvergenceWarning):
        gm = sem.GaussianMixture(12, max_iter=1, random_state=0).fit(rows)
    assert planned.measured.statistics_bytes == pytest.approx(
        len(pickle.dumps(Pass(Several((gm.stats_,))))), rel=0.1
    )
    assert planned.measured.parameter_bytes == pytest.approx(len(pickle.dumps(gm.params_)), rel=0.1)


def test_tasks__are_those_of_a_real_pass(rows):
    p = sem.plan(rows, 2, n_threads=2)
    done = []
    with open_rows(rows, scheduler="synchronous") as data:
        where = dataclasses.replace(data.scheduler, name="threads", n_workers=2)
        map_reduce(_Count, data.source, where, done.append)
    assert (p.n_tasks, p.n_blocks) == (len(done), len(data.source.blocks()))


class _Count:
    """Statistics that only count."""

    def __init__(self, rows):
        self.n_samples = len(rows.x)

    def merge(self, other):
        return self


def test_measured__are_positive_and_finite(planned):
    m = planned.measured
    for name in ("compute_seconds", "sampling_seconds", "merge_seconds", "m_step_seconds", "read_seconds"):
        assert 0 < getattr(m, name) < 1
    assert 0 <= m.contention <= 1
    assert m.stored_row_bytes == planned.read_bytes == 0  # in memory


def test_plan__reads_few_blocks_and_fits_nothing(tmp_path, monkeypatch):
    from streamem.sources.streaming import ArrayBlock

    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200_000, 6)).astype("f4"))
    seen, load = set(), ArrayBlock.load

    def counted(block, buffer=None):
        seen.add(block.index)
        return load(block, buffer)

    monkeypatch.setattr(ArrayBlock, "load", counted)
    p = sem.plan(str(tmp_path / "x.npy"), 12, memory_limit="64MiB")
    assert len(seen) <= 11 < p.n_blocks


def test_zarr__is_counted_as_stored_with_weights_and_without_rows_that_lack_values(rows, tmp_path):
    import zarr

    x = rows.copy()
    x[::7, 0] = np.nan
    array = zarr.create_array(str(tmp_path / "x.zarr"), shape=x.shape, chunks=(4096, 6), dtype="f4")
    array[:] = x
    p = sem.plan(
        str(tmp_path / "x.zarr"), 12, sample_weight=np.ones(len(x)), missing="drop", n_workers=2, n_threads=1
    )
    assert p.read_bytes == pytest.approx(array.nbytes_stored(), rel=1e-6)
    assert p.sent_bytes > 2 * p.measured.parameter_bytes


def test_threads__are_as_many_as_memory_limit_has_room_for(rows, tmp_path):
    np.save(tmp_path / "x.npy", np.tile(rows, (20, 1)))
    wide, narrow = (
        sem.plan(str(tmp_path / "x.npy"), 2, n_threads=64, n_cores=64, memory_limit=limit)
        for limit in ("1GiB", "1MiB")
    )
    assert wide.layout.n_threads > narrow.layout.n_threads >= 1


@pytest.mark.parametrize("acceleration", ["anderson", "none"])
def test_acceleration__says_what_makes_passes_few(rows, planned, acceleration):
    p = sem.plan(rows, 12, acceleration=acceleration)
    assert p.measured.method == acceleration
    assert p.n_passes > 6


def test_sample__too_small_for_the_parameters_means_many_passes():
    x = np.random.default_rng(0).normal(size=(3000, 6)).astype("f4")
    p = sem.plan(x, 12)
    assert (p.measured.method, p.n_passes) == ("anderson", 40)
    assert p.of(10**9).measured.method == "corrected"


@pytest.mark.parametrize(
    "settings",
    [{"n_workers": 0}, {"n_threads": 1.5}, {"bandwidth": 0.0}, {"n_cores": math.nan}, {"acceleration": "x"}],
)
def test_settings__that_mean_nothing_are_refused(rows, settings):
    with pytest.raises(sem.InputError, match=next(iter(settings))):
        sem.plan(rows, 2, **settings)


def test_rows__must_be_as_many_as_components(rows):
    with pytest.raises(sem.InputError, match="n_components=12"):
        sem.plan(rows[:5], 12)
