"""Runs the distinct ranks of a job, each in a process forked from this one, which has torch and the chip in place.

Rank 0 runs first. A rank that waits for a value of another (pipeline stages exchange shapes) starts that one; what ran
says who else may differ (`ranks`); a few more are run for one step, to see that they do what their class does. At most
`jobs` compute at a time; those that wait for mail do not count.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from anychip.device.distributed.branches import MOST_APART, World
from anychip.device.distributed.bystanders import THROUGH
from anychip.device.distributed.mailbox import LIBRARIES, STAGES_OF_FIRST
from anychip.device.distributed.middle import LEAST, Middle
from anychip.device.distributed.ranks import alike, fullest, leaves, stream, wanted, within
from anychip.device.distributed.recorded import Recorded
from anychip.device.launch import KILLED, REFUSED, UNFOLD
from anychip.errors import ERROR, MOST_RANKS, AnychipError, Stuck
from anychip.record import Program
from anychip.whole import put

# What ranks leave in a job's folder.
LEFT = ("rank-*", "sample-*", "mail-*", "all-*", "waiting-*", "stop-*", STAGES_OF_FIRST, REFUSED, f"{THROUGH}*")
POLL_S = 0.01
SLEEP = time.sleep
LAST_LINES, LAST_CAUSES = 40, 3  # of a log that are shown
STAGES = 64  # ranks of a group that are started as soon as one of them is waited for
MOST_BETWEEN = 24  # ranks that are run to see which of those between the second and the last do as which


@dataclass(frozen=True)
class Rank:
    """A rank to run. stands_in_for: a rank of its class whose mail it reads, where it is only a sample, for a step, or
    brief: until its first backward is done, or long: as long as others, where what it does may differ later. folded:
    micro-batches that do the same are recorded once. stages: of a pipeline whose second this is, which then stands for the
    other middle ones too. most_words: of a sample's tape, if it takes no step: as many as that rank has."""

    rank: int
    stands_in_for: int | None = None
    brief: bool = False
    long: bool = False
    folded: bool = True
    stages: tuple[int, ...] = ()
    most_words: int | None = None


class Job:
    """The ranks of one program. fork(rank, tokens) starts one and returns its process id; draft(program) is told of the
    job's recordings while samples are run to see whether they stand for all ranks.

    folder: recordings, logs and mail of the ranks. per_node: so many ranks share a node.
    """

    def __init__(
        self, folder: Path, world_size: int, per_node: int, jobs: int, fork: Callable[[Rank, tuple[int, int]], int],
        draft: Callable[[Program], None] | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.fork, self.draft = fork, draft
        self.recorded = Recorded(folder, World(world_size, per_node))
        self.drafted: list[tuple[Program, tuple[int, ...]]] = []
        self.tokens = os.pipe()
        os.write(self.tokens[1], b"t" * jobs)
        self.running: dict[int, Rank] = {}
        self.codes: dict[int, int] = {}
        self.sampled: dict[int, int] = {}  # how samples ended
        self.interrupted = False
        self.hang = ""  # what ranks wait for that never comes
        self.stuck: Sequence[Stuck] = ()  # which ranks
        self._loaded = 0  # when the list of libraries was written that were loaded last
        self.middle: Middle | None = None  # of a pipeline, taken to do the same
        self.each = False  # nothing is taken to do the same

    def run(self, everyone: bool) -> tuple[int, Program | None]:
        """Exit code, and rank 0's recording with those of the other classes; None where rank 0 left none."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)
        try:
            return self._ran(everyone)
        finally:
            self._wait(samples=True)

    def _ran(self, everyone: bool) -> tuple[int, Program | None]:
        self.each = self.each or everyone
        self._run(map(Rank, range(self.recorded.world.size) if everyone else (0,)))
        self._read_all()
        taken = self.middle
        if taken is not None and not self.interrupted and (self._failed() or not taken.agree()):
            return self._again()
        if 0 not in self.recorded.programs:
            return self._killed(0), None
        if not self._failed() and not self.interrupted and not self._sample():
            return self._again()
        return self._assembled(self.recorded.classes())

    def _read_all(self) -> None:
        """Load the recordings that are new, and run whom they send to or receive from and who may do otherwise."""
        while self.recorded.read(self.codes) and not self._failed():
            programs = self.recorded.programs
            more = wanted(programs, self.recorded.streams) - set(self.codes)
            if not more or self.interrupted:
                break
            if len(programs) + len(more) > MOST_RANKS:
                number = len(programs) + len(more)
                put(self.folder / REFUSED, f"{number} ranks would have to run one by one; {MOST_RANKS} is the most.")
                raise SystemExit(AnychipError.exit_code)
            self._run([self._second(rank) or Rank(rank) for rank in sorted(more)])

    # ------------------------------------------------------------ the middle stages of a pipeline

    def _assume(self, ranks: tuple[int, ...]) -> bool:
        """Take the middle stages of a pipeline for alike; False where that is not to be."""
        if self.each or self.middle is not None or len(ranks) < LEAST or ranks[0] in self.codes.keys() - {0}:
            return False
        self.middle = Middle(self.folder, ranks)
        return True

    def _together(self, rank: int, peer: int, ranks: tuple[int, ...]) -> list[Rank]:
        """Whom to start when `rank` waits for `peer`: their whole group, or of a pipeline its second and its last (whom the
        first waits for where ranks have several stages)."""
        if rank == 0 and ranks[:1] == (0,) and peer in (ranks[1], ranks[-1]) and self._assume(ranks):
            return [Rank(ranks[1], stages=ranks), Rank(ranks[-1])]
        return [Rank(one) for one in dict.fromkeys([peer, *ranks])]

    def _lent(self, peer: int, letter: str) -> bool:
        """Put a letter of a stage that does not run in its place."""
        if self.middle is None or peer not in self.middle.others or peer in self.codes:
            return False
        return peer not in self._known() and self.middle.lend(letter)

    def _second(self, rank: int) -> Rank | None:
        """A rank that is wanted as the second of a pipeline that rank 0 begins."""
        for group in self.recorded.first.groups:
            if group.ranks[:2] == (0, rank) and len(group.ranks) <= STAGES and self._assume(group.ranks):
                return Rank(rank, stages=group.ranks)
        return None

    def _again(self) -> tuple[int, Program | None]:
        """Run each stage after all."""
        self._wait(samples=True)
        for pattern in LEFT:
            for file in self.folder.glob(pattern):
                file.unlink(missing_ok=True)
        self.codes.clear()
        self.sampled.clear()
        self.recorded = Recorded(self.folder, self.recorded.world)
        self.middle, self.each, self.hang = None, True, ""
        return self._ran(everyone=False)

    # ------------------------------------------------------------ processes

    def _run(self, ranks: Iterable[Rank]) -> None:
        """Run these, and whom they wait for, to their ends."""
        for rank in ranks:
            self._start(rank)
        self._wait(samples=False)

    def _wait(self, samples: bool) -> None:
        """Until those that run have ended. samples: and those that only show what their like does."""
        while any(samples or rank.stands_in_for is None for rank in self.running.values()):
            self._load_libraries()
            self._reap()
            self._start_stages()
            self._start_awaited()
            SLEEP(POLL_S)

    def _start(self, rank: Rank) -> None:
        self._load_libraries()
        self._stop_note(rank.rank).unlink(missing_ok=True)  # one of a sample of it says nothing of the rank itself
        self.running[self.fork(rank, self.tokens)] = rank

    def _reap(self) -> None:
        for pid in list(self.running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            ended = self.running.pop(pid)
            rank, code = ended.rank, os.waitstatus_to_exitcode(status)
            note = self.folder / f"waiting-{rank}"
            if note.exists():
                note.unlink()
            else:
                os.write(self.tokens[1], b"t")  # its turn to compute goes to another
            if code == UNFOLD and ended.folded:
                self._start(replace(ended, folded=False))
                continue
            if ended.stands_in_for is not None:
                self.sampled[rank] = code
                continue
            self.codes[rank] = code
            if ended.stages and self.middle is not None:
                self._stood_for(self.middle)
            if code and not self.recorded.trained(rank):
                for other in self.running.values():
                    self._stop(other.rank, f"rank {rank} failed")

    def _stood_for(self, middle: Middle) -> None:
        """The second of a pipeline has left recordings of others, of which some are run to see whether they do so. Those of ranks that
        run themselves, as in a ring, are their own."""
        known = self._known()
        middle.played = [one for one in middle.others if one not in known and self.recorded.file(one).exists()]
        self.codes.update(dict.fromkeys(middle.played, 0))
        for stage in middle.samples if middle.played else ():
            self._start(Rank(stage, middle.ranks[1], brief=True))

    def _start_stages(self) -> None:
        """Start the stages of the pipeline that rank 0 has named."""
        note = self.folder / STAGES_OF_FIRST
        if not note.exists():
            return
        ranks = tuple(json.loads(note.read_text(encoding="utf-8")))
        note.unlink()
        if ranks[0] == 0 and 1 < len(ranks) <= STAGES and ranks[1] not in self._known():
            self._start_all(self._together(0, ranks[1], ranks))

    def _start_all(self, ranks: Iterable[Rank]) -> None:
        """Start those that neither run nor have ended."""
        known = self._known()
        for rank in ranks:
            if rank.rank not in known:
                known.add(rank.rank)
                self._start(rank)

    def _start_awaited(self) -> None:
        """Start the ranks that are waited for; where all wait for one another, say so and end them."""
        waiting: dict[int, Stuck] = {}
        awaited: dict[int, list[int]] = {}
        paused: set[int] = set()
        letters: list[Path] = []
        for note in self.folder.glob("waiting-*"):
            with contextlib.suppress(FileNotFoundError):
                rank = int(note.name.rpartition("-")[2])
                peer, ranks, letter, call, file, line = json.loads(note.read_text(encoding="utf-8"))
                if (self.folder / letter).exists():
                    continue  # it has come, and the rank is about to see it
                if letter == THROUGH:
                    paused.add(rank)
                    self._start_all(map(Rank, ranks))
                    continue
                if self._lent(peer, letter):
                    continue
                letters.append(self.folder / letter)
                waiting[rank] = Stuck(rank, 1, call, file, line, (peer,))
                awaited[rank] = ranks if len(ranks) <= STAGES else [peer]
        known = self._known()
        stand_ins = {rank.rank: rank.stands_in_for for rank in self.running.values()}
        for rank, stuck in waiting.items():
            (peer,) = stuck.waits_for
            if stand_ins.get(rank) is not None:
                self._stop(rank, f"{_waits(stuck)}, which nobody sent")
            elif self.middle is not None and peer in self.middle.others and peer not in known:
                continue  # its like has not come so far
            elif peer not in known and len(known) < MOST_RANKS:
                self._start_all(self._together(rank, peer, tuple(awaited[rank])))
                known = self._known()
            elif peer in self.codes:
                self._stop(rank, f"{_waits(stuck)}, which has ended without it", [] if self.codes[peer] else [stuck])
        if paused and {rank.rank for rank in self.running.values()} <= {*waiting, *paused}:
            put(self.folder / THROUGH, b"")  # nobody trains, or only with those that wait to see it
            return
        if any(letter.exists() for letter in letters):
            return  # notes are read one after the other: what a rank waited for may have come since its own was
        live = {rank.rank for rank in self.running.values()}
        if not live or not live <= set(waiting):
            return
        among_themselves = live.issuperset(peer for stuck in waiting.values() for peer in stuck.waits_for)
        if self.middle is not None and not among_themselves:
            for stage in self.middle.others:  # nobody can lend what they wait for
                if stage not in known:
                    self._start(Rank(stage))
        elif among_themselves:
            found = [waiting[rank] for rank in sorted(live)]
            text = "\n  ".join(map(_waits, sorted(waiting.values(), key=lambda one: one.waits_for)))
            for rank in live:
                self._stop(rank, f"every rank that runs waits for another:\n  {text}", found)

    def _known(self) -> set[int]:
        """The ranks that run or have ended; samples are none of them."""
        return {rank.rank for rank in self.running.values() if rank.stands_in_for is None} | set(self.codes)

    def _load_libraries(self) -> None:
        """Import here what the first rank has imported of installed libraries: once, not in each rank that starts."""
        note = self.folder / LIBRARIES
        if self.each or not note.exists() or self._loaded == (written := note.stat().st_mtime_ns):
            return  # (where each rank runs, all have started)
        self._loaded = written
        for name in json.loads(note.read_text(encoding="utf-8")):
            if name not in sys.modules:
                with contextlib.suppress(BaseException):  # a library that minds is imported by the ranks themselves
                    importlib.import_module(name)
        gc.freeze()

    def _stop(self, rank: int, text: str, stuck: Sequence[Stuck] = ()) -> None:
        """Tell a rank that waits that what it waits for never comes; stuck: who can never go on, where that is not since
        another has failed."""
        if stuck and not self.hang:
            self.hang, self.stuck = text, stuck
        note = self._stop_note(rank)
        if not note.exists():
            put(note, text)

    def _stop_note(self, rank: int) -> Path:
        return self.folder / f"stop-{rank}"

    def _interrupt(self, *_: Any) -> None:
        self.interrupted = True
        for pid in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)

    def _failed(self) -> int:
        return next((code for code in self.codes.values() if code), 0)

    # ------------------------------------------------------------ samples

    def _sample(self) -> bool:
        """Run whom the program tells apart, and the second and the last rank for a step, and keep them as classes of their own
        if they do otherwise. One that the program tells apart from all that ran goes on to the end: the comparison may come in
        a later step (`step == 2 and rank == 3`). False if a middle stage does not do as it was taken to."""
        self._run_apart()
        programs, streams = self.recorded.programs, self.recorded.streams
        owners = self.recorded.owners()
        wanted = {rank: int(owners[rank]) for rank in (1, self.recorded.world.size - 1) if rank not in programs}
        # Who has most to do first: the last of a pipeline has its loss, and would run alone in the end.
        late = self.recorded.of_no_kind_that_ran(sorted(wanted))
        for rank, owner in sorted(wanted.items(), key=lambda one: -streams[one[1]].size):
            self._start(Rank(rank, owner, long=rank in late, most_words=int(programs[owner].tape.size)))
        if wanted:
            self._pass_on()
        self._wait(samples=True)
        if self.middle is not None and not self._stages_agree(self.middle):
            return False
        for rank, owner in wanted.items():
            self._judge(rank, owner, rank in late)
        played = self.middle.played if self.middle is not None else ()
        differ = not self.each and self.recorded.differ_by_number() and not self._failed()
        if differ and not self.recorded.only_in_pieces():
            self._between()
        self.recorded.tell_unseen(played)
        return True

    def _between(self) -> None:
        """Find which of the ranks between the second and the last do as which, by halves: where each takes a share of what there is
        (`first = rank * share`), neighbours do the same. Where others than those that halves come to do not, it is told."""
        seen = self.recorded.did_as((1, self.recorded.world.size - 1))
        while middles := [
            (one + other) // 2 for one, other in pairwise(sorted(seen)) if other - one > 1 and seen[one] != seen[other]
        ]:
            if self.interrupted or len(seen) + len(middles) > MOST_BETWEEN:
                self.recorded.tell_of_between()
                return
            seen |= self._who(middles, seen)
        stretches = sorted(pairwise(sorted(seen)), key=lambda ends: ends[0] - ends[1])[:3]
        middles = [
            (one + other) // 2 + more for one, other in stretches for more in (0, 1)
        ]  # an even and an odd number
        others = self._who([rank for rank in middles if rank not in seen], seen)
        if any(owner != seen[max(one for one in seen if one < rank)] for rank, owner in others.items()):
            self.recorded.tell_of_between()
        else:
            self.recorded.place(seen | others)

    def _who(self, ranks: Sequence[int], seen: dict[int, int]) -> dict[int, int]:
        """Who does as each of these ranks, of which a step is run. seen: those of whom that is known."""
        nearest = {rank: seen[max(one for one in seen if one < rank)] for rank in ranks}
        for rank, owner in nearest.items():
            self._start(Rank(rank, owner, most_words=int(self.recorded.programs[owner].tape.size)))
        self._wait(samples=True)
        for rank, owner in nearest.items():
            self._judge(rank, owner, is_late=False)
        return self.recorded.did_as(ranks)

    def _stages_agree(self, middle: Middle) -> bool:
        """Whether the middle stages of a pipeline that were run for a while do as they were taken to."""
        if not middle.agree():
            return False  # on what samples were lent
        for stage in middle.samples if middle.played else ():
            found = self.recorded.sampled(stage)
            if self.sampled[stage] or found is None or not alike(stream(found), self.recorded.streams[stage]):
                return False
        if middle.played and middle.samples:
            self.recorded.tell_of_stages(middle)
        return True

    def _judge(self, rank: int, owner: int, is_late: bool) -> None:
        """A sample does as its owner, or as another rank that ran; else it runs under its own name."""
        programs, found = self.recorded.programs, self.recorded.sampled(rank)
        # By itself, or for want of mail, or sooner than others are through with it: under its own name it is seen.
        if not self.sampled[rank] and found is not None and not (is_late and leaves(found, programs[owner])):
            its = self.recorded.samples[rank] = stream(found)
            streams, owners = self.recorded.streams, self.recorded.owners()
            for ran in (owner, *streams):
                if alike(its, streams[ran]):
                    self.recorded.samples_of[rank] = int(owners[ran])
                    return
            for fuller in (owner, *programs):
                if within(found, programs[fuller]):
                    self.recorded.samples_of[rank] = fuller
                    self.recorded.tell_of_less(rank, fuller)
                    return
        self._run([Rank(rank)])
        self._read_all()

    def _run_apart(self) -> None:
        """Run a rank of each kind that the program's source tells apart from those that run anyway, and who has most to exchange."""
        if self.each:
            return
        known = {*self.codes, 1, self.recorded.world.size - 1}
        found = self.recorded.first_apart(known)
        self.recorded.tell_of_kinds(found, MOST_APART)
        apart = {*found[:MOST_APART], *fullest(self.recorded.first, known)}
        if apart:
            self._run(map(Rank, sorted(apart)))
            self._read_all()

    # ------------------------------------------------------------ the whole

    def _pass_on(self) -> None:
        """Make the draft, where one is wanted; only the first."""
        if self.draft is None or self.drafted:
            return
        first = self.recorded.joined(self.recorded.classes())
        self.drafted = [(one, one.members) for one in first.ranks]
        self.draft(first)

    def stands(self, program: Program) -> bool:
        """Whether the draft has the recordings of this program, for the same ranks."""
        found = [(one, one.members) for one in program.ranks]
        return len(found) == len(self.drafted) and all(
            one is other and mine == theirs for (one, mine), (other, theirs) in zip(found, self.drafted, strict=True)
        )

    def _assembled(self, members: dict[int, list[int]]) -> tuple[int, Program | None]:
        programs = self.recorded.programs
        failed = next((rank for rank, status in self.codes.items() if status), None)
        if failed:
            self._show_log(failed)
        if failed is not None and failed not in programs and not self.interrupted:
            return self._killed(failed), None  # nothing tells how far it came
        if failed is not None and failed not in members and failed in programs:
            # It did as others until it failed, and speaks for itself.
            members = {owner: [rank for rank in ranks if rank != failed] for owner, ranks in members.items()}
            members[failed] = [failed]
        first = self.recorded.joined(members)
        played = self.middle.played if self.middle is not None else []
        first.meta["ranks_run"] = sorted(programs.keys() - set(played))
        if self.interrupted:
            first.meta["interrupted"] = True
        code = self._failed()
        if code:
            first.meta["exit_code"] = code
        if code and self.hang:
            first.meta |= {"hang": self.hang, "stuck": [asdict(one) for one in self.stuck]}
        if failed is not None:
            first.meta["failed_rank"] = failed
        return code, first

    def _killed(self, rank: int) -> int:
        """The status of a rank that left no recording, which is noted: of one that a signal ended nothing else says which it was."""
        put(self.folder / f"program{KILLED}", str(rank))
        return self.codes.get(rank, 1)

    def _show_log(self, failed: int) -> None:
        """What a rank other than 0, which is heard anyway, said last."""
        log = self.folder / f"rank-{failed}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        # What an error was caused by stands above it, often far.
        causes = [line for line in lines[:-LAST_LINES] if ERROR.match(line)][-LAST_CAUSES:]
        print("\n".join([f"anychip: rank {failed} failed:", *causes, *lines[-LAST_LINES:]]), file=sys.stderr)


def _waits(stuck: Stuck) -> str:
    return f"rank {stuck.rank} waits in {stuck.call} for rank {stuck.waits_for[0]} ({stuck.place})"
