"""What the ranks of a job have left: their recordings, which ranks each stands for, and what is to be said of that."""

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anychip.device.distributed.branches import Apart, World, first_of_others, told_apart, unseen
from anychip.device.distributed.middle import Middle
from anychip.device.distributed.ranks import SENDS, alike, as_told, cut_otherwise, members, reached, stream
from anychip.errors import all_ranks
from anychip.record import Program
from anychip.record.failure import num_trained

MOST_TOLD = 3  # comparisons, in one sentence


class Recorded:
    """programs and streams: by rank. samples: streams of those that were run for a step; samples_of: those of them that were seen to do as
    another -> that one."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        self.programs: dict[int, Program] = {}
        self.streams: dict[int, Any] = {}
        self.samples: dict[int, Any] = {}
        self.samples_of: dict[int, int] = {}
        self._apart: Apart | None = None  # ranks, by the program's source
        self._reached: npt.NDArray[np.int64] | None = None  # of those that are read so far
        self._placed: dict[int, int] = {}  # some ranks -> who stands for them, and for those up to the next

    @property
    def first(self) -> Program:
        return self.programs[0]

    @property
    def is_piped(self) -> bool:
        return any(op.name in SENDS for op in self.first.ops)

    # ------------------------------------------------------------ files

    def file(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.anychip"

    def read(self, ranks: Iterable[int]) -> bool:
        """Load what is new of these ranks; whether there was any."""
        fresh = [rank for rank in ranks if rank not in self.programs and self.file(rank).exists()]
        # What reads and hashes large arrays leaves room for another thread meanwhile.
        with ThreadPoolExecutor() as pool:
            for rank, (program, its) in zip(fresh, pool.map(self._with_stream, fresh), strict=True):
                self.programs[rank], self.streams[rank] = program, its
                self._reached = None
        return bool(fresh)

    def _with_stream(self, rank: int) -> tuple[Program, Any]:
        program = Program.load(self.file(rank))
        return program, stream(program)

    def sampled(self, rank: int) -> Program | None:
        file = self.folder / f"sample-{rank}.anychip"
        return Program.load(file) if file.exists() else None

    def trained(self, rank: int) -> bool:
        """Whether a rank took a step before it failed: then others take theirs, which figures are of."""
        return self.file(rank).exists() and num_trained(Program.load(self.file(rank))) > 0

    # ------------------------------------------------------------ classes

    def apart(self) -> Apart:
        """Ranks as the program's source tells them apart. In a pipeline a rank's number is its place, and each stage is seen to anyway."""
        if self._apart is None:
            self._apart = told_apart(self.first, self.world)
            self._apart.kind[:] *= not self.is_piped
        return self._apart

    def classes(self) -> dict[int, list[int]]:
        """Rank that ran -> the ranks that it stands for."""
        return members(self.owners())

    def owners(self) -> npt.NDArray[np.int64]:
        """Who stands for each rank."""
        if self._reached is None:
            self._reached = reached(self.programs, self.streams, self.world.size)
        owner = as_told(self._reached, sorted(self.programs), self.apart().kind, self.samples_of)
        for begin, end in pairwise([*sorted(self._placed), self.world.size]):
            ranks = np.arange(begin, end)
            owner[ranks[~np.isin(ranks, [*self.programs])]] = self._placed[begin]
        return owner

    def did_as(self, ranks: Iterable[int]) -> dict[int, int]:
        """Who stands for ranks that ran: for one that did only for a step whoever does so by its classes, unless it was seen to do otherwise."""
        owners = self.owners()
        found = {rank: int(owners[rank]) for rank in ranks}
        for rank in found.keys() & self.samples.keys() - self.programs.keys():
            if not alike(self.samples[rank], self.streams[found[rank]]):
                found[rank] = int(owners[self.samples_of.get(rank, rank)])
        return found

    def first_apart(self, known: set[int]) -> list[int]:
        """A rank of each kind that none of the known ones is of."""
        return first_of_others(self.apart().kind, known)

    def of_no_kind_that_ran(self, ranks: Iterable[int]) -> list[int]:
        """Of these ranks the first of each kind that none is of that ran."""
        kind = self.apart().kind
        found = dict.fromkeys(kind[list(self.programs)].tolist(), -1)
        for rank in ranks:
            found.setdefault(int(kind[rank]), rank)
        return [rank for rank in found.values() if rank >= 0]

    def joined(self, members: dict[int, list[int]]) -> Program:
        """Rank 0's recording with those of the other classes, each with the ranks that it stands for."""
        for rank in members:
            self.programs[rank].members = tuple(members[rank])
        self.first.others = [self.programs[rank] for rank in sorted(members) if rank != 0]
        return self.first

    # ------------------------------------------------------------ what is told

    def tell(self, text: str) -> None:
        self.first.meta["warnings"].append(f"{text} For each of them: {all_ranks(self.world.size)}.")

    def tell_of_kinds(self, found: list[int], most: int) -> None:
        """Say so where there are more kinds of ranks than ran, and where comparisons change from step to step."""
        if len(found) > most:
            self.tell(
                f"The program tells {len(found)} more kinds of ranks apart by their number, of which {most} ran: "
                f"{', '.join(map(str, found[:most]))}."
            )
        if by_step := self.apart().by_step:
            self.tell(
                f"The program compares ranks' numbers with what changes from step to step: {', '.join(by_step)}. What "
                "other ranks than those that ran do there is not seen."
            )

    def tell_of_stages(self, middle: Middle) -> None:
        """Say which ranks of a pipeline really ran."""
        played = ", ".join(str(rank) for rank in middle.played)
        self.tell(
            f"Of the pipeline's {len(middle.ranks)} stages, ranks {middle.ranks[0]}, {middle.ranks[1]} and {middle.ranks[-1]} ran; "
            f"rank {middle.ranks[1]} took the places of {played} in the schedule, and {' and '.join(str(rank) for rank in middle.samples)} "
            "were run until their first backward was done and do the same."
        )

    def tell_of_less(self, rank: int, fuller: int) -> None:
        self.tell(
            f"Rank {rank} does as rank {fuller}, on what is left of tensors that do not divide evenly; it is taken to "
            "have as much, and so are others that have less."
        )

    def differ_by_number(self) -> bool:
        """Whether the second and the last rank, or the first, are not alike though nothing in the source tells them apart: what each does
        may follow from its number (`size = 2 + rank % 3`) or its data, and those between may do as one of them or as none."""
        last, kind = self.world.size - 1, self.apart().kind
        if last < 3 or self.is_piped or kind[1] != kind[last]:
            return False
        return len({*self.did_as(rank for rank in (0, 1, last) if kind[rank] == kind[1]).values()}) > 1

    def only_in_pieces(self) -> bool:
        """Whether ranks that are not alike compute as much and communicate the same; says so."""
        ran = sorted({*self.did_as((1, self.world.size - 1)).values()} - {0})
        if not all(cut_otherwise(self.first, self.streams[0], self.programs[rank], self.streams[rank]) for rank in ran):
            return False
        calls = ", ".join(f"{self.streams[rank].size:,} by rank {rank}" for rank in (0, *ran))
        self.tell(
            f"Ranks compute on as many elements in more or fewer pieces ({calls}), as where each holds another part of a flat "
            "parameter; those that did not run are taken to do as one of those that did."
        )
        return True

    def tell_of_between(self) -> None:
        owners, last = self.owners(), self.world.size - 1
        who = f"Ranks 1 and {last}" if owners[1] != owners[last] else "Rank 0 and some of those between 1 and the last"
        self.tell(
            f"{who} do otherwise, and the program's source does not say which ranks do: those that did not run "
            "are taken to do as one of those that did, and what is a mean over ranks (MFU, compute, waiting) hangs on that."
        )

    def place(self, seen: dict[int, int]) -> None:
        """Ranks between those that were seen do as the one before them."""
        self._placed = seen
        if len({*seen.values()}) == 1:
            return  # rank 0 alone does otherwise, as where it logs
        owners, turns = self.owners(), list[str]()
        changes = [rank for rank in range(1, self.world.size) if rank == 1 or owners[rank] != owners[rank - 1]]
        for begin, end in pairwise([*changes, self.world.size]):
            turns.append(
                f"{begin} to {end - 1} as rank {owners[begin]}"
                if end - begin > 1
                else f"{begin} as rank {owners[begin]}"
            )
        self.tell(
            f"What ranks do follows from their numbers, which the program's source does not compare: {', '.join(turns)}. Seen on "
            f"{', '.join(map(str, sorted(seen)))}."
        )

    def tell_unseen(self, played: Collection[int]) -> None:
        """Of a pipeline, whose ranks are of no kinds: say which outcomes of comparisons no rank of a stage that ran had. played: stages
        that another stood for."""
        apart = self.apart()
        if apart.kind.any() or not apart.tests:
            return
        ran = {*self.programs, *self.samples_of}.difference(played)
        found = unseen(apart.tests, self.classes().values(), ran)
        if found:
            tests = [f"{text}, rank {rank}" for text, rank in found.items()]
            more = f" and {len(tests) - MOST_TOLD} more" if len(tests) > MOST_TOLD else ""
            self.tell(
                "In a pipeline one rank of each stage runs. What the program does elsewhere by comparing its number was not seen: "
                f"{'; '.join(tests[:MOST_TOLD])}{more}."
            )
