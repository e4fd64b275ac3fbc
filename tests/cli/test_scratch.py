import os
import signal

import pytest

from streamem.cli.scratch import scratch


def test_scratch__is_gone_afterwards(tmp_path):
    with scratch(tmp_path, "x-") as directory:
        (directory / "deep").mkdir()
        (directory / "deep" / "file").write_text("data")
    assert list(tmp_path.iterdir()) == []


def test_scratch__is_gone_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), scratch(tmp_path, "x-"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_scratch__stays_where_asked(tmp_path):
    with scratch(tmp_path, "x-", keep=True) as directory:
        pass
    assert directory.is_dir()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_scratch__is_gone_after_a_signal_and_handlers_are_as_before(tmp_path, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), scratch(tmp_path, "x-"):
        signal.raise_signal(number)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is before


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_scratch__leaves_an_ignored_signal_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with scratch(tmp_path, "x-"):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_scratch__says_what_it_could_not_remove(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("streamem.cli.scratch.shutil.rmtree", lambda *_, **__: None)
    with scratch(tmp_path, "x-") as directory:
        pass
    assert str(directory) in capsys.readouterr().err
