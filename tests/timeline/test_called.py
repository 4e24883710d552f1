"""A chip that runs ops where they are called: its clocks, and the pages that allocations touch first."""

import pytest

from anychip.spec import load_chip
from anychip.timeline import Engine, price
from anychip.timeline.pages import FIRST_THRESHOLD, fresh_bytes
from tests.timeline.tapes import Kind, add, program, w

CPU = load_chip("generic-cpu")
OPS = [add(10), add(2**20)]
MIB = 2**20
MOST = 32 * MIB


def test_the_host_is_the_chip():
    # each op costs its call and its time, one after another, and then nobody waits for anybody
    words = [w(Kind.OP, 1), w(Kind.OP, 0)] * 20
    clocks = Engine(CPU, list(OPS))
    clocks.run(words)
    one = Engine(CPU, list(OPS))
    one.run(words[:2])
    assert clocks.host_s == pytest.approx(clocks.stream_end_s(0))
    assert clocks.host_s == pytest.approx(20 * one.host_s)


def test_many_words_at_once_take_as_long_as_one_by_one():
    words = [w(Kind.OP, 1), w(Kind.OP, 0)] * 50
    whole, single = Engine(CPU, list(OPS)), Engine(CPU, list(OPS))
    whole.run(words)
    for word in words:
        single.run([word])
    assert whole.host_s == pytest.approx(single.host_s)


def fresh(*words, blocks):
    return fresh_bytes(program([w(Kind.OP, 0), *words], OPS, blocks), MOST).tolist()[0]


def test_a_block_that_was_freed_is_handed_out_again():
    # 100 KiB come from the heap: new the first time, kept afterwards
    blocks = [100 * 1024]
    once = [w(Kind.ALLOC, 0), w(Kind.FREE, 0)]
    assert fresh(*once * 3, blocks=blocks) == 100 * 1024


def test_a_large_block_goes_back_whenever_it_is_freed():
    # 40 MiB is above what the library keeps: new each of the three times
    assert fresh(*[w(Kind.ALLOC, 0), w(Kind.FREE, 0)] * 3, blocks=[40 * MIB]) == 3 * 40 * MIB


def test_the_threshold_grows_with_what_is_freed():
    # 8 MiB is mapped the first time; freed, such blocks come from the heap: new once more, then kept
    assert FIRST_THRESHOLD < 8 * MIB
    assert fresh(*[w(Kind.ALLOC, 0), w(Kind.FREE, 0)] * 4, blocks=[8 * MIB]) == 2 * 8 * MIB


def test_a_long_free_end_of_the_heap_goes_back():
    # after a block of 8 MiB was mapped and freed the heap keeps 16 MiB of free end: four of 5 MiB, freed, go back; again
    warm = [w(Kind.ALLOC, 4), w(Kind.FREE, 4)]
    four = [w(Kind.ALLOC, block) for block in range(4)] + [w(Kind.FREE, block) for block in range(4)]
    blocks = [5 * MIB] * 4 + [8 * MIB]
    assert fresh(*warm, *four, blocks=blocks) == 28 * MIB
    assert fresh(*warm, *four, *four, blocks=blocks) == 48 * MIB


def test_only_a_chip_with_a_measured_page_rate_waits_for_pages(tmp_path):
    tape = program([w(Kind.OP, 0), w(Kind.ALLOC, 0), w(Kind.FREE, 0)], OPS, [64 * MIB])
    before = price(tape, CPU).total_s
    text = CPU.file.read_text().replace('id = "generic-cpu"\naliases = ["cpu"]', 'id = "my-cpu"')
    (tmp_path / "my-cpu.toml").write_text(text)
    rows = "op,dtype,shape,value,unit,kind,stack,date,source,note\npage.rate,,33554432,1,GB/s,measured,,,a test,\n"
    (tmp_path / "my-cpu.csv").write_text(rows)
    # 64 MiB at 1 GB/s
    assert price(tape, load_chip(tmp_path / "my-cpu.toml")).total_s - before == pytest.approx(64 * MIB / 1e9)
