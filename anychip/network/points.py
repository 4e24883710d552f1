"""Measured collectives: the points of standard/collectives/<chip>.csv.

Columns: collective, algorithm, chips, nodes, cluster, dtype, bytes, value, unit, use, stack, date, source, note.

  collective    all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, reduce
  algorithm     the one that ran (of large sizes, where a curve goes through several), empty where nobody says
  chips, nodes  ranks that took part, and scale-up domains that they were in
  cluster       id of the file in clusters/ where it was measured, empty for one domain
  bytes         as nccl-tests count them: see `collective`
  value, unit   a time ("us"), or a bandwidth as nccl-tests define it ("GB/s busbw", "GB/s algbw")
  use           curve: shape by size and level; level: level of a large message only; check: compared with, never used
"""

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

from anychip.errors import BadChipFile
from anychip.spec import Chip, catalogue
from anychip.spec.inherited import COLLECTIVES, Inherited, collectives_file
from anychip.spec.tables import check_table


class Point(NamedTuple):
    """One measurement. time_s: whatever unit it was printed in."""

    collective: str
    algorithm: str
    chips: int
    nodes: int
    cluster: str
    dtype: str
    nbytes: int
    time_s: float
    use: str
    stack: str
    source: str
    note: str


def bus_factor(kind: str, ranks: int) -> float:
    """Bus over algorithm bandwidth, as nccl-tests define it (PERFORMANCE.md of NVIDIA/nccl-tests)."""
    if kind == "all_reduce":
        return 2 * (ranks - 1) / ranks
    return (ranks - 1) / ranks if kind in ("all_gather", "reduce_scatter", "all_to_all") else 1.0


def points_of(chip_id: str, chip_file: Path | None = None) -> tuple[Point, ...]:
    """The points of a chip, of the file that `spec.inherited.collectives_file` finds; none without."""
    file = collectives_file(chip_id, chip_file)
    return _load(file, file.stat().st_mtime_ns) if file is not None else ()


def chips_with_points() -> tuple[str, ...]:
    return tuple(dict.fromkeys(file.stem for file in catalogue.files("collectives", ".csv")))


def points_of_chip(chip: Chip) -> tuple[Point, ...]:
    """Its own, or those of a chip that it extends, where its links are the same."""
    lent = _lent(chip)
    return points_of(lent.chip, lent.file) if lent is not None else points_of(chip.id, chip.file)


def owner(chip: Chip) -> str:
    """Of which chip its points are."""
    lent = _lent(chip)
    return lent.chip if lent is not None else chip.id


def _lent(chip: Chip) -> Inherited | None:
    if points_of(chip.id, chip.file):
        return None
    return next((lent for lent in chip.inherits if COLLECTIVES in lent.holds), None)


@cache
def _load(file: Path, stamp: int) -> tuple[Point, ...]:
    problems = check_table(file)
    if problems:
        raise BadChipFile(f"{file}: {len(problems)} problems\n" + "\n".join(f"  {problem}" for problem in problems))
    with file.open(encoding="utf-8", newline="") as rows:
        return tuple(_point(row) for row in csv.DictReader(rows))


def _point(row: dict[str, str]) -> Point:
    kind, ranks, nbytes, value = row["collective"], int(row["chips"]), int(row["bytes"]), float(row["value"])
    seconds = {
        "us": value * 1e-6,
        "GB/s algbw": nbytes / (value * 1e9),
        "GB/s busbw": nbytes * bus_factor(kind, ranks) / (value * 1e9),
    }[row["unit"]]
    return Point(kind, row["algorithm"], ranks, int(row["nodes"]), row["cluster"], row["dtype"], nbytes, seconds,
                 row["use"], row["stack"], row["source"], row["note"])  # fmt: skip
