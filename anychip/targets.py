"""TARGET = CHIP[:COUNT[..COUNT][@CLUSTER]]: where a program is to run, as the user writes it.

CHIP...+STACK, another software stack than the chip's own, is read too, to be refused by its name.
"""

import re
from dataclasses import dataclass, replace

from anychip.errors import BadTarget

GRAMMAR = "CHIP[:COUNT[..COUNT][@CLUSTER]]"
_PATTERN = re.compile(r"(?P<chip>[^:@+]+)(:(?P<count>[^:@+]*))?(@(?P<cluster>[^:@+]+))?(\+(?P<stack>[^:@+]+))?")
_TIMES = re.compile(r"(?P<count>\d+) *[x*] *(?P<chip>[a-z][^:@+]*\d[^:@+]*)", re.I)  # 8xh100, as clouds write it
MOST = 1_000_000  # chips; ten times as many take all of a machine's memory
_COUNT = re.compile(r"0*[1-9]\d{,8}")  # digits without end are no number that int would read


@dataclass(frozen=True)
class Target:
    """chip: id, alias or file. counts: (lowest, highest) number of chips, equal where one number was given, None where none
    was: one chip, for a program that is started by itself, not as a job."""

    chip: str
    counts: tuple[int, int] | None = None
    cluster: str | None = None
    stack: str | None = None

    @property
    def count(self) -> int:
        """The highest number of chips."""
        return self.counts[1] if self.counts else 1

    def __str__(self) -> str:
        count = f":{'..'.join(map(str, dict.fromkeys(self.counts)))}" if self.counts else ""
        cluster = f"@{self.cluster}" if self.cluster else ""
        return f"{self.chip}{count}{cluster}" + (f"+{self.stack}" if self.stack else "")


def parse(text: str) -> Target:
    """Read a TARGET. Raises BadTarget, naming the text and what is wrong with it."""
    if times := _TIMES.fullmatch(text):
        raise BadTarget(
            f"{text!r}: a number of chips stands behind a colon. Try: --on {times['chip']}:{times['count']}"
        )
    if "," in text and not text.endswith(".toml"):
        each = " ".join(f"--on {one.strip()}" for one in text.split(",") if one.strip()) or "--on h100 --on mi300x"
        raise BadTarget(f"{text!r}: one target at a time. Try: {each}")
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise BadTarget(f"{text!r} is not a target; a target is {GRAMMAR}, for example h100 or h100:8")
    counts = None if match["count"] is None else _counts(text, match["chip"], match["count"])
    return Target(match["chip"], counts, match["cluster"], match["stack"])


def _counts(text: str, chip: str, given: str) -> tuple[int, int]:
    ends = given.split("..")
    wrong = [end for end in ends if not _COUNT.fullmatch(end)]
    if wrong:
        why = f"{wrong[0]!r} is no number of chips" if wrong[0] else "a number of chips is missing"
    elif int(ends[-1]) > MOST:
        why = f"{MOST:,} chips are the most"
    elif len(ends) > 2:
        why = "a range has two ends"
    elif int(ends[0]) > int(ends[-1]):
        why = f"a range begins with the smaller number, as {chip}:{ends[1]}..{ends[0]}"
    else:
        return int(ends[0]), int(ends[-1])
    raise BadTarget(
        f"{text!r}: {why}. After the colon stands a whole number from 1 ({chip}:8) or a range ({chip}:8..64)"
    )


def expand(text: str) -> list[Target]:
    """One target for each count of a range: its powers of two times the lowest, and the highest.

    h100:8..64 -> h100:8, h100:16, h100:32, h100:64. Raises BadTarget.
    """
    target = parse(text)
    if target.stack is not None:
        raise BadTarget(_no_stack(text, target))
    if target.counts is None:
        return [target]
    low, high = target.counts
    counts = [low]
    while counts[-1] * 2 <= high:
        counts.append(counts[-1] * 2)
    return [replace(target, counts=(count, count)) for count in dict.fromkeys((*counts, high))]


def _no_stack(text: str, target: Target) -> str:
    shown = replace(target, stack=None)
    return f"{text!r}: other software stacks are not there yet; the chip's own is. Try: --on {shown}"
