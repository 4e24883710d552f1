"""Shapes of tori: which slice a number of chips gets, and which of its dimensions close to a ring. Pure."""

from collections.abc import Iterator
from functools import cache
from math import prod


@cache
def slice_shape(num_chips: int, num_dims: int, limit: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The most cubic box of at least `num_chips` chips, shortest dimension last, as slices of tori are handed out.

    limit: the longest that each dimension can be, in any order. 256 on two dimensions -> (16, 16); 32 on three ->
    (4, 4, 2). A count that only makes a long thin box (a prime) gets the next count that does better.
    """
    longest = tuple(sorted(limit, reverse=True)) or (num_chips,) * num_dims
    for count in range(num_chips, 2 * num_chips + 1):
        shapes = [shape for shape in _boxes(count, num_dims, count) if _fits(shape, longest)]
        best = min(shapes, key=lambda shape: (sum(shape), shape), default=None)
        if best is not None and (best[0] <= 2 * max(best[-1], 2) or count == 2 * num_chips or num_chips <= 4):
            return best
    return (num_chips,) + (1,) * (num_dims - 1)


@cache
def slice_chips(num_chips: int, num_dims: int, domain: int, limit: tuple[int, ...] = ()) -> int:
    """Chips of each slice where they do not fit into one domain: as few equal slices as give boxes that fit."""
    least = -(-num_chips // domain)
    for count in range(least, 4 * least + 1):
        each = num_chips // count
        if num_chips % count == 0 and prod(slice_shape(each, num_dims, limit)) == each:
            return each
    return min(num_chips, domain)


def _boxes(count: int, num_dims: int, longest: int) -> Iterator[tuple[int, ...]]:
    """Every non-increasing tuple of `num_dims` lengths whose product is `count`."""
    if num_dims == 1:
        if count <= longest:
            yield (count,)
        return
    for length in range(min(count, longest), 0, -1):
        if count % length == 0 and length**num_dims >= count:
            for rest in _boxes(count // length, num_dims - 1, length):
                yield (length, *rest)


def _fits(shape: tuple[int, ...], longest: tuple[int, ...]) -> bool:
    return all(length <= limit for length, limit in zip(shape, longest, strict=False))


def wraps(dims: tuple[int, ...], multiple: int) -> tuple[bool, ...]:
    """Whether each dimension closes to a ring: its length is a multiple of the block whose faces are switched, and
    more than two, since two chips have one link between them either way.

    In three dimensions the blocks are cubes, and what is not built of whole cubes closes nowhere ("no wrap-around below
    4x4x4": How to Scale Your Model, chapter on TPUs).
    """
    whole = len(dims) < 3 or all(length % multiple == 0 for length in dims)
    return tuple(whole and length > 2 and length % multiple == 0 for length in dims)
