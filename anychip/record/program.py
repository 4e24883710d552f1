"""`Program`: what a program did, and the answers about its chip that it did it by; save and load."""

import io
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anychip.errors import BadProgramFile
from anychip.garbage import uncollected
from anychip.record.op import Op, TensorMeta, from_json, to_json
from anychip.record.order import Order
from anychip.record.tape import KIND_BITS, KIND_MASK, Kind, flags
from anychip.whole import whole

FORMAT = 3
_CANNOT_OPEN = {FileNotFoundError: "no such file", IsADirectoryError: "is a folder, not a recorded program",
                PermissionError: "no permission to read it"}  # fmt: skip
READABLE = (1, 2, 3)  # format 1 knew one rank only, and 2 no planes of bytes


class Place(NamedTuple):
    """A line of the user's source."""

    file: str
    line: int
    function: str

    @property
    def text(self) -> str:
        """As messages name it: train.py:12."""
        return f"{os.path.basename(self.file)}:{self.line}"


@dataclass(frozen=True)
class Group:
    """Ranks that communicate with one another, in the group's order. axis: the mesh dimension that the group is a row
    of ("tp", "pp", "dp_shard"), where the program named one. copy: how many groups of the same ranks were made before it."""

    ranks: tuple[int, ...]
    axis: str | None = None
    copy: int = 0


@dataclass(frozen=True)
class Question:
    """Something the program asked about its chip, and what it was told: on a chip that would answer
    otherwise the program might have done something else."""

    name: str
    answer: Any
    place: Place

    @property
    def words(self) -> str:
        return question_words(self.name)


# As a reader would ask them; others by their names.
QUESTIONS = {
    "multi_processor_count": "cores", "memory_bytes": "memory", "arch": "architecture", "L2_bytes": "L2 cache", "power_w": "power",
    "compiles_whole": "whether steps are compiled whole", "tf32": "TF32",
}  # fmt: skip


def question_words(name: str) -> str:
    """supports.float64.matmul is float64 matmul."""
    return QUESTIONS.get(name) or name.removeprefix("supports.").replace(".", " ").replace("_", " ")


@dataclass(eq=False)
class Program:
    """A recorded program; equal to itself alone.

    tape: int64 words (see `record.tape`). ops, modules, places: what payloads index. block_bytes: size of
    each memory block. meta: plain JSON: argv, torch version, the chip that answered, warnings, wall
    seconds, exit status. Invariant: every payload is inside its table (`check`).

    Of a job of several ranks it is one rank's: rank, of world_size; groups: the process groups that it is in, which
    collectives name by index; members: the ranks that did the same as this one, itself included; others: one recording
    for each class of ranks that did something else, each without others of its own; order: of which of them its tape is the
    stretches in another order, where it was put together so.
    """

    tape: npt.NDArray[np.int64]
    ops: list[Op]
    block_bytes: npt.NDArray[np.int64]
    modules: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    rank: int = 0
    world_size: int = 1
    groups: list[Group] = field(default_factory=list)
    members: tuple[int, ...] = (0,)
    others: "list[Program]" = field(default_factory=list)
    order: Order | None = None

    @property
    def ran(self) -> list[int]:
        """This job's ranks that ran from end to end: of each kind one or, where it was run to confirm it, more; of stages
        that another stood for none."""
        return list(self.meta.get("ranks_run", [one.rank for one in self.ranks]))

    @property
    def ranks(self) -> "list[Program]":
        """The recordings of all distinct ranks, this one first."""
        return [self, *self.others]

    @property
    def kinds(self) -> npt.NDArray[np.int64]:
        return self.tape & KIND_MASK

    @property
    def payloads(self) -> npt.NDArray[np.int64]:
        return self.tape >> KIND_BITS

    @property
    def launches(self) -> npt.NDArray[np.int64]:
        """How often each of `ops` stands on the tape."""
        return np.bincount(self.payloads[self.kinds == Kind.OP], minlength=len(self.ops))

    def save(self, path: str | os.PathLike[str], packed: bool = True) -> None:
        """Write one file (a zip of two numpy arrays and a JSON text for each rank), whole or not at all. packed: smaller,
        for a file that is kept."""
        how = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        with whole(path) as place, zipfile.ZipFile(place, "w", how, compresslevel=1) as archive:
            for number, program in enumerate(self.ranks):
                program._write(archive, _folder(number), packed)

    def _write(self, archive: zipfile.ZipFile, folder: str, packed: bool) -> None:
        text = json.dumps({
            "format": FORMAT,
            "ops": [[op.name, to_json(op.args), [[k, to_json(v)] for k, v in op.kwargs],
                     [list(out) for out in op.outputs], list(op.mutates)] for op in self.ops],
            "modules": self.modules,
            "places": self.places,
            "questions": [[q.name, q.answer, q.place] for q in self.questions],
            "meta": self.meta,
            "rank": self.rank,
            "world_size": self.world_size,
            "groups": [[group.axis, _runs(group.ranks)] for group in self.groups],
            "copies": [group.copy for group in self.groups],
            "members": _runs(self.members),
            "others": len(self.others),
            "order_of": self.order.of if self.order is not None else None,
        })  # fmt: skip
        archive.writestr(f"{folder}program.json", text)
        arrays = {"tape": _planes(self.tape) if packed else self.tape, "block_bytes": self.block_bytes}
        if self.order is not None:
            arrays["order"] = self.order.rows()
        for name, array in arrays.items():
            with archive.open(f"{folder}{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)

    @classmethod
    @uncollected()
    def load(cls, path: str | os.PathLike[str]) -> "Program":
        """Read a saved program; executes nothing from it.

        Raises BadProgramFile for anything that is not a whole program of a format this version reads.
        """
        try:
            # What unpacks and checks large arrays leaves room for another thread meanwhile.
            with zipfile.ZipFile(path) as archive, ThreadPoolExecutor() as pool:
                program, others = cls._read(archive, _folder(0), path)
                folders = [_folder(1 + number) for number in range(others)]
                program.others = [one for one, _ in pool.map(lambda folder: cls._read(archive, folder, path), folders)]
        except BadProgramFile:
            raise
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise BadProgramFile(f"{path}: {_CANNOT_OPEN[type(error)]}.") from None
        except Exception as error:  # a damaged archive fails in many ways; each means the same to the user
            raise BadProgramFile(f"{path}: not a recorded program, or damaged. Record it again.") from error
        return program

    @classmethod
    def _read(cls, archive: zipfile.ZipFile, folder: str, path: Any) -> "tuple[Program, int]":
        """One rank's recording, checked, and how many others follow it."""
        head = json.loads(archive.read(f"{folder}program.json"))
        if head["format"] not in READABLE:
            raise BadProgramFile(
                f"{path}: program format {head['format']}, this anychip reads {FORMAT}. Record it again."
            )

        def array(name: str) -> Any:
            return np.load(io.BytesIO(archive.read(f"{folder}{name}.npy")), allow_pickle=False)

        order_of = head.get("order_of")
        program = cls(
            tape=_words(array("tape")),
            ops=[Op(name, from_json(args), tuple((k, from_json(v)) for k, v in kwargs),
                    tuple(TensorMeta(tuple(s), tuple(st), d, c) for s, st, d, c in outputs), tuple(mutates))
                 for name, args, kwargs, outputs, mutates in head["ops"]],
            block_bytes=array("block_bytes"),
            modules=head["modules"],
            places=[Place(*place) for place in head["places"]],
            questions=[Question(name, answer, Place(*place)) for name, answer, place in head["questions"]],
            meta=head["meta"],
            rank=head.get("rank", 0),
            world_size=head.get("world_size", 1),
            groups=_groups(head.get("groups", []), head.get("copies")),
            members=_ranks(head.get("members", [[0, 1, 1]])),
            order=Order.of_rows(order_of, array("order")) if order_of is not None else None,
        )  # fmt: skip
        program.check()
        return program, int(head.get("others", 0))

    def check(self) -> None:
        """Raise BadProgramFile if a word points outside its table."""
        if self.tape.ndim != 1 or self.tape.dtype != np.int64 or self.block_bytes.dtype != np.int64:
            raise BadProgramFile("program: the tape must be a flat array of int64. Record it again.")
        kinds, payloads = self.kinds, self.payloads
        tables = {Kind.OP: len(self.ops), Kind.ALLOC: len(self.block_bytes), Kind.FREE: len(self.block_bytes),
                  Kind.READ: len(self.places), Kind.ENTER: len(self.modules), Kind.NODE: len(self.modules),
                  Kind.AT: len(self.places)}  # fmt: skip
        if kinds.size and kinds.max() >= len(Kind):
            raise BadProgramFile(f"program: unknown word kind {kinds.max()}. It was recorded by a newer anychip.")
        sizes = np.full(KIND_MASK + 1, np.iinfo(np.uint64).max)
        sizes[list(tables)] = list(tables.values())
        # read as unsigned, what is below zero is beyond them, too
        outside = np.flatnonzero((payloads.view(np.uint64) >= sizes[kinds]) & flags(tables)[kinds])
        if outside.size:
            kind, payload = Kind(int(kinds[outside[0]])), payloads[outside[0]]
            raise BadProgramFile(f"program: a {kind.name} word points to entry {payload} of {tables[kind]}.")
        for op in self.ops:
            if op.name.startswith("c10d.") and not 0 <= op.args[2] < len(self.groups):
                raise BadProgramFile(f"program: {op.name} is called on group {op.args[2]} of {len(self.groups)}.")


def _planes(words: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """[bytes of a word, words], the lowest byte first: where each byte stands beside its like a tape is packed to a third of what it is
    packed to as it stands, in half of the time (shuffling, as in HDF5)."""
    fits = words.size == 0 or np.iinfo(np.int32).min <= words.min() <= words.max() <= np.iinfo(np.int32).max
    narrow = words.astype("<i4" if fits else "<i8")
    return np.ascontiguousarray(narrow.view(np.uint8).reshape(words.size, narrow.itemsize).T)


def _words(stored: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """A tape as it is stored: in planes of bytes, or as it is."""
    if stored.ndim != 2 or stored.dtype != np.uint8:
        return stored
    return np.ascontiguousarray(stored.T).view(f"<i{len(stored)}").ravel().astype(np.int64)


def _folder(number: int) -> str:
    return f"ranks/{number}/" if number else ""


def _groups(groups: list[Any], copies: list[int] | None) -> list[Group]:
    """copies: None in files of before, which had one group for each set of ranks."""
    return [
        Group(_ranks(runs), axis, copy) for (axis, runs), copy in zip(groups, copies or [0] * len(groups), strict=True)
    ]


def _runs(ranks: tuple[int, ...]) -> list[list[int]]:
    """Ranks as [first, count, stride] runs: groups of 16,384 are one entry, not as many numbers."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs:
            first, count, stride = runs[-1]
            if count == 1:
                runs[-1] = [first, 2, rank - first]
                continue
            if rank == first + count * stride:
                runs[-1][1] += 1
                continue
        runs.append([rank, 1, 1])
    return runs


def _ranks(runs: list[list[int]]) -> tuple[int, ...]:
    return tuple(first + i * stride for first, count, stride in runs for i in range(count))
