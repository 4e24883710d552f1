"""What the program is told when it reads a value from a chip that computes none.

Three sources, in this order (docs/values.md has a row per operator):
1. *Real values.* Small tensors that come from the host (counts, steps, shapes) keep them, integers and masks also
   where they are larger: while all inputs of an op have values, a small result is computed on the CPU beside being recorded.
2. *Uniform values.* A few ops have one plausible answer whatever their input: `isnan` is false, `isfinite`
   is true, no gradient overflowed. It survives `any`, `all`, `sum`, casts and negation.
3. *Expected counts.* Of a mask it is known what share of it is expected to be true, of indices how many
   different ones there are: a one-hot mask over 8 experts selects an eighth. What cannot be told apart gets an
   equal part, and parts add up (`--imbalance` makes the first the largest).
4. *Plausible constants*, by dtype: 1.0, 1, False. Constants can trap a program in a loop, so a boolean
   that a loop may wait for starts to alternate, which the report tells. Where a program ends before
   its steps are recorded, the report tells the last constant that it was given: it may have decided that.
"""

import ast
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import torch

from anychip.record.loops import Around, Wanted
from anychip.record.program import Place
from anychip.record.recorder import user_place, waits_for

SMALL = 256  # elements: of larger results few ops are done
# Bytes up to which a tensor has values: libraries send lists of indices to the chip and read them back (DDP its buckets),
# and a mask of the host's decides shapes, as whatever type it arrives.
KEPT = 1 << 19
INTEGERS = (torch.int64, torch.int32, torch.uint8)
INDEX_LIKE = (torch.bool, *INTEGERS)

# base name of an op -> the value that its result is taken to be filled with
UNIFORM: dict[str, float] = {
    "isnan": 0, "isinf": 0, "isneginf": 0, "isposinf": 0, "isfinite": 1, "isclose": 1, "isreal": 1,
    "_is_all_true": 1, "_is_any_true": 0,
    "_amp_foreach_non_finite_check_and_unscale_": 0, "_amp_non_finite_check_and_unscale_": 0,
}  # fmt: skip

# base name of an op -> what its boolean result is taken to be where nothing is known of its input
GUESS = {"any": False, "all": True}

# ops that fill a tensor: seen where it is of integers or a mask
FILLS = (
    "full", "ones", "zeros", "full_like", "ones_like", "zeros_like", "new_full", "new_ones", "new_zeros", "fill_", "zero_",
)  # fmt: skip

# ops that hand a uniform value on: base name -> f(value, elements of the input for each of the result)
CARRY: dict[str, Callable[[float, int], float]] = {
    **dict.fromkeys(
        ("any", "all", "max", "min", "amax", "amin", "mean", "_to_copy", "clone", "view", "copy_"), lambda v, n: v
    ),
    "sum": lambda v, n: v * n,
    "count_nonzero": lambda v, n: n if v else 0,
    "logical_not": lambda v, n: float(not v),
    "bitwise_not": lambda v, n: float(not v),
}

SPARSE = (torch.float32, torch.float64)  # of such a matrix that is mostly zeros it is known how many elements are none
PICKS = frozenset({"multinomial", "argmax"})  # a loop in which one of these is called writes a text, token by token
SAMPLE = 1024  # integers of the host that are kept of a larger tensor, to know how they are distributed
NAMED = 3  # lines that a warning names
LOOP_READS = 200  # reads of one boolean at one line before it alternates, in a loop that may wait for it
NUMBER_READS = 1_000  # of one floating-point number, before it is read as another: `while error > tolerance`
LOOKED_UP = 50  # of these reads, before it is looked up again whether a loop waits, which takes longer than a read
NUMBERS = (1.0, 1e-30, 1e30)  # what one is read as; not 0, by which programs divide
OTHER_READS = 10_000  # elsewhere: `if norm > bound` for each parameter of a model ends by itself, and so does a text by its length


NOT_COMPUTED = (
    "How often it runs depends on numbers, which are not computed (docs/values.md): figures per step or call hold, those of the whole run "
    "do not."
)


class Source(NamedTuple):
    """The integers that a mask is of. writing: which one made them; offset, stride: what part they are of what lies there."""

    address: int
    writing: int
    elements: int
    offset: int
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Within:
    """What a mask says of integers: that they are in [low, high), or `outside` of it."""

    source: Source
    low: float
    high: float
    outside: bool = False


class Values:
    """Values of chip tensors by the address of their storage."""

    def __init__(self, imbalance: float = 1.0, warn: Callable[[str], None] = lambda text: None) -> None:
        self.imbalance, self.warn = imbalance, warn
        self.has_alternated = False
        self.invented = False  # whether any whole number that the program may have read, or what others would have told it, is no real one
        self.made_up: tuple[Place, float | int | bool] | None = None  # the last constant, and where it was read
        self.real: dict[int, torch.Tensor] = {}  # address -> bytes on the CPU
        self.uniform: dict[int, float] = {}
        # Floating-point numbers that have values though they are many: not every op on them is seen, so what writes to them is told.
        self.unwatched: set[int] = set()
        self.guess: dict[int, int] = {}
        self.share: dict[int, float] = {}  # expected share of elements that are not zero
        self.span: dict[int, int] = {}  # integers: they are in [0, span)
        self.samples: dict[int, torch.Tensor] = {}  # integers that came from the host, some of many, sorted
        self.within: dict[int, Within] = {}
        self.writings: dict[int, int] = {}  # of an address that masks are of: a number that is new once it was written
        self._numbers = count()
        # The largest share of the elements that can be one of these: of k different ones 1/k.
        self.most: dict[int, float] = {}
        self.reads: Counter[tuple[str, int]] = Counter()  # of truths, by line
        self.read_numbers: Counter[tuple[str, int]] = Counter()
        # Of a line that waits for a number how often it was given another one.
        self.numbers: dict[tuple[str, int], int] = {}
        self.picked = 0  # calls of PICKS so far
        self.picked_at: dict[tuple[str, int], int] = {}  # the same at the last read at a line
        # Of the condition of a `while` whether it went on when that was last read.
        self.went_on: dict[tuple[str, int, int], bool] = {}
        self.rounds: set[str] = set()  # lines of those of which nothing said so
        self.uneven: set[int] = set()  # of `share`: those that --imbalance decides
        self.uneven_at: dict[str, None] = {}  # lines of the program where it does
        # (the largest imbalance that there can be, parts) where more was asked for
        self.cut: dict[tuple[float, int], None] = {}
        self.all_at: dict[str, None] = {}  # lines that select by a mask of which nothing is known
        # Lines that select by a mask of which it is not known whose it is, and what they get.
        self.even_at: dict[str, str] = {}

    def forget(self, address: int) -> None:
        self.uneven.discard(address)
        self.unwatched.discard(address)
        known_of: tuple[dict[int, Any], ...] = (
            self.real, self.uniform, self.guess, self.share, self.span, self.most, self.samples, self.within, self.writings,
        )  # fmt: skip
        for known in known_of:
            known.pop(address, None)

    def alias(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The values of a chip tensor as a CPU tensor of the same layout (shared, not copied), or None."""
        base = self.real.get(tensor.untyped_storage().data_ptr())
        if base is None:
            return None
        empty = torch.empty(0, dtype=tensor.dtype, device="cpu")
        return empty.set_(base.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())

    def keeps(self, tensor: torch.Tensor) -> bool:
        """Whether what a tensor is a part of may have values: of a cache as large as a chip the host has no copy."""
        storage = tensor.untyped_storage()
        return storage.nbytes() <= KEPT or storage.data_ptr() in self.real

    def put(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """Give a chip tensor (whole or a view of one that has values) the values of a CPU tensor."""
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if not storage.nbytes():
            return  # all empty tensors share one address
        if not self.keeps(tensor):
            self.uniform.pop(address, None)
            return
        if address not in self.real and self.spelled_out(tensor) is None:
            self.uniform.pop(address, None)
            make = torch.empty if is_whole(tensor) else torch.zeros
            self.real[address] = make(storage.nbytes(), dtype=torch.uint8, device="cpu")
            self.watch(tensor)
        alias = self.alias(tensor)
        assert alias is not None
        alias.copy_(value)

    def fill(self, tensor: torch.Tensor, value: float) -> None:
        """What a chip tensor is a part of has one value."""
        self.uniform[tensor.untyped_storage().data_ptr()] = value
        self.watch(tensor)

    def watch(self, tensor: torch.Tensor) -> None:
        """Be told of what writes to it, where that is not seen as it is."""
        storage = tensor.untyped_storage()
        if tensor.dtype not in INDEX_LIKE and storage.nbytes() > SMALL * tensor.element_size():
            self.unwatched.add(storage.data_ptr())

    def source(self, tensor: torch.Tensor) -> Source:
        address = tensor.untyped_storage().data_ptr()
        if address not in self.writings:
            self.writings[address] = next(self._numbers)
        stride = () if tensor.is_contiguous() else tensor.stride()
        return Source(address, self.writings[address], tensor.numel(), int(tensor.storage_offset()), stride)

    def is_there(self, source: Source) -> bool:
        """Whether nothing was written to these integers since."""
        return self.writings.get(source.address) == source.writing

    def below(self, address: int, bound: float) -> float | None:
        """What share of the integers at an address is below a bound: of a sample of them, or of `span` numbers that are as likely."""
        sample, span = self.samples.get(address), self.span.get(address)
        if sample is not None:
            self.invented = True
            return float((sample < bound).double().mean())
        if not span or bound <= 0:
            return 0.0 if span else None
        first = self.fullest(span, self.most.get(address)) / span
        return min(first + (min(bound, span) - 1) * (1 - first) / max(span - 1, 1), 1.0)

    def spelled_out(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The values of a tensor that is only known to be uniform: from here on they are real ones."""
        storage = tensor.untyped_storage()
        uniform = self.uniform.get(storage.data_ptr())
        if uniform is None or storage.nbytes() > KEPT:
            return None
        base = torch.full((storage.nbytes() // tensor.element_size(),), uniform, dtype=tensor.dtype, device="cpu")
        self.real[storage.data_ptr()] = base.view(torch.uint8)
        del self.uniform[storage.data_ptr()]
        return self.alias(tensor)

    def certain(self, tensor: torch.Tensor) -> float | None:
        """The one value that all elements of a chip tensor are known to have, or None."""
        uniform = self.uniform.get(tensor.untyped_storage().data_ptr())
        if uniform is None:
            known = tensor.dtype in INDEX_LIKE or tensor.numel() <= SMALL
            alias = self.alias(tensor) if known and tensor.numel() else None
            if alias is None:
                return None
            least, most = alias.aminmax()
            if least != most:
                return None
            uniform = least.item()
        return float(bool(uniform)) if tensor.dtype == torch.bool else uniform

    def read_as(self, tensor: torch.Tensor) -> float | None:
        """What each element of some integers is read as, as far as that is one value; None where they have values of their own."""
        value = self.certain(tensor)
        if value is not None or self.alias(tensor) is not None:
            return value
        return self._guessed(tensor)

    def _guessed(self, tensor: torch.Tensor) -> int:
        """What integers are read as. A guess that was made of larger ones, which these are a view of, is none of theirs."""
        guess = self.guess.get(tensor.untyped_storage().data_ptr(), 1)
        if tensor.dtype.is_complex:
            return 1
        limits = torch.iinfo(tensor.dtype)
        return guess if limits.min <= guess <= limits.max else 1

    def plausible(self, tensor: torch.Tensor) -> float | int | bool:
        """One element's value for a tensor without real values."""
        uniform = self.uniform.get(tensor.untyped_storage().data_ptr())
        if uniform is not None:
            return bool(uniform) if tensor.dtype == torch.bool else uniform
        place = user_place()
        value = self._constant(tensor, place)
        self.made_up = place, value
        return value

    def last_said(self) -> str:
        """What a program that ended was told last, if it was anything that nobody knows."""
        if self.made_up is None:
            return ""
        place, answer = self.made_up
        return (
            f"The last value that it read of the chip was {answer}, at {place.text}; values are made up where numbers decide them "
            "(docs/values.md)."
        )

    def _constant(self, tensor: torch.Tensor, place: Place) -> float | int | bool:
        if tensor.dtype.is_floating_point:
            return self._number(place) if tensor.numel() == 1 else NUMBERS[0]
        self.invented = True
        if tensor.dtype != torch.bool:
            return self._guessed(tensor)
        address = tensor.untyped_storage().data_ptr()
        guess = self.guess.get(address)
        count = self.reads[place.file, place.line]
        self.reads[place.file, place.line] += 1
        around, wanted = waits_for()
        if wanted is not None and wanted.of is not ast.Break:
            if wanted.of is ast.Assert:
                return wanted.truth
            if wanted.of is ast.If:  # as on the chip, where a mask of which nothing is known selects all
                return bool(guess) if address in self.share else wanted.truth
            if bool(guess) != wanted.truth:
                return wanted.truth ^ self.has_gone_round(wanted, place)
            self.went_on[wanted.where] = True
        if wanted is not None and wanted.of is ast.Break and around is Around.FOR and address not in self.share:
            guess = not wanted.truth  # (`if done.all(): break`: nobody knows that all are done)
        writes = self.picked_at.get((place.file, place.line), self.picked) != self.picked
        self.picked_at[place.file, place.line] = self.picked
        if (
            wanted is not None
            and around is Around.FOR
            and not writes
            and bool(guess) != wanted.truth
            and count == LOOP_READS
        ):
            self.warn(
                f"{place.text}: a loop that ends by values of the chip, which are not computed (docs/values.md), goes its whole "
                "length. Where it ends earlier, a step takes less than the figures say."
            )
        # (A text that a `while True` writes has no length at which it ends.)
        waits = around is Around.ENDLESS or (around is Around.WHILE and not writes)
        limit = LOOP_READS if waits else OTHER_READS
        if count == limit:
            self.has_alternated = True
            self.warn(
                f"{place.text}: a condition on values of the chip was answered {bool(guess)} {limit:,} times, then {not guess} "
                f"every other time, so that a loop that waits for that ends. {NOT_COMPUTED}"
            )
        return bool(guess) ^ (count >= limit and bool(count % 2))

    def _number(self, place: Place) -> float:
        """One number is read as the same until a loop that may wait for another one, as for an error to fall, has gone round often. It is
        given one twice as long each time, so that a step that it scaled down meanwhile grows again."""
        at = place.file, place.line
        changes = self.numbers.get(at, 0)
        self.read_numbers[at] += 1
        is_enough = self.read_numbers[at] > NUMBER_READS << changes
        if not (is_enough or self.read_numbers[at] % LOOKED_UP == 0):
            return NUMBERS[changes % len(NUMBERS)]
        if waits_for()[0] not in (Around.WHILE, Around.ENDLESS):
            self.read_numbers[at] = 0
        elif is_enough:
            self.read_numbers[at], self.numbers[at] = 1, changes + 1
            if not changes:
                self.has_alternated = True
                self.warn(
                    f"{place.text}: a number of the chip was read as {NUMBERS[0]} {NUMBER_READS:,} times and as another from then on "
                    f"({NUMBERS[1]}, {NUMBERS[2]}), so that a loop that waits for one ends. What it keeps for a backward "
                    f"until then is in the peak. {NOT_COMPUTED}"
                )
        return NUMBERS[self.numbers.get(at, 0) % len(NUMBERS)]

    def has_gone_round(self, wanted: Wanted, place: Place) -> bool:
        """Whether a `while` of whose condition nothing says that it goes on has gone on when it was last asked: it does so once."""
        if place.text not in self.rounds:
            self.rounds.add(place.text)
            self.warn(
                f"{place.text}: a loop goes on by values of the chip, which are not computed (docs/values.md): it is taken to go "
                "round once. Where it does more often, a step takes longer than the figures say."
            )
        gone = self.went_on.get(wanted.where, False)
        self.went_on[wanted.where] = not gone
        return gone

    def selects(self, address: int) -> float:
        """What share of a mask is true: as far as it is known, else all of it, as a mask of many elements is to select by."""
        return self.uniform.get(address, self.share.get(address, 1.0))

    def read_truth(self, value: bool) -> None:
        """A truth that is known was read: it may be a loop's condition the first time, and unknown from then on. One that is known at its
        end, as that a text is as long as it may be, ends each time."""
        place = user_place()
        self.reads.pop((place.file, place.line), None)
        _, wanted = waits_for()
        if wanted is not None and wanted.of is ast.While:
            self.went_on[wanted.where] = value == wanted.truth

    def parts(self, total: int, num_parts: int, most: float | None = None) -> list[int]:
        """How many of `total` each part is expected to get; none can get more than the share `most` of it."""
        if self.imbalance != 1.0 and num_parts > 1:
            self.uneven_at[user_place().text] = None
        return parts(total, num_parts, self.fullest(num_parts, most))

    def fullest(self, num_parts: int, most: float | None) -> float:
        """The imbalance that was asked for, as far as there can be one: an expert gets no more than all tokens."""
        self.invented = True
        limit = num_parts * (most or 1.0)
        if self.imbalance > max(limit, 1.0):
            self.cut[limit, num_parts] = None
        return min(self.imbalance, max(limit, 1.0))

    def tell_selected(self) -> None:
        """Say where a mask decided a shape though nobody knows what is true in it."""
        if not self.all_at:
            return
        *places, others = *list(self.all_at)[:NAMED], len(self.all_at) - NAMED
        rest = f" and {others} other lines" if others > 0 else ""
        self.warn(
            f"{', '.join(places)}{rest}: what a mask selects is taken to be all, the most that there can be, as nothing is known of the mask "
            "(docs/values.md). Where it selects less, figures are too high. A mask that comes from the host is known."
        )

    def tell_imbalance(self) -> None:
        """Say what came of an imbalance that was asked for: programs pick their experts in ways that do not tell which one it is."""
        if self.imbalance == 1.0:
            return
        uneven = f"the first part is the fullest at {', '.join(self.uneven_at)}" if self.uneven_at else "without effect"
        others = [f"a mask at {place} selects {what} each time" for place, what in self.even_at.items()]
        why = f"{', '.join(others)}, as it does not tell which part it is of" if others else ""
        none = "" if self.uneven_at else "no experts were found"
        cut = ", ".join(
            f"cut to {limit:g}, at which the first of {number} parts gets every token" for limit, number in self.cut
        )
        self.warn(f"--imbalance {self.imbalance:g}: {'; '.join(text for text in (cut, uneven, why or none) if text)}.")

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """A CPU copy of a chip tensor: its real values, or plausible ones where it is small, else zeros."""
        alias = self.alias(tensor)
        if alias is not None:
            if tensor.dtype == torch.bool and tensor.numel() == 1:
                self.read_truth(bool(alias.item()))
            return alias.clone()
        if tensor.numel() > 1 << 14 and not self.uniform.get(tensor.untyped_storage().data_ptr()):
            if tensor.dtype == torch.bool and (share := self.selects(tensor.untyped_storage().data_ptr())):
                return spread(share, tensor.numel()).view(tensor.shape)
            return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")  # calloc: costs nothing until touched
        return torch.full(tensor.shape, self.plausible(tensor), dtype=tensor.dtype, device="cpu")


def sampled(source: torch.Tensor) -> torch.Tensor | None:
    """Some of the integers of a large tensor of the host, sorted; None where they are all the same, as those are that nobody
    computed."""
    if (
        source.dtype.is_floating_point
        or source.dtype.is_complex
        or source.dtype == torch.bool
        or source.numel() <= SMALL
    ):
        return None
    found = source.flatten()[:: source.numel() // SAMPLE or 1].long().sort().values
    return None if found[0] == found[-1] else found


def is_whole(tensor: torch.Tensor) -> bool:
    """Whether nothing lies beside it in its memory."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def share_of_host(source: torch.Tensor) -> float | None:
    """What share of a mask of the host is true that is too large to be kept, as whatever type it comes, and of a matrix that is mostly zeros,
    as of a graph's edges, is not: exactly, as what is selected by it is often put in rows. None for what is no mask, or where nobody computed
    it."""
    elements = source.numel()
    if elements * source.element_size() <= KEPT or source.dtype.is_complex or source.layout != torch.strided:
        return None
    if getattr(source.untyped_storage(), "unwritten", False):
        return None  # weights that nobody has drawn
    if source.dtype != torch.bool:
        at = torch.arange(SAMPLE, device="cpu") * (elements // SAMPLE | 1) % elements  # (odd: masks have patterns)
        places = []
        for size in reversed(source.shape):
            places.append(at % size)
            at = at // size
        some = source[tuple(places[::-1])].tolist()
        is_sparse = source.dtype in SPARSE and some.count(0) > SAMPLE // 2
        if not is_sparse and set(some) != {0, 1}:
            return None
    return int(source.count_nonzero()) / elements


def spread(share: float, elements: int) -> torch.Tensor:
    """A mask of the host of which a share is true, evenly."""
    counted = (torch.arange(elements + 1, dtype=torch.float64, device="cpu") * share).round()
    return counted.diff() > 0


def first_uniform(values: Values, tensors: list[torch.Tensor]) -> float | None:
    for tensor in tensors:
        found = values.uniform.get(tensor.untyped_storage().data_ptr())
        if found is not None:
            return found
    return None


def carried(name: str, value: float | None, elements: int) -> float | None:
    """What an op of this base name makes of a uniform input, or its own uniform value, or None."""
    if value is not None and name in CARRY:
        return CARRY[name](value, elements)
    return UNIFORM.get(name)


# ---------------------------------------------------------------- expected counts


def parts(total: int, num_parts: int, imbalance: float = 1.0) -> list[int]:
    """`total` split into `num_parts` whole numbers that add up to it.

    All are equal as far as they can be; with an imbalance the first is that many times the mean, at most
    `total`, and the others share what is left.
    """
    if num_parts <= 0:
        return []
    first = min(round(total / num_parts * imbalance), total) if num_parts > 1 else total
    if imbalance == 1.0:
        first = -(-total // num_parts)
    rest = total - first
    others = num_parts - 1
    return [first, *(rest // others + (at < rest % others) for at in range(others))]
