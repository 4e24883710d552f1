"""Captured graphs (`torch.cuda.CUDAGraph`): what a program does while it captures is done by each replay, as one launch.

In: the words that the tape gains while a graph is captured. Out: the same words at each replay. An operation whose work
depends on values that the program writes before each replay (how long the sequences in a cache are) is worked out anew.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from anychip.record import Kind, Mark, word
from anychip.record.recorder import Recorder

_MEMORY = (Kind.ALLOC, Kind.FREE)

# What a captured graph is made of, in order: words, and calls that put theirs on the tape by the values of the day.
Captured = list[list[int] | Callable[[], Any]]


class Graphs:
    """The graph that is captured, if one is, and the replays of those that were.

    here: the place on the tape, with everything written that has happened. replayed_step: called where a replay has stepped
    an optimizer.
    """

    def __init__(self, recorder: Recorder, here: Callable[[], int]) -> None:
        self.recorder, self.here = recorder, here
        self.replayed_step: Callable[[], None] = lambda: None
        self.capturing = False
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
        captured: Captured = []
        for begin, end, call in self._anew:
            captured += [_launched(tape[at:begin]), call]
            at = end
        captured.append(_launched(tape[at:]))
        tape[self._began :] = [one for one in tape[self._began :] if one & 31 in (*_MEMORY, Kind.STREAM)]
        return captured

    def replay(self, captured: Captured) -> None:
        tape, stepped = self.recorder.tape, False
        tape.append(word(Kind.GRAPH, 1))
        for part in captured:
            if callable(part):
                part()
                self.here()
            else:
                tape.extend(part)
                stepped = stepped or word(Kind.MARK, Mark.OPTIMIZER_END) in part
        tape.append(word(Kind.GRAPH, 0))
        if stepped:
            self.replayed_step()


def _launched(words: list[int]) -> list[int]:
    return [one for one in words if one & 31 not in _MEMORY]
