"""`forecast(program, chip)`: the answer. One `Forecast` holds every figure that is printed for one chip.

In: a recorded Program and a Chip. Out: step time with its error, memory, rates, what limits the step and on what evidence it
all rests. Figures are per step, over the steps after the first, which warms up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from anychip import units
from anychip.caveats import chip as caveats
from anychip.cost.fusion import fuse
from anychip.cost.support import unsupported
from anychip.figures import (
    UNEVEN,
    AxisFigures,
    GoodputFigures,
    PathPart,
    RankFigures,
    RestsOn,
    TopOp,
    Window,
    aside_s,
    batch_of,
    beyond_of,
    breakdown_of,
    by_phase_of,
    called_in,
    compared_with,
    error_of,
    host_of,
    is_prompt,
    layers_of,
    limit_of,
    rests_on,
    shape_text,
    shares_of,
    together,
    top_ops_of,
    totals_of,
    unlike_share,
)
from anychip.memory import Peaks, replay
from anychip.record import Program
from anychip.record.failure import refused
from anychip.record.reads import Read, reads
from anychip.record.steps import find_steps
from anychip.spec import Chip
from anychip.spec.validated import CALLS, Compared
from anychip.timeline.memory import memory, suffices
from anychip.timeline.price import price

__all__ = ["Forecast", "TopOp", "Window", "forecast", "shape_text"]


@dataclass(frozen=True)
class Forecast:
    """One program on one chip, or on several. Times in seconds per step, bytes, flop per step of all chips.

    error_parts: relative, by what the step's error comes from, the largest first. peak_flop_per_s: of all chips, dense, of
    `matrix_dtype`, in which the chip computes most products; None where nobody publishes one. stepping_memory_bytes: peak from the first step on, which may be less than what making the model took.
    breakdown_s adds up to step_time_s. evidence: shares of the chip's busy time. power_w: a chip's limit; usd_per_hour: of a
    chip. first_step_s: of the step that no other figure is of, as it may do something else: it warms up, or reads a
    prompt. step_kind: "train", "call" (no optimizer) or "run" (no step was found). would_fail: what the chip refuses of what the
    program does, a sentence each; the figures are as if it did not.
    """

    chip: str
    num_chips: int
    fits: bool
    grade: str
    step_time_s: float
    error_parts: Mapping[str, float]
    model_flop_per_step: float
    executed_flop_per_step: float
    peak_flop_per_s: float | None
    matrix_dtype: str
    peak_memory_bytes: int
    memory_bytes: int
    breakdown_s: Mapping[str, float]
    evidence: Mapping[str, float]
    power_w: float | None
    usd_per_hour: float | None
    steps: int
    step_kind: str
    num_ops: int
    kernels_per_step: float
    tokens_per_step: float | None
    samples_per_step: float | None
    memory_by_kind: Mapping[str, int]
    time_by_phase_s: Mapping[str, float]
    all_ops: tuple[TopOp, ...]  # those that take longest first
    limit: str
    step_times_s: tuple[float, ...] = ()
    told: slice | None = None  # which of them are told, where not all
    warnings: tuple[str, ...] = ()
    # Of a job of several ranks: the cluster's id where one was named, each distinct rank, what each mesh axis takes,
    # which ranks the job's end waits for, the most important first, and what failures leave of the time; how many times longer
    # arithmetic takes than on a chip of mean speed.
    cluster: str | None = None
    ranks: tuple[RankFigures, ...] = ()
    axes: Mapping[str, AxisFigures] = field(default_factory=dict)
    critical_path: tuple[PathPart, ...] = ()
    goodput: GoodputFigures | None = None
    pace: float = 1.0
    memory_by_module: Mapping[str, int] = field(default_factory=dict)
    stepping_memory_bytes: int = 0
    needs_more: bool = False  # than the peak: it was refused memory before it had all that it asks for
    first_step_s: float | None = None
    compared: Compared | None = None  # what the step's error comes from, where whole runs were compared
    values_read: tuple[Read, ...] = ()
    would_fail: tuple[str, ...] = ()
    rests_on: Mapping[str, RestsOn] = field(default_factory=dict)  # by part of the step
    prompt_tokens: float | None = None  # of the whole job: what the first call reads, where that is more than others do
    host_bound: str = ""  # where the host sets the pace, whose time its is
    samples_given: bool = False  # by the user, who then wants to see them

    @property
    def step_time_error(self) -> float:
        """Relative, one sigma."""
        return together(self.error_parts.values())

    @property
    def unpriced_share(self) -> float:
        """Of the chip's busy time, what is known by bytes alone."""
        return self.evidence["bytes_only"]

    @property
    def top_ops(self) -> tuple[TopOp, ...]:
        """Those that are told; where another target's are shown the others are looked up in `all_ops`."""
        return self.all_ops[:TOP_OPS]

    @property
    def tokens_per_s(self) -> float | None:
        """Of the whole job."""
        return self._per_s(self.tokens_per_step)

    @property
    def tokens_per_s_per_chip(self) -> float | None:
        return self.tokens_per_s / self.num_chips if self.tokens_per_s else None

    @property
    def samples_per_s(self) -> float | None:
        """Of the whole job."""
        return self._per_s(self.samples_per_step)

    @property
    def rate_per_chip(self) -> float | None:
        """Tokens a second, else samples: what a larger job is to keep up."""
        return self.tokens_per_s_per_chip or (self.samples_per_s / self.num_chips if self.samples_per_s else None)

    @property
    def mfu(self) -> float | None:
        """Model flop over what the peak would do in a step; None where nobody publishes a peak."""
        return self._of_peak(self.model_flop_per_step)

    @property
    def hfu(self) -> float | None:
        """The same of all that is executed."""
        return self._of_peak(self.executed_flop_per_step)

    @property
    def energy_j(self) -> float | None:
        """An upper bound: the chips' power limit for the time of a step."""
        return self.power_w * self.step_time_s * self.num_chips if self.power_w else None

    @property
    def energy_bound(self) -> str:
        return "power limit times step time"

    @property
    def cost_usd(self) -> float | None:
        return self._cost_usd(self.step_time_s)

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Of those that a step reads; of generated text each is one that it writes."""
        return self.cost_usd / self.tokens_per_step * 1e6 if self.cost_usd and self.tokens_per_step else None

    @property
    def usd_per_million_prompt_tokens(self) -> float | None:
        """Of the prompt of a program that generates text: what its first call reads."""
        cost = self._cost_usd(self.first_step_s or 0.0)
        return cost / self.prompt_tokens * 1e6 if cost and self.prompt_tokens and not self.reads_prompts else None

    @property
    def reads_prompts(self) -> bool | None:
        """Of calls: whether each reads a prompt, else one token of each sequence; None where that is not seen."""
        return is_prompt(self.tokens_per_step, self.samples_per_step) if self.step_kind == CALLS else None

    @property
    def uneven(self) -> str:
        """From what to what its steps took, where one of them is not like the others and what is told is not the mean of all."""
        times = self.step_times_s
        mean, least, most = sum(times) / max(len(times), 1), min(times, default=0.0), max(times, default=0.0)
        is_off = abs(mean - self.step_time_s) > UNEVEN * self.step_time_s
        if not is_off and (len(times) != 2 or most - least <= 2 * UNEVEN * self.step_time_s):
            return ""
        return f"{units.duration(least)} to {units.duration(most)}, {units.duration(mean)} on average"

    def _per_s(self, count: float | None) -> float | None:
        return count / self.step_time_s if count and self.step_time_s else None

    def _of_peak(self, flop: float) -> float | None:
        if self.peak_flop_per_s is None:
            return None
        return flop / (self.step_time_s * self.peak_flop_per_s) if self.step_time_s else 0.0

    def _cost_usd(self, seconds: float) -> float | None:
        return self.usd_per_hour * seconds * self.num_chips / 3600 if self.usd_per_hour else None


TOP_OPS, MOST_OPS = 10, 1000  # that are told, and that are kept


def forecast(program: Program, chip: Chip, *, tokens_per_step: float | None = None,
             samples_per_step: float | None = None) -> Forecast:  # fmt: skip
    """Price a program on a chip and sum up its steps. tokens_per_step, samples_per_step: where its first layers do not tell."""
    timeline = price(program, chip)
    found = find_steps(timeline.program)
    every_step = Window.of(timeline, found)
    whole = every_step.settled(aside_s(timeline, every_step))
    window = whole.told()
    total = totals_of(timeline, window)
    step_time = window.step_time_s
    products = timeline.prices.on.products(total["dtype"])
    beyond = beyond_of(timeline, window)
    # What a step is fed is read where nothing has been fused yet.
    fed = window.in_plain(find_steps(program)) if whole.steps else ()
    tokens, samples = batch_of(program, fed, window.picked is not None)
    prompt = prompt_of(tokens, batch_of(program, tuple(find_steps(program)[:1]))[0], window.kind)
    layers = layers_of(timeline.program.ops, called_in(timeline, whole), unlike_share(beyond))
    compared = compared_with(program, chip, layers, products.dtype, window.kind, is_prompt(tokens, samples))
    tokens = tokens_per_step if tokens_per_step is not None else tokens
    samples = samples_per_step if samples_per_step is not None else samples
    breakdown = breakdown_of(timeline, window)
    evidence = shares_of(timeline, window)
    error = error_of(evidence, beyond, breakdown, timeline, compared, 1, total["host_s"])
    held = memory(timeline.program)
    every = top_ops_of(timeline, window, most=MOST_OPS)
    lacking = unsupported(program.ops, chip)
    return Forecast(
        chip=chip.id, num_chips=1, fits=suffices(chip.memory_bytes, program, held.peak_bytes), grade=chip.grade,
        step_time_s=step_time, error_parts=error, model_flop_per_step=total["model_flop"], executed_flop_per_step=total["flop"],
        peak_flop_per_s=products.published, matrix_dtype=products.dtype,
        peak_memory_bytes=held.peak_bytes, memory_bytes=chip.memory_bytes, breakdown_s=breakdown, evidence=evidence,
        power_w=chip.power_w, usd_per_hour=chip.price_usd_per_hour,
        steps=len(found), step_kind=window.kind, num_ops=int(timeline.op.size), kernels_per_step=total["kernels"],
        tokens_per_step=tokens, samples_per_step=samples, samples_given=samples_per_step is not None,
        memory_by_kind=held.by_kind, time_by_phase_s=by_phase_of(timeline, window), all_ops=every,
        limit=limit_of(breakdown, step_time, every[:TOP_OPS], total["kernels"], total["host_s"], own_s=total["own_s"]),
        step_times_s=window.times_s, told=window.picked,
        warnings=(*caveats.of_chip(program, timeline, whole, held), *(one.text for one in lacking)),
        would_fail=tuple(one.text for one in lacking if one.fails),
        needs_more=any(refused(program)), memory_by_module=held.by_module, stepping_memory_bytes=held.stepping_bytes, first_step_s=window.first_s,
        prompt_tokens=prompt, values_read=reads(timeline.program, window.begin, window.end, window.count), compared=compared,
        rests_on=rests_on(timeline, window), host_bound=host_of(program, timeline.prices.on, breakdown, step_time, total),
    )  # fmt: skip


def prompt_of(tokens: float | None, first: float | None, kind: str) -> float | None:
    """What the first of several calls reads, `first`, where others read fewer tokens."""
    return first if kind == CALLS and tokens and first and first > tokens else None


def reserved(program: Program, capacity_bytes: int, settings: str) -> Peaks:
    """What PyTorch's allocator takes from a chip of so many bytes for a recording, whose compiled regions allocate what their kernels
    write."""
    return replay(fuse(program), capacity_bytes, settings)
