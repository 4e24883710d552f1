"""Python objects that ranks exchange (`all_gather_object` and its kin).

They travel as bytes through chip memory, which has none. What all ranks give is taken to be equal on all, unless all of them run; what
one rank gives comes from that rank. What torch refuses of their arguments is refused here, too, by the same functions of its own.
"""

from collections import Counter
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch.distributed import distributed_c10d as c10d

from anychip.device.distributed.groups import Groups, Made
from anychip.device.distributed.refusals import check_root
from anychip.record.recorder import user_place


class Objects:
    """What stands for torch's functions, each under its name."""

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self._counts: Counter[Made] = Counter()  # of what one rank gave all of a group

    def all_gather_object(self, object_list: list[Any], obj: Any, group: Any) -> None:
        self._note("all_gather_object", group)
        object_list[:] = self._of_each(group, obj, "all_gather_object") or [obj] * len(object_list)

    def gather_object(self, obj: Any, object_gather_list: Any, dst: Any, group: Any, group_dst: Any = None) -> None:
        place = _place(group, dst, group_dst)
        c10d._validate_output_list_for_rank(group.rank(), place, object_gather_list)
        check_root("gather", place, group.size())
        self._note("gather_object", group, place)
        each = self._of_each(group, obj, "gather_object")
        if object_gather_list is not None:
            object_gather_list[:] = each or [obj] * len(object_gather_list)

    def broadcast_object_list(
        self, object_list: list[Any], src: Any, group: Any, device: Any, group_src: Any = None
    ) -> None:
        place = _place(group, src, group_src)
        object_list[:] = self._from_root(group, place, object_list, "broadcast_object_list")

    def scatter_object_list(
        self, scatter_object_output_list: list[Any], scatter_object_input_list: Any, src: Any, group: Any,
        group_src: Any = None,
    ) -> None:  # fmt: skip
        place = _place(group, src, group_src)
        if group.rank() == place and scatter_object_input_list is None:
            raise ValueError("source rank must provide non-None scatter_object_input_list")
        given = self._from_root(group, place, scatter_object_input_list, "scatter_object_list")
        scatter_object_output_list[0] = given[group.rank()]

    def send_object_list(self, object_list: list[Any], dst: Any, group: Any, group_dst: Any = None) -> None:
        peer = self._peer(group, dst, group_dst, "destination")
        if self.groups.mailbox is not None:
            self.groups.mailbox.send(peer, list(object_list))

    def recv_object_list(self, object_list: list[Any], src: Any, group: Any, group_src: Any = None) -> int:
        if src is None and group_src is None:  # from any rank, which older torch takes
            return 0
        peer = self._peer(group, src, group_src, "source")
        if self.groups.mailbox is not None:
            ranks = self.groups.which(group).ranks
            object_list[:] = self.groups.mailbox.receive(peer, ranks, "recv_object_list", user_place())
        return peer

    def _note(self, what: str, group: Any, root: int | None = None) -> None:
        self.groups.runtime.collectives.note_objects(what, group, root)

    def _peer(self, group: Any, rank: Any, place: Any, what: str) -> int:
        """The number, in the job, of whom is sent to or received from."""
        place = c10d._canonicalize_group_rank(group, rank, place)
        c10d._check_not_self_rank(group, place, what)
        return self.groups.which(group).ranks[place]

    def _of_each(self, group: Any, mine: Any, what: str) -> list[Any] | None:
        # (rpc's own group, of one worker, is none that torch knows the ranks of)
        each = self.groups.of_each(self.groups.which(group), mine, what) if self.groups.everyone else None
        self.groups.runtime.driver.values.invented |= each is None and group.size() > 1
        return each

    def _from_root(self, group: Any, place: int, mine: Any, what: str) -> Any:
        check_root(what.partition("_")[0], place, group.size())
        self._note(what, group, place)
        which, mailbox = self.groups.which(group), self.groups.mailbox
        ranks = which.ranks
        if mailbox is None or len(ranks) == 1:
            return mine
        number, self._counts[which] = self._counts[which], self._counts[which] + 1
        key, kin = f"{which.key}-{number}", f"{len(ranks)}-{which.copy}-{place}-{number}"
        if group.rank() == place:
            mailbox.publish(key, list(mine), kin)
            return mine
        return mailbox.published(key, ranks[place], what, user_place(), kin)


def _place(group: Any, rank: Any, place: Any) -> int:
    """A root's place in its group; the first rank's where none is named."""
    return int(c10d._canonicalize_group_rank(group, 0 if rank is None and place is None else rank, place))


def _for_members(original: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Ours, called by the names of those of torch's arguments that it has, as later torch has more, and for members of the group
    alone."""
    bind, names = signature(original).bind, signature(ours).parameters

    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = bind(*args, **kwargs)
        given.apply_defaults()
        at = given.arguments
        if c10d._rank_not_in_group(at["group"]):
            c10d._warn_not_in_group(original.__name__)
            return -1 if original.__name__ == "recv_object_list" else None
        at["group"] = at["group"] if at["group"] is not None else c10d._get_default_group()
        return ours(**{name: at.get(name) for name in names})

    return call


def install(groups: Groups) -> None:
    objects = Objects(groups)
    for name in ("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "send_object_list",
                 "recv_object_list"):  # fmt: skip
        ours = _for_members(getattr(c10d, name), getattr(objects, name))
        setattr(c10d, name, ours)
        setattr(torch.distributed, name, ours)
