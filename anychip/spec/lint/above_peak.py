"""Something sustained above its peak: a clock, a measured rate, a link between two chips."""

import csv
from collections.abc import Iterator
from pathlib import Path

from anychip.spec import catalogue
from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem
from anychip.spec.units import UNITS, to_si

RULE = "above-peak"
ABOUT = "Nothing is sustained above its peak."

_PAIRS = (
    ("engine.sustained_clock", "engine.peak_clock"),
    ("links.scale_up.peer_one_way", "links.scale_up.one_way"),
    ("links.scale_up.one_way", "links.scale_up.bidirectional"),
)
# Clocks boost and sheets round: a measured rate may pass the printed peak by this much.
_SLACK = 1.03


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    for low, high in _PAIRS:
        small, large = subject.value(low), subject.value(high)
        if small and large and small > large:
            yield subject.problem(RULE, low, f"{subject.figures[low]} is more than {high}, {subject.figures[high]}")
    yield from _rates(subject)


def _rates(subject: Subject) -> Iterator[Problem]:
    """Measured points of rates/<chip>.csv that name a dtype and a rate in operations."""
    for folder in catalogue.folders("rates"):
        file = folder / f"{subject.doc.file.stem}.csv"
        if file.is_file():
            yield from _rows(file, subject)


def _rows(file: Path, subject: Subject) -> Iterator[Problem]:
    with file.open(encoding="utf-8", errors="replace", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            dtype, unit, value = row.get("dtype"), row.get("unit"), row.get("value")
            peaks = [subject.value(f"peaks.{engine}.{dtype}") or 0.0 for engine in ("matrix", "vector")]
            if UNITS.get(unit or "", ("", ""))[1] != "flop/s" or not max(peaks):
                continue
            try:
                rate = to_si(float(value or ""), unit or "")
            except ValueError:
                yield Problem(str(file), number, "value", f"not a number: {value!r}", rule=RULE)
                continue
            if rate > max(peaks) * _SLACK:
                message = f"{value} {unit} measured for {dtype}, above the peak of {max(peaks) / 1e12:.4g} TFLOP/s"
                yield Problem(str(file), number, "value", message, "check dtype, unit and peak", RULE)
