"""The names of a job's mesh axes: as the program gave them, in the field's short words, else after what a group is used for.

Programs that build their groups without a DeviceMesh name none. Then a group is "pp" where ranks send to each other,
"cp" where they exchange all with all right before and after an attention (heads for parts of a sequence), "ep" where they
do so elsewhere in a forward, "tp" where activations are summed up in a forward, else "dp".
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from anychip.cost.work import work
from anychip.network import Collective
from anychip.record import Kind, Program
from anychip.record.steps import Marks, Phase

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
SMALL_BYTES = 1 << 16  # a loss or a norm, not activations


def axes_of(program: Program, calls: Mapping[int, Collective]) -> list[str]:
    """A name for each of the program's groups."""
    used = _used(program, calls) if not all(group.axis for group in program.groups) else {}
    return [_short(group.axis) or used.get(group.ranks, "dp") for group in program.groups]


def _short(name: str | None) -> str | None:
    return SHORT.get(name.partition("_GROUP")[0], name) if name else None


def _used(program: Program, calls: Mapping[int, Collective]) -> dict[tuple[int, ...], str]:
    """For each group's ranks by what its groups are used for, the first that holds of pp, ep, tp."""
    at = np.flatnonzero(program.kinds == Kind.OP)
    launched = program.payloads[at]
    phase = Marks(program).phase()[at]
    forward = set(np.unique(launched[phase == Phase.FORWARD]).tolist())
    bare = not forward  # no module is called
    around = _around_attention(program, calls, launched)
    found: dict[tuple[int, ...], str] = {}
    for names, wanted in (
        ("pp", lambda op, call: call.kind in ("send", "recv")),
        ("cp", lambda op, call: call.group in around),
        ("ep", lambda op, call: (op in forward or bare) and call.kind == "all_to_all"),
        ("tp", lambda op, call: op in forward and call.kind in ("all_reduce", "reduce_scatter") and call.nbytes > SMALL_BYTES),
    ):  # fmt: skip
        for op, call in calls.items():
            if wanted(op, call):
                found.setdefault(program.groups[call.group].ranks, names)
    return found


def _around_attention(program: Program, calls: Mapping[int, Collective], launched: npt.NDArray[np.int64]) -> set[int]:
    """Groups that exchange all with all on both sides of a fused attention, without a product between: experts have those of
    a layer there."""
    exchanges = {op: call.group for op, call in calls.items() if call.kind == "all_to_all"}
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


def is_fed(program: Program, axes: list[str]) -> bool:
    """Does this rank read the data: it is in no pipeline, or in its first stage."""
    return all(
        group.ranks[0] == program.rank
        for axis, group in zip(axes, program.groups, strict=True)
        if axis.lower() in PIPELINE_AXES
    )


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
