"""The middle stages of a pipeline from one of them: what they leave is what each leaves that really runs."""

import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anychip.device.distributed.job import Job, Rank
from anychip.device.distributed.mailbox import Mailbox
from anychip.device.distributed.middle import Middle
from anychip.device.distributed.stages import moved
from anychip.device.launch import record
from anychip.job import forecast_job
from anychip.network import Fabric
from anychip.record import Group, Kind, Op, Program
from anychip.spec import load_chip
from anychip.timeline.memory import memory

# A schedule that nobody else knows, and those whose ranks do a stage's backwards in turns of their own.
EACH = ("Own", "ScheduleInterleavedZeroBubble")
PIPELINE = Path(__file__).parent / "programs" / "pipeline.py"


def happenings(program: Program) -> list[tuple[str, object]]:
    """Ops with their peers, streams and marks; not the names of blocks and events, nor lines."""
    kept = (Kind.OP, Kind.STREAM, Kind.MARK, Kind.BATCH, Kind.RECORD, Kind.WAIT)
    words = zip(program.kinds.tolist(), program.payloads.tolist(), strict=True)
    return [
        (
            Kind(kind).name,
            program.ops[payload] if kind == Kind.OP else payload if kind not in (Kind.RECORD, Kind.WAIT) else 0,
        )
        for kind, payload in words
        if kind in kept
    ]


def operations(program: Program) -> Counter[Op]:
    return Counter(what for kind, what in happenings(program) if kind == "OP")


@pytest.mark.parametrize(
    ("schedule", "more"),
    [
        ("Schedule1F1B", ()),
        ("Schedule1F1B", ("fsdp",)),
        ("ScheduleGPipe", ()),
        ("Own", ()),
        ("ScheduleInterleaved1F1B", ()),
        ("ScheduleInterleaved1F1B", ("fsdp",)),
        ("ScheduleInterleavedZeroBubble", ()),
    ],
)
def test_stages_that_did_not_run_are_as_those_that_do(schedule: str, more: tuple[str, ...]) -> None:
    chip, few = load_chip("h100"), {}
    world = 12 if more else 6
    for ranks in ("distinct", "all"):
        argv = [str(PIPELINE), "6", "12", schedule, *more]
        few[ranks] = record(argv, chip, world_size=world, devices=6, show_output=False, ranks=ranks, steps=2)
    taken, each = few["distinct"], few["all"]
    stood_for = any("took the places of" in text for text in taken.meta["warnings"])
    assert stood_for == (schedule not in EACH), taken.meta["warnings"]
    assert (len(taken.ran) < len(taken.ranks)) == stood_for
    assert each.meta["ranks_run"] == list(range(world))
    others = {one.rank: one for one in each.ranks}
    for one in taken.ranks:
        other = others[one.rank]
        assert one.members == other.members or more
        assert one.groups == other.groups
        if "ZeroBubble" in schedule:  # (torch adds up a module's weight and bias in the order of a set)
            assert operations(one) == operations(other)
            continue
        assert happenings(one) == happenings(other)
        assert memory(one).peak_bytes == memory(other).peak_bytes
    times = [forecast_job(one, chip, Fabric.of(chip, world)).step_time_s for one in (taken, each)]
    assert abs(times[0] / times[1] - 1) < 1e-3


def test_a_recording_moves_to_another_place_of_the_pipeline() -> None:
    # Rank 4 is the second of 0, 4, 8, 12, and in a group of 4, 5, 6, 7; moved to 8 it sends to 12 and sums up with 9 to 11.
    line, row = Group((0, 4, 8, 12), "pp"), Group((4, 5, 6, 7), "dp")
    ops = [Op("c10d.send.default", ((), (), 0), (("peer", 8),)), Op("c10d.recv_.default", ((), (), 0), (("peer", 0),)),
           Op("c10d.broadcast_.default", ((), (), 0), (("root", 12),)), Op("c10d.broadcast_.default", ((), (), 1), (("root", 4),)),
           Op("c10d.allreduce_.default", ((), (), 1), (("op", "sum"),)), Op("aten.mm.default")]  # fmt: skip
    none = np.zeros(0, np.int64)
    program = Program(none, ops, none, rank=4, world_size=16, groups=[line, row])
    moved(program, 4, 8)
    assert [op.kwarg("peer") for op in program.ops[:2]] == [12, 4]
    assert [op.kwarg("root") for op in program.ops[2:4]] == [12, 8]
    assert program.groups == [line, Group((8, 9, 10, 11), "dp")]
    assert (program.rank, program.members) == (8, (8,))


def test_stages_start_when_the_first_names_them_and_not_when_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # a job hears Ctrl-C for its ranks
    started: list[Rank] = []

    def fork(rank: Rank, tokens: tuple[int, int]) -> int:
        started.append(rank)
        child = os.fork()
        if not child:
            if rank.rank == 0:
                Mailbox(tmp_path, 0, None, tokens).tell_stages(range(0, 32, 4))
            os._exit(0)
        return child

    Job(tmp_path, world_size=32, per_node=8, jobs=2, fork=fork).run(everyone=False)
    assert started == [Rank(0), Rank(4, stages=tuple(range(0, 32, 4))), Rank(28)]


def test_letters_are_lent_from_like_neighbours_and_have_to_be_what_the_second_writes(tmp_path: Path) -> None:
    middle = Middle(tmp_path, tuple(range(0, 32, 4)))
    assert not middle.lend("mail-8-4-0")  # nobody has written to the one before him
    (tmp_path / "mail-28-24-0").write_bytes(b"shapes")
    assert middle.lend("mail-8-4-0")
    assert (tmp_path / "mail-8-4-0").read_bytes() == b"shapes"
    middle.played = [8]
    assert not middle.agree()  # the second has yet to write
    (tmp_path / "mail-4-0-0").write_bytes(b"shapes")
    assert middle.agree()
    (tmp_path / "mail-4-0-0").write_bytes(b"others")
    assert not middle.agree()
    assert middle.samples == (16, 24)  # of 0, 4 ... 28: the second is 4
    # The last is written to by the one before it as the third is by the second, and only so.
    (tmp_path / "mail-0-4-0").write_bytes(b"tokens")
    assert not middle.lend("mail-24-28-0")
    (tmp_path / "mail-4-8-0").write_bytes(b"activations")
    assert middle.lend("mail-24-28-0")
    assert (tmp_path / "mail-24-28-0").read_bytes() == b"activations"
