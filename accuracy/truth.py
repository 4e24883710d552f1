"""The truth that needs no accelerator: `make truth` measures this machine's CPU, forecasts programs of examples/ on it, runs
them on it, and prints the signed errors. `python accuracy/truth.py [--threads N] [--full] [--few] [--most ERROR] [--keep]`

It is blind by construction: all that the forecast knows of this machine comes from `anychip measure`, which knows no program.
One thread and the process's own time are the default, since machines that build and test have neighbours: those make it wait, which
then counts neither in the measurement nor in the run. Written to accuracy/truth.csv with --keep, one line a program and commit.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import anychip
from anychip import api
from anychip.units import duration

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PROGRAMS = HERE / "truth.toml"
KEPT = HERE / "truth.csv"
COLUMNS = ("commit", "date", "machine", "torch", "threads", "program", "measured_s", "forecast_s", "error", "spread")
MEDIAN, WORST = 0.15, 0.40  # what we want; --most says what fails


@dataclass(frozen=True)
class Row:
    """One program: what it took, what was forecast, in seconds a step. spread: of its steps, half of the middle range."""

    name: str
    measured_s: float
    forecast_s: float
    spread: float

    @property
    def error(self) -> float:
        return self.forecast_s / self.measured_s - 1


def run_really(argv: list[str], threads: int, clock: str, folder: Path) -> list[float]:
    """Seconds of each step but the first two of the program on the CPU."""
    out = folder / "times.json"
    settings = json.dumps({"out": str(out), "threads": threads, "clock": clock})
    done = subprocess.run(
        [sys.executable, str(HERE / "on_cpu.py"), settings, *argv], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed on the CPU:\n{done.stderr[-2000:]}")
    times: list[float] = json.loads(out.read_text())
    return times[1:]


def one(program: dict, chip: Path, args: argparse.Namespace, folder: Path) -> Row:
    argv = [str(ROOT / program["argv"][0]), *program["argv"][1:]]
    times = run_really(argv, args.threads, args.clock, folder)
    recorded = api.record(argv, on=str(chip), show_output=False, steps=4, calls=program.get("calls"))
    (forecast,) = anychip.forecast(recorded, on=str(chip)).forecasts
    ordered, quarter = sorted(times), len(times) // 4
    middle = statistics.median(times)
    return Row(program["name"], middle, forecast.step_time_s, (ordered[-1 - quarter] - ordered[quarter]) / 2 / middle)


def measure(args: argparse.Namespace, folder: Path) -> Path:
    """A chip file of this machine with its rates beside it."""
    chip = folder / "this-cpu.toml"
    command = [sys.executable, "-m", "anychip", "measure", "--device", "cpu", "--out", str(chip.with_suffix(".csv")), "--chip", str(chip),
               "--threads", str(args.threads), "--clock", args.clock, *([] if args.full else ["--quick"])]  # fmt: skip
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode:
        raise SystemExit("anychip measure failed")
    return chip


def keep(rows: list[Row], chip: Path, threads: int) -> None:
    """Add a line a program, under the commit that was measured; lines of the same commit are replaced."""
    commit = (
        subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        or "?"
    )
    import torch

    machine = anychip.Chip.load(str(chip)).name
    before = list(csv.reader(KEPT.open())) if KEPT.exists() else [list(COLUMNS)]
    lines = [line for line in before if line[0] != commit]
    lines += [
        [commit, date.today().isoformat(), machine, torch.__version__, str(threads), row.name, f"{row.measured_s:.6g}",
         f"{row.forecast_s:.6g}", f"{row.error:+.3f}", f"{row.spread:.3f}"] for row in rows
    ]  # fmt: skip
    with KEPT.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def table(rows: list[Row]) -> str:
    lines = [f"{'program':<20}{'a step':>10}{'forecast':>10}{'error':>8}{'spread':>8}"]
    lines += [
        f"{r.name:<20}{duration(r.measured_s):>10}{duration(r.forecast_s):>10}{r.error:>+8.0%}{r.spread:>8.0%}"
        for r in rows
    ]
    errors = sorted((abs(row.error) for row in rows), reverse=True)
    lines.append(f"median {statistics.median(errors):.0%} (wanted {MEDIAN:.0%}), worst {errors[0]:.0%} (wanted {WORST:.0%}), "
                 f"bias {statistics.mean(row.error for row in rows):+.0%}, {len(rows)} programs")  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--clock", choices=("cpu", "wall"), help="default: cpu with one thread, else wall")
    parser.add_argument("--full", action="store_true", help="measure for ten minutes instead of two")
    parser.add_argument(
        "--chip", type=Path, help="a chip file that anychip measure --chip has written, instead of measuring"
    )
    parser.add_argument("--only", help="programs whose name begins so")
    parser.add_argument("--few", action="store_true", help="one program of each kind: those whose name says no more")
    parser.add_argument("--most", type=float, help="fail if the median error is above this")
    parser.add_argument("--keep", action="store_true", help=f"add the rows to {KEPT.name}")
    args = parser.parse_args()
    args.clock = args.clock or ("cpu" if args.threads == 1 else "wall")
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    programs = [p for p in tomllib.loads(PROGRAMS.read_text())["program"] if p["name"].startswith(args.only or "")]
    if args.few:
        programs = [program for program in programs if "," not in program["name"]]
    with tempfile.TemporaryDirectory(prefix="anychip-truth-") as name:
        folder = Path(name)
        chip = args.chip.resolve() if args.chip else measure(args, folder)
        rows = [one(program, chip, args, folder) for program in programs]
        print(table(rows))
        if args.keep:
            keep(rows, chip, args.threads)
    median = statistics.median(abs(row.error) for row in rows)
    return int(args.most is not None and median > args.most)


if __name__ == "__main__":
    sys.exit(main())
