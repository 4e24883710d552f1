"""TARGET = CHIP[:COUNT[..COUNT]][@CLUSTER]: where a program is to run, as the user writes it.

CHIP...+STACK, another software stack than the chip's own, is read too, to be refused by its name.
"""

import re
from dataclasses import dataclass, replace

from anychip.errors import BadTarget

GRAMMAR = "CHIP[:COUNT[..COUNT]][@CLUSTER]"
_PATTERN = re.compile(
    r"(?P<chip>[^:@+]+)(:(?P<low>\d+)(\.\.(?P<high>\d+))?)?(@(?P<cluster>[^:@+]+))?(\+(?P<stack>[^:@+]+))?"
)


@dataclass(frozen=True)
class Target:
    """chip: id, alias or file. counts: (lowest, highest) number of chips, equal where one number was given."""

    chip: str
    counts: tuple[int, int] = (1, 1)
    cluster: str | None = None
    stack: str | None = None

    @property
    def count(self) -> int:
        """The highest number of chips."""
        return self.counts[1]

    def __str__(self) -> str:
        low, high = self.counts
        count = "" if high == 1 else f":{low}" if low == high else f":{low}..{high}"
        cluster = f"@{self.cluster}" if self.cluster else ""
        return f"{self.chip}{count}{cluster}" + (f"+{self.stack}" if self.stack else "")


def parse(text: str) -> Target:
    """Read a TARGET. Raises BadTarget, naming the text and the grammar."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise BadTarget(f"{text!r} is not a target; a target is {GRAMMAR}, for example h100 or h100:8")
    low = int(match["low"] or 1)
    high = int(match["high"] or low)
    if low < 1 or high < low:
        raise BadTarget(f"{text!r}: counts are whole numbers from 1, the smaller first, for example h100:8..64")
    return Target(match["chip"], (low, high), match["cluster"], match["stack"])


def expand(text: str) -> list[Target]:
    """One target for each count of a range: its powers of two times the lowest, and the highest.

    h100:8..64 -> h100:8, h100:16, h100:32, h100:64. Raises BadTarget.
    """
    target = parse(text)
    if target.stack is not None:
        raise BadTarget(_no_stack(text, target))
    low, high = target.counts
    counts = [low]
    while counts[-1] * 2 <= high:
        counts.append(counts[-1] * 2)
    return [replace(target, counts=(count, count)) for count in dict.fromkeys((*counts, high))]


def _no_stack(text: str, target: Target) -> str:
    shown = replace(target, stack=None)
    return f"{text!r}: other software stacks are not there yet; the chip's own is. Try: --on {shown}"
