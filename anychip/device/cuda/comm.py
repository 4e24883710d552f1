"""Copies between the devices of one process, as `nn.DataParallel` and `torch.cuda.comm` ask for them.

torch's C functions for these exist only in CUDA builds. Each is said here in plain copies.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch


def _broadcast(tensor: torch.Tensor, devices: Sequence[int]) -> list[torch.Tensor]:
    return [tensor if _is_on(tensor, index) else tensor.to(_device(index), non_blocking=True) for index in devices]


def _broadcast_out(tensor: torch.Tensor, out: Sequence[torch.Tensor]) -> Any:
    for one in out:
        if one is not tensor:
            one.copy_(tensor, non_blocking=True)
    return out


def _broadcast_coalesced(
    tensors: Sequence[torch.Tensor], devices: Sequence[int], buffer_size: int
) -> list[list[torch.Tensor]]:
    """Per device, all the tensors. One copy per tensor: buckets of buffer_size bytes change no byte count."""
    return [[_broadcast(tensor, [index])[0] for tensor in tensors] for index in devices]


def _scatter(
    tensor: torch.Tensor, devices: Sequence[int], chunk_sizes: Sequence[int] | None = None, dim: int = 0, streams: Any = None
) -> list[torch.Tensor]:  # fmt: skip
    chunks = torch.split(tensor, list(chunk_sizes), dim) if chunk_sizes else tensor.chunk(len(devices), dim)
    return [_broadcast(chunk, [index])[0] for chunk, index in zip(chunks, devices, strict=False)]


def _scatter_out(tensor: torch.Tensor, out: Sequence[torch.Tensor], dim: int = 0, streams: Any = None) -> Any:
    for chunk, one in zip(torch.split(tensor, [one.shape[dim] for one in out], dim), out, strict=True):
        one.copy_(chunk, non_blocking=True)
    return out


def _gather(tensors: Sequence[torch.Tensor], dim: int, destination: int | None = None) -> torch.Tensor:
    device = torch.device("cpu") if destination == -1 else _device(destination or 0)
    return torch.cat([one.to(device, non_blocking=True) for one in tensors], dim)


def _gather_out(tensors: Sequence[torch.Tensor], out: torch.Tensor, dim: int) -> torch.Tensor:
    start = 0
    for one in tensors:
        out.narrow(dim, start, one.shape[dim]).copy_(one, non_blocking=True)
        start += one.shape[dim]
    return out


def _device(index: int) -> torch.device:
    return torch.device("cpu") if index < 0 else torch.device("cuda", index)


def _is_on(tensor: torch.Tensor, index: int) -> bool:
    return tensor.device == _device(index)


def parallel_apply(
    modules: Sequence[Any], inputs: Sequence[Any], kwargs_tup: Sequence[dict[str, Any]] | None = None,
    devices: Sequence[Any] | None = None,
) -> list[Any]:  # fmt: skip
    """Each replica on its inputs, one after the other: the host is one, and threads would share the current device."""
    indices = devices if devices is not None else [None] * len(modules)
    keywords = kwargs_tup or ({},) * len(modules)
    outputs = []
    for module, given, named, index in zip(modules, inputs, keywords, indices, strict=True):
        if index is None:
            index = next(one for one in module.parameters()).get_device()
        with torch.cuda.device(index):
            outputs.append(module(*(given if isinstance(given, list | tuple) else (given,)), **named))
    return outputs


def install(runtime: Any) -> None:
    for module in (torch.nn.parallel, sys.modules["torch.nn.parallel.data_parallel"]):
        vars(module)["parallel_apply"] = parallel_apply
    vars(sys.modules["torch.nn.parallel.parallel_apply"])["parallel_apply"] = parallel_apply
    # A CUDA build would hand the tensors to NCCL itself; torch's other way adds them up with operators.
    vars(torch.cuda.nccl)["is_available"] = lambda tensors: False


FUNCTIONS = {
    function.__name__: function
    for function in (_broadcast, _broadcast_out, _broadcast_coalesced, _scatter, _scatter_out, _gather, _gather_out)
}
