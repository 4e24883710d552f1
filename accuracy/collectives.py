"""Collectives: forecast against what was measured, for every point of standard/collectives. Writes docs/collectives.md.

    python accuracy/collectives.py            print the table and write the page
    python accuracy/collectives.py --points   every point as well

Three questions, told apart:
  left out   a point of a chip's own curve, forecast from the other points of that curve
  check      a point that no forecast uses: another size of group, another algorithm, another cluster
  blind      any point, forecast with none of the chip's own: the shape of other chips, the level of the link's file
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from anychip.network import Fabric
from anychip.network.levels import Setting, setting
from anychip.network.points import Point, chips_with_points, points_of
from anychip.spec import load_chip

# Tables that time one call on an idle chip contain the host's part, which a forecast has on the host's own timeline: 20 to
# 30 us a call (network/benchmarks/README.md of stas00/ml-engineering).
HOST_INCLUDED = "host overhead included"
HOST_S = 25e-6
PAGE = Path(__file__).resolve().parents[1] / "docs" / "collectives.md"


class Row(NamedTuple):
    """A point and its forecasts in seconds; known: left out or check, by what the point is used for."""

    chip: str
    point: Point
    known_s: float
    blind_s: float
    algorithm: str

    @property
    def error(self) -> float:
        return self.known_s / self.point.time_s - 1

    @property
    def blind_error(self) -> float:
        return self.blind_s / self.point.time_s - 1


def rows() -> Iterator[Row]:
    for chip in chips_with_points():
        points = points_of(chip)
        for at, point in enumerate(points):
            others = points[:at] + points[at + 1 :]
            known = forecast(chip, point, others)
            blind = forecast(chip, point, ())
            yield Row(chip, point, known[0], blind[0], known[1])


def forecast(chip: str, point: Point, points: tuple[Point, ...]) -> tuple[float, str]:
    """Seconds and algorithm of a point's collective, from the given points. Where a test forced its algorithm, so does
    the forecast."""
    in_node = point.chips // point.nodes
    whole = 0 if point.nodes == 1 else Fabric.of(load_chip(chip), 2, point.cluster).tiers[0].chips
    ranks = [node * max(whole, in_node) + rank for node in range(point.nodes) for rank in range(in_node)]
    fabric = Fabric.of(load_chip(chip), max(ranks) + 1, point.cluster or None, points=points)
    if point.use != "curve" and point.algorithm:
        fabric = replace(fabric, algorithms=(point.algorithm,))
    cost = fabric.cost(point.collective, point.nbytes, ranks, point.dtype)
    host_s = HOST_S if HOST_INCLUDED in point.stack else 0.0
    return cost.time_s + host_s, cost.algorithm


def middle(errors: Iterable[float]) -> str:
    values = [abs(error) for error in errors]
    return f"{100 * median(values):.1f}%" if values else ""


def worst(errors: Iterable[float]) -> str:
    values = list(errors)
    return f"{100 * max(values, key=abs):+.0f}%" if values else ""


def summary(found: list[Row]) -> Iterator[str]:
    curves = [row for row in found if row.point.use == "curve"]
    checks = [row for row in found if row.point.use == "check"]
    yield "| | points | median error | worst |"
    yield "|---|---|---|---|"
    yield f"| left out of a chip's own curve | {len(curves)} | {middle(r.error for r in curves)} | {worst(r.error for r in curves)} |"
    yield f"| checks, used by no forecast | {len(checks)} | {middle(r.error for r in checks)} | {worst(r.error for r in checks)} |"
    large = [row for row in found if row.point.nbytes >= 16 * 2**20]
    yield f"| blind, no point of the chip, all sizes | {len(found)} | {middle(r.blind_error for r in found)} | {worst(r.blind_error for r in found)} |"
    yield f"| blind, 16 MiB and more | {len(large)} | {middle(r.blind_error for r in large)} | {worst(r.blind_error for r in large)} |"


def table(found: list[Row]) -> Iterator[str]:
    yield "| chip | collective | algorithm | chips | nodes | use | points | median | worst | blind, 16 MiB and more |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, Setting, str], list[Row]] = {}
    for row in found:
        groups.setdefault((row.chip, setting(row.point), row.point.use), []).append(row)
    for (chip, where, use), group in groups.items():
        large = [row for row in group if row.point.nbytes >= 16 * 2**20]
        known = [] if use == "level" else [row.error for row in group]
        cells = [chip, where.collective, where.algorithm or group[0].algorithm, where.chips, where.nodes, use, len(group),
                 middle(known), worst(known), worst(r.blind_error for r in large) if len(large) == 1
                 else middle(r.blind_error for r in large)]  # fmt: skip
        yield "| " + " | ".join(map(str, cells)) + " |"


def every_point(found: list[Row]) -> Iterator[str]:
    for row in found:
        point = row.point
        yield (f"{row.chip:24s} {point.collective:14s} {point.algorithm or '-':10s} {point.chips:4d} {point.use:6s} "
               f"{point.nbytes:12d} B {point.time_s * 1e6:12.1f} us {row.known_s * 1e6:12.1f} {100 * row.error:+6.1f}% "
               f"blind {100 * row.blind_error:+6.1f}% {row.algorithm}")  # fmt: skip


def page(found: list[Row]) -> str:
    sources = sorted({row.point.source for row in found})
    return "\n".join([
        "# Collectives: forecast and measured",
        "",
        "Made by `python accuracy/collectives.py` from the points of `anychip/standard/collectives`; errors are those of",
        "the time, forecast over measured less one. \"Left out\" and \"check\" points take no part in their own forecast. In a",
        "blind forecast no point of that chip takes part: the shape of the curve is that of the other chips, the level is",
        "the `efficiency` of the link's file.",
        "",
        *summary(found),
        "",
        *table(found),
        "",
        "What the levels of the links' files rest on, and so is not blind: large all-reduce by ring on 8 chips (NVLink 3, 4,",
        "5, xGMI) and over 4 nodes (HDR, NDR, EFA v4), all-reduce of 8 (Gaudi 3), all-gather of 2, 4 and 8 (HCCS). Blind are",
        "then every other size of group, every other collective, every size of message, reduction in the switch (its share is",
        "the one that NCCL's own model has) and ICI, whose level is the one that is assumed of any link. The all-to-all rows",
        "of H100 set `collective.exchange` in `rates/default.csv`; those of A100, B200 and GB200 test it. The worst are",
        "messages of some KiB: an outlier in the source (32 bytes in 68 us) and one table whose first sizes were still warming",
        "up (6 ms for 32 KiB over 4 nodes; the same nodes take 98 us in the later table, which the forecast uses).",
        "",
        "A `level` row sets a level and is forecast blind only. All-to-all on a torus has no public measurement; the model",
        "equals the peak that Google's own benchmark prints for v6e and v7 slices (`tests/network/test_torus.py`).",
        "",
        "Sources:",
        "",
        *(f"- {source}" for source in sources),
        "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", action="store_true", help="print every point")
    found = list(rows())
    if parser.parse_args().points:
        print("\n".join(every_point(found)))
    print("\n".join([*summary(found), "", *table(found)]))
    PAGE.write_text(page(found), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
