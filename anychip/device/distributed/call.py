"""One call of a collective, as torch makes it, and the operation that stands on the tape for it."""

from dataclasses import dataclass
from typing import Any

import torch

from anychip.device.ops.kernels import canonical
from anychip.record import Op

POINT_TO_POINT = ("send", "recv_")
BETWEEN_TWO = (*POINT_TO_POINT, "recv_any_source_")
PEER = {"send": "dst", "recv_": "src"}
REDUCTIONS = ("sum", "avg", "product", "min", "max", "band", "bor", "bxor", "premul_sum")  # c10d::ReduceOp::RedOpType


@dataclass(frozen=True)
class Call:
    """One call of a collective. at: its arguments by name."""

    name: str
    at: dict[str, Any]
    outputs: list[torch.Tensor]
    inputs: list[torch.Tensor]
    group: int
    ranks: tuple[int, ...]

    @property
    def peer(self) -> int | None:
        """Global rank of who is sent to or received from."""
        return self.ranks[self.at[PEER[self.name]]] if self.name in PEER else None

    @property
    def pieces(self) -> list[torch.Tensor]:
        """The list, one tensor for each rank, that NCCL's backend copies from or to one buffer, each on its own; those of
        unequal sizes travel as they are (torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp, which others' backends follow)."""
        found = {"allgather_": self.outputs, "reduce_scatter_": self.inputs}.get(self.name, [])
        alike = len({tensor.shape for tensor in found}) == 1 and found[0].device.type != "cpu"
        return found if alike else []

    def op(self, host: bool = False, sure: bool = False) -> Op:
        """What stands on the tape. host: between hosts. sure: no number that was made up decides how it is split."""
        kwargs: list[tuple[str, Any]] = []
        if host:
            kwargs += [("host", True), *([("tag", self.at["tag"])] if self.at.get("tag") else [])]
        if self.peer is not None:
            kwargs.append(("peer", self.peer))
        given = [self.at.get(sizes, ()) for sizes in ("input_split_sizes", "output_split_sizes")]
        for name, rows, tensors in zip(("splits", "received"), given, (self.inputs, self.outputs), strict=True):
            if any(given):  # one that is left out is even
                size = len(self.ranks)
                kwargs.append((name, tuple(rows or [tensors[0].size(0) // size] * size)))
        if sure and self.name.startswith("alltoall"):
            kwargs.append(("sure", True))
        if "root_rank" in self.at:
            kwargs.append(("root", self.ranks[self.at["root_rank"]]))
        if "reduce_op" in self.at:
            kwargs.append(("op", REDUCTIONS[int(self.at["reduce_op"].op())]))
        args = (canonical(tuple(self.outputs)), canonical(tuple(self.inputs)), self.group)
        return Op(f"c10d.{self.name}.default", args, tuple(kwargs))
