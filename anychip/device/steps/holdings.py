"""What an optimizer keeps: tensors in its state and groups, and in objects of its own, into which no pytree looks."""

from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

FOREIGN = (torch.nn.Module, ModuleType, type, Dataset, DataLoader)
MOST = 200_000  # objects that are looked into: an optimizer that knows its trainer knows all


def kept_by(optimizer: Any) -> list[torch.Tensor]:
    """Tensors that an optimizer has, by whatever name: of a checkpoint, made with it, of preconditioners that are objects.

    Not what modules and data sets have, which an optimizer may know as well (the model that it trains, a trainer).
    """
    found: list[torch.Tensor] = []
    left: list[Any] = [vars(optimizer)]
    seen: set[int] = set()
    while left and len(seen) < MOST:
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
        elif not issubclass(kind, FOREIGN):
            left.append(_attributes(one))
    return found


def _attributes(one: Any) -> Any:
    try:
        return object.__getattribute__(one, "__dict__")
    except AttributeError:
        return None


# Words in the names of what an optimizer does once in so many of its steps: SOAP's `precondition_frequency`, GaLore's `update_proj_gap`.
SELDOM = frozenset({"freq", "frequency", "interval", "gap", "every", "period"})


def done_seldom(optimizer: Any, steps: int) -> dict[str, int]:
    """Settings of an optimizer that tell of something that it does once in more steps than it took."""
    return {
        str(name): value
        for group in optimizer.param_groups
        for name, value in group.items()
        if isinstance(value, int)
        and value >= steps
        and value > 1
        and not SELDOM.isdisjoint(str(name).lower().split("_"))
    }
