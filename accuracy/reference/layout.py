"""Which ranks work together: tensor, context, data, expert and pipeline groups in Megatron-LM's order (tp fastest)."""

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.distributed as dist


@dataclass(frozen=True)
class Layout:
    """This rank's place and groups; a group of one rank is None. dp is replicas, `shard` the ranks that share a
    parameter: replicas times context. copies: of HSDP, the ranks that hold the same part of it in each copy. expert_shard: those
    that share an expert."""

    rank: int
    tp: int
    cp: int
    pp: int
    dp: int
    ep: int
    stage: int
    tensor: dist.ProcessGroup | None = None
    context: dist.ProcessGroup | None = None
    pipeline: dist.ProcessGroup | None = None
    shard: dist.ProcessGroup | None = None
    copies: dist.ProcessGroup | None = None
    expert: dist.ProcessGroup | None = None
    expert_shard: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        return self.stage == self.pp - 1


def layout_of(args: Namespace) -> Layout:
    """Joins the job if there is one. The world must be a multiple of tp * cp * pp."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if world > 1:
        dist.init_process_group("nccl")
    inner = args.tp * args.cp * args.pp
    assert world % inner == 0, f"{world} ranks do not divide by tp {args.tp} x cp {args.cp} x pp {args.pp}"
    dp = world // inner
    stage_size = world // args.pp
    wide = args.tp if args.expert_tp else 1  # ranks that share one expert's products
    assert stage_size % (args.ep * wide) == 0, f"{stage_size} ranks of a stage do not divide by ep {args.ep} x {wide}"
    assert stage_size % (args.replicas * args.tp) == 0, (
        f"{stage_size} ranks of a stage do not divide by {args.replicas} replicas"
    )
    copy = stage_size // args.replicas  # ranks that hold a copy of the stage's parameters, by parts
    first = rank // stage_size * stage_size
    inside = range(first, first + stage_size)

    def group(name: str, same: Callable[[int], int], ranks: range = inside) -> dist.ProcessGroup | None:
        return group_of(name, [other for other in ranks if same(other) == same(rank)])

    tp, shard = args.tp, args.tp * args.cp
    return Layout(
        rank, tp, args.cp, args.pp, dp, args.ep, rank // stage_size,
        tensor=group("tp", lambda r: r // tp),
        context=group("cp", lambda r: (r // shard, r % tp)) if args.cp > 1 else None,  # type: ignore[arg-type, return-value]
        pipeline=group("pp", lambda r: r % stage_size, range(world)) if args.pp > 1 else None,
        shard=group("dp", lambda r: (r % tp, (r - first) // copy)),  # type: ignore[arg-type, return-value]
        copies=group("dp_copies", lambda r: (r - first) % copy) if args.replicas > 1 else None,
        expert=group("ep", lambda r: ((r - first) // (args.ep * wide), r % wide)) if args.ep > 1 else None,  # type: ignore[arg-type, return-value]
        expert_shard=group("expert_dp", lambda r: (r - first) % (args.ep * wide)) if args.experts else None,
    )  # fmt: skip


def group_of(name: str, members: Sequence[int]) -> dist.ProcessGroup | None:
    if len(members) < 2:
        return None
    return dist.new_group(list(members), use_local_synchronization=True, group_desc=name)


def size(group: dist.ProcessGroup | None) -> int:
    return dist.get_world_size(group) if group is not None else 1
