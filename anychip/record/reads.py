"""Values that a program read from its chip: how often, and where. Each read makes the host wait."""

from collections import Counter
from dataclasses import dataclass

from anychip.record.program import Program
from anychip.record.tape import Kind


@dataclass(frozen=True)
class Read:
    """A line of the program that reads values of the chip. count: reads per step."""

    file: str
    line: int
    function: str
    count: float


def reads(program: Program, begin: int, end: int, num_steps: int) -> tuple[Read, ...]:
    """Reads among the words begin..end (end excluded), which are `num_steps` steps; the line that reads most first."""
    inside = program.payloads[begin:end][program.kinds[begin:end] == Kind.READ]
    counts = Counter(inside.tolist()).most_common()
    return tuple(Read(*program.places[place], count / max(num_steps, 1)) for place, count in counts)
