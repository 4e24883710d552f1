"""Programs that start their ranks themselves: here only one rank runs in a process, and it is this one.

`torch.multiprocessing.spawn` calls its function in this process, for the rank that is wanted. A process that the program
forks and that joins as the wanted rank becomes the recorded one; those that join as another end there (`Runtime.joins`).
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp


class _Finished:
    """What `spawn(join=False)` returns: a context whose processes have ended."""

    processes: tuple[Any, ...] = ()

    def join(self, *_: Any, **__: Any) -> bool:
        return True

    def pids(self) -> list[int]:
        return []


def install() -> None:
    def start(fn: Callable[..., Any], args: tuple[Any, ...] = (), nprocs: int = 1, join: bool = True, daemon: bool = False,
              start_method: str = "spawn") -> Any:  # fmt: skip
        rank = int(os.environ.get("LOCAL_RANK", 0))
        if rank < nprocs:
            fn(rank, *args)
        return None if join else _Finished()

    vars(mp).update(spawn=start, start_processes=start)
    vars(sys.modules["torch.multiprocessing.spawn"]).update(spawn=start, start_processes=start)
