"""How a recorded program ended where it failed: whose rank, which error, at which line, after how many steps."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from anychip import units
from anychip.record.program import Program
from anychip.record.steps import Marks, find_steps
from anychip.record.tape import Mark

# What torch writes of an exception that it carries over from a worker or a replica: the traceback there, and the exception's own line.
CARRIED = re.compile(r"^Original Traceback \(most recent call last\):\n(?:[ \t].*\n)*(\S.*)", re.M)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Failure:
    """exit_code: the program's own. rank: whose. error: the exception with the first line of its text; "" where it exited without
    one. file, line: the program's own line that led to it; None where that is not known. steps: training steps before it.
    refused_bytes: what it asked for last of a chip's memory of of_bytes, where it ended for want of it, else 0."""

    exit_code: int
    rank: int
    error: str
    file: str | None
    line: int | None
    steps: int
    refused_bytes: int = 0
    of_bytes: int = 0

    @property
    def refusal(self) -> str:
        """What memory it was refused, if that ended it."""
        return refusal(self.refused_bytes, self.of_bytes)

    @property
    def place(self) -> str:
        """The line as messages name it: train.py:12."""
        return f"{(self.file or '').rpartition('/')[2]}:{self.line}" if self.line else ""


def failure_of(program: Program) -> Failure | None:
    """How a program failed, by the recording of the rank that did; None where it did not, or the user ended it."""
    code = program.meta.get("exit_code")
    if not code or program.meta.get("interrupted"):
        return None
    rank = program.meta.get("failed_rank", program.rank)
    failed = next((one for one in program.ranks if rank in one.members), program)
    file, line = failed.meta.get("failed_at") or (None, None)
    wanted, of_bytes = refused(failed)
    said = first_line(str(failed.meta.get("failure", "")))
    return Failure(int(code), rank, said, file, line, num_trained(failed), wanted, of_bytes)


def cut_short(ranks: Iterable[Program]) -> bool:
    """Whether a rank was ended once it had done its steps: who waits after his own may wait for one of these."""
    return any(rank.meta.get("stopped") for rank in ranks)


def first_line(said: str) -> str:
    """An exception with the first line of its text, which torch's pipelines begin with an empty one, without a terminal's colours. Of one
    that was carried over from a worker, whose first line says no more than that, the exception there."""
    said = COLOUR.sub("", said)
    if carried := CARRIED.findall(said):
        return str(carried[-1])
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return " ".join(lines[: 1 + lines[0].endswith(":")]) if lines else ""


def num_trained(program: Program) -> int:
    """How many training steps a rank took. A backward of one number, by which some programs begin (around a fault of some system),
    is none of one that failed later."""
    optimized = Mark.OPTIMIZER_END in Marks(program).what
    return sum(step.kind == "train" and bool(step.forwards or optimized) for step in find_steps(program))


def refusal(wanted: int, of_bytes: int) -> str:
    """What memory was refused, as `refused` has it in bytes: 1.00 GiB more of 22.0 GiB; "" where none was."""
    amount = f"{units.memory(wanted)} more" if wanted else "more"  # some say no amount
    return f"{amount} of {units.memory(of_bytes)}" if of_bytes else ""


def refused(program: Program) -> tuple[int, int]:
    """(bytes that the program ended for want of, what its chip had in all); (0, 0) where it did not."""
    found = program.meta.get("refused") or {"bytes": 0, "of_bytes": 0}
    return int(found["bytes"]), int(found["of_bytes"])
