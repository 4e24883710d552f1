"""The recording process: `python -m anychip.device CONFIG` installs the chip, runs the program, saves what it did."""

import ctypes
import json
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from anychip import __version__
from anychip.device.launch import TORCH_UNFIT
from anychip.errors import UnsupportedTorch
from anychip.spec import load_chip


class Session:
    """One recording: state is what `finish` needs to write it, once, whatever happens."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.began_s = time.perf_counter()
        self.real_time = time.perf_counter
        self.pid = os.getpid()
        self.runtime: Any = None
        self.hooks: Any = None
        self.saved = False

    def install(self) -> None:
        from anychip.device.install import install

        chip = load_chip(self.config["chip"])
        self.runtime = install(
            chip,
            count=self.config["devices"],
            device_type=self.config["device"],
            host_measured=self.config["host"] == "measured",
            imbalance=self.config["imbalance"],
        )
        from anychip.device import smi
        from anychip.device.hooks import Hooks, Steps

        steps = Steps(self.config["steps"], self.config["calls"], self.finish)
        self.hooks = Hooks(self.runtime, steps)
        self.hooks.install()
        smi.install(self.runtime, Path(self.config["out"]).parent)
        self.runtime.clocks.install()
        if self.config["step_mark"]:
            self.hooks.mark_steps_at(self.config["step_mark"])

    def save(self, exit_code: int, **meta: Any) -> None:
        """Write the recording, once, and only from the process that was started for it."""
        if self.saved or os.getpid() != self.pid:
            return
        self.saved = True
        import torch

        self.runtime.tensors.drain()
        program = self.runtime.recorder.program({
            "argv": self.config["argv"], "module": self.config["module"], "chip": self.runtime.chip.id,
            "torch": torch.__version__, "anychip": __version__, "exit_code": exit_code,
            "steps": self.hooks.steps.complete, "calls": self.hooks.steps.done_calls,
            "parameter_blocks": sorted(self.hooks.parameters), "wall_s": self.real_time() - self.began_s, **meta,
        })  # fmt: skip
        program.save(self.config["out"])

    def finish(self) -> None:
        """Enough steps: save, and end the process here.

        Nothing that the program would still do can change the answer, and its handlers and workers cannot
        keep it from ending.
        """
        if os.getpid() != self.pid:
            return
        self.save(0, stopped=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    def run(self) -> int:
        """Run the program to its end, or to the step that ends it; returns its exit code."""
        argv = self.config["argv"]
        sys.argv = list(argv)
        try:
            if self.config["module"]:
                sys.path.insert(0, os.getcwd())
                runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
            else:
                sys.path.insert(0, str(Path(argv[0]).resolve().parent))
                runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as end:
            return exit_status(end)
        except KeyboardInterrupt:
            self.save(130, interrupted=True)
            return 130
        except BaseException:
            print_program_traceback()
            return 1
        return 0


def exit_status(end: SystemExit) -> int:
    """The exit code that Python would end with; a message goes to stderr as Python's own would."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def print_program_traceback() -> None:
    """The program's own traceback, without our frames above it."""
    kind, error, trace = sys.exc_info()
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
        trace = trace.tb_next
    traceback.print_exception(kind, error, trace)


def end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it is gone, however that ended."""
    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main() -> int:
    config = json.loads(sys.argv[1])
    end_with_parent()
    session = Session(config)
    try:
        session.install()
    except UnsupportedTorch as error:
        Path(config["out"]).with_suffix(".error").write_text(str(error), encoding="utf-8")
        return TORCH_UNFIT
    code = session.run()
    session.save(code)
    return code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
