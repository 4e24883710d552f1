"""What torch's NCCL backend refuses of a call, in its words (torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp, Utils.hpp): without
it a program would be forecast that fails on every chip."""

from collections.abc import Callable
from typing import Any

import torch

Tensors = list[torch.Tensor]


def check(name: str, at: dict[str, Any], outputs: Tensors, inputs: Tensors, size: int) -> None:
    """Raise what the backend raises. at: arguments by name; size: ranks of the group."""
    if any(tensor.is_sparse for tensor in inputs):  # as of an embedding whose gradients are
        raise RuntimeError("NCCL does not support all_reduce with sparse tensors. Please use dense tensors instead.")
    check_root(name.strip("_"), at.get("root_rank", 0), size)
    if name in CHECKS:
        CHECKS[name](at, outputs, inputs, size)


def check_root(name: str, place: int, size: int) -> None:
    if not 0 <= place < size:
        raise ValueError(f"ProcessGroupNCCL::{name}: invalid root rank: {place}")


def _gathered(at: dict[str, Any], outputs: Tensors, inputs: Tensors, size: int) -> None:
    if outputs[0].numel() != inputs[0].numel() * size:
        raise ValueError("output tensor size must be equal to world_size times input tensor size")


def _scattered(at: dict[str, Any], outputs: Tensors, inputs: Tensors, size: int) -> None:
    if inputs[0].numel() != outputs[0].numel() * size:
        raise ValueError("input tensor must be the same size as output size times world size")


def _listed(wanted: str) -> Callable[[dict[str, Any], Tensors, Tensors, int], None]:
    def listed(at: dict[str, Any], outputs: Tensors, inputs: Tensors, size: int) -> None:
        of_all, own = (outputs, inputs) if wanted == "outputs" else (inputs, outputs)
        if len(of_all) != size * len(own):
            raise ValueError(
                f"Tensor list input to scatter/gather must match number of collective participants but got {len(of_all)} {wanted} "
                f"with world_size {size} and {len(own)} devices."
            )

    return listed


def _exchanged(at: dict[str, Any], outputs: Tensors, inputs: Tensors, size: int) -> None:
    sent, received = at["input_split_sizes"], at["output_split_sizes"]
    if not sent and not received:  # NCCL counts numbers, of which a row may be shared: nothing is looked at
        return
    for tensor, splits in ((inputs[0], sent), (outputs[0], received)):
        if not splits and tensor.size(0) % size:
            raise RuntimeError("Tensor's dim 0 does not divide equally across group size")
        if splits and len(splits) != size:
            raise RuntimeError("Number of tensor splits not equal to group size")
        if splits and sum(splits) != tensor.size(0):
            raise RuntimeError("Split sizes doesn't match total dim 0 size")


CHECKS = {
    "_allgather_base_": _gathered,
    "_reduce_scatter_base_": _scattered,
    "allgather_": _listed("outputs"),
    "reduce_scatter_": _listed("inputs"),
    "alltoall_base_": _exchanged,
}
