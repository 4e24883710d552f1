"""The names of a job's mesh axes: as the program gave them, in the field's short words, else after what a group is used for.

Programs that build their groups without a DeviceMesh name none. Then a group is "cp" where ranks exchange all with all, or
send to each other, right before and after an attention (heads for parts of a sequence; keys and values around a ring), "pp" where
they send to each other elsewhere, "ep" where they exchange all with all elsewhere in a forward, "tp" where activations are summed up
in a forward, else "dp".
"""

from collections.abc import Container, Mapping

import numpy as np
import numpy.typing as npt

from anychip.cost.work import PRODUCTS, work
from anychip.network import Collective
from anychip.record import Group, Kind, Program
from anychip.record.steps import Marks, Phase, Step

TENSOR_AXES = ("tp", "tensor", "tensor_parallel", "model", "model_parallel", "mp")  # ranks of one sample
SEQUENCE_AXES = ("cp", "context", "context_parallel")  # ranks of parts of one sample
PIPELINE_AXES = ("pp", "pipeline", "pipeline_parallel")
# What megatron-core describes its groups by (megatron/core/parallel_state.py), without _GROUP and what follows it.
SHORT = {
    "TENSOR_MODEL_PARALLEL": "tp", "PIPELINE_MODEL_PARALLEL": "pp", "CONTEXT_PARALLEL": "cp", "DATA_PARALLEL": "dp",
    "EXPERT_MODEL_PARALLEL": "ep", "EXPERT_TENSOR_PARALLEL": "etp", "EXPERT_DATA_PARALLEL": "edp",
    "EXPERT_TENSOR_AND_MODEL_PARALLEL": "etp_ep", "TENSOR_AND_CONTEXT_PARALLEL": "tp_cp", "TENSOR_AND_DATA_PARALLEL": "tp_dp",
    "MODEL_PARALLEL": "tp_pp", "EXPERT_TENSOR_MODEL_PIPELINE_PARALLEL": "etp_ep_pp", "INTRA_PARTIAL_DATA_PARALLEL": "dp",
    "INTRA_DISTRIBUTED_OPTIMIZER_INSTANCE": "optimizer", "EMBEDDING": "embedding", "POSITION_EMBEDDING": "embedding",
}  # fmt: skip
BETWEEN_TWO = ("send", "recv")
RECEIVES = ("c10d.recv_.default", "c10d.recv_any_source_.default")
SMALL_BYTES = 1 << 16  # a loss or a norm, not activations


def axes_of(program: Program, calls: Mapping[int, Collective]) -> list[str]:
    """A name for each of the program's groups."""
    used = _used(program, calls) if not all(group.axis for group in program.groups) else {}
    return [_short(group.axis) or used.get(group.ranks, "dp") for group in program.groups]


def _short(name: str | None) -> str | None:
    return SHORT.get(name.partition("_GROUP")[0], name) if name else None


def _used(program: Program, calls: Mapping[int, Collective]) -> dict[tuple[int, ...], str]:
    """For each group's ranks by what its groups are used for, the first that holds of cp, pp, ep, tp."""
    at = np.flatnonzero(program.kinds == Kind.OP)
    launched = program.payloads[at]
    phase = Marks(program).phase()[at]
    forward = set(np.unique(launched[phase == Phase.FORWARD]).tolist())
    bare = not forward  # no module is called
    around = _around_attention(program, calls, launched)
    found: dict[tuple[int, ...], str] = {}
    for names, wanted in (
        ("cp", lambda op, call: call.group in around),
        ("pp", lambda op, call: call.kind in BETWEEN_TWO),
        ("ep", lambda op, call: (op in forward or bare) and call.kind == "all_to_all"),
        ("tp", lambda op, call: op in forward and call.kind in ("all_reduce", "reduce_scatter") and call.nbytes > SMALL_BYTES),
    ):  # fmt: skip
        for op, call in calls.items():
            if wanted(op, call):
                found.setdefault(program.groups[call.group].ranks, names)
    return found


def _around_attention(program: Program, calls: Mapping[int, Collective], launched: npt.NDArray[np.int64]) -> set[int]:
    """Groups that exchange all with all, or send, on both sides of a fused attention, without a product between: experts, and stages of
    a pipeline, have those of a layer there."""
    exchanges = {op: call.group for op, call in calls.items() if call.kind in ("all_to_all", *BETWEEN_TWO)}
    if not exchanges:
        return set()
    tasks = [work(op) for op in program.ops]
    decides = np.array([op in exchanges or bool(task.attention or task.gemm) for op, task in enumerate(tasks)])
    found: set[int] = set()
    last, attends = -1, False
    for op in launched[decides[launched]].tolist():
        if op in exchanges:
            if attends and exchanges[op] == last:
                found.add(last)
            last, attends = exchanges[op], False
        elif tasks[op].attention is not None:
            attends = last >= 0
        else:
            last, attends = -1, False
    return found


def copies(program: Program, axes: list[str], names: tuple[str, ...]) -> int:
    """How many ranks share what this one is fed, along axes of these names."""
    sizes = {axis: len(group.ranks) for axis, group in zip(axes, program.groups, strict=True) if axis.lower() in names}
    return int(np.prod(list(sizes.values()) or [1]))


def replicas(program: Program, calls: Mapping[int, Collective], axes: list[str]) -> int:
    """How many ranks hold the same parameters and optimizer state: along groups whose gradients are all-reduced, and of
    which nothing is gathered or scattered (replicas; shards are)."""
    at = np.flatnonzero(program.kinds == Kind.OP)
    later = set(np.unique(program.payloads[at][Marks(program).phase()[at] != Phase.FORWARD]).tolist())
    summed = {call.group for op, call in calls.items()
              if call.kind == "all_reduce" and op in later and call.nbytes > SMALL_BYTES}  # fmt: skip
    sharded = {call.group for call in calls.values() if call.kind in ("all_gather", "reduce_scatter")}
    others = (*TENSOR_AXES, *SEQUENCE_AXES, *PIPELINE_AXES)
    found = {program.groups[group].ranks for group in summed - sharded if axes[group].lower() not in others}
    return int(np.prod([len(ranks) for ranks in found] or [1]))


def is_fed(program: Program, axes: list[str], step: Step | None, bystanders: Container[int] = ()) -> bool:
    """Does this rank read the data: it is in no pipeline, or in its first stage, or, in what the program does not call a pipeline,
    begins a step's forward before anything is sent to it (replicas that tell their neighbours of their weights). bystanders:
    ranks that take no steps, which send data."""
    later = [
        group
        for axis, group in zip(axes, program.groups, strict=True)
        if axis.lower() in PIPELINE_AXES and group.ranks[0] != program.rank
    ]
    if any(group.axis for group in later):
        return False
    return not later or (step is not None and _begins_by_itself(program, step, later, bystanders))


def _begins_by_itself(program: Program, step: Step, groups: list[Group], bystanders: Container[int]) -> bool:
    """Whether a forward of the step multiplies, or looks up, before the step receives anything in one of these groups."""
    if not step.forwards:
        return False
    kinds, ops = (words[step.begin : step.end] for words in (program.kinds, program.payloads))
    for at in np.flatnonzero(kinds == Kind.OP).tolist():
        op = program.ops[int(ops[at])]
        if op.name in RECEIVES and program.groups[op.args[2]] in groups and op.kwarg("peer") not in bystanders:
            return False
        if step.begin + at > step.forwards[0] and (op.name == "aten.embedding.default" or work(op).kind in PRODUCTS):
            return True
    return False


def shards_parameters(program: Program, calls: Mapping[int, Collective], axes: list[str]) -> bool:
    """Whether a rank keeps a part of the parameters alone (FSDP, ZeRO-3): what its forward has gathered along an axis of replicas its
    backward gathers again. calls: by the program's ops. axes: of its groups."""
    others = (*TENSOR_AXES, *SEQUENCE_AXES)
    gathers = [
        op for op, call in calls.items()
        if call.kind == "all_gather" and call.nbytes > SMALL_BYTES and axes[call.group].lower() not in others
    ]  # fmt: skip
    at = np.flatnonzero(program.kinds == Kind.OP)
    at = at[np.isin(program.payloads[at], gathers)]
    return bool((Marks(program).phase()[at] == Phase.BACKWARD).any())
