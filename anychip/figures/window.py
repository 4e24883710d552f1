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
    step that is left out. second_s: of the one after it, where that is left out, too. picked: which of the steps of `times_s` are left,
    where only some are told: their mean is what a step takes, else the median.
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
    picked: slice | None = None

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

    def settled(self, aside_s: float = 0.0) -> "Window":
        """Without the second training step where it took longer than all after it, which are alike or come in rounds: it begins where the first has
        ended, after which many programs do what they then do once in hundreds (a sample, an evaluation, a snapshot). aside_s: how
        much longer what is no training takes in it than in the last, by which alone it is left out where only one comes after."""
        later = self.times_s[1:]
        if self.kind != "train" or not later:
            return self
        least, most, second = min(later), max(later), self.times_s[0]
        alike = most <= (1 + UNEVEN) * least or rounds_of(later) is not None
        if not alike or second <= (1 + UNEVEN) * most:
            return self
        if len(later) == 1 and aside_s < (second - most) / 2:
            return self
        return replace(self._of(slice(1, None)), times_s=later, second_s=second)

    def told(self) -> "Window":
        """The steps whose figures are told, where they differ (`told_of`). What they are made of then adds up to their time."""
        at = told_of(self.times_s, in_rounds=self.kind == "train") if len(self.times_s) == len(self.steps) else None
        return self if at is None else self.pick(at)

    def in_plain(self, steps: Sequence[Step]) -> Sequence[Step]:
        """Of all steps of the recording before anything was fused those that are told."""
        counted = steps[-len(self.times_s) :]
        return counted if self.picked is None else counted[self.picked]

    def pick(self, at: slice) -> "Window":
        """Some of the steps, whose figures alone are told."""
        return replace(self._of(at), picked=at)

    def _of(self, at: slice) -> "Window":
        """Some of the steps, one after the other."""
        steps, ends_s = self.steps[at], self.ends_s
        first, last, _ = at.indices(len(self.steps))
        begin_s, end_s = float(ends_s[first]), float(ends_s[last])
        return replace(self, steps=steps, begin=steps[0].begin, end=steps[-1].end, begin_s=begin_s, end_s=end_s)

    @property
    def ends_s(self) -> Floats:
        """When the step before those of `times_s` had ended, and each of these."""
        return self.begin_s + np.cumsum([0.0, *self.times_s])

    @property
    def count(self) -> int:
        return max(len(self.steps), 1)

    @property
    def step_time_s(self) -> float:
        if self.picked is not None:
            return (self.end_s - self.begin_s) / self.count
        return float(np.median(self.times_s)) if self.times_s else 0.0

    def usual(self, amounts: npt.NDArray[np.float64], positions: npt.NDArray[np.int64]) -> float:
        """Of amounts at positions of the tape what a step has whose time is told: the median one's, of generated text one token's."""
        if not self.steps:
            return float(amounts.sum())
        edges = np.searchsorted(positions, [self.steps[0].begin, *(step.end for step in self.steps)])
        of_each = np.diff(np.concatenate([[0.0], np.cumsum(amounts)])[edges])
        return float(np.mean(of_each) if self.picked is not None else np.median(of_each))

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


def told_of(times_s: Sequence[float], in_rounds: bool) -> slice | None:
    """Which steps of so many seconds are told. None for all of them, by their median: they are alike, or two. Whole rounds, where unlike
    ones come again at equal distances; else the one nearest to the median; all by their mean where none is near."""
    middle = float(np.median(times_s)) if times_s else 0.0
    if len(times_s) <= 2 or max(times_s) - min(times_s) <= UNEVEN * middle:
        return None
    apart = rounds_of(times_s) if in_rounds else None
    if apart is not None:
        return slice(len(times_s) % apart, len(times_s))
    at = min(range(len(times_s)), key=lambda at: abs(times_s[at] - middle))
    if abs(times_s[at] - middle) > UNEVEN * middle:
        return slice(0, len(times_s))
    return slice(at, at + 1)


def rounds_of(times_s: Sequence[float]) -> int | None:
    """After how many steps those of so many seconds come again, all of them at least twice. Where that is not so of any number, after how many
    those come again that are longer than most, though some of them are longer still (a GAN's regulariser of each 4th step, and one of each 16th)."""
    middle = float(np.median(times_s))
    longer = [one > (1 + UNEVEN) * middle for one in times_s]

    def equal(at: int, later: int) -> bool:
        return abs(times_s[at] - times_s[later]) <= UNEVEN * min(times_s[at], times_s[later])

    def both_longer(at: int, later: int) -> bool:
        return longer[at] == longer[later] and (longer[at] or equal(at, later))

    for again in (equal, both_longer) if any(longer) else (equal,):
        for apart in range(2, len(times_s) // 2 + 1):
            if all(again(at, at + apart) for at in range(len(times_s) - apart)):
                return apart
    return None
