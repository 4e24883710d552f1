"""Recordings of the reference transformer, kept by content, many from one warm process.

`python -m accuracy.recorder` is that process: it imports torch and installs the virtual chip once, then forks for each
line of JSON on its input. What is recorded depends on the program's options and its own text alone, so one recording
serves every chip.
"""

import gc
import hashlib
import importlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from anychip import __version__
from anychip.record import Program
from anychip.temporary import temporary

HERE = Path(__file__).parent
MODULE = "accuracy.reference"
MEGATRON = "accuracy.megatron"
PACKAGES = {MEGATRON: "megatron-core"}  # what a program is made of, where that is not here
HYBRID = "accuracy.hybrid"
HOLDING = "accuracy.holding"
GRAPHED = "accuracy.graphed"
GATHERED = "accuracy.gathered"
SERVING = "accuracy.serving.program"
ROUTED = "accuracy.serving.routed"
BUILT_ON = {ROUTED: (SERVING,)}  # programs that are another's and a little more
STANDINS = {
    MEGATRON: (
        "amp_c.py", "apex*.py", "cupy.py", "flash_attn.py", "grouped_gemm.py", "optimizers.py", "softmax.py", "te_*.py", "transformer_engine.py",
        "wgrad.py", "fused.py", "recording.py",
    ),
    HYBRID: ("causal_conv1d.py", "fused.py", "mamba_*.py"),
    HOLDING: ("bitsandbytes.py",),
}  # fmt: skip
# (Those that a program imports, and what they launch their kernels by. Which file serves which library is no part of what is recorded.)
# What is folded for a short pipeline may need more memory than the whole's ranks have: no recording ends for want of it.
ROOMY = """
schema_version = 1
id = "roomy"
extends = "nvidia-gb300-nvl72"
name = "A chip with more memory than any"

[sources.none]
title = "not a chip that there is"
kind = "estimated"
date = "2026-11-27"

[memory.main]
capacity = { value = 16384, unit = "GiB", src = "none" }
"""
STEPS = 2  # the first warms up
CHIPS_PER_NODE = 8
ENDLESS = 50  # more steps than the program takes: it ends by itself
LONGEST_S = 900


class Job(NamedTuple):
    """argv: options of the reference transformer, which every program takes. num_chips: ranks. module: the program."""

    argv: tuple[str, ...]
    num_chips: int
    module: str = MODULE

    @property
    def key(self) -> str:
        """Names what is recorded: the job, the program's text, and who records."""
        digest = program_digest(self.module, "--experts" in self.argv)
        text = json.dumps([self.argv, self.num_chips, STEPS, __version__, digest])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@cache
def program_digest(module: str = MODULE, has_experts: bool = False) -> str:
    """Of the program's text: of experts only where they are imported."""
    whole = hashlib.blake2b(digest_size=12)
    for path in sorted((HERE / "reference").rglob("*.py")):
        if has_experts or path.parent.name != "experts":
            whole.update(path.read_bytes())
    for name in (module, *BUILT_ON.get(module, ())) if module != MODULE else ():
        whole.update((HERE.parent / f"{name.replace('.', '/')}.py").read_bytes())
    if module in PACKAGES:
        whole.update(importlib.metadata.version(PACKAGES[module]).encode())
    for pattern in STANDINS.get(module, ()):
        for path in sorted((HERE.parent / "anychip" / "standins").rglob(pattern)):
            whole.update(path.read_bytes())
    return whole.hexdigest()


def cache_folder() -> Path:
    """$ANYCHIP_ACCURACY_CACHE, or the user's cache folder."""
    named = os.environ.get("ANYCHIP_ACCURACY_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(named) if named else base / "anychip" / "accuracy"


class Recorder:
    """Recordings by job: from the cache, else made. Use it as a context."""

    def __init__(self, folder: Path | None = None, jobs: int = 2) -> None:
        self.folder, self.jobs = folder or cache_folder(), jobs
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait()

    def path(self, job: Job) -> Path:
        return self.folder / f"{job.key}.anychip"

    def failed(self, job: Job) -> str | None:
        """Why the job could not be recorded, if it was tried."""
        path = self.path(job).with_suffix(".failed")
        return path.read_text(encoding="utf-8") if path.exists() else None

    def program(self, job: Job) -> Program:
        """Raises RuntimeError with the end of what the program said where it failed."""
        path = self.path(job)
        if not path.exists() and self.failed(job) is None:
            self._make(job)
        if not path.exists():
            raise RuntimeError(self.failed(job) or "no recording")
        return Program.load(path)

    def _make(self, job: Job) -> None:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen([sys.executable, "-m", "accuracy.recorder", str(self.jobs)], text=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE.parent,
                                            env={**os.environ, "PYTHONPATH": str(HERE.parent)})  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps([job.argv, job.num_chips, str(self.path(job)), job.module]) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:  # an import failed, which is no failure of the job's: it is tried again next time
            raise RuntimeError(f"the process that records ended; `python -c 'import {job.module}'` may say why")


def serve(jobs: int) -> None:
    """Fork for each line; answer with a line when its recording is there."""
    from anychip.device.parent import end_with_parent

    end_with_parent(os.getppid())
    with temporary() as place:
        session = installed(jobs, place)
        warm()
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        for argv, num_chips, out, module in lines():
            warm(MORE.get(module, ()))
            child = os.fork()
            if not child:
                run(session, module, argv, num_chips, Path(out))
            wait(child, Path(out))
            print("done", file=answers, flush=True)


def installed(jobs: int, place: Path) -> Any:
    """The virtual chip, in this process; place: for its files."""
    from anychip.device.__main__ import Session  # type: ignore[attr-defined]

    (place / "roomy.toml").write_text(ROOMY, encoding="utf-8")
    config = {"argv": [MODULE], "module": True, "chip": str(place / "roomy.toml"), "steps": ENDLESS, "uneven": ENDLESS, "calls": None,
              "step_mark": None, "cluster": None, "host": "modelled", "device": "cuda", "devices": CHIPS_PER_NODE, "imbalance": 1.0, "fold": False,
              "out": f"{place}/none", "world_size": 1, "ranks": "distinct", "jobs": jobs}  # fmt: skip
    session = Session(config)
    session.install()
    return session


# What the reference transformer and torch beneath it import on their way: here once, not in every rank (7 of 8 CPU seconds).
LIBRARIES = (
    "torch._dynamo", "torch._inductor", "torch.distributed.device_mesh", "torch.distributed.fsdp", "torch.distributed.pipelining",
    "torch.distributed.tensor", "torch.utils.checkpoint", "accuracy.reference.experts.layer", "accuracy.reference.gradients", "accuracy.reference.model",
    "accuracy.reference.overlap",
)  # fmt: skip


MORE = {
    HOLDING: (HOLDING,),
    GRAPHED: (GRAPHED,),
    GATHERED: (GATHERED,),
    SERVING: (SERVING, "accuracy.reference.__main__"),
    HYBRID: (HYBRID, "accuracy.reference.__main__"),
    MEGATRON: (
        MEGATRON, "accuracy.reference.__main__", "megatron.core.distributed", "megatron.core.models.gpt",
        "megatron.core.optimizer", "megatron.core.pipeline_parallel",
    ),
}  # fmt: skip


def warm(names: Sequence[str] = LIBRARIES) -> None:
    """Import what is not imported yet."""
    if all(name in sys.modules for name in names):
        return
    for name in names:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def lines() -> Iterator[Any]:
    while line := sys.stdin.readline():
        yield json.loads(line)


def run(session: Any, module: str, argv: Sequence[str], num_chips: int, out: Path) -> None:
    """In the child: record, and end. What is printed goes to a file that becomes the reason of a failure."""
    os.setpgid(0, 0)
    folder = Path(tempfile.mkdtemp(prefix="anychip-"))
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    made = folder / "program.anychip"
    session.config |= {
        "argv": [module, *argv],
        "out": str(made),
        "world_size": num_chips,
        "devices": min(num_chips, CHIPS_PER_NODE),
    }
    code = 1
    try:
        if num_chips > 1:
            code, program = job_of(session.fork, folder, num_chips, session.config).run(everyone=False)
            if program is not None:
                program.save(str(made))
        else:
            session._adopt()
            code = session.run()
            session.save(code)
        if code == 0 and made.exists():
            made.replace(out) if made.stat().st_dev == out.parent.stat().st_dev else copy(made, out)
    except BaseException:
        traceback.print_exc()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(code)


def job_of(fork: Any, folder: Path, num_chips: int, config: dict[str, Any]) -> Any:
    """A job whose ranks are not sampled: the reference transformer's ranks do what their class does, as tests show."""
    from anychip.device.distributed.job import Job as Ranks

    class Trusted(Ranks):
        def _sample(self) -> bool:
            return True

    return Trusted(folder, num_chips, config["devices"], config["jobs"], fork)


def copy(made: Path, out: Path) -> None:
    part = out.with_suffix(".part")
    part.write_bytes(made.read_bytes())
    part.replace(out)


def wait(child: int, out: Path) -> None:
    """Until it ends or has taken too long; leaves the reason of a failure beside where the recording would be."""
    end = time.monotonic() + LONGEST_S
    said = f"took more than {LONGEST_S} s"
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            said = f"ended with {os.waitstatus_to_exitcode(status)} and no word"
            break
        time.sleep(0.02)
    else:
        os.killpg(child, 9)
        os.waitpid(child, 0)
    log = out.with_suffix(".log")
    if not out.exists():
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        kept = [line for line in text.splitlines() if "registered at" not in line][-30:]
        out.with_suffix(".failed").write_text("\n".join(kept) or said, encoding="utf-8")
    log.unlink(missing_ok=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
