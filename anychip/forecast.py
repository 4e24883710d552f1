"""`forecast(program, chip)`: the answer. One `Forecast` holds every figure that is printed for one chip.

In: a recorded Program and a Chip. Out: step time with its error, memory, rates, what limits the step and on what evidence it
all rests. Figures are per step, over the steps after the first, which warms up.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log2, prod, sqrt

import numpy as np

from anychip import units
from anychip.cost.custom import OWN_KERNELS
from anychip.cost.fusion import fuse
from anychip.cost.machine import Machine
from anychip.cost.support import unsupported
from anychip.cost.work import packet, work
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
    before_training,
    beyond_of,
    breakdown_of,
    by_phase_of,
    called_in,
    copies_of,
    has_frozen_weights,
    inference_of,
    is_compiled,
    products_in,
    rests_on,
    shape_text,
    shares_of,
    top_ops_of,
    totals_of,
)
from anychip.memory import Peaks, replay
from anychip.record import Kind, Op, Program
from anychip.record.failure import refused
from anychip.record.reads import Read, reads
from anychip.record.steps import Step, find_steps
from anychip.spec import Chip
from anychip.spec.validated import CALLS, DENSE, EXPERTS, OTHER, OWN_PRODUCTS, Compared, Like, end_to_end, errors
from anychip.timeline.memory import Memory, memory, suffices
from anychip.timeline.price import Timeline, price

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
    held = memory(timeline.program)
    every = top_ops_of(timeline, window, most=MOST_OPS)
    top = every[:TOP_OPS]
    lacking = unsupported(program.ops, chip)
    return Forecast(
        chip=chip.id, num_chips=1, fits=suffices(chip.memory_bytes, program, held.peak_bytes), grade=chip.grade,
        step_time_s=step_time, step_time_error=error_of(evidence, beyond, breakdown, timeline, compared, 1, total["host_s"]),
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
        warnings=(
            *warnings_of(timeline, whole), *too_full(timeline.program, chip, held), *played_before(timeline, window), *growing(held, len(found), chip), *compiled_anew(program, find_steps(program), chip), *by_bytes_alone(timeline.program), *(one.text for one in lacking),
        ),
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


def is_prompt(tokens: float | None, samples: float | None) -> bool | None:
    """Of a call, by what it reads: a prompt, else one token of each sequence; None where that is not seen."""
    return tokens > samples if tokens and samples else None


def compared_with(program: Program, chip: Chip, layers: str, dtype: str, kind: str, prompt: bool | None, *, num_chips: int = 1,
                  sharded: bool = False) -> Compared | None:  # fmt: skip
    """The published runs that err like this one. program: as it was recorded, of a job one rank of most of its work. dtype: of most
    products. On a chip that compiles every step, it tells nothing that the program asked for that."""
    if kind == CALLS:
        return end_to_end(chip.runs_of, Like(layers, calls=Like.reading(prompt)), kind)
    compiled = chip.execution != "graph" and is_compiled(program)
    like = Like.of(layers, has_frozen_weights(program), dtype, compiled, sharded, num_chips)
    return end_to_end(chip.runs_of, like, kind)


def reserved(program: Program, capacity_bytes: int, settings: str) -> Peaks:
    """What PyTorch's allocator takes from a chip of so many bytes for a recording, whose compiled regions allocate what their kernels
    write."""
    return replay(fuse(program), capacity_bytes, settings)


Beyond = Mapping[tuple[str, str], float]  # as `figures.beyond_of` gives it


def error_of(evidence: Mapping[str, float], beyond: Beyond, breakdown: Mapping[str, float], timeline: Timeline,
             compared: Compared | None, num_chips: int, host_s: float) -> float:  # fmt: skip
    """One sigma. Where whole runs were compared on the chip, the error of those with such layers, for the share of the time that is
    like them; else parts of one kind err together, and kinds and the level of the chip's products apart. What no run has, the host, ops
    without a formula, a network between more chips than were compared and the chip's file come on top."""
    known = errors()
    total = sum(breakdown.values()) or 1.0
    host, compute = breakdown["host"] / total, breakdown["compute"] / total
    other, rate = (
        sum(share * known[row] for row, share in beyond.items() if row[0] == part) * (1 - host)
        for part in ("unlike", "rate")
    )
    grade = timeline.chip.grade
    if compared is not None:
        alike = compared.sigma * (1 - unlike_share(beyond)) * (1 - host)
        unknown = evidence["bytes_only"] - beyond["unlike", "bytes_only"]  # (those are in `other`)
        parts = [alike, other, unknown * known["evidence", "bytes_only"]]
    else:
        usual = {name: share - beyond["unlike", name] for name, share in evidence.items()}
        device = sum(share * known["evidence", name] for name, share in usual.items()) * (1 - host) + other
        rates = timeline.prices.on.rates
        rows = [row for op in ("gemm", "gemm.warm", "gemm.rate", "gemm.sustained") for row in rates.all(op)]
        measured = any(row.kind != "assumed" for row in rows)
        parts = [device, 0.0 if measured else compute * known["level", ""]]
        # The whole runs that raised its grade say nothing of this program.
        grade = max(grade, "C")
    late = max(host * known["host", ""], host_s * (1 + known["host", ""]) / total - 1)
    parts += [rate, late, known.get(("grade", grade), known["grade", "D"])]
    exposed = breakdown["exposed_comm"] / total
    parts += of_size(num_chips, compared.most_chips if compared is not None else 1, exposed)
    parts.append(of_waiting(exposed))
    return sqrt(sum(part**2 for part in parts))


def of_size(num_chips: int, most_chips: int, exposed: float) -> list[float]:
    """Errors of a job of more chips than the largest that was compared on this one, `most_chips`: of the share of its time in
    collectives alone, and of what large jobs lose to each other, by doublings of size."""
    if num_chips <= most_chips:
        return []
    known = errors()
    # Up to so many chips, runs of all kinds of chips were no further off than those of one node.
    alike, each = next((int(name), error) for (part, name), error in known.items() if part == "doubling")
    return [exposed * known["network", ""], each * log2(max(num_chips / max(most_chips, alike), 1))]


def of_waiting(exposed: float) -> float:
    """Error of a step that spends the share `exposed` of its time in collectives alone: of what is more than compared runs mostly have."""
    usual, each = next((float(name), error) for (part, name), error in errors().items() if part == "exposed")
    return each * max(exposed - usual, 0.0)


def unlike_share(beyond: Beyond) -> float:
    """Share of the chip's time in kinds of work that no published run is mostly made of."""
    return sum(share for (part, _), share in beyond.items() if part == "unlike")


MOST_EXPERTS = 1024  # of a layer; more scores are of a vocabulary, from which a token is drawn


def layers_of(ops: Iterable[Op], called: Iterable[Op], unlike: float) -> str:
    """Which kind of layers the program has. called: the ops in calls of modules. Tokens go to experts where a module keeps the largest
    few of their scores; a metric's five best classes are no experts. What computes mostly something else than products and attention,
    or takes most of its time for it (the share `unlike`), is like no published run."""
    ops = list(ops)
    tasks = [work(op) for op in ops]
    flop = sum(task.flop for task in tasks)
    products = sum(task.flop for task in tasks if task.kind in ("gemm", "grouped", "custom") or task.attention)
    products += sum(products_in(task) for task in tasks if task.kind == "fused")
    if products <= flop / 2 or unlike > 1 / 2:
        return OTHER
    if any(task.kind == "custom" and task.gemm for task in tasks):
        return OWN_PRODUCTS
    scores = [op.args[0].shape[-1] for op in called if packet(op.name) == "aten.topk" and op.args[0].shape]
    is_routed = any(task.kind == "grouped" for task in tasks) or any(count <= MOST_EXPERTS for count in scores)
    return EXPERTS if is_routed else DENSE


# Where the host issues ops for this share of a step, and the chip waits for it for this share, the host sets the pace.
HOST_ISSUES, CHIP_WAITS = 0.9, 0.1
ON_CHIP = {
    "compute": "compute",
    "memory_bound": "memory and launches",
}  # parts of a step that go on while the host issues


def limit_of(breakdown: Mapping[str, float], step_time: float, top: tuple[TopOp, ...], kernels: float,
           host_s: float, along: Mapping[str, str] | None = None, own_s: float = 0.0) -> str:  # fmt: skip
    """What the step's time is made of, in a sentence. host_s: what the host needs to issue a step's ops. along: for parts
    of a job's time the mesh axis that takes most of it. own_s: what the host spends on what launches nothing."""
    if not step_time:
        return "Nothing ran on the chip."
    largest = max(breakdown, key=lambda part: breakdown[part])
    name = "host" if is_paced_by_host(breakdown, step_time, host_s) else largest
    share = f"{breakdown[name] / step_time:.0%}"
    most = next((f"; {one.name.removeprefix('aten.')} {one.shape} alone takes {one.time_s / step_time:.0%}"
                 for one in top if one.limit != "network"), "")  # fmt: skip
    if name == "host" and largest in ON_CHIP:
        return (f"The host: it issues kernels for {units.duration(host_s)} of the step, {kernels:,.0f} of them. The chip takes "
                f"{units.duration(breakdown[largest])} for {ON_CHIP[largest]} in the meantime and waits {units.duration(breakdown['host'])}; "
                "larger batches, compilation or graphs would help.")  # fmt: skip
    if name == "host" and own_s > breakdown[name] / 2:
        return (f"The host: the chip waits for it {share} of the step. The program sleeps or works there for "
                f"{units.duration(own_s)} of it without the chip; its {kernels:,.0f} kernels take the host {units.duration(host_s)}.")  # fmt: skip
    if name == "host":
        return (f"The host: the chip waits for it {share} of the step, which launches {kernels:,.0f} kernels; "
                "larger batches, compilation or graphs would help.")  # fmt: skip
    axis = f", most of it along {along[name]}" if along and along.get(name) else ""
    if name == "exposed_comm":
        return f"Communication: {share} of the step is spent in it alone{axis}."
    if name == "bubble":
        return f"Waiting: {share} of the chips' time passes idle until other ranks have come as far{axis}."
    if name == "compute":
        return f"Compute: {share} of the step is in ops limited by flop/s{most}."
    return f"Memory: {share} of the step is in ops limited by bandwidth or by their launch{most}."


def is_paced_by_host(breakdown: Mapping[str, float], step_time: float, host_s: float) -> bool:
    """Whether the host decides how long a step takes: it issues ops all the time, or most of a step passes waiting for it."""
    busy = host_s >= HOST_ISSUES * step_time and breakdown["host"] >= CHIP_WAITS * step_time
    return busy or max(breakdown, key=lambda part: breakdown[part]) == "host"


def host_of(program: Program, on: Machine, breakdown: Mapping[str, float], step_time: float, total: Mapping[str, float]) -> str:  # fmt: skip
    """Where the host sets the pace, whose time its is, in words; else empty. total: as `totals_of` gives it."""
    if on.graph or on.called or not step_time or not is_paced_by_host(breakdown, step_time, total["host_s"]):
        return ""
    if program.meta.get("host") == "measured":
        return "as it passed on this machine, the recording's own included: an upper bound"
    if total["own_s"] > breakdown["host"] / 2:  # the program sleeps, whatever the CPU
        return ""
    op_s = on.host_op_s + on.host_launch_s
    whose = (on.rates.first("host.op") or on.rates.need("host.product")).stack
    said = f"{units.duration(op_s)} an operation with its launch, {units.duration(on.host_product_s)} more a product"
    return said + (f", as {whose}" if whose else "")


# Of the chip's time that copies between host and chip take before what was assumed of their link is told.
COPIES = 0.01


def by_assumed_link(timeline: Timeline, window: Window) -> tuple[str, ...]:
    """What was assumed of the link to the host, where a step spends time on it."""
    on, copies = timeline.prices.on, copies_of(timeline, window)
    if not on.host_link_assumed or copies < COPIES:
        return ()
    rate = units.count(on.host_link_bytes_per_s, "B/s")
    return (
        f"{timeline.chip.id}: the rate of its link to the host is unknown. Copies between them, {copies:.0%} of the time on the chip, "
        f"are priced at {rate}: {on.host_link_assumed}.",
    )


MANY_STEPS = 1_000_000  # more than programs take


def warnings_of(timeline: Timeline, window: Window) -> tuple[str, ...]:
    chip = timeline.chip
    found = []
    if window.kind == "run":
        found.append(
            "No step was found: no optimizer stepped and no module on the chip was called to its end, so figures are of the "
            "whole run. For a training script try more time or --steps; for one that only calls a model, --calls N."
        )
    elif len(window.times_s) == 1 and len(find_steps(timeline.program)) == 1:
        found.append("Only one step was recorded: its figures include what happens once.")
    if window.second_s is not None:
        found.append(
            f"The second step took {units.duration(window.second_s)} and is left out, too: what was done before it (a sample, an "
            f"evaluation) did not come again in the {units.several(len(window.times_s), 'step')} after it. --steps takes in more of them."
        )
    if window.kind == "train" and inference_of(timeline, window) > 1 / 2:
        found.append(
            "More than half of the chip's time in the steps that were recorded is in model calls without gradients, as an evaluation's: "
            "where they do not belong to every step, a step takes less."
        )
    found += by_assumed_link(timeline, window)
    found += of_package(chip)
    return tuple(found)


def too_full(program: Program, chip: Chip, held: Memory) -> list[str]:
    """How much a program needs that a chip has not, and what for."""
    if held.peak_bytes <= chip.memory_bytes:
        return []
    more = "more than " if any(refused(program)) else ""
    return [
        f"{chip.id}: does not fit: needs {more}{units.memory(held.peak_bytes)}, has {units.memory(chip.memory_bytes)}: {filling(held)}."
    ]


FILLING = 3


def filling(held: Memory) -> str:
    """What most of the memory at the peak is, the most first."""
    ranked = sorted(held.by_kind.items(), key=lambda item: -item[1])[:FILLING]
    return ", ".join(f"{name} {units.memory(nbytes)}" for name, nbytes in ranked if nbytes)


def played_before(timeline: Timeline, window: Window) -> list[str]:
    """Told where a program calls a model for longer than a step before it trains: an evaluation, or the play that an agent learns from."""
    if window.kind != "train":
        return []
    calls, seconds = before_training(timeline)
    if seconds <= window.step_time_s:
        return []
    return [
        f"Before its first step the program called a model {units.several(calls, 'time')} without gradients, {units.duration(seconds)} on the "
        "chip, which is in no figure. Where such calls come again (an agent's play, an evaluation), --steps takes in more steps, and with them those."
    ]


def of_package(chip: Chip) -> list[str]:
    """Told where a rank of a program has less than what the file describes: one of several devices of a package."""
    if (several := chip.devices_per_package) == 1:
        return []
    of_one = f"For one of them: --on {chip.device}" if chip.device else "No file of the standard describes one of them"
    return [
        f"{chip.id}: figures take a package as one chip. Drivers show {several} devices in it, each with its own memory and rank, so what "
        f"fits here may not fit there. {of_one}."
    ]


def growing(held: Memory, steps: int, chip: Chip, who: str = "") -> list[str]:
    """Told where what each step leaves behind fills the memory in a training's time. who: of a job the rank."""
    left = chip.memory_bytes - held.peak_bytes
    if left < 0 or not held.growth_bytes or left > MANY_STEPS * held.growth_bytes:
        return []
    return [
        f"{chip.id}: memory grows{who}: each step keeps {units.memory(held.growth_bytes)} that it made, in all {steps} that were "
        f"recorded. If that goes on, it is full after about {steps + left // held.growth_bytes:,} steps."
    ]


FEW_SHAPES = 3  # of steps: a prompt's, a token's, those of a last batch
OFTEN = 4  # times that steps of the same shapes may come while the compiler's time still tells


def compiled_anew(program: Program, steps: Sequence[Step], chip: Chip) -> list[str]:
    """Told of a chip whose software compiles whole steps where each step, but for the first, has shapes that none before it had (a cache
    that grows by a token, batches as long as their longest line), or many do, as where one prompt is generated from twice."""
    if chip.execution != "graph" or len(steps) < 3:
        return []
    shapes = [
        frozenset(
            (one.shape, one.dtype)
            for op in (program.ops[at] for at in launched_in(program, step))
            for one in op.tensors
        )
        for step in steps
    ]
    seen, fresh = set(shapes[0]), []
    for those in shapes[1:]:
        fresh.append(those - seen)
        seen |= those
    kinds = len(set(shapes))
    if not all(fresh) and not (kinds > FEW_SHAPES and kinds * OFTEN >= len(steps)):
        return []
    shown = ", then ".join("x".join(map(str, largest_of(those))) for those in [one for one in fresh if one][:3])
    kind = "call" if steps[0].kind == "call" else "step"
    which = "each has shapes of its own" if all(fresh) else f"{kinds} have shapes of their own"
    return [
        f"{chip.id}: {units.several(len(steps), kind)} were recorded, and {which} ({shown}). Its software compiles "
        f"each anew, seconds to minutes that are in no figure. Try fixed shapes: a static cache "
        '(transformers: cache_implementation="static"), or batches padded to a few lengths.'
    ]


def launched_in(program: Program, step: Step) -> list[int]:
    """The distinct ops of a step."""
    words = slice(step.begin, step.end)
    found: list[int] = np.unique(program.payloads[words][program.kinds[words] == Kind.OP]).tolist()
    return found


def largest_of(shapes: Iterable[tuple[tuple[int, ...], str]]) -> tuple[int, ...]:
    return max((shape for shape, _ in shapes), key=lambda shape: (prod(shape), shape))


def by_bytes_alone(*programs: Program) -> tuple[str, ...]:
    """What has no formula, in one line each: kernels of the program's own, which its author can give a cost and of which those that
    move most are named, and other ops."""
    own: Counter[str] = Counter()
    others: set[str] = set()
    for program in programs:
        launches = np.bincount(program.payloads[program.kinds == Kind.OP], minlength=len(program.ops)).tolist()
        for op, count in zip(program.ops, launches, strict=True):
            if work(op).known:
                continue
            if op.name.startswith(OWN_KERNELS):
                own[op.name] += count * work(op).bytes_moved
            else:
                others.add(packet(op.name))
    found = []
    if own:
        shown = ", ".join(name for name, _ in own.most_common(3)) + (", ..." if len(own) > 3 else "")
        found.append(
            f"Priced by the bytes of their tensors alone, what they multiply in no figure: {units.several(len(own), 'kernel')} of the program's own ({shown}). "
            "anychip.kernel gives a kernel its cost, see docs/kernels.md."
        )
    if others:
        shown = ", ".join(sorted(others)[:8]) + (", ..." if len(others) > 8 else "")
        found.append(f"Priced by bytes alone, for want of a formula: {shown}.")
    return tuple(found)


def _per_s(count: float | None, seconds: float) -> float | None:
    return count / seconds if count and seconds else None


def utilization(flop: float, step_time_s: float, peak_flop_per_s: float | None) -> float | None:
    """What was computed over what could be at that peak; None where nobody publishes it."""
    if peak_flop_per_s is None:
        return None
    return flop / (step_time_s * peak_flop_per_s) if step_time_s else 0.0
