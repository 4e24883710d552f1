"""Python objects that ranks exchange (`all_gather_object` and its kin).

They travel as bytes through chip memory, which has none. What all ranks give is taken to be equal on all, unless all of them run; what
one rank gives comes from that rank.
"""

from collections import Counter
from functools import wraps
from typing import Any

import torch
from torch.distributed import distributed_c10d as c10d

from anychip.device.distributed.groups import Groups, Made
from anychip.record.recorder import user_place


def install(groups: Groups) -> None:
    counts: Counter[Made] = Counter()

    def which(group: Any) -> Made:
        return groups.which(group if group is not None else c10d._get_default_group())

    def of_each(group: Any, mine: Any, what: str) -> list[Any] | None:
        # (rpc's own group, of one worker, is none that torch knows the ranks of)
        return groups.of_each(which(group), mine, what) if groups.everyone else None

    def all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
        object_list[:] = of_each(group, obj, "all_gather_object") or [obj] * len(object_list)

    def gather_object(
        obj: Any, object_gather_list: Any = None, dst: Any = None, group: Any = None, group_dst: Any = None
    ) -> None:
        each = of_each(group, obj, "gather_object")
        if object_gather_list is not None:
            object_gather_list[:] = each or [obj] * len(object_gather_list)

    def broadcast_object_list(
        object_list: list[Any], src: Any = None, group: Any = None, device: Any = None, group_src: Any = None
    ) -> None:
        mine = which(group)
        root = mine.ranks[group_src] if group_src is not None else src or 0
        object_list[:] = from_root(mine, root, object_list, "broadcast_object_list")

    def scatter_object_list(
        scatter_object_output_list: list[Any], scatter_object_input_list: Any = None, src: Any = None, group: Any = None,
        group_src: Any = None,
    ) -> None:  # fmt: skip
        mine = which(group)
        root = mine.ranks[group_src] if group_src is not None else src or 0
        given = from_root(mine, root, scatter_object_input_list, "scatter_object_list")
        scatter_object_output_list[0] = given[mine.ranks.index(groups.rank)]

    def from_root(group: Made, root: int, mine: Any, what: str) -> Any:
        ranks = group.ranks
        if groups.mailbox is None or len(ranks) == 1:
            return mine
        number, counts[group] = counts[group], counts[group] + 1
        key, kin = f"{group.key}-{number}", f"{len(ranks)}-{group.copy}-{ranks.index(root)}-{number}"
        if groups.rank == root:
            groups.mailbox.publish(key, list(mine), kin)
            return mine
        return groups.mailbox.published(key, root, what, user_place(), kin)

    def send_object_list(object_list: list[Any], dst: Any = None, group: Any = None, device: Any = None,
                         group_dst: Any = None, use_batch: bool = False) -> None:  # fmt: skip
        peer = which(group).ranks[group_dst] if group_dst is not None else dst
        if groups.mailbox is not None:
            groups.mailbox.send(peer, list(object_list))

    def recv_object_list(object_list: list[Any], src: Any = None, group: Any = None, device: Any = None,
                         group_src: Any = None, use_batch: bool = False) -> int:  # fmt: skip
        ranks = which(group).ranks
        peer = ranks[group_src] if group_src is not None else src
        if groups.mailbox is not None and peer is not None:
            object_list[:] = groups.mailbox.receive(peer, ranks, "recv_object_list", user_place())
        return int(peer or 0)

    for function in (all_gather_object, gather_object, broadcast_object_list, scatter_object_list, send_object_list,
                     recv_object_list):  # fmt: skip
        original = getattr(c10d, function.__name__)
        setattr(c10d, function.__name__, wraps(original)(function))
        setattr(torch.distributed, function.__name__, getattr(c10d, function.__name__))
