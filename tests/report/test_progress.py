"""What is said on stderr while a forecast is made."""

import io
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from anychip.report.progress import Progress


class Slow(io.StringIO):
    """A stream to which others write between two writes of one."""

    def write(self, text: str) -> int:
        time.sleep(0.01)
        return super().write(text)


def test_recordings_side_by_side_say_whole_lines(monkeypatch):
    """Two lines stood on one, and the empty one behind them."""
    monkeypatch.setattr(sys, "stderr", Slow())
    with Progress() as progress, ThreadPoolExecutor(4) as pool:
        list(pool.map(progress, [f"recording on {n} chips" for n in range(8)]))
    lines = sys.stderr.getvalue().splitlines()
    assert sorted(lines) == [f"anychip: recording on {n} chips" for n in range(8)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_how_far_a_stage_is_stands_behind_its_clock(monkeypatch):
    """A job of many ranks, or of several chips, said nothing for minutes but that time passed."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("anychip.report.progress.CLOCK_FROM_S", 0.0)
    monkeypatch.setattr("anychip.report.progress.TICK_S", 0.01)
    with Progress() as progress:
        progress("recording on 64 chips")
        progress.note("5 ranks begun")
        time.sleep(0.1)
        progress("recorded")
        time.sleep(0.1)
    stage, _, after = sys.stderr.getvalue().partition("anychip: recorded")
    assert "  5 ranks begun\x1b[0m" in stage
    assert "5 ranks" not in after


def test_notes_are_quiet_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress() as progress:
        progress("recording on 64 chips")
        progress.note("3 of 5")
    assert sys.stderr.getvalue() == "anychip: recording on 64 chips\n"
