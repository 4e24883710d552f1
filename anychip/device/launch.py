"""Records a program in a process of its own, seen from outside: start it, pass on what it prints, take its recording.

Imports no torch. The child is `python -m anychip.device CONFIG`; it leaves its recording in a file that is
there whole or not at all.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from anychip import units
from anychip.device.files.kept import put_back
from anychip.device.files.written import tell
from anychip.errors import (
    INTERRUPTED,
    OUT_OF_MEMORY,
    Deadlock,
    ProgramFailed,
    ProgramKilled,
    Stuck,
    Terminated,
    UnsupportedProgram,
    UnsupportedTorch,
    all_ranks,
)
from anychip.record import Program
from anychip.record.failure import Failure, cut_short, failure_of, refusal, refused
from anychip.record.steps import Marks, find_steps
from anychip.record.tape import Mark
from anychip.spec import Chip
from anychip.temporary import temporary
from anychip.timeline.memory import memory

TORCH_UNFIT = 70  # exit status by which the child says that this torch cannot carry the device
LOW_BYTE = 256
UNFOLD = 71  # asks to be run again, without folding micro-batches
GRACE_S = 5.0
SAVING_S = 20.0  # in which a program that is asked to end saves what it has
TERMINATED_S = 5.0  # the same after SIGTERM: who sends it kills soon after, docker in 10 s
POLL_S = 0.1
SAID, LAST_LINES = "said.txt", 40  # what a program said that is not shown, and how much of it is told where it fails
MOST_SAID, LAST_SAID = 1 << 24, 1 << 16  # bytes of it that are kept while it runs, and from before it was cut
STEPS, STEPS_OF_MANY = 3, 2  # the first warms up
UNEVEN_STEPS = 5  # where the second and the third differ: what is done in every other one is in two of four
DRAFT, STANDS = ".draft", ".stands"  # a job's recordings before its samples have ended; its meta, if they say the same
REFUSED = "refused.txt"  # why a virtual chip cannot follow the program
KILLED = ".killed"  # the number of a job's rank that a signal ended
MODULES, CRUMB = 6, 1e-3  # whose share of the memory is told, and from which share on
NOTE_S = 0.5  # between looks at how far a job is
MANY_RANKS = 1024  # above so many one step more takes long to record and to price


def record(
    argv: Sequence[str],
    chip: Chip,
    *,
    steps: int | None = None,
    module: bool = False,
    calls: int | None = None,
    step_mark: str | None = None,
    host: str = "modelled",
    device: str = "cuda",
    devices: int = 1,
    imbalance: float = 1.0,
    show_output: bool = True,
    is_job: bool = False,
    world_size: int = 1,
    ranks: str = "distinct",
    jobs: int = 2,
    cluster: str | None = None,
    draft: Callable[[Program], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Program:
    """Run `argv` (script and arguments, or with `module` a module and arguments) on a virtual `chip`.

    steps: how many to record; None for 3, 5 where the second and the third differ on one chip and nobody marks them, up to 16 until each optimizer has stepped there, or 2 of a job of more than 1,024 ranks. devices: how many chips one process sees: those of a node. is_job: the program
    finds torchrun's environment, as it does wherever there are several ranks. world_size: ranks of the job, one a chip; above 1 the
    program runs as each of its distinct ranks ("all": as every one), at most `jobs` at a time. cluster: whose network the clock goes by.
    draft: called with the recording of a job while its last samples run, which seldom change it: then it is the one
    that is returned. note: called from time to time with how far a job is.
    What the program prints goes to stderr unless `show_output` is False. Ctrl-C stops it and keeps what it
    did, as SIGTERM does where the command line hears it; then `meta["interrupted"]` is true. Raises ProgramFailed where it failed or was stopped without a single step (with
    its own traceback already printed), UnsupportedTorch, BadUse.
    """
    # Ranks take equal steps, though one of them does more between them; whoever marks steps says what belongs to each.
    may_go_on = steps is None and world_size == 1 and step_mark is None
    if steps is None:
        steps = STEPS if world_size <= MANY_RANKS else STEPS_OF_MANY
    uneven = UNEVEN_STEPS if may_go_on else steps
    with temporary() as folder:
        out = folder / "program.anychip"
        config = {
            "argv": list(argv), "module": module, "chip": str(chip.file), "steps": steps, "uneven": uneven, "calls": calls,
            "step_mark": step_mark, "host": host, "device": device, "devices": devices, "imbalance": imbalance, "out": str(out),
            "is_job": is_job, "world_size": world_size, "ranks": ranks, "jobs": jobs, "cluster": cluster, "fold": ranks != "all",
            "draft": draft is not None, "parent": os.getpid(),
        }  # fmt: skip
        drafts = Drafts(out.with_suffix(DRAFT), draft)
        begun = Ranks(folder, note if world_size > 1 else None)

        def look() -> None:
            drafts.look()
            begun.look()

        code, interrupted, errors = _run(config, show_output, look)
        if code == UNFOLD:
            code, interrupted, errors = _run({**config, "fold": False}, show_output, look)
        return _result(argv, out, code, interrupted, errors, drafts.program, steps)


class Drafts:
    """A draft at `path`, if there comes one, and who wants it."""

    def __init__(self, path: Path, wanted: Callable[[Program], None] | None) -> None:
        self.path, self.wanted = path, wanted
        self.program: Program | None = None

    def look(self) -> None:
        """Load it and pass it on, once."""
        if self.wanted is not None and self.program is None and self.path.exists():
            self.program = Program.load(self.path)
            self.wanted(self.program)


class Ranks:
    """How many ranks of a job were begun, for who wants to know."""

    def __init__(self, folder: Path, note: Callable[[str], None] | None) -> None:
        self.folder, self.note, self.next_s = folder, note, 0.0

    def look(self) -> None:
        if self.note is None or time.monotonic() < self.next_s:
            return
        self.next_s = time.monotonic() + NOTE_S
        begun = len(list(self.folder.glob("rank-*.log")))
        self.note(f"{begun + 1:,} ranks begun" if begun else "")  # rank 0 is always one, and has no log


# What the program logs has no values: it stays here, unless the user's own environment says otherwise.
OFFLINE = {"WANDB_MODE": "offline", "COMET_START_ONLINE": "0", "NEPTUNE_MODE": "offline", "CLEARML_OFFLINE_MODE": "1"}

# Programs that run now -> whether they were asked to end. Only the main thread hears Ctrl-C.
_running: "dict[subprocess.Popen[bytes], bool]" = {}


def interrupt_all() -> None:
    """Ask the programs that other threads record to save what they have, and end."""
    for child in tuple(_running):
        _running[child] = True
        child.send_signal(signal.SIGINT)


def end_all() -> None:
    """End the programs that other threads record, and what they started."""
    for child in tuple(_running):
        if child.returncode is None:  # else its number may be another's by now
            _running[child] = True
            _kill_group(child)


def _run(config: dict[str, Any], show_output: bool, look: Callable[[], None]) -> tuple[int, bool, str]:
    """Exit status, whether the user interrupted, and the end of what it said where that was not shown."""
    environment = {**OFFLINE, **os.environ, "PYTHONUNBUFFERED": "1", **_package_path()}
    command = [sys.executable, "-m", "anychip.device", json.dumps(config)]
    said = Path(config["out"]).with_name(SAID)
    with contextlib.ExitStack() as stack:
        # What is not shown goes to a file: a process that outlives the program would hold a pipe open. It is appended to, so
        # that it may be cut meanwhile.
        stream: Any = (
            stack.enter_context(said.open("ab"))
            if not show_output
            else sys.stderr
            if _is_file(sys.stderr)
            else subprocess.PIPE
        )
        # Python would show a traceback of an interrupt that comes before the child can say what it does then (device/__main__.py).
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream,
                stderr=subprocess.STDOUT if stream is subprocess.PIPE else stream, env=environment, start_new_session=True,
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    interrupted = False
    _running[child] = False
    try:
        if stream is subprocess.PIPE:
            _pump(child)
        while True:
            try:
                child.wait(timeout=POLL_S)
                break
            except subprocess.TimeoutExpired:
                look()
                if not show_output:
                    _cut(said)
    except KeyboardInterrupt as asked:
        interrupted = True
        _interrupt(child, saving_s(asked))
    finally:
        interrupted |= _running.pop(child)
        _end_group(child)
        folder = Path(config["out"]).parent
        changed = "; ".join(filter(None, (put_back(folder), tell(folder))))
        if changed and show_output:
            print(f"anychip: {changed}", file=sys.stderr)
    return child.returncode, interrupted, _last_of(said) if not show_output else ""


def _package_path() -> dict[str, str]:
    """The child finds this very anychip, wherever it runs; the program's own folder still comes first."""
    root = str(Path(__file__).resolve().parents[2])
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{before}{os.pathsep}{root}" if before else root}


def _is_file(stream: Any) -> bool:
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _pump(child: "subprocess.Popen[bytes]") -> None:
    """Pass the child's output on."""
    assert child.stdout is not None
    for line in child.stdout:
        sys.stderr.write(line.decode(errors="replace"))


def _cut(said: Path) -> None:
    """Keep what a program says in secret from filling the disk: of what is too much only the end is kept, beside it."""
    size = said.stat().st_size
    if size > MOST_SAID:
        with said.open("rb") as file:
            file.seek(size - LAST_SAID)
            _before(said).write_bytes(file.read())
        os.truncate(said, 0)


def _before(said: Path) -> Path:
    """Where the end of what was cut is kept."""
    return said.with_suffix(".before")


def _last_of(said: Path) -> str:
    """The last lines of what a program said that was not shown."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    for part in (_before(said), said):
        if part.exists():
            with part.open(encoding="utf-8", errors="replace", newline="") as lines:
                last.extend(lines)
    return "".join(last)


def saving_s(asked: KeyboardInterrupt) -> float:
    """How long to wait for what is being saved."""
    return TERMINATED_S if isinstance(asked, Terminated) else SAVING_S


def _interrupt(child: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """Ask the child to save what it has; a second Ctrl-C, or too long a wait, ends it."""
    try:
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=timeout_s)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        child.kill()
        child.wait()


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    """Data loader workers and the like die with the program.

    The wait has an end: a signal that came while `Popen` had its lock has left it locked (SIGTERM, of a job's time limit)."""
    _kill_group(child)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=GRACE_S)


def _held(program: Program) -> Iterator[str]:
    """What filled the memory of the first rank that was refused some more: no figures will say so."""
    short = next((rank for rank in program.ranks if any(refused(rank))), None)
    if short is None:
        return
    found = memory(short)
    many = f":{program.world_size}" if program.world_size > 1 else ""
    who = f"rank {short.rank}" if many else "the program"
    failure = failure_of(program)
    at = f", at {failure.place}" if failure is not None and failure.place else ""
    least = CRUMB * found.peak_bytes
    yield f"{OUT_OF_MEMORY}: {who} was refused {refusal(*refused(short))}{at}"
    if found.peak_bytes:
        yield "memory at peak, before that"
    for name, nbytes in found.by_kind.items():
        if nbytes > least:
            yield f"  {name:<12}  {units.memory(nbytes)}"
    by_module = [f"{name} {units.memory(nbytes)}" for name, nbytes in found.by_module.items() if nbytes > least]
    if len(by_module) > 1:
        yield f"by module: {', '.join(by_module[:MODULES])}"
    yield (
        "To see all that it takes, forecast it on a chip with more memory, too: "
        f"--on LARGER{many} --on {program.meta['chip']}{many}"
    )


HOST_IS_FULL = (
    "this machine ran out of memory, not the chip: tensors of the host take theirs here, also the weights of a model that are loaded and moved to the chip later. "
    'Make it there, where it takes none: with torch.device("cuda"): model = ... (or with torch.device("meta"), then '
    'model.to_empty(device="cuda")). With --jobs 1 recordings take turns.'
)
WHY_KILLED = {signal.SIGKILL: f"If it was not you, {HOST_IS_FULL}"}
WHY_ENDED = "If it was not you or the system, a chip tensor's memory was touched from the host: please report it."
HOST_ALLOCATOR = "DefaultCPUAllocator"  # in what torch raises where the host has no more


def _result(
    argv: Sequence[str], out: Path, code: int, interrupted: bool, errors: str, drafted: Program | None, steps: int
) -> Program:
    """steps: that were to be recorded."""
    name, stands = argv[0], out.with_suffix(STANDS)
    if code == TORCH_UNFIT:
        raise UnsupportedTorch(out.with_suffix(".error").read_text(encoding="utf-8"))
    reason = out.with_name(REFUSED)
    if not out.exists() and not stands.exists():
        if interrupted:
            raise _too_early(name)
        # A rank that a signal ended gives its job the low byte of its status.
        by = next((number for number in signal.valid_signals() if code in (-number, LOW_BYTE - number)), None)
        if by is not None:
            rank = out.with_suffix(KILLED)
            who = f"rank {rank.read_text()}" if rank.exists() else "the program"
            raise ProgramKilled(name, who, signal.Signals(by), WHY_KILLED.get(by, WHY_ENDED))
        if reason.exists():
            raise UnsupportedProgram(reason.read_text(encoding="utf-8"))
        raise ProgramFailed(f"{name} ended with exit code {code} before it was recorded.\n{errors}".rstrip(), code or 1)
    if stands.exists():
        program = drafted if drafted is not None else Program.load(out.with_suffix(DRAFT))
        program.meta = json.loads(stands.read_text(encoding="utf-8"))
    else:
        program = Program.load(out)
    if interrupted:
        program.meta["interrupted"] = True
    if program.meta.get("interrupted") and not all(map(_has_steps, program.ranks)):
        raise _too_early(name)
    how = failure_of(program)
    if how is not None and program.meta.get("hang") and (how.steps < steps or not cut_short(program.ranks)):
        when = f"after {units.several(how.steps, 'step')}" if how.steps else "before its first step is complete"
        stuck = [Stuck(**{**one, "waits_for": tuple(one["waits_for"])}) for one in program.meta["stuck"]]
        raise Deadlock(f"{name}: the job would hang {when}: {program.meta['hang']}", stuck)
    if how is not None and not how.steps and reason.exists():
        raise UnsupportedProgram(reason.read_text(encoding="utf-8"), how)
    if how is not None and not how.steps:
        raise ProgramFailed(
            f"{name} failed with an exit code of its own, {how.exit_code}, before its first step was complete.\n{errors}".rstrip()
            + "".join(f"\n{line}" for line in (*_what(how, program), *_held(program))),
            how.exit_code, str(program.meta.get("failure", "")), how,
        )  # fmt: skip
    return program


def _has_steps(rank: Program) -> bool:
    """Whether an interrupted program's steps are seen: a call with gradients may have been half of one that trains, where the program
    made an optimizer, or might have updated its weights itself before it came to a second one."""
    steps = find_steps(rank)
    if not steps or steps[0].kind == "train" or Mark.FORWARD_BEGIN not in Marks(rank).what:
        return bool(steps)
    return len(steps) > 1 and not rank.meta.get("optimizers")


def _too_early(name: str) -> ProgramFailed:
    """Of half a step nothing is known: what it takes, and whether it fits."""
    return ProgramFailed(f"{name}: interrupted before its first step was complete: there are no figures.", INTERRUPTED)


def _what(how: Failure, program: Program) -> Iterator[str]:
    """Which error it was, of which rank, at which line of the program; of one short of memory `_held` tells more."""
    where = ", ".join(text for text in (f"rank {how.rank}" if program.world_size > 1 else "", how.place) if text)
    if (how.error or where) and not how.of_bytes:
        yield (how.error or f"exit code {how.exit_code}") + (f" ({where})" if where else "")
        failed = next((one for one in program.ranks if how.rank in one.members), program)
        if said := failed.meta.get("last_said"):
            yield f"{said} If what failed is a check of values, that may be why."
        if how.error.startswith("AssertionError") and len(program.ranks) < program.world_size:
            yield (
                f"{len(program.ranks)} of {program.world_size:,} ranks ran, and the others are taken to say what these say: if what failed "
                f"is a check of what ranks tell one another, that may be why. Try {all_ranks(program.world_size)}."
            )
    if HOST_ALLOCATOR in how.error or how.error.startswith("MemoryError"):
        yield HOST_IS_FULL[0].upper() + HOST_IS_FULL[1:]
