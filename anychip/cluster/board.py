"""Where ranks meet: a collective begins when the last of its parties has arrived, and ends for all at once.

In: arrivals of launches (one collective, or a coalesced batch), in any order of the simulation; times do not depend on
it. Out: start and end of every leg. Launches that are complete stand in `settled` for their engines to go on with.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from anychip.cluster.match import POINT_TO_POINT, Meeting, Slot
from anychip.network import Collective


@dataclass(slots=True, eq=False)
class Leg:
    """One collective of a launch, the `turn`-th of its party at its meeting, as the host has issued them. rank: that ran. ranks: of its group. lag_s: how much later
    than this rank the slowest of those it stands for arrives. late: the class that arrived last, of several at once the first."""

    position: int
    op: int
    call: Collective
    rank: int
    ranks: tuple[int, ...]
    meeting: Meeting
    turn: int
    time_s: float
    lag_s: float = 0.0
    start_s: float = 0.0
    end_s: float = 0.0
    late: int = -1


@dataclass(slots=True, eq=False)
class Launch:
    """Collectives that one rank issues as one. issued_s: when the host has. ready_s: when its stream is."""

    index: int
    stream: int
    legs: list[Leg]
    issued_s: float
    ready_s: float = 0.0
    outstanding: int = 0

    @property
    def end_s(self) -> float:
        """All legs have ended; those in one direction share the wire, one after the other."""
        first = min(leg.start_s for leg in self.legs)
        end = max(leg.end_s for leg in self.legs)
        if len(self.legs) == 1:
            return end
        sums = {"send": 0.0, "recv": 0.0, "": 0.0}
        for leg in self.legs:
            sums[leg.call.kind if leg.call.kind in POINT_TO_POINT else ""] += leg.time_s
        return max(end, first + max(sums.values()))


@dataclass(slots=True)
class Gathering:
    """The n-th meeting at one rendezvous."""

    legs: list[tuple[Launch, Leg]] = field(default_factory=list)


Complain = Callable[[Leg, int, Leg, int], None]
Pair = tuple[Leg, int, Leg, int]


class Board:
    """complain: called with two legs that meet and do not fit, and their classes; raises. unlike: the first two that
    meet and fit, and do not mean the same, by what they mean."""

    def __init__(self, complain: Complain) -> None:
        self.complain = complain
        self.open: dict[tuple[int, int], Gathering] = {}
        self.settled: deque[Launch] = deque()
        self.unlike: dict[frozenset[str], Pair] = {}
        self.fitting: set[tuple[int, int, int, int]] = set()  # ops of two classes, which meet often

    def arrive(self, launch: Launch) -> bool:
        """A launch is ready on its stream. True if it needs to wait for nobody."""
        launch.outstanding = len(launch.legs)
        for leg in launch.legs:
            self._arrive(launch, leg)
        return launch.outstanding == 0

    def _arrive(self, launch: Launch, leg: Leg) -> None:
        at = leg.meeting.at
        key = (at.number, leg.turn)
        gathering = self.open.setdefault(key, Gathering())
        for other, met in gathering.legs:
            pair = other.index, met.op, launch.index, leg.op
            if pair not in self.fitting:
                self._compare(met, other.index, leg, launch.index)
                self.fitting.add(pair)
            if leg.call.kind != "all_to_all":  # in which each has something for each other
                break
        gathering.legs.append((launch, leg))
        if len(gathering.legs) == len(at.parties):
            del self.open[key]
            self._begin(gathering, launch)

    def _compare(self, met: Leg, other: int, leg: Leg, index: int) -> None:
        if not fits(met, leg):
            self.complain(met, other, leg, index)
        means = frozenset((meaning(met.call), meaning(leg.call)))
        if len(means) > 1:
            self.unlike.setdefault(means, (met, other, leg, index))

    def _begin(self, gathering: Gathering, current: Launch) -> None:
        last = min((launch for launch, _ in gathering.legs), key=lambda one: (-one.ready_s, one.index))
        start = last.ready_s + max(leg.lag_s for _, leg in gathering.legs)
        time = max(leg.time_s for _, leg in gathering.legs)
        for launch, leg in gathering.legs:
            leg.start_s, leg.end_s, leg.late, leg.time_s = start, start + time, last.index, time
            launch.outstanding -= 1
            if not launch.outstanding and launch is not current:
                self.settled.append(launch)

    def here(self, leg: Leg) -> list[Slot]:
        """Who has arrived at the meeting that this leg waits for."""
        for gathering in self.open.values():
            if any(other is leg for _, other in gathering.legs):
                return [other.meeting.slot for _, other in gathering.legs]
        return []


SAME_BYTES = ("all_reduce", "broadcast", "reduce", "all_gather", "reduce_scatter")


def meaning(call: Collective) -> str:
    """What the ranks of a collective have to agree on, and no backend looks at: the operation of a reduction, the dtype of what is sent."""
    return call.dtype if call.kind in POINT_TO_POINT else call.op


def exchanged(first: Leg, second: Leg) -> list[tuple[int, int]]:
    """Of two ranks in an all-to-all how many bytes the one gives the other, and how many that one takes: there and back. Empty where
    their splits may be made up, or one stands for a rank of another group."""
    one, other = first.call, second.call
    if (
        not (one.sure and other.sure)
        or first.ranks != second.ranks
        or {first.rank, second.rank}.difference(first.ranks)
    ):
        return []
    mine, its, size = first.ranks.index(first.rank), first.ranks.index(second.rank), len(first.ranks)
    return [
        (one.part(one.sent, its, size), other.part(other.received, mine, size)),
        (other.part(other.sent, mine, size), one.part(one.received, its, size)),
    ]


def _has_room(one: Collective, other: Collective) -> bool:
    """Whether what is sent is what is received; hosts' (gloo) may be received into more."""
    if one.host and {one.kind, other.kind} == {*POINT_TO_POINT}:
        given, taken = (one, other) if one.kind == "send" else (other, one)
        return given.nbytes <= taken.nbytes
    return one.nbytes == other.nbytes


def fits(first: Leg, second: Leg) -> bool:
    """Can these two be the same collective? (Splits of an uneven all-to-all differ by rank.)"""
    one, other = first.call, second.call
    if one.kind in POINT_TO_POINT or other.kind in POINT_TO_POINT:
        return (one.kind in POINT_TO_POINT) == (other.kind in POINT_TO_POINT) and _has_room(one, other)
    # A rank that another stands for may have a group, and a root, of its own.
    if one.kind != other.kind or (first.ranks == second.ranks and one.root != other.root):
        return False
    if one.kind == "all_to_all":
        return all(given == taken for given, taken in exchanged(first, second))
    return one.kind not in SAME_BYTES or (one.nbytes == other.nbytes and one.dtype == other.dtype)
