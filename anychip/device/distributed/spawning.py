"""Programs that start their ranks themselves: here only one rank runs in a process, and it is this one.

`torch.multiprocessing.spawn` calls its function in this process, for the rank that is wanted. A process that the program
starts and that joins as the wanted rank becomes the recorded one; those that join as another end there (`Runtime.joins`).
All are forked: what is spawned is so because a real driver bears no fork, and would be an interpreter that sees no chip.
Launchers that end in torch's own (`accelerate launch` does; `notebook_launcher` with a function) run their script here, with the
environment that they made.
"""

import importlib.abc
import importlib.util
import multiprocessing.context
import os
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.multiprocessing as mp

from anychip.device.runtime import Runtime


class _Finished:
    """What `spawn(join=False)` returns: a context whose processes have ended."""

    processes: tuple[Any, ...] = ()

    def join(self, *_: Any, **__: Any) -> bool:
        return True

    def pids(self) -> list[int]:
        return []


def install(runtime: Runtime) -> None:
    def start(fn: Callable[..., Any], args: tuple[Any, ...] = (), nprocs: int = 1, join: bool = True, daemon: bool = False,
              start_method: str = "spawn") -> Any:  # fmt: skip
        rank = int(os.environ.get("LOCAL_RANK", 0))
        if rank < nprocs:
            fn(rank, *args)
        return None if join else _Finished()

    vars(mp).update(spawn=start, start_processes=start)
    vars(sys.modules["torch.multiprocessing.spawn"]).update(spawn=start, start_processes=start)
    sys.meta_path.insert(0, _Launcher())
    for kind in (multiprocessing.context.SpawnProcess, multiprocessing.context.ForkServerProcess):
        kind._Popen = staticmethod(partial(_forked, runtime))  # type: ignore[method-assign]


def _forked(runtime: Runtime, process: Any) -> Any:
    """Start a process that is to be spawned. It may use its chip, as one that was spawned does."""
    from multiprocessing.popen_fork import Popen

    def begin(*args: Any, **kwargs: Any) -> Any:
        runtime.pid, runtime.repeats = os.getpid(), None  # nobody would run a folded one again
        torch.set_num_threads(1)  # of the threads that there were none is left
        return type(process)._bootstrap(process, *args, **kwargs)

    process._bootstrap = begin
    started = Popen(process)
    del process._bootstrap
    return started


def run_here(args: Any) -> None:
    """`torch.distributed.run.run`: the script of its arguments, in this process."""
    sys.argv = [args.training_script, *args.training_script_args]
    if args.module:
        runpy.run_module(args.training_script, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(args.training_script).resolve().parent))
        runpy.run_path(args.training_script, run_name="__main__")


def launch_here(config: Any, entrypoint: Callable[..., Any], args: list[Any]) -> dict[int, Any]:
    """`torch.distributed.launcher.api.launch_agent` of a function, in this process."""
    # Another size than is wanted is refused as it joins.
    os.environ["WORLD_SIZE"] = str(config.max_nodes * config.nproc_per_node)
    # What the others return would be as this rank's: programs read that of the first.
    return dict.fromkeys(range(config.nproc_per_node), entrypoint(*args))


def _of_scripts(module: ModuleType) -> None:
    original = vars(module)["run"]
    # Asked when it is called: it may have been imported before this process became a rank.
    vars(module)["run"] = lambda args: run_here(args) if "RANK" in os.environ else original(args)


def _of_functions(module: ModuleType) -> None:
    original = vars(module)["launch_agent"]

    def launch_agent(config: Any, entrypoint: Any, args: list[Any], *further: Any, **options: Any) -> Any:
        if callable(entrypoint) and "RANK" in os.environ:
            return launch_here(config, entrypoint, args)
        return original(config, entrypoint, args, *further, **options)

    vars(module)["launch_agent"] = launch_agent


LAUNCHERS = {"torch.distributed.run": _of_scripts, "torch.distributed.launcher.api": _of_functions}


class _Launcher(importlib.abc.MetaPathFinder):
    """Changes torch's launchers once they are imported: importing them takes half a second that few programs need."""

    def __init__(self) -> None:
        self.left = dict(LAUNCHERS)

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        if name not in self.left:
            return None
        change = self.left.pop(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
