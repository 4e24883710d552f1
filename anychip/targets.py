"""TARGET = CHIP[:COUNT[..COUNT]][@CLUSTER][+STACK]: where a program is to run, as the user writes it."""

import re
from dataclasses import dataclass

from anychip.errors import BadTarget

GRAMMAR = "CHIP[:COUNT[..COUNT]][@CLUSTER][+STACK]"
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


def single(text: str) -> str:
    """The chip of a TARGET that means one chip. Raises BadTarget for what cannot be forecast yet."""
    target = parse(text)
    if target.counts != (1, 1):
        raise BadTarget(f"{text!r}: clusters are not there yet; one chip is. Try: --on {target.chip}")
    if target.cluster is not None:
        raise BadTarget(f"{text!r}: clusters are not there yet. Try: --on {target.chip}")
    if target.stack is not None:
        raise BadTarget(
            f"{text!r}: other software stacks are not there yet; the chip's own is. Try: --on {target.chip}"
        )
    return target.chip
