"""What anychip raises at its users.

AnychipError            something the user can mend; the text says what, where, the numbers, what to try
+-- BadUse              a command line or call that cannot be carried out as it stands
+-- UnknownChip         no chip, or more than one, of that name
+-- UnknownCluster      no cluster or link, or more than one, of that name
+-- BadNetwork          a network that cannot carry what is asked: too small, or without the figures that are needed
+-- BadChipFile         a file of the standard is wrong: all its problems at once
+-- BadTarget           a TARGET (CHIP[:COUNT[@CLUSTER]]) that cannot be read
+-- BadProgramFile      a saved program that cannot be read
+-- ProgramFailed       the user's program ended with an error (its exit code is kept)
|   +-- ProgramKilled   a signal ended it
|   +-- UnsupportedProgram  it does what a virtual chip cannot follow, and was ended for that
+-- UnsupportedTorch    this torch cannot carry the virtual device
+-- UnsupportedDtype    the chip has no such dtype
+-- Deadlock            ranks of a job wait for one another for ever, or call what does not fit
"""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anychip.record.failure import Failure

ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Deadlock)\b")  # how a line of Python's begins that tells an error
INTERRUPTED = 130  # exit code after Ctrl-C
SIGNALLED = 128  # what shells add to the number of the signal that ended a process
MOST_RANKS = 256  # of a job that are run one by one
OUT_OF_MEMORY = "OutOfMemoryError"  # as torch calls it


def all_ranks(world_size: int) -> str:
    """What to try for every rank of a job to run: of one with more of them than are run one by one, that of a smaller one."""
    return "--ranks all" if world_size <= MOST_RANKS else f"--ranks all of a job of {MOST_RANKS} at most"


def error_line(text: str) -> str:
    """The last line of a failed program's that tells an error, else the last."""
    lines = text.strip().splitlines()
    return next((line for line in reversed(lines) if ERROR.match(line)), lines[-1])


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it at a job's end: what Ctrl-C would leave is left."""

    exit_code = SIGNALLED + signal.SIGTERM


class AnychipError(Exception):
    """Base of everything that is told to the user in one plain message, with exit code 2."""

    exit_code = 2


class BadUse(AnychipError):
    pass


class UnknownChip(AnychipError):
    pass


class UnknownCluster(AnychipError):
    pass


class BadNetwork(AnychipError):
    pass


class BadChipFile(AnychipError):
    pass


class BadTarget(AnychipError):
    pass


class BadProgramFile(AnychipError):
    pass


class ProgramFailed(AnychipError):
    """The user's program failed: `exit_code` is the program's own. said: the error that ended it, and how: all that is known
    of it, where anything is."""

    def __init__(self, message: str, exit_code: int, said: str = "", how: "Failure | None" = None) -> None:
        super().__init__(message)
        self.exit_code, self.said, self.how = exit_code, said, how

    def saying(self, message: str, exit_code: int) -> "ProgramFailed":
        """The same failure in other words."""
        other = type(self).__new__(type(self), message)
        vars(other).update(vars(self), exit_code=exit_code)
        return other

    @property
    def is_interrupted(self) -> bool:
        """Whether it was the user who ended it."""
        return self.exit_code == INTERRUPTED

    @property
    def is_short(self) -> bool:
        """Whether it is memory that the chip has too little of."""
        return error_line(str(self)).startswith(OUT_OF_MEMORY)


class ProgramKilled(ProgramFailed):
    """A signal ended the user's program, whose exit code is then what shells say of it. who: it, or one of its ranks."""

    def __init__(self, name: str, who: str, by: signal.Signals, why: str) -> None:
        self.by = f"{by.name} ended {who}"
        super().__init__(
            f"{name}: {who} was killed by {by.name} while it was recorded; no recording was left. {why}",
            SIGNALLED + by,
            self.by,
        )


class UnsupportedProgram(ProgramFailed):
    def __init__(self, message: str, how: "Failure | None" = None) -> None:
        super().__init__(message, AnychipError.exit_code, message, how)


class UnsupportedTorch(AnychipError):
    pass


class UnsupportedDtype(AnychipError):
    pass


class Deadlock(AnychipError):
    """The job would hang: which ranks, which collective, which line. stuck: what each is in; is_mismatch: they meet, and what they call
    does not fit."""

    def __init__(self, message: str, stuck: "Sequence[Stuck]" = (), is_mismatch: bool = False) -> None:
        super().__init__(message)
        self.stuck, self.is_mismatch = tuple(stuck), is_mismatch


@dataclass(frozen=True)
class Stuck:
    """A rank that can never go on. members: how many ranks it stands for, itself included. call: what it called, in words. file, line:
    where; None where that is not known. waits_for: ranks that ran."""

    rank: int
    members: int
    call: str
    file: str | None
    line: int | None
    waits_for: tuple[int, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.file else "line unknown"
