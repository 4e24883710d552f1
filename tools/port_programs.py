"""Do the public programs of real_programs.toml still run once they are ported? Each is ported to portable PyTorch and stepped.

    python tools/port_programs.py [NAME...] [--programs FOLDER] [--before FOLDER] [--out FOLDER] [--again] [--prove NAME...]

Programs that take steps as they are (their results lie in --before, where tools/real_programs.py left them) are ported as a
whole and run on h100, and on ascend-910b under the name that its plug-in gives to devices: a "cuda" that the port left
behind fails there. They must take as many steps, with as many bytes of parameters on the chip, and on h100 launch as many
operations as before. --prove runs `anychip port --prove` for ascend-910b on these. The table is written to
OUT/port_programs.md, each result to OUT/results.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import real_programs

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CUDA, OTHER = "h100", "ascend-910b"
# For the proof, which computes real numbers on the CPU: smaller sizes than in the table. NAME: what replaces its arguments.
SMALL = {
    "nanogpt": "config/train_shakespeare_char.py --dataset=tiny --compile=False --eval_iters=1 --block_size=32 --batch_size=2 "
    "--n_layer=2 --n_head=2 --n_embd=32 --dropout=0.0 --gradient_accumulation_steps=1",
    "dlrm": "--mini-batch-size=2 --data-size=8 --use-gpu",
    "examples-mnist": "--epochs 1 --batch-size 8 --dry-run",
    "examples-imagenet": "--dummy --arch resnet18 --epochs 1 --batch-size 4 --workers 0 --gpu 0",
}


def ported(folder: Path, out: Path) -> Path:
    """The whole repository, ported; made once."""
    new = out / "ported" / folder.name
    if not new.is_dir():
        from anychip.port.project import port

        part = new.with_name(f"{new.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        port(folder, out=part)
        part.rename(new)
    return new


def ported_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """The table's row with the lines that call the repository ported as well."""
    if "driver" not in entry:
        return entry
    from anychip.port.engine import port_source
    from anychip.port.target import make_target

    return {**entry, "driver": port_source(entry["driver"], make_target(None)).text}


def as_named(entry: dict[str, Any], chip: str, out: Path) -> dict[str, Any]:
    """The same run under the device name of the chip's plug-in, with no lines to look for. What starts several ranks is left as it is."""
    run, asked = entry.get("run", ["anychip_driver.py"]), out.resolve() / "asked.json"
    asked.write_text(json.dumps({"lines": {}, "out": ""}), encoding="utf-8")
    words = [*(["-m"] if entry.get("module") else []), *run]
    return {
        **entry,
        "module": True,
        "run": ["anychip.port.runners.as_named", chip.partition(":")[0], str(asked), *words],
    }


def step(entry: dict[str, Any], folder: Path, args: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """Run the ported program on both chips and compare."""
    entry, source = ported_entry(entry), ported(folder / entry["folder"], args.out)
    timeout = entry.get("timeout", args.timeout)
    found = {}
    for on in entry.get("on", (CUDA, OTHER)):
        named = on.startswith(OTHER) and "on" not in entry
        job = as_named(entry, on, args.out) if named else entry
        result = real_programs.run(job, source, args.out.resolve(), timeout, [on])
        log = args.out / "logs" / f"{entry['name']}.log"
        if result["status"] not in ("stepping", "fault"):
            log.rename(log.with_name(f"{entry['name']}-{on}.log"))
        targets = result.get("targets", [])
        same = [t for t in before["targets"] if t["on"] == on]
        why = differences(same[0], targets[0], named) if targets and same else result["why"] or "no result"
        found[on] = {"ok": not why, "why": why, "named": named, **(numbers(targets[0]) if targets else {})}
    return {"on": found, "before": {t["on"]: numbers(t) for t in before["targets"]}}


def numbers(target: dict[str, Any]) -> dict[str, int]:
    return {name: target[name] for name in ("steps", "ops", "parameter_bytes")}


def differences(old: dict[str, Any], new: dict[str, Any], named: bool) -> str:
    """What the ported program did otherwise. Under another name programs may take another way through their own code, so
    operations are counted under the old name only."""
    kinds = ["steps", "parameter_bytes", *([] if named else ["ops"])]
    return "; ".join(f"{kind}: {old[kind]:,} before, {new[kind]:,} now" for kind in kinds if old[kind] != new[kind])


def prove(entry: dict[str, Any], folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """`anychip port --prove` for the other chip, in a copy of the repository with its data."""
    work = args.out / "prove" / entry["name"]
    for old in (work, work.with_name(f"{work.name}-ported")):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(folder / entry["folder"], work, symlinks=True, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    for kind, where in entry.get("data", {}).items():
        subprocess.run([sys.executable, str(ROOT / "tools" / "real_data.py"), kind, str(work / where)], check=True)
    small = SMALL.get(entry["name"])
    words = [entry["run"][0], *shlex.split(small)] if small else entry["run"]
    command = ["python", *(["-m"] if entry.get("module") else []), *words]
    folder_in = work / entry.get("in", "")  # and the port beside it, so that ../data is there for both
    answer = args.out / f"prove-{entry['name']}.json"
    path = os.pathsep.join(
        [str(ROOT), *(str(work / part) for part in entry.get("path", [])), os.environ.get("PYTHONPATH", "")]
    )
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "MPLBACKEND": "agg",
    }
    environment |= {name: value.replace("$WORK", str(work)) for name, value in entry.get("environment", {}).items()}
    done = subprocess.run(
        [sys.executable, "-m", "anychip", "port", str(folder_in), "--on", OTHER, "--quiet",
         "--out", str(folder_in.with_name(f"{folder_in.name}-ported")),
         "--json", str(answer), "--prove", shlex.join(command).replace("$WORK", str(work))],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    shutil.rmtree(work.with_name(f"{work.name}-ported"), ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)
    if not answer.exists():
        return {"ok": False, "why": (done.stderr.strip().splitlines() or ["no answer"])[-1][:300]}
    proof: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))["proof"]
    failed = [f"{c['what']}: {c['before']} -> {c['after']}" for c in proof["checks"] if c["ok"] is not True]
    return {"ok": proof["ok"], "checks": len(proof["checks"]), "why": "; ".join(failed)}


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Ported programs", "",
        "Written by tools/port_programs.py: programs that step as they are, ported to portable PyTorch, and stepped.", "",
        "| program | on | as | steps | parameters | operations | before | |", "|---|---|---|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    good = 0
    for name, result in results.items():
        good += all(one["ok"] for one in result["on"].values())
        for on, one in result["on"].items():
            before = result["before"].get(on, {}).get("ops", 0)
            cells = [f"{one.get(kind, 0):,}" for kind in ("steps", "parameter_bytes", "ops")]
            own = "its own name" if one["named"] else "cuda"
            lines.append(
                f"| {name} | {on} | {own} | {' | '.join(cells)} | {before:,} | {'' if one['ok'] else one['why']} |"
            )
    return "\n".join([*lines, "", f"{good} of {len(results)} programs still step on every chip."]) + "\n"


def candidates(args: argparse.Namespace) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows of the table that step as they are, with their results; what is an installed package cannot be ported."""
    entries = tomllib.loads((ROOT / "tools" / "real_programs.toml").read_text(encoding="utf-8"))["program"]
    for entry in entries:
        kept = args.before / "results" / f"{entry['name']}.json"
        if "folder" not in entry or not kept.exists() or (args.names and entry["name"] not in args.names):
            continue
        before = json.loads(kept.read_text(encoding="utf-8"))
        if before["status"] == "stepping":
            yield entry, before


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these programs, and again")
    parser.add_argument(
        "--programs", type=Path, default=Path(os.environ.get("ANYCHIP_PROGRAMS", ROOT.parent / "programs"))
    )
    parser.add_argument("--before", type=Path, default=ROOT / "build" / "real-programs", help="where their results are")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "port-programs")
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one run (default 600)")
    parser.add_argument("--prove", nargs="+", default=[], metavar="NAME", help="prove these for ascend-910b, and end")
    args = parser.parse_args(argv)
    args.names = args.names or args.prove
    args.out.mkdir(parents=True, exist_ok=True)
    if args.prove:
        proofs = {entry["name"]: prove(entry, args.programs, args) for entry, _ in candidates(args)}
        for name, proof in proofs.items():
            print(f"{name}: proof {'holds' if proof['ok'] else 'does NOT hold'}  {proof['why']}")
        return int(not all(proof["ok"] for proof in proofs.values()))
    results: dict[str, dict[str, Any]] = {}
    for entry, before in candidates(args):
        kept = args.out / "results" / f"{entry['name']}-ported.json"
        if not kept.exists() or args.again or args.names:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(step(entry, args.programs, args, before), indent=1), encoding="utf-8")
        results[entry["name"]] = json.loads(kept.read_text(encoding="utf-8"))
        print("\n".join(table({entry["name"]: results[entry["name"]]}).splitlines()[6:-2]), flush=True)
        (args.out / "port_programs.md").write_text(table(results), encoding="utf-8")
    return int(not all(one["ok"] for result in results.values() for one in result["on"].values()))


if __name__ == "__main__":
    sys.exit(main())
