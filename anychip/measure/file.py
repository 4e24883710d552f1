"""The rates file as it grows: whole after each point, taken up again where it was left.

A file is CSV as `anychip.cost.rates` reads it, under the header a block of comments: one with what was measured on what,
those that begin with "# raw" (times that other rows come from) and "# skipped" (what this device cannot do, and why).
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from anychip.cost.rates import COLUMNS, Rate, parse
from anychip.errors import BadUse
from anychip.measure.point import UNITS, Point, Timing
from anychip.whole import put

Key = tuple[str, str, str]
RAW = ("host.step", "page.written", "host_link.read", "peer.copy")  # no word of a rates file, but what rows come from


@dataclass
class RatesFile:
    """about: device, software and settings, which must be the same when a file is taken up again. rows: by key, in SI with
    the cells after the value. derived: rows that are worked out from others, written again each time."""

    path: Path
    about: Mapping[str, Any]
    stack: str
    source: str
    rows: dict[Key, list[str]] = field(default_factory=dict)
    values: dict[Key, float] = field(default_factory=dict)
    skipped: dict[Key, str] = field(default_factory=dict)
    derived: list[list[str]] = field(default_factory=list)

    @property
    def known(self) -> set[Key]:
        return set(self.rows) | set(self.skipped)

    def add(self, point: Point, value: float, timing: Timing) -> None:
        samples = " ".join(f"{second * 1e6:.4g}" for second in timing.samples_s)
        note = f"median of {len(timing.samples_s)}, best {timing.best_s * 1e6:.4g} us, spread {timing.spread:.1%}; us: {samples}"
        note += f"; {point.note}" if point.note else ""
        self.rows[point.key] = self._row(point.key, value, point.unit, "measured", note)
        self.values[point.key] = value
        self.write()

    def skip(self, point: Point, reason: str) -> None:
        self.skipped[point.key] = " ".join(reason.split())[:160]
        self.write()

    def derive(self, op: str, dtype: str, shape: str, value: float, unit: str, note: str) -> None:
        self.derived.append(self._row((op, dtype, shape), value, unit, "derived", note))

    def _row(self, key: Key, value: float, unit: str, kind: str, note: str) -> list[str]:
        return [*key, f"{value / UNITS[unit]:.6g}", unit, kind, self.stack, date.today().isoformat(), self.source, note]

    def text(self) -> str:
        out = io.StringIO()
        out.write(",".join(COLUMNS) + "\n")
        out.write(f"# anychip measure {json.dumps(dict(self.about))}\n")
        writer = csv.writer(out, lineterminator="\n")
        for key, row in self.rows.items():
            if key[0] in RAW:
                writer.writerow(["# raw", *row])
        for key, reason in self.skipped.items():
            writer.writerow(["# skipped", *key, reason])
        for row in [*self.derived, *(row for key, row in self.rows.items() if key[0] not in RAW)]:
            writer.writerow(row)
        return out.getvalue()

    def write(self) -> None:
        """Whole or not at all."""
        put(self.path, self.text())

    def rates(self) -> tuple[Rate, ...]:
        """The rows as pricing reads them."""
        return parse(self.text(), self.path.name)


def open_file(path: Path, about: Mapping[str, Any], stack: str, source: str) -> RatesFile:
    """A new file, or the one that is there with what it holds. Raises BadUse where that is of something else."""
    file = RatesFile(path, about, stack, source)
    if not path.exists():
        return file
    lines = path.read_text(encoding="utf-8").splitlines()
    prefix = "# anychip measure "
    head = next((line for line in lines if line.startswith(prefix)), None)
    if head is None:
        raise BadUse(f"{path}: is there and was not written by anychip measure. Name another file.")
    before = json.loads(head.removeprefix(prefix))
    unlike = [
        f"{name} {before.get(name)!r}, now {value!r}" for name, value in about.items() if before.get(name) != value
    ]
    if unlike:
        raise BadUse(f"{path}: was begun with {'; '.join(unlike)}. Name another file, or remove this one.")
    for cells in csv.reader(lines[1:]):
        if cells and cells[0] == "# skipped":
            file.skipped[cells[1], cells[2], cells[3]] = cells[4]
        elif cells and (cells[0] == "# raw" or not cells[0].startswith("#")):
            row = cells[1:] if cells[0] == "# raw" else cells
            if row[5] == "measured":
                key = (row[0], row[1], row[2])
                file.rows[key] = row
                file.values[key] = float(row[3]) * UNITS[row[4]]
    return file
