"""`anychip.kernel`: by which a user says what a kernel of their own costs and what it returns.

Importing this imports no torch; in a process without a virtual chip the decorator changes nothing.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, overload

from anychip.standins import recording

Amount = int | Callable[..., int] | None

UNITS = ("vector", "matrix")


@dataclass(frozen=True)
class KernelCost:
    """What the user said of a kernel. flop, bytes: a number, or a function of the kernel's arguments. outputs: what it
    returns: a tensor with the right shape and dtype, (shape, dtype), a list of such, None, or a function of the
    arguments that gives one of these. mutates: names of the arguments that it writes. unit: the engine of its FLOP."""

    flop: Amount = None
    bytes: Amount = None
    outputs: Any = None
    mutates: tuple[str, ...] = ()
    unit: str = "vector"

    def kwargs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
        """What the op carries for its price."""
        found: list[tuple[str, Any]] = []
        for name, amount in (("flop", self.flop), ("bytes", self.bytes)):
            if amount is not None:
                found.append((name, int(amount(*args, **kwargs) if callable(amount) else amount)))
        return (*found, ("unit", self.unit))

    def layouts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[recording.Layout], str]:
        """Layouts of what it returns, and its form: "none", "one" or "many"."""
        given = self.outputs(*args, **kwargs) if callable(self.outputs) else self.outputs
        if given is None:
            return [], "none"
        if isinstance(given, list) or (isinstance(given, tuple) and not _is_pair(given)):
            return [_layout(one) for one in given], "many"
        return [_layout(given)], "one"


def _is_pair(value: tuple[Any, ...]) -> bool:
    """(shape, dtype), as opposed to a tuple of tensors or of pairs."""
    return len(value) == 2 and not hasattr(value[0], "shape") and hasattr(value[1], "itemsize")


def _layout(value: Any) -> recording.Layout:
    if hasattr(value, "stride"):
        return recording.layout(value)
    if not (isinstance(value, tuple) and _is_pair(value)):
        raise ValueError(f"anychip.kernel: an output is a tensor or a pair (shape, torch.dtype), not {value!r}")
    shape, stride, step = tuple(int(size) for size in value[0]), [], 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return shape, tuple(reversed(stride)), value[1]


COSTS: dict[str, KernelCost] = {}  # by the name of an op: "triton.softmax", "extension.lltm_cuda.forward"


@overload
def kernel(name: str, /, **options: Any) -> None: ...
@overload
def kernel(
    *, flop: Amount = None, bytes: Amount = None, outputs: Any = None, mutates: tuple[str, ...] = (),
    unit: str = "vector", name: str | None = None,
) -> Callable[[Any], Any]: ...  # fmt: skip


def kernel(  # type: ignore[misc]
    op: str | None = None, /, *, flop: Amount = None, bytes: Amount = None, outputs: Any = None,
    mutates: tuple[str, ...] = (), unit: str = "vector", name: str | None = None,
) -> Any:  # fmt: skip
    """Give a kernel its cost and its outputs; docs/kernels.md shows each form.

    As a decorator, over a Python function that calls an extension or over a Triton kernel. With the name of an op as
    its only positional argument, for a function that cannot be decorated:
    `anychip.kernel("extension.lltm_cuda.forward", flop=..., outputs=...)`.
    """
    if unit not in UNITS:
        raise ValueError(f"anychip.kernel: unit is one of {', '.join(UNITS)}, not {unit!r}")
    cost = KernelCost(flop, bytes, outputs, tuple(mutates), unit)
    if op is not None:
        COSTS[op] = cost
        return None

    def decorate(function: Any) -> Any:
        if recording.runtime() is None:
            return function
        if not inspect.isfunction(function) and hasattr(function, "__getitem__"):  # launched as kernel[grid](...)
            function.anychip_cost = cost
            return function
        return _wrapped(function, name or str(getattr(function, "__name__", "kernel")), cost)

    return decorate


def _wrapped(function: Callable[..., Any], name: str, cost: KernelCost) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        from anychip.device.ops.kernels import flat_tensors

        if not recording.any_on_chip(flat_tensors((args, kwargs))):
            return function(*args, **kwargs)
        return record_call(f"custom.{name}", cost, args, kwargs, parameter_names(function))

    return call


def record_call(
    op: str, cost: KernelCost, args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...] = ()
) -> Any:
    """Record one call of a kernel with a known cost; returns what the user said that it returns."""
    layouts, form = cost.layouts(args, kwargs)
    bound = dict(zip(names, args, strict=False)) | kwargs
    mutated = [bound[one] for one in cost.mutates if one in bound]
    made = recording.launch(op, (*args, *kwargs.values()), layouts, mutated, cost.kwargs(args, kwargs))
    return None if form == "none" else made[0] if form == "one" else made


def parameter_names(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()
