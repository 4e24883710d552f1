"""What torch's own pipeline schedules would have a rank do: their code is run on stages that only note what is asked of them."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

FORWARD = "forward_one_chunk"
RELEASE = "release_fwd_send_outputs"  # from torch 2.15 on: once what a micro-batch's forward made is sent
COMPUTE = (
    FORWARD, RELEASE, "backward_one_chunk", "backward_weight_one_chunk", "perform_reduce_grad", "start_gradient_reduction",
    "wait_for_gradient_reduction",
)  # fmt: skip
EXCHANGE = ("get_fwd_recv_ops", "get_fwd_send_ops", "get_bwd_recv_ops", "get_bwd_send_ops")
SET_UP = ("_initialize_stage", "_initialize_stages")
LAUNCH, WAIT, WAIT_UNSHARD = "launch", "wait", "wait for unshard"
What = tuple[Any, ...]


@dataclass(frozen=True)
class Act:
    """What a rank does in a schedule: (function, which of its stages, number of the micro-batch or module, how often before),
    or an exchange and the wait for it, (LAUNCH or WAIT, its operations). launch: of a wait, which launch of the round it is
    for. begin..end: its words on the tape."""

    what: What
    launch: int = -1
    begin: int = 0
    end: int = 0

    @property
    def is_exchange(self) -> bool:
        return self.what[0] in (LAUNCH, WAIT)


@dataclass(frozen=True)
class Wish:
    """One operation of an exchange that a stage is asked for: by which function, for which of the rank's stages, the how
    maniest; how many ranks away the other end is."""

    exchange: str
    stage: int
    place: int
    peer: int
    notes: Any = field(default=None, compare=False, repr=False)

    @property
    def what(self) -> What:
        return self.exchange, self.stage, self.place


class Launched(list[Any]):
    """The work of an exchange. what: its operations; number: which launch of the round; notes: of who only noted it."""

    def __init__(self, work: Any, what: What, number: int, notes: "Notes | None" = None) -> None:
        super().__init__(work)
        self.what, self.number, self.notes = what, number, notes


@dataclass
class Notes:
    """The acts of one rank in one round of a schedule. wishes: the operations of each exchange, by function and stage."""

    acts: list[Act] = field(default_factory=list)
    wishes: dict[tuple[str, int], tuple[Wish, ...]] = field(default_factory=dict)
    launches: int = 0
    turns: Counter[What] = field(default_factory=Counter)

    def turn(self, *what: Any) -> What:
        """What is done, told apart from the same done before."""
        self.turns[what] += 1
        return (*what, self.turns[what])

    def launch(self) -> int:
        self.launches += 1
        return self.launches - 1

    def note(self, *what: Any) -> None:
        self.acts.append(Act(self.turn(*what)))


class Player:
    """Stands for the `number`-th stage of a rank, the `index`-th of all."""

    is_first = is_last = False

    def __init__(self, stage: Any, number: int, index: int, notes: Notes, modules: int) -> None:
        self.stage_index, self.num_stages, self.has_backward = index, stage.num_stages, stage.has_backward
        self.submod = PlayedModules(number, modules, notes) if modules else None
        for name in COMPUTE:
            setattr(self, name, lambda *args, name=name, **_: notes.note(name, number, *args[:1]))
        for name in EXCHANGE:
            wishes = [
                Wish(one.exchange, one.stage, one.place, one.peer, notes)
                for one in notes.wishes.get((name, number), ())
            ]
            setattr(self, name, partial(self._asked, name, number, wishes, notes))

    def _asked(self, name: str, number: int, wishes: list[Wish], notes: Notes, chunk: int) -> list[Wish]:
        notes.note(name, number, chunk)
        return list(wishes)

    def _nothing(self, *_: Any) -> None:
        """Two stages of a rank that follow one another hand over without words."""

    set_local_fwd_input = set_local_bwd_input = get_local_bwd_output = _nothing


class PlayedModules:
    """Stand for the sharded modules of a stage."""

    def __init__(self, stage: int, count: int, notes: Notes) -> None:
        self.parts = [PlayedModule(stage, number, notes) for number in range(count)]

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return sharded_module()

    def modules(self) -> Iterator["PlayedModule"]:
        return iter(self.parts)


class PlayedModule:
    def __init__(self, stage: int, number: int, notes: Notes) -> None:
        self.stage, self.number, self.notes = stage, number, notes

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return sharded_module()

    def unshard(self, **_: Any) -> "Handle":
        self.notes.note("unshard", self.stage, self.number)
        return Handle(lambda: self.notes.note(WAIT_UNSHARD, self.stage, self.number))

    def reshard(self) -> None:
        self.notes.note("reshard", self.stage, self.number)


@dataclass(frozen=True)
class Handle:
    """Of parameters that are gathered."""

    wait: Callable[[], None]


def sharded_module() -> Any:
    from torch.distributed.fsdp import FSDPModule

    return FSDPModule


def sharded_parts(stage: Any) -> list[Any]:
    """The modules of a stage that a schedule gathers and gives back itself."""
    sharded = sharded_module()
    return (
        [one for one in stage.submod.modules() if isinstance(one, sharded)] if isinstance(stage.submod, sharded) else []
    )


def stages_of(schedule: Any) -> list[Any]:
    """A rank's stages, in order of the pipeline."""
    found = schedule._stages if hasattr(schedule, "_stages") else [schedule._stage]
    return sorted(found, key=lambda stage: int(stage.stage_index))


def as_it_is(schedule: Any) -> Any:
    """A schedule with counts of its own, as they stand: in a round they change."""
    found = copy.copy(schedule)
    for name, value in vars(schedule).items():
        if isinstance(value, dict | set):
            setattr(found, name, copy.copy(value))
    return found


def acts_of(schedule: Any, position: int, seen: Notes) -> list[Act]:
    """What the rank at this position of the pipeline does in a round, if its stages are as those of this rank's schedule,
    whose own round was `seen`. Raises what torch's code raises on stages of another kind."""
    stages, notes = stages_of(schedule), Notes(wishes=seen.wishes)
    ranks = stages[0].stage_index_to_group_rank
    indices = sorted(index for index, rank in ranks.items() if rank == position)
    players = [
        Player(stage, number, index, notes, len(sharded_parts(stage)))
        for number, (stage, index) in enumerate(zip(stages, indices, strict=True))
    ]
    played = as_it_is(schedule)
    played.rank = position
    played._stages, played._stage = players, players[0]
    for name in SET_UP:
        setattr(played, name, lambda *_args, **_kwargs: None)
    played._step_microbatches()
    return notes.acts
