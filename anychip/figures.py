"""Sums over a timeline's steps: what a `Forecast` is made of.

In: a `Timeline` and a `Window`, the stretch of its tape that figures are taken over. Out: plain numbers per step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from anychip.cost.machine import KNOWN, WIDE
from anychip.cost.matrix import Sequences, sequences
from anychip.cost.price import EVIDENCE, LIMITS
from anychip.cost.work import Work, packet, work
from anychip.record import Kind, Op, Program, TensorMeta
from anychip.record.steps import PHASES, Marks, Phase, Step
from anychip.record.tape import Mark
from anychip.timeline.price import Timeline
from anychip.units import memory

Floats = npt.NDArray[np.float64]


CALLED = (Mark.FORWARD_BEGIN, Mark.INFER_BEGIN)
UNEVEN = 0.05  # by how much a step may be off the others before it is unlike them


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


def batch_of(program: Program, steps: tuple[Step, ...]) -> tuple[float | None, float | None]:
    """(tokens, samples) of the median step, as its time is. Tokens: integer inputs of the first embedding after each outermost forward begins;
    one for each sample (a class, a user, a node) are none where nothing works on sequences. Samples: the leading dimension of what the first product, convolution, recurrent layer or embedding is given, in calls of
    the module that is called first; where several optimizers take turns, as a GAN's, in the largest call of each micro-batch of the first of them.
    Calls that nothing is learnt from are no batch. Other modules, and where some forwards read tokens those that read none, go on with what
    was read: a decoder behind its encoder, a rank's later stages in a pipeline."""
    if not steps:
        return None, None
    kinds, payloads = program.kinds, program.payloads
    marks = Marks(program)
    positions = np.flatnonzero(kinds == 0)
    ops = payloads[positions]
    timed = {index: given for index, op in enumerate(program.ops) if (given := sequences(op)) is not None}
    unlearnt = _unlearnt(
        program,
        marks,
        lambda at, end: _fed(program.ops, timed, ops[slice(*np.searchsorted(positions, (at, end)))], True)[1],
    )
    tokens, samples = [], []
    for step in steps:
        edges = np.searchsorted(positions, [*step.forwards, step.end]).tolist()
        ordered = any(_orders(program.ops[index]) for index in set(ops[edges[0] : edges[-1]].tolist()))
        found = [_fed(program.ops, timed, ops[first:last], ordered) for first, last in pairwise(edges)]
        read = sum(one[0] for one in found)
        entered = [int(payloads[at + 1]) if kinds[at + 1] == Kind.ENTER else -1 for at in step.forwards]
        fed = [
            (at, module, one[1])
            for at, module, one in zip(step.forwards, entered, found, strict=True)
            if one[1] and (one[0] or not read) and (module, one[1]) not in unlearnt
        ]
        turns = [[size for at, _, size in fed if at in turn] for turn in turns_of(step, marks)]
        tokens.append(read)
        samples.append(
            sum(map(max, filter(None, turns))) or sum(size for _, module, size in fed if module == fed[0][1])
        )
    return _usual(tokens), _usual(samples)


def _unlearnt(program: Program, marks: Marks, size_of: Callable[[int, int], int]) -> set[tuple[int, int]]:
    """(module, samples) of calls that the backward after them never goes through, though one does elsewhere: an agent's look at its
    environment by the network that it trains. size_of: samples of a call, by its begin and the next's. Only some backwards name modules."""
    kinds, payloads = program.kinds, program.payloads
    nodes = np.flatnonzero(kinds == Kind.NODE)
    edges = marks.at[marks.what == Mark.FORWARD_BEGIN].tolist()
    begins, ends = (marks.at[marks.what == mark] for mark in (Mark.BACKWARD_BEGIN, Mark.BACKWARD_END))
    learnt: dict[tuple[int, int], bool] = {}
    for at, end in pairwise([*edges, program.tape.size]):
        back = int(np.searchsorted(begins, at))
        if back >= min(begins.size, ends.size) or kinds[at + 1] != Kind.ENTER:
            continue
        through = {*payloads[nodes[slice(*np.searchsorted(nodes, (begins[back], ends[back])))]].tolist()}
        if through:
            call = int(payloads[at + 1]), size_of(at, end)
            learnt[call] = learnt.get(call, False) or call[0] in through
    trained = {module for (module, _), is_learnt in learnt.items() if is_learnt}
    return {call for call, is_learnt in learnt.items() if not is_learnt and call[0] in trained}


def turns_of(step: Step, marks: Marks) -> list[list[int]]:
    """Of a step in which several optimizers step with forwards in between, the forwards of each micro-batch in each turn of the one
    that steps first; else none."""
    found: dict[int, list[list[int]]] = {}
    begin = step.begin
    inside = (marks.what == Mark.OPTIMIZER_END) & (marks.at >= step.begin) & (marks.at < step.end)
    for at, optimizer in zip(marks.at[inside].tolist(), marks.optimizer[inside].tolist(), strict=True):
        if any(begin <= one < at for one in step.forwards):  # else it steps beside the one before it
            found.setdefault(optimizer, []).extend(_micro_batches(step, marks, begin, at))
            begin = at
    return next(iter(found.values())) if len(found) > 1 else []


def _micro_batches(step: Step, marks: Marks, begin: int, end: int) -> list[list[int]]:
    """The forwards of each time that between two places the same modules are called and a backward run; where one module alone is,
    as for what is real and what is not, of all of it."""
    kinds, payloads = marks.program.kinds, marks.program.payloads
    inside = np.isin(marks.what, (*CALLED, Mark.BACKWARD_BEGIN)) & (marks.at >= begin) & (marks.at < end)
    places, back = marks.at[inside].tolist(), -2
    order = [
        back if what == Mark.BACKWARD_BEGIN else int(payloads[at + 1]) if kinds[at + 1] == Kind.ENTER else -1
        for at, what in zip(places, marks.what[inside].tolist(), strict=True)
    ]
    size = next(size for size in range(1, len(order) + 1) if order == order[:size] * (len(order) // size))
    if back not in order[:size] or len({*order[:size]}) < 3:
        size = len(order)
    edges = [begin, *places[size::size], end]
    chunks = ([one for one in step.forwards if first <= one < last] for first, last in pairwise(edges))
    return [chunk for chunk in chunks if chunk]


def _usual(amounts: list[int]) -> float | None:
    """The median, or where most steps have none the mean; None where no step has any."""
    return float(np.median(amounts)) or float(np.mean(amounts)) or None


# Kinds of work on sequences: kernels that are known by their name alone may be.
ORDERED = frozenset({"attention", "rnn", "custom", "unknown"})


OF_VECTORS = ("aten.mv", "aten.dot", "aten.vdot")  # products


def _orders(op: Op) -> bool:
    """Whether it may work on sequences: attention, by itself or as the softmax of its scores, recurrent layers and their cells."""
    name = packet(op.name)
    is_of_scores = name in ("aten._softmax", "aten._safe_softmax") and len(op.outputs[0].shape) > 2
    return is_of_scores or name.endswith("_cell") or work(op).kind in ORDERED


def _fed(ops: list[Op], timed: dict[int, Sequences], called: npt.NDArray[np.int64], ordered: bool) -> tuple[int, int]:
    """(tokens, samples) of the ops called from a forward on. What the first recurrent layer or attention takes for time is no samples,
    neither where it is first nor where a product had it as one with them."""
    tokens, samples = _batch(ops, called, ordered)
    given = next((timed[index] for index in called.tolist() if index in timed), None)
    if given and samples and samples in (given.number * given.length, given.length if given.time_first else 0):
        return tokens, given.number
    return tokens, samples


def _batch(ops: list[Op], called: npt.NDArray[np.int64], ordered: bool) -> tuple[int, int]:
    """The same, by the shapes of what is first. A product gets all dimensions of its input but the last as one;
    how many of these are samples is seen of what is no product: the ops before it, else the next of as many rows. A product
    with a vector counts where nothing else is there: most are of a weight, whose norm is estimated before it is used (spectral_norm)."""
    tokens = samples = rows = 0
    leading: dict[int, int] = {}  # of inputs of more than two dimensions, by their rows
    flat = False
    seen: set[int] = set()
    for index in called.tolist():
        if index in seen:
            continue
        seen.add(index)
        op = ops[index]
        name = packet(op.name)
        if name == "aten.embedding" and len(op.args) > 1:
            read = op.args[1]
            samples = samples or (read.shape[0] if read.shape else 0)
            if ordered or len(read.shape) > 1:
                return read.numel, samples
            continue
        if samples and not flat:
            continue  # of what is left only an embedding counts
        kind = work(op).kind
        if name in OF_VECTORS:
            rows = rows or op.args[0].shape[0]
        elif kind not in ("gemm", "grouped", "conv", "rnn") and not op.kwarg("reduced"):
            tensors = [tensor for tensor in (*op.tensors, *op.outputs) if len(tensor.shape) > 1]
            if not samples:
                for one in tensors:
                    if len(one.shape) > 2:
                        leading.setdefault(prod(one.shape[:-1]), _outermost(one))
            elif found := [_outermost(one) for one in tensors if prod(one.shape[:-1]) == samples]:
                samples, flat = found[0], False
        elif not samples:
            data = op.args[1] if name in ("aten.addmm", "aten.baddbmm") else op.args[0]
            samples = data.shape[0] if isinstance(data, TensorMeta) and data.shape else 0
            if kind in ("conv", "rnn"):
                # What begins with a convolution or a recurrent layer reads no tokens.
                return tokens, samples
            flat = isinstance(data, TensorMeta) and len(data.shape) == 2 and samples not in leading
            samples = leading.get(samples, samples)
    return tokens, samples or rows


def _outermost(tensor: TensorMeta) -> int:
    """The size of the dimension that is outermost in memory, but for the last: of a batch that was transposed still the batch."""
    return max(zip(tensor.stride[:-1], tensor.shape, strict=False), key=lambda one: one[0])[1]


def products_in(task: Work) -> int:
    """Executed flop of matrix products, those among them that a compiler put into a kernel with other ops."""
    return task.flop if task.unit == "matrix" else task.model_flop if task.kind == "fused" else 0


def totals_of(timeline: Timeline, window: Window) -> dict[str, Any]:
    """Per step: model_flop (recomputed forwards left out) and executed flop, of the usual step as its time is, and on average kernels, the host's time to issue them; and the dtype of most matrix flop."""
    inside = window.ops(timeline)
    ops, positions = timeline.op[inside], timeline.position[inside]
    distinct = [work(op) for op in timeline.program.ops]
    flop = np.array([products_in(task) for task in distinct], np.float64)
    model = np.array([task.model_flop if products_in(task) else 0 for task in distinct], np.float64)
    again = Marks(timeline.program).recomputed[positions]
    counts = np.bincount(ops, minlength=len(distinct))
    return {
        "flop": window.usual(flop[ops], positions),
        "model_flop": window.usual(np.where(again, 0.0, model[ops]), positions),
        "kernels": float(timeline.prices.kernels @ counts) / window.count if counts.size else 0.0,
        "host_s": issued_s(timeline, window) / window.count,
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


def before_training(timeline: Timeline) -> tuple[int, float]:
    """Model calls without gradients before the first one with them, and the chip's seconds in them."""
    marks = Marks(timeline.program)
    first = int(marks.at[marks.what == Mark.FORWARD_BEGIN].min(initial=timeline.program.tape.size))
    calls = int((marks.what[marks.at < first] == Mark.INFER_BEGIN).sum())
    return calls, _inference_s(timeline, slice(0, int(np.searchsorted(timeline.position, first))), marks)


def _inference_s(timeline: Timeline, inside: slice, marks: Marks) -> float:
    latest = np.searchsorted(marks.at, timeline.position[inside], side="right") - 1  # -1 where none was before
    return float(timeline.duration_s[inside][np.append(marks.what, -1)[latest] == Mark.INFER_BEGIN].sum())


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


def by_phase_of(timeline: Timeline, window: Window) -> dict[str, float]:
    """Chip seconds per step by phase."""
    inside = window.ops(timeline)
    phase = Marks(timeline.program).phase()[timeline.position[inside]]
    sums = np.bincount(phase, weights=timeline.duration_s[inside], minlength=len(PHASES))
    return {name: float(sums[i]) / window.count for i, name in enumerate(PHASES)}


def top_ops_of(timeline: Timeline, window: Window, most: int = 10,
               named: Mapping[int, tuple[str, str]] | None = None) -> tuple[TopOp, ...]:  # fmt: skip
    """Ops of one name and shape that took most of the window's time on the chip. named: other names and shapes than their own."""
    named = named or {}
    inside = window.ops(timeline)
    ops, duration = timeline.op[inside], timeline.duration_s[inside]
    size = len(timeline.program.ops)
    seconds, counts = np.bincount(ops, duration, size), np.bincount(ops, minlength=size)
    groups: dict[tuple[str, str], list[int]] = {}
    for index in np.flatnonzero(counts).tolist():
        op = timeline.program.ops[index]
        groups.setdefault(named.get(index) or (packet(op.name), shape_text(op)), []).append(index)
    total = float(seconds.sum())
    ranked = sorted(groups.items(), key=lambda item: -float(seconds[item[1]].sum()))[:most]
    return tuple(
        TopOp(name, shape, float(counts[members].sum()) / window.count, float(seconds[members].sum()) / window.count,
              float(seconds[members].sum()) / total if total else 0.0,
              EVIDENCE[timeline.prices.evidence[members[0]]], LIMITS[timeline.prices.limit[members[0]]])
        for (name, shape), members in ranked
    )  # fmt: skip


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


@dataclass(frozen=True)
class RankFigures:
    """One distinct rank of a job, per step. members: how many ranks it stands for. place: its position along each named
    mesh axis. breakdown_s: as a Forecast's. ran: how many of these ran: 0 where its recording was put together
    from another stage's."""

    rank: int
    members: int
    place: Mapping[str, int]
    peak_memory_bytes: int
    fits: bool
    breakdown_s: Mapping[str, float]
    ran: int = 1


@dataclass(frozen=True)
class AxisFigures:
    """Communication along one mesh axis, per step, mean over the chips. size: ranks of its largest group. calls: of
    collectives; nbytes: what they move, as nccl-tests count it. busy_s: they run; exposed_s: nothing else does;
    waiting_s: the chip stands idle for ranks that come later."""

    size: int
    calls: float
    nbytes: float
    busy_s: float
    exposed_s: float
    waiting_s: float


@dataclass(frozen=True)
class PathPart:
    """Share of the critical path that leads through a distinct rank."""

    rank: int
    share: float


@dataclass(frozen=True)
class GoodputFigures:
    """What failures leave of a long run's time. share: of wall time spent on steps that count, interval_s: best time
    between checkpoints, each as (low, usual, high). mtbf_s: usual time between failures. checkpoint_s, checkpoint_bytes:
    of one checkpoint."""

    share: tuple[float, float, float]
    interval_s: tuple[float, float, float]
    mtbf_s: float
    checkpoint_s: float
    checkpoint_bytes: float
