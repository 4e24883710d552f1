"""Sums over a timeline's steps: what a `Forecast` is made of.

In: a `Timeline` and a `Window`, the stretch of its tape that figures are taken over. Out: plain numbers per step.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anychip.cost.machine import KNOWN, WIDE
from anychip.cost.price import EVIDENCE, LIMITS
from anychip.cost.work import Work, packet, work
from anychip.figures.window import Floats, Window
from anychip.record import Kind, Op, Program
from anychip.record.steps import PHASES, Marks, Phase
from anychip.record.tape import Mark
from anychip.timeline.price import Timeline
from anychip.units import memory


@dataclass(frozen=True)
class TopOp:
    """Ops of one name and shape, per step: how often, for how long, and on what evidence."""

    name: str
    shape: str
    count: float
    time_s: float
    share: float
    evidence: str
    limit: str


def products_in(task: Work) -> int:
    """Executed flop of matrix products, those among them that a compiler put into a kernel with other ops."""
    return task.flop if task.unit == "matrix" else task.model_flop if task.kind == "fused" else 0


def totals_of(timeline: Timeline, window: Window) -> dict[str, Any]:
    """Per step: model_flop (recomputed forwards and an optimizer's products left out) and executed flop, of the usual step as its time is, and on average kernels, the host's time to issue them and that which it spends on its own; and the dtype of most matrix flop."""
    inside = window.ops(timeline)
    ops, positions = timeline.op[inside], timeline.position[inside]
    distinct = [work(op) for op in timeline.program.ops]
    flop = np.array([products_in(task) for task in distinct], np.float64)
    model = np.array([task.model_flop if products_in(task) else 0 for task in distinct], np.float64)
    marks = Marks(timeline.program)
    left_out = (marks.recomputed | marks.updates())[positions]
    counts = np.bincount(ops, minlength=len(distinct))
    return {
        "flop": window.usual(flop[ops], positions),
        "model_flop": window.usual(np.where(left_out, 0.0, model[ops]), positions),
        "kernels": float(timeline.prices.kernels @ counts) / window.count if counts.size else 0.0,
        "host_s": issued_s(timeline, window) / window.count,
        "own_s": own_s(timeline.program, window) / window.count,
        "dtype": main_dtype_of(distinct, counts),
    }


def issued_s(timeline: Timeline, window: Window) -> float:
    """What the host takes to issue a window's ops: less than one by one in a graph or a compiled region, as its clock shows, which
    also waits for some."""
    inside = window.ops(timeline)
    at, eager = timeline.position[inside], timeline.prices.host_s[timeline.op[inside]]
    clock = timeline.host_s
    before = np.where(at > 0, clock[np.maximum(at - 1, 0)], 0.0) if clock.size else clock
    return float(np.minimum(clock[at] - before, eager).sum())


def own_s(program: Program, window: Window) -> float:
    """What the host spends in a window on what launches nothing: the program sleeps, and where the host was measured all else, too."""
    words = slice(window.begin, window.end)
    return float(program.payloads[words][program.kinds[words] == Kind.HOST].sum()) * 1e-9


def main_dtype_of(distinct: list[Work], counts: npt.NDArray[np.int64]) -> str:
    by_dtype: dict[str, float] = {}
    for task, count in zip(distinct, counts.tolist(), strict=True):
        if (flop := products_in(task)) and count:
            by_dtype[task.dtype] = by_dtype.get(task.dtype, 0.0) + flop * count
    return max(by_dtype, key=lambda dtype: by_dtype[dtype], default="fp32")


# Kinds of work that no published run is mostly made of. What lies between products (norms, copies, optimizers) those have, too.
UNLIKE = frozenset({"conv", "rnn", "index", "sort", "fft", "linalg"})


def beyond_of(timeline: Timeline, window: Window) -> dict[tuple[str, str], float]:
    """Shares of the chip's busy time in what the published runs have not, by the row of `errors.csv` that tells its error: kinds of work
    and copies over the link to the host ("unlike", by evidence); and by how their rate is known products of more than 16 bit that limit
    it, and copies over a link that was assumed ("rate")."""
    inside = window.ops(timeline)
    ops, duration = timeline.op[inside], timeline.duration_s[inside]
    spent = np.bincount(ops, duration, len(timeline.program.ops))
    on = timeline.prices.on
    found = {("rate", name): 0.0 for name in KNOWN} | {("unlike", name): 0.0 for name in EVIDENCE}
    for index in np.flatnonzero(spent).tolist():
        task = work(timeline.program.ops[index])
        limit = LIMITS[timeline.prices.limit[index]]
        if task.kind in UNLIKE or limit == "host_link":
            found["unlike", EVIDENCE[timeline.prices.evidence[index]]] += float(spent[index])
        if limit == "host_link" and on.host_link_assumed:
            found["rate", "assumed"] += float(spent[index])
        if task.unit == "matrix" and limit == "compute":
            products = on.products(task.dtype)
            if products.dtype in WIDE:
                found["rate", products.known] += float(spent[index])
    total = float(duration.sum())
    return {row: seconds / total if total else 0.0 for row, seconds in found.items()}


def inference_of(timeline: Timeline, window: Window) -> float:
    """Share of the chip's busy time in model calls without gradients."""
    inside = window.ops(timeline)
    total = float(timeline.duration_s[inside].sum())
    return _inference_s(timeline, inside, Marks(timeline.program)) / total if total else 0.0


def aside_s(timeline: Timeline, window: Window) -> float:
    """How much longer what stands before a step's first forward, and model calls without gradients, take in the first of the window's two
    steps than in the other; of more none is asked. Of a measured host the former is not: it waits for data there, now longer, now shorter."""
    if len(window.steps) != 2:
        return 0.0
    is_measured = timeline.program.meta.get("host") == "measured"
    marks = Marks(timeline.program)
    changes = (marks.what == Mark.INFER_BEGIN).astype(np.int64) - (marks.what == Mark.INFER_END)
    depth = np.cumsum(changes)
    begins, ends = marks.at[(changes == 1) & (depth == 1)], marks.at[(changes == -1) & (depth == 0)]
    begins = begins[: ends.size]
    took = timeline.done_s(ends) - timeline.done_s(begins) if ends.size else np.zeros(0)
    aside = []
    for step in window.steps:
        forward = step.forwards[0] if step.forwards and not is_measured else step.begin
        before, begun = timeline.done_s(np.array([max(step.begin - 1, 0), max(forward - 1, 0)], np.int64))
        aside.append(float(begun - before) + float(took[(begins >= forward) & (begins < step.end)].sum()))
    return aside[0] - aside[1]


def before_training(timeline: Timeline) -> tuple[int, float]:
    """Model calls without gradients before the first one with them, and the chip's seconds in them."""
    marks = Marks(timeline.program)
    first = int(marks.at[marks.what == Mark.FORWARD_BEGIN].min(initial=timeline.program.tape.size))
    calls = int((marks.what[marks.at < first] == Mark.INFER_BEGIN).sum())
    return calls, _inference_s(timeline, slice(0, int(np.searchsorted(timeline.position, first))), marks)


def after_calls_s(timeline: Timeline, window: Window) -> float:
    """The chip's busy seconds after the last call that figures are of."""
    return float(timeline.duration_s[int(np.searchsorted(timeline.position, window.end)) :].sum())


def _inference_s(timeline: Timeline, inside: slice, marks: Marks) -> float:
    return float(timeline.duration_s[inside][_without_gradients(timeline, inside, marks)].sum())


def _without_gradients(timeline: Timeline, inside: slice, marks: Marks) -> npt.NDArray[np.bool_]:
    """Which ops are of model calls without gradients."""
    latest = np.searchsorted(marks.at, timeline.position[inside], side="right") - 1  # -1 where none was before
    found: npt.NDArray[np.bool_] = np.append(marks.what, -1)[latest] == Mark.INFER_BEGIN
    return found


def copies_of(timeline: Timeline, window: Window) -> float:
    """Share of the chip's busy time in operations that the link to the host limits."""
    inside = window.ops(timeline)
    ops, duration = timeline.op[inside], timeline.duration_s[inside]
    total = float(duration.sum())
    return float(duration[timeline.prices.limit[ops] == LIMITS.index("host_link")].sum()) / total if total else 0.0


def breakdown_of(timeline: Timeline, window: Window) -> dict[str, float]:
    """The mean step's seconds: when something limited by compute ran, else something else on the chip, else a
    collective, else nothing (the chip waits for its host). Overlapped time counts once, for the first of these."""
    inside = window.ops(timeline)
    ops, start, end = timeline.op[inside], timeline.start_s[inside], timeline.end_s[inside]
    wires = is_wire(timeline.program)[ops]
    limit = timeline.prices.limit[ops]
    busy = (limit == LIMITS.index("compute")) & ~wires
    parts = [(start[mask], end[mask]) for mask in (busy, ~wires & ~busy, wires)]
    compute, other, comm, idle = window.scaled(added_s(parts, window))
    return {"compute": compute, "memory_bound": other, "exposed_comm": comm, "bubble": 0.0, "host": idle}


def crowded_s(timeline: Timeline, window: Window) -> float:
    """The mean step's seconds in which several streams want all of the same: the compute units, or the memory. Each is priced as if it
    had them to itself."""
    inside = window.ops(timeline)
    ops, start, end = timeline.op[inside], timeline.start_s[inside], timeline.end_s[inside]
    limit, wires = timeline.prices.limit[ops], is_wire(timeline.program)[ops]
    found = 0.0
    for name in ("compute", "memory"):
        mask = (limit == LIMITS.index(name)) & ~wires
        found += float((end - start)[mask].sum()) - union_s(start[mask], end[mask], window)
    span = window.end_s - window.begin_s
    return max(found, 0.0) * window.step_time_s / span if span > 0 else 0.0


def is_wire(program: Program) -> npt.NDArray[np.bool_]:
    """By op: does it communicate with other chips?"""
    return np.array([work(op).kind == "collective" for op in program.ops], bool)


def added_s(parts: Sequence[tuple[Floats, Floats]], window: Window) -> list[float]:
    """For each set of intervals (starts, ends) how many seconds of the window it covers that none before it does."""
    found: list[float] = []
    starts, ends = np.zeros(0), np.zeros(0)
    before = 0.0
    for start, end in parts:
        starts, ends = np.concatenate([starts, start]), np.concatenate([ends, end])
        covered = union_s(starts, ends, window)
        found.append(covered - before)
        before = covered
    return found


def union_s(start: Floats, end: Floats, window: Window) -> float:
    """Length of the union of intervals inside the window."""
    if not start.size:
        return 0.0
    order = np.argsort(start, kind="stable")
    begin = np.clip(start[order], window.begin_s, window.end_s)
    reached = np.maximum.accumulate(np.clip(end[order], window.begin_s, window.end_s))
    before = np.concatenate([[window.begin_s], reached[:-1]])
    return float(np.maximum(reached - np.maximum(begin, before), 0.0).sum())


def shares_of(timeline: Timeline, window: Window) -> dict[str, float]:
    inside = window.ops(timeline)
    ops, duration = timeline.op[inside], timeline.duration_s[inside]
    total = float(duration.sum())
    kinds = timeline.prices.evidence[ops] if ops.size else np.zeros(0, np.int8)
    return {name: float(duration[kinds == i].sum()) / total if total else 0.0 for i, name in enumerate(EVIDENCE)}


def called_in(timeline: Timeline, window: Window) -> set[Op]:
    """The ops of the window that run in calls of modules: what is done with what a model returns (a metric, drawing a token) is none."""
    inside = window.ops(timeline)
    phase = Marks(timeline.program).phase()[timeline.position[inside]]
    return {timeline.program.ops[index] for index in np.unique(timeline.op[inside][phase == Phase.FORWARD]).tolist()}


ROWS = (*PHASES, "no_gradients", "host_copies")  # of what a chip's time is told by


def by_phase_of(timeline: Timeline, window: Window) -> dict[str, float]:
    """Chip seconds per step by phase. Apart from these are of a training's steps the model calls without gradients (an evaluation), and
    outside of all phases what the link to the host takes (a batch that comes, a checkpoint that goes)."""
    inside, marks = window.ops(timeline), Marks(timeline.program)
    phase = marks.phase()[timeline.position[inside]]
    if window.kind == "train":
        phase = np.where(_without_gradients(timeline, inside, marks), ROWS.index("no_gradients"), phase)
    copies = timeline.prices.limit[timeline.op[inside]] == LIMITS.index("host_link")
    phase = np.where(copies & (phase == Phase.OTHER), ROWS.index("host_copies"), phase)
    sums = np.bincount(phase, weights=timeline.duration_s[inside], minlength=len(ROWS))
    return {name: float(sums[i]) / window.count for i, name in enumerate(ROWS)}


SEVERAL = "of several shapes"


def top_ops_of(timeline: Timeline, window: Window, most: int = 10,
               named: Mapping[int, tuple[str, str]] | None = None) -> tuple[TopOp, ...]:  # fmt: skip
    """Ops of one name and shape that took most of the window's time on the chip; of shapes that come in some of its steps only, as each token's
    of a growing cache, those of one name are one. named: other names and shapes than their own."""
    named = named or {}
    inside = window.ops(timeline)
    ops, duration = timeline.op[inside], timeline.duration_s[inside]
    size = len(timeline.program.ops)
    seconds, counts = np.bincount(ops, duration, size), np.bincount(ops, minlength=size)
    groups: dict[tuple[str, str], list[int]] = {}
    for index in np.flatnonzero(counts).tolist():
        op = timeline.program.ops[index]
        groups.setdefault(named.get(index) or (packet(op.name), shape_text(op)), []).append(index)
    step = np.searchsorted([one.end for one in window.steps], timeline.position[inside], side="right")
    in_steps = np.bincount(np.unique(np.stack((ops, step)), axis=1)[0], minlength=size)
    seldom = [key for key, members in groups.items() if in_steps[members].sum() < len(window.steps)]
    for name, number in Counter(name for name, _ in seldom).items():
        if number > 1:
            alike = [key for key in seldom if key[0] == name]
            groups[name, SEVERAL] = [member for key in alike for member in groups.pop(key)]
    total = float(seconds.sum())
    ranked = sorted(groups.items(), key=lambda item: -float(seconds[item[1]].sum()))[:most]
    return tuple(
        TopOp(name, shape, float(counts[members].sum()) / window.count, float(seconds[members].sum()) / window.count,
              float(seconds[members].sum()) / total if total else 0.0,
              EVIDENCE[timeline.prices.evidence[members[0]]], LIMITS[timeline.prices.limit[members[0]]])
        for (name, shape), members in ranked
    )  # fmt: skip


@dataclass(frozen=True)
class RestsOn:
    """What the rate of a part of a step comes from, in words, and the share of the chip's busy time that the part takes."""

    rate: str
    share: float


def rests_on(timeline: Timeline, window: Window) -> dict[str, RestsOn]:
    """By part of a step (products, attention, its backward, memory) what most of its time rests on."""
    inside = window.ops(timeline)
    ops = timeline.op[inside]
    spent = np.bincount(ops, timeline.duration_s[inside], len(timeline.program.ops))
    found: dict[str, dict[str, float]] = {}
    for index in np.flatnonzero(spent).tolist():
        limit = LIMITS[timeline.prices.limit[index]]
        part, rate = timeline.prices.on.rests_on(work(timeline.program.ops[index]), limit)
        rates = found.setdefault(part, {})
        rates[rate] = rates.get(rate, 0.0) + float(spent[index])
    total = float(spent.sum())
    return {
        part: RestsOn(max(rates, key=lambda rate: rates[rate]), sum(rates.values()) / total)
        for part, rates in found.items()
        if part
    }


SHOWN_OPS = 3  # of those that became one kernel


def shape_text(op: Op) -> str:
    """What tells calls of one op apart: m x n x k of products, what was fused and the bytes that it moves, else the shapes
    of its first two tensors."""
    task = work(op)
    if len(task.gemm) == 1:
        batch, m, n, k = task.gemm[0][:4]
        return f"{batch}x " * (batch > 1) + f"{m}x{n}x{k} {task.dtype}"
    if task.kind == "collective" and op.args:
        return f"{memory(sum(tensor.nbytes for tensor in op.tensors[:1]))} {task.dtype}"
    fused = op.kwarg("ops") if op.name == "anychip.fused" else None
    if fused:
        more = f" +{len(fused) - SHOWN_OPS}" if len(fused) > SHOWN_OPS else ""
        return f"{', '.join(fused[:SHOWN_OPS])}{more} {memory(task.bytes_moved)}"
    tensors = [tensor for tensor in op.tensors if tensor.shape][:2] or list(op.outputs[:1])
    several = f" (+{len(op.tensors) - 2} more)" if len(op.tensors) > 8 else ""
    return ", ".join("x".join(map(str, tensor.shape)) or "scalar" for tensor in tensors) + f" {task.dtype}" + several
