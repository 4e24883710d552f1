"""`fused`: a kernel of a library that torch composes of several ops, recorded as the one op that it is.

The reference is written in plain torch and says what is computed: shapes come from running it on meta tensors,
numbers (on CPU tensors) from running it as it is. On a chip one op stands for the forward and one for the backward.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from anychip.standins.recording import Layout, Reference, any_on_chip, launch, layout

Flop = Callable[..., int]
Products = tuple[tuple[int, int, int, int], ...]  # (batch, m, n, k) of each


def fused(
    name: str,
    *,
    flop: Flop,
    saves: tuple[int, ...] | None = None,
    backward: float = 2.0,
    mutates: tuple[int, ...] = (),
    unit: str = "vector",
    products: Callable[..., Products] = lambda *_: (),
) -> Callable[[Callable[..., Any]], "Fused"]:
    """Make a fused op of a reference function of positional tensors and plain values.

    flop: of the forward, from the arguments. backward: FLOP of the backward over those of the forward; 0 where there is
    none. saves: positions of the arguments kept for the backward (all tensors if None). mutates: positions of the
    arguments that it writes and returns, in place of new outputs. unit: the engine of its FLOP, vector or matrix.
    products: what the forward multiplies beside, from the arguments; it has a backward of its own (`gradients`).
    """
    return lambda reference: Fused(f"custom.{name}", reference, flop, saves, backward, mutates, unit, products)


class Fused:
    """Callable like its reference. Layouts are learnt once per shapes and kept in `_known`."""

    def __init__(
        self, name: str, reference: Callable[..., Any], flop: Flop, saves: tuple[int, ...] | None, backward: float,
        mutates: tuple[int, ...], unit: str, products: Callable[..., Products],
    ) -> None:  # fmt: skip
        self.name, self.reference, self.flop, self.saves = name, reference, flop, saves
        self.backward, self.mutates, self.unit, self.products = backward, mutates, unit, products
        self.__doc__ = reference.__doc__
        self._known: dict[Any, list[Layout]] = {}

    def __call__(self, *args: Any) -> Any:
        if not any_on_chip([one for one in args if isinstance(one, torch.Tensor)]):
            return self.reference(*args)
        return _Function.apply(self, *args)  # type: ignore[no-untyped-call]

    def layouts(self, args: tuple[Any, ...]) -> list[Layout]:
        """Layouts of the new outputs for these arguments."""
        if self.mutates:
            return []
        key = tuple(layout(one) if isinstance(one, torch.Tensor) else one for one in args)
        found = self._known.get(key)
        if found is None:
            with torch.no_grad():
                results = self.reference(*[_on_meta(one) for one in args])
            results = results if isinstance(results, tuple) else (results,)
            found = self._known[key] = [layout(one) for one in results]
        return found

    def run(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Record the forward; returns its outputs."""
        mutated = [args[position] for position in self.mutates]
        costs = _costs(int(self.flop(*args)), self.unit, self.products(*args))
        made = launch(self.name, args, self.layouts(args), mutated, costs, Reference(self.reference))
        return tuple(mutated or made)


def gradients(
    name: str, args: tuple[Any, ...], outputs: Sequence[Any], flop: int = 0, products: Products = ()
) -> list[Any]:  # fmt: skip
    """Record a kernel of a backward that is written out, with all that it makes: new tensors where `outputs` has a layout,
    the given ones where it has tensors."""
    into = [one for one in outputs if isinstance(one, torch.Tensor)]
    layouts = [one for one in outputs if not isinstance(one, torch.Tensor)]
    full = f"custom.{name}.out" if into else f"custom.{name}"
    made = iter(launch(full, (*args, *into), layouts, into, _costs(flop, "vector", products)))
    return [one if isinstance(one, torch.Tensor) else next(made) for one in outputs]


def _costs(flop: int, unit: str, products: Products) -> tuple[tuple[str, Any], ...]:
    return (("flop", flop), *((("products", products),) if products else ()), ("unit", unit))


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spec: Fused, *args: Any) -> Any:
        outputs = spec.run(args)
        ctx.spec, ctx.args = spec, [None if isinstance(one, torch.Tensor) else one for one in args]
        ctx.layouts = [layout(one) if isinstance(one, torch.Tensor) else None for one in args]
        if spec.mutates:
            ctx.mark_dirty(*outputs)
        saves = range(len(args)) if spec.saves is None else spec.saves
        kept = [args[position] for position in saves if position not in spec.mutates]
        ctx.save_for_backward(*[one for one in kept if isinstance(one, torch.Tensor)])
        ctx.flop = int(spec.flop(*args) * spec.backward)
        ctx.mark_non_differentiable(*[one for one in outputs if not one.dtype.is_floating_point])
        return outputs if len(outputs) > 1 else outputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        wanted = [position for position, _ in enumerate(ctx.layouts) if ctx.needs_input_grad[position + 1]]
        given = (*[one for one in grads if one is not None], *ctx.saved_tensors)
        results = launch(
            f"{ctx.spec.name}_backward", given, [dense(ctx.layouts[position]) for position in wanted],
            kwargs=(("flop", ctx.flop), ("unit", ctx.spec.unit)),
        )  # fmt: skip
        found: list[Any] = [None] * (len(ctx.layouts) + 1)
        for position, result in zip(wanted, results, strict=True):
            found[position + 1] = result
        return tuple(found)


def dense(one: Layout) -> Layout:
    """The layout of a gradient: the tensor's own shape, contiguous."""
    shape, _, dtype = one
    stride, step = [], 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return shape, tuple(reversed(stride)), dtype


def _on_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(tuple(value.shape), tuple(value.stride()), dtype=value.dtype, device="meta")
    return value
