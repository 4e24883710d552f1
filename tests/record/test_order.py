"""A tape's stretches in another order: what each word names stays what it named, and nothing is named before it is there."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anychip.record import Kind, word
from anychip.record.order import OutOfOrder, Reorder, Stretch
from anychip.record.tape import KIND_BITS, KIND_MASK

SIZES = [512, 512, 2048]
LAUNCH = [word(Kind.STREAM, 7), word(Kind.OP, 99), word(Kind.RECORD, 50), word(Kind.STREAM, 0)]
WAIT = [word(Kind.WAIT, 50)]


def pair(number: int, block: int, event: int) -> tuple[list[int], list[int]]:
    """A forward that keeps a block and a backward that reads and frees it, told apart by their ops."""
    forward = [word(Kind.ALLOC, block), word(Kind.OP, 2 * number), word(Kind.RECORD, event)]
    backward = [word(Kind.WAIT, event), word(Kind.USE, block), word(Kind.OP, 2 * number + 1), word(Kind.FREE, block)]
    return forward, backward


def laid_out(parts: list[list[int]]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return np.array([one for part in parts for one in part], np.int64), list(zip([0, *ends], ends, strict=False))


def told(tape: np.ndarray, sizes: np.ndarray) -> tuple[dict[int, int], int]:
    """(of each op that reads a block, the op that ran when that was made, the most bytes at one time); raises where two
    blocks of one name are there at once, or an event is waited for that nobody recorded."""
    there: dict[int, int] = {}
    events: set[int] = set()
    reads: dict[int, int] = {}
    most = made = 0
    used: list[int] = []
    for one in tape.tolist():
        kind, payload = one & KIND_MASK, one >> KIND_BITS
        if kind == Kind.ALLOC:
            assert payload not in there
            there[payload] = -1
            most = max(most, sum(int(sizes[block]) for block in there))
        elif kind == Kind.FREE:
            del there[payload]
        elif kind == Kind.USE:
            used.append(there[payload])
        elif kind == Kind.RECORD:
            assert payload not in events
            events.add(payload)
        elif kind == Kind.WAIT:
            assert payload in events
        elif kind == Kind.OP:
            made = payload
            there = {block: made if maker < 0 else maker for block, maker in there.items()}
            if used:
                reads[payload] = used.pop()
    return reads, most


@given(st.integers(1, 6), st.randoms())
def test_what_was_kept_is_read_in_any_order(pairs: int, luck: random.Random) -> None:
    # one forward and backward after the other, so that all share two names; then in an order drawn at random
    parts = [half for number in range(pairs) for half in pair(number, number % 2, number)]
    tape, places = laid_out(parts)
    ready = [2 * number for number in range(pairs)]
    order = []
    while ready:
        one = ready.pop(luck.randrange(len(ready)))
        order.append(one)
        ready += [one + 1] if one % 2 == 0 else []
    arranged, sizes = Reorder(tape, np.array(SIZES)).arranged([Stretch(*places[one]) for one in order])
    reads, most = told(arranged, sizes)
    assert reads == {2 * number + 1: 2 * number for number in range(pairs)}
    open_ = np.cumsum([1 if one % 2 == 0 else -1 for one in order])
    assert most == 512 * open_.max()


def test_an_exchange_that_comes_again_has_events_of_its_own() -> None:
    tape, (launch, wait) = laid_out([LAUNCH, WAIT])
    launched = Stretch(*launch, again=True)
    reorder = Reorder(tape, np.array(SIZES))
    # the second is launched before the first is waited for
    arranged, _ = reorder.arranged(
        [launched, launched, Stretch(*wait, again=True, of=0), Stretch(*wait, again=True, of=1)]
    )
    kinds, events = arranged & KIND_MASK, arranged >> KIND_BITS
    recorded, waits = events[kinds == Kind.RECORD].tolist(), events[kinds == Kind.WAIT].tolist()
    assert recorded == waits
    assert len(set(recorded)) == 2
    assert reorder.keeps_memory(*launch)


def test_as_it_was_it_keeps_its_words() -> None:
    tape, _places = laid_out([*pair(0, 2, 0), *pair(1, 0, 1)])
    arranged, sizes = Reorder(tape, np.array(SIZES)).arranged([Stretch(0, tape.size)])
    assert (arranged >> KIND_BITS)[np.isin(arranged & KIND_MASK, (Kind.ALLOC, Kind.USE, Kind.FREE))].tolist() == [
        2,
        2,
        2,
        0,
        0,
        0,
    ]
    assert sizes.tolist() == SIZES


def test_what_a_folded_call_speaks_of_after_it_was_freed_is_nobody_elses() -> None:
    parts = [[word(Kind.ALLOC, 0), word(Kind.FREE, 0)], [word(Kind.ALLOC, 1)], [word(Kind.USE, 0)]]
    tape, places = laid_out(parts)
    tape = np.append(tape, word(Kind.ALLOC, 0))  # here its name was given again only afterwards
    late = Stretch(tape.size - 1, tape.size)
    order = [Stretch(*places[0]), late, Stretch(*places[1]), Stretch(*places[2])]
    arranged, _ = Reorder(tape, np.array(SIZES)).arranged(order)
    kinds, blocks = arranged & KIND_MASK, arranged >> KIND_BITS
    assert blocks[kinds == Kind.USE][0] not in blocks[kinds == Kind.ALLOC][1:]


@pytest.mark.parametrize(
    "parts", [[[word(Kind.ALLOC, 0)], [word(Kind.FREE, 0)]], [[word(Kind.RECORD, 0)], [word(Kind.WAIT, 0)]]]
)
def test_what_is_not_there_yet_cannot_be_named(parts: list[list[int]]) -> None:
    tape, (first, second) = laid_out(parts)
    with pytest.raises(OutOfOrder):
        Reorder(tape, np.array(SIZES)).arranged([Stretch(*second), Stretch(*first)])
