"""What is wrong with a file of the standard: where, what, and what to write instead."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anychip.errors import BadChipFile


@dataclass(frozen=True)
class Problem:
    """One mistake. `path` is the dotted place in the file ("peaks.matrix.bf16", "" for the file as a whole).

    line: 1-based, None where the file has no line for it (a missing field). fix: what to write instead, or None.
    rule: the lint rule's name, or "schema" or "toml". fixable: `chips check --fix` can mend it.
    """

    file: str
    line: int | None
    path: str
    message: str
    fix: str | None = None
    rule: str = "schema"
    fixable: bool = False

    def __str__(self) -> str:
        """``chips/x.toml:14: peaks.matrix.bf16: expected ... (write ...)``."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        where = f" {self.path}:" if self.path else ""
        hint = f" ({self.fix})" if self.fix else ""
        return f"{place}:{where} {self.message}{hint}"


def raise_problems(problems: Sequence[Problem], file: Path) -> None:
    """BadChipFile that holds every problem, one a line; nothing where there is none."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise BadChipFile(f"{file}: {count}\n" + "\n".join(f"  {problem}" for problem in problems))
