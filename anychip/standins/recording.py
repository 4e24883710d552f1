"""Ops that torch does not know: how a stand-in or a kernel of the user's own is put on the tape as one op.

In: the tensors that a kernel is given and what it makes. Out: one `Op` on the tape, and new tensors on the chip.
Left out: its price (`cost.custom` reads the FLOP and bytes that the op carries).
"""

from collections.abc import Callable, Sequence
from typing import Any

from anychip.record import Op

_runtime: Any = None


def set_runtime(runtime: Any) -> None:
    """The runtime of this process's virtual chip; `install` calls it once."""
    global _runtime
    _runtime = runtime


def runtime() -> Any:
    """The virtual chip of this process, or None where there is none."""
    return _runtime


def any_on_chip(tensors: Sequence[Any]) -> bool:
    """Whether one of these tensors lives on the virtual chip of this process."""
    return _runtime is not None and any(tensor.device.type == _runtime.device_type for tensor in tensors)


def not_covered(library: str, what: str) -> NotImplementedError:
    """To raise where a call asks for what a stand-in leaves out."""
    return NotImplementedError(f"anychip's stand-in for {library} does not cover {what}.")


class Reference:
    """What an op computes, in torch: what a driver that keeps values runs on CPU tensors."""

    tags: tuple[Any, ...] = ()

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.function is None:
            raise NotImplementedError("a kernel of which only its cost is known")
        return self.function(*args, **kwargs)


UNKNOWN = Reference(None)

Layout = tuple[tuple[int, ...], tuple[int, ...], Any]  # shape, stride, dtype


def layout(tensor: Any) -> Layout:
    return tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype


def launch(
    name: str,
    args: tuple[Any, ...],
    outputs: Sequence[Layout] = (),
    mutated: Sequence[Any] = (),
    kwargs: tuple[tuple[str, Any], ...] = (),
    reference: Reference = UNKNOWN,
) -> list[Any]:
    """Put one op on the tape and make its outputs on the chip that its first chip tensor is on.

    args: what the kernel was given, nested lists allowed. mutated: those of its tensors that it writes in place.
    kwargs: what the price needs beside shapes (flop, bytes). Returns the new tensors.
    """
    from anychip.device.ops.kernels import canonical, flat_tensors, meta_of
    from anychip.drivers.base import Call

    kernels = _runtime.kernels
    tensors = flat_tensors(args)
    index = next((one.device.index for one in tensors if one.device.type == _runtime.device_type), 0)
    for watcher in kernels.watchers:
        watcher.before()
    positions = tuple(n for n, tensor in enumerate(tensors) if any(tensor is other for other in mutated))
    made = [kernels.tensors.maker(*one, index)() for one in outputs]
    op = Op(name, canonical(args), kwargs, tuple(meta_of(one) for one in made), positions)
    kernels.driver.launch(kernels.recorder.op_word(op))
    call = Call(reference, name, args, {}, tensors, list(mutated), made)
    kernels.driver.run(call)
    for watcher in kernels.watchers:
        watcher.after(call)
    return made
