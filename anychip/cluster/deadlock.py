"""What to say of ranks that wait for one another for ever, or that call collectives which do not fit."""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from anychip.cluster.board import Board, Leg, exchanged, meaning
from anychip.cluster.match import POINT_TO_POINT
from anychip.cluster.rank import RankEngine
from anychip.errors import Deadlock, ProgramFailed, Stuck, all_ranks
from anychip.network import Collective
from anychip.record import Kind, Place, Program
from anychip.record.failure import failure_of
from anychip.units import memory

SHOWN = 6
TOWARDS = ("send", "reduce", "gather", "gather_object")  # the rank that is named; from it the others


def ranks_text(members: Sequence[int]) -> str:
    """rank 3; ranks 0, 8, 16 ... 120 (16 ranks)."""
    if len(members) == 1:
        return f"rank {members[0]}"
    if len(members) <= SHOWN:
        return f"ranks {', '.join(map(str, members))}"
    return f"ranks {', '.join(map(str, members[:3]))} ... {members[-1]} ({len(members)} ranks)"


def who_text(program: Program, ran: Sequence[int]) -> str:
    """Those of a recording's ranks that are known to do what it says, and whom they were taken to stand for: rank 1, which stands
    for ranks 2, 3. ran: all ranks that did."""
    known = sorted({*program.members} & {*ran}) or [program.rank]
    taken = sorted({*program.members}.difference(known))
    does = "stands" if len(known) == 1 else "stand"
    return ranks_text(known) + (f", which {does} for {ranks_text(taken)}" if taken else "")


def call_text(call: Collective, program: Program) -> str:
    """all_reduce of 4.00 MiB float32 in group "tp" (ranks 0, 1)."""
    group = program.groups[call.group]
    axis = f' "{group.axis}"' if group.axis else ""
    size = f" of {memory(call.nbytes)} {call.dtype}".rstrip() if call.nbytes else ""
    other = call.peer if call.peer is not None else call.root
    way = "to" if call.kind in TOWARDS else "from"
    where = f" {way} rank {other}" if other is not None else " from any rank" if call.kind == "recv" else ""
    where += f" with tag {call.tag}" if call.tag else ""
    several = sum(other.ranks == group.ranks for other in program.groups) > 1
    which = f"; number {group.copy + 1} of their groups" if several else ""
    return f"{call.kind}{size}{where} in group{axis} ({ranks_text(group.ranks)}{which})"


def place_of(program: Program, position: int) -> Place | None:
    """The line of the user's source that issued the collective at this word of the tape; None where that is not known."""
    at = np.flatnonzero(program.kinds[: position + 1] == Kind.AT)
    return program.places[int(program.payloads[at[-1]])] if at.size else None


def complain_of(engines: Sequence[RankEngine], one: Leg, first: int, other: Leg, second: int) -> NoReturn:
    """Raise Deadlock for two collectives that meet and do not fit."""
    ran = _ran(engines)
    stuck = [_stuck(engines[index], leg) for index, leg in ((first, one), (second, other))]
    lines = [_line(engines[index], found, ran) for index, found in zip((first, second), stuck, strict=True)]
    ways = (one.rank, other.rank), (other.rank, one.rank)
    lines += [
        f"rank {giver} gives rank {taker} {memory(given)}, which takes {memory(taken)} of it"
        for (giver, taker), (given, taken) in zip(ways, exchanged(one, other), strict=False)
        if given != taken
    ]
    raise Deadlock(
        "collectives do not match: at the same place in the order of their group,\n  "
        + "\n  ".join(lines)
        + "\nOn real chips the job hangs here or computes nonsense. Every rank of a group has to call the same "
        "collectives on it, in one order and with fitting sizes." + _how_sure(engines),
        stuck,
        is_mismatch=True,
    )


def unlike_text(engines: Sequence[RankEngine], one: Leg, first: int, other: Leg, second: int) -> str:
    """What to say of two that meet and do not mean the same: neither NCCL nor gloo looks at that."""
    ran = _ran(engines)
    both = sorted(((first, one), (second, other)), key=lambda pair: pair[1].rank)
    is_pair = one.call.kind in POINT_TO_POINT
    what = "dtypes" if is_pair else "operations"
    then = (
        "and bytes arrive as they are, which is only right where one is a view of the other"
        if is_pair
        else "and what comes out is neither. Try the same op= on every rank"
    )
    lines = [f"{meaning(leg.call)}, {_line(engines[index], _stuck(engines[index], leg), ran)}" for index, leg in both]
    return (
        f"Ranks call one collective with different {what}: {'; '.join(lines)}. No backend checks that: the job runs as forecast, "
        f"{then}."
    )


def complain_of_waiting(engines: Sequence[RankEngine], board: Board) -> NoReturn:
    """Raise Deadlock for ranks that can never go on."""
    lines, ran, stuck = [], _ran(engines), []
    for engine in engines:
        for _, leg in engine.waiting():
            here = set(board.here(leg))
            missing = sorted({index for index, _ in leg.meeting.at.parties - here})
            found = _stuck(engine, leg, [engines[index].script.program.rank for index in missing])
            stuck.append(found)
            lines.append(f"{_line(engine, found, ran)}\n    waits for {_missing(engines, missing, engine.index, ran)}")
    how = failure_of(engines[0].script.program)
    if how is not None:
        raise ProgramFailed(
            f"rank {how.rank} failed; other ranks wait for what it would have done.\n  " + "\n  ".join(lines[: 2 * SHOWN]),
            how.exit_code, how.error, how,
        )  # fmt: skip
    raise Deadlock(
        "the job would hang: ranks wait for what never comes.\n  "
        + "\n  ".join(lines[: 2 * SHOWN])
        + "\nEvery send needs its receive, and every rank of a group has to call each of its collectives."
        + _how_sure(engines),
        stuck,
    )


def _stuck(engine: RankEngine, leg: Leg, waits_for: Sequence[int] = ()) -> Stuck:
    program = engine.script.program
    place = place_of(program, int(engine.script.keep[leg.position]))
    file, line = (place.file, place.line) if place is not None else (None, None)
    return Stuck(program.rank, len(program.members), call_text(leg.call, program), file, line, tuple(waits_for))


def _how_sure(engines: Sequence[RankEngine]) -> str:
    """Told where some ranks were taken to do as others do."""
    ran, world_size = len(_ran(engines)), engines[0].script.program.world_size
    if ran == world_size:
        return ""
    return (
        f" {ran:,} of {world_size:,} ranks ran, and took what they gathered from the others to be as their own: "
        f"{all_ranks(world_size)} makes it certain."
    )


def _missing(engines: Sequence[RankEngine], missing: Sequence[int], own: int, ran: Sequence[int]) -> str:
    found = []
    for index in missing:
        members = who_text(engines[index].script.program, ran)
        state = (
            "never issued its part" if index == own else "ended without it" if engines[index].done else "not there yet"
        )
        found.append(f"{members} ({state})")
    return ", ".join(found) or "nobody"


def _ran(engines: Sequence[RankEngine]) -> Sequence[int]:
    """The ranks of the job that ran; the first recording of it knows."""
    return engines[0].script.program.ran


def _line(engine: RankEngine, stuck: Stuck, ran: Sequence[int]) -> str:
    return f"{who_text(engine.script.program, ran)}: {stuck.call}, {stuck.place}"
