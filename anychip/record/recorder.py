"""`Recorder`: the tape and tables of a `Program` while the program is still running."""

import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from anychip.record import Kind, Op, Place, Program, Question, word
from anychip.record.loops import Around, Wanted, loop_around, wanted

PACKAGE = str(Path(__file__).resolve().parent.parent)


class Recorder:
    """Grows a Program. `tape` is a plain list of ints: appending to it is all that a recorded op costs.

    Invariant: an index handed out is never reused, so words already on the tape stay true.
    """

    def __init__(self) -> None:
        self.tape: list[int] = []
        self.ops: list[Op] = []
        self.block_bytes: list[int] = []
        self.modules: list[str] = []
        self.places: list[Place] = []
        self.questions: list[Question] = []
        self.warnings: dict[str, int] = {}
        self.tensors: dict[str, int] = {}  # bytes of parameters and the like, by block (see hooks)
        self._op_words: dict[Op, int] = {}
        self._module_index: dict[str, int] = {}
        self._place_index: dict[Place, int] = {}
        self._asked: set[tuple[str, str]] = set()

    def op_word(self, op: Op) -> int:
        """The word that stands for this op; equal ops share it."""
        found = self._op_words.get(op)
        if found is None:
            found = self._op_words[op] = word(Kind.OP, len(self.ops))
            self.ops.append(op)
        return found

    def module(self, path: str, own: bool = False) -> int:
        """The index of a module of this name. own: another one than what was called so before, as stages of one class are."""
        if own or path not in self._module_index:
            self._module_index[path] = len(self.modules)
            self.modules.append(path)
        return self._module_index[path]

    def read(self) -> None:
        """The host reads a value of the chip: it waits, and the report can say where."""
        self.tape.append(word(Kind.READ, self.place(user_place())))

    def place(self, place: Place) -> int:
        """The index of a line of source; equal ones share it."""
        if place not in self._place_index:
            self._place_index[place] = len(self.places)
            self.places.append(place)
        return self._place_index[place]

    def ask(self, name: str, answer: Any, place: Place | None = None) -> Any:
        """Note a question about the chip and the answer it got, once per answer; returns the answer. place: the line that asked,
        where it is not the one that runs now."""
        key = (name, repr(answer))
        if key not in self._asked:
            self._asked.add(key)
            self.questions.append(Question(name, answer, place or user_place()))
        return answer

    def warn(self, text: str) -> None:
        """A warning for the report; equal ones are counted."""
        self.warnings[text] = self.warnings.get(text, 0) + 1

    def program(self, meta: dict[str, Any]) -> Program:
        """What was recorded so far, as a value."""
        warnings = [text if count == 1 else f"{text} ({count} times)" for text, count in self.warnings.items()]
        return Program(
            tape=np.array(self.tape, dtype=np.int64),
            ops=list(self.ops),
            block_bytes=np.array(self.block_bytes, dtype=np.int64),
            modules=list(self.modules),
            places=list(self.places),
            questions=list(self.questions),
            meta={"warnings": warnings, **meta},
        )


def user_frame() -> FrameType | None:
    """The innermost frame that is neither anychip's nor torch's nor the interpreter's own."""
    frame: FrameType | None = sys._getframe(1)
    fallback = None
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) and not name.startswith("<"):
            if not _library(name):
                return frame
            fallback = fallback or frame
        frame = frame.f_back
    return fallback


def user_place() -> Place:
    frame = user_frame()
    if frame is None:
        return Place("?", 0, "?")
    return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def waits_for() -> tuple[Around, Wanted | None]:
    """The innermost loop around what is read now, which may wait for it; none where a function of torch.nn reads (those which draw weights
    again until they lie within bounds do, once for each tensor). And what a loop's condition or a check that it is wants of it
    (`wanted`). A function mode (`torch.set_default_device`) stands between a read and the line that reads."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (
        frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name == "__torch_function__"
    ):
        frame = frame.f_back
    if frame is None or "/torch/nn/" in frame.f_code.co_filename:
        return Around.NONE, None
    return loop_around(frame), wanted(frame)


def failed_place(error: BaseException) -> Place | None:
    """The innermost line of the program's own that an error went through: of an installed package where all is of packages."""
    found: dict[bool, Place] = {}
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith((PACKAGE, "<")) and not _library(code.co_filename):
            found[_installed(code.co_filename)] = Place(code.co_filename, trace.tb_lineno, code.co_name)
        trace = trace.tb_next
    return found.get(False) or found.get(True)


_is_library: dict[str, bool] = {}
_is_standard: dict[str, bool] = {}


def _library(filename: str) -> bool:
    found = _is_library.get(filename)
    if found is None:
        # The last stands around what torch has as deprecated, dist.all_gather_into_tensor among it.
        wraps = "/torch/" in filename or filename.endswith("/typing_extensions.py")
        found = _is_library[filename] = wraps or _standard(filename)
    return found


def _standard(filename: str) -> bool:
    found = _is_standard.get(filename)
    if found is None:
        from_library = "/lib/python" in filename and not _installed(filename)
        found = _is_standard[filename] = from_library or filename.startswith("<frozen")
    return found


def _installed(filename: str) -> bool:
    return "site-packages" in filename or "dist-packages" in filename


def is_standard_library(depth: int) -> bool:
    """Whether the frame `depth` calls up is code of Python's standard library."""
    return _standard(sys._getframe(depth).f_code.co_filename)
