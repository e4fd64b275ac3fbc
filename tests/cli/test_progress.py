import io

import pytest
from rich.console import Console

from streamem.cli import progress
from streamem.cli.meter import Meter
from streamem.cli.output import note
from streamem.cli.progress import follow, follow_live, follow_plainly
from streamem.convergence import PassEnded, PassProgress, PassRecord, PassStarted

EVENTS = [
    PassStarted("sample", 0, 1000, 8000),
    PassProgress("sample", 0, 1000),
    PassEnded("sample", 0),
    PassStarted("em", 0, 1000, 8000),
    PassProgress("em", 0, 500),
    PassProgress("em", 0, 1000),
    PassEnded("em", 0, PassRecord(-12.5, -12.5, 1e-3, 1.0, 8000)),
]


def replay(hear):
    for event in EVENTS:
        hear(event)


def test_follow_plainly__writes_the_announcement_and_one_line_per_pass_to_stderr(capsys):
    with follow_plainly(Meter(1e-6, 100)) as hear:
        replay(hear)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split()[0] for line in err.splitlines()] == ["Reading", "Sampling", "Pass"]


def test_follow_live__leaves_finished_lines_and_a_cursor():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    with follow_live(Meter(1e-6, 100), console) as hear:
        replay(hear)
    text = screen.getvalue()
    assert "━" in text
    assert text.count("log-lik/row -12.500000") >= 1
    assert "\x1b[?25h" in text  # the cursor is back
    left = text.split("\x1b[2K")[-1]
    assert "━" not in left  # the bar is gone


def test_follow_live__lets_notes_through():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    with follow_live(Meter(1e-6, 100), console) as hear:
        hear(EVENTS[0])
        note("Compiling a kernel")
    assert "Compiling a kernel\n" in screen.getvalue()


def test_draw__shows_title_fraction_rates_and_state_within_80_columns():
    now = [0.0]
    meter = Meter(1e-6, 100, clock=lambda: now[0])
    meter.take(PassStarted("em", 7, 20_000_000, 2_560_000_000))
    now[0] = 2.0
    meter.take(PassProgress("em", 7, 5_000_000))
    console = Console(file=io.StringIO(), width=80, color_system=None)
    with console.capture() as frame:
        console.print(progress._draw(meter.view()))
    first, second = frame.get().splitlines()
    assert len(first) <= 80 and len(second) <= 80
    for part in ("Pass 8", "25%", "2.50 M rows/s", "0.32 GB/s", "0:06 left"):
        assert part in first
    assert "at most 100 passes" in second


def test_draw__a_pass_without_rows_yet_shows_life_but_no_figure():
    console = Console(file=io.StringIO(), width=80, color_system=None)
    meter = Meter(1e-6, 100)
    meter.take(PassStarted("em", 0, 100, 800))
    with console.capture() as frame:
        console.print(progress._draw(meter.view()))
    assert "%" not in frame.get()
    assert "Pass 1" in frame.get()


def test_follow__on_no_terminal_is_plain(capsys, monkeypatch):
    monkeypatch.setattr(progress, "follow_live", None)
    with follow(Meter()) as hear:
        replay(hear)
    assert "Pass 1" in capsys.readouterr().err


@pytest.mark.parametrize("term, live", [("xterm", True), ("dumb", False)])
def test_follow__moves_only_where_the_terminal_can(monkeypatch, term, live):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", term)
    assert progress._is_screen() is live


def test_follow__quiet_says_nothing(capsys):
    with follow(Meter(), quiet=True) as hear:
        replay(hear)
    assert capsys.readouterr() == ("", "")


def test_follow__callback_never_asks_the_fit_to_stop():
    for context in (follow(Meter()), follow(Meter(), quiet=True)):
        with context as hear:
            assert [hear(event) for event in EVENTS] == [None] * len(EVENTS)
