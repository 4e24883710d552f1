"""Counts the steps and calls that a program takes, and ends it after enough.

A step is over at the first forward call of a trained module after every optimizer of the step has stepped; where calls come between
them (a GAN's two), only if the first of them is the next to step, as either may be regularised by one more. Where no module
is called, or only by the optimizers themselves (a closure), when the first of them steps again. Which optimizers those are is known once one steps for the second time,
so a GAN's two belong to one step. One that comes later (after five updates of a critic its generator's) is of every step, and they are
counted anew; where nobody says how many steps to take, it is waited for.
"""

import sys
from collections.abc import Callable
from itertools import pairwise

from anychip.record import Kind
from anychip.record.tape import KIND_MASK

UNLIKE = 0.05  # of a step's ops: by how much another's may be off before more steps are recorded
LONGEST = 16  # rounds of optimizers, after which one that has not come (again) is of no step
MANY_CALLS = 100  # without a step: the user is told how to end such a recording
MANY_BACKWARDS = 100  # without a step or a module: each is a step, and so many are enough


class Steps:
    """Counts steps and calls, and says when to stop.

    finish is called once, when `steps` steps (or `calls` outermost module calls) are complete; `uneven` steps where the last
    one is not as long as the one before. tape: of which ops are counted.
    """

    def __init__(self, steps: int, uneven: int, calls: int | None, tape: list[int], finish: Callable[[], None]) -> None:
        self.steps, self.uneven, self.calls, self.tape, self.finish = steps, uneven, calls, tape, finish
        self.ends: list[int] = []  # where on the tape the last optimizer of each step had ended
        self._stepped = 0
        self._goes_on = False
        self.done = 0
        self.done_calls = 0
        self.by_mark = False  # --step-mark: a function's returns end steps, optimizers do not
        self._cycle: set[int] = set()
        self._rounds = 0  # of optimizers in this step
        self._turns = [0]  # updates in each step, the last of them the one that goes on
        self._known: set[int] | None = None
        self._first: int | None = None  # optimizer
        self._called = False  # a trained module has been, outside of optimizers
        self._called_since = False  # the last optimizer stepped
        self._called_within = False  # a trained module has been, by the optimizer that steps
        self._apart = False  # calls come between the optimizers of a step
        self._may_end = False  # a step, if the first of its optimizers steps next
        self._stepping = False  # an optimizer has begun to step, and not ended
        self._backwards = 0
        self.brief = False  # to be ended after the first backward
        self.most_words: int | None = None  # after which one that has taken no step is ended
        # Called once, when a model was called many times and no step taken.
        self.stands_by: Callable[[], None] = lambda: None
        self.lacks_one: Callable[[], bool] = lambda: False  # an optimizer is there that has yet to step
        self.is_aside: Callable[[], bool] = lambda: False  # the program works on a stream of its own
        self._warm_ups: int | None = None  # steps before the first that was a replay of a CUDA graph

    def optimizer(self, number: int) -> None:
        """Optimizer `number` begins to step."""
        self._stepping = True
        if self.by_mark:
            self._rounds += 1
            if self._rounds == MANY_CALLS and not self.done:
                print(
                    f"anychip: {MANY_CALLS} optimizer steps, and the function of --step-mark has not returned once; Ctrl-C ends the "
                    "recording. Is its name as the program has it (Class.function of a method)?",
                    file=sys.stderr,
                )
            return
        self._first = number if self._first is None else self._first
        self._apart = self._apart or (self._called_since and number != self._first)
        if self._may_end and number == self._first:
            self._complete()
        self._may_end = False
        if self._known is not None and number not in self._known:
            self._known.add(number)
            self._cycle = self._known - {number}  # all since the first step began is one with it
            self.done, self.ends, self._turns = 0, [], [sum(self._turns)]
        # One that steps again with no call between is shared out (by groups of parameters, as DeepSpeed's ZeRO does).
        again = not self._called or (self._known is None and (self._called_since or self._called_within))
        if number in self._cycle and (again or self._rounds >= LONGEST):
            self._known = set(self._cycle)
            self._complete()
        self._called_within = False
        self._cycle.add(number)
        self._rounds += 1
        self._turns[-1] += 1

    def stepped(self) -> None:
        """An optimizer has stepped, as far as is known."""
        self._stepping = self._called_since = False
        self._stepped = len(self.tape)

    def forward(self) -> None:
        """A trained module is about to be called."""
        if self._stepping:
            self._called_within = True
            return  # by a closure: the step that it is of has only begun
        self._called = self._called_since = True
        if self._known is None or not self._cycle >= self._known:
            return
        if self._apart:
            self._may_end = True
        else:
            self._complete()

    def _complete(self) -> None:
        self._cycle.clear()
        self._rounds = 0
        self._turns.append(0)
        self.done += 1
        self.ends.append(self._stepped)
        if self.done == self.steps:
            self._goes_on = not self._even()
        replays = 0 if self._warm_ups is None else self._warm_ups + 2  # so that most steps are
        enough = max(self.uneven if self._goes_on else self.steps, replays)
        if self.done >= enough and self.calls is None and not self._waits():
            self.finish()

    def _waits(self) -> bool:
        """For an optimizer that has yet to step, or, while steps run on a stream of their own, for the graph that they warm up; or for
        updates that the first step has more than those after it (a GAN's regularisers of each 16th step), to come again."""
        if self.uneven <= self.steps or self.done > LONGEST:
            return False
        if self._apart and self._turns[0] > max(self._turns[1:]):
            return True
        aside = self._warm_ups is None and self.is_aside()
        return self.done < LONGEST and (aside or self.lacks_one())

    def captured(self) -> None:
        """A CUDA graph is there, and none was replayed: a model's calls before were to warm up for it."""
        if not self.has_stepped:
            self.done_calls = 0

    def replayed(self, calls: int, steps: bool) -> None:
        """A CUDA graph has been launched with so many calls of a model in it. With an optimizer's step it is the program's loop, and what
        came before was its warm-up."""
        for _ in range(calls):
            self.call()
        if self.by_mark or not steps:
            return
        if self._warm_ups is None:
            self._warm_ups, self.done, self.ends, self._turns = self.done, 0, [], [0]
        self.stepped()
        self._complete()

    def _even(self) -> bool:
        """Whether the last two steps are of about as many ops. What a program does after its first step and then once in
        hundreds (a sample, an evaluation) is between the first two."""
        if len(self.ends) < 3:
            return True
        before, last = (
            sum(one & KIND_MASK == Kind.OP for one in self.tape[begin:end]) for begin, end in pairwise(self.ends[-3:])
        )
        return abs(last - before) <= UNLIKE * last

    def backward(self) -> None:
        """An outermost backward has ended that left gradients (pipelines ask for shapes by one that leaves none)."""
        if self.brief:
            self.finish()

    def went_back(self) -> None:
        """An outermost backward on the chip has ended, of a program that has no optimizer. Where weights are bare tensors and each update
        makes new ones, nothing else tells of steps."""
        self._backwards += 1
        if self._backwards < max(MANY_BACKWARDS, self.steps) or self.by_mark or self.calls is not None:
            return
        if not (self._called or self.has_stepped):
            print(f"anychip: {self._backwards} backward passes and no optimizer step: recorded so far; --steps N for more of them",
                  file=sys.stderr)  # fmt: skip
            self.finish()

    def marked(self) -> None:
        """The function that marks steps has returned."""
        self.stepped()
        self._complete()

    @property
    def complete(self) -> int:
        """Steps that are over, with the one that the program's own end completes."""
        return self.done + (bool(self._cycle) and self._cycle >= (self._known or set()))

    @property
    def has_stepped(self) -> bool:
        """An optimizer has, or begun to."""
        return bool(self.done or self._rounds)

    def call(self) -> None:
        """An outermost module call has ended."""
        self.done_calls += 1
        if self.most_words is not None and not self.has_stepped and len(self.tape) >= self.most_words:
            self.finish()
        if self.done_calls == MANY_CALLS and not self.has_stepped and self.calls is None:
            self.stands_by()
        if self.done_calls == MANY_CALLS and not self._cycle and not self.done and self.calls is None:
            print(
                f"anychip: {MANY_CALLS} model calls and no optimizer step; to stop after N calls: --calls N",
                file=sys.stderr,
            )
        if self.calls is not None and self.done_calls >= self.calls:
            self.finish()
