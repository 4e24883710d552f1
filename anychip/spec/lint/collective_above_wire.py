"""A measured collective that moved more than the wires can."""

import csv
from collections.abc import Iterator
from pathlib import Path

from anychip.spec import catalogue
from anychip.spec.context import Context, Subject
from anychip.spec.problem import Problem

RULE = "collective-above-wire"
ABOUT = "A collective inside a domain passes the wire rate only where the switch adds up, and then by less than twice."

# Bus over algorithm bandwidth is 2(n-1)/n and (n-1)/n (nccl-tests); sheets round, so a little more is let pass.
_PASSES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1}
_SLACK = 1.03


def check(subject: Subject, context: Context) -> Iterator[Problem]:
    wire = subject.value("links.scale_up.one_way")
    if not wire:
        return
    for folder in catalogue.folders("collectives"):
        file = folder / f"{subject.doc.file.stem}.csv"
        if file.is_file():
            yield from _rows(file, wire)


def _rows(file: Path, wire: float) -> Iterator[Problem]:
    with file.open(encoding="utf-8", errors="replace", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            if row.get("nodes") != "1" or row.get("collective") not in _PASSES:
                continue
            rate = _bus_rate(row)
            most = wire * (2 if row.get("algorithm") in ("in_switch", "") else 1) * _SLACK
            if rate and rate > most:
                message = f"{rate / 1e9:.4g} GB/s of bus bandwidth on wires of {wire / 1e9:.4g} GB/s"
                yield Problem(str(file), number, "value", message, "check value, unit and algorithm", RULE)


def _bus_rate(row: dict[str, str]) -> float | None:
    """Bytes per second as nccl-tests count them; None for a row that is no number (the table's own check tells)."""
    try:
        value, ranks, nbytes = float(row["value"]), int(row["chips"]), int(row["bytes"])
        factor = _PASSES[row["collective"]] * (ranks - 1) / ranks
        rates = {"us": nbytes * factor / value * 1e6, "GB/s algbw": value * factor * 1e9, "GB/s busbw": value * 1e9}
        return rates.get(row["unit"])
    except (ValueError, KeyError, ZeroDivisionError, TypeError):
        return None
