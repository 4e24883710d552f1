"""Seconds: what an op costs on a chip. `price_op(op, chip)`; for many ops `Prices`, columns as numpy arrays.

A kernel's time is a fixed floor per launch plus the larger of its compute and its memory time. How far a time can be
trusted travels with it (`evidence`): a measured point, an interpolation, a model, or bytes alone.
"""

from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anychip.cost.lists import tensor_lists
from anychip.cost.machine import Machine, machine
from anychip.cost.work import Work, work
from anychip.record import Op
from anychip.spec import Chip

EVIDENCE = ("measured", "interpolated", "modelled", "bytes_only")
LIMITS = ("compute", "memory", "launch", "host_link", "none", "network")

# What moves its bytes as a copy does, at the rate that was measured of one.
STREAMING = frozenset({"elementwise", "copy", "optimizer", "fused", "gemm", "custom"})
# What may have measured points of its own, by bytes.
POINTS = frozenset({"elementwise", "copy", "optimizer", "reduction", "index", "sort"})


class Cost(NamedTuple):
    """time_s: device time of the op when launched eagerly, all its kernels. body_s: the same without the floor of
    each launch. evidence: one of EVIDENCE. limit: one of LIMITS, what the time is mostly made of."""

    time_s: float
    evidence: str
    limit: str
    body_s: float


def price_op(op: Op, chip: Chip) -> Cost:
    """Device seconds of one op on one chip."""
    return price_call(op, machine(chip))


def price_call(op: Op, on: Machine) -> Cost:
    """Device seconds of one op: by its own measured points where it is limited by memory and has some, else by its work."""
    task = work(op)
    if on.called:
        task = as_called(op, task)
    if on.op_rates and task.kernels and task.unit == "vector" and task.kind in POINTS and not task.host_bytes:
        found = on.op_rates.find(op, task.bytes_moved)
        if found is not None:
            body = task.bytes_moved / found.bytes_per_s + task.fixed_s
            launches = task.kernels * (on.graph_floor_s if on.graph else on.kernel_floor_s)
            return Cost(launches + body, found.evidence, "memory" if body > launches else "launch", body)
    return price_work(task, on)


def as_called(op: Op, task: Work) -> Work:
    """The work on a chip whose ops run in the thread that calls them. There is no link: a copy from the host to the chip
    is none, unless it changes the dtype. A list of tensors is walked one by one, each a call of its own."""
    if op.name.startswith("aten._foreach_"):
        return replace(task, kernels=max((len(tensors) for tensors in tensor_lists(op)), default=0))
    if op.name.startswith("aten._fused_"):
        return replace(task, kernels=min(task.kernels, 1))
    if not task.host_bytes:
        return replace(task, kernels=min(task.kernels, 1)) if task.kernels > 1 else task
    if op.name.startswith("aten._to_copy") and op.args[0].dtype == op.outputs[0].dtype:
        return Work(kernels=0)
    moved = {"bytes_read": task.host_bytes, "bytes_written": task.host_bytes} if not task.blocks_host else {}
    return replace(task, host_bytes=0, staged_bytes=0, kernels=1, blocks_host=False, **moved)  # type: ignore[arg-type]


def price_work(task: Work, on: Machine) -> Cost:
    """Device seconds of some work: floor per launch + max(compute, memory, host link)."""
    if task.kernels == 0 and not task.flop:
        return Cost(0.0, "modelled", "none", 0.0)
    floor = on.graph_floor_s if on.graph else on.kernel_floor_s
    launches = max(task.kernels, 1) * floor
    memory = on.memory_s(task.bytes_moved)
    if task.memory_share and not (on.graph or on.called):
        memory /= on.share(task.memory_share)
    link = task.host_bytes / on.host_link_bytes_per_s + task.staged_bytes / on.host_staging_bytes_per_s
    compute, evidence = _compute_s(task, on)
    body = max(compute, memory) + link + task.fixed_s
    if body <= launches:
        limit = "launch"
    elif link > max(compute, memory):
        limit = "host_link"
    else:
        limit = "compute" if compute >= memory else "memory"
    if limit != "compute" and evidence != "bytes_only":
        streams = limit == "memory" and task.kind in STREAMING
        evidence = "interpolated" if on.memory_measured and streams else "modelled"
    # What a product takes beyond the launch of an empty kernel.
    body += max(on.gemm(task.dtype).overhead_s - floor, 0.0) * len(task.gemm) if task.gemm else 0.0
    return Cost(launches + body, evidence, limit, body)


def _compute_s(task: Work, on: Machine) -> tuple[float, str]:
    """(seconds on the engine that does the flop, evidence)."""
    if not task.known:
        return 0.0, "bytes_only"
    if task.attention is not None:
        return _attention_s(task, on)
    if task.unit == "matrix" and task.gemm:
        return _products_s(task, on)
    if not task.flop:
        return 0.0, "modelled"
    return task.flop / on.vector_flop_per_s(task.dtype), "modelled"


def _products_s(task: Work, on: Machine) -> tuple[float, str]:
    total, worst, like = 0.0, 0, task.kind == "gemm"
    counted = {product: task.gemm.count(product) for product in dict.fromkeys(task.gemm)}
    for product, times in counted.items():
        if product.flop:
            curve = on.gemm(task.dtype, product.how)
            seconds, evidence = curve.time_s(*product[:4])
            like = like or (task.kind == "conv" and bool(curve.how))
            total += seconds * times
            worst = max(worst, EVIDENCE.index(evidence))
    if task.product_share:
        total /= on.share(task.product_share)
    if task.ragged_bytes and on.ragged_share < 1.0:
        slow = total / on.ragged_share
        total = min(slow, total + on.memory_s(2 * task.ragged_bytes)) if task.padded else slow
        worst = EVIDENCE.index("modelled")
    # A convolution's product is implicit: the curve of explicit ones is a model of it at best.
    return total, EVIDENCE[worst if like else max(worst, 2)]


ATTENTION_TILE = 128  # queries that one block of a fused attention works on


def _attention_s(task: Work, on: Machine) -> tuple[float, str]:
    shape = task.attention
    assert shape is not None
    queries, keys = max(shape.query_length, 1), max(shape.key_length, 1)
    level = on.attention_rate(
        shape.implementation, shape.backward, shape.causal, shape.head_dim, max(queries, keys), task.dtype
    )
    cores = on.chip.cores or 1
    # A block works on so many queries at least, where they are fewer than keys: rows that there are not are multiplied too.
    few = int(on.rates.need("attention.rows").value)

    def busy(packed: int) -> tuple[float, float]:
        """Shares of the cores that have a block and of a block's rows that are queries, with so many heads in a block."""
        rows = queries * packed
        filled = rows / (-(-rows // few) * few) if queries < keys else 1.0
        blocks = shape.batch_heads // packed * -(-rows // ATTENTION_TILE)
        if rows <= few and not shape.backward:
            blocks *= -(-keys // ATTENTION_TILE)  # keys are split over the cores that would be idle (flash-decoding)
        # Few blocks leave cores idle; a split over keys wins some back, as stream-K does for products.
        return (blocks / (cores * -(-blocks // cores))) ** 0.5 if blocks < cores else 1.0, filled

    # Few queries of the heads that share a head of keys may be rows of one block.
    ways = {1, shape.grouped} if queries < min(few, keys) else {1}
    used, filled = max((busy(packed) for packed in ways), key=prod)
    peak = on.peak(task.dtype)
    slower = on.half_peak / peak if peak < on.half_peak else 1.0
    if level.dtype == task.dtype:
        slower = 1.0
    elif task.dtype == "fp8" and peak > on.half_peak:
        slower = 1.0 / on.rates.need("attention.backward.low" if shape.backward else "attention.forward.low").value
    evidence = level.evidence if used == 1.0 and slower == 1.0 else "modelled"
    if filled < 1.0:
        evidence = "modelled"
    return max(task.flop / (level.value * used * filled) * slower, task.flop / peak), evidence


def host_op_s(op: Op, chip: Chip) -> float:
    """Host seconds to issue an op eagerly: reaching the launch, one launch per kernel, and what a library of products does first."""
    on = machine(chip)
    return 0.0 if on.graph else host_work_s(as_called(op, work(op)) if on.called else work(op), on)


def host_work_s(task: Work, on: Machine) -> float:
    if on.called:
        return on.host_op_s * max(task.kernels, 1)
    if not task.kernels:
        return on.host_empty_s
    # A library that is called once chooses once for products that are alike: the steps of a recurrent layer.
    return on.host_op_s + task.kernels * on.host_launch_s + len(set(task.gemm)) * on.host_product_s


Row = tuple[float, float, int, float, bool, int, int]  # an op's entries in the columns of `Prices`


class Prices:
    """Prices of a growing list of ops on one chip, as columns (index = position in `ops`).

    body_s, kernels, host_s (eager issue time), blocks (the host waits for it), evidence and limit (indices into EVIDENCE
    and LIMITS), bytes, flop. `extend()` prices what was added to `ops` since. known: prices by the same rules, whose ops need
    not be priced again.
    """

    def __init__(self, ops: list[Op], chip: Chip, known: "Prices | None" = None) -> None:
        self.ops, self.chip, self.on = ops, chip, machine(chip)
        self.size = 0
        self._rows: dict[Op, Row] = known._rows if known is not None else {}
        self.body_s: npt.NDArray[np.float64] = np.zeros(0)
        self.floors_s: npt.NDArray[np.float64] = np.zeros(0)
        self.kernels: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.host_s: npt.NDArray[np.float64] = np.zeros(0)
        self.blocks: npt.NDArray[np.bool_] = np.zeros(0, bool)
        self.evidence: npt.NDArray[np.int8] = np.zeros(0, np.int8)
        self.limit: npt.NDArray[np.int8] = np.zeros(0, np.int8)
        self.extend()

    def like(self, ops: list[Op]) -> "Prices":
        """Prices of other ops by the same rules."""
        return Prices(ops, self.chip, self)

    def extend(self) -> None:
        if len(self.ops) == self.size:
            return
        fresh = [self._rows.get(op) or self._rows.setdefault(op, self._row(op)) for op in self.ops[self.size :]]
        self.size = len(self.ops)
        columns = list(zip(*fresh, strict=True))
        self.body_s = _append(self.body_s, columns[0])
        self.floors_s = _append(self.floors_s, columns[1])
        self.kernels = _append(self.kernels, columns[2])
        self.host_s = _append(self.host_s, columns[3])
        self.blocks = _append(self.blocks, columns[4])
        self.evidence = _append(self.evidence, columns[5])
        self.limit = _append(self.limit, columns[6])

    def _row(self, op: Op) -> Row:
        task = as_called(op, work(op)) if self.on.called else work(op)
        cost = price_call(op, self.on)
        host = 0.0 if self.on.graph else host_work_s(task, self.on)
        return (cost.body_s, cost.time_s - cost.body_s, task.kernels, host, task.blocks_host,
                EVIDENCE.index(cost.evidence), LIMITS.index(cost.limit))  # fmt: skip


def _append(column: npt.NDArray[Any], values: tuple[object, ...]) -> npt.NDArray[Any]:
    return np.concatenate([column, np.asarray(values, column.dtype)])
