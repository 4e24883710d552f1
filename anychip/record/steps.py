"""Where a recorded program's training steps begin and end, and in which phase each word stands.

A step ends at the last OPTIMIZER_END before the next outermost forward; without any optimizer each outermost call of a
module is a step of kind "call", or each round of several that are called in turn, as a draft model's and that of the one that checks it. With --step-mark each return of the named
function ends one instead. A forward inside a backward is a recomputation (activation checkpointing), no new step. Where no
trained module is called (weights that are bare tensors, a frozen network whose input is trained), each round of the
optimizers is a step, or without any, each backward.
"""

import re
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from anychip.record.program import Program
from anychip.record.tape import KIND_BITS, KIND_MASK, Kind, Mark

Ints = npt.NDArray[np.int64]


class Phase(IntEnum):
    """What a word of the tape is part of."""

    OTHER = 0
    FORWARD = 1
    BACKWARD = 2
    OPTIMIZER = 3


PHASES = tuple(phase.name.lower() for phase in Phase)
BEGINS = {
    Mark.FORWARD_BEGIN: Phase.FORWARD,
    Mark.INFER_BEGIN: Phase.FORWARD,
    Mark.BACKWARD_BEGIN: Phase.BACKWARD,
    Mark.OPTIMIZER_BEGIN: Phase.OPTIMIZER,
}
ENDS = {
    Mark.FORWARD_END: Phase.FORWARD,
    Mark.INFER_END: Phase.FORWARD,
    Mark.BACKWARD_END: Phase.BACKWARD,
    Mark.OPTIMIZER_END: Phase.OPTIMIZER,
}


@dataclass(frozen=True)
class Step:
    """Words begin..end (end excluded) of a tape. kind: "train" or "call". forwards: where its outermost forwards begin."""

    begin: int
    end: int
    kind: str
    forwards: tuple[int, ...]


# Of recordings that live, with the tapes that they are of: each figure asks where steps begin and end.
_found: WeakKeyDictionary[Program, tuple[Ints, tuple[Step, ...]]] = WeakKeyDictionary()


def find_steps(program: Program) -> list[Step]:
    """All whole steps, in order. Empty if the program never finished one."""
    tape, steps = _found.get(program, (None, ()))
    if tape is not program.tape:
        marks = Marks(program)
        steps = tuple(_marked_steps(marks) or _training_steps(marks) or _bare_steps(marks) or _calls(marks))
        _found[program] = program.tape, steps
    return [*steps]


class Marks:
    """The marks of a tape: `at`, their positions, `what`, which mark each is, `optimizer`, which one had stepped last;
    forwards that are recomputed inside a backward are left out, and backwards that are run inside one (both are what a
    reentrant checkpoint does)."""

    def __init__(self, program: Program) -> None:
        self.program = program
        positions = np.flatnonzero(program.kinds == Kind.MARK)
        marks = program.payloads[positions]
        begins = marks == Mark.BACKWARD_BEGIN
        opened = np.cumsum(begins.astype(np.int64) - (marks == Mark.BACKWARD_END))
        inside = opened - begins > 0
        calls = np.isin(marks, (Mark.FORWARD_BEGIN, Mark.FORWARD_END, Mark.INFER_BEGIN, Mark.INFER_END))
        keep = ~(inside & (calls | begins | (marks == Mark.BACKWARD_END)))
        self.at: Ints = positions[keep]
        self.what: Ints = marks[keep]
        named = np.flatnonzero(program.kinds == Kind.OPTIMIZER)
        latest = np.searchsorted(named, self.at, side="right") - 1
        numbers = np.append(program.payloads[named], 0)
        # The optimizer that the last OPTIMIZER word named; 0 where none was.
        self.optimizer: Ints = np.where(latest >= 0, numbers[np.maximum(latest, 0)], 0)
        outermost = self._outermost()
        self.at, self.what, self.optimizer = self.at[outermost], self.what[outermost], self.optimizer[outermost]

    def _outermost(self) -> npt.NDArray[np.bool_]:
        """Which marks to keep: an optimizer that steps others (torchtitan's container) is one, and ends when it does itself.

        One that failed midway, and so has no end, is over at the next outermost forward or when it begins again."""
        keep = np.ones(self.at.size, bool)
        opened: list[int] = []
        for i in np.flatnonzero(
            np.isin(self.what, (Mark.OPTIMIZER_BEGIN, Mark.OPTIMIZER_END, Mark.FORWARD_BEGIN))
        ).tolist():
            mark, number = int(self.what[i]), int(self.optimizer[i])
            if mark == Mark.FORWARD_BEGIN:
                opened.clear()  # a closure's forward: the end that follows is that of the latest
            elif mark == Mark.OPTIMIZER_BEGIN:
                if number in opened:
                    del opened[opened.index(number) :]
                keep[i] = not opened
                opened.append(number)
            elif opened:
                self.optimizer[i] = opened.pop()
                keep[i] = not opened
        return keep

    def phase(self) -> npt.NDArray[np.int8]:
        """For each word of the tape its Phase: of the innermost that has begun and not ended, as a closure's
        backward is inside its optimizer, and a gradient that a model takes of itself inside its forward."""
        opened: list[Phase] = []
        values = [Phase.OTHER]
        for mark in self.what.tolist():
            if mark == Mark.OPTIMIZER_BEGIN and BEGINS[mark] in opened:
                # The last one failed midway: those that are left are outermost.
                del opened[opened.index(BEGINS[mark]) :]
            if mark in BEGINS:
                opened.append(BEGINS[mark])
            elif ENDS.get(mark) in opened:
                while opened.pop() != ENDS[mark]:
                    pass  # one that failed midway has no end
            elif mark == Mark.OPTIMIZER_END:
                values[-1] = Phase.OPTIMIZER  # a program's own, whose begin is not seen: all since what was before it
            values.append(opened[-1] if opened else Phase.OTHER)
        edges = np.concatenate([[0], self.at, [self.program.tape.size]])
        return np.repeat(np.array(values, np.int8), np.diff(edges))

    def learns(self) -> npt.NDArray[np.bool_]:
        """For each word whether the call that began last is one with gradients."""
        begins = np.isin(self.what, (Mark.FORWARD_BEGIN, Mark.INFER_BEGIN))
        edges = np.concatenate([[0], self.at[begins], [self.program.tape.size]])
        return np.repeat(np.append(False, self.what[begins] == Mark.FORWARD_BEGIN), np.diff(edges))

    def updates(self) -> npt.NDArray[np.bool_]:
        """For each word whether it is of an optimizer's own work. What stands around a backward inside of one, a closure's loss, is not."""
        found: npt.NDArray[np.bool_] = self.phase() == Phase.OPTIMIZER
        begin, closure = -1, False
        for at, mark in zip(self.at.tolist(), self.what.tolist(), strict=True):
            if mark == Mark.OPTIMIZER_BEGIN:
                begin, closure = at, False
            elif mark == Mark.BACKWARD_BEGIN:
                closure = True
            elif mark == Mark.OPTIMIZER_END and begin >= 0:
                found[begin:at] &= not closure
                begin = -1
        return found

    @cached_property
    def recomputed(self) -> npt.NDArray[np.bool_]:
        """For each word: a module is called inside a backward, so what runs there was run before."""
        kinds = self.program.kinds
        depth = np.cumsum((kinds == Kind.ENTER).astype(np.int64) - (kinds == Kind.EXIT))
        phase = self.phase()
        begins = self.at[self.what == Mark.BACKWARD_BEGIN]
        if not begins.size:
            return np.zeros(kinds.size, bool)
        # A backward may itself be called from inside a module; count from the depth at which it began.
        latest = np.searchsorted(begins, np.arange(kinds.size), side="right") - 1
        base = np.where(latest >= 0, depth[begins[np.maximum(latest, 0)]], 0)
        return np.asarray((phase == Phase.BACKWARD) & (depth > base))


def _marked_steps(marks: Marks) -> list[Step]:
    """Steps that the user's own function ends (--step-mark)."""
    steps: list[Step] = []
    begin = 0
    forwards: list[int] = []
    for at, mark in zip(marks.at.tolist(), marks.what.tolist(), strict=True):
        if mark in (Mark.FORWARD_BEGIN, Mark.INFER_BEGIN):
            forwards.append(at)
        elif mark == Mark.STEP:
            steps.append(Step(begin, at + 1, "train", tuple(forwards)))
            begin, forwards = at + 1, []
    return steps


def _training_steps(marks: Marks) -> list[Step]:
    """A step is over at the forward after which the optimizer that stepped first steps again, once every optimizer of the steps has:
    a GAN's two belong to one step, so do two updates of the one for each of the other, and what regularises either in some steps."""
    steps: list[Step] = []
    begin, last_end = -1, -1
    cycle: set[int] = set()
    turns: list[int] = marks.optimizer[marks.what == Mark.OPTIMIZER_END].tolist()
    first = turns[0] if turns else 0
    since_last = turns[::-1].index(first) if turns else 0
    others = {*turns[: len(turns) - since_last]} - {first}

    def is_whole() -> bool:
        return last_end >= 0 and cycle >= {first, *others}

    forwards: list[int] = []
    following = _following(marks, first)
    for at, mark, optimizer in zip(marks.at.tolist(), marks.what.tolist(), marks.optimizer.tolist(), strict=True):
        if mark == Mark.OPTIMIZER_END:
            if begin >= 0:
                last_end = at
                cycle.add(optimizer)
        elif mark == Mark.FORWARD_BEGIN:
            then = following.pop()
            if (first in then or then[0] not in others) and is_whole():
                steps.append(Step(begin, last_end + 1, "train", tuple(forwards)))
                begin, last_end, forwards = last_end + 1, -1, []
                cycle.clear()
            elif begin < 0:
                begin = at
            forwards.append(at)
    if is_whole():
        steps.append(Step(begin, last_end + 1, "train", tuple(forwards)))
    return steps


def _following(marks: Marks, first: int) -> list[list[int]]:
    """For each forward, the last one first, the optimizers that step next with no forward between: in whatever order, as one each
    parameter has does where gradients come in another. After all the first would again."""
    found: list[list[int]] = []
    then, called = [first], True
    for mark, optimizer in zip(marks.what[::-1].tolist(), marks.optimizer[::-1].tolist(), strict=True):
        if mark == Mark.OPTIMIZER_END:
            then = [optimizer] if called else [optimizer, *then]
            called = False
        elif mark == Mark.FORWARD_BEGIN:
            found.append(then)
            called = True
    return found


def _cycle(marks: Marks) -> set[int]:
    """The optimizers that step before one of them steps again (two steps in a row with no backward between count once)."""
    seen: set[int] = set()
    apart = True
    for what, optimizer in zip(marks.what.tolist(), marks.optimizer.tolist(), strict=True):
        if what == Mark.OPTIMIZER_BEGIN:
            if apart and optimizer in seen:
                break
            seen.add(optimizer)
            apart = False
        elif what == Mark.BACKWARD_BEGIN:
            apart = True
    return seen


def _bare_steps(marks: Marks) -> list[Step]:
    """Steps without a call of a trained module: from the end of one round of the optimizers to the end of the next."""
    if Mark.FORWARD_BEGIN in marks.what:
        return []
    optimized = Mark.OPTIMIZER_END in marks.what
    ends, every = (Mark.OPTIMIZER_END, _cycle(marks)) if optimized else (Mark.BACKWARD_END, set[int]())
    steps: list[Step] = []
    begin = 0
    cycle: set[int] = set()
    for at, mark, optimizer in zip(marks.at.tolist(), marks.what.tolist(), marks.optimizer.tolist(), strict=True):
        if mark == ends:
            cycle.add(optimizer)
            if cycle >= every:
                steps.append(Step(begin, at + 1, "train", ()))
                begin = at + 1
                cycle.clear()
    return steps


def _calls(marks: Marks) -> list[Step]:
    """Without an optimizer: from the end of one outermost call to the end of the next. Calls with gradients count,
    if there are any: others are then evaluation in between. What is called in turn, as a model and its head, is one call. What a
    program warms up with before it captures the CUDA graphs that it replays is none."""
    ends = (
        (Mark.FORWARD_END, Mark.FORWARD_BEGIN) if Mark.FORWARD_END in marks.what else (Mark.INFER_END, Mark.INFER_BEGIN)
    )
    steps: list[Step] = []
    begin, opened = -1, -1
    for at, mark in zip(marks.at.tolist(), marks.what.tolist(), strict=True):
        if mark == ends[1]:
            opened = at
            begin = at if begin < 0 else begin
        elif mark == ends[0] and opened >= 0:
            steps.append(Step(begin, at + 1, "call", (opened,)))
            begin, opened = at + 1, -1
    warm_up = _warm_up_end(marks)
    after = [step for step in steps if step.forwards[0] >= warm_up]
    steps = [replace(one, begin=max(one.begin, warm_up)) for one in after] or steps
    modules = [_called(marks.program, step.forwards[0]) for step in steps]
    return _drafted(marks.program, steps, modules) or _in_turn(steps, modules)


def _warm_up_end(marks: Marks) -> int:
    """Where the last CUDA graph is there that is captured before one is replayed; 0 where none is."""
    captured = marks.at[marks.what == Mark.CAPTURED]
    replays = np.flatnonzero(marks.program.kinds == Kind.GRAPH) if captured.size else captured
    return int(captured[captured < replays[0]].max(initial=0)) if replays.size else 0


def _called(program: Program, at: int) -> int:
    """The module whose call begins there; -1 where it is none with a name."""
    # (Of one word: to look at the kinds of the whole tape takes its time for each of thousands of calls.)
    inner = int(program.tape[at + 1]) if at + 1 < program.tape.size else 0
    return inner >> KIND_BITS if inner & KIND_MASK == Kind.ENTER else -1


def _drafted(program: Program, calls: list[Step], modules: list[int]) -> list[Step]:
    """Where in most calls one module writes tokens one by one that another then reads at once (speculative decoding), a round of both is
    one call, however many it writes; none where it is not so."""
    checked = list[tuple[int, int]]()
    changes = [number for number in range(1, len(calls)) if modules[number] != modules[number - 1]]
    for before, number in pairwise([0, *changes]):
        if number - before < 2:
            continue
        if _checks(program, calls[number - 1], calls[number], number - before):
            checked.append((modules[number], number - before + 1))
    if len(checked) < 2 or len(dict(checked)) > 1 or sum(size for _, size in checked) < len(calls) / 2:
        return []
    ends = [number + 1 for number, module in enumerate(modules) if module == checked[0][0]]
    return [_joined(calls[first:last]) for first, last in pairwise([0, *ends])]


def is_drafted(program: Program, step: Step) -> bool:
    """Whether a call is a round of a model's that drafts tokens and of one that checks them: how many it writes values decide."""
    if step.kind != "call" or len(step.forwards) < 3:
        return False
    *drafts, last = (_called(program, at) for at in step.forwards)
    if len(set(drafts)) > 1 or last in drafts:
        return False
    begins = (step.begin, *step.forwards[1:], step.end)
    draft, check = (Step(at, end, "call", ()) for at, end in list(pairwise(begins))[-2:])
    return _checks(program, draft, check, len(drafts))


def _checks(program: Program, draft: Step, check: Step, drafts: int) -> bool:
    """Whether a call checks what as many calls wrote, of which `draft` is the last: it reads what they read, alone or with the token that
    they went on from, and has scores for as many words (an encoder of the next sentence has none)."""
    (drafted, words), (read, its_words) = _reads(program, draft), _reads(program, check)
    return drafted > 0 and read in (drafts * drafted, (drafts + 1) * drafted) and words == its_words


def _reads(program: Program, call: Step) -> tuple[int, int]:
    """Tokens that the first embedding of a call is given, 0 where it has none, and how wide the result of its last product is."""
    tape = program.tape[call.begin : call.end]
    ops = [program.ops[one] for one in (tape[(tape & KIND_MASK) == Kind.OP] >> KIND_BITS).tolist()]
    read = next((int(op.args[1].numel) for op in ops if op.name.startswith("aten.embedding.") and len(op.args) > 1), 0)
    last = next((op for op in reversed(ops) if op.outputs and PRODUCT.search(op.name)), None)
    return read, last.outputs[0].shape[-1] if last is not None and last.outputs[0].shape else 0


def _joined(calls: list[Step]) -> Step:
    return Step(calls[0].begin, calls[-1].end, "call", tuple(at for one in calls for at in one.forwards))


PRODUCT = re.compile(r"\b_?\w*mm\b|\blinear\b")  # names of ops that multiply matrices
TURN = 8  # modules that are called in turn: more are the parts of something larger


def _in_turn(calls: list[Step], modules: list[int]) -> list[Step]:
    """Where most calls, to the last, are of several modules in the same order each time, one round of them is one call."""
    for size in range(1, min(TURN, len(calls) // 2) + 1):
        like = [module == before for module, before in zip(modules[size:], modules, strict=False)]
        periodic = size + next((number for number, same in enumerate(reversed(like)) if not same), len(like))
        if periodic < max(2 * size, len(calls) / 2):
            continue
        if size == 1:
            return calls
        lead = modules[0] if modules[0] in modules[-size:] else modules[-periodic]
        first = modules.index(lead, len(calls) - periodic)
        rounds = [calls[at : at + size] for at in range(first, len(calls) - size + 1, size)]
        return _few(calls[:first]) + [_joined(one) for one in rounds]
    return _in_texts(calls, modules)


def _in_texts(calls: list[Step], modules: list[int]) -> list[Step]:
    """Where most calls are rounds of several modules, each once, but in several runs (a program that writes texts by an embedding, layers
    and a head calls an encoder of pictures before each): so are rounds one call each, and the few that stand between texts are one."""
    for size in range(2, min(TURN, len(calls) // 2) + 1):
        windows = ((at, modules[at : at + size]) for at in range(len(calls) - 2 * size + 1))
        unit = next(
            (one for at, one in windows if len(set(one)) == size and one == modules[at + size : at + 2 * size]), None
        )
        if unit is None:
            continue
        turned = unit.index(modules[0]) if modules[0] in unit else 0
        unit = unit[turned:] + unit[:turned]
        found, at, rest, rounds = list[Step](), 0, 0, 0  # rest: from where on calls are of no round yet
        while at < len(calls):
            if modules[at : at + size] != unit:
                at += 1
                continue
            found += [*_few(calls[rest:at]), _joined(calls[at : at + size])]
            rest = at = at + size
            rounds += 1
        if rounds * size < len(calls) / 2:
            continue
        is_half = modules[rest:] == unit[: len(calls) - rest]
        return found + ([] if is_half else _few(calls[rest:]))
    return calls


def _few(calls: list[Step]) -> list[Step]:
    return [_joined(calls)] if 1 < len(calls) <= TURN else calls
