"""Ranks that take no training step in a job in which others do: actors that play for learners, workers of a parameter server.

Nothing in what such a rank does says when enough of it is recorded. A rank that is ended since its steps are recorded leaves how often
it has called what on which group; a bystander ends where it would call more than one of those it meets there. One that has called a
model many times and has heard of nobody waits until the second and the last rank have run. Imports no torch.
"""

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np

from anychip.record import Kind, Op
from anychip.record.tape import KIND_BITS, KIND_MASK
from anychip.whole import put

THROUGH = "through"  # the file that is there once somebody is; NAME-RANK has what that one called
SENDS, RECEIVES, FROM_ANY = "c10d.send.default", "c10d.recv_.default", "c10d.recv_any_source_.default"

Called = dict[str, int]  # how often, by group and, of what is between two, who gives and who takes


def line_of(name: str, key: str, rank: int, peer: int | None) -> str:
    """What a rank's call counts as. name: of the operation. key: of its group."""
    ends = {SENDS: f" {rank} {peer}", RECEIVES: f" {peer} {rank}", FROM_ANY: f" any {rank}"}
    return key + ends.get(name, "")


def called(tape: list[int], ops: list[Op], keys: list[str], rank: int) -> Counter[str]:
    """How often a rank has called what, by its tape: calls that were folded stand there, too."""
    words = np.array(tape, np.int64)
    counts = np.bincount(words[words & KIND_MASK == Kind.OP] >> KIND_BITS, minlength=len(ops))
    found: Counter[str] = Counter()
    for index, op in enumerate(ops):
        if op.name.startswith("c10d.") and isinstance(op.args[2], int):
            found[line_of(op.name, keys[op.args[2]], rank, op.kwarg("peer"))] += int(counts[index])
    return found


def leave(folder: Path, rank: int, counts: Called) -> None:
    """This rank is through."""
    put(folder / f"{THROUGH}-{rank}", json.dumps(counts))
    put(folder / THROUGH, str(rank))


class Through:
    """Who is through, as a bystander sees it, and how often it has called what itself."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.of: dict[int, Called] = {}
        self.mine: Counter[str] = Counter()
        self._seen = 0

    def is_over(self, name: str, key: str, ranks: tuple[int, ...], peer: int | None) -> bool:
        """Whether somebody of a call that this rank is about to make has ended before his part of it."""
        line = line_of(name, key, self.rank, peer)
        self.mine[line] += 1
        if not self.look():
            return False
        ends = [peer] if peer is not None else [] if name == FROM_ANY else ranks
        given = f"{key} any {peer}" if name == SENDS else ""  # what takes from anybody may have been meant
        return any(
            self.mine[line] > theirs.get(line, 0) + theirs.get(given, 0)
            for rank in ends
            if (theirs := self.of.get(rank)) is not None
        )

    def look(self) -> bool:
        """Whether anybody is; reads what is new."""
        with suppress(FileNotFoundError):
            written = (self.folder / THROUGH).stat().st_mtime_ns
            if written != self._seen:
                self._seen = written
                for file in self.folder.glob(f"{THROUGH}-*"):
                    rank = int(file.name.rpartition("-")[2])
                    if rank not in self.of:
                        self.of[rank] = json.loads(file.read_text(encoding="utf-8"))
        return bool(self.of)
