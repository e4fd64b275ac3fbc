"""The equations of a pass agree with a simulation of it, which nobody times."""

import dataclasses

import pytest

from benchmarks.simulation import simulate
from streamem.estimators.planning import STEAL_SECONDS, Layout, predict

from .estimators.test_planning import MEASURED

SHARED = [Layout(workers, 1, 1, 2, True) for workers in (1, 2, 4, 8)]
SPREAD = [Layout(workers, 4, workers, 4, True) for workers in (1, 2, 4, 8, 40)]
THREADS = [Layout(1, threads, 1, 4, False) for threads in (1, 2, 4)]


def equations(measured, layout):
    """The same seconds by the equations."""
    prediction = predict(measured, layout)
    return prediction.rows_seconds + prediction.overhead_seconds + prediction.merge_seconds


@pytest.mark.parametrize("n_samples", [10**6, 10**8, 10**9])
@pytest.mark.parametrize("layout", [*SHARED, *SPREAD, *THREADS], ids=repr)
def test_equations__are_near_the_simulation_and_not_below_it(layout, n_samples):
    """They add up what may overlap, and let a task wait: more where there are many tasks, or short ones."""
    measured = MEASURED.of(n_samples)
    seconds = simulate(measured, layout)
    prediction = predict(measured, layout)
    assert 0.95 * seconds < equations(measured, layout)
    waiting = min(STEAL_SECONDS, prediction.rows_seconds / 2) if layout.distributed else 0.0
    assert equations(measured, layout) < 1.1 * seconds + prediction.overhead_seconds + waiting


@pytest.mark.parametrize("saturation", [1.0, 1.1])
@pytest.mark.parametrize("workers, threads", [(2, 1), (8, 1), (4, 2), (8, 4), (40, 1), (16, 8)])
@pytest.mark.parametrize("per_thread", [32, 55, 90])
def test_passes__are_balanced(saturation, workers, threads, per_thread):
    """They end within 6 % of a fair share, though each task takes up to 10 % more or less.

    With a machine half as fast as the others that holds if no worker has tasks waiting.
    """
    layout = Layout(workers, threads, workers, threads + 1, True)
    lanes, fair = workers * threads, 16.0
    measured = dataclasses.replace(
        MEASURED,
        n_samples=lanes * per_thread * 10**4,
        block_rows=10**4,
        read_seconds=0.0,
        read_cpu_seconds=0.0,
        compute_seconds=fair / per_thread / 10**4,
        merge_seconds=1e-5,
        statistics_bytes=10**4,
        contention=0.0,
    )
    assert simulate(measured, layout, saturation, jitter=0.1) < 1.06 * fair
    if saturation == 1.0:
        fair *= lanes / (lanes - threads / 2)
        assert simulate(measured, layout, saturation, jitter=0.1, slowest=0.5) < 1.1 * fair


def test_simulation__gives_waiting_tasks_to_idle_workers():
    """A pass of long tasks is no longer than its rounds and what moving one takes."""
    layout = Layout(4, 4, 4, 4, True)
    measured = MEASURED.of(10**8)
    assert simulate(measured, layout) < 1.02 * predict(measured, layout).rows_seconds


@pytest.mark.parametrize("bandwidth", [1e8, 1e9])
def test_bandwidth__binds_both(bandwidth):
    layout = dataclasses.replace(SPREAD[3], bandwidth=bandwidth)
    least = MEASURED.n_samples * MEASURED.stored_row_bytes / bandwidth
    for seconds in (simulate(MEASURED, layout), equations(MEASURED, layout)):
        assert seconds > 0.99 * least
    assert simulate(MEASURED, layout) > 2 * simulate(MEASURED, SPREAD[3]) or bandwidth > 1e8


def test_cores__that_are_shared_make_more_lanes_no_faster():
    """Eight workers on two cores take no less than two, and four machines a quarter of one."""
    two, eight = (simulate(MEASURED, layout) for layout in (SHARED[1], SHARED[3]))
    assert two < eight < 1.25 * two
    one, four = (simulate(MEASURED, layout) for layout in (SPREAD[0], SPREAD[2]))
    assert four == pytest.approx(one / 4, rel=0.1)


def test_tree__and_messages_cost_what_they_say():
    """A pass without work is its messages, one after the other, and its merges."""
    idle = dataclasses.replace(
        MEASURED, compute_seconds=0.0, read_seconds=1e-15, read_cpu_seconds=0.0, merge_seconds=0.0
    )
    idle = dataclasses.replace(idle, statistics_bytes=0, contention=0.0)
    layout = Layout(8, 4, 8, 4, True)
    prediction = predict(idle, layout)
    assert simulate(idle, layout) == pytest.approx(prediction.overhead_seconds, rel=0.15)
