"""Who meets whom: which collectives of one recording are the same event as which of another.

In: the recordings of a job's distinct ranks. Each stands for its members, so its groups do not name all ranks that it
meets: rank 1 may stand for rank 2, which is in rank 0's group. Out: for each recording and op a `Rendezvous`: what must
arrive before it starts. The n-th arrival of one party at a rendezvous meets the n-th of all others.

Groups of two recordings are one where they are the same of those of their ranks (the first, the second that was made of them); else, where one recording's group holds members of a
class, with that class's own group of the same axis and size that lies so around its rank, or was made so late. Sends and receives meet by (sending
class, receiving class); a class that was split off (a slow node) goes along with the one that it was split from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anychip.errors import AnychipError, BadProgramFile, all_ranks
from anychip.network import Collective
from anychip.record import Group, Kind, Program, word

Node = tuple[int, int]  # (class, index of one of its groups)
Slot = tuple[int, str]  # (class, "send" | "recv" | "all"): a party
POINT_TO_POINT = ("send", "recv")


@dataclass(eq=False)
class Rendezvous:
    """parties: who must arrive. joint: other recordings are among them. size: ranks of the group (two for a pair)."""

    number: int
    parties: set[Slot] = field(default_factory=set)
    size: int = 2

    @property
    def joint(self) -> bool:
        return len({index for index, _ in self.parties}) > 1


@dataclass(frozen=True)
class Meeting:
    """An op's rendezvous and the party that it arrives as."""

    at: Rendezvous
    slot: Slot


def classes_of(programs: Sequence[Program]) -> npt.NDArray[np.int64]:
    """For each rank of the job which recording stands for it. Raises BadProgramFile where that is not one."""
    world = programs[0].world_size
    found = np.full(world, -1, np.int64)
    for index, program in enumerate(programs):
        members = np.asarray(program.members, np.int64)
        if program.world_size != world or members.min() < 0 or members.max() >= world or (found[members] >= 0).any():
            raise BadProgramFile(
                f"program: rank {program.rank} stands for ranks that others stand for, or that are not among {world}. "
                "Record it again."
            )
        found[members] = index
    if (found < 0).any():
        missing = np.flatnonzero(found < 0)
        raise BadProgramFile(
            f"program: no recording stands for rank {missing[0]} ({missing.size} of {world} ranks). Record it again."
        )
    return found


def match(programs: Sequence[Program], calls: Sequence[Mapping[int, Collective]],
          origin: Sequence[int] | None = None) -> list[dict[int, Meeting]]:  # fmt: skip
    """For each recording its ops' meetings, by index into its `ops`; calls: what its collectives ask for, likewise;
    origin: for each recording the number of the class that it was split from."""
    origin = origin if origin is not None else range(len(programs))
    class_of = classes_of(programs)
    home = _joined(programs, class_of)
    rendezvous = _Table()
    found: list[dict[int, Meeting]] = [{} for _ in programs]
    stands_for: Counter[int] = Counter()
    for number, program in zip(origin, programs, strict=True):
        stands_for[number] += len(program.members)
    channels = _Channels(rendezvous, origin, stands_for)
    beside = {root for (index, group), root in home.items() if group in programs[index].meta.get("groups_beside", ())}
    for index, (program, wanted) in enumerate(zip(programs, calls, strict=True)):
        launches = program.launches
        for op, call in wanted.items():
            root = home[index, call.group]
            if call.host and root in beside:  # with what another thread calls, of which nobody knows when
                at = rendezvous.at(root, (index, op))
                at.parties = {(index, "all")}
                found[index][op] = Meeting(at, (index, "all"))
                continue
            if call.kind in POINT_TO_POINT:
                assert call.peer is not None
                ends = (origin[index], origin[int(class_of[call.peer])])
                ends = ends if call.kind == "send" else ends[::-1]
                channels.add(op, index, call.kind, _Line(root, ends, call.host, call.tag), int(launches[op]))
                continue
            at = rendezvous.at(root, call.host)
            at.size = max(at.size, len(program.groups[call.group].ranks))
            found[index][op] = Meeting(at, (index, "all"))
    for (index, op), meeting in channels.meetings().items():
        found[index][op] = meeting
    members: dict[Node, set[int]] = {}
    for (index, group), root in home.items():
        # Also those whose recordings know nothing of the group, as they never call anything in it: they are waited for.
        theirs = class_of[list(programs[index].groups[group].ranks)]
        members.setdefault(root, set()).update((index, *theirs.tolist()))
    for (root, channel), at in rendezvous.known.items():
        if isinstance(channel, bool):
            at.parties = {(index, "all") for index in members[root]}
    return found


def with_sources(programs: Sequence[Program], calls: Sequence[Mapping[int, Collective]],
                 ) -> tuple[list[Program], list[dict[int, Collective]]]:  # fmt: skip
    """The recordings and their calls with a source for each receive from any rank: the ranks that send there, in turn, as
    nobody is told to be first. Raises AnychipError where one recording stands for several of them."""
    if not any(call.kind == "recv" and call.peer is None for wanted in calls for call in wanted.values()):
        return list(programs), [dict(wanted) for wanted in calls]
    class_of = classes_of(programs)
    sent_to = [_peers(program, theirs, "send") for program, theirs in zip(programs, calls, strict=True)]
    found = [_with_sources(index, programs, calls[index], sent_to, class_of) for index in range(len(programs))]
    return [program for program, _ in found], [wanted for _, wanted in found]


def _peers(program: Program, calls: Mapping[int, Collective], kind: str) -> Counter[int]:
    """How often a recording sends to each rank, or receives from it by its name."""
    times = program.launches
    found: Counter[int] = Counter()
    for op, call in calls.items():
        if call.kind == kind and call.peer is not None:
            found[call.peer] += int(times[op])
    return found


def _with_sources(index: int, programs: Sequence[Program], calls: Mapping[int, Collective], sent_to: Sequence[Counter[int]],
                  class_of: npt.NDArray[np.int64]) -> tuple[Program, dict[int, Collective]]:  # fmt: skip
    """calls: of this recording. sent_to: of each recording how often it sends to which ranks."""
    program, wanted = programs[index], dict(calls)
    sending = [other for other, peers in enumerate(sent_to) if program.rank in peers] or [
        other for other, peers in enumerate(sent_to) if any(class_of[peer] == index for peer in peers)
    ]
    several = [other for other in sending if len(programs[other].members) > 1]
    named = _peers(program, calls, "recv")
    ops, tape = list(program.ops), program.tape.copy()
    sent = {other: sum(times for peer, times in sent_to[other].items() if class_of[peer] == index) for other in sending}
    sources = [rank for other in sending if sent[other] > named[rank := programs[other].rank]]
    for op, call in calls.items():
        if call.kind != "recv" or call.peer is not None:
            continue
        if several:
            raise AnychipError(
                f"rank {program.rank} receives from any rank, and one recording stands for {len(programs[several[0]].members)} of "
                f"those that send to it. Try {all_ranks(program.world_size)}, or name the source of each receive."
            )
        at = np.flatnonzero(tape == word(Kind.OP, op))
        for number, source in enumerate(sources):
            tape[at[number :: len(sources)]] = word(Kind.OP, len(ops))
            wanted[len(ops)] = call._replace(peer=source)
            ops.append(program.ops[op])
        if sources:
            del wanted[op]
        else:  # it never comes
            wanted[op] = call._replace(
                peer=next(rank for rank in program.groups[call.group].ranks if rank != program.rank)
            )
    return replace(program, ops=ops, tape=tape), wanted


class _Line(NamedTuple):
    """What sends and receives that meet have in common. ends: the classes that send and receive. A chip's know no tags."""

    root: Node
    ends: tuple[int, int]
    host: bool
    tag: int


class _Table:
    """Rendezvous by group and channel: whether its collectives are between hosts; a line; or one recording's op, which meets nobody."""

    def __init__(self) -> None:
        self.known: dict[tuple[Node, object], Rendezvous] = {}

    def at(self, root: Node, channel: object) -> Rendezvous:
        found = self.known.get((root, channel))
        if found is None:
            found = self.known[root, channel] = Rendezvous(len(self.known))
        return found


def _joined(programs: Sequence[Program], class_of: npt.NDArray[np.int64]) -> dict[Node, Node]:
    """For each group of each recording the node that stands for all groups that are one with it."""
    parent: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    same: dict[tuple[tuple[int, ...], int], Node] = {}
    alike: dict[tuple[int, str | None, int], list[int]] = {}
    for index, program in enumerate(programs):
        for number, group in sorted(enumerate(program.groups), key=lambda one: one[1].copy):
            node = parent[index, number] = (index, number)
            parent[node] = root(same.setdefault((group.ranks, group.copy), node))
            alike.setdefault((index, group.axis, len(group.ranks)), []).append(number)
    for (index, axis, size), mine in alike.items():
        for position, number in enumerate(mine):
            for other in _classes_in(programs[index].groups[number], class_of):
                there = alike.get((other, axis, size))
                if other == index or not there or all(len(programs[one].members) == 1 for one in (index, other)):
                    continue  # groups of ranks that stand for no others are told by their ranks alone
                mine_root, theirs = root((index, number)), root((other, there[min(position, len(there) - 1)]))
                # Nearly always they are one already, which spares a look at all of the other's.
                if theirs != mine_root and all(
                    root((other, k)) != mine_root for k in range(len(programs[other].groups))
                ):
                    shifted = _shifted(programs[index].groups[number], programs[other], there)
                    parent[theirs if shifted is None else root((other, shifted))] = mine_root
    return {node: root(node) for node in parent}


def _shifted(group: Group, program: Program, candidates: Sequence[int]) -> int | None:
    """Which of a class's groups is this one, seen from another of its members."""
    for number in candidates:
        its = program.groups[number]
        by = group.ranks[0] - its.ranks[0]
        if group.copy == its.copy and program.rank + by in program.members and all(
            one - other == by for one, other in zip(group.ranks, its.ranks, strict=True)
        ):  # fmt: skip
            return number
    return None


def _classes_in(group: Group, class_of: npt.NDArray[np.int64]) -> list[int]:
    found: list[int] = np.unique(class_of[np.asarray(group.ranks, np.int64)]).tolist()
    return found


@dataclass
class _Channel:
    """Sends from one class to another within a group. counts: sends and receives that were recorded of it."""

    line: _Line
    counts: dict[str, int] = field(default_factory=lambda: {"send": 0, "recv": 0})
    ops: list[tuple[int, int, str]] = field(default_factory=list)


class _Channels:
    def __init__(self, table: _Table, origin: Sequence[int], stands_for: Mapping[int, int]) -> None:
        """stands_for: by class how many ranks."""
        self.table, self.stands_for = table, stands_for
        self.first = {number: index for index, number in reversed(list(enumerate(origin)))}
        self.known: dict[_Line, _Channel] = {}

    def add(self, op: int, index: int, kind: str, line: _Line, count: int) -> None:
        channel = self.known.setdefault(line, _Channel(line))
        channel.counts[kind] += count
        channel.ops.append((index, op, kind))

    def meetings(self) -> dict[tuple[int, int], Meeting]:
        found: dict[tuple[int, int], Meeting] = {}
        for channel in self.known.values():
            main = self._main(channel)
            at = self.table.at(main.line.root, main.line)
            for end, kind in zip(main.line.ends, POINT_TO_POINT, strict=True):
                if not main.counts[kind]:
                    at.parties.add((self.first[end], kind))  # it never comes
            for index, op, kind in channel.ops:
                at.parties.add((index, kind))
                found[index, op] = Meeting(at, (index, kind))
        return found

    def _main(self, channel: _Channel) -> _Channel:
        """The channel itself, or, where one end of it was never recorded, the one that this end goes along with. What one rank sends
        another that ran, too, comes by no other group."""
        if all(channel.counts.values()) or all(self.stands_for[end] == 1 for end in channel.line.ends):
            return channel
        kind, missing, end = ("send", "recv", 1) if channel.counts["send"] else ("recv", "send", 0)
        fitting = [
            other
            for other in self.known.values()
            if other is not channel
            and other.line[2:] == channel.line[2:]
            and other.line.ends[end] == channel.line.ends[end]
            and other.counts[missing] == channel.counts[kind]
        ]
        return max(fitting, key=lambda other: other.line.root == channel.line.root, default=channel)
