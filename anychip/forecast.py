"""`forecast(program, chip)`: the answer. One `Forecast` holds every figure that is printed for one chip.

In: a recorded Program and a Chip. Out: step time with its error, memory, rates, what limits the step and on what evidence it
all rests. Figures are per step, over the steps after the first, which warms up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
    """One program on one chip. Times in seconds per step, bytes, flop per step.

    step_time_error: relative, one sigma. mfu, hfu: model or executed flop over step time times the dense peak of
    `matrix_dtype`, in which the chip computes most products; None where nobody publishes one. stepping_memory_bytes: peak from the first step on, which may be less than what making the model took.
    breakdown_s adds up to step_time_s. evidence: shares of the chip's busy time. energy_j: an upper bound, the power limit
    times the time. first_step_s: of the step that no other figure is of, as it may do something else: it warms up, or reads a
    prompt. step_kind: "train", "call" (no optimizer) or "run" (no step was found). would_fail: what the chip refuses of what the
    program does, a sentence each; the figures are as if it did not.
    """

    chip: str
    num_chips: int
    fits: bool
    grade: str
    step_time_s: float
    step_time_error: float
    tokens_per_s_per_chip: float | None
    samples_per_s: float | None
    mfu: float | None
    hfu: float | None
    model_flop_per_step: float
    peak_memory_bytes: int
    memory_bytes: int
    breakdown_s: Mapping[str, float]
    unpriced_share: float
    evidence: Mapping[str, float]
    energy_j: float | None
    cost_usd: float | None
    # What the terminal shows beside the figures that scripts rely on.
    steps: int
    step_kind: str
    num_ops: int
    kernels_per_step: float
    tokens_per_step: float | None
    samples_per_step: float | None
    matrix_dtype: str
    executed_flop_per_step: float
    memory_by_kind: Mapping[str, int]
    time_by_phase_s: Mapping[str, float]
    top_ops: tuple[TopOp, ...]
    limit: str
    step_times_s: tuple[float, ...] = ()
    energy_bound: str = "power limit times step time"
    warnings: tuple[str, ...] = ()
    # Of a job of several ranks: the cluster's id where one was named, each distinct rank, what each mesh axis takes,
    # which ranks the job's end waits for, the most important first, and what failures leave of the time.
    cluster: str | None = None
    ranks: tuple[RankFigures, ...] = ()
    axes: Mapping[str, AxisFigures] = field(default_factory=dict)
    critical_path: tuple[PathPart, ...] = ()
    goodput: GoodputFigures | None = None
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
    # By what step_time_error comes from, the largest first.
    error_parts: Mapping[str, float] = field(default_factory=dict)
    all_ops: tuple[TopOp, ...] = ()  # top_ops and what takes less: looked up where another target's top ops are shown

    @property
    def tokens_per_s(self) -> float | None:
        """Of the whole job."""
        return _per_s(self.tokens_per_step, self.step_time_s)

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Of those that a step reads; of generated text each is one that it writes."""
        return self.cost_usd / self.tokens_per_step * 1e6 if self.cost_usd and self.tokens_per_step else None

    @property
    def reads_prompts(self) -> bool | None:
        """Of calls: whether each reads a prompt, else one token of each sequence; None where that is not seen."""
        return is_prompt(self.tokens_per_step, self.samples_per_step) if self.step_kind == CALLS else None

    @property
    def usd_per_million_prompt_tokens(self) -> float | None:
        """Of the prompt of a program that generates text: what its first call reads."""
        if self.reads_prompts or not (self.usd_per_hour and self.first_step_s and self.prompt_tokens):
            return None
        return (cost_of(self.usd_per_hour, self.first_step_s, self.num_chips) or 0.0) / self.prompt_tokens * 1e6

    @property
    def usd_per_hour(self) -> float | None:
        """Of a chip: what `cost_usd` is made from."""
        return self.cost_usd * 3600 / self.step_time_s / self.num_chips if self.cost_usd and self.step_time_s else None

    def at(self, usd_per_hour: float) -> "Forecast":
        """The same where an hour of a chip costs so much."""
        return replace(self, cost_usd=cost_of(usd_per_hour, self.step_time_s, self.num_chips))

    @property
    def uneven(self) -> str:
        """From what to what its steps took, where one of them is not like the others; of two the time of a step is the mean."""
        times = self.step_times_s
        mean, least, most = sum(times) / max(len(times), 1), min(times, default=0.0), max(times, default=0.0)
        off = (most - least) / 2 if len(times) == 2 else abs(mean - self.step_time_s)
        if off <= UNEVEN * self.step_time_s:
            return ""
        return f"{units.duration(least)} to {units.duration(most)}, {units.duration(mean)} on average"

    @property
    def rate_per_chip(self) -> float | None:
        """Tokens a second, else samples: what a larger job is to keep up."""
        return self.tokens_per_s_per_chip or (self.samples_per_s / self.num_chips if self.samples_per_s else None)


TOP_OPS, MOST_OPS = 10, 1000  # that are told, and that are kept


def forecast(program: Program, chip: Chip, *, tokens_per_step: float | None = None,
             samples_per_step: float | None = None) -> Forecast:  # fmt: skip
    """Price a program on a chip and sum up its steps. tokens_per_step, samples_per_step: where its first layers do not tell."""
    timeline = price(program, chip)
    found = find_steps(timeline.program)
    whole = Window.of(timeline, found).settled()
    window = whole.usual_step()
    total = totals_of(timeline, window)
    step_time = window.step_time_s
    products = timeline.prices.on.products(total["dtype"])
    beyond = beyond_of(timeline, window)
    # What a step is fed is read where nothing has been fused yet.
    tokens, samples = batch_of(program, tuple(find_steps(program)[-len(whole.steps) :]) if whole.steps else ())
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
    top = every[:TOP_OPS]
    lacking = unsupported(program.ops, chip)
    return Forecast(
        chip=chip.id, num_chips=1, fits=suffices(chip.memory_bytes, program, held.peak_bytes), grade=chip.grade,
        step_time_s=step_time, step_time_error=together(error.values()), error_parts=error,
        tokens_per_s_per_chip=_per_s(tokens, step_time), samples_per_s=_per_s(samples, step_time),
        mfu=utilization(total["model_flop"], step_time, products.published),
        hfu=utilization(total["flop"], step_time, products.published),
        model_flop_per_step=total["model_flop"], peak_memory_bytes=held.peak_bytes, memory_bytes=chip.memory_bytes,
        breakdown_s=breakdown, unpriced_share=evidence["bytes_only"], evidence=evidence,
        energy_j=chip.power_w * step_time if chip.power_w else None,
        cost_usd=cost_of(chip.price_usd_per_hour, step_time),
        steps=len(found), step_kind=window.kind, num_ops=int(timeline.op.size), kernels_per_step=total["kernels"],
        tokens_per_step=tokens, samples_per_step=samples, samples_given=samples_per_step is not None, matrix_dtype=products.dtype,
        executed_flop_per_step=total["flop"], memory_by_kind=held.by_kind, time_by_phase_s=by_phase_of(timeline, window),
        top_ops=top, all_ops=every, limit=limit_of(breakdown, step_time, top, total["kernels"], total["host_s"], own_s=total["own_s"]),
        step_times_s=window.times_s,
        warnings=(*caveats.of_chip(program, timeline, whole, held), *(one.text for one in lacking)),
        would_fail=tuple(one.text for one in lacking if one.fails),
        needs_more=any(refused(program)), memory_by_module=held.by_module, stepping_memory_bytes=held.stepping_bytes, first_step_s=window.first_s,
        prompt_tokens=prompt, values_read=reads(timeline.program, window.begin, window.end, window.count), compared=compared,
        rests_on=rests_on(timeline, window), host_bound=host_of(program, timeline.prices.on, breakdown, step_time, total),
    )  # fmt: skip


def cost_of(usd_per_hour: float | None, step_time_s: float, num_chips: int = 1) -> float | None:
    """USD of a step, where an hour of a chip costs so much; None where that is not known."""
    return usd_per_hour * step_time_s * num_chips / 3600 if usd_per_hour else None


def prompt_of(tokens: float | None, first: float | None, kind: str) -> float | None:
    """What the first of several calls reads, `first`, where others read fewer tokens."""
    return first if kind == CALLS and tokens and first and first > tokens else None


def reserved(program: Program, capacity_bytes: int, settings: str) -> Peaks:
    """What PyTorch's allocator takes from a chip of so many bytes for a recording, whose compiled regions allocate what their kernels
    write."""
    return replay(fuse(program), capacity_bytes, settings)


def _per_s(count: float | None, seconds: float) -> float | None:
    return count / seconds if count and seconds else None


def utilization(flop: float, step_time_s: float, peak_flop_per_s: float | None) -> float | None:
    """What was computed over what could be at that peak; None where nobody publishes it."""
    if peak_flop_per_s is None:
        return None
    return flop / (step_time_s * peak_flop_per_s) if step_time_s else 0.0
