"""A process that ends with the one that started it, however that ended."""

import ctypes
import os
import signal
import threading

from anychip.device.files.kept import SLEEP

POLL_S = 0.5  # between looks whether a process is to end
EXIT = os._exit  # the real one, taken before a program finds ours, which keeps what it did


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, however that ended, also if it is by now. Linux does so at once."""
    pr_set_pdeathsig = 1  # linux/prctl.h
    try:
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    except AttributeError:  # no Linux
        watch(parent)
    if os.getppid() != parent:
        EXIT(1)


def watch(parent: int) -> None:
    """End this process soon after its parent is gone. (Linux takes a parent's thread that has ended for the parent, and a program may
    fork in any.)"""

    def look() -> None:
        while os.getppid() == parent:
            SLEEP(POLL_S)
        EXIT(1)

    threading.Thread(target=look, daemon=True).start()
