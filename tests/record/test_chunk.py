"""Stretches of a tape that come again: what makes two of them equal, and what stands on the tape when one is written again."""

from anychip.record import Kind, word
from anychip.record.chunk import Writer, read

# A forward: a scratch block and one that is kept, an op on another stream that the first is waited for.
FORWARD = [
    (Kind.ALLOC, 0),
    (Kind.OP, 7),
    (Kind.ALLOC, 1),
    (Kind.RECORD, 4),
    (Kind.WAIT, 4),
    (Kind.FREE, 0),
    (Kind.FREE, 9),
]
# Its backward: reads and frees the kept block, makes a gradient that stays.
BACKWARD = [(Kind.USE, 1), (Kind.OP, 8), (Kind.ALLOC, 0), (Kind.FREE, 1)]


def tape(*parts: list[tuple[Kind, int]]) -> list[int]:
    return [word(kind, payload) for part in parts for kind, payload in part]


def renamed(part: list[tuple[Kind, int]], names: dict[int, int]) -> list[tuple[Kind, int]]:
    return [(kind, payload if kind == Kind.OP else names.get(payload, payload)) for kind, payload in part]


def test_chunks_are_equal_but_for_the_names_of_blocks_and_events() -> None:
    sizes = [64, 32, 64, 32]
    one = read(tape(FORWARD), 0, len(FORWARD), None, sizes)
    other = read(tape(renamed(FORWARD, {0: 2, 1: 3, 4: 5})), 0, len(FORWARD), None, sizes)
    assert one.like(other)
    assert one.live == {1: 1}  # the second thing made is left, under the name of block 1
    larger = read(tape(FORWARD), 0, len(FORWARD), None, [64, 33])
    assert not one.like(larger)
    assert not read(tape([(Kind.OP, 6)]), 0, 1, None, sizes).like(read(tape([(Kind.OP, 7)]), 0, 1, None, sizes))
    assert not read(tape([(Kind.READ, 0)]), 0, 1, None, sizes).fit


def test_a_chunk_is_written_with_names_of_its_own_and_its_backward_frees_what_it_kept() -> None:
    words = tape(FORWARD, BACKWARD)
    sizes = [64, 32]
    forward = read(words, 0, len(FORWARD), None, sizes)
    backward = read(words, len(FORWARD), len(words), forward, sizes)
    written: list[int] = []
    fresh = iter((20, 21, 22))

    def allocate(nbytes: int) -> int:
        block = next(fresh)
        written.append(word(Kind.ALLOC, block))
        return block

    writer = Writer(written, sizes, allocate, lambda block: written.append(word(Kind.FREE, block)), lambda: 40)
    names = writer.write(forward, [], {}, {})
    # Block 9 is somebody else's: he frees it himself.
    assert written == tape(
        [(Kind.ALLOC, 20), (Kind.OP, 7), (Kind.ALLOC, 21), (Kind.RECORD, 40), (Kind.WAIT, 40), (Kind.FREE, 20)]
    )
    del written[:]
    gradient = lambda: written.append(word(Kind.ALLOC, 99))  # noqa: E731
    writer.write(backward, names, {0: gradient}, {})
    assert written == tape([(Kind.USE, 21), (Kind.OP, 8), (Kind.ALLOC, 99), (Kind.FREE, 21)])


def test_a_block_of_others_is_freed_where_it_was() -> None:
    sizes = [64, 32]
    chunk = read(tape([(Kind.OP, 7), (Kind.FREE, 9), (Kind.OP, 8)]), 0, 3, None, sizes)
    written: list[int] = []
    writer = Writer(written, sizes, lambda nbytes: 0, lambda block: None, lambda: 0)
    writer.write(chunk, [], {}, {9: lambda: written.append(word(Kind.FREE, 77))})
    assert written == tape([(Kind.OP, 7), (Kind.FREE, 77), (Kind.OP, 8)])


def test_what_is_freed_between_forward_and_backward_is_known_to_be_early() -> None:
    between = [(Kind.FREE, 1), (Kind.ALLOC, 1)]  # the block belongs to another by the time of the backward
    words = tape(FORWARD, between, BACKWARD)
    forward = read(words, 0, len(FORWARD), None, [64, 32])
    backward = read(words, len(FORWARD) + len(between), len(words), forward, [64, 32])
    assert forward.early == {1}
    assert [symbol for one, symbol in zip(backward.words, backward.symbols, strict=True) if one & 31 == Kind.FREE] == [
        -1
    ]
