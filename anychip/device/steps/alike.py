"""What two calls of a module have in common that may do the same: layouts of their inputs, settings of their modules;
and what a call leaves behind in Python, which would be missing if it had not run."""

import random
import sys
from enum import Enum
from types import MethodType, ModuleType
from typing import Any

import torch

DEEPEST = 4
MANY = 4096  # longer containers hold data, not settings
VALUES = 1 << 16  # host tensors up to this size are compared by their values


class Unlike(Exception):
    """A call whose backward goes on behind it: where it ends cannot be seen."""


def describe(value: Any, depth: int) -> Any:
    """A value of the kind that decides what a module does. Raises Unlike."""
    if isinstance(value, torch.Tensor):
        return _described(value)
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device | Enum):
        return type(value).__name__, value
    fields = _fields(value)
    if depth == DEEPEST or fields is None:
        return (type(value).__name__,)
    return type(value).__name__, tuple((name, describe(one, depth + 1)) for name, one in fields.items())


def _fields(value: Any) -> dict[str, Any] | None:
    """Its attributes. A `__getattr__` of its own is not asked: that of a dictionary with attributes raises KeyError, or answers None."""
    try:
        fields = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return fields if isinstance(fields, dict) else None


def _contents(value: Any) -> list[Any] | None:
    """Of a container of settings. Methods of its own are not asked either: e3nn's tuple of representations refuses `len`."""
    kind: Any = next((one for one in (dict, list, tuple) if isinstance(value, one)), None)
    if kind is None or kind.__len__(value) > MANY:
        return None
    return list(dict.values(value) if kind is dict else kind.__iter__(value))


def _described(value: torch.Tensor) -> Any:
    if value.requires_grad and not value.is_leaf:
        raise Unlike
    if type(value) not in (torch.Tensor, torch.nn.Parameter) and hasattr(value, "__tensor_flatten__"):
        names, context = value.__tensor_flatten__()  # type: ignore[operator]
        return (
            type(value).__name__,
            repr(context),
            value.requires_grad,
            tuple(describe(getattr(value, one), DEEPEST) for one in names),
        )
    return _layout(value)


def _layout(value: torch.Tensor) -> Any:
    contents = None
    if (
        type(value) is torch.Tensor
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and value.numel() <= VALUES
    ):
        contents = value.detach().contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else value.item()
    return tuple(value.shape), value.stride(), value.dtype, value.device, value.requires_grad, contents


def holders(module: torch.nn.Module) -> list[dict[str, Any]]:
    """The attributes of a module, its submodules, and the objects that are hooked to them or held by them."""
    found: list[dict[str, Any]] = []
    seen: set[int] = set()

    def add(value: Any, depth: int) -> None:
        value = value.__self__ if isinstance(value, MethodType) else value
        if depth > DEEPEST or id(value) in seen or isinstance(value, type | ModuleType | torch.Tensor):
            return
        contents = _contents(value)
        if contents is not None:
            for one in contents:
                add(one, depth)
            return
        fields = _fields(value)
        if fields is None:
            return
        seen.add(id(value))
        found.append(fields)
        for name, one in list(fields.items()):
            if name not in ("_parameters", "_buffers", "_modules"):
                add(one, depth + 1)

    for one in module.modules():
        add(one, 0)
    return found


Held = tuple[dict[str, Any], str]  # the attributes of something and the name of one of them


def held(fields: list[dict[str, Any]]) -> list[Held]:
    """Where inputs that want gradients were put before a call that does not name them. Views are not meant: those of FSDP1
    are of parameters."""
    return [
        (one, name)
        for one in fields
        for name, value in one.items()
        if isinstance(value, torch.Tensor)
        and not isinstance(value, torch.nn.Parameter)
        and not value._is_view()
        and value.requires_grad
    ]


def gradient(tensor: torch.Tensor) -> torch.Tensor | None:
    """Its `.grad`, which torch warns of where it is asked for one that was computed, as parameters are under `torch.func.functional_call`:
    the program did not ask."""
    return tensor.grad if tensor.is_leaf or tensor.retains_grad else None


def settings(module: torch.nn.Module, fields: list[dict[str, Any]]) -> tuple[Any, ...]:
    """All switches among attributes, what is frozen, and what is there or is not (gradients): what has modules do
    something else."""
    found: list[Any] = [(gradient(one) is None, one.requires_grad) for one in module.parameters()]
    for one in fields:
        for value in one.values():
            if value is None or value is True or value is False or isinstance(value, Enum):
                found.append(value)
            elif isinstance(value, torch.Tensor):
                found.append(0)
    return tuple(found)


def traces(module: torch.nn.Module) -> tuple[Any, ...]:
    """What a call may leave in its modules and in the host's random numbers: counters, longer lists, an auxiliary loss."""
    found: list[Any] = [random.getstate(), torch.default_generator.get_state().numpy().tobytes()]
    if "numpy" in sys.modules:
        found.append(sys.modules["numpy"].random.get_state()[1].tobytes())
    for one in module.modules():
        for name, value in vars(one).items():
            if isinstance(value, torch.Tensor):
                found.append((name, id(value) if computed(value) else 0))
            elif isinstance(value, int | float | str):
                found.append((name, value))
            elif isinstance(value, list | dict | set | tuple):
                found.append((name, len(value)))
    return tuple(found)


def computed(tensor: torch.Tensor) -> bool:
    """Whether a backward goes through it. FSDP1's parameters between calls are views of what is no longer there."""
    try:
        return tensor.grad_fn is not None
    except RuntimeError:  # a view whose base was written since
        return True
