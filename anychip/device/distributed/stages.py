"""The middle stages of a pipeline from one of them: they do what it does, each in the order that the schedule has for it.

In: the process of a pipeline's second rank. It notes which words of its tape each micro-batch's forward and backward and
each exchange wrote. At the end torch's own schedule is asked, for each other middle rank, in which order that one does them
(`schedules`), and their recordings are put together so. Whether the stages are alike is for the `job` to find out; pipelines
that programs write themselves are not taken part in.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from typing import Any

from anychip.device.distributed.mailbox import Mailbox
from anychip.device.distributed.schedules import (
    COMPUTE,
    EXCHANGE,
    FORWARD,
    LAUNCH,
    RELEASE,
    SET_UP,
    WAIT,
    WAIT_UNSHARD,
    Act,
    Handle,
    Launched,
    Notes,
    Player,
    What,
    Wish,
    acts_of,
    as_it_is,
    sharded_parts,
    stages_of,
)
from anychip.record import Op, Program
from anychip.record.order import Order, OutOfOrder, Reorder, Stretch

SCHEDULES = "torch.distributed.pipelining.schedules"
STAGE = "torch.distributed.pipelining.stage"
AROUND = (*EXCHANGE, RELEASE)
OF_TORCH = ("PipelineScheduleSingle", "_PipelineScheduleRuntime", "_batch_p2p", "_wait_batch_p2p")


class Stages:
    """Of a rank's process. ranks: of the pipeline, in order, of which this one is the second. here: the place on the tape."""

    def __init__(self, ranks: tuple[int, ...], here: Callable[[], int]) -> None:
        self.ranks, self.here = ranks, here
        self.rounds: list[tuple[Any, Notes]] = []  # of each its schedule
        self.now: Notes | None = None
        self.inside = False  # of an act: what it does is its own
        self.wishes: dict[int, Wish] = {}  # by the operations that were asked for

    def install(self) -> None:
        """Watch the schedules of pipelines."""
        schedules = importlib.import_module(SCHEDULES)
        if not all(hasattr(schedules, name) for name in OF_TORCH):
            return  # of another torch: each stage runs by itself
        known = schedules.PipelineScheduleSingle, schedules._PipelineScheduleRuntime
        for kind in [one for one in vars(schedules).values() if isinstance(one, type) and issubclass(one, known)]:
            if "_step_microbatches" in vars(kind):
                kind._step_microbatches = self._rounds(kind._step_microbatches)  # type: ignore[attr-defined]
        schedules._batch_p2p = self._launches(schedules._batch_p2p)  # type: ignore[attr-defined]
        schedules._wait_batch_p2p = self._waits(schedules._wait_batch_p2p)  # type: ignore[attr-defined]

    # ------------------------------------------------------------ what this rank does

    def _rounds(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def step(schedule: Any, *args: Any, **kwargs: Any) -> Any:
            stages = stages_of(schedule)
            if self.now is not None or isinstance(stages[0], Player) or not self._is_second(stages):
                return original(schedule, *args, **kwargs)
            for name in SET_UP:
                if name in dir(schedule) and name not in vars(schedule):
                    setattr(schedule, name, self._aside(getattr(schedule, name)))
            for number, stage in enumerate(stages):
                self._watch(stage, number)
            self.now, before = Notes(), as_it_is(schedule)
            try:
                result = original(schedule, *args, **kwargs)
                self.rounds.append((before, self.now))
                return result
            finally:
                self.now = None

        return step

    def _aside(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """What sets the stages up before their first round is no part of it."""

        @wraps(original)
        def set_up(*args: Any, **kwargs: Any) -> Any:
            self.inside = True
            try:
                return original(*args, **kwargs)
            finally:
                self.inside = False

        return set_up

    def _is_second(self, stages: list[Any]) -> bool:
        return stages[0].group_rank == 1 and stages[0].group_size == len(self.ranks)

    def _watch(self, stage: Any, number: int) -> None:
        """Note what is asked of a stage; once."""
        if FORWARD in vars(stage):
            return
        for name in filter(partial(hasattr, stage), COMPUTE):
            setattr(stage, name, self._done(name, number, getattr(stage, name)))
        for name in EXCHANGE:
            setattr(stage, name, self._asked(name, number, getattr(stage, name)))
        for place, part in enumerate(sharded_parts(stage)):
            part.unshard = self._gathered(number, place, part.unshard)
            part.reshard = self._done("reshard", number, part.reshard, place)

    def _done(
        self, name: str, stage: int, original: Callable[..., Any], place: int | None = None
    ) -> Callable[..., Any]:
        @wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._once(name, stage, *(args[:1] if place is None else [place])):
                return original(*args, **kwargs)

        return call

    def _gathered(self, stage: int, place: int, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def unshard(*args: Any, **kwargs: Any) -> Any:
            with self._once("unshard", stage, place):
                handle = original(*args, **kwargs)
            return handle if handle is None else Handle(self._done(WAIT_UNSHARD, stage, handle.wait, place))

        return unshard

    def _asked(self, name: str, stage: int, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._once(name, stage, *args[:1]):  # from torch 2.15 on it makes what is received into
                ops = original(*args, **kwargs)
            if self.now is not None:
                wishes = tuple(Wish(name, stage, place, self.ranks.index(op.peer) - 1) for place, op in enumerate(ops))
                self.now.wishes[name, stage] = wishes
                self.wishes.update(zip(map(id, ops), wishes, strict=True))
            return ops

        return call

    def _launches(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def launch(ops: list[Any], *args: Any, **kwargs: Any) -> Any:
            notes = self.now
            if ops and isinstance(ops[0], Wish):
                notes, what = ops[0].notes, tuple(one.what for one in ops)
                notes.acts.append(Act((LAUNCH, what)))
                return Launched([], what, notes.launch(), notes)
            if notes is None or self.inside or not ops:
                return original(ops, *args, **kwargs)
            what = tuple(self.wishes[id(op)].what for op in ops)
            with self._acting(Act((LAUNCH, what))):
                work = original(ops, *args, **kwargs)
            return Launched(work, what, notes.launch())

        return launch

    def _waits(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def wait(work: Any) -> Any:
            if not isinstance(work, Launched):
                return original(work)
            act = Act((WAIT, work.what), work.number)
            if work.notes is not None:
                return work.notes.acts.append(act)
            with self._acting(act):
                return original(work)

        return wait

    @contextmanager
    def _once(self, *what: Any) -> Iterator[None]:
        """Words of something that comes once in a round."""
        if self.now is None or self.inside:
            yield
        else:
            with self._acting(Act(self.now.turn(*what))):
                yield

    @contextmanager
    def _acting(self, act: Act) -> Iterator[None]:
        """Note the words that are written meanwhile as this act's."""
        assert self.now is not None
        self.inside, begin = True, self.here()
        try:
            yield
        finally:
            self.inside = False
            self.now.acts.append(replace(act, begin=begin, end=self.here()))

    # ------------------------------------------------------------ what the others do

    def others(self, program: Program) -> dict[int, Program]:
        """The recordings of the other middle stages, from that of this one; empty where they do not follow from it."""
        if not self.rounds:
            return {}  # a schedule of the program's own
        found: dict[int, Program] = {}
        try:
            reorder = Reorder(program.tape, program.block_bytes)
            rounds = [Plan(schedule, notes, reorder) for schedule, notes in self.rounds]
            for position in range(2, len(self.ranks) - 1):
                stretches: list[Stretch] = []
                end = 0
                for one in rounds:
                    stretches.append(Stretch(end, one.first))
                    stretches += one.stretches(position, len(stretches))
                    end = one.last
                stretches.append(Stretch(end, program.tape.size))
                tape, block_bytes = reorder.arranged(stretches)
                order = Order(self.ranks[1], tuple(stretches))
                other = replace(program, tape=tape, block_bytes=block_bytes, order=order)
                moved(other, self.ranks[1], self.ranks[position])
                found[self.ranks[position]] = other
        except (OutOfOrder, AssertionError, LookupError, AttributeError, TypeError, ValueError):
            return {}  # a schedule that is another than these: each stage runs by itself
        return found


def told(mailbox: Mailbox) -> None:
    """Have a job's first rank name the stages of its pipeline as soon as it makes its own: they start while it goes on, not when
    it first waits for one. A program that has not imported torch's pipelines by now waits."""
    module = sys.modules.get(STAGE)
    base = getattr(module, "_PipelineStageBase", None)
    if base is None:
        return
    original = base.__init__
    ranks_of = importlib.import_module("torch.distributed").get_process_group_ranks

    @wraps(original)
    def made(stage: Any, *args: Any, **kwargs: Any) -> None:
        original(stage, *args, **kwargs)
        mailbox.tell_stages(ranks_of(stage.group))

    base.__init__ = made


class Plan:
    """A round as it may be done in another order. first..last: its words. once: what comes once in it, as each micro-batch's
    forward and backward; again: an exchange, and the wait for one, by its operations.

    Words between two acts, which free what is no longer named, belong to the latest that computes. Raises OutOfOrder
    where an exchange would make or free memory.
    """

    def __init__(self, schedule: Any, notes: Notes, reorder: Reorder) -> None:
        self.schedule, self.notes = schedule, notes
        self.once: dict[tuple[Any, ...], list[Stretch]] = {}
        self.again: dict[tuple[Any, ...], Stretch] = {}
        self.first = notes.acts[0].begin
        launches = 0
        kept: set[int] = set()  # launches that stand for their like
        mine: list[Stretch] | None = None
        end = self.first
        for act in notes.acts:
            if act.begin > end:
                if mine is not None:
                    mine.append(Stretch(end, act.begin))
                elif not reorder.keeps_memory(end, act.begin):
                    raise OutOfOrder("memory between exchanges")
            if not act.is_exchange:
                self.once[act.what] = [Stretch(act.begin, act.end)]
                if act.what[0] not in AROUND:
                    mine = self.once[act.what]
            else:
                if not reorder.keeps_memory(act.begin, act.end):
                    raise OutOfOrder("memory of an exchange")
                if act.what[0] == LAUNCH:
                    if act.what not in self.again:
                        kept.add(launches)
                    launches += 1
                if act.what[0] == LAUNCH or act.launch in kept:
                    self.again.setdefault(act.what, Stretch(act.begin, act.end, again=True))
            end = act.end
        self.last = end

    def stretches(self, position: int, before: int) -> list[Stretch]:
        """The round as the stage at this position does it. before: how many stretches come before."""
        found: list[Stretch] = []
        launches: list[int] = []
        acts = acts_of(self.schedule, position, self.notes)
        if _in_turn(acts) != _in_turn(self.notes.acts):
            raise OutOfOrder(
                "what a stage does depends on what it did before: the first backward of a step makes gradients"
            )
        for act in acts:
            if not act.is_exchange:
                found += self.once[act.what]
            elif act.what[0] == LAUNCH:
                launches.append(before + len(found))
                found.append(self.again[act.what])
            else:
                found.append(replace(self.again[act.what], of=launches[act.launch]))
        return found


def _in_turn(acts: list[Act]) -> dict[tuple[int, str], list[What]]:
    """What is done to each of a rank's stages, one after the other: forwards, what is asked for and let go of around
    exchanges, and all else."""
    found: dict[tuple[int, str], list[What]] = {}
    for act in acts:
        if not act.is_exchange:
            kind = act.what[0] if act.what[0] == FORWARD or act.what[0] in AROUND else ""
            found.setdefault((act.what[1], kind), []).append(act.what)
    return found


def moved(program: Program, here: int, there: int) -> None:
    """Make a recording of rank `here`, which took the place of rank `there` in a pipeline, that rank's."""
    steps = [_steps(group.ranks, here, there) for group in program.groups]

    def peer(rank: int, group: int) -> int:
        ranks = program.groups[group].ranks
        return ranks[ranks.index(rank) + steps[group]] if steps[group] is not None else rank + there - here

    def root(rank: int, group: int) -> int:
        """Of a group that both are in it is the same."""
        return rank if steps[group] is not None else rank + there - here

    ops = [_moved_op(op, {"peer": peer, "root": root}) if op.name.startswith("c10d.") else op for op in program.ops]
    program.groups = [
        group if step is not None else replace(group, ranks=tuple(rank + there - here for rank in group.ranks))
        for group, step in zip(program.groups, steps, strict=True)
    ]
    program.ops, program.rank, program.members = ops, there, (there,)


def _steps(ranks: tuple[int, ...], here: int, there: int) -> Any:
    """How far apart two ranks of one group are; None where the other has a group of its own."""
    return ranks.index(there) - ranks.index(here) if there in ranks else None


def _moved_op(op: Op, moves: dict[str, Callable[[int, int], int]]) -> Op:
    group = op.args[2]
    return replace(
        op, kwargs=tuple((name, moves[name](value, group) if name in moves else value) for name, value in op.kwargs)
    )
