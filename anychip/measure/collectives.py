"""Collectives between 2 to 8 local ranks, by whichever backend serves the device, as the standard's table of them.

Beside the rates file: NAME.collectives.csv, or in ../collectives/NAME.csv where that lies in a folder rates/. Each number of
ranks is a job of processes; its rows are written when it is done, and are not measured again.
"""

import csv
import io
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch.distributed as dist

from anychip.measure.device import Device
from anychip.measure.point import Timing
from anychip.spec.measured import COLLECTIVES_HEADER
from anychip.temporary import temporary
from anychip.whole import put

SIZES = (4096, 65536, 2**20, 2**24, 2**26)
QUICK_SIZES = (4096, 2**20, 2**24)
MOST_RANKS = 8
TIMEOUT_S = 300.0


def place(rates: Path) -> Path:
    """Where the table goes that belongs to a rates file."""
    if rates.parent.name == "rates":
        return rates.parent.parent / "collectives" / rates.name
    return rates.with_name(f"{rates.stem}.collectives.csv")


def counts(device: Device, quick: bool) -> tuple[int, ...]:
    """Numbers of ranks: of accelerators as many as are here; on the CPU processes, which share its cores."""
    most = min(MOST_RANKS, device.count if not device.is_cpu else max(os.cpu_count() or 1, 2))
    return tuple(ranks for ranks in (2, 4, 8) if ranks <= most)[: 1 if quick else None]


def backend(device: Device) -> str:
    """The c10d backend of the device."""
    ask = getattr(dist, "get_default_backend_for_device", None)
    return str(ask(device.type)) if ask and not device.is_cpu else "gloo"


def measure_collectives(device: Device, rates: Path, quick: bool, stack: str, source: str) -> Path | None:
    """Measure what is not in the table yet; None where there is nothing to join."""
    wanted = counts(device, quick)
    if not wanted or not dist.is_available():
        return None
    path = place(rates)
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))) if path.exists() else []
    for ranks in wanted:
        if not any(row["chips"] == str(ranks) for row in rows):
            rows += _job(device, ranks, QUICK_SIZES if quick else SIZES, stack, source)
            _write(path, rows)
    return path


def _job(device: Device, ranks: int, sizes: tuple[int, ...], stack: str, source: str) -> list[dict[str, str]]:
    """Rows of one job. A job that fails has none: what failed is on stderr."""
    with temporary("ranks-") as folder:
        settings = {
            "ranks": ranks,
            "device": device.type,
            "backend": backend(device),
            "store": f"{folder}/store",
            "sizes": sizes,
        }
        command = [sys.executable, "-W", "ignore::FutureWarning", "-m", "anychip.measure.ranks"]
        others = [subprocess.Popen([*command, json.dumps({**settings, "rank": rank})]) for rank in range(1, ranks)]
        try:
            first = subprocess.run([*command, json.dumps({**settings, "rank": 0})], stdout=subprocess.PIPE, text=True,
                                   timeout=TIMEOUT_S, check=False)  # fmt: skip
            lines = [json.loads(line) for line in first.stdout.splitlines() if line.startswith("{")]
        except subprocess.TimeoutExpired:
            lines = []
        finally:
            for other in others:
                if not _ended(other):
                    other.kill()
                    other.wait()
    return [_row(line, ranks, settings["backend"], stack, source) for line in lines if "samples_s" in line]


def _ended(process: "subprocess.Popen[bytes]") -> bool:
    """Give a rank the time to leave its group by itself."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        return False
    return True


def _row(line: dict[str, object], ranks: int, name: object, stack: str, source: str) -> dict[str, str]:
    timing = Timing(tuple(line["samples_s"]))  # type: ignore[arg-type]
    samples = " ".join(f"{second * 1e6:.4g}" for second in timing.samples_s)
    note = f"{name}, local ranks; median of {len(timing.samples_s)}, spread {timing.spread:.1%}; us: {samples}"
    cells = {"collective": line["collective"], "chips": ranks, "nodes": 1, "dtype": "fp32", "bytes": line["bytes"],
             "value": f"{timing.median_s * 1e6:.6g}", "unit": "us", "use": "curve", "stack": stack,
             "date": date.today().isoformat(), "source": source, "note": note}  # fmt: skip
    return {column: str(cells.get(column, "")) for column in COLLECTIVES_HEADER}


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLLECTIVES_HEADER, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, out.getvalue())
