"""One pass: the tree belongs to the blocks, so no scheduler, worker count or partition changes a bit."""

import _thread
import dataclasses
import threading
import time
from types import SimpleNamespace

import dask
import numpy as np
import pytest
from dask.callbacks import Callback

from streamem import reduce, retries
from streamem.errors import InputError, MemoryLimitError, SourceError
from streamem.protocols import Rows
from streamem.sinks import open_sink
from streamem.tree import FAN_IN
from streamem.watching import Watch

from . import naive


@dataclasses.dataclass(frozen=True)
class Trace:
    """Statistics that remember how they were merged."""

    text: str
    n_samples: int = 1
    weight: float = 1.0
    log_likelihood: float = 0.0

    def merge(self, other):
        return Trace(f"({self.text}{other.text})", self.n_samples + other.n_samples)


@dataclasses.dataclass(frozen=True)
class FakeBlock:
    index: int
    size: int = 3

    @property
    def start(self):
        return self.index * self.size

    @property
    def stop(self):
        return self.start + self.size

    def load(self, buffer=None):
        return Rows(np.arange(self.start, self.stop, dtype=float)[:, None], None, self.start)


@dataclasses.dataclass(frozen=True)
class FakeSource:
    n_blocks: int
    n_features: int = 1 << 20  # as the number of tasks goes by bytes
    dtype: type = float
    block_bytes: int = 24
    name: str = "fake"

    @property
    def n_samples(self):
        return 3 * self.n_blocks

    def blocks(self):
        return [FakeBlock(i) for i in range(self.n_blocks)]


def trace(rows):
    return Trace(str(rows.start // 3), len(rows.x))


def test_time__of_a_pass_is_split(monkeypatch):
    """Loads of 5 s say that they decoded for 2; E-steps take 7."""
    now = [0.0]
    monkeypatch.setattr(reduce, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Slow(FakeBlock):
        def load(self, buffer=None):
            now[0] += 5
            return dataclasses.replace(super().load(), decode_seconds=2.0)

    class Source(FakeSource):
        def blocks(self):
            return [Slow(i) for i in range(self.n_blocks)]

    def e_step(rows):
        now[0] += 7
        return trace(rows)

    done = reduce.map_reduce(e_step, Source(3), reduce.Scheduler("synchronous", 1))
    assert (done.read_seconds, done.decode_seconds, done.compute_seconds) == (9, 6, 21)


def run(n_blocks, n_workers, name="synchronous", **keywords):
    return reduce.map_reduce(trace, FakeSource(n_blocks), reduce.Scheduler(name, n_workers), **keywords).stats


@pytest.mark.parametrize("name", ["synchronous", "threads"])
@pytest.mark.parametrize("n_blocks", [1, 2, 5, 300])
def test_map_reduce__builds_that_tree(name, n_blocks):
    stats = run(n_blocks, 2, name)
    assert stats.text == naive.tree([str(i) for i in range(n_blocks)])
    assert stats.n_samples == 3 * n_blocks


def test_large_runs__begin_first():
    """Threads end together only if what is left in the end is small."""
    began = []

    def step(rows):
        began.append(rows.start // 3)
        return Trace("")

    scheduler = reduce.Scheduler("synchronous", 8)
    source = FakeSource(3000)
    reduce.map_reduce(step, source, scheduler)
    runs = scheduler.cut(3000, reduce._row_bytes(source))
    order = sorted(range(len(runs)), key=lambda i: began.index(runs[i].start))
    groups = [i // FAN_IN for i in order]
    assert len(runs[0]) > len(runs[-2])
    assert len(groups) > 3 * FAN_IN
    assert groups == sorted(groups)


def test_progress__counts_every_row_once():
    seen = []
    run(40, 3, "threads", progress=seen.append)
    assert seen[-1] == 120
    assert seen == sorted(seen)
    assert len(seen) >= 4


def test_fold__holds_no_more_statistics_than_the_tree_is_deep():
    alive, peak = 0, 0

    class Counted(Trace):
        def merge(self, other):
            nonlocal alive
            alive -= 1
            return Counted("", 1)

    def step(rows):
        nonlocal alive, peak
        alive += 1
        peak = max(peak, alive)
        return Counted("")

    reduce._fold(reduce._Run(FakeSource(256).blocks(), Watch()), reduce._Opaque(step))
    assert peak <= 9


def test_buffer__is_one_for_each_thread():
    here = reduce.thread_buffer()
    there = []
    thread = threading.Thread(target=lambda: there.append(reduce.thread_buffer()))
    thread.start()
    thread.join()
    assert reduce.thread_buffer() is here
    assert there[0] is not here


def open_local(**keywords):
    source = FakeSource(4, block_bytes=keywords.pop("block_bytes", 24))
    with reduce.open_scheduler(source=source, **keywords) as scheduler:
        return scheduler


def test_workers__follow_dask_and_memory():
    with dask.config.set(num_workers=8):
        assert open_local().n_workers == 8
        assert open_local(memory_limit=400, block_bytes=10).n_workers == 5
        assert open_local(memory_limit=10, block_bytes=10).n_workers == 1
        assert open_local(scheduler="synchronous").n_workers == 1


def test_memory_limit__that_cannot_be_met_is_refused_with_the_numbers():
    with pytest.raises(MemoryLimitError, match=r"fake: .* 1,000 bytes.* 999"):
        open_local(memory_limit=999, block_bytes=1000)


def test_scheduler__of_unknown_name_is_refused():
    with pytest.raises(InputError, match="got 'thread'"):
        open_local(scheduler="thread")


def test_few_bytes__are_worked_through_without_a_graph():
    """On this thread, where all of them take less time than sharing them out."""
    n_tasks = []
    for n_features in (1, 1 << 20):
        with Callback(posttask=lambda *task: n_tasks.append(n_features)):  # noqa: B023
            source = FakeSource(40, n_features)
            stats = reduce.map_reduce(trace, source, reduce.Scheduler("threads", 2)).stats
        assert stats.text == naive.tree([str(i) for i in range(40)])
    assert 1 not in n_tasks and n_tasks.count(1 << 20) > 4


def test_little_work__is_done_without_a_graph_where_it_is_known():
    """More bytes than those, of few columns say, take no longer if there is little to do with them."""
    n_tasks = []
    for row_work in (1e2, 1e9):
        with Callback(posttask=lambda *task: n_tasks.append(row_work)):  # noqa: B023
            source = FakeSource(40, 1 << 12)
            stats = reduce.map_reduce(trace, source, reduce.Scheduler("threads", 2), row_work=row_work).stats
        assert stats.text == naive.tree([str(i) for i in range(40)])
    assert 1e2 not in n_tasks and n_tasks.count(1e9) > 4


@pytest.mark.parametrize("name", ["threads", "synchronous", "processes"])
def test_each__keeps_the_order_and_stays_in_this_process(name):
    seen = []
    square = lambda number: seen.append(number) or number**2  # noqa: E731
    assert reduce.Scheduler(name, 2).each(square, range(20)) == [number**2 for number in range(20)]
    assert sorted(seen) == list(range(20))


def test_each__works_at_several_at_once():
    meeting = threading.Barrier(2, timeout=60)
    assert len(set(reduce.Scheduler("threads", 2).each(lambda _: meeting.wait(), range(2)))) == 2


def test_computing__leaves_dask_as_it_was():
    before = set(Callback.active)
    run(4, 2)
    assert set(Callback.active) == before


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 4, 7, 100])
@pytest.mark.parametrize("n_blocks", [1, 2, 9])
def test_map_rows__writes_each_result_once_in_whole_chunks(chunk_rows, n_blocks):
    source = FakeSource(n_blocks)
    written = []

    class Sink:
        def __init__(self):
            self.chunk_rows = chunk_rows

        def write(self, start, values):
            written.append((start, values))

    reduce.map_rows(lambda rows: rows.x[:, 0] * 2, source, Sink(), reduce.Scheduler("synchronous", 3))
    written.sort(key=lambda pair: pair[0])
    np.testing.assert_array_equal(np.concatenate([v for _, v in written]), 2 * np.arange(3 * n_blocks))
    for start, values in written:
        assert start % chunk_rows == 0
        assert len(values) == min(chunk_rows, 3 * n_blocks - start)


def test_map_rows__of_no_rows_writes_nothing():
    class Sink:
        chunk_rows = 3

    reduce.map_rows(lambda rows: rows.x[:, 0], FakeSource(0), Sink(), reduce.Scheduler("synchronous", 1))


def test_map_rows__failing_leaves_nothing_under_the_final_name(tmp_path):
    def fail(rows):
        if rows.start >= 6:
            raise ValueError("broken")
        return rows.x[:, 0]

    out = tmp_path / "out.npy"
    sink = open_sink(out, n_samples=12, trailing_shape=(), dtype=np.dtype(float), block_rows=3)
    with pytest.raises(ValueError, match="broken"), sink:
        reduce.map_rows(fail, FakeSource(4), sink, reduce.Scheduler("threads", 2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_pass__leaves_no_task_at_work(error):
    """Threads that are in the middle of a block finish it first; blocks behind are not begun."""
    begun, ended = [], []
    slow = threading.Event()

    def step(rows):
        begun.append(rows.start)
        if rows.start == 0:
            slow.wait(10)
            if error is ValueError:
                raise error("broken")
            _thread.interrupt_main()
        slow.set()
        time.sleep(0.1)
        ended.append(rows.start)
        return Trace("")

    with pytest.raises(error):
        reduce.map_reduce(step, FakeSource(200), reduce.Scheduler("threads", 3))
    at_return = len(begun), len(ended)
    assert len(begun) == len(ended) + (error is ValueError)
    time.sleep(0.3)
    assert (len(begun), len(ended)) == at_return


class Flaky(FakeSource):
    """A source whose every n-th read fails."""

    def __init__(self, n_blocks, every, error, attempts_seen):
        super().__init__(n_blocks)
        object.__setattr__(self, "how", (every, error, attempts_seen))

    def blocks(self):
        return [FlakyBlock(i, 3, self.how) for i in range(self.n_blocks)]


@dataclasses.dataclass(frozen=True)
class FlakyBlock(FakeBlock):
    how: tuple = ()

    def load(self, buffer=None):
        every, error, seen = self.how
        seen.append(self.index)
        if every and len(seen) % every == 0:
            raise error
        return super().load(buffer)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.0)


GONE = ConnectionResetError("gone")


def flaky_run(every, error=GONE):
    seen = []
    source = Flaky(100, every, error, seen)
    return reduce.map_reduce(trace, source, reduce.Scheduler("synchronous", 1)).stats, seen


def wrapped(cause):
    error = SourceError("Block 3 (rows 9-12 of a store): could not be read.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [GONE, wrapped(TimeoutError("slow"))])
def test_store__that_fails_every_twentieth_read_changes_nothing(impatient, caplog, error):
    stats, seen = flaky_run(20, error)
    assert stats.text == run(100, 1).text
    assert len(seen) == 100 + 100 // 19
    assert "trying again, 1 of 3" in caplog.text


def test_store__that_goes_on_failing_is_an_error_that_names_the_block(impatient):
    with pytest.raises(
        SourceError, match=r"Block \d+ \(rows \d+-\d+\): ConnectionResetError: gone.*Tried 4 times"
    ):
        flaky_run(1)
    with pytest.raises(SourceError, match=r"Block 3 \(rows 9-12 of a store\).*Tried 4 times"):
        flaky_run(1, wrapped(TimeoutError("slow")))


def test_retries__are_a_setting(impatient):
    with dask.config.set({"streamem.retries": 0}), pytest.raises(SourceError, match="Tried 1 times"):
        flaky_run(20)


@pytest.mark.parametrize(
    "error", [FileNotFoundError("no"), InputError("bad rows"), wrapped(None), OSError(28, "No space left")]
)
def test_failures__that_are_for_good_are_not_tried_again(impatient, error):
    seen = []
    with pytest.raises(type(error)):
        reduce.map_reduce(trace, Flaky(9, 1, error, seen), reduce.Scheduler("synchronous", 1))
    assert len(seen) == 1


def test_results__are_written_again_when_the_store_fails(impatient):
    calls, written = [], []

    class Sink:
        chunk_rows = 3

        def write(self, start, values):
            calls.append(start)
            if len(calls) % 5 == 0:
                raise TimeoutError("slow")
            written.append(start)

    reduce.map_rows(lambda rows: rows.x[:, 0], FakeSource(20), Sink(), reduce.Scheduler("synchronous", 1))
    assert sorted(written) == [3 * i for i in range(20)]
    assert len(calls) == 24
