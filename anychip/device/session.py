"""`Session`: one recording, of a program on one chip or of one rank of a job, from the installed chip to the file that is left."""

import os
import runpy
import sys
import threading
import time
import traceback
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NoReturn

from anychip import __version__
from anychip.device.distributed.bystanders import THROUGH, Through, called, leave
from anychip.device.distributed.job import Rank
from anychip.device.distributed.launchers import answer_for_others, environment
from anychip.device.distributed.mailbox import Mailbox
from anychip.device.distributed.stages import Stages
from anychip.device.files.kept import SLEEP
from anychip.device.files.saved import Saved
from anychip.device.interpreter import (
    await_started,
    end_as_others,
    end_workers,
    exit_status,
    hear_no_more,
    hear_the_end,
    launched,
    seed_host,
)
from anychip.device.launch import REFUSED
from anychip.device.parent import EXIT, POLL_S, end_with_parent, watch
from anychip.device.traces import causes_of, print_program_traceback
from anychip.errors import INTERRUPTED, UnsupportedProgram
from anychip.network import Fabric
from anychip.record import Place
from anychip.record.recorder import failed_place, user_place
from anychip.spec import load_chip
from anychip.units import several
from anychip.whole import put

GRACE_S = 2.0  # that a program which forked has to end by itself


class Session:
    """One recording: state is what `finish` needs to write it, once, whatever happens."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.began_s = time.perf_counter()
        self.real_time = time.perf_counter
        self.pid = os.getpid()
        self.runtime: Any = None
        self.hooks: Any = None
        self.saved = False
        self.failure = ""  # the error that ended the program
        self.failed_at: Place | None = None  # its line of the program
        self.short_of_memory = False  # the program ended because the chip's memory did not suffice
        self.fabric: Fabric | None = None  # of a job
        self.rank: int | None = None  # of a job, once this process is one of its ranks
        self.is_judged = False  # ranks that take no steps end by what this one called
        self.forked = False  # this process is one that the program forked
        self.watches = False  # whether one that the program forked has done what was to be recorded

    def install(self) -> None:
        from anychip.device.install import install

        chip = load_chip(self.config["chip"])
        self.runtime = install(
            chip,
            count=self.config["devices"],
            device_type=self.config["device"],
            host_measured=self.config["host"] == "measured",
            imbalance=self.config["imbalance"],
        )
        from anychip.device.cuda import smi
        from anychip.device.distributed import workers
        from anychip.device.steps.counted import Steps
        from anychip.device.steps.hooks import Hooks
        from anychip.device.steps.repeats import Repeats

        tape = self.runtime.recorder.tape
        self.steps = Steps(self.config["steps"], self.config["uneven"], self.config["calls"], tape, self.finish)
        self.hooks = Hooks(self.runtime, self.steps)
        self.runtime.graphs.captured = self.steps.captured
        self.runtime.graphs.replayed = lambda graph: self.steps.replayed(graph.calls, graph.steps)
        self.steps.is_aside = lambda: self.runtime.driver.current_stream() != 0
        self.runtime.joins, self.runtime.finish = self.joins, self.finish
        self.hooks.install()
        if self.config["fold"] and self.config["host"] != "measured" and os.environ.get("ANYCHIP_FOLD") != "0":
            self.runtime.repeats = Repeats(self.runtime)
        self.runtime.saved = Saved(Path(self.config["out"]).parent, lambda: bool(self.hooks.weights))
        self.runtime.saved.install()
        self.smi = smi.Smi(self.runtime, Path(self.config["out"]).parent)
        self.runtime.clocks.install()
        workers.install(self.config)
        if self.config["step_mark"]:
            self.hooks.mark_steps_at(self.config["step_mark"])

    def save(self, exit_code: int, **meta: Any) -> None:
        """Write the recording, once, and only from the process that was started for it."""
        if self.saved or os.getpid() != self.pid or Path(self.config["out"]).exists():
            return  # (a process that the program forked was this rank, and has written it)
        self.saved = True
        import torch

        self.hooks.end_open_call(ended=not meta.get("interrupted"))
        self.runtime.tensors.drain()
        if self.short_of_memory:
            meta["refused"] = {"bytes": self.runtime.refused_bytes, "of_bytes": self.runtime.chip.memory_bytes}
        if self.failure:
            meta["failure"] = self.failure
            meta["last_said"] = "" if self.short_of_memory else self.runtime.driver.values.last_said()
        if self.failed_at is not None:
            meta["failed_at"] = [self.failed_at.file, self.failed_at.line]
        self.smi.note_questions()
        self.runtime.driver.values.tell_imbalance()
        self.runtime.driver.values.tell_selected()
        if self.steps.complete and not self.steps.by_mark:
            self.hooks.optimizers.tell(self.steps.complete)
        if not exit_code and not meta.get("stopped"):
            self._tell_what_may_have_ended_it()
        if self.runtime.collectives is not None:
            meta["bucket_blocks"] = sorted(self.runtime.collectives.buckets)
            if self.runtime.collectives.beside:
                meta["groups_beside"] = sorted(self.runtime.collectives.beside)
        program = self.runtime.recorder.program({
            "argv": self.config["argv"], "module": self.config["module"], "chip": self.runtime.chip.id, "host": self.config["host"],
            "allocator": self.runtime.memory.settings,
            "torch": torch.__version__, "anychip": __version__, "exit_code": exit_code,
            "forked": self.watches, "steps": self.steps.complete, "folded": self.runtime.repeats.folded if self.runtime.repeats else 0, "calls": self.steps.done_calls,
            "optimizers": len(self.hooks.optimizers.made), "chips_used": len(self.runtime.kernels.devices),
            "wall_s": self.real_time() - self.began_s, **self.hooks.weights.described(), **meta,
        })  # fmt: skip
        program.rank = self.rank or 0
        program.members = (program.rank,)
        program.world_size = self.config["world_size"]
        program.groups = self.runtime.groups.table() if self.runtime.groups is not None else []
        out = Path(self.config["out"])
        program.save(out, packed=False)
        if self.rank is not None:
            self.runtime.saved.hide()
        if self.rank == 0:
            self.runtime.groups.mailbox.tell_torch()
        if self.runtime.stages is not None and not exit_code:
            for rank, other in self.runtime.stages.others(program).items():
                other.save(out.with_name(f"rank-{rank}.anychip"), packed=False)

    def _tell_what_may_have_ended_it(self) -> None:
        """Programs stop where a loss is small enough, or no longer falls: of one that was to make more steps the last answer that
        was made up is told, unless it is already. One that only calls a model has no steps to make."""
        steps, values = self.steps, self.runtime.driver.values
        only_calls = self.config["calls"] or (steps.done_calls and not steps.complete)
        if values.made_up is None or values.has_alternated or only_calls or steps.complete >= steps.steps:
            self.hooks.optimizers.tell_unused()
            return
        done = (
            f"after {steps.complete} of {several(steps.steps, 'step')}"
            if steps.complete
            else "without a step of an optimizer"
        )
        enough = f", or --steps {steps.complete}" if steps.complete > 1 else ""
        self.runtime.recorder.warn(
            f"The program ended by itself {done}. {values.last_said()} If that ended it, as a tolerance or early stopping does, give it "
            f"more patience{enough}."
        )

    def finish(self) -> None:
        """Enough steps: save, and end the process here.

        Nothing that the program would still do can change the answer, and its handlers and workers cannot
        keep it from ending.
        """
        if os.getpid() != self.pid and not self._is_first_forked():
            return
        self.save(0, stopped=True)
        if self.rank is not None and self.is_judged and self.steps.has_stepped:
            recorder, keys = self.runtime.recorder, self.runtime.groups.keys
            leave(Path(self.config["out"]).parent, self.rank, called(recorder.tape, recorder.ops, keys, self.rank))
        end_workers()
        sys.stdout.flush()
        sys.stderr.flush()
        if self.forked:
            self._ended().touch()
        EXIT(0)

    def _is_first_forked(self) -> bool:
        """Whether this process, which the program forked, is the first to have done what was to be recorded (Hogwild's training, a server's
        engine). It is recorded then, with what the program did before."""
        if self.rank is not None:
            return False
        try:
            os.close(os.open(Path(self.config["out"]).with_suffix(".first"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        self._adopt(True)
        self.runtime.recorder.warn(
            "The program works on the chip in processes that it starts: one of them was recorded, as if it had the chip to itself. What the "
            "others take of it, time and memory, is left out."
        )
        return True

    def _ended(self) -> Path:
        """Says that a process which the program forked was ended here."""
        return Path(self.config["out"]).with_suffix(".ended")

    def _watch(self) -> None:
        """The program forked a process: it may be the one that is recorded, and end before it tells the program what that waits for."""
        if os.getpid() == self.pid and not self.watches:
            self.watches = True
            threading.Thread(target=self._end_with_forked, daemon=True).start()

    def _end_with_forked(self) -> None:
        while not self._ended().exists():
            SLEEP(POLL_S)
        SLEEP(GRACE_S)
        EXIT(0)

    # ------------------------------------------------------------ one of many ranks

    def fork(self, rank: Rank, tokens: tuple[int, int]) -> int:
        """Start a rank in a process of its own; returns its id there, and never here."""
        if self.fabric is None:  # here, for all of them
            self.fabric = Fabric.of(self.runtime.chip, self.config["world_size"], self.config["cluster"])
        sys.stdout.flush()
        sys.stderr.flush()
        parent, child = os.getpid(), os.fork()
        if child:
            return child
        code = 1
        try:
            hear_the_end()
            end_with_parent(parent)
            os.read(tokens[0], 1)
            self._become(rank, tokens)
            code = self.run()
            self.save(code)
        except BaseException:
            traceback.print_exc()  # ours: the program's own are told where it runs
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            EXIT(code)

    def _become(self, rank: Rank, tokens: tuple[int, int]) -> None:
        """Be this rank: its environment as `torchrun` sets it, its files, its mail."""
        folder, per_node = Path(self.config["out"]).parent, self.config["devices"]
        self.rank, self.began_s = rank.rank, self.real_time()
        self._adopt()
        os.environ.update(environment(rank.rank, self.config["world_size"], per_node))
        answer_for_others()
        import torch

        # What OMP_NUM_THREADS says, for a process that has torch already; and threads that a fork would lose. A child's
        # first call makes torch's pool anew: here, since two of autograd's threads at once would find none and abort.
        torch.set_num_threads(1)
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
        kind = "rank" if rank.stands_in_for is None else "sample"
        self.config["out"] = str(folder / f"{kind}-{rank.rank}.anychip")
        if rank.stands_in_for is not None and not rank.long:
            self.steps.steps, self.steps.brief = 1, rank.brief
        if not rank.folded:
            self.runtime.repeats = None
        if rank.rank:
            self._log_to(folder / f"rank-{rank.rank}.log")
        if rank.stages:
            self.runtime.stages = Stages(rank.stages, self.runtime.here)
        groups = self.runtime.groups
        groups.rank = rank.rank
        groups.everyone = self.config["ranks"] == "all"
        groups.mailbox = Mailbox(folder, rank.rank, rank.stands_in_for, tokens)
        if self.config["calls"] is None:
            groups.through, groups.stands_by = Through(folder, rank.rank), self._stands_by
            if rank.stands_in_for is None:
                self.is_judged, self.steps.stands_by = True, self._pause
            else:
                self.steps.most_words = rank.most_words
        assert self.fabric is not None
        self.runtime.clock.join(self.fabric, groups)

    def _stands_by(self) -> bool:
        """Whether this rank takes no steps, as far as is known: it has no optimizer."""
        return not self.steps.has_stepped and not self.hooks.optimizers.made

    def _pause(self) -> None:
        """This rank may take no steps while others do: let the second and the last run as far."""
        if not self._stands_by():
            return
        groups, last = self.runtime.groups, self.config["world_size"] - 1
        groups.mailbox.pause(THROUGH, tuple(dict.fromkeys((1, last))), user_place())

    def _log_to(self, path: Path) -> None:
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)

    def _adopt(self, forked: bool = False) -> None:
        """This process is the one that is recorded. One that the program forked ends in multiprocessing's own way."""
        if forked:
            self.runtime.repeats = None  # nobody would run it again
            self.forked = True
            watch(os.getppid())
            Finalize(None, self.save, args=(0,), exitpriority=100)
        self.pid = self.runtime.pid = os.getpid()

    def joins(self, rank: int, size: int) -> None:
        """The program joins a group of `size` ranks as `rank`. Ends the process if it is not the rank that is wanted."""
        world, is_forked = self.config["world_size"], os.getpid() != self.pid
        if self.rank is None and size > 1:
            self.runtime.recorder.warn(
                f"The program joins {size} ranks, as rank {rank}, and is forecast on one chip: what the others take is "
                f"left out. For all of them: --on CHIP:{size}"
            )
        if self.rank is not None and size != world:
            self._refuse(
                f"the program joins {size} ranks, and {world} chips were asked for. Ask for as many chips as it "
                f"starts ranks (--on CHIP:{size}), or tell it to start {world}."
            )
            EXIT(UnsupportedProgram.exit_code)
        if rank == (self.rank or 0):
            self._adopt(is_forked)
        elif is_forked:
            EXIT(0)  # another rank, forked by the program

    def run(self) -> int:
        """Run the program to its end, or to the step that ends it; returns its exit code."""
        argv, module = launched(self.config["argv"], self.config["module"])
        sys.argv = list(argv)
        seed_host()
        os.register_at_fork(after_in_parent=self._watch, after_in_child=end_as_others)
        os._exit = self._exit
        try:
            hear_the_end()
            if module:
                sys.path.insert(0, os.getcwd())
                runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
            else:
                sys.path.insert(0, str(Path(argv[0]).resolve().parent))
                runpy.run_path(argv[0], run_name="__main__")
            await_started()
        except SystemExit as end:
            if end.code:
                self._unfold()
                self._failed(end, "" if isinstance(end.code, int) else f"SystemExit: {end.code}")
            return exit_status(end)
        except KeyboardInterrupt:
            hear_no_more()
            self.save(INTERRUPTED, interrupted=True)
            return INTERRUPTED
        except UnsupportedProgram as error:
            self._refuse(str(error))
            self._failed(error, str(error))
            return error.exit_code
        except BaseException as error:
            self._unfold()
            print_program_traceback()
            self._failed(error, f"{type(error).__name__}: {error}")
            return 1
        return 0

    def _exit(self, status: int) -> NoReturn:
        """What `os._exit` does in the program: nothing of Python's end is done, but for keeping the recording."""
        try:
            if os.getpid() == self.pid and not self.saved:
                if status:
                    self._unfold()
                    self.failed_at = user_place()
                self.save(status)
        finally:
            EXIT(status)

    def _refuse(self, reason: str) -> None:
        """Tell who started this process that it is not the program that failed."""
        put(Path(self.config["out"]).with_name(REFUSED), reason)

    def _failed(self, error: BaseException, said: str) -> None:
        """Keep how the program ended: also one that catches its errors and exits may be short of memory."""
        from torch import OutOfMemoryError

        self.failure, self.failed_at = said, failed_place(error)
        self.short_of_memory = any(isinstance(one, OutOfMemoryError) for one in causes_of(error))

    def _unfold(self) -> None:
        """A failure may come of what a folded call left out."""
        repeats = self.runtime.repeats
        if repeats is not None and repeats.folded:
            repeats.unfold("a failure after a folded one")
