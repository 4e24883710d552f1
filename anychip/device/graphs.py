"""Captured graphs (`torch.cuda.CUDAGraph`): what a program does while it captures is done by each replay, as one launch.

In: the words that the tape gains while a graph is captured. Out: the same words at each replay. An operation whose work
depends on values that the program writes before each replay (how long the sequences in a cache are) is worked out anew.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from anychip.record import Kind, Mark, word
from anychip.record.recorder import Recorder

_MEMORY = (Kind.ALLOC, Kind.FREE)

_CALLS = (word(Kind.MARK, Mark.FORWARD_END), word(Kind.MARK, Mark.INFER_END))


class Captured(NamedTuple):
    """A graph. parts: in order, words, and calls that put theirs on the tape by the values of the day; calls: of models; steps:
    whether an optimizer steps."""

    parts: list[list[int] | Callable[[], Any]]
    calls: int
    steps: bool


class Graphs:
    """The graph that is captured, if one is, and the replays of those that were.

    here: the place on the tape, with everything written that has happened. captured: called once a graph is there, while none was
    replayed; replayed: after each replay, with what was.
    """

    def __init__(self, recorder: Recorder, here: Callable[[], int]) -> None:
        self.recorder, self.here = recorder, here
        self.captured: Callable[[], None] = lambda: None
        self.replayed: Callable[[Captured], None] = lambda graph: None
        self.capturing = False
        self._replayed = False
        self._began = 0
        self._anew: list[tuple[int, int, Callable[[], Any]]] = []

    def begin(self) -> None:
        self.capturing, self._began, self._anew = True, len(self.recorder.tape), []

    def launch(self, call: Callable[..., Any], *tensors: torch.Tensor) -> Any:
        """What a call makes of these tensors, whose operations depend on other values too: in a graph they are those of the values
        that each replay finds. The call holds no tensors that the graph makes but these."""
        begin = self.here()
        made = call(*tensors)
        if self.capturing:
            # By their layouts: a tensor that is held would stay allocated.
            alike = [
                partial(torch.empty_strided, one.shape, one.stride(), dtype=one.dtype, device=one.device)
                for one in tensors
            ]
            self._anew.append((begin, self.here(), lambda: call(*(make() for make in alike))))
        return made

    def end(self) -> Captured:
        """What was captured: it ran on nothing, so only its allocations stay on the tape."""
        self.capturing = False
        tape, at = self.recorder.tape, self._began
        parts: list[list[int] | Callable[[], Any]] = []
        for begin, end, call in self._anew:
            parts += [_launched(tape[at:begin]), call]
            at = end
        parts.append(_launched(tape[at:]))
        words = tape[self._began :]
        calls = sum(one in _CALLS for one in words)
        captured = Captured(parts, calls, word(Kind.MARK, Mark.OPTIMIZER_END) in words)
        tape[self._began :] = [one for one in words if one & 31 in (*_MEMORY, Kind.STREAM)]
        if not self._replayed:
            tape.append(word(Kind.MARK, Mark.CAPTURED))
            self.captured()
        return captured

    def replay(self, captured: Captured) -> None:
        tape, self._replayed = self.recorder.tape, True
        tape.append(word(Kind.GRAPH, 1))
        for part in captured.parts:
            if callable(part):
                part()
                self.here()
            else:
                tape.extend(part)
        tape.append(word(Kind.GRAPH, 0))
        self.replayed(captured)


def _launched(words: list[int]) -> list[int]:
    return [one for one in words if one & 31 not in _MEMORY]
