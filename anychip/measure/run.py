"""`measure(device, out)`: every benchmark, one point after another, into a rates file.

In: a torch device. Out: the file, and `Measured`, what it holds. A point that the device cannot do is told in the file; one
that would take longer than a second is left out, since points of one kind grow. Killed, it goes on where it was.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from anychip import __version__
from anychip.cost.rates import Rate, defaults
from anychip.errors import BadUse
from anychip.measure import attention, conv, gemm, host, memory, ops
from anychip.measure.collectives import measure_collectives
from anychip.measure.derive import derive
from anychip.measure.device import Device
from anychip.measure.file import RatesFile, open_file
from anychip.measure.point import Point, value_of
from anychip.measure.stopwatch import CLOCKS, Stopwatch
from anychip.measure.this_cpu import LACKING, write_chip
from anychip.whole import check_writable

Say = Callable[[str, int, int], None]
KINDS = {"host": host, "memory": memory, "gemm": gemm, "conv": conv, "attention": attention, "ops": ops}
PAGES = ("page.rate", "", "")
MOST_S = 1.0  # of one call of a point; quick: a fifth


def _silent(text: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Measured:
    """path: the rates file. rows: what it holds. skipped: what the device could not do, and why. wall_s: seconds spent.
    collectives: the table of what ranks on this machine's devices take to talk, where there are several."""

    path: Path
    rows: tuple[Rate, ...]
    skipped: tuple[tuple[str, str], ...]
    wall_s: float
    collectives: Path | None = None


def measure(
    device: str = "cpu",
    out: str | os.PathLike[str] = "rates.csv",
    *,
    quick: bool = False,
    threads: int | None = None,
    clock: str = "wall",
    only: tuple[str, ...] = (),
    chip: str | os.PathLike[str] | None = None,
    progress: Say = _silent,
) -> Measured:
    """Measure a device of this machine and write rates that `anychip chips check` accepts and forecasts use.

    device: as torch names it. out: the rates file, named after the chip (nvidia-h100-sxm.csv); one that is there and was
    begun with the same device and software is taken up again. quick: fewer sizes, about two minutes. threads: of the CPU.
    clock: "cpu" takes the process's own time, on one thread of a machine that others use too. only: names of KINDS.
    chip: of the CPU, a chip file to be written too, whose rates these are where both have one name and lie in one folder.
    progress: called with what is measured, how many points are done and how many there are. Raises BadUse.
    """
    began = time.perf_counter()
    target = Device.find(device)
    if threads is not None:
        torch.set_num_threads(threads)
    _check(target, clock, only)
    if chip is not None and (not target.is_cpu or Path(chip).suffix != ".toml"):
        raise BadUse("--chip FILE.toml is for the CPU; an accelerator's file: anychip chips new --like ID")
    check_writable(str(out))
    if chip is not None:
        check_writable(str(chip), sources=())  # one of an earlier run is written again
    target.set_up()
    path = Path(out)
    file = open_file(path, about(target, clock), target.software(), f"anychip measure {__version__} on {target.name}")
    if chip is not None and only and not {"gemm", "memory"} <= {*only} and not file.values:
        raise BadUse(LACKING)
    most_s = MOST_S / (5 if quick else 1)
    watch = Stopwatch(target, clock, samples=5 if quick else 9, most_s=most_s)
    points = [point for name, kind in KINDS.items() if not only or name in only for point in kind.points(target, quick)]
    _take_all(points, file, watch, most_s, progress)
    table = None
    if not only or "collectives" in only:
        progress("collectives", len(points), len(points) + 1)
        table = measure_collectives(target, path, quick, file.stack, file.source)
    kept = memory.kept_bytes(watch.once, file.values[PAGES]) if PAGES in file.values else None
    derive(file, target, kept)
    file.write()
    if chip is not None:
        write_chip(Path(chip), file, target, torch.get_num_threads())
    skipped = tuple((" ".join(key).strip(), reason) for key, reason in file.skipped.items())
    return Measured(path, file.rates(), skipped, time.perf_counter() - began, table)


def _check(device: Device, clock: str, only: tuple[str, ...]) -> None:
    if clock not in CLOCKS:
        raise BadUse(f"--clock {clock}: wall or cpu")
    if clock == "cpu" and not device.is_cpu:
        raise BadUse("--clock cpu is for the CPU: an accelerator's time is not this process's.")
    if clock == "cpu" and torch.get_num_threads() > 1:
        raise BadUse(f"--clock cpu counts the time of all {torch.get_num_threads()} threads, of which some only wait. "
                     "Add --threads 1.")  # fmt: skip
    unknown = [name for name in only if name not in (*KINDS, "collectives")]
    if unknown:
        raise BadUse(f"--only {unknown[0]}: one of {', '.join(KINDS)}, collectives")


def about(device: Device, clock: str) -> dict[str, object]:
    """What a file is of; the same for a run that goes on."""
    return {"device": device.type, "name": device.name, "software": device.software(), "clock": clock}


def _take_all(points: list[Point], file: RatesFile, watch: Stopwatch, most_s: float, progress: Say) -> None:
    rates: dict[tuple[str, str, str], float] = {}
    known = file.known
    for done, point in enumerate(points):
        progress(" ".join(point.key).strip(), done, len(points))
        if point.key not in known and point.amount / rates.get(point.family, 1e30) <= most_s:
            _take(point, file, watch)
        if point.key in file.values and point.amount:
            rates[point.family] = file.values[point.key]
    progress("", len(points), len(points))


def _take(point: Point, file: RatesFile, watch: Stopwatch) -> None:
    try:
        with torch.set_grad_enabled(True):
            timing = watch.time(point.make())
    except Exception as error:  # whatever a device's software raises for what it lacks; told in the file
        file.skip(point, f"{type(error).__name__}: {error}")
        return
    file.add(point, value_of(point, timing, _floor_s(point, file)), timing)


def _floor_s(point: Point, file: RatesFile) -> float:
    if not point.floor:
        return 0.0
    measured = file.values.get((point.floor, "", ""))
    if measured is not None:
        return measured
    return defaults().need(point.floor).value if point.floor == "kernel.floor" else 0.0
