import math
import threading

import pytest

from streamem.cli.meter import Meter, passes_left
from streamem.convergence import PassEnded, PassProgress, PassRecord, PassStarted


class Clock:
    """Time that passes when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def record(gain=math.inf, log_likelihood=-1.0, seconds=10.0):
    return PassRecord(log_likelihood, log_likelihood, gain, seconds, bytes_read=8_000_000_000)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def meter(clock):
    return Meter(tol=1e-6, max_iter=100, clock=clock)


def run_pass(meter, clock, index, gain):
    meter.take(PassStarted("em", index, 1_000_000, 8_000_000_000))
    clock.now += 10
    return meter.take(PassEnded("em", index, record(gain)))


def test_view__has_rates_and_time_left_of_the_pass(meter, clock):
    meter.take(PassStarted("em", 0, 1_000_000, 8_000_000_000))
    clock.now += 2
    meter.take(PassProgress("em", 0, 250_000))
    view = meter.view()
    assert view.title == "Pass 1"
    assert view.fraction == 0.25
    assert "0.12 M rows/s" in view.figures
    assert "1.00 GB/s" in view.figures
    assert "0:06 left" in view.figures


def test_view__before_the_first_rows_promises_nothing(meter):
    meter.take(PassStarted("sample", 0, 1_000_000, 8_000_000_000))
    assert (meter.view().fraction, meter.view().figures) == (0.0, "")


def test_view__between_passes_is_not_a_pass(meter, clock):
    run_pass(meter, clock, 0, math.inf)
    assert meter.view().fraction == 0.0
    assert meter.view().title == "Computing"


def test_view__says_that_a_fit_looks_for_its_start(meter):
    meter.take(PassStarted("sample", 0, 1_000_000, 8_000_000_000))
    meter.take(PassEnded("sample", 0))
    assert meter.view().title == "Starting"


def test_take__ignores_progress_that_arrives_late(meter):
    meter.take(PassStarted("em", 0, 100, 800))
    meter.take(PassProgress("em", 0, 60))
    meter.take(PassProgress("em", 0, 40))
    assert meter.view().fraction == 0.6


def test_take__announces_once_and_leaves_one_line_per_pass(meter, clock):
    assert len(meter.take(PassStarted("sample", 0, 1_000_000, 8_000_000_000))) == 1
    clock.now += 4
    assert len(meter.take(PassEnded("sample", 0))) == 1
    (line,) = run_pass(meter, clock, 0, 1e-3)
    assert line.startswith("Pass 1")
    assert "-1.000000" in line
    assert "1.0e-03" in line
    assert "0.80 GB/s" in line
    assert len(line) <= 80


def test_state__shows_log_likelihood_gain_and_time_left(meter, clock):
    run_pass(meter, clock, 0, 1e-2)
    run_pass(meter, clock, 1, 1e-3)
    state = meter.view().state
    assert "-1.000000" in state
    assert "1.0e-03" in state
    assert "0:20 + ~0:30 left" in state  # 1e-3 -> 1e-6 takes three more passes of ten seconds


def test_state__time_left_shrinks_within_the_pass(meter, clock):
    run_pass(meter, clock, 0, 1e-2)
    run_pass(meter, clock, 1, 1e-3)
    meter.take(PassStarted("em", 2, 1_000_000, 8))
    meter.take(PassProgress("em", 2, 500_000))
    assert "~0:25 left" in meter.view().state


def test_state__time_left_is_bounded_by_max_iter(clock):
    meter = Meter(tol=1e-6, max_iter=3, clock=clock)
    run_pass(meter, clock, 0, 1e-2)
    run_pass(meter, clock, 1, 0.99e-2)
    assert "~0:10 left" in meter.view().state


@pytest.mark.parametrize(
    "gains, passes",
    [
        ([], None),
        ([1e-2], None),
        ([math.inf, math.inf], None),
        ([math.inf, 1e-2], None),
        ([1e-2, 1e-2], None),
        ([1e-3, 1e-2], None),
        ([1e-2, 1e-3], 3),
        ([1e-2, 1e-5], 1),
        ([1e-2, 1e-7], 0),
        ([1e-2, 0.0], 0),
    ],
)
def test_passes_left__extrapolates_only_a_shrinking_gain(gains, passes):
    assert passes_left([record(gain) for gain in gains], 1e-6) == passes


def test_passes_left__is_unknown_for_a_tolerance_that_is_never_reached():
    assert passes_left([record(1e-2), record(1e-3)], 0.0) is None


def test_take__a_second_start_forgets_the_passes_of_the_first(meter, clock):
    run_pass(meter, clock, 0, 1e-2)
    run_pass(meter, clock, 1, 1e-3)
    meter.take(PassStarted("em", 0, 1_000_000, 8))
    assert meter.records == []
    assert meter.view().title == "Pass 1"


def test_take__counts_right_from_many_threads(meter):
    meter.take(PassStarted("em", 0, 800, 800))
    threads = [
        threading.Thread(target=lambda i=i: [meter.take(PassProgress("em", 0, n)) for n in range(i, 801, 8)])
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.view().fraction == 1.0
