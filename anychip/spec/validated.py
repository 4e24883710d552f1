"""How far forecasts were off where they could be compared: `standard/errors.csv` by what a time rests on, and
`standard/validated.csv` by chip, from published runs with their source left out (`python -m accuracy --validated`).

Relative errors, one sigma in the first file, mean absolute in the second.
"""

import csv
from collections.abc import Mapping
from functools import cache

from anychip.spec import catalogue

SIGMA = 1.2533  # of a normal distribution: one sigma over its mean absolute deviation, sqrt(pi / 2)


@cache
def errors() -> Mapping[tuple[str, str], float]:
    """(part, name) -> error, one sigma. Parts: evidence, host, level, grade."""
    return {(row["part"], row["name"]): float(row["error"]) for row in rows("errors.csv")}


@cache
def end_to_end(chip_id: str) -> float | None:
    """One sigma of a step's time on this chip for programs like the published ones: each source forecast without what
    was fitted to it. None where no whole run was compared."""
    found = [
        (int(row["n"]), float(row["left_out"] or row["mean_abs"]))
        for row in rows("validated.csv")
        if row["chip"] == chip_id
    ]
    total = sum(n for n, _ in found)
    return SIGMA * sum(n * error for n, error in found) / total if total else None


def rows(name: str) -> list[dict[str, str]]:
    """Of the first file of that name on the search path."""
    for folder in catalogue.folders(""):
        path = folder / name
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
    return []
