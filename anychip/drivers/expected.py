"""What is expected of indices and of what ops move, op by op: how many indices there are, how many elements add up to what;
the rules of masks are in `masks`.

A rule gets the values known so far and the call, and says what is known of each tensor that the call writes
(mutated first, then outputs). Adding an op is one function.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from anychip.drivers.base import Call
from anychip.drivers.values import FILLS, INDEX_LIKE, SMALL, Values, Within, is_whole, sampled, share_of_host


@dataclass(frozen=True)
class Known:
    """What is known of one tensor: a share that is true, a span of integers, counts that add up, a likely element, its
    values, the one value of all its elements; of integers some that are as many others, of a mask which integers it is true
    for; or nothing. uneven: its share is what --imbalance asks for. most: the largest share of it that can be one of its span."""

    share: float | None = None
    span: int | None = None
    counts: list[int] | None = None
    guess: int | None = None
    value: torch.Tensor | None = None
    uniform: float | None = None
    uneven: bool = False
    sample: torch.Tensor | None = None
    within: Within | None = None
    most: float | None = None

    def tell(self, values: Values, tensor: torch.Tensor) -> None:
        address = tensor.untyped_storage().data_ptr()
        if self.uniform is not None and is_whole(tensor) and (tensor.dtype in INDEX_LIKE or tensor.numel() > SMALL):
            values.fill(tensor, self.uniform)
        elif self.uniform is not None and 0 < tensor.numel() <= SMALL:  # of small ones every op is seen
            values.put(tensor, torch.full(tensor.shape, self.uniform, dtype=tensor.dtype, device="cpu"))
        if self.counts is not None:
            values.put(tensor, torch.tensor(self.counts, device="cpu").to(tensor.dtype).reshape(tensor.shape))
        if self.value is not None:
            values.put(tensor, self.value.to(tensor.dtype))
        if self.guess is not None:
            values.guess[address] = self.guess
        if self.share is not None:
            values.share[address] = self.share
            (values.uneven.add if self.uneven else values.uneven.discard)(address)
        if self.span is not None:
            values.span[address] = self.span
        if self.sample is not None and tensor.dtype == torch.bool:
            if self.share is None:
                values.share[address] = float((self.sample != 0).double().mean())
        elif self.sample is not None and not tensor.dtype.is_floating_point:
            values.samples[address] = self.sample
        if self.within is not None:
            values.within[address] = self.within
        if self.most is not None:
            values.most[address] = self.most


NOTHING = Known()
Rule = Callable[[Values, Call], list[Known]]
EXPECTED: dict[str, Rule] = {}


def expected(*names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        for name in names:
            assert name not in EXPECTED, name
            EXPECTED[name] = function
        return function

    return add


def of(values: Values, tensor: Any) -> Known:
    if not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta":
        return NOTHING
    if tensor.device.type == "cpu":
        return Known(share_of_host(tensor), sample=sampled(tensor))
    address = tensor.untyped_storage().data_ptr()
    uneven = address in values.uneven
    return Known(
        values.share.get(address), values.span.get(address), guess=values.guess.get(address), uneven=uneven,
        sample=values.samples.get(address), within=values.within.get(address), most=values.most.get(address),
    )  # fmt: skip


def certain(values: Values, value: Any) -> float | None:
    """The one value of an operand: of a number, or of a tensor all of whose elements are known to have it."""
    if isinstance(value, int | float):
        return value
    if not isinstance(value, torch.Tensor) or value.device.type == "meta":
        return None
    if value.device.type == "cpu":
        return value.item() if value.numel() == 1 else None
    return values.certain(value)


def share_of(values: Values, mask: Any) -> float | None:
    """What share of a mask is true, where that is known or expected; integers that are 0 and 1 are a mask."""
    value = certain(values, mask)
    if value is not None:
        return value if value in (0, 1) else None
    alias = values.alias(mask) if mask.device.type != "cpu" and mask.dtype in INDEX_LIKE else None
    if alias is not None and alias.numel() and alias.min() >= 0 and alias.max() <= 1:
        return int(alias.count_nonzero()) / alias.numel()
    return of(values, mask).share


def argument(call: Call, position: int, name: str) -> Any:
    return call.args[position] if len(call.args) > position else call.kwargs.get(name)


def keep(values: Values, call: Call) -> list[Known]:
    """What only moves or converts elements keeps what is known of its first input; of integers it keeps the widest span,
    as arithmetic with masks and small numbers does."""
    written = call.mutated + call.outputs
    if call.name not in MOVES | SPANS or not call.tensors:
        return []
    first = NOTHING
    if call.name in MOVES:
        source = call.tensors[-1 if call.name == "copy_" else 0]
        first = replace(of(values, source), uniform=_moved(values, call, source))
    if call.name == "cumsum":
        first = replace(first, sample=None)
    if call.name in REORDER:
        first = replace(first, within=None)
    known = [of(values, tensor) for tensor in call.tensors]
    widest = max((one for one in known if one.span), key=lambda one: one.span or 0, default=NOTHING)
    return [replace(first, span=widest.span, most=widest.most, guess=first.guess or widest.guess)] * len(written)


def _moved(values: Values, call: Call, source: torch.Tensor) -> float | None:
    """The one value of what an op moves, if it has one and so has all that is put beside it."""
    if call.name == "cumsum":
        return None
    found = {certain(values, one) for one in (call.tensors if call.name == "cat" else [source])}
    return found.pop() if len(found) == 1 else None


MOVES = {
    "_to_copy", "clone", "copy_", "index", "index_select", "gather", "cat", "repeat", "flip", "roll", "contiguous",
    "cumsum", "masked_select",
}  # fmt: skip
REORDER = {"cat", "cumsum", "flip", "roll"}  # an element is no longer of the integer that lies where it does
# Integers stay in about the range that they were in.
SPANS = {"add", "add_", "sub", "sub_", "mul", "mul_", "where", "masked_fill", "masked_fill_", "clamp", "clamp_", "maximum",
         "minimum"}  # fmt: skip


@expected("topk")
def _topk(values: Values, call: Call) -> list[Known]:
    """Indices of the k largest along a dimension: each of its positions is as likely. Where they are few they are
    spelled out: different ones in a row, and all used alike over the rows."""
    dim = argument(call, 2, "dim")
    dim = -1 if dim is None else dim
    size = call.args[0].shape[dim] if call.args[0].dim() else 1
    number = call.outputs[1].shape[dim] if call.outputs[1].dim() else 1
    return [
        NOTHING,
        Known(span=size, most=1 / max(number, 1), value=_spread(call.outputs[1], dim, size, values.imbalance)),
    ]


# Tokens of a special meaning are at the ends of a vocabulary, and beam search picks among several of them, one after
# another: so far in, no small number of vocabularies ends nearby. (Of all numbers the golden ratio is least like a fraction.)
NO_FRACTION = (3 - 5**0.5) / 2


def _spread(indices: torch.Tensor, dim: int, size: int, imbalance: float) -> torch.Tensor | None:
    """Indices below `size` that differ along `dim` and are used alike, as far as they can be; None for many of them."""
    if not 0 < indices.numel() <= SMALL or not indices.dim() or imbalance != 1.0:
        return None
    in_row_last = indices.movedim(dim, -1).shape
    numbers = (torch.arange(indices.numel(), device="cpu") + int(size * NO_FRACTION)) % size
    return numbers.reshape(in_row_last).movedim(-1, dim)


@expected("sort", "max", "min", "mode", "kthvalue", "median")
def _with_indices(values: Values, call: Call) -> list[Known]:
    """(values, indices) along a dimension; a sort of indices keeps their span."""
    source = of(values, call.args[0])
    dim = argument(call, 2 if call.name == "kthvalue" else 1, "dim")
    dim = dim if isinstance(dim, int) and not isinstance(dim, bool) else -1
    size = call.args[0].shape[dim] if call.args[0].dim() else 1
    return [source, Known(span=size)] if len(call.outputs) == 2 else [source]


@expected("argsort", "argmax", "argmin")
def _index_of(values: Values, call: Call) -> list[Known]:
    """A position in the middle: of a vocabulary, no token with a special meaning."""
    dim = argument(call, 1, "dim")
    tensor = call.args[0]
    size = tensor.numel() if dim is None else tensor.shape[dim] if tensor.dim() else 1
    return [Known(span=size, guess=size // 2)]


@expected("randint", "multinomial", "randperm")
def _random_index(values: Values, call: Call) -> list[Known]:
    first = call.args[0]
    if isinstance(first, torch.Tensor):
        return [Known(span=first.shape[-1], guess=first.shape[-1] // 2)]
    ints = [one for one in call.args if isinstance(one, int)]
    return [Known(span=max(ints[-1], 1))] if ints else []


@expected(*FILLS)
def _filled(values: Values, call: Call) -> list[Known]:
    if "full" in call.name or call.name == "fill_":
        return [Known(uniform=certain(values, call.args[2 if call.name == "new_full" else 1]))]
    return [Known(uniform=float("ones" in call.name))]


@expected("remainder", "floor_divide", "div")
def _divided(values: Values, call: Call) -> list[Known]:
    """`index % n` and `index // n`, by which experts are mapped to ranks."""
    span, by = of(values, call.args[0]).span, call.args[1]
    if not span or not isinstance(by, int) or by < 1:
        return []
    return [Known(span=min(span, by) if call.name == "remainder" else -(-span // by))]


@expected("sum")
def _sum(values: Values, call: Call) -> list[Known]:
    """Sums of a mask: equal parts of what is expected to be true, adding up to it."""
    known = of(values, call.args[0])
    (out,) = call.outputs
    if known.share is None or out.numel() > 64 * SMALL:
        return []
    total = round(known.share * call.args[0].numel())
    return [Known(counts=values.parts(total, out.numel(), known.most))]


@expected("scatter_add_", "scatter_add", "index_add_", "index_add")
def _tallied(values: Values, call: Call) -> list[Known]:
    """Ones that are added to zeros where indices say: equal parts of the indices."""
    target, _, index, ones = call.args[:4]
    if argument(call, 4, "alpha") not in (None, 1):
        return []
    if target.dim() != 1 or target.numel() > 64 * SMALL or certain(values, target) != 0 or certain(values, ones) != 1:
        return []
    return [Known(counts=values.parts(index.numel(), target.numel(), of(values, index).most))]


@expected("histc")
def _histc(values: Values, call: Call) -> list[Known]:
    """Counts per bin: equal parts of the elements."""
    (out,) = call.outputs
    return [Known(counts=values.parts(call.args[0].numel(), out.numel(), of(values, call.args[0]).most))]
