"""The middle stages of a pipeline from one of them: they do what it does, each in the order that the schedule has for it.

In: the process of a pipeline's second stage. It notes which words of its tape each micro-batch's forward and backward and
each exchange wrote. At the end torch's own schedule is asked, for each other middle stage, in which order that one does them
(it is run on a stage that only notes what is asked of it), and their recordings are put together so. Whether the stages are
alike is for the `job` to find out; schedules of several stages a rank, and pipelines that programs write themselves, are not
taken part in.
"""

import copy
import importlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

from anychip.record import Group, Op, Program
from anychip.record.order import OutOfOrder, Reorder, Stretch

SCHEDULES = "torch.distributed.pipelining.schedules"
OF_TORCH = ("PipelineScheduleSingle", "_batch_p2p", "_wait_batch_p2p")
COMPUTE = ("forward_one_chunk", "backward_one_chunk")
EXCHANGE = ("get_fwd_recv_ops", "get_fwd_send_ops", "get_bwd_recv_ops", "get_bwd_send_ops")
LAUNCH, WAIT = "launch", "wait"


@dataclass(frozen=True)
class Act:
    """What a stage does in a schedule: (name, number of the micro-batch), or an exchange and the wait for it, (LAUNCH or
    WAIT, its operations). launch: of a wait, which launch of the step it is for. begin..end: its words."""

    what: tuple[Any, ...]
    launch: int = -1
    begin: int = 0
    end: int = 0


@dataclass(frozen=True)
class Wish:
    """One operation of an exchange: what torch.distributed calls it, and how many stages away the other end is."""

    name: str
    peer: int
    op: Any = None
    group: Any = None


class Launched(list[Any]):
    """The work of an exchange. what: its operations; number: which launch of the step; player: who only noted it."""

    def __init__(self, work: Any, what: tuple[Any, ...], number: int, player: "Player | None" = None) -> None:
        super().__init__(work)
        self.what, self.number, self.player = what, number, player


@dataclass
class Round:
    """One pass of a schedule. wishes: the operations of each exchange that the stage is asked for."""

    schedule: Any
    acts: list[Act] = field(default_factory=list)
    wishes: dict[str, tuple[Wish, ...]] = field(default_factory=dict)
    launches: int = 0
    inside: bool = False


class Player:
    """Stands for a stage in a schedule's own code, and notes what is asked of it."""

    is_first = is_last = False

    def __init__(self, stage: Any, position: int, wishes: dict[str, tuple[Wish, ...]]) -> None:
        self.stage_index, self.num_stages, self.has_backward = position, stage.num_stages, stage.has_backward
        self.acts: list[Act] = []
        self.launches = 0
        for name in COMPUTE:
            setattr(self, name, self._computing(name))
        for name in EXCHANGE:
            setattr(self, name, lambda number, name=name: [replace(one, op=self) for one in wishes.get(name, ())])

    def _computing(self, name: str) -> Callable[..., None]:
        return lambda number, *_args, **_kwargs: self.acts.append(Act((name, number)))

    def launch(self, what: tuple[Any, ...]) -> Launched:
        self.launches += 1
        self.acts.append(Act((LAUNCH, what)))
        return Launched([], what, self.launches - 1, self)

    def perform_reduce_grad(self, *_: Any) -> None:
        """Comes after everything, and so is where it was."""


class Stages:
    """Of a rank's process. ranks: of the pipeline, in order, of which this one is the second. here: the place on the tape."""

    def __init__(self, ranks: tuple[int, ...], here: Callable[[], int]) -> None:
        self.ranks, self.here = ranks, here
        self.rounds: list[Round] = []
        self.now: Round | None = None

    def install(self) -> None:
        """Watch the schedules of pipelines."""
        schedules = importlib.import_module(SCHEDULES)
        if not all(hasattr(schedules, name) for name in OF_TORCH):
            return  # of another torch: each stage runs by itself
        single = schedules.PipelineScheduleSingle
        for kind in [one for one in vars(schedules).values() if isinstance(one, type) and issubclass(one, single)]:
            if "_step_microbatches" in vars(kind):
                kind._step_microbatches = self._rounds(kind._step_microbatches)  # type: ignore[attr-defined]
        schedules._batch_p2p = self._launches(schedules._batch_p2p)  # type: ignore[attr-defined]
        schedules._wait_batch_p2p = self._waits(schedules._wait_batch_p2p)  # type: ignore[attr-defined]

    # ------------------------------------------------------------ what this stage does

    def _rounds(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def step(schedule: Any, *args: Any, **kwargs: Any) -> Any:
            stage = schedule._stage
            if isinstance(stage, Player) or stage.stage_index != 1 or stage.num_stages != len(self.ranks):
                return original(schedule, *args, **kwargs)
            for name in (*COMPUTE, *EXCHANGE):
                if name not in vars(stage):
                    setattr(stage, name, self._watched(name, getattr(stage, name)))
            self.now = Round(schedule)
            result = original(schedule, *args, **kwargs)
            self.rounds.append(self.now)
            self.now = None
            return result

        return step

    def _watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def call(number: int, *args: Any, **kwargs: Any) -> Any:
            if name in COMPUTE:
                with self._act((name, number)):
                    return original(number, *args, **kwargs)
            result = original(number, *args, **kwargs)
            if self.now is not None:
                self.now.wishes[name] = tuple(map(self._wish, result))
            return result

        return call

    def _wish(self, op: Any) -> Wish:
        return Wish(op.op.__name__, self.ranks.index(op.peer) - 1)

    def _launches(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def launch(ops: list[Any], *args: Any, **kwargs: Any) -> Any:
            if ops and isinstance(ops[0], Wish):
                player: Player = ops[0].op
                return player.launch(tuple((one.name, one.peer) for one in ops))
            now = self.now
            if now is None or now.inside or not ops:
                return original(ops, *args, **kwargs)
            what = tuple((one.name, one.peer) for one in map(self._wish, ops))
            number = now.launches
            now.launches += 1
            with self._act((LAUNCH, what)):
                work = original(ops, *args, **kwargs)
            return Launched(work, what, number)

        return launch

    def _waits(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def wait(work: Any) -> Any:
            if not isinstance(work, Launched):
                return original(work)
            if work.player is not None:
                return work.player.acts.append(Act((WAIT, work.what), work.number))
            with self._act((WAIT, work.what), work.number):
                return original(work)

        return wait

    @contextmanager
    def _act(self, what: tuple[Any, ...], launch: int = -1) -> Any:
        now = self.now
        if now is None or now.inside:
            yield
            return
        now.inside, begin = True, self.here()
        try:
            yield
        finally:
            now.inside = False
            now.acts.append(Act(what, launch, begin, self.here()))

    # ------------------------------------------------------------ what the others do

    def others(self, program: Program) -> dict[int, Program]:
        """The recordings of the other middle stages, from that of this one; empty where they do not follow from it."""
        if not self.rounds:
            return {}  # a schedule of the program's own
        found: dict[int, Program] = {}
        try:
            reorder = Reorder(program.tape, program.block_bytes)
            rounds = [Plan(one, reorder) for one in self.rounds]
            for position in range(2, len(self.ranks) - 1):
                stretches: list[Stretch] = []
                end = 0
                for one in rounds:
                    stretches.append(Stretch(end, one.first))
                    stretches += one.stretches(position, len(stretches))
                    end = one.last
                stretches.append(Stretch(end, program.tape.size))
                tape, block_bytes = reorder.arranged(stretches)
                other = replace(program, tape=tape, block_bytes=block_bytes)
                moved(other, self.ranks[1], self.ranks[position])
                found[self.ranks[position]] = other
        except (OutOfOrder, KeyError, AttributeError, TypeError):
            return {}  # a schedule that is another than these: each stage runs by itself
        return found


class Plan:
    """A round as it may be done in another order. first..last: its words. once: what comes once in it, each micro-batch's
    forward and backward; again: an exchange, and the wait for one, by its operations.

    Words between two acts, which free what is no longer named, belong to the latest forward or backward. Raises OutOfOrder
    where an exchange would make or free memory.
    """

    def __init__(self, one: Round, reorder: Reorder) -> None:
        self.round = one
        self.once: dict[tuple[Any, ...], list[Stretch]] = {}
        self.again: dict[tuple[Any, ...], Stretch] = {}
        self.first = one.acts[0].begin
        launches = 0
        kept: set[int] = set()  # launches that stand for their like
        mine: list[Stretch] | None = None
        end = self.first
        for act in one.acts:
            if act.begin > end:
                if mine is not None:
                    mine.append(Stretch(end, act.begin))
                elif not reorder.keeps_memory(end, act.begin):
                    raise OutOfOrder("memory between exchanges")
            if act.what[0] in COMPUTE:
                mine = self.once[act.what] = [Stretch(act.begin, act.end)]
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
        for act in self._order(position):
            if act.what[0] in COMPUTE:
                found += self.once[act.what]
            elif act.what[0] == LAUNCH:
                launches.append(before + len(found))
                found.append(self.again[act.what])
            else:
                found.append(replace(self.again[act.what], of=launches[act.launch]))
        return found

    def _order(self, position: int) -> list[Act]:
        schedule = copy.copy(self.round.schedule)
        player = Player(schedule._stage, position, self.round.wishes)
        schedule._stage = player
        schedule._initialize_stage = lambda *_args, **_kwargs: None
        schedule._step_microbatches()
        if sum(act.what[0] in COMPUTE for act in player.acts) != len(self.once):
            raise OutOfOrder("a schedule that leaves out micro-batches")
        return player.acts


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
