"""Ten cases of fusion worked by hand: a fused kernel moves what its ops read from outside and leave outside, no more.

Every tensor has 1,000 bf16 elements (2,000 bytes) unless said otherwise; block numbers stand for tensors.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anychip.cost import fusion, work
from anychip.cost.fusion import Fusions, fuse, fuse_ranks
from anychip.cost.regions import Forms
from anychip.record.order import Order, Reorder, Stretch
from anychip.record.tape import KIND_BITS, KIND_MASK
from anychip.spec import load_chip
from anychip.timeline import price
from anychip.timeline.memory import memory
from tests.timeline.tapes import Kind, op, program, t, w, whole_and_cut

X = t(1000)
UNARY = op("aten.relu.default", X, out=X)
BINARY = op("aten.add.Tensor", X, X, out=X)
SUM = op("aten.sum.default", X, out=t())
CAST = op("aten._to_copy.default", X, dtype="float32", out=t(1000, dtype="float32"))
MATMUL = op("aten.mm.default", t(20, 50), t(50, 20), out=t(20, 20))
IN_PLACE = op("aten.mul_.Tensor", X, X, mutates=(0,))
SPLIT = op("aten.mul.Tensor", t(10, 100, stride=(300, 1)), t(10, 100, stride=(300, 1)), out=X)
HALF = op("aten.relu.default", t(500), out=t(500))
OPS = [UNARY, BINARY, SUM, CAST, MATMUL, IN_PLACE, SPLIT, HALF]


def call(which, uses, defs):
    """An op with the blocks it reads and writes."""
    return [w(Kind.OP, OPS.index(which)), *(w(Kind.USE, b) for b in uses), *(w(Kind.DEF, b) for b in defs)]


def region(*calls, freed=(), blocks=None):
    words = [w(Kind.COMPILED, 1)]
    for one in calls:
        words += one
    words += [w(Kind.FREE, b) for b in freed] + [w(Kind.COMPILED, 0)]
    return program(words, OPS, blocks or [6000] * 20)


def launched(fused):
    """(name, bytes read, bytes written, launches) of each op on the tape, in order."""
    ops = [fused.ops[word >> KIND_BITS] for word in fused.tape.tolist() if word & KIND_MASK == Kind.OP]
    return [(one.name.split(".")[1], work(one).bytes_read, work(one).bytes_written, work(one).kernels) for one in ops]


def test_1_a_chain_keeps_its_middle_to_itself():
    # a -> b -> c -> d with b and c gone afterwards: read a, write d
    chain = region(call(UNARY, [0], [1]), call(UNARY, [1], [2]), call(UNARY, [2], [3]), freed=[1, 2])
    assert launched(fuse(chain)) == [("fused", 2000, 2000, 1)]


def test_2_what_lives_on_is_written():
    # b is kept (for the backward, say): read a; write b and d
    chain = region(call(UNARY, [0], [1]), call(UNARY, [1], [2]), call(UNARY, [2], [3]), freed=[2])
    assert launched(fuse(chain)) == [("fused", 2000, 4000, 1)]


def test_3_an_input_used_twice_is_read_once():
    # b = relu(a); c = a + b: read a, write c
    assert launched(fuse(region(call(UNARY, [0], [1]), call(BINARY, [0, 1], [2]), freed=[1]))) == [
        ("fused", 2000, 2000, 1)
    ]


def test_4_a_reduction_ends_a_chain():
    # s = sum(relu(a)): read a, write one element
    assert launched(fuse(region(call(UNARY, [0], [1]), call(SUM, [1], [2]), freed=[1]))) == [("fused", 2000, 2, 1)]


def test_5_a_product_stays_and_cuts():
    # b = relu(a); c = b @ w; d = relu(c) of another size: the product needs b in memory and its result is read again
    words = region(call(UNARY, [0], [1]), call(MATMUL, [1, 9], [2]), call(UNARY, [2], [3]), freed=[1, 2])
    # 20x50 and 50x20 read, 20x20 written
    assert launched(fuse(words)) == [("fused", 2000, 2000, 1), ("mm", 4000, 800, 1), ("fused", 2000, 2000, 1)]


def test_6_a_product_that_nobody_in_the_chain_needs_does_not_cut():
    # b = relu(a); c = x @ w; d = b + a: the second point-wise op joins the first
    words = region(call(UNARY, [0], [1]), call(MATMUL, [8, 9], [2]), call(BINARY, [1, 0], [3]), freed=[1])
    assert sorted(launched(fuse(words))) == [("fused", 2000, 2000, 1), ("mm", 4000, 800, 1)]


def test_7_a_cast_is_part_of_the_chain():
    # bf16 a -> relu -> fp32: read 2,000, write 4,000
    assert launched(fuse(region(call(UNARY, [0], [1]), call(CAST, [1], [2]), freed=[1]))) == [("fused", 2000, 4000, 1)]


def test_8_in_place_is_read_and_written():
    # a *= b, then c = relu(a): read a and b, write a and c
    assert launched(fuse(region(call(IN_PLACE, [0, 1], [0]), call(UNARY, [0], [2])))) == [("fused", 4000, 4000, 1)]


def test_9_views_of_one_block_add_up():
    # two thirds of a block of 6,000 bytes: 2 * 2,000; the result 2,000
    assert launched(fuse(region(call(SPLIT, [0, 0], [1])))) == [("fused", 4000, 2000, 1)]


def test_10_other_sizes_do_not_mix():
    # 1,000 elements and 500 of another tensor: two kernels
    assert launched(fuse(region(call(UNARY, [0], [1]), call(HALF, [1], [2])))) == [
        ("fused", 2000, 2000, 1),
        ("fused", 1000, 1000, 1),
    ]


def held(words, ops=OPS, bytes_each=2000):
    """Bytes live after each ALLOC or FREE of the fused program, and at the most."""
    fused = fuse(program(words, ops, [bytes_each] * 20))
    found = live_bytes(fused)
    assert memory(fused).peak_bytes == max(found)
    return found


def live_bytes(fused):
    live, found = 0, []
    for kind, block in zip(fused.kinds.tolist(), fused.payloads.tolist(), strict=True):
        if kind in (Kind.ALLOC, Kind.FREE):
            live += int(fused.block_bytes[block]) * (1 if kind == Kind.ALLOC else -1)
            found.append(live)
    return found


def alloc(block):
    return w(Kind.ALLOC, block)


def free(block):
    return w(Kind.FREE, block)


def test_a_sum_of_two_results_is_one_kernel_with_both():
    # b = relu(a), d = relu(c), b + d; with a product between that touches neither: read a and c, write e
    both = region(
        call(UNARY, [0], [1]), call(MATMUL, [6, 7], [8]), call(UNARY, [2], [3]), call(BINARY, [1, 3], [4]), freed=[1, 3]
    )
    assert launched(fuse(both)) == [("mm", 4000, 800, 1), ("fused", 4000, 2000, 1)]
    # and where a product reads b, or writes over a, b is there before it
    reads = region(
        call(UNARY, [0], [1]), call(MATMUL, [1, 7], [8]), call(UNARY, [2], [3]), call(BINARY, [1, 3], [4]), freed=[1, 3]
    )
    assert [name for name, *_ in launched(fuse(reads))] == ["fused", "mm", "fused"]
    over = region(
        call(UNARY, [0], [1]), call(MATMUL, [6, 7], [0]), call(UNARY, [2], [3]), call(BINARY, [1, 3], [4]), freed=[1, 3]
    )
    assert [name for name, *_ in launched(fuse(over))] == ["fused", "mm", "fused"]


def test_a_name_that_is_allocated_again_is_another_block():
    # b = relu(a), which nobody reads, is gone before c gets its name; the product reads c
    words = [w(Kind.COMPILED, 1), w(Kind.ALLOC, 1), *call(UNARY, [0], [1]), w(Kind.FREE, 1)]
    words += [
        w(Kind.ALLOC, 1),
        *call(UNARY, [2], [1]),
        *call(MATMUL, [1, 7], [8]),
        w(Kind.FREE, 1),
        w(Kind.COMPILED, 0),
    ]
    found = fuse(program(words, OPS, [6000] * 20))
    assert launched(found) == [("fused", 2000, 2000, 1), ("mm", 4000, 800, 1)]


def test_what_a_kernel_keeps_to_itself_takes_no_memory():
    # a -> b -> c with b gone afterwards: a (2,000) and c (2,000), never b
    inside = [alloc(1), *call(UNARY, [0], [1]), alloc(2), *call(UNARY, [1], [2]), free(1)]
    assert held([alloc(0), w(Kind.COMPILED, 1), *inside, w(Kind.COMPILED, 0)]) == [2000, 4000]


def test_what_the_backward_makes_again_takes_no_memory_but_what_it_is_made_of_stays():
    # forward: b = relu(a), c = float32(b), a freed after it; backward: e = b + d, then b freed. a is held in b's place until
    # then: a, c, d, e at the most (8,000), and b's free is a's
    forward = [alloc(1), *call(UNARY, [0], [1]), alloc(2), *call(CAST, [1], [2])]
    backward = [alloc(4), *call(BINARY, [1, 3], [4])]
    words = [alloc(0), alloc(3), w(Kind.COMPILED, 1), *forward, w(Kind.COMPILED, 0), free(0), w(Kind.OP, 4),
             w(Kind.COMPILED, 1), *backward, w(Kind.COMPILED, 0), free(1)]  # fmt: skip
    assert held(words) == [2000, 4000, 6000, 8000, 6000]


def test_a_block_number_that_is_taken_anew_meanwhile_is_another_block():
    # as above, but number 0 is taken anew before b ends, and given back after it: two blocks of that number for a while
    forward = [alloc(1), *call(UNARY, [0], [1]), alloc(2), *call(CAST, [1], [2])]
    backward = [alloc(4), *call(BINARY, [1, 3], [4])]
    words = [alloc(0), alloc(3), w(Kind.COMPILED, 1), *forward, w(Kind.COMPILED, 0), free(0), w(Kind.OP, 4), alloc(0),
             w(Kind.COMPILED, 1), *backward, w(Kind.COMPILED, 0), free(1), free(0)]  # fmt: skip
    assert held(words) == [2000, 4000, 6000, 8000, 10000, 8000, 6000]


def test_what_nobody_uses_is_not_computed():
    assert launched(fuse(region(call(UNARY, [0], [1]), freed=[1]))) == []


def words_of(*parts):
    return [word for part in parts for word in part.tape.tolist()]


def test_what_only_the_backward_wants_is_made_again():
    # forward: b = relu(a), c = float32(b); c is returned, b is read by the backward alone. Forward: read a (2,000), write c
    # (4,000). Backward: e = b + d reads a (2,000) in b's place and d (2,000), and writes e (2,000).
    forward = region(call(UNARY, [0], [1]), call(CAST, [1], [2]))
    backward = region(call(BINARY, [1, 3], [4]))
    words = [*words_of(forward), w(Kind.OP, 4), *words_of(backward)]
    fused = launched(fuse(program(words, OPS, [6000] * 20)))
    assert fused == [("fused", 2000, 4000, 1), ("mm", 4000, 800, 1), ("fused", 4000, 2000, 1)]


@pytest.mark.parametrize(("b", "d"), [(1, 3), (3, 1)])
def test_what_is_made_of_what_is_made_again_is_made_of_what_is_there(b, d):
    # forward: b = relu(a), c = float32(b); d = relu(b), e = float32(d); backward: f = b + d, g = a + f. Neither b nor d is
    # written, whatever their numbers: the first two read a (2,000) and write 4,000 each, the last reads a and writes g.
    first = region(call(UNARY, [0], [b]), call(CAST, [b], [2]))
    second = region(call(UNARY, [b], [d]), call(CAST, [d], [4]))
    backward = region(call(BINARY, [b, d], [5]), call(BINARY, [0, 5], [6]), freed=[5])
    words = [*words_of(first), w(Kind.OP, 4), *words_of(second), w(Kind.OP, 4), *words_of(backward)]
    fused = launched(fuse(program(words, OPS, [6000] * 20)))
    assert [one for one in fused if one[0] == "fused"] == [("fused", 2000, 4000, 1)] * 2 + [("fused", 2000, 2000, 1)]


def test_a_block_that_is_freed_and_used_anew_is_another():
    # b is freed after the region, so what the second region reads is not b: b is not kept for it, and not made again
    forward = region(call(UNARY, [0], [1]), call(CAST, [1], [2]))
    backward = region(call(BINARY, [1, 3], [4]))
    words = [*words_of(forward), w(Kind.OP, 4), w(Kind.OP, 4), w(Kind.FREE, 1), w(Kind.ALLOC, 1), *words_of(backward)]
    fused = launched(fuse(program(words, OPS, [6000] * 20)))
    assert fused == [("fused", 2000, 6000, 1), ("mm", 4000, 800, 1), ("mm", 4000, 800, 1), ("fused", 4000, 2000, 1)]


def test_frees_just_before_the_next_op_are_of_the_region():
    # autograd's temporaries end with the function: their frees stand right after the next op's word
    forward = region(call(UNARY, [0], [1]), call(UNARY, [1], [2]))
    words = [*words_of(forward), w(Kind.OP, 4), w(Kind.FREE, 1)]
    assert launched(fuse(program(words, OPS, [6000] * 20)))[0] == ("fused", 2000, 2000, 1)


def test_uses_that_were_told_twice_count_once():
    # 1,000 elements of a block of 6,000 bytes each, told twice: 2,000 bytes of each, not the blocks
    twice = region([w(Kind.OP, 1), *[w(Kind.USE, 0), w(Kind.USE, 5), w(Kind.DEF, 1)] * 2])
    assert launched(fuse(twice)) == [("fused", 4000, 2000, 1)]


def test_words_outside_regions_stay():
    plain = program([w(Kind.OP, 0), w(Kind.OP, 1)], OPS)
    assert fuse(plain) is plain
    words = [
        w(Kind.OP, 0),
        *region(call(UNARY, [0], [1]), call(UNARY, [1], [2]), freed=[1]).tape.tolist(),
        w(Kind.OP, 4),
    ]
    fused = fuse(program(words, OPS, [6000] * 20))
    assert [one[0] for one in launched(fused)] == ["relu", "fused", "mm"]
    assert not {Kind.USE, Kind.DEF} & set(fused.kinds.tolist())


@pytest.mark.parametrize("chip", ["h100", "tpu-v5p"])
def test_the_virtual_clock_and_the_forecast_agree_on_compiled_regions(chip):
    words = (
        region(call(UNARY, [0], [1]), call(UNARY, [1], [2]), call(MATMUL, [2, 9], [3]), freed=[1, 2]).tape.tolist() * 3
    )
    chip = load_chip(chip)
    timeline = price(program(words, OPS, [6000] * 20), chip)
    whole, parts = whole_and_cut(chip, words, 1, OPS, [6000] * 20)
    for clocks in (whole, parts):
        assert clocks.stream_end_s() == pytest.approx(timeline.end_s.max())
        assert clocks.host_s == pytest.approx(timeline.host_s[-1])


def test_a_compiled_chain_is_faster_than_its_ops():
    chain = region(*[call(UNARY, [i], [i + 1]) for i in range(10)], freed=range(1, 10))
    eager = program([w(Kind.OP, 0)] * 10, OPS)
    chip = load_chip("h100")
    assert price(chain, chip).total_s < price(eager, chip).total_s / 5


def test_a_region_of_several_ranks_is_fused_once(monkeypatch):
    # two ranks with the same region, whose op tables stand in other orders
    fused = []
    original = fusion.fuse_region
    monkeypatch.setattr(fusion, "fuse_region", lambda *args: fused.append(args) or original(*args))
    words = [w(Kind.COMPILED, 1), *call(UNARY, [0], [1]), *call(UNARY, [1], [2]), w(Kind.FREE, 1), w(Kind.COMPILED, 0)]
    there = [
        entry if entry & KIND_MASK != Kind.OP else w(Kind.OP, len(OPS) - 1 - (entry >> KIND_BITS)) for entry in words
    ]
    one, other = program(words, OPS, [6000] * 3), program(there, OPS[::-1], [6000] * 3)
    shared = Fusions()
    assert launched(fuse(one, shared)) == launched(fuse(other, shared)) == [("fused", 2000, 2000, 1)]
    assert len(fused) == 1
    assert len(fuse(one, shared).ops) == len(OPS) + 1


def test_regions_in_another_order_are_numbered_once(monkeypatch):
    # two stages of a pipeline: the second does the same two regions, the other way round
    numbered = []
    original = Forms._numbered
    monkeypatch.setattr(Forms, "_numbered", lambda *args: numbered.append(args[2].size) or original(*args))
    parts = [
        region(call(UNARY, [0], [1]), call(UNARY, [1], [2]), freed=[1]).tape.tolist(),
        region(call(UNARY, [2], [3]), call(MATMUL, [3, 9], [4]), call(UNARY, [4], [2]), freed=[3, 4]).tape.tolist(),
    ]
    one, other = (program(a + b, OPS, [6000] * 20) for a, b in (parts, parts[::-1]))
    shared = Fusions()
    together = [launched(fuse(rank, shared)) for rank in (one, other)]
    assert numbered == [2]
    assert together == [launched(fuse(replace(rank))) for rank in (one, other)]
    assert [len(ops) for ops in together] == [4, 4]


def test_a_region_within_a_region_is_the_same_whatever_its_number(monkeypatch):
    fused = []
    original = fusion.fuse_region
    monkeypatch.setattr(fusion, "fuse_region", lambda *args: fused.append(args) or original(*args))
    words = []
    for number in (2, 3, 4):
        inner = [w(Kind.COMPILED, number), *call(UNARY, [0], [1]), *call(UNARY, [1], [2]), w(Kind.FREE, 1)]
        words += [w(Kind.COMPILED, 1), *inner, w(Kind.COMPILED, 0)]
    assert launched(fuse(program(words, OPS, [6000] * 3))) == [("fused", 2000, 2000, 1)] * 3
    assert len(fused) == 1


def test_a_recording_is_fused_once_for_all_chips(monkeypatch):
    done = []
    original = fusion.Regions
    monkeypatch.setattr(fusion, "Regions", lambda *args: done.append(args) or original(*args))
    chain = region(*[call(UNARY, [i], [i + 1]) for i in range(10)], freed=range(1, 10))
    first, second = fuse(chain), fuse(chain)
    assert (launched(first), len(done)) == (launched(second), 1)
    assert fuse(replace(chain, members=(3,))).members == (3,)  # another recording, whatever it shares
    assert len(done) == 2


def test_a_table_is_not_swept_for_the_rows_that_are_read():
    table, rows, index = t(100_000, 64), t(4, 64), t(4, dtype="int64")
    ops = [
        op("aten.embedding.default", table, index, out=rows),
        op("aten.mul.Tensor", rows, rows, out=rows),
        op("aten.index_copy_.default", table, 0, index, rows, mutates=(0,)),
    ]
    looked_up = [
        w(Kind.OP, 0),
        w(Kind.USE, 0),
        w(Kind.USE, 1),
        w(Kind.DEF, 2),
        w(Kind.OP, 1),
        w(Kind.USE, 2),
        w(Kind.DEF, 3),
    ]
    words = [w(Kind.COMPILED, 1), *looked_up, w(Kind.FREE, 2), w(Kind.COMPILED, 0)]
    sizes = [table.nbytes, index.nbytes, rows.nbytes, rows.nbytes]
    # Of the table the rows that are named; the next op works on as many elements and is one kernel with it.
    assert launched(fuse(program(words, ops, sizes))) == [("fused", rows.nbytes + 2 * index.nbytes, rows.nbytes, 1)]
    written = [
        w(Kind.COMPILED, 1),
        w(Kind.OP, 2),
        *(w(Kind.USE, b) for b in (0, 1, 2)),
        w(Kind.DEF, 0),
        w(Kind.COMPILED, 0),
    ]
    ((_, read, wrote, _),) = launched(fuse(program(written, ops, sizes)))
    assert wrote == rows.nbytes
    assert read <= 3 * (rows.nbytes + index.nbytes) + rows.nbytes


def stage(turns):
    """Micro-batches' forwards and backwards in this order (n, then n again), as one rank does them in the order 0 0 1 1 ..., as
    its job has them: that rank, and the one that is put together of its stretches."""
    parts, number_of = [], max(turns) + 1
    for number in range(number_of):
        a, b, c, e = (4 * (number % 2) + one for one in range(4))
        forward = [alloc(a), w(Kind.OP, 4), w(Kind.COMPILED, 1), alloc(b), *call(UNARY, [a], [b]), alloc(c), *call(CAST, [b], [c]),
                   w(Kind.COMPILED, 0), w(Kind.RECORD, number), free(a)]  # fmt: skip
        backward = [w(Kind.WAIT, number), w(Kind.COMPILED, 1), alloc(e), *call(BINARY, [b, c], [e]), w(Kind.COMPILED, 0), free(b),
                    w(Kind.OP, 4), free(e), free(c)]  # fmt: skip
        parts += [forward, backward]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    places = list(zip([0, *ends], ends, strict=False))
    first = program([word for part in parts for word in part], OPS, [6000, 2000, 4000, 2000] * 2)
    done = [2 * one + turns[:at].count(one) for at, one in enumerate(turns)]
    order = Order(0, tuple(Stretch(*places[one]) for one in done))
    tape, block_bytes = Reorder(first.tape, first.block_bytes).arranged(order.stretches)
    other = replace(first, tape=tape, block_bytes=block_bytes, rank=1, members=(1,), order=order)
    return replace(first, others=[other], world_size=2), other


@settings(deadline=None)
@given(st.integers(1, 5).flatmap(lambda most: st.permutations([*range(most), *range(most)])))
def test_a_stage_that_is_put_together_is_fused_as_by_itself(turns):
    job, other = stage(turns)
    by_itself, (_, put_together) = fuse(replace(other)), fuse_ranks(job)
    assert fusion._fused[other].seams is None  # it was not fused by itself
    assert launched(put_together) == launched(by_itself)
    assert np.array_equal(put_together.kinds, by_itself.kinds)
    assert live_bytes(put_together) == live_bytes(by_itself)


def test_a_stage_whose_source_is_another_by_now_is_fused_by_itself():
    job, other = stage([0, 1, 1, 0])
    job.tape = np.append(job.tape[:-1], w(Kind.OP, 4))  # its last word is another
    assert launched(fuse_ranks(job)[1]) == launched(fuse(replace(other)))
    assert fusion._fused[other].seams is not None


def test_an_order_that_cuts_a_region_is_not_followed():
    job, other = stage([0, 0])
    middle = int(np.flatnonzero(job.kinds == Kind.USE)[0])
    other.order = Order(0, (Stretch(0, middle), Stretch(middle, job.tape.size)))
    assert launched(fuse_ranks(job)[1]) == launched(fuse(replace(other)))
