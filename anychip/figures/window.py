"""The stretch of a timeline that figures are taken over."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from anychip.record.steps import Step
from anychip.timeline.price import Timeline

Floats = npt.NDArray[np.float64]


UNEVEN = 0.05  # by how much a step may be off the others before it is unlike them


@dataclass(frozen=True)
class Window:
    """The stretch of the tape that figures are taken over: `steps`, all but the first where there are more.

    begin, end: tape positions; begin_s, end_s: when the work before each had ended. times_s: of each step. first_s: of the
    step that is left out. second_s: of the one after it, where that is left out, too.
    """

    steps: tuple[Step, ...]
    kind: str
    begin: int
    end: int
    begin_s: float
    end_s: float
    times_s: tuple[float, ...]
    first_s: float | None = None
    second_s: float | None = None

    @classmethod
    def of(cls, timeline: Timeline, found: list[Step]) -> "Window":
        size = timeline.program.tape.size
        if not found:
            return cls((), "run", 0, size, 0.0, timeline.total_s, (timeline.total_s,))
        steps = tuple(found[1:] if len(found) > 1 else found)
        edges = np.array([max(steps[0].begin - 1, 0), *(step.end - 1 for step in steps)], np.int64)
        done = timeline.done_s(edges)
        times = tuple(float(value) for value in np.diff(done))
        first_s = None
        if len(found) > 1:
            before, after = timeline.done_s(np.array([max(found[0].begin - 1, 0), found[0].end - 1], np.int64))
            first_s = float(after - before)
        return cls(steps, steps[0].kind, steps[0].begin, steps[-1].end, float(done[0]), float(done[-1]), times, first_s)

    def settled(self) -> "Window":
        """Without the second training step where it took longer than all after it, which are alike: it begins where the first has
        ended, after which many programs do what they then do once in hundreds (a sample, an evaluation)."""
        later = self.times_s[1:]
        if self.kind != "train" or len(later) < 2:
            return self
        least, most = min(later), max(later)
        if most > (1 + UNEVEN) * least or self.times_s[0] <= (1 + UNEVEN) * most:
            return self
        second = self.times_s[0]
        return replace(
            self,
            steps=self.steps[1:],
            begin=self.steps[1].begin,
            begin_s=self.begin_s + second,
            times_s=later,
            second_s=second,
        )

    def usual_step(self) -> "Window":
        """The median step alone, where steps differ and it is one of them: what it is made of then adds up to its time."""
        middle = self.step_time_s
        if len(self.times_s) != len(self.steps) or max(self.times_s) - min(self.times_s) <= UNEVEN * middle:
            return self
        if middle not in self.times_s:  # of an even number of steps
            return self
        at = self.times_s.index(middle)
        begin_s, step = self.begin_s + sum(self.times_s[:at]), self.steps[at]
        return replace(self, steps=(step,), begin=step.begin, end=step.end, begin_s=begin_s, end_s=begin_s + middle)

    @property
    def count(self) -> int:
        return max(len(self.steps), 1)

    @property
    def step_time_s(self) -> float:
        return float(np.median(self.times_s)) if self.times_s else 0.0

    def usual(self, amounts: npt.NDArray[np.float64], positions: npt.NDArray[np.int64]) -> float:
        """Of amounts at positions of the tape what the median step has, as its time is the median: of generated text one token's."""
        if not self.steps:
            return float(amounts.sum())
        edges = np.searchsorted(positions, [self.steps[0].begin, *(step.end for step in self.steps)])
        return float(np.median(np.diff(np.concatenate([[0.0], np.cumsum(amounts)])[edges])))

    def scaled(self, parts: Sequence[float]) -> list[float]:
        """Seconds of the window by what the chip did, and what is left of it, as parts of the mean step's time."""
        span = max(self.end_s - self.begin_s, 0.0)
        whole = [*parts, max(span - sum(parts), 0.0)]
        if whole[-1] < 1e-9 * span:
            whole[-1] = 0.0  # what sums of floats leave
        scale = self.step_time_s / sum(whole) if sum(whole) else 0.0
        return [part * scale for part in whole]

    def ops(self, timeline: Timeline) -> slice:
        """The entries of the timeline that were launched inside."""
        first, last = np.searchsorted(timeline.position, [self.begin, self.end])
        return slice(int(first), int(last))
