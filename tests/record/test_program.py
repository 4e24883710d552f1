"""A recording survives its file, and a damaged file is told from a whole one."""

import contextlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.errors import BadProgramFile
from anychip.record import Group, Kind, Op, Place, Program, Question, TensorMeta, word
from anychip.record.op import from_json, to_json
from anychip.record.order import Order, Stretch

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)
TENSORS = st.builds(
    lambda shape, dtype, chip: TensorMeta(shape, tuple(range(len(shape), 0, -1)), dtype, chip),
    SHAPES, st.sampled_from(["float32", "bfloat16", "int64", "bool"]), st.booleans(),
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=8)
ARGS = st.recursive(SCALARS | TENSORS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=8)


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)  # nan is not equal to itself, but prints so


@given(ARGS)
def test_arguments_survive_json(value: object) -> None:
    assert same(from_json(to_json(value)), value)


def program() -> Program:
    x = TensorMeta((4, 8), (8, 1), "float32")
    op = Op("aten.mm.default", (x, x), (("scale", float("inf")),), (x,), (0,))
    tape = np.array([word(Kind.ALLOC, 0), word(Kind.OP, 0), word(Kind.READ, 0), word(Kind.FREE, 0)], np.int64)
    place = Place("train.py", 7, "main")
    return Program(
        tape,
        [op],
        np.array([128], np.int64),
        ["net"],
        [place],
        [Question("capability", [9, 0], place)],
        {"argv": ["train.py"]},
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.builds(Op, st.just("aten.add.Tensor"), st.lists(ARGS, max_size=3).map(tuple)), max_size=4))
def test_a_program_survives_its_file(tmp_path_factory: pytest.TempPathFactory, ops: list[Op]) -> None:
    path = tmp_path_factory.mktemp("saved") / "p.anychip"
    saved = program()
    saved.ops.extend(ops)
    saved.save(path)
    loaded = Program.load(path)
    assert np.array_equal(loaded.tape, saved.tape)
    assert np.array_equal(loaded.block_bytes, saved.block_bytes)
    assert same(loaded.ops, saved.ops)
    assert (loaded.modules, loaded.places, loaded.questions, loaded.meta) == (
        saved.modules, saved.places, saved.questions, saved.meta,
    )  # fmt: skip


def test_saving_leaves_nothing_half_written(tmp_path: Path) -> None:
    broken = program()
    broken.meta["not json"] = object()
    with pytest.raises(TypeError):
        broken.save(tmp_path / "p.anychip")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_is_an_error_or_harmless(tmp_path_factory: pytest.TempPathFactory, at: int, bits: int) -> None:
    path = tmp_path_factory.mktemp("flipped") / "p.anychip"
    program().save(path)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= bits
    path.write_bytes(data)
    with contextlib.suppress(BadProgramFile):  # any other exception fails the test
        Program.load(path).check()


def test_missing_truncated_and_other_files(tmp_path: Path) -> None:
    whole = tmp_path / "p.anychip"
    program().save(whole)
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[:-30])
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("hello", "world")
    said = {}
    for path in (tmp_path / "none", cut, other, tmp_path):
        with pytest.raises(BadProgramFile, match=path.name) as error:
            Program.load(path)
        said[path] = str(error.value)
        assert "(" not in said[path].removeprefix(str(path))  # words, no exception as Python shows it
    assert "not a recorded program, or damaged. Record" in said[cut]
    assert "is a folder" in said[tmp_path]


def test_a_word_outside_its_table_is_refused(tmp_path: Path) -> None:
    wrong = program()
    wrong.tape = np.append(wrong.tape, word(Kind.OP, 5))
    wrong.save(tmp_path / "p")
    with pytest.raises(BadProgramFile, match="OP word points to entry 5 of 1"):
        Program.load(tmp_path / "p")


def test_a_word_of_a_kind_without_a_table_may_hold_any_number_and_an_unknown_kind_is_refused() -> None:
    one, kinds = program(), len(Kind)
    one.tape = np.append(one.tape, word(Kind.HOST, -1))
    one.check()
    one.tape = np.append(one.tape, np.int64(kinds))
    with pytest.raises(BadProgramFile, match=f"unknown word kind {kinds}"):
        one.check()


def test_an_expanded_dimension_moves_once() -> None:
    # [3, 5] with stride 0 in the first: 5 distinct elements of 2 bytes.
    assert TensorMeta((3, 5), (0, 1), "bfloat16").nbytes == 10
    assert TensorMeta((0, 5), (0, 1), "bfloat16").nbytes == 0


def test_the_ranks_of_a_job_share_one_file(tmp_path: Path) -> None:
    first, last = program(), program()
    group = Group(tuple(range(0, 16384, 8)), "dp")
    for one, rank in ((first, 0), (last, 16376)):
        one.rank, one.world_size, one.groups = rank, 16384, [group, Group((rank, 3, 5))]
    first.members, first.others = tuple(range(16376)), [last]
    first.save(tmp_path / "p.anychip")
    loaded = Program.load(tmp_path / "p.anychip")
    assert [(one.rank, one.world_size, one.groups) for one in loaded.ranks] == [
        (0, 16384, [group, Group((0, 3, 5))]),
        (16376, 16384, [group, Group((16376, 3, 5))]),
    ]
    assert loaded.members == tuple(range(16376))
    # Groups of thousands are kept as runs: the whole file stays small.
    assert (tmp_path / "p.anychip").stat().st_size < 6000


def test_whose_stretches_a_recording_is_survives_and_is_checked(tmp_path: Path) -> None:
    first, other = program(), program()
    other.order = Order(0, (Stretch(0, 3), Stretch(3, 5, again=True), Stretch(3, 5, again=True, of=1)))
    first.others = [other]
    first.save(tmp_path / "p.anychip")
    assert [one.order for one in Program.load(tmp_path / "p.anychip").ranks] == [None, other.order]
    with zipfile.ZipFile(tmp_path / "p.anychip") as whole, zipfile.ZipFile(tmp_path / "cut.anychip", "w") as cut:
        for name in whole.namelist():
            if not name.endswith("order.npy"):
                cut.writestr(name, whole.read(name))
    with pytest.raises(BadProgramFile, match="damaged"):
        Program.load(tmp_path / "cut.anychip")


@given(st.lists(st.integers(0, 40), unique=True).map(tuple))
def test_any_ranks_survive_as_runs(ranks: tuple[int, ...]) -> None:
    from anychip.record.program import _ranks, _runs

    assert _ranks(_runs(ranks)) == ranks


def test_groups_of_the_same_ranks_survive_and_those_of_older_files_are_the_first_of_theirs(tmp_path: Path) -> None:
    one, old = program(), tmp_path / "old.anychip"
    one.groups = [Group((0, 1), "tp"), Group((0, 1), "tp", 2)]
    one.save(tmp_path / "new.anychip")
    assert Program.load(tmp_path / "new.anychip").groups == one.groups
    with zipfile.ZipFile(tmp_path / "new.anychip") as new, zipfile.ZipFile(old, "w") as archive:
        for name in new.namelist():
            data = new.read(name)
            if name.endswith(".json"):
                head = json.loads(data)
                del head["copies"], head["groups"][1]
                data = json.dumps(head).encode()
            archive.writestr(name, data)
    assert Program.load(old).groups == [Group((0, 1), "tp")]


def test_a_collective_of_an_unknown_group_is_refused() -> None:
    one = program()
    one.ops.append(Op("c10d.allreduce_.default", ((), (), 1)))
    one.groups = [Group((0, 1))]
    with pytest.raises(BadProgramFile, match="group 1 of 1"):
        one.check()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 2**20) | st.integers(2**31, 2**40), max_size=40),
    st.sampled_from([True, False]),
)
def test_a_tape_survives_in_planes_of_bytes(
    tmp_path_factory: pytest.TempPathFactory, pauses_ns: list[int], packed: bool
) -> None:
    one, path = program(), tmp_path_factory.mktemp("saved") / "p.anychip"
    one.tape = np.array([word(Kind.HOST, pause) for pause in pauses_ns], np.int64)
    one.save(path, packed)
    assert Program.load(path).tape.tolist() == one.tape.tolist()
    assert Program.load(path).tape.dtype == np.int64


def test_a_tape_is_packed_to_a_third_of_what_its_words_are_packed_to(tmp_path: Path) -> None:
    """A long job's file was 52 MB, and took twice as long to write."""
    import zlib

    one, draw = program(), np.random.default_rng(0)
    ops = np.repeat(draw.integers(0, 4000, 1000), 20) + np.tile(np.arange(20), 1000)
    one.ops = one.ops * 5000
    one.tape = ops << 5 | int(Kind.OP)
    one.save(tmp_path / "p.anychip")
    with zipfile.ZipFile(tmp_path / "p.anychip") as archive:
        assert archive.getinfo("tape.npy").compress_size < len(zlib.compress(one.tape.tobytes(), 1)) / 1.5


def test_a_tape_in_planes_of_another_number_is_refused(tmp_path: Path) -> None:
    one = program()
    one.save(tmp_path / "p.anychip")
    with zipfile.ZipFile(tmp_path / "p.anychip") as whole, zipfile.ZipFile(tmp_path / "odd.anychip", "w") as odd:
        for name in whole.namelist():
            with odd.open(name, "w") as file:
                if name == "tape.npy":
                    np.save(file, np.zeros((3, 4), np.uint8))
                else:
                    file.write(whole.read(name))
    with pytest.raises(BadProgramFile, match="damaged"):
        Program.load(tmp_path / "odd.anychip")
