"""Checkpoints of sharded states in a process that plays one rank: what the ranks that do not run hold follows from its own.

What all ranks tell one another is taken to be what this one says (`device.distributed.groups`). Of a sharded state that is wrong: each
rank holds another part, and torch refuses parts that overlap or leave gaps. Patched right after torch's modules are
imported (`standins.patches`).
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any


def gather_states(module: ModuleType) -> None:
    """FullyShardedDataParallel asks all ranks which parameters they hold state of. Ranks that are not run would answer as this
    one does, which holds a part of a few; together they hold all that are trained."""
    mapped, gathered = module._map_param_key_to_optim_keys, module._allgather_state_info

    def map_all(*args: Any, **options: Any) -> Any:
        keys, own = mapped(*args, **options)
        given = inspect.signature(mapped).bind(*args, **options).arguments
        if given.get("merge_keys"):
            managed = given["fqn_to_fsdp_param_info"]
            keys = sorted(
                {*keys, *(module._OptimStateKey((name,), True) for name in managed if _is_trained(name, managed))}
            )
        return keys, own

    def gather_all(state: Any, input_states: dict[str, Any]) -> Any:
        ranks = gathered(state, input_states)
        mine, another = ranks[state.rank], (state.rank + 1) % len(ranks)
        known = next((info for info in mine.values() if info.tensors), None)
        if known is not None:
            ranks[another] = {name: info if info.tensors else known for name, info in mine.items()}
        return ranks

    module._map_param_key_to_optim_keys, module._allgather_state_info = map_all, gather_all  # type: ignore[attr-defined]


def _is_trained(name: str, managed: Any) -> bool:
    info = managed[name]
    trained = info.param_requires_grad  # empty where parameters are flat, of which every rank holds a part
    return not trained or bool(trained[info.param_indices[name]])


# ---------------------------------------------------------------- tensors made of the ranks' shards


def shard_metadata(module: ModuleType) -> None:
    """`init_from_local_shards` puts a tensor together from what all ranks say that they hold, as the local state of
    FullyShardedDataParallel does."""
    original = module.ShardedTensor._init_from_local_shards.__func__

    def init_from_local_shards(
        cls: Any, shards: Any, *size: Any, process_group: Any = None, init_rrefs: Any = False
    ) -> Any:
        import torch.distributed as dist

        group = cls._normalize_pg(process_group)
        ranks = dist.get_process_group_ranks(group)
        if len(ranks) == 1 or None in size:
            return original(cls, shards, *size, process_group=process_group, init_rrefs=init_rrefs)
        whole, rank = module._flatten_tensor_size(size), dist.get_rank()
        mine = module.build_metadata_from_local_shards(shards, whole, rank, group) if shards else None
        metadata = module.build_global_metadata(_of_each(mine, whole, ranks.index(rank), ranks))
        return cls._init_from_local_shards_and_global_metadata(
            shards, metadata, process_group=process_group, init_rrefs=init_rrefs
        )

    module.ShardedTensor._init_from_local_shards = classmethod(init_from_local_shards)


def _of_each(mine: Any, whole: Sequence[int], place: int, ranks: Sequence[int]) -> list[Any]:
    """What each rank says that it holds, given what one of them does: parts of the same size in the order of the ranks, the
    last of them smaller or empty."""
    import torch
    from torch.distributed._shard.metadata import ShardMetadata
    from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties

    if mine is None:  # so far behind that nothing is left for it: those before hold all
        first = ShardMetadata([0] * len(whole), list(whole), f"rank:{ranks[0]}/{_device(ranks[0], 'cuda')}")
        return [ShardedTensorMetadata([first], torch.Size(whole), TensorProperties(dtype=torch.get_default_dtype()))]
    found = [mine if one == place else None for one in range(len(ranks))]
    if len(mine.shards_metadata) != 1:
        return found
    (shard,) = mine.shards_metadata
    cut = [dim for dim, part in enumerate(shard.shard_sizes) if part != whole[dim]]
    if len(cut) != 1:
        return found
    (dim,) = cut
    for one, rank in enumerate(ranks):
        begin, end = _ends(shard, dim, place, one, len(ranks), whole[dim])
        if one != place and begin < end:
            offsets, sizes = list(shard.shard_offsets), list(shard.shard_sizes)
            offsets[dim], sizes[dim] = begin, end - begin
            where = f"rank:{rank}/{_device(rank, shard.placement.device().type)}"
            found[one] = replace(mine, shards_metadata=[ShardMetadata(offsets, sizes, where)])
    return found


def _ends(shard: Any, dim: int, place: int, other: int, count: int, whole: int) -> tuple[int, int]:
    """Where along `dim` the part of another place begins and ends: those before share what is before, those behind the rest."""
    begin, end = shard.shard_offsets[dim], shard.shard_offsets[dim] + shard.shard_sizes[dim]
    if other < place:
        each = -(-begin // place)
        return other * each, min((other + 1) * each, begin)
    each = max(end - begin, -(-(whole - end) // max(count - place - 1, 1)))
    start = end + (other - place - 1) * each
    return start, min(start + each, whole)


def _device(rank: int, kind: str) -> str:
    import torch

    return kind if kind == "cpu" else f"{kind}:{rank % torch.cuda.device_count()}"


# ---------------------------------------------------------------- torch.distributed.checkpoint


def plan_alone(module: ModuleType) -> None:
    """The first rank plans for all from what each says that it has. Here each that runs plans by itself, for a checkpoint of
    its own parts: one that holds less than the first, or other parts, was given the first one's."""
    original = module._DistWrapper.reduce_scatter

    def reduce_scatter(self: Any, step: str, map_fun: Callable[[], Any], reduce_fun: Callable[[Any], Any]) -> Any:
        from torch.distributed.checkpoint.planner import LoadPlan, SavePlan

        if not self.use_dist:
            return original(self, step, map_fun, reduce_fun)
        try:
            mine = map_fun()
            others: Any = mine
            if isinstance(mine, LoadPlan | SavePlan):
                others = replace(others, items=[])
            return reduce_fun([mine if place == self.rank else others for place in range(self.get_world_size())])[
                self.rank
            ]
        except BaseException as error:
            raise module.CheckpointException(step, {self.rank: module._wrap_exception(error)}) from error

    module._DistWrapper.reduce_scatter = reduce_scatter


def accept_parts(module: ModuleType) -> None:
    """One rank's parts do not make up the whole."""
    module._validate_global_plan = lambda *_: []  # type: ignore[attr-defined]


def read_in_place(module: ModuleType) -> None:
    """Of a checkpoint that holds the first rank's part alone, another reads as much for its own."""
    original = module.create_read_items_for_chunk_list

    def create_read_items(name: str, stored: Any, chunks: list[Any]) -> list[Any]:
        items: list[Any] = original(name, stored, chunks)
        if items or not stored.chunks:
            return items
        moved = [replace(chunk, offsets=stored.chunks[0].offsets) for chunk in chunks]
        return [
            replace(item, dest_index=replace(item.dest_index, offset=chunks[item.dest_index.index].offsets))
            for item in original(name, stored, moved)
        ]

    module.create_read_items_for_chunk_list = create_read_items  # type: ignore[attr-defined]
