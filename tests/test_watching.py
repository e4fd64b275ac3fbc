"""Tasks of a pass that failed are known wherever they run, end after their block, and none begins late."""

import asyncio
import gc
import pickle
import threading

import pytest

from streamem.watching import StoppedError, Watch, end_pass


def ended(name, seconds=60.0):
    return asyncio.run(end_pass(name, seconds))


def test_watch__arrives_as_the_one_that_is_there():
    watch = Watch()
    assert pickle.loads(pickle.dumps(watch)) is watch
    data, name = pickle.dumps(watch), watch.name
    del watch
    gc.collect()
    assert pickle.loads(data).name == name


def test_end__waits_for_a_task_and_lets_no_other_begin():
    watch, begun, finish, order = Watch(), threading.Event(), threading.Event(), []

    def work():
        with watch.task():
            begun.set()
            finish.wait(60)
            order.append("task")

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(60)
    assert not ended(watch.name, 0.05)
    threading.Timer(0.2, finish.set).start()
    assert ended(watch.name)
    order.append("ended")
    thread.join()
    assert order == ["task", "ended"]
    with pytest.raises(StoppedError), watch.task():
        pass


def test_end__holds_for_tasks_that_come_late_and_for_no_other_pass():
    data, other = pickle.dumps(Watch()), Watch()
    gc.collect()
    assert ended(pickle.loads(data).name)
    gc.collect()
    assert pickle.loads(data).stopped
    assert not other.stopped
