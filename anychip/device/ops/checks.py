"""What torch refuses before a kernel runs: tensors of one call on different devices."""

from typing import Any

import torch

from anychip.device.ops.schemas import Schema

# Arguments that may stay on the host though the others are on the chip.
HOST_ALLOWED = {"indices", "lengths", "input_lengths", "target_lengths", "batch_sizes"}


def same_device(schema: Schema, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise torch's RuntimeError if two tensors are on different devices. A host scalar (0-dim) is welcome anywhere."""
    if schema.unchecked:
        return
    given = zip((argument for argument in schema.arguments if not argument.kwarg_only), args, strict=False)
    named = [(argument.name, value) for argument, value in given] + list(kwargs.items())
    first: torch.device | None = None
    for name, value in named:
        if name in HOST_ALLOWED:
            continue
        for tensor in value if isinstance(value, list | tuple) else (value,):
            if not isinstance(tensor, torch.Tensor) or (tensor.dim() == 0 and tensor.device.type == "cpu"):
                continue
            if first is None:
                first = tensor.device
            elif tensor.device != first:
                raise RuntimeError(_message(schema, name, tensor.device, first))


def _message(schema: Schema, name: str, device: torch.device, first: torch.device) -> str:
    if torch.Tag.pointwise in schema.overload().tags:
        return f"Expected all tensors to be on the same device, but found at least two devices, {first} and {device}!"
    return (
        f"Expected all tensors to be on the same device, but got {name} is on {device}, different from other tensors "
        f"on {first} (when checking argument in method wrapper_CUDA_{schema.base})"
    )
