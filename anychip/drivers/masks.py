"""What is expected of masks, op by op: comparisons, their negations and joints, what is chosen and set by them."""

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from math import prod
from typing import Any

import torch

from anychip.drivers.base import Call
from anychip.drivers.expected import NOTHING, Known, argument, certain, expected, keep, of, share_of
from anychip.drivers.values import SMALL, Values, Within


def _equal(values: Values, call: Call) -> Known:
    """Equal to one of `span` integers: one in span is; with an imbalance more are the first. Of those that came from the host as
    many as among some of them."""
    known, number = of(values, call.args[0]), certain(values, call.args[1])
    if known.sample is not None and number is not None:
        return _bounded(values, call.args[0], math.ceil(number), math.floor(number) + 1)
    span = known.span
    if not span:
        return NOTHING
    if values.imbalance == 1.0 or span == 1 or number is None or not 0 <= number < span:
        return Known(share=1 / span, most=known.most)
    first = values.fullest(span, known.most) / span
    return Known(share=first if number == 0 else (1 - first) / (span - 1), most=known.most, uneven=True)


def _set(values: Values, call: Call) -> Known | None:
    """Numbers of which it is known how many are not 0, as experts' gates and masks of any type: compared with 0 these are more; integers,
    which are 0 and 1, with 1 too."""
    known, number = of(values, call.args[0]), certain(values, call.args[1])
    if known.share is None or not (number == 0 or (number == 1 and not call.args[0].dtype.is_floating_point)):
        return None
    if call.name in (("gt", "ne") if number == 0 else ("ge", "eq")):
        return Known(share=known.share, most=known.most, uneven=known.uneven)
    return Known(share=1 - known.share) if call.name in (("le", "eq") if number == 0 else ("lt", "ne")) else None


def _bounded(values: Values, tensor: torch.Tensor, low: float, high: float, outside: bool = False) -> Known:
    """A mask of the integers in [low, high), or outside. What ranges that follow one another count adds up to all."""
    return _of_range(values, Within(values.source(tensor), low, high, outside))


def _of_range(values: Values, within: Within) -> Known:
    address, elements = within.source.address, within.source.elements
    ends = [values.below(address, end) for end in (within.low, within.high)]
    if None in ends:
        return Known(within=within)
    before, through = (round((end or 0.0) * elements) for end in ends)
    share = max(through - before, 0) / max(elements, 1)
    uneven = values.imbalance != 1.0 and address not in values.samples
    return Known(share=1 - share if within.outside else share, within=within, uneven=uneven)


def _opposite(known: Known, guess: int | None = None) -> Known:
    within = None if known.within is None else replace(known.within, outside=not known.within.outside)
    share = None if known.share is None else 1 - known.share
    return Known(share=share, guess=guess, uneven=known.uneven, within=within)


@expected("eq")
def _equals(values: Values, call: Call) -> list[Known]:
    """A mask that is compared with false is negated."""
    if call.args[0].dtype == torch.bool and not isinstance(call.args[1], torch.Tensor) and not call.args[1]:
        known = of(values, call.args[0])
        return [_opposite(known, int(not known.guess))]
    return [_itself(call, 1.0) or _set(values, call) or _equal(values, call)]


def _itself(call: Call, share: float) -> Known | None:
    """A tensor that is compared with itself, as by who looks for what is no number."""
    one, other = call.args[:2]
    if not isinstance(other, torch.Tensor) or (other is not one and not one.is_set_to(other)):
        return None
    return Known(share=share, guess=int(share))


@expected("isin")
def _is_in(values: Values, call: Call) -> list[Known]:
    """Among m of `span` integers: m in span are."""
    span, others = of(values, call.args[0]).span, call.args[1]
    if not span or call.kwargs.get("invert"):
        return []
    return [Known(share=min((others.numel() if isinstance(others, torch.Tensor) else 1) / span, 1.0))]


@expected("ne")
def _differs(values: Values, call: Call) -> list[Known]:
    return [_itself(call, 0.0) or _set(values, call) or _opposite(_equal(values, call))]


NEGATIONS = ("bitwise_not", "logical_not", "bitwise_not_", "logical_not_")


@expected(*NEGATIONS)
def _negation(values: Values, call: Call) -> list[Known]:
    known = of(values, call.args[0])
    return [_opposite(known, None if known.guess is None or call.args[0].dtype != torch.bool else int(not known.guess))]


COMPARE = {"lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge}
RANGE: dict[str, Callable[[float], tuple[float, float]]] = {  # of the integers for which a comparison with one is true
    "lt": lambda bound: (-math.inf, math.ceil(bound)), "le": lambda bound: (-math.inf, math.floor(bound) + 1),
    "gt": lambda bound: (math.floor(bound) + 1, math.inf), "ge": lambda bound: (math.ceil(bound), math.inf),
}  # fmt: skip
EXTREME = 1e9  # no score, loss or norm is as large: who writes such a number means "less (or more) than any"


@expected(*COMPARE)
def _in_range(values: Values, call: Call) -> list[Known]:
    """Whatever is less than what stands for more than any. One element that is compared with a number: what its plausible
    value says, so that a label is in its range, and a loss is not below a tolerance, as it would be if it were read."""
    compare, (one, other) = COMPARE[call.name], call.args[:2]
    sides = [certain(values, side) for side in (one, other)]
    if one.dtype.is_floating_point and sum(side is not None and abs(side) >= EXTREME for side in sides) == 1:
        return [Known(uniform=float(compare(*(0.0 if side is None else side for side in sides))))]
    if (of_set := _set(values, call)) is not None:
        return [of_set]
    if sides == [None, None] or one.dtype == torch.bool:
        return []
    if call.outputs[0].numel() > 1:
        if one.dtype.is_floating_point or sides[1] is None or not math.isfinite(sides[1]):
            return []
        return [_bounded(values, one, *RANGE[call.name](sides[1]))]
    return [Known(guess=int(compare(*(_read(values, *each) for each in zip((one, other), sides, strict=True)))))]


def _read(values: Values, side: Any, value: float | None) -> float:
    """What one element would be read as."""
    if value is not None or side.dtype.is_floating_point:
        return 1.0 if value is None else value
    return values.guess.get(side.untyped_storage().data_ptr(), 1)


@expected("any", "all")
def _any_all(values: Values, call: Call) -> list[Known]:
    """Of n elements of which a share s is true: one is with 1 - (1 - s)**n, all are with s**n. Of those of which no two can be, as one
    expert is picked once for each token, one is with s * n."""
    known = of(values, call.args[0])
    share = known.share
    (out,) = call.outputs
    if share is None and call.args[0].numel() == 1:
        return [Known(guess=known.guess)]
    if share is None or not out.numel():
        return []
    each = call.args[0].numel() / out.numel()
    if call.name == "all":
        likely = share**each
    else:
        likely = min(share * each, 1.0) if known.most and known.most * each <= 1 else 1 - (1 - share) ** each
    return [Known(share=likely, guess=int(likely > 0.5), uneven=known.uneven)]


BOTH = {
    f"{kind}_{word}{tail}": (word == "or")
    for kind in ("bitwise", "logical") for word in ("and", "or") for tail in ("", "_")
}  # fmt: skip


@expected(*BOTH)
def _both(values: Values, call: Call) -> list[Known]:
    """Of two masks that have nothing to do with one another. One that is all true decides an `or`, one that is all false
    an `and`, whatever the other holds."""
    is_or, masks = BOTH[call.name], call.args[:2]
    of_masks = call.name.startswith("logical") or all(getattr(one, "dtype", torch.bool) == torch.bool for one in masks)
    for mask in masks:
        value = certain(values, mask)
        if value is not None and bool(value) == is_or and (of_masks or not is_or):
            return [Known(uniform=float(is_or))]
    within = _both_ranges(is_or, *(of(values, mask).within for mask in masks))
    if within is not None and values.is_there(within.source):
        return [_of_range(values, within)]
    one, other = (share_of(values, mask) for mask in masks)
    if one is not None and other is not None:
        uneven = any(of(values, mask).uneven for mask in masks)
        share = one + other - one * other if is_or else one * other
        guess = int(share > 0.5) if call.outputs and call.outputs[0].numel() == 1 else None
        return [Known(share=share, guess=guess, uneven=uneven)]
    return [_guessed(values, masks, any if is_or else all)]


def _both_ranges(is_or: bool, one: Within | None, other: Within | None) -> Within | None:
    """Two masks of the same integers: what lies in both ranges, in one of two that meet, or beyond one of two ends; None for other
    pairs."""
    if one is None or other is None or one.source != other.source:
        return None
    if not is_or and not one.outside and not other.outside:
        return replace(one, low=max(one.low, other.low), high=min(one.high, other.high))
    below, above = sorted((one, other), key=lambda each: each.low)
    if not is_or or one.outside or other.outside:
        return None
    if above.low <= below.high:
        return replace(one, low=below.low, high=max(below.high, above.high))
    if (below.low, above.high) == (-math.inf, math.inf):
        return replace(one, low=below.high, high=above.low, outside=True)
    return None


def _guessed(values: Values, masks: Any, decide: Callable[[Any], bool]) -> Known:
    """Two answers to checks, of which at least one was thought about (others are read as false)."""
    guesses = [None if one is None else int(one) for one in (_answer(values, mask) for mask in masks)]
    return NOTHING if guesses == [None, None] else Known(guess=int(decide(bool(one) for one in guesses)))


def _answer(values: Values, mask: Any) -> float | None:
    """What a boolean would be read as, if anything is known of it."""
    value = certain(values, mask)
    return of(values, mask).guess if value is None and getattr(mask, "dtype", None) == torch.bool else value


@expected("where", "masked_fill", "masked_fill_")
def _chosen(values: Values, call: Call) -> list[Known]:
    """All of one side where the mask is known, or is read as all or none of it, or where both sides are the same; else a mix of two masks."""
    mask, one, other = call.args if call.name == "where" else (call.args[1], call.args[2], call.args[0])
    (known,) = keep(values, call) or [NOTHING]
    (made,) = call.outputs or call.mutated
    if made.dtype.is_floating_point and made.numel() > SMALL:
        return [known]
    chosen, sides = certain(values, mask), (certain(values, one), certain(values, other))
    if chosen is None and not any(map(_is_mask, (one, other))):
        chosen = _all_or_none(values, mask)
    uniform = sides[not chosen] if chosen is not None else sides[0] if sides[0] == sides[1] else None
    shares = [share_of(values, part) for part in (mask, one, other)]
    if uniform is not None or None in shares or not all(_is_mask(part) for part in (one, other)):
        return [replace(known, uniform=uniform)]
    true, first, second = (share or 0.0 for share in shares)
    return [replace(known, share=true * first + (1 - true) * second)]


def _all_or_none(values: Values, mask: Any) -> float | None:
    """What `all` and `any` of a mask would be read as together: of a few texts none has ended where one in a vocabulary ends them."""
    share = share_of(values, mask)
    if share is None or not isinstance(mask, torch.Tensor):
        return None
    return 1.0 if share ** mask.numel() > 0.5 else 0.0 if (1 - share) ** mask.numel() > 0.5 else None


def _is_mask(value: Any) -> bool:
    return isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool


@expected("cat")
def _joined(values: Values, call: Call) -> list[Known]:
    """Of masks one after another: their shares by their sizes."""
    (known,) = keep(values, call)
    shares = [share_of(values, tensor) for tensor in call.tensors]
    if known.uniform is not None or None in shares:
        return [replace(known, share=None if None in shares else known.share)]
    true = sum((share or 0.0) * tensor.numel() for share, tensor in zip(shares, call.tensors, strict=True))
    return [replace(known, share=true / max(sum(tensor.numel() for tensor in call.tensors), 1))]


@expected("add")
def _added(values: Values, call: Call) -> list[Known]:
    """One-hot masks of integers, as of each token's first and second expert, which differ: what is true in either."""
    (known,) = keep(values, call) or [NOTHING]
    masks = [one for one in call.args[:2] if isinstance(one, torch.Tensor) and not one.dtype.is_floating_point]
    shares = [share_of(values, mask) for mask in masks]
    total = sum(share or 0.0 for share in shares)
    uniform = all(certain(values, mask) is not None for mask in masks)  # whose sum is known as it is
    if len(masks) < 2 or None in shares or uniform or total > 1 or argument(call, 2, "alpha") not in (None, 1):
        return [known]
    return [replace(known, share=total)]


@expected("scatter_", "scatter")
def _scatter(values: Values, call: Call) -> list[Known]:
    """A one-hot mask: as many elements are set as there are indices."""
    target, index = call.args[0], call.args[2]
    return [Known(share=min(index.numel() / max(target.numel(), 1), 1.0), most=of(values, index).most)]


@expected("nonzero")
def _places(values: Values, call: Call) -> list[Known]:
    """Where a mask is true is read as its end: who looks for where a text ends cuts it there, and its beginning would leave nothing of it."""
    return [Known(guess=max(min(call.args[0].shape, default=1) - 1, 0))]


@expected("index_put_", "_index_put_impl_")
def _put(values: Values, call: Call) -> list[Known]:
    """Elements of a mask that are set by their numbers, as samplers of boxes do, to one value or to those of another mask. Of as many as
    were true it is these (`mask[mask.clone()] = inside`, as detectors match boxes), else they are any."""
    target, indices = call.args[:2]
    share, before = share_of(values, call.args[2]), share_of(values, target)
    given = [one for one in indices if one is not None]
    if share is None or argument(call, 3, "accumulate") or any(map(_is_mask, given)):
        return []
    whole = [size for size, one in zip_longest(target.shape, indices) if one is None]
    elements = max(target.numel(), 1)
    number = min(prod(torch.broadcast_shapes(*(one.shape for one in given))) * prod(whole), elements)
    if before is None and number < elements:
        return []
    true = round((before or 0.0) * elements)
    left = 0 if number in (true, elements) else true * (1 - number / elements)
    return [Known(share=(left + share * number) / elements)]
