"""`forecast_job(program, chip, fabric)`: a `Forecast` of a job of many ranks on many chips.

In: a recording of a job's distinct ranks, a chip, the fabric between so many of it. Figures are for the whole job: a
step is over when its last rank is; times by what limited them and by mesh axis are means over all chips; memory is the
worst chip's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from anychip import units
from anychip.caveats import chip as caveats
from anychip.cluster import ClusterTimeline, RankTimeline, Stragglers, simulate
from anychip.cluster.axes import SEQUENCE_AXES, TENSOR_AXES, axes_of, copies, is_fed, replicas, shards_parameters
from anychip.cluster.deadlock import ranks_text
from anychip.cluster.goodput import Reliability, goodput
from anychip.cluster.path import critical_path
from anychip.cost.price import LIMITS
from anychip.cost.support import unsupported
from anychip.cost.work import work
from anychip.figures import (
    UNEVEN,
    AxisFigures,
    Floats,
    GoodputFigures,
    PathPart,
    RankFigures,
    TopOp,
    Window,
    added_s,
    aside_s,
    batch_of,
    beyond_of,
    by_phase_of,
    called_in,
    compared_with,
    error_of,
    host_of,
    is_prompt,
    layers_of,
    limit_of,
    rests_on,
    shares_of,
    told_of,
    top_ops_of,
    totals_of,
    unlike_share,
)
from anychip.forecast import MOST_OPS, TOP_OPS, Forecast, prompt_of
from anychip.network import USUAL_NODE, Fabric
from anychip.record import Op, Program
from anychip.record.failure import refused
from anychip.record.reads import reads
from anychip.record.steps import Marks, Step, find_steps
from anychip.record.tape import Mark
from anychip.spec import Chip
from anychip.timeline.memory import Memory, memory, suffices
from anychip.timeline.price import Timeline

Key = TypeVar("Key")

BREAKDOWN = ("compute", "memory_bound", "exposed_comm", "bubble", "host")


def node_chips(fabric: Fabric) -> int:
    """Chips of one host: of the cluster's node where it is known, else of the chip's scale-up domain up to the usual 8."""
    if fabric.cluster is not None and fabric.cluster.node_chips:
        return fabric.cluster.node_chips
    link = fabric.chip.scale_up
    return min((link.domain_chips if link else None) or USUAL_NODE, USUAL_NODE)


@dataclass(frozen=True)
class Part:
    """One distinct rank within the job's window. steps: how many of its steps count, the first included. ended_s: when its own
    last step had ended. weight: the share of all chips that it stands for. axes: a name for each of its groups."""

    rank: RankTimeline
    steps: int
    window: Window
    ended_s: float
    weight: float
    axes: list[str]
    memory: Memory

    @property
    def program(self) -> Program:
        return self.rank.program


def forecast_job(program: Program, chip: Chip, fabric: Fabric, *, tokens_per_step: float | None = None,
                 samples_per_step: float | None = None, stragglers: Stragglers | None = None) -> Forecast:  # fmt: skip
    """Price a job and sum up its steps. tokens_per_step, samples_per_step: of the whole job. stragglers:
    None: chips that differ as those of one model do. Raises Deadlock, BadNetwork, BadProgramFile."""
    timeline = simulate(program, chip, fabric, stragglers=stragglers or Stragglers(), node_chips=node_chips(fabric))
    parts = parts_of(timeline)
    step_time = parts[0].window.step_time_s
    chips = timeline.num_chips
    totals = [totals_of(part.rank.timeline, part.window) for part in parts]
    main = max(range(len(parts)), key=lambda i: totals[i]["flop"] * parts[i].weight)
    dtype = str(totals[main]["dtype"])

    def mean(values: Sequence[float]) -> float:
        return sum(value * part.weight for value, part in zip(values, parts, strict=True))

    mine = [breakdown_of_rank(part) for part in parts]
    breakdown = {name: mean([one[name] for one, _ in mine]) for name in BREAKDOWN}
    evidence = _mean_of([shares_of(part.rank.timeline, part.window) for part in parts], mean)
    products = parts[main].rank.timeline.prices.on.products(dtype)
    peak = products.published * chips if products.published is not None else None
    beyond = _mean_of([beyond_of(part.rank.timeline, part.window) for part in parts], mean)
    flop, model = (mean([total[name] for total in totals]) * chips for name in ("flop", "model_flop"))
    tokens, samples = _batch(parts, program)
    prompt = is_prompt(tokens, samples)
    prompt_tokens = prompt_of(tokens, _batch(parts, program, first=True)[0], parts[0].window.kind)
    tokens = tokens_per_step if tokens_per_step is not None else tokens
    samples = samples_per_step if samples_per_step is not None else samples
    worst = max(parts, key=lambda part: part.memory.peak_bytes)
    every, first = _top_ops(parts), parts[0]
    axes = _axes(parts, [axes for _, axes in mine])
    ranks = tuple(
        _rank(part, one, chip, {*part.rank.members} & {*program.ran})
        for part, (one, _) in zip(parts, mine, strict=True)
    )
    all_ops = dict.fromkeys(op for rank in program.ranks for op in rank.ops)
    called = set[Op]().union(*(called_in(part.rank.timeline, part.window) for part in parts))
    most = parts[main]
    recorded = next(rank for rank in program.ranks if rank.rank == most.program.rank)
    compared = compared_with(
        recorded, chip, layers_of(all_ops, called, unlike_share(beyond)), products.dtype, most.window.kind, prompt,
        num_chips=chips, sharded=shards_parameters(most.program, most.rank.calls, most.axes),
    )  # fmt: skip
    lacking = unsupported(all_ops, chip)
    usual = {name: mean([total[name] for total in totals]) for name in ("kernels", "host_s", "own_s")}
    kernels, host, own = usual.values()
    error = error_of(evidence, beyond, breakdown, most.rank.timeline, compared, chips, host)
    return Forecast(
        chip=chip.id, num_chips=chips, fits=all(rank.fits for rank in ranks), grade=chip.grade,
        step_time_s=step_time, error_parts=error, model_flop_per_step=model, executed_flop_per_step=flop,
        peak_flop_per_s=peak, matrix_dtype=products.dtype,
        peak_memory_bytes=worst.memory.peak_bytes, memory_bytes=chip.memory_bytes, breakdown_s=breakdown, evidence=evidence,
        power_w=chip.power_w, usd_per_hour=chip.price_usd_per_hour,
        steps=parts[0].steps or max(part.steps for part in parts), step_kind=parts[0].window.kind,
        num_ops=sum(int(part.rank.timeline.op.size) for part in parts), kernels_per_step=kernels,
        tokens_per_step=tokens, samples_per_step=samples, samples_given=samples_per_step is not None,
        memory_by_kind=worst.memory.by_kind,
        time_by_phase_s=_mean_of([by_phase_of(part.rank.timeline, part.window) for part in parts], mean), all_ops=every,
        limit=limit_of(breakdown, step_time, every[:TOP_OPS], kernels, host, _along(axes), own), step_times_s=parts[0].window.times_s, told=parts[0].window.picked,
        warnings=(*timeline.warnings, *_warnings(parts, worst, chip), *(one.text for one in lacking)),
        would_fail=tuple(one.text for one in lacking if one.fails),
        pace=timeline.pace, cluster=fabric.cluster.id if fabric.cluster is not None else None,
        ranks=ranks, needs_more=any(any(refused(rank)) for rank in program.ranks),
        axes=axes, critical_path=_path(timeline, parts),
        goodput=_goodput(parts, fabric), memory_by_module=worst.memory.by_module,
        first_step_s=max((part.window.first_s for part in parts if part.window.first_s is not None), default=None),
        stepping_memory_bytes=max(part.memory.stepping_bytes for part in parts),
        prompt_tokens=prompt_tokens, values_read=reads(first.program, first.window.begin, first.window.end, first.window.count), compared=compared,
        rests_on=rests_on(most.rank.timeline, most.window),
        host_bound=host_of(program, most.rank.timeline.prices.on, breakdown, step_time, usual),
    )  # fmt: skip


def parts_of(timeline: ClusterTimeline) -> list[Part]:
    """All ranks within one window, whose steps go from the moment at which all ranks have done one to that at which all have done the
    next. Only steps that all of them took count."""
    found = _steps_of([rank.program for rank in timeline.ranks], timeline.steps)
    own = [Window.of(rank.timeline, steps) for rank, steps in zip(timeline.ranks, found, strict=True)]
    stepped = [window for window in own if window.steps] or own
    count = min(len(window.times_s) for window in stepped)
    own_ends = np.array([window.ends_s[-count - 1 :] for window in stepped])
    ends = own_ends.max(axis=0)
    kind = next((window.kind for window in own if window.kind == "train"), own[0].kind)
    windows = []
    for rank, window in zip(timeline.ranks, own, strict=True):
        within = window if window.steps or len(ends) == 1 else _meanwhile(window, rank.timeline, ends)
        counted = within.steps[-count:]
        begin = counted[0].begin if counted else within.begin
        windows.append(
            replace(
                within,
                steps=counted,
                kind=kind,
                begin=begin,
                begin_s=float(ends[0]),
                end_s=float(ends[-1]),
                times_s=tuple(np.diff(ends).tolist()),
            )
        )
    evaluated = [
        aside_s(rank.timeline, within)
        for rank, window, within in zip(timeline.ranks, own, windows, strict=True)
        if window.steps
    ]
    windows = [window.settled(max(evaluated, default=0.0)) for window in windows]
    at = _told_of(windows[0], own_ends)
    parts = []
    for rank, steps, within, window in zip(timeline.ranks, found, windows, own, strict=True):
        weight = len(rank.members) / timeline.num_chips
        axes, held = axes_of(rank.program, rank.calls), memory(rank.program)
        told = within if at is None or not within.steps else within.pick(at)
        parts.append(Part(rank, len(steps), told, window.end_s, weight, axes, held))
    return parts


def _told_of(window: Window, own_ends: Floats) -> slice | None:
    """Which steps of a job are told, if not all: as of one chip, where all ranks are as far at their end as at their begin. own_ends: by
    rank, when each of its steps ends, from the one before those that count."""
    at = told_of(window.times_s, in_rounds=window.kind == "train")
    if at is None:
        return None
    first, last, _ = at.indices(len(window.times_s))
    left_out = own_ends.shape[1] - 1 - len(window.times_s)
    spans = own_ends[:, left_out + last] - own_ends[:, left_out + first]
    span = sum(window.times_s[at])
    return at if bool((abs(spans - span) <= UNEVEN * span).all()) else None


def _steps_of(programs: Sequence[Program], most: int | None) -> list[list[Step]]:
    """The steps of each rank, up to so many. Where some train, calls of others are none."""
    found = [find_steps(program)[:most] for program in programs]
    kind = "train" if any(steps[0].kind == "train" for steps in found if steps) else "call"
    return [steps if steps and steps[0].kind == kind else [] for steps in found]


def _meanwhile(window: Window, timeline: Timeline, ends: Floats) -> Window:
    """What a rank without steps does during those of the others, which end then."""
    latest = np.maximum.accumulate(timeline.start_s) if timeline.start_s.size else timeline.start_s
    edges = [*timeline.position.tolist(), timeline.program.tape.size]
    begins = [edges[at] for at in np.searchsorted(latest, ends).tolist()]
    steps = tuple(Step(begin, end, window.kind, ()) for begin, end in pairwise(begins))
    return replace(window, steps=steps, begin=begins[0], end=begins[-1])


def _learnt_meanwhile(plain: Program, part: Part) -> tuple[Step, ...]:
    """Of a rank that makes gradients for others and takes no steps itself, what it is fed during theirs. plain: as it was recorded."""
    forwards, there = (_forwards(program) for program in (plain, part.program))
    edges = np.searchsorted(there, [*(step.begin for step in part.window.steps), part.window.end]).tolist()
    ends = [*forwards.tolist(), plain.tape.size]
    return tuple(
        Step(ends[first], ends[last], "train", tuple(ends[first:last]))
        for first, last in pairwise(edges)
        if first < last
    )


def _forwards(program: Program) -> npt.NDArray[np.int64]:
    marks = Marks(program)
    found: npt.NDArray[np.int64] = marks.at[marks.what == Mark.FORWARD_BEGIN]
    return found


def breakdown_of_rank(part: Part) -> tuple[dict[str, float], dict[str, AxisFigures]]:
    """Of one rank the mean step's seconds by what limited them, and by mesh axis what its collectives took: exposed while
    they alone ran, waiting while it stood idle until its partners came."""
    timeline, window = part.rank.timeline, part.window
    wires = part.rank.is_wire()[timeline.op]
    compute = ~wires & (timeline.prices.limit[timeline.op] == LIMITS.index("compute"))
    names = sorted(set(part.axes))
    runs = [_runs(part, name) for name in names]
    waits = [_waits(part, name) for name in names]
    spans = [(timeline.start_s[mask], timeline.end_s[mask]) for mask in (compute, ~wires & ~compute)]
    # A rank that is done before the others has nothing more to wait for in the recording; in a longer run it would.
    ended = (np.array([part.ended_s]), np.array([max(window.end_s, part.ended_s)]))
    *seconds, host = window.scaled(added_s([*spans, *runs, *waits, ended], window))
    exposed, waiting = seconds[2 : 2 + len(names)], seconds[2 + len(names) :]
    values = (seconds[0], seconds[1], sum(exposed), sum(waiting), host)
    axes = {
        name: _axis(part, name, run, exposed[i], waiting[i])
        for i, (name, run) in enumerate(zip(names, runs, strict=True))
    }
    return dict(zip(BREAKDOWN, values, strict=True)), axes


def _on_axis(part: Part, name: str) -> list[int]:
    """The ops that are collectives along an axis."""
    return [op for op, call in part.rank.calls.items() if part.axes[call.group] == name]


def _runs(part: Part, name: str) -> tuple[Floats, Floats]:
    timeline = part.rank.timeline
    mine = np.isin(timeline.op, _on_axis(part, name))
    return timeline.start_s[mine], timeline.end_s[mine]


def _waits(part: Part, name: str) -> tuple[Floats, Floats]:
    ops = set(_on_axis(part, name))
    waits = [wait for wait in part.rank.waits if wait.op in ops]
    return np.array([wait.ready_s for wait in waits]), np.array([wait.start_s for wait in waits])


def _axis(part: Part, name: str, run: tuple[Floats, Floats], exposed_s: float, waiting_s: float) -> AxisFigures:
    timeline, window = part.rank.timeline, part.window
    ops = _on_axis(part, name)
    called = timeline.op[window.ops(timeline)]
    counts = np.bincount(called, minlength=len(part.program.ops))
    return AxisFigures(
        size=max(len(g.ranks) for g, axis in zip(part.program.groups, part.axes, strict=True) if axis == name),
        calls=float(counts[ops].sum()) / window.count,
        nbytes=float(sum(part.rank.calls[op].nbytes * int(counts[op]) for op in ops)) / window.count,
        busy_s=added_s([run], window)[0] / window.count,
        exposed_s=exposed_s,
        waiting_s=waiting_s,
    )


def _axes(parts: Sequence[Part], found: Sequence[Mapping[str, AxisFigures]]) -> dict[str, AxisFigures]:
    """Means over all chips of what each axis takes."""
    names = sorted({name for axes in found for name in axes})
    sums: dict[str, AxisFigures] = {}
    for name in names:
        mine = [(part.weight, axes[name]) for part, axes in zip(parts, found, strict=True) if name in axes]
        means = [
            sum(weight * float(getattr(one, field)) for weight, one in mine)
            for field in ("calls", "nbytes", "busy_s", "exposed_s", "waiting_s")
        ]
        if means[0]:
            sums[name] = AxisFigures(max(one.size for _, one in mine), *means)
    return sums


def _along(axes: Mapping[str, AxisFigures]) -> dict[str, str]:
    """The axis that most of the exposed network, and of the waiting, is along; none where there is but one."""
    if len(axes) < 2:
        return {}
    return {
        "exposed_comm": max(axes, key=lambda name: axes[name].exposed_s),
        "bubble": max(axes, key=lambda name: axes[name].waiting_s),
    }


def _mean_of(found: Sequence[Mapping[Key, float]], mean: Callable[[Sequence[float]], float]) -> dict[Key, float]:
    return {name: mean([one[name] for one in found]) for name in found[0]}


def _batch(parts: Sequence[Part], program: Program, first: bool = False) -> tuple[float | None, float | None]:
    """(tokens, samples) of the whole job per step: what the first pipeline stages read, ranks of one sample once. first: of the step
    that no figure is of."""
    tokens = samples = 0.0
    recorded = {rank.rank: rank for rank in program.ranks}
    bystanders = {rank for part in parts if not part.steps for rank in part.rank.members}
    for part in parts:
        # What a step is fed is read where nothing has been fused yet.
        plain = recorded[part.program.rank]
        every = find_steps(plain)[: part.steps]
        counted = every[:1] if first else part.window.in_plain(every)
        steps = counted if part.steps else _learnt_meanwhile(plain, part)
        if not is_fed(plain, part.axes, steps[-1] if steps else None, bystanders):
            continue
        mine = batch_of(plain, steps, part.window.picked is not None and not first)
        shared = copies(part.program, part.axes, TENSOR_AXES)
        split = copies(part.program, part.axes, SEQUENCE_AXES)
        tokens += (mine[0] or 0.0) * len(part.rank.members) / shared
        samples += (mine[1] or 0.0) * len(part.rank.members) / shared / split
    return tokens or None, samples or None


def _top_ops(parts: Sequence[Part], most: int = MOST_OPS) -> tuple[TopOp, ...]:
    """Ops of one name and shape, means over all chips; a collective's name says along which axis, its shape the bytes that
    nccl-tests would count."""
    found: dict[tuple[str, str], TopOp] = {}
    busy = 0.0
    for part in parts:
        named = {
            op: (
                f"{call.kind} {part.axes[call.group]}",
                f"{units.memory(call.nbytes)} {work(part.program.ops[op]).dtype}",
            )
            for op, call in part.rank.calls.items()
        }
        for top in top_ops_of(part.rank.timeline, part.window, most=MOST_OPS, named=named):
            known = found.get((top.name, top.shape))
            count, time = top.count * part.weight, top.time_s * part.weight
            busy += time
            if known is not None:
                count, time = count + known.count, time + known.time_s
            found[top.name, top.shape] = replace(top, count=count, time_s=time)
    ranked = sorted(found.values(), key=lambda top: -top.time_s)[:most]
    return tuple(replace(top, share=top.time_s / busy if busy else 0.0) for top in ranked)


def _rank(part: Part, breakdown: Mapping[str, float], chip: Chip, ran: set[int]) -> RankFigures:
    place = {
        axis: group.ranks.index(part.rank.rank)
        for axis, group in zip(part.axes, part.program.groups, strict=True)
        if (group.axis is not None or axis == "pp") and part.rank.rank in group.ranks
    }
    peak = part.memory.peak_bytes
    fits = suffices(chip.memory_bytes, part.program, peak)
    return RankFigures(part.rank.rank, len(part.rank.members), place, peak, fits, breakdown, len(ran))


def _path(timeline: ClusterTimeline, parts: Sequence[Part]) -> tuple[PathPart, ...]:
    """The critical path of the window by distinct rank, the longest part first."""
    window = parts[0].window
    span = window.end_s - window.begin_s
    seconds = dict.fromkeys(range(len(parts)), 0.0)
    for segment in critical_path(timeline, window.begin_s, window.end_s):
        seconds[segment.index] += segment.end_s - segment.begin_s
    ranked = sorted(seconds.items(), key=lambda item: -item[1])
    return tuple(PathPart(parts[index].rank.rank, time / span) for index, time in ranked if time and span)


def _goodput(parts: Sequence[Part], fabric: Fabric) -> GoodputFigures | None:
    """What failures leave of the time, where the cluster's file tells; the checkpoint holds every parameter and optimizer
    state once."""
    known = Reliability.of(fabric.cluster) if fabric.cluster is not None else None
    if known is None or parts[0].window.kind != "train":
        return None
    size = sum(
        part.memory.state_bytes * len(part.rank.members)
        / replicas(part.program, part.rank.calls, part.axes)
        for part in parts
    )  # fmt: skip
    if not size:
        return None
    found = goodput(fabric.num_chips, size, known)
    return GoodputFigures(found.share, found.interval_s, found.mtbf_s, found.checkpoint_s, size)


def _warnings(parts: Sequence[Part], worst: Part, chip: Chip) -> tuple[str, ...]:
    """As of one chip, with the ranks that do not fit named."""
    stepped = [part for part in parts if part.steps] or list(parts)
    found = [text for part in stepped for text in caveats.of_steps(part.rank.timeline, part.window)]
    found += caveats.by_crowded_streams((part.rank.timeline, part.window) for part in parts)
    found += caveats.played_before(stepped[0].rank.timeline, stepped[0].window)
    found += caveats.by_bytes_alone(*(part.rank.timeline.program for part in parts))
    first_full = min(
        parts, key=lambda part: (chip.memory_bytes - part.memory.peak_bytes) / (part.memory.growth_bytes or 1)
    )
    found += caveats.growing(first_full.memory, first_full.steps, chip, f" on {ranks_text(first_full.rank.members)}")
    found += caveats.compiled_anew(parts[0].program, find_steps(parts[0].program), chip)
    over = [part for part in parts if part.memory.peak_bytes > chip.memory_bytes]
    if over:
        ranks = sorted(rank for part in over for rank in part.rank.members)
        found.append(
            f"{chip.id}: does not fit: {ranks_text(ranks)} need up to {units.memory(worst.memory.peak_bytes)}, a chip has "
            f"{units.memory(chip.memory_bytes)}: {caveats.filling(worst.memory)}."
        )
    return tuple(dict.fromkeys(found))
