"""The caching allocator's rules, one a test, with the sums by hand; and what must hold whatever is asked of it."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.memory import CachingAllocator, OutOfMemory, Settings

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def allocator(capacity: int = 4 * GIB, conf: str = "") -> CachingAllocator:
    return CachingAllocator(capacity, Settings.parse(conf))


def test_sizes_are_rounded_to_512_bytes() -> None:
    a = allocator()
    assert [a.rounded(n) for n in (1, 512, 513, 5000)] == [512, 512, 1024, 5120]


def test_power_of_two_divisions() -> None:
    # 1200 KiB lies between 1024 and 2048 KiB; four divisions of 256 KiB: 1280 KiB.
    assert allocator(conf="roundup_power2_divisions:4").rounded(1200 * KIB) == 1280 * KIB


@pytest.mark.parametrize(
    ("asked", "reserved"),
    [
        (1 * MIB, 2 * MIB),
        (1 * MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB),
    ],
)
def test_segments_by_size(asked: int, reserved: int) -> None:
    a = allocator()
    a.malloc(asked)
    assert a.reserved_bytes == reserved


def test_best_fit_then_lowest_address() -> None:
    a = allocator()
    blocks = [a.malloc(12 * MIB) for _ in range(3)] + [a.malloc(30 * MIB)]
    for block in blocks:
        a.free(block)
    # 12 MiB fits a freed 12 MiB segment exactly; the first of the three equals has the lowest address.
    assert a.malloc(12 * MIB).address == blocks[0].address


def test_large_block_is_split_only_if_more_than_one_mib_is_left() -> None:
    a = allocator()
    a.free(a.malloc(12 * MIB))
    whole = a.malloc(11 * MIB)  # leaves 1 MiB: not more than 1 MiB, so the whole block is taken
    assert whole.size == 12 * MIB
    a.free(whole)
    assert a.malloc(10 * MIB).size == 10 * MIB  # leaves 2 MiB


def test_freed_neighbours_join() -> None:
    a = allocator()
    one, two, three = (a.malloc(5 * MIB) for _ in range(3))  # all in one 20 MiB segment
    a.free(one)
    a.free(three)
    a.free(two)
    assert a.reserved_bytes == 20 * MIB
    assert a.malloc(9 * MIB).address == one.address


def test_empty_cache_gives_back_only_whole_segments() -> None:
    a = allocator()
    kept, gone = a.malloc(5 * MIB), a.malloc(40 * MIB)
    a.free(gone)
    a.release_cached()
    assert (a.reserved_bytes, a.allocated_bytes) == (20 * MIB, 5 * MIB)
    assert kept.allocated


def test_cached_memory_is_given_back_before_failing() -> None:
    a = allocator(100 * MIB)
    a.free(a.malloc(60 * MIB))
    a.malloc(80 * MIB)
    assert a.events["num_alloc_retries"] == 1
    assert a.reserved_bytes == 80 * MIB


def test_out_of_memory_in_torch_words() -> None:
    a = allocator(1 * GIB)
    a.malloc(1000 * MIB)
    with pytest.raises(OutOfMemory) as caught:
        a.malloc(100 * MIB)
    # 1024 - 1000 = 24 MiB free; 1000 MiB = 1000 / 1024 GiB stays below 1 GiB, so MiB.
    assert caught.value.text.startswith(
        "CUDA out of memory. Tried to allocate 100.00 MiB. GPU 0 has a total capacity of 1.00 GiB of which 24.00 MiB "
        "is free. Including non-PyTorch memory, this process has 1000.00 MiB memory in use. Of the allocated memory "
        "1000.00 MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated."
    )


def test_streams_have_pools_of_their_own() -> None:
    a = allocator()
    a.free(a.malloc(12 * MIB, stream=0))
    a.malloc(12 * MIB, stream=1)
    assert a.reserved_bytes == 24 * MIB


def test_record_stream_keeps_a_block_until_the_chip_is_waited_for() -> None:
    a = allocator()
    block = a.malloc(12 * MIB)
    a.record_stream(block, 1)
    a.free(block)
    assert a.malloc(12 * MIB).address != block.address
    a.synchronized()
    assert a.malloc(12 * MIB).address == block.address


def test_max_split_size_keeps_big_blocks_whole() -> None:
    a = allocator(conf="max_split_size_mb:50")
    a.free(a.malloc(100 * MIB))
    a.malloc(20 * MIB)  # may not come out of the 100 MiB block
    assert a.reserved_bytes == 120 * MIB


def test_the_end_of_an_expandable_segment_is_taken_last() -> None:
    # 20 MiB pages. 30, 4, 24, 2 (end at 60) then free the 24 in the middle and all after it but 2: holes of 24; a tail is made by
    # 6 more (to 80 MiB) freed again, 18 left with the 2 MiB before it free. A request of 12 fits the tail (smaller, best by size)
    # but the tail counts as large as it could grow, so the hole of 24 is taken
    a = allocator(conf="expandable_segments:True")
    a.malloc(30 * MIB)
    hole = a.malloc(24 * MIB)
    a.malloc(4 * MIB)
    tail = a.malloc(14 * MIB)  # 72 of 80: 8 left at the end
    a.free(hole)
    a.free(tail)  # 22 at the end, 24 in the middle
    assert a.malloc(12 * MIB).address == hole.address


def test_expandable_segments_grow_in_pages() -> None:
    a = allocator(conf="expandable_segments:True")
    a.malloc(11 * MIB)  # one page of 20 MiB, 9 left
    a.malloc(15 * MIB)  # 6 MiB are missing behind the 9: one more page
    assert a.reserved_bytes == 40 * MIB
    assert a.stats()["segment"]["all"]["current"] == 1


def test_sixty_steps_with_known_fragmentation() -> None:
    """Each step takes 6 MiB and 4 MiB and frees the 6: the 4 MiB blocks pin their segments.

    A 20 MiB segment takes 6 + 4 + (6) ...: step 1 splits 20 into 6, 4 and 10 free; the 6 is freed and is too small for
    nothing else than the next 6, which takes it again (best fit: 6 before 10), the next 4 takes 4 of the 10. So each
    further 4 comes from the rest: 10 -> 6 -> 2. Best fit for 6 is always the one free 6 at the front once the rest is
    2. Step 3 leaves 2; step 4's 4 opens a segment: 20 -> 16 free -> 12 -> 8 -> 4 -> 0.
    Fours per segment: 3 in the first (20 - 6 = 14 = 3 * 4 + 2), 5 in each further one (20 = 5 * 4).
    60 fours: 3 + 57; 57 / 5 = 11.4, so 12 further segments: 13 * 20 = 260 MiB reserved, 60 * 4 = 240 allocated.
    """
    a = allocator()
    for _ in range(60):
        six = a.malloc(6 * MIB)
        a.malloc(4 * MIB)
        a.free(six)
    assert (a.allocated_bytes, a.reserved_bytes) == (240 * MIB, 260 * MIB)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40 * MIB), st.integers(0, 1), st.booleans()), max_size=80),
    st.sampled_from(["", "expandable_segments:True", "max_split_size_mb:21"]),
)
def test_whatever_is_asked(requests: list[tuple[int, int, bool]], conf: str) -> None:
    a = allocator(256 * MIB, conf)
    live: list = []
    for nbytes, stream, frees in requests:
        with contextlib.suppress(OutOfMemory):
            live.append(a.malloc(nbytes, stream))
        if frees and live:
            a.free(live.pop(nbytes % len(live)))
        assert a.allocated_bytes == sum(block.size for block in live) <= a.reserved_bytes <= a.capacity_bytes
        for segment in a.snapshot():
            ends = [block["address"] + block["size"] for block in segment["blocks"]]
            assert [block["address"] for block in segment["blocks"]] == [segment["address"], *ends[:-1]]
            assert sum(block["size"] for block in segment["blocks"]) == segment["total_size"]
    for block in live:
        a.free(block)
    a.release_cached()
    counters = a.stats()
    assert a.reserved_bytes == a.allocated_bytes == 0
    assert counters["allocated_bytes"]["all"]["allocated"] == counters["allocated_bytes"]["all"]["freed"]
    assert counters["inactive_split_bytes"]["all"]["current"] == 0
