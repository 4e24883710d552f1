"""`--prove "python train.py ..."`: the program before and after, side by side, without any chip.

Shapes only: the original on a virtual CUDA chip, the ported one on the virtual target under the target's own device name: as
many steps, as many parameters on the device, the same operations. With real numbers on the CPU, same seeds: the same
losses. Each of the four runs is a process of its own, with your rights. Everything is compared; nothing is assumed. What of
the edits these runs reach is told with it.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

from anychip.errors import BadUse
from anychip.port.reached import Place, ask, unreached
from anychip.port.target import Target
from anychip.temporary import temporary

Say = Callable[[str], None]
CUDA_CHIP = "h100"
# Where portable code is tried under a name that is not CUDA's: any chip whose plug-in has a device of its own.
OTHER_CHIP = "ascend-910b"
STEPS = 3
_RUNNING: set[subprocess.Popen[str]] = set()
TOLERANCE = 1e-5
_RECORD = """
import json, sys
from anychip import api
argv, on, steps, module, out = json.loads(sys.argv[1])
program = api.record(argv, on, steps=steps, module=module)
json.dump({"steps": program.meta.get("steps", 0), "calls": program.meta.get("calls", 0),
           "exit_code": program.meta.get("exit_code"), "ops": len(program.tape), "kinds": len(program.ops),
           "parameters": len(program.meta.get("parameter_blocks", [])),
           "names": sorted({op.name for op in program.ops})}, open(out, "w"))
"""


def silent(text: str) -> None:
    """Progress that nobody wants."""


@dataclass(frozen=True)
class Check:
    """One comparison. ok: None where it could not be made; then `after` says why."""

    what: str
    ok: bool | None
    before: str
    after: str


@dataclass(frozen=True)
class Proof:
    """Holds if every check that could be made holds, and at least the one on the virtual chips could. unreached: those of the edits
    that no run came to, of which it says nothing."""

    checks: tuple[Check, ...]
    edits: tuple[Place, ...] = ()
    unreached: tuple[Place, ...] = ()

    @property
    def ok(self) -> bool:
        return all(check.ok is not False for check in self.checks) and any(check.ok for check in self.checks)


def prove(
    before: Path, after: Path, command: str, target: Target, on: str | None = None, steps: int | None = None,
    edits: Sequence[Place] = (), progress: Say = silent,
) -> Proof:  # fmt: skip
    """Run a command in the folder of the original and in that of the port. on: the chip that the port is tried on. steps: after so
    many each run is ended, after 3 where it is None. edits: what was made of the original. progress: told of each run that begins.

    Raises BadUse for a command that is not python with a script or a module.
    """
    argv, module, is_job = parse(command, before)
    steps = steps or STEPS
    chip = on or (OTHER_CHIP if target.portable else target.name)
    seen = _seen(chip)
    with temporary("proof-") as scratch:
        asked, reached = scratch / "asked", scratch / "reached"
        lines = ask(after, edits, asked, reached)
        runs: dict[str, tuple[Any, ...]] = {
            "old": (_virtual, before, argv, module, CUDA_CHIP, is_job, steps, scratch / "old", None),
            "new": (_virtual, after, argv, module, chip, is_job, steps, scratch / "new", asked),
            "old_cpu": (_on_cpu, before, argv, module, "cuda", steps, scratch / "old_cpu", asked),
            "new_cpu": (
                _on_cpu,
                after,
                argv,
                module,
                "cuda" if target.portable else seen,
                steps,
                scratch / "new_cpu",
                asked,
            ),
        }
        told = {"old": f"the original on a virtual {CUDA_CHIP}", "new": f"the port on a virtual {chip}",
                "same": f"the port on a virtual {CUDA_CHIP}", "old_cpu": "the original on the CPU",
                "new_cpu": "the port on the CPU"}  # fmt: skip

        def begin(name: str) -> dict[str, Any]:
            progress(f"proof: {told[name]}")
            run, *given = runs[name]
            found: dict[str, Any] = run(*given)
            return found

        if target.portable:
            runs["same"] = (_virtual, after, argv, module, CUDA_CHIP, is_job, steps, scratch / "same", asked)
        with ThreadPoolExecutor(max_workers=2) as pool:
            started = {name: pool.submit(begin, name) for name in runs}
            try:
                did = {name: run.result() for name, run in started.items()}
            except BaseException:  # Ctrl-C, or kill: else what is left would run to its end first
                pool.shutdown(wait=False, cancel_futures=True)
                for process in tuple(_RUNNING):
                    process.kill()
                raise
        missed = unreached(edits, lines, reached)
    checks = [*_compare_virtual(f"virtual {CUDA_CHIP} -> {chip} as {seen!r}", did["old"], did["new"])]
    if "same" in did:
        checks += _compare_virtual(f"virtual {CUDA_CHIP}, both as 'cuda'", did["old"], did["same"])
    return Proof((*checks, *_compare_cpu(did["old_cpu"], did["new_cpu"])), tuple(edits), missed)


def parse(command: str, folder: Path) -> tuple[list[str], bool, bool]:
    """(script and arguments, or module and arguments, whether it is a module, whether it is the one rank of a job: what torchrun starts)."""
    words = shlex.split(command)
    if words and Path(words[0]).name.startswith("python"):
        words = words[1:]
    is_job = words[:1] == ["torchrun"] or words[:2] == ["-m", "torch.distributed.run"]
    if is_job:
        words = words[1 if words[0] == "torchrun" else 2 :]
        words = words[next((at for at, word in enumerate(words) if word == "-m" or word.endswith(".py")), len(words)) :]
    if not words or (words[0].startswith("-") and words[0] != "-m") or (len(words) < 2 and words[0] == "-m"):
        raise BadUse(
            f"--prove {command!r}: give a command like 'python train.py --steps 3', 'python -m package.train' or 'torchrun train.py'."
        )
    if words[0] == "-m":
        return words[1:], True, is_job
    if not (folder / words[0]).is_file():
        raise BadUse(f"--prove: there is no {words[0]} in {folder}; the command is run in that folder.")
    return words, False, is_job


def _seen(chip: str) -> str:
    """The device name that programs use for a chip."""
    from anychip.spec import load_chip

    return load_chip(chip).platform.device_type


# ---------------------------------------------------------------- runs


def _virtual(
    folder: Path, argv: list[str], module: bool, chip: str, is_job: bool, steps: int, out: Path, asked: Path | None
) -> dict[str, Any]:
    """What a program did on a virtual chip; {"error": ...} where it did not run. asked: of a port, which lines are looked for; it knows
    the chip by the name that the chip's plug-in has."""
    program = argv
    if asked is not None:
        program, module = ["anychip.port.runners.as_named", chip, str(asked), *(["-m"] if module else []), *argv], True
    order = json.dumps([program, f"{chip}:1" if is_job else chip, steps, module, str(out)])
    return _run([sys.executable, "-c", _RECORD, order], folder, out)


def _on_cpu(
    folder: Path, argv: list[str], module: bool, seen: str, steps: int, out: Path, asked: Path
) -> dict[str, Any]:
    program = [*(["-m"] if module else []), *argv]
    runner = [sys.executable, "-m", "anychip.port.runners.on_cpu", seen, str(steps), str(out), str(asked)]
    return _run([*runner, *program], folder, out)


def _run(command: list[str], folder: Path, out: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": _path(), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    try:
        with subprocess.Popen(command, cwd=folder, stdout=PIPE, stderr=PIPE, text=True, env=environment) as process:
            _RUNNING.add(process)
            try:
                said, errors = process.communicate(timeout=900)
            finally:
                process.kill()
                _RUNNING.discard(process)
    except subprocess.TimeoutExpired:
        return {"error": "not done after 15 minutes; try fewer --steps"}
    if not out.exists():
        return {"error": _last_error(errors or said) or f"exit code {process.returncode}"}
    found: dict[str, Any] = json.loads(out.read_text())
    return found


RANKS = re.compile(r"\b(LOCAL_RANK|RANK|WORLD_SIZE|MASTER_ADDR)\b")


def _last_error(text: str) -> str:
    """The last line that names an error, the program's own before ours about it; and what to try where it speaks of ranks."""
    said = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in said if re.match(r"[\w.]*(?:Error|Exception|Interrupt)\b", line)]
    own = [line for line in errors if not line.startswith("anychip.")]
    last = next(iter([*own[-1:], *errors[-1:], *said[-1:]]), "")[:300]
    return f"{last} (one of several ranks? Then: --prove 'torchrun ...')" if RANKS.search(last) else last


def _path() -> str:
    root = str(Path(__file__).resolve().parents[2])
    before = os.environ.get("PYTHONPATH")
    return f"{before}{os.pathsep}{root}" if before else root


# ---------------------------------------------------------------- comparisons


def _compare_virtual(where: str, old: dict[str, Any], new: dict[str, Any]) -> list[Check]:
    if "error" in old:
        return [Check(f"{where}: original", None, old["error"], "not compared")]
    if "error" in new:
        return [Check(f"{where}: runs", False, f"{old['steps']} steps", new["error"])]
    checks = [_equal(f"{where}: steps", old["steps"] or old["calls"], new["steps"] or new["calls"], at_least=1)]
    checks.append(_equal(f"{where}: parameters on the device", old["parameters"], new["parameters"], at_least=1))
    missing = sorted(set(old["names"]) ^ set(new["names"]))
    what = "the same" if not missing else f"{len(missing)} differ: {', '.join(missing[:4])}"
    checks.append(Check(f"{where}: kinds of operation", not missing, f"{len(old['names'])} kinds", what))
    return checks


def _equal(what: str, old: int, new: int, at_least: int) -> Check:
    return Check(what, old == new and new >= at_least, f"{old:,}", f"{new:,}")


def _compare_cpu(old: dict[str, Any], new: dict[str, Any]) -> list[Check]:
    """Losses (or outputs of the model, without training) of the first steps, with real numbers."""
    if "error" in old:
        return [Check("on the CPU: losses", None, old["error"], "not compared")]
    if "error" in new:
        return [Check("on the CPU: runs", False, f"{len(old['losses'])} losses", new["error"])]
    checks = [_equal("on the CPU: steps", old["steps"] or old["calls"], new["steps"] or new["calls"], at_least=1)]
    what = "losses" if old["losses"] else "outputs"
    a, b = old[what], new[what]
    if not a:
        return [*checks, Check("on the CPU: losses", None, "none were seen", "not compared")]
    worst = max((abs(x - y) / max(abs(x), 1e-12) for x, y in zip(a, b, strict=False)), default=float("inf"))
    same = len(a) == len(b) and worst <= TOLERANCE
    return [*checks, Check(f"on the CPU: {what}", same, _few(a), f"{_few(b)}, apart by {worst:.1g} at most")]


def _few(numbers: list[float]) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers[:3]) + (", ..." if len(numbers) > 3 else "")
