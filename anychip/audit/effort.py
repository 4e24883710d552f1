"""How many lines a port changes, from ports that were made and merged.

tables/ports.csv: merged pull requests that made code run on other accelerators, each with the places of this audit that it
resolved (findings of severity automatic and thought before, less those after, in the files it touched) and the lines that
it added and deleted there; a changed line is one of each. An estimate is the places of a file times the median of changed lines
per place, and no more than the file has: what a port adds beside them is little where there is little. Its range is that of the
middle 80% of those ports. Kernels are not in it: nobody has ported enough of them in the open.
"""

import csv
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from anychip.audit.finding import Finding

TABLE = Path(__file__).parent / "tables" / "ports.csv"
COUNTED = ("automatic", "thought")
NOT_COUNTED = ("rewrite", "blocks")
# What a place in a kernel asks a chip for: such a place may be light by itself (a call of CUDA's runtime, `@triton.jit`).
IN_KERNELS = ("kernel", "cuda_symbol", "triton")


@dataclass(frozen=True)
class Effort:
    """lines: changed (one added and one deleted), low to high. per_place: the median of the ports. bounded: places times that are
    more than the lines of some file. num_ports: that it is calibrated on. kernels: places that are not in it."""

    places: int
    per_place: float
    bounded: bool
    lines: float
    low: float
    high: float
    num_ports: int
    kernels: int


@cache
def lines_per_place() -> tuple[float, ...]:
    """Changed lines of every port of the table, in order of size."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(sorted(int(row["lines"]) / 2 / int(row["places"]) for row in csv.DictReader(file)))


def in_kernel(finding: Finding) -> bool:
    """Whether it is of what the estimate leaves out."""
    return finding.severity in NOT_COUNTED or finding.need[0] in IN_KERNELS


def effort(findings: Iterable[Finding], lines_of: Mapping[str, int]) -> Effort:
    """lines_of: path -> lines of the file, of every file that a finding is in."""
    kept = [finding for finding in findings if finding.severity in (*COUNTED, *NOT_COUNTED)]
    places = Counter(finding.path for finding in kept if not in_kernel(finding))
    ratios = lines_per_place()
    tenths, per_place = statistics.quantiles(ratios, n=10, method="inclusive"), statistics.median(ratios)

    def lines(ratio: float) -> float:
        return sum(min(number * ratio, lines_of[path]) for path, number in places.items())

    return Effort(
        places=places.total(),
        per_place=per_place,
        bounded=any(number * per_place > lines_of[path] for path, number in places.items()),
        lines=lines(per_place),
        low=lines(tenths[0]),
        high=lines(tenths[-1]),
        num_ports=len(ratios),
        kernels=len(kept) - places.total(),
    )
