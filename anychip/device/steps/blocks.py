"""The blocks of the chip's memory that a program's tensors lie in, by the numbers that the tape has for them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from anychip.device.insides._torch_tensors import Tensors

functorch: Any = torch._C._functorch


def blocks_of(values: Iterable[Any], tensors: Tensors) -> list[int]:
    """Of those among the values that are tensors of the chip. Their storages are not made objects of Python's: the engine adds up
    gradients in place only where nobody else has them."""
    return tensors.numbers([one for value in values for one in plain_tensors(value)])


def plain_tensors(value: Any) -> list[torch.Tensor]:
    """The plain tensors with memory of the chip inside of one: a DTensor's, quantised numbers and their scales; none where there is no
    tensor, or no storage."""
    if not isinstance(value, torch.Tensor) or value.device.type == "cpu":
        return []
    if hasattr(value, "__tensor_flatten__"):
        names, _ = value.__tensor_flatten__()
        return [one for name in names for one in plain_tensors(getattr(value, name))]  # (and a DTensor's mesh)
    value = unwrapped(value)
    return [value] if value.layout == torch.strided and not is_lazy(value) else []


def unwrapped(tensor: Any) -> Any:
    """The tensor with memory that transforms of torch.func (`grad`, `vmap`) wrap, each once."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor
