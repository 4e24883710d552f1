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
