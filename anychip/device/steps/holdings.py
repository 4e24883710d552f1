"""What an optimizer keeps: tensors in its state and groups, and in objects of its own, into which no pytree looks."""

from types import ModuleType
from typing import Any

import torch


def kept_by(optimizer: Any) -> list[torch.Tensor]:
    """Tensors that an optimizer has, by whatever name: of a checkpoint, made with it, of preconditioners that are objects.

    Not what modules have, which an optimizer may know as well (the model that it trains, a wrapper that shards it).
    """
    found: list[torch.Tensor] = []
    left: list[Any] = [vars(optimizer)]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        kind = type(one)  # (what isinstance asks of a proxy whose object is gone raises)
        if issubclass(kind, torch.Tensor):
            found.append(one)
        elif issubclass(kind, dict):
            left.extend(one.values())
        elif issubclass(kind, list | tuple | set | frozenset):
            left.extend(one)
        elif not issubclass(kind, torch.nn.Module | ModuleType | type):
            left.append(_attributes(one))
    return found


def _attributes(one: Any) -> Any:
    try:
        return object.__getattribute__(one, "__dict__")
    except AttributeError:
        return None
