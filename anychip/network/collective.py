"""From an operator of `c10d` to the collective that it is: what kind, how many bytes, of which group.

In: an `Op` as the recorder writes it, `("c10d.<name>.default", (outputs, inputs, group_index), kwargs)`. Out:
`Collective`, or None for an operator that communicates nothing. Pure; nothing here knows a network.
"""

from typing import Any, NamedTuple

from anychip.record import Op, TensorMeta

PREFIX = "c10d."
OF_OBJECTS = ("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list")
UNSIZED = ("barrier", "monitored_barrier", *OF_OBJECTS)
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce", "gather", "scatter", "send",
         "recv", *UNSIZED)  # fmt: skip
OUTPUTS, INPUTS = 0, 1

# c10d operator -> (kind, which of its tensors are counted). The count is that of nccl-tests (PERFORMANCE.md there):
# all-reduce its buffer, all-gather the whole output, reduce-scatter and all-to-all the whole input. gather and scatter
# count what one rank gives or gets, which every rank knows. An all-to-all with uneven splits counts the larger of what the rank
# gives and gets: the fullest rank's link ends it (`cluster.board` lets it take as long as its slowest member).
_OPERATORS = {
    "allreduce_": ("all_reduce", OUTPUTS),
    "allreduce_coalesced_": ("all_reduce", OUTPUTS),
    "allgather_": ("all_gather", OUTPUTS),
    "_allgather_base_": ("all_gather", OUTPUTS),
    "allgather_coalesced_": ("all_gather", OUTPUTS),
    "allgather_into_tensor_coalesced_": ("all_gather", OUTPUTS),
    "reduce_scatter_": ("reduce_scatter", INPUTS),
    "_reduce_scatter_base_": ("reduce_scatter", INPUTS),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", INPUTS),
    "alltoall_": ("all_to_all", INPUTS),
    "alltoall_base_": ("all_to_all", INPUTS),
    "broadcast_": ("broadcast", OUTPUTS),
    "reduce_": ("reduce", OUTPUTS),
    "gather_": ("gather", INPUTS),
    "scatter_": ("scatter", OUTPUTS),
    "send": ("send", OUTPUTS),
    "recv_": ("recv", OUTPUTS),
    "recv_any_source_": ("recv", OUTPUTS),
    "barrier": ("barrier", OUTPUTS),
    "monitored_barrier_": ("monitored_barrier", OUTPUTS),
    **{name: (name, OUTPUTS) for name in OF_OBJECTS},
}


class Collective(NamedTuple):
    """kind: one of KINDS. nbytes: as nccl-tests count it. dtype: of its first tensor, "" without any. group: index into
    the program's `groups`. peer: global rank of the other side of a send or recv, None where any may be. root: global
    rank. sent, received: bytes to and from each place of the group in an all-to-all that tells them apart, else ().
    host: between hosts, as gloo does, not between chips. tag: of a send or recv between hosts. op: what a reduction does.
    sure: an all-to-all whose splits no made-up number decides."""

    kind: str
    nbytes: int
    dtype: str
    group: int
    peer: int | None = None
    root: int | None = None
    sent: tuple[int, ...] = ()
    received: tuple[int, ...] = ()
    host: bool = False
    tag: int = 0
    op: str = ""
    sure: bool = False

    def part(self, parts: tuple[int, ...], place: int, size: int) -> int:
        """Bytes to or from a place of an all-to-all of so many ranks: what is not told apart is even."""
        return parts[place] if parts else self.nbytes // size

    def places_on(self, place: int) -> int | None:
        """By how many places of its group the rank at this place passes on all that it has, as a ring does that is written as
        an all-to-all; None where it goes to several, or to nobody else."""
        named = [index for index, size in enumerate(self.sent) if size]
        return (named[0] - place) % len(self.sent) or None if len(named) == 1 else None

    def travelling_bytes(self, place: int) -> int:
        """Bytes of the even collective in which as much leaves or reaches the rank at this place as in this one: what it keeps
        for itself takes no wire, of an even all-to-all an n-th."""
        if len(self.sent) < 2:
            return self.nbytes
        return (self.nbytes - self.sent[place]) * len(self.sent) // (len(self.sent) - 1)


def collective_of(op: Op) -> Collective | None:
    """The collective that `op` is; None where it is none."""
    if not op.name.startswith(PREFIX):
        return None
    found = _OPERATORS.get(op.name[len(PREFIX) :].split(".")[0])
    if found is None:
        return None
    kind, counted = found
    tensors = _tensors(op.args[counted]) or _tensors(op.args[1 - counted])
    extra = dict(op.kwargs)
    nbytes = _nbytes(tensors)
    sent: tuple[int, ...] = ()
    received: tuple[int, ...] = ()
    if kind == "all_to_all":
        nbytes = max(nbytes, _nbytes(_tensors(op.args[OUTPUTS])))
        sent = _by_place(op.args[INPUTS], extra.get("splits"))
        received = _by_place(op.args[OUTPUTS], extra.get("received"))
    return Collective(
        kind=kind,
        nbytes=0 if kind in UNSIZED else nbytes,
        dtype=tensors[0].dtype if tensors else "",
        group=int(op.args[2]),
        peer=extra.get("peer"),
        root=extra.get("root"),
        sent=sent,
        received=received,
        host=bool(extra.get("host")),
        tag=extra.get("tag", 0),
        op=extra.get("op", ""),
        sure=bool(extra.get("sure")),
    )


def _by_place(value: Any, rows: tuple[int, ...] | None) -> tuple[int, ...]:
    """Bytes for or from each place of a group: of one tensor by the rows of each, else a tensor for each."""
    sizes = [_nbytes([tensor]) for tensor in _tensors(value)]
    if rows:
        whole = sum(rows)
        return tuple(sum(sizes) * one // whole if whole else 0 for one in rows)
    return tuple(sizes) if len(sizes) > 1 else ()


def _nbytes(tensors: list[TensorMeta]) -> int:
    return sum(tensor.numel * tensor.item_bytes for tensor in tensors)


def _tensors(value: Any) -> list[TensorMeta]:
    """Every tensor of a nested tuple, in order."""
    if isinstance(value, TensorMeta):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, tuple) else []
