"""Forecasts public programs that nobody here wrote: `make real-programs`. What runs is said in real_programs.toml.

    python tools/real_programs.py [NAME...] [--programs FOLDER] [--table FILE] [--out FOLDER] [--again] [--timeout S]

A program is looked for in $ANYCHIP_PROGRAMS, or in ../programs beside the checkout: one folder for each repository. It is
copied, its data are made, and it is run untouched on every chip of the table, in a process of its own. It counts as
stepping only where its recording has steps and its parameters were on the chip: exit code 0 alone proves nothing. A
program of several ranks names its targets itself (`on`): all of its distinct ranks count. Each
program's result is kept in OUT/results, so that a run goes on where the last one ended; the table is written to
OUT/real_programs.md and OUT/real_programs.json.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ON = ("h100", "ascend-910b")
BYTES_ONLY_AT_MOST = 0.10


# ---------------------------------------------------------------- one program, in a process of its own


def forecast_here(job_file: str) -> int:
    """Forecast the program of a job and write its result. The current folder is the program's."""
    from anychip import api

    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    began = time.perf_counter()
    answer = api.forecast(
        job["run"], on=job["on"], module=job.get("module", False), jobs=1,
        **{name: job[name] for name in ("steps", "calls", "step_mark") if name in job},
    )  # fmt: skip
    targets = [
        {"on": name, **facts(program, forecast)}
        for name, program, forecast in zip(answer.names, answer.programs, answer.forecasts, strict=True)
    ]
    result = {"targets": targets, "warnings": list(answer.warnings), "wall_s": time.perf_counter() - began}
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


def facts(program: Any, forecast: Any) -> dict[str, Any]:
    """What a recording and its forecast say of one chip."""
    from anychip.record import Kind
    from anychip.record.steps import find_steps

    steps = [len(find_steps(rank)) for rank in program.ranks]
    places = Counter(
        f"{Path(place.file).name}:{place.line}"
        for rank in program.ranks
        for place in (rank.places[at] for at in rank.payloads[rank.kinds == Kind.READ].tolist())
    )
    return {
        "chip": forecast.chip, "steps": min(steps), "kind": forecast.step_kind,
        "world": program.world_size, "distinct_ranks": [[rank.rank, len(rank.members)] for rank in program.ranks],
        "parameter_bytes": min(map(parameter_bytes, program.ranks)),
        "ops": sum(int((rank.kinds == Kind.OP).sum()) for rank in program.ranks), "distinct_ops": len(program.ops),
        "collectives": collectives(program),
        "step_time_s": forecast.step_time_s, "evidence": dict(forecast.evidence),
        "values_read": places.total(), "values_read_at": dict(places.most_common(5)),
        "exit_code": program.meta.get("exit_code"), "fits": forecast.fits,
        "bytes_only": [[op.name, op.share] for op in forecast.top_ops if op.evidence == "bytes_only"],
    }  # fmt: skip


def parameter_bytes(rank: Any) -> int:
    """Of the parameters that a rank holds on its chip."""
    blocks = rank.meta.get("parameter_blocks", [])
    return int(rank.block_bytes[blocks].sum()) if blocks else 0


def collectives(program: Any) -> dict[str, int]:
    """How often the distinct ranks called each collective."""
    from anychip.record import Kind

    found: Counter[str] = Counter()
    for rank in program.ranks:
        names = [op.name for op in rank.ops]
        called = Counter(rank.payloads[rank.kinds == Kind.OP].tolist())
        for at, times in called.items():
            if names[at].startswith("c10d."):
                found[names[at].split(".")[1]] += times
    return dict(found)


# ---------------------------------------------------------------- all of them


def older_packages(names: Sequence[str], out: Path, stream: Any) -> str:
    """Install packages that only one program is to see; returns their folder."""
    folder = out / "pip" / "+".join(names)
    if not folder.is_dir():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *names],
                       check=True, stdout=stream, stderr=stream)  # fmt: skip
    return str(folder)


def missing(entry: dict[str, Any]) -> list[str]:
    """Python packages that the program needs and that are not here."""
    return [name for name in entry.get("needs", []) if importlib.util.find_spec(name) is None]


def run(entry: dict[str, Any], source: Path | None, out: Path, timeout_s: float, on: Sequence[str]) -> dict[str, Any]:
    """Copy the program, make its data, forecast it. What it printed is left in OUT/logs."""
    work = out / "work" / entry["name"]
    shutil.rmtree(work, ignore_errors=True)
    if source is None:
        work.mkdir(parents=True)
    else:
        shutil.copytree(source, work, symlinks=True, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    folder = work / entry.get("in", ".")
    result, log = out / "results" / f"{entry['name']}.part", out / "logs" / f"{entry['name']}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "WORK": str(work),
                   "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
                   "TORCH_HOME": str(work / ".torch"), "HF_HOME": str(work / ".hf"), "MPLBACKEND": "agg"}  # fmt: skip
    environment |= {name: value.replace("$WORK", str(work)) for name, value in entry.get("environment", {}).items()}
    paths = [str(work / path) for path in entry.get("path", [])]
    if "pip" in entry:
        with open(log, "w", encoding="utf-8") as stream:
            paths.append(older_packages(entry["pip"], out, stream))
    environment["PYTHONPATH"] = os.pathsep.join([*paths, str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(":")
    if "driver" in entry:
        (folder / "anychip_driver.py").write_text(entry["driver"], encoding="utf-8")
    job = {**entry, "on": list(on), "result": str(result),
           "run": [word.replace("$WORK", str(work)) for word in entry.get("run", ["anychip_driver.py"])]}  # fmt: skip
    (work / "anychip_job.json").write_text(json.dumps(job), encoding="utf-8")
    result.parent.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)
    with open(log, "w", encoding="utf-8") as stream:
        for kind, where in entry.get("data", {}).items():
            subprocess.run([sys.executable, str(ROOT / "tools" / "real_data.py"), kind, str(work / where)],
                           check=True, stdout=stream, stderr=stream)  # fmt: skip
        if "prepare" in entry:
            subprocess.run([sys.executable, "-c", entry["prepare"]], cwd=folder, env=environment, check=True,
                           stdout=stream, stderr=stream)  # fmt: skip
        code = _limited([sys.executable, __file__, "--one", str(work / "anychip_job.json")], folder, environment,
                        stream, timeout_s)  # fmt: skip
    if not result.exists():
        why = f"stopped after {timeout_s:.0f} s" if code is None else last_words(log) or f"exit code {code}"
        return {"status": "failed", "why": why}
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    result.unlink()
    shutil.rmtree(work, ignore_errors=True)
    return {**found, **judged(found["targets"])}


def _limited(command: list[str], folder: Path, environment: dict[str, str], stream: Any, seconds: float) -> int | None:
    """Exit code of a command; None if it had to be stopped, with all that it had started."""
    child = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=stream,
                             stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    try:
        return child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGTERM)  # ends the recording process with it
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return None


def judged(targets: list[dict[str, Any]]) -> dict[str, str]:
    """Whether the program stepped on every chip with its parameters there, and what was not as it should be."""
    faults = []
    for target in targets:
        if target["kind"] == "run" or not target["steps"]:
            faults.append(f"{target['on']}: no step was found")
        elif not target["parameter_bytes"]:
            faults.append(f"{target['on']}: no parameters on the chip")
        if target["evidence"]["bytes_only"] > BYTES_ONLY_AT_MOST:
            faults.append(f"{target['on']}: {target['evidence']['bytes_only']:.0%} of the time by bytes alone")
        if target["exit_code"]:
            faults.append(f"{target['on']}: ended with exit code {target['exit_code']} after its steps")
    return {"status": "fault" if faults else "stepping", "why": "; ".join(faults)}


def last_words(log: Path) -> str:
    """The line that says why: the last one that names an error, else the last."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0] and not line.startswith("anychip:")]
    return (errors or lines or [""])[-1][:300]


# ---------------------------------------------------------------- the table


def markdown(entries: list[dict[str, Any]], results: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Real programs", "",
        "Written by `make real-programs`. Each program's own script, unmodified, unless its row says driver: then the",
        "repository is a library, and a few lines call it. Steps that were found in the recording, with the program's",
        "parameters on the chip (of several ranks the least); distinct ranks that ran; operations launched by these; shares of the chip's time by evidence; values that the program read.", "",
        "| program | on | ranks | steps | parameters | ops | step | measured | interpolated | modelled | bytes alone | values read | wall | remarks |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    for entry in entries:
        result = results.get(entry["name"], {"status": "not run", "why": ""})
        name = f"[{entry['name']}]({entry['source']})" + (" (driver)" if "driver" in entry else "")
        remark = f"**{result['status']}** {result['why']}".strip() if result["status"] != "stepping" else ""
        remark = " ".join(part for part in (remark, entry.get("note", "")) if part)
        if "targets" not in result:
            lines.append(f"| {name} | | | | | | | | | | | | | {remark} |")
        for at, target in enumerate(result.get("targets", [])):
            shares = " | ".join(
                f"{target['evidence'][kind]:.0%}" for kind in ("measured", "interpolated", "modelled", "bytes_only")
            )
            lines.append(
                f"| {name} | {target['on']} | {len(target['distinct_ranks'])} | {target['steps']} {target['kind']} | {target['parameter_bytes'] / 2**20:,.1f} MiB "
                f"| {target['ops']:,} | {target['step_time_s'] * 1e3:.3g} ms | {shares} | {reads(target)} "
                f"| {'' if at else format(result['wall_s'], '.0f') + ' s'} | {'' if at else remark} |"
            )
    stepping = sum(result["status"] == "stepping" for result in results.values())
    return "\n".join([*lines, "", f"{stepping} of {len(entries)} are stepping."]) + "\n"


def reads(target: dict[str, Any]) -> str:
    most = next(iter(target["values_read_at"].items()), None)
    return f"{target['values_read']:,}" + (f", most at {most[0]}" if most else "")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these programs, and again")
    parser.add_argument("--programs", type=Path, help="the folder they are in")
    parser.add_argument("--table", type=Path, default=ROOT / "tools" / "real_programs.toml")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "real-programs")
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one program (default 600)")
    parser.add_argument("--on", action="append", help="chips (default h100 and ascend-910b)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        return forecast_here(args.one)
    entries = tomllib.loads(args.table.read_text(encoding="utf-8"))["program"]
    unknown = set(args.names) - {entry["name"] for entry in entries}
    if unknown:
        parser.error(f"no such program in {args.table}: {', '.join(sorted(unknown))}")
    results = run_all(entries, args)
    chosen = [entry for entry in entries if not args.names or entry["name"] in args.names]
    return int(any(results[entry["name"]]["status"] in ("failed", "fault") for entry in chosen))


def run_all(entries: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run what has no result yet; write the table after each."""
    folder = args.programs or Path(os.environ.get("ANYCHIP_PROGRAMS", ROOT.parent / "programs"))
    results: dict[str, dict[str, Any]] = {}
    args.out.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        kept = args.out / "results" / f"{entry['name']}.json"
        wanted = entry["name"] in args.names if args.names else args.again or not kept.exists()
        if wanted:
            kept.parent.mkdir(parents=True, exist_ok=True)
            result = one(entry, folder, args)
            if result["status"] != "skipped":
                kept.write_text(json.dumps(result, indent=1), encoding="utf-8")
            results[entry["name"]] = result
            print(f"{entry['name']}: {result['status']} {result['why']}".rstrip(), flush=True)
        elif kept.exists():
            results[entry["name"]] = json.loads(kept.read_text(encoding="utf-8"))
        (args.out / "real_programs.md").write_text(markdown(entries, results), encoding="utf-8")
        (args.out / "real_programs.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(f"table: {args.out / 'real_programs.md'}")
    return results


def one(entry: dict[str, Any], folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    source = folder / entry["folder"] if "folder" in entry else None
    if source is not None and not source.is_dir():
        return {"status": "skipped", "why": f"no {source}: {entry['source']} goes there"}
    if absent := missing(entry):
        return {"status": "skipped", "why": f"needs {', '.join(absent)}: see tools/real_programs.txt"}
    try:
        on = entry.get("on") or args.on or ON
        return run(entry, source, args.out.resolve(), entry.get("timeout", args.timeout), on)
    except subprocess.CalledProcessError as error:
        return {"status": "failed", "why": f"its data could not be made: {error}"}


if __name__ == "__main__":
    sys.exit(main())
