"""The middle stages of a pipeline from one of them: what it is before its first step, they are as well.

In: the process of a pipeline's second stage, when its first step has been prepared. It forks a process for each of the
other middle stages, which takes that stage's place in the schedule and goes on: the order of its micro-batches is its own,
and so is what it does to memory. Peers and groups are moved along in what it leaves. Whether the stages are alike is for the
`job` to find out; schedules of several stages a rank, and pipelines that programs write themselves, are not taken part in.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from anychip.device.mailbox import POLL_S, SLEEP
from anychip.record import Group, Op, Program

SCHEDULES = "torch.distributed.pipelining.schedules"


class Stages:
    """Of a rank's process. ranks: of the pipeline, in order, of which this one is the second.

    play(rank) makes a forked process that rank; tokens: the pipe that holds a byte for each rank that may compute; folder:
    where recordings are left.
    """

    def __init__(
        self, ranks: tuple[int, ...], tokens: tuple[int, int], folder: Path, play: Callable[[int], None]
    ) -> None:
        self.ranks, self.tokens, self.folder, self.play = ranks, tokens, folder, play
        self.moved: tuple[int, int] | None = None  # of a process that took another's place: which rank's, and whose

    def install(self) -> None:
        """Watch the schedules of pipelines, where the program has imported them."""
        schedules = sys.modules.get(SCHEDULES)
        if schedules is None:
            return
        single = schedules.PipelineScheduleSingle
        original = single._initialize_stage

        @wraps(original)
        def initialize(schedule: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(schedule, *args, **kwargs)
            self._branch(schedule._stage)
            return result

        single._initialize_stage = initialize

    def _branch(self, stage: Any) -> None:
        """Before the first step: start the others, and let them go first."""
        ranks, self.ranks = self.ranks, ()
        if not ranks or stage.stage_index != 1 or stage.num_stages != len(ranks):
            return
        sys.stdout.flush()
        sys.stderr.flush()
        started: dict[int, int] = {}
        for position in range(2, len(ranks) - 1):
            child = os.fork()
            if not child:
                end_with_parent()
                os.read(self.tokens[0], 1)
                self.moved = ranks[1], ranks[position]
                stage.stage_index = position
                self.play(ranks[position])
                return
            started[child] = ranks[position]
        os.write(self.tokens[1], b"t")
        while started:
            # In the order in which they end: the turn of one that has ended may be what another waits for.
            for child in list(started):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    rank = started.pop(child)
                    if status:
                        (self.folder / f"rank-{rank}.anychip").unlink(missing_ok=True)  # it runs by itself then
                    os.write(self.tokens[1], b"t")
            SLEEP(POLL_S)
        os.read(self.tokens[0], 1)


def end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it is gone, however that ended."""
    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def moved(program: Program, here: int, there: int) -> None:
    """Make a recording of rank `here`, which took the place of rank `there` in a pipeline, that rank's."""
    steps = [_steps(group.ranks, here, there) for group in program.groups]

    def peer(rank: int, group: int) -> int:
        ranks = program.groups[group].ranks
        return ranks[ranks.index(rank) + steps[group]] if steps[group] is not None else rank + there - here

    ops = [_moved_op(op, peer) if op.name.startswith("c10d.") else op for op in program.ops]
    program.groups = [
        group if step is not None else Group(tuple(rank + there - here for rank in group.ranks), group.axis)
        for group, step in zip(program.groups, steps, strict=True)
    ]
    program.ops, program.rank, program.members = ops, there, (there,)


def _steps(ranks: tuple[int, ...], here: int, there: int) -> Any:
    """How far apart two ranks of one group are; None where the other has a group of its own."""
    return ranks.index(there) - ranks.index(here) if there in ranks else None


def _moved_op(op: Op, peer: Callable[[int, int], int]) -> Op:
    group = op.args[2]
    return replace(
        op, kwargs=tuple((name, peer(value, group) if name == "peer" else value) for name, value in op.kwargs)
    )
