"""`forecast(program, chip)`: the answer. One `Forecast` holds every figure that is printed for one chip.

In: a recorded Program and a Chip. Out: step time with its error, memory, rates, what limits the step and on what evidence it
all rests. Figures are per step, over the steps after the first, which warms up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from anychip.cost.price import EVIDENCE, LIMITS
from anychip.cost.support import unsupported
from anychip.cost.work import Work, packet, work
from anychip.record import Op, Program, TensorMeta
from anychip.record.steps import PHASES, Marks, Step, find_steps
from anychip.spec import Chip
from anychip.timeline.memory import memory
from anychip.timeline.price import Timeline, price

# Relative error of a step's time, one sigma, by what its parts rest on: from docs/accuracy.md (products with the point
# held back 5-7%, with their source 6-12%; attention 3%, without its curve 18%; chips without any measured product 31-48%)
# and closed-form forecasts of 535 published rows (left-out sources 7-10%, small eager programs 23-50%).
ERROR_BY_EVIDENCE = {"measured": 0.05, "interpolated": 0.08, "modelled": 0.15, "bytes_only": 0.5}
ERROR_OF_HOST = 0.4
ERROR_WITHOUT_LEVEL = 0.3  # a chip of which neither a product was measured nor a run published
ERROR_BY_GRADE = {"A": 0.0, "B": 0.05, "C": 0.1, "D": 0.2}


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
class Forecast:
    """One program on one chip. Times in seconds per step, bytes, flop per step.

    step_time_error: relative, one sigma. mfu, hfu: model or executed flop over step time times the dense peak of
    `matrix_dtype`. breakdown_s adds up to step_time_s. evidence: shares of the chip's busy time. energy_j: an upper
    bound, the power limit times the time. step_kind: "train", "call" (no optimizer) or "run" (no step was found).
    """

    chip: str
    num_chips: int
    fits: bool
    grade: str
    step_time_s: float
    step_time_error: float
    tokens_per_s_per_chip: float | None
    samples_per_s: float | None
    mfu: float
    hfu: float
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


def forecast(program: Program, chip: Chip, *, tokens_per_step: float | None = None) -> Forecast:
    """Price a program on a chip and sum up its steps. tokens_per_step: where the first embedding does not tell."""
    timeline = price(program, chip)
    found = find_steps(timeline.program)
    window = Window.of(timeline, found)
    total = _totals(timeline, window)
    step_time = window.step_time_s
    # What a step is fed is read where nothing has been fused yet.
    tokens, samples = batch_of(program, tuple(find_steps(program)[-len(window.steps) :]) if window.steps else ())
    tokens = tokens_per_step if tokens_per_step is not None else tokens
    breakdown = _breakdown(timeline, window)
    evidence = _shares(timeline, window)
    peak = _peak(timeline, total["dtype"])
    held = memory(timeline.program)
    top = _top_ops(timeline, window)
    return Forecast(
        chip=chip.id, num_chips=1, fits=held.peak_bytes <= chip.memory_bytes, grade=chip.grade,
        step_time_s=step_time, step_time_error=_error(evidence, breakdown, timeline),
        tokens_per_s_per_chip=_per_s(tokens, step_time), samples_per_s=_per_s(samples, step_time),
        mfu=_ratio(total["model_flop"], step_time * peak), hfu=_ratio(total["flop"], step_time * peak),
        model_flop_per_step=total["model_flop"], peak_memory_bytes=held.peak_bytes, memory_bytes=chip.memory_bytes,
        breakdown_s=breakdown, unpriced_share=evidence["bytes_only"], evidence=evidence,
        energy_j=chip.power_w * step_time if chip.power_w else None,
        cost_usd=chip.price_usd_per_hour * step_time / 3600 if chip.price_usd_per_hour else None,
        steps=len(found), step_kind=window.kind, num_ops=int(timeline.op.size), kernels_per_step=total["kernels"],
        tokens_per_step=tokens, samples_per_step=samples, matrix_dtype=total["dtype"],
        executed_flop_per_step=total["flop"], memory_by_kind=held.by_kind, time_by_phase_s=_by_phase(timeline, window),
        top_ops=top, limit=_limit(breakdown, step_time, top, total["kernels"], total["host_s"]),
        step_times_s=window.times_s, warnings=_warnings(timeline, window, held.peak_bytes),
    )  # fmt: skip


@dataclass(frozen=True)
class Window:
    """The stretch of the tape that figures are taken over: `steps`, all but the first where there are more.

    begin, end: tape positions; begin_s, end_s: when the work before each had ended. times_s: of each step.
    """

    steps: tuple[Step, ...]
    kind: str
    begin: int
    end: int
    begin_s: float
    end_s: float
    times_s: tuple[float, ...]

    @classmethod
    def of(cls, timeline: Timeline, found: list[Step]) -> "Window":
        size = timeline.program.tape.size
        if not found:
            return cls((), "run", 0, size, 0.0, timeline.total_s, (timeline.total_s,))
        steps = tuple(found[1:] if len(found) > 1 else found)
        edges = np.array([max(steps[0].begin - 1, 0), *(step.end - 1 for step in steps)], np.int64)
        done = timeline.done_s(edges)
        times = tuple(float(value) for value in np.diff(done))
        return cls(steps, steps[0].kind, steps[0].begin, steps[-1].end, float(done[0]), float(done[-1]), times)

    @property
    def count(self) -> int:
        return max(len(self.steps), 1)

    @property
    def step_time_s(self) -> float:
        return float(np.median(self.times_s)) if self.times_s else 0.0

    def ops(self, timeline: Timeline) -> slice:
        """The entries of the timeline that were launched inside."""
        first, last = np.searchsorted(timeline.position, [self.begin, self.end])
        return slice(int(first), int(last))


def batch_of(program: Program, steps: tuple[Step, ...]) -> tuple[float | None, float | None]:
    """(tokens, samples) per step. Tokens: integer inputs of the first embedding after each outermost forward begins.
    Samples: the leading dimension of what the first product, convolution, recurrent layer or embedding is given."""
    if not steps:
        return None, None
    kinds, payloads = program.kinds, program.payloads
    positions = np.flatnonzero(kinds == 0)
    ops = payloads[positions]
    tokens = samples = 0
    for step in steps:
        for begin in step.forwards:
            first, last = np.searchsorted(positions, [begin, step.end])
            found = _batch(program.ops, ops[first:last])
            tokens, samples = tokens + found[0], samples + found[1]
    return (tokens / len(steps) or None), (samples / len(steps) or None)


def _batch(ops: list[Op], called: npt.NDArray[np.int64]) -> tuple[int, int]:
    """(tokens, samples) of the ops called from a forward on."""
    tokens = samples = 0
    seen: set[int] = set()
    for index in called.tolist():
        if index in seen:
            continue
        seen.add(index)
        op = ops[index]
        name = packet(op.name)
        if name == "aten.embedding" and len(op.args) > 1:
            tokens = op.args[1].numel
            return tokens, samples or (op.args[1].shape[0] if op.args[1].shape else 0)
        if not samples and work(op).kind in ("gemm", "grouped", "conv", "rnn"):
            data = op.args[1] if name in ("aten.addmm", "aten.baddbmm") else op.args[0]
            samples = data.shape[0] if isinstance(data, TensorMeta) and data.shape else 0
            if work(op).kind in ("conv", "rnn"):
                # What begins with a convolution or a recurrent layer reads no tokens.
                return tokens, samples
    return tokens, samples


def _totals(timeline: Timeline, window: Window) -> dict[str, Any]:
    """Per step: model_flop (recomputed forwards left out), executed flop, kernels, the host's time to issue them; and the dtype of most matrix flop."""
    inside = window.ops(timeline)
    ops, positions = timeline.op[inside], timeline.position[inside]
    distinct = [work(op) for op in timeline.program.ops]
    flop = np.array([task.flop if task.unit == "matrix" else 0 for task in distinct], np.float64)
    model = np.array([task.model_flop if task.unit == "matrix" else 0 for task in distinct], np.float64)
    again = Marks(timeline.program).recomputed[positions]
    counts = np.bincount(ops, minlength=len(distinct))
    counts_once = np.bincount(ops[~again], minlength=len(distinct))
    return {
        "flop": float(flop @ counts) / window.count,
        "model_flop": float(model @ counts_once) / window.count,
        "kernels": float(timeline.prices.kernels @ counts) / window.count if counts.size else 0.0,
        "host_s": float(timeline.prices.host_s @ counts) / window.count if counts.size else 0.0,
        "dtype": _main_dtype(distinct, counts),
    }


def _main_dtype(distinct: list[Work], counts: npt.NDArray[np.int64]) -> str:
    by_dtype: dict[str, float] = {}
    for task, count in zip(distinct, counts.tolist(), strict=True):
        if task.unit == "matrix" and count:
            by_dtype[task.dtype] = by_dtype.get(task.dtype, 0.0) + task.flop * count
    return max(by_dtype, key=lambda dtype: by_dtype[dtype], default="fp32")


def _peak(timeline: Timeline, dtype: str) -> float:
    return timeline.prices.on.peak(dtype, "matrix")


def _breakdown(timeline: Timeline, window: Window) -> dict[str, float]:
    """The mean step's seconds: when something limited by compute ran, else something else on the chip, else a
    collective, else nothing (the chip waits for its host). Overlapped time counts once, for the first of these."""
    inside = window.ops(timeline)
    ops, start, duration = timeline.op[inside], timeline.start_s[inside], timeline.duration_s[inside]
    limit = timeline.prices.limit[ops] if ops.size else np.zeros(0, np.int8)
    wire = np.array([work(op).kind == "collective" for op in timeline.program.ops], bool)
    wires = wire[ops] if ops.size else np.zeros(0, bool)
    classes = [(limit == LIMITS.index("compute")) & ~wires, ~wires, np.ones(ops.size, bool)]
    covered = [_union(start[mask], duration[mask], window) for mask in classes]
    span = max(window.end_s - window.begin_s, 0.0)
    parts = [covered[0], covered[1] - covered[0], covered[2] - covered[1], max(span - covered[2], 0.0)]
    scale = window.step_time_s / sum(parts) if sum(parts) else 0.0
    compute, other, comm, idle = (part * scale for part in parts)
    return {"compute": compute, "memory_bound": other, "exposed_comm": comm, "bubble": 0.0, "host": idle}


def _union(start: npt.NDArray[np.float64], duration: npt.NDArray[np.float64], window: Window) -> float:
    """Length of the union of intervals inside the window."""
    if not start.size:
        return 0.0
    order = np.argsort(start, kind="stable")
    begin = np.clip(start[order], window.begin_s, window.end_s)
    end = np.clip((start + duration)[order], window.begin_s, window.end_s)
    reached = np.maximum.accumulate(end)
    before = np.concatenate([[window.begin_s], reached[:-1]])
    return float(np.maximum(reached - np.maximum(begin, before), 0.0).sum())


def _shares(timeline: Timeline, window: Window) -> dict[str, float]:
    inside = window.ops(timeline)
    ops, duration = timeline.op[inside], timeline.duration_s[inside]
    total = float(duration.sum())
    kinds = timeline.prices.evidence[ops] if ops.size else np.zeros(0, np.int8)
    return {name: float(duration[kinds == i].sum()) / total if total else 0.0 for i, name in enumerate(EVIDENCE)}


def _by_phase(timeline: Timeline, window: Window) -> dict[str, float]:
    """Chip seconds per step by phase."""
    inside = window.ops(timeline)
    phase = Marks(timeline.program).phase()[timeline.position[inside]]
    sums = np.bincount(phase, weights=timeline.duration_s[inside], minlength=len(PHASES))
    return {name: float(sums[i]) / window.count for i, name in enumerate(PHASES)}


def _top_ops(timeline: Timeline, window: Window, most: int = 10) -> tuple[TopOp, ...]:
    inside = window.ops(timeline)
    ops, duration = timeline.op[inside], timeline.duration_s[inside]
    size = len(timeline.program.ops)
    seconds, counts = np.bincount(ops, duration, size), np.bincount(ops, minlength=size)
    groups: dict[tuple[str, str], list[int]] = {}
    for index in np.flatnonzero(counts).tolist():
        op = timeline.program.ops[index]
        groups.setdefault((packet(op.name), shape_text(op)), []).append(index)
    total = float(seconds.sum())
    ranked = sorted(groups.items(), key=lambda item: -float(seconds[item[1]].sum()))[:most]
    return tuple(
        TopOp(name, shape, float(counts[members].sum()) / window.count, float(seconds[members].sum()) / window.count,
              float(seconds[members].sum()) / total if total else 0.0,
              EVIDENCE[timeline.prices.evidence[members[0]]], LIMITS[timeline.prices.limit[members[0]]])
        for (name, shape), members in ranked
    )  # fmt: skip


def shape_text(op: Op) -> str:
    """What tells calls of one op apart: m x n x k of products, else the shapes of its first two tensors."""
    task = work(op)
    if len(task.gemm) == 1:
        batch, m, n, k = task.gemm[0]
        return f"{batch}x " * (batch > 1) + f"{m}x{n}x{k} {task.dtype}"
    tensors = [tensor for tensor in op.tensors if tensor.shape][:2] or list(op.outputs[:1])
    several = f" (+{len(op.tensors) - 2} more)" if len(op.tensors) > 8 else ""
    return ", ".join("x".join(map(str, tensor.shape)) for tensor in tensors) + f" {task.dtype}" + several


def _error(evidence: Mapping[str, float], breakdown: Mapping[str, float], timeline: Timeline) -> float:
    """One sigma: parts of one kind err together; kinds, host, level of the chip's products and chip file err apart."""
    total = sum(breakdown.values()) or 1.0
    host, compute = breakdown["host"] / total, breakdown["compute"] / total
    device = sum(share * ERROR_BY_EVIDENCE[name] for name, share in evidence.items()) * (1 - host)
    rates = timeline.prices.on.rates
    known = [row for op in ("gemm", "gemm.warm", "gemm.rate", "gemm.sustained") for row in rates.all(op)]
    measured = any(row.kind != "assumed" for row in known)
    level = 0.0 if measured else compute * ERROR_WITHOUT_LEVEL
    grade = ERROR_BY_GRADE.get(timeline.chip.grade, ERROR_BY_GRADE["D"])
    return sqrt(device**2 + (host * ERROR_OF_HOST) ** 2 + level**2 + grade**2)


# Where the host issues ops for this share of a step, and the chip waits for it for this share, the host sets the pace.
HOST_ISSUES, CHIP_WAITS = 0.9, 0.1


def _limit(breakdown: Mapping[str, float], step_time: float, top: tuple[TopOp, ...], kernels: float,
           host_s: float) -> str:  # fmt: skip
    """What the step's time is made of, in a sentence. host_s: what the host needs to issue a step's ops."""
    if not step_time:
        return "Nothing ran on the chip."
    name = max(breakdown, key=lambda part: breakdown[part])
    if host_s >= HOST_ISSUES * step_time and breakdown["host"] >= CHIP_WAITS * step_time:
        name = "host"
    share = f"{breakdown[name] / step_time:.0%}"
    most = (
        f"{top[0].name.removeprefix('aten.')} {top[0].shape} alone takes {top[0].time_s / step_time:.0%}" if top else ""
    )
    if name == "host":
        return (f"The host: the chip waits for it {share} of the step, which launches {kernels:,.0f} kernels; "
                "larger batches, compilation or graphs would help.")  # fmt: skip
    if name == "exposed_comm":
        return f"Communication: {share} of the step is spent in it alone."
    if name == "compute":
        return f"Compute: {share} of the step is in ops limited by flop/s; {most}."
    return f"Memory: {share} of the step is in ops limited by bandwidth or by their launch; {most}."


def _warnings(timeline: Timeline, window: Window, peak_bytes: int) -> tuple[str, ...]:
    chip = timeline.chip
    found = []
    if window.kind == "run":
        found.append(
            "No step was found: no optimizer stepped and no module on the chip was called to its end, so figures are of the "
            "whole run. For a training script try more time or --steps; for one that only calls a model, --calls N."
        )
    elif len(window.times_s) == 1 and len(find_steps(timeline.program)) == 1:
        found.append("Only one step was recorded: its figures include what happens once.")
    if peak_bytes > chip.memory_bytes:
        found.append(f"{chip.id}: needs {peak_bytes / 2**30:.1f} GiB, has {chip.memory_bytes / 2**30:.1f} GiB.")
    found += unsupported((timeline.program.ops[index] for index in np.unique(timeline.op[window.ops(timeline)])), chip)
    names = {packet(op.name) for op in timeline.program.ops if not work(op).known}
    if names:
        shown = ", ".join(sorted(names)[:8]) + (" ..." if len(names) > 8 else "")
        found.append(f"Priced by bytes alone, for want of a formula: {shown}.")
    return tuple(found)


def _per_s(count: float | None, seconds: float) -> float | None:
    return count / seconds if count and seconds else None


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
