"""Progress on stderr: a line for each stage, and on a terminal a running clock while a stage lasts."""

import sys
import threading
import time
from types import TracebackType

from anychip import units

CLOCK_FROM_S = 1.0
TICK_S = 0.5


class Progress:
    """Called with the text of the stage that begins. As a context, it stops its clock on leaving.

    The clock is drawn at the start of the line and the cursor left there, so that whatever the user's program prints
    meanwhile writes over it. Recordings that run side by side call it from threads of their own.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._calling = threading.Lock()
        self._stop = threading.Event()
        self._note = ""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end_clock()

    def __call__(self, text: str) -> None:
        if self.quiet:
            return
        with self._calling:
            self._end_clock()
            self._note = ""
            # In one: a program's own lines, and others' of ours, come between two
            sys.stderr.write(f"anychip: {text}\n")
            sys.stderr.flush()
            if self._terminal:
                self._stop.clear()
                self._thread = threading.Thread(target=self._run_clock, args=(time.perf_counter(),), daemon=True)
                self._thread.start()

    def note(self, text: str) -> None:
        """How far the stage is, shown behind the clock until the next note or stage; nothing where there is no terminal."""
        self._note = text

    def _run_clock(self, began: float) -> None:
        if self._stop.wait(CLOCK_FROM_S):
            return
        while not self._stop.wait(TICK_S):
            passed = units.duration(time.perf_counter() - began)
            sys.stderr.write(f"\r\x1b[2m  {'  '.join(filter(None, (passed, self._note)))}\x1b[0m\x1b[K\r")
            sys.stderr.flush()
        sys.stderr.write("\x1b[K")
        sys.stderr.flush()

    def _end_clock(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
