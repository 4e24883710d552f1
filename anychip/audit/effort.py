"""How many lines a port changes, from ports that were made and merged.

tables/ports.csv: merged pull requests that made code run on other accelerators, each with the places of this audit that it
resolved (findings of severity automatic and thought before, less those after, in the files it touched) and the lines that
it added and deleted there. An estimate is the places of a project times the median of lines per place; its range is
that of the middle 80% of those ports. Kernels are not in it: nobody has ported enough of them in the open.
"""

import csv
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from anychip.audit.finding import Finding

TABLE = Path(__file__).parent / "tables" / "ports.csv"
COUNTED = ("automatic", "thought")
NOT_COUNTED = ("rewrite", "blocks")


@dataclass(frozen=True)
class Effort:
    """lines: added and deleted, low to high. num_ports: that it is calibrated on. kernels: places that are not in it."""

    places: int
    lines: float
    low: float
    high: float
    num_ports: int
    kernels: int


@cache
def lines_per_place() -> tuple[float, ...]:
    """Of every port of the table, in order of size."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(sorted(int(row["lines"]) / int(row["places"]) for row in csv.DictReader(file)))


def effort(findings: Iterable[Finding]) -> Effort:
    kept = [finding.severity for finding in findings]
    places = sum(severity in COUNTED for severity in kept)
    ratios = lines_per_place()
    tenths = statistics.quantiles(ratios, n=10, method="inclusive")
    return Effort(
        places=places,
        lines=places * statistics.median(ratios),
        low=places * tenths[0],
        high=places * tenths[-1],
        num_ports=len(ratios),
        kernels=sum(severity in NOT_COUNTED for severity in kept),
    )
