"""`Program`: what a program did, and the answers about its chip that it did it by; save and load."""

import io
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anychip.errors import BadProgramFile
from anychip.record.op import Op, TensorMeta, from_json, to_json
from anychip.record.tape import KIND_BITS, KIND_MASK

FORMAT = 1


class Place(NamedTuple):
    """A line of the user's source."""

    file: str
    line: int
    function: str


@dataclass(frozen=True)
class Question:
    """Something the program asked about its chip, and what it was told: on a chip that would answer
    otherwise the program might have done something else."""

    name: str
    answer: Any
    place: Place


@dataclass
class Program:
    """A recorded program.

    tape: int64 words (see `record.tape`). ops, modules, places: what payloads index. block_bytes: size of
    each memory block. meta: plain JSON: argv, torch version, the chip that answered, warnings, wall
    seconds, exit status. Invariant: every payload is inside its table (`check`).
    """

    tape: npt.NDArray[np.int64]
    ops: list[Op]
    block_bytes: npt.NDArray[np.int64]
    modules: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def kinds(self) -> npt.NDArray[np.int64]:
        return self.tape & KIND_MASK

    @property
    def payloads(self) -> npt.NDArray[np.int64]:
        return self.tape >> KIND_BITS

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file (a zip of two numpy arrays and a JSON text), whole or not at all."""
        path = Path(path)
        text = json.dumps({
            "format": FORMAT,
            "ops": [[op.name, to_json(op.args), [[k, to_json(v)] for k, v in op.kwargs],
                     [list(out) for out in op.outputs], list(op.mutates)] for op in self.ops],
            "modules": self.modules,
            "places": self.places,
            "questions": [[q.name, q.answer, q.place] for q in self.questions],
            "meta": self.meta,
        })  # fmt: skip
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                archive.writestr("program.json", text)
                for name, array in (("tape", self.tape), ("block_bytes", self.block_bytes)):
                    buffer = io.BytesIO()
                    np.save(buffer, array, allow_pickle=False)
                    archive.writestr(f"{name}.npy", buffer.getvalue())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Program":
        """Read a saved program; executes nothing from it.

        Raises BadProgramFile for anything that is not a whole program of a format this version reads.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                head = json.loads(archive.read("program.json"))
                if head["format"] != FORMAT:
                    raise BadProgramFile(
                        f"{path}: program format {head['format']}, this anychip reads {FORMAT}. Record it again."
                    )
                arrays = {
                    name: np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
                    for name in ("tape", "block_bytes")
                }
            program = cls(
                tape=arrays["tape"],
                ops=[Op(name, from_json(args), tuple((k, from_json(v)) for k, v in kwargs),
                        tuple(TensorMeta(tuple(s), tuple(st), d, c) for s, st, d, c in outputs), tuple(mutates))
                     for name, args, kwargs, outputs, mutates in head["ops"]],
                block_bytes=arrays["block_bytes"],
                modules=head["modules"],
                places=[Place(*place) for place in head["places"]],
                questions=[Question(name, answer, Place(*place)) for name, answer, place in head["questions"]],
                meta=head["meta"],
            )  # fmt: skip
            program.check()
        except BadProgramFile:
            raise
        except FileNotFoundError:
            raise BadProgramFile(f"{path}: no such file.") from None
        except Exception as error:  # a damaged archive fails in many ways; each means the same to the user
            raise BadProgramFile(f"{path}: not a recorded program, or damaged ({error!r}). Record it again.") from error
        return program

    def check(self) -> None:
        """Raise BadProgramFile if a word points outside its table."""
        from anychip.record.tape import Kind

        if self.tape.ndim != 1 or self.tape.dtype != np.int64 or self.block_bytes.dtype != np.int64:
            raise BadProgramFile("program: the tape must be a flat array of int64. Record it again.")
        kinds, payloads = self.kinds, self.payloads
        tables = ((Kind.OP, len(self.ops)), (Kind.ALLOC, len(self.block_bytes)), (Kind.FREE, len(self.block_bytes)),
                  (Kind.READ, len(self.places)), (Kind.ENTER, len(self.modules)))  # fmt: skip
        for kind, size in tables:
            payload = payloads[kinds == kind]
            if payload.size and (payload.min() < 0 or payload.max() >= size):
                raise BadProgramFile(f"program: a {kind.name} word points to entry {payload.max()} of {size}.")
        if kinds.size and kinds.max() >= len(Kind):
            raise BadProgramFile(f"program: unknown word kind {kinds.max()}. It was recorded by a newer anychip.")
