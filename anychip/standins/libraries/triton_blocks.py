"""Shapes of the blocks inside of a Triton kernel: what `triton.language`'s functions make of them.

A value of a kernel is a number where it is known, else a Block: of what shape it is, or of none that is known.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Block(NamedTuple):
    """Numbers or addresses that are in no source. shape: () of one; None where it is not known."""

    shape: tuple[int, ...] | None = ()


UNTOLD = Block(None)


class Product(NamedTuple):
    """Of an [m, k] by a [k, n], `times` over."""

    times: int
    m: int
    n: int
    k: int


def shape_of(value: Any) -> tuple[int, ...] | None:
    return value.shape if isinstance(value, Block) else ()


def sizes(value: Any) -> Block:
    """A block of a shape that the kernel gives: `[BLOCK_M, BLOCK_N]`."""
    given = value if isinstance(value, tuple) else (value,)
    whole = all(isinstance(one, int) for one in given)
    return Block(given) if whole else UNTOLD


def broadcast(*values: Any) -> Block:
    """What an operation of element by element makes."""
    shapes = [shape_of(one) for one in values]
    if any(one is None for one in shapes):
        return UNTOLD
    rank = max((len(one) for one in shapes if one is not None), default=0)
    padded = [(1,) * (rank - len(one)) + one for one in shapes if one is not None]
    return Block(tuple(max(along) for along in zip(*padded, strict=True)))


def indexed(block: Block, index: Any) -> Block:
    """`x[:, None]`: a colon keeps a dimension, None makes one."""
    if block.shape is None:
        return UNTOLD
    given, left, shape = index if isinstance(index, tuple) else (index,), list(block.shape), []
    for one in given:
        if one is None:
            shape.append(1)
        elif left:
            size = left.pop(0)
            shape += [size] if isinstance(one, slice) else []
    return Block((*shape, *left))


def reduced(block: Any, axis: Any = None, *_: Any, keep_dims: Any = False, **_options: Any) -> Block:
    shape = shape_of(block)
    if shape is None:
        return UNTOLD
    if axis is None:
        return Block(())
    if not isinstance(axis, int) or not shape:
        return UNTOLD
    at = axis % len(shape)
    return Block((*shape[:at], *((1,) if keep_dims is True else ()), *shape[at + 1 :]))


def turned(block: Any, *order: Any, **_: Any) -> Block:
    shape, given = shape_of(block), order[0] if order and isinstance(order[0], tuple) else order
    if shape is None:
        return UNTOLD
    if given:
        return Block(tuple(shape[at] for at in given))
    return Block((*shape[:-2], *reversed(shape[-2:])))


def expanded(block: Any, axis: Any, **_: Any) -> Block:
    shape = shape_of(block)
    if shape is None or not isinstance(axis, int):
        return UNTOLD
    at = axis % (len(shape) + 1)
    return Block((*shape[:at], 1, *shape[at:]))


def joined(first: Any, second: Any, **_: Any) -> Block:
    shape = broadcast(first, second).shape
    return UNTOLD if shape is None else Block((*shape, 2))


def split(block: Any, **_: Any) -> Any:
    shape = shape_of(block)
    half = UNTOLD if not shape else Block(shape[:-1])
    return half, half


def put_together(first: Any, second: Any, *_: Any, **_options: Any) -> Block:
    one, other = shape_of(first), shape_of(second)
    return UNTOLD if not one or not other else Block((one[0] + other[0], *one[1:]))


def descriptor(*given: Any, **named: Any) -> Block:
    """A block's address: `make_block_ptr(base, shape, strides, offsets, block_shape, order)`, a descriptor's."""
    return sizes(named["block_shape"] if "block_shape" in named else given[-2] if len(given) == 6 else given[-1])


def swizzled(i: Any, j: Any, size_i: Any, size_j: Any, size_g: Any) -> Any:
    """`swizzle2d`: the numbers of a block where groups of rows are gone through together."""
    if not all(isinstance(one, int) for one in (i, j, size_i, size_j, size_g)):
        return Block(), Block()
    group, inside = divmod(i * size_j + j, size_g * size_j)
    rows = min(size_i - group * size_g, size_g)
    return group * size_g + inside % rows, inside // rows


def arange(begin: Any, end: Any, **_: Any) -> Block:
    return Block((end - begin,)) if isinstance(begin, int) and isinstance(end, int) else UNTOLD


def _number(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of numbers that are known a number, else of blocks a block."""

    def call(*given: Any, **_: Any) -> Any:
        known = all(isinstance(one, int | float) for one in given)
        return function(*given) if known else broadcast(*given)

    return call


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "arange": arange,
    "zeros": lambda shape, *_, **__: sizes(shape),
    "full": lambda shape, *_, **__: sizes(shape),
    "make_block_ptr": descriptor,
    "make_tensor_descriptor": descriptor,
    "reshape": lambda _block, *shape, **__: sizes(shape[0] if isinstance(shape[0], tuple) else shape),
    "broadcast_to": lambda _block, *shape, **__: sizes(shape[0] if isinstance(shape[0], tuple) else shape),
    "trans": turned,
    "permute": turned,
    "expand_dims": expanded,
    "join": joined,
    "split": split,
    "cat": put_together,
    "swizzle2d": swizzled,
    "cdiv": _number(lambda x, y: -(-x // y)),
    "min": lambda *given, **named: _least(min, *given, **named),
    "max": lambda *given, **named: _least(max, *given, **named),
    "minimum": _number(min),
    "maximum": _number(max),
    "abs": _number(abs),
    "int": _number(int),
    "float": _number(float),
    "log2": _number(math.log2),
    "next_power_of_2": _number(lambda x: 1 << max(int(x) - 1, 0).bit_length()),
    "load": lambda pointer, *_, **__: Block(shape_of(pointer)),
    "len": lambda given: len(given) if isinstance(given, tuple) else UNTOLD,
    **dict.fromkeys(("zeros_like", "advance", "sort", "cumsum", "cumprod", "flip", "softmax", "associative_scan", "multiple_of",
                     "max_contiguous", "max_constancy", "to", "cast", "constexpr"), lambda block, *_, **__: block),
    **dict.fromkeys(("sum", "argmax", "argmin", "reduce", "xor_sum"), reduced),
}  # fmt: skip
FUNCTIONS["view"] = FUNCTIONS["reshape"]


def _least(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Python's `min(a, b)` of numbers, Triton's `min(block, axis)`."""
    if len(given) == 2 and "axis" not in named and not shape_of(given[0]):
        return _number(function)(*given)
    return reduced(*given, **named)
