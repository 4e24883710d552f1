"""What Python itself does around a program, for one that runs inside of the recording process: signals, seeds, launchers, its end."""

import importlib
import multiprocessing
import os
import random
import signal
import sys
from contextlib import suppress
from typing import Any

ASKING = (signal.SIGINT, signal.SIGTERM)  # signals by which a program is asked to end


def hear_the_end() -> None:
    """Be interrupted by Ctrl-C, which the command passes on, and by SIGTERM, which schedulers send to all processes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: Any) -> None:
    hear_no_more()
    raise KeyboardInterrupt


def hear_no_more() -> None:
    """What a program did is saved after the first: the command passes on what it was sent itself."""
    for one in ASKING:
        signal.signal(one, signal.SIG_IGN)


def end_as_others() -> None:
    """In a process that the program forked: SIGTERM is how such are ended, and no interrupt."""
    if signal.getsignal(signal.SIGTERM) is _terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def seed_host() -> None:
    """What the program draws on the host without a seed of its own is the same on every target, and when it is asked again: columns
    are of the same data."""
    import torch

    random.seed(0)
    torch.default_generator.manual_seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


def await_started() -> None:
    """Wait for what the program started and did not wait for, as the interpreter does at its end: it may be what is recorded."""
    for process in multiprocessing.active_children():
        if not process.daemon:
            process.join()


def end_workers() -> None:
    """Loaders' workers and the like, before this process ends without a word to them: they would tell of a parent that is gone."""
    with suppress(
        ValueError
    ):  # in another thread than the first; torch's own handler raises an error of the first that is killed
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


LAUNCHERS = ("torch.distributed.run", "torch.distributed.launch")


def launched(argv: list[str], module: bool) -> tuple[list[str], bool]:
    """What a launcher of torch would start, and whether that is a module: the ranks are started here, not by it."""
    if not module or argv[0] not in LAUNCHERS:
        return argv, module
    asked = importlib.import_module(argv[0]).parse_args(argv[1:])
    # The older of the two tells a rank its number by an argument, too.
    told = [] if getattr(asked, "use_env", True) else [f"--local-rank={os.environ.get('LOCAL_RANK', 0)}"]
    return [asked.training_script, *told, *asked.training_script_args], bool(asked.module)


def exit_status(end: SystemExit) -> int:
    """The exit code that Python would end with; a message goes to stderr as Python's own would."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1
