"""What an operator of c10d communicates."""

import pytest

from anychip.network import collective_of
from anychip.record import Op, TensorMeta


def tensor(*shape, dtype="bfloat16"):
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return TensorMeta(shape, tuple(reversed(strides)), dtype)


def op(name, outputs, inputs, group=0, **kwargs):
    return Op(f"c10d.{name}.default", (tuple(outputs), tuple(inputs), group), tuple(kwargs.items()))


def test_an_ordinary_operator_communicates_nothing():
    assert collective_of(Op("aten.mm.default", (tensor(2, 2), tensor(2, 2)))) is None


# bf16: 2 bytes each. 8 ranks of 100 elements.
@pytest.mark.parametrize(
    ("name", "outputs", "inputs", "kind", "nbytes"),
    [
        ("allreduce_", [tensor(100)], [tensor(100)], "all_reduce", 200),
        ("allreduce_coalesced_", [tensor(100), tensor(50)], [tensor(100), tensor(50)], "all_reduce", 300),
        ("_allgather_base_", [tensor(800)], [tensor(100)], "all_gather", 1600),
        ("allgather_", [tuple(tensor(100) for _ in range(8))], [tensor(100)], "all_gather", 1600),
        ("_reduce_scatter_base_", [tensor(100)], [tensor(800)], "reduce_scatter", 1600),
        ("reduce_scatter_", [tensor(100)], [tuple(tensor(100) for _ in range(8))], "reduce_scatter", 1600),
        ("alltoall_base_", [tensor(640)], [tensor(800)], "all_to_all", 1600),
        ("broadcast_", [tensor(100)], [tensor(100)], "broadcast", 200),
        ("reduce_", [tensor(100)], [tensor(100)], "reduce", 200),
        ("gather_", [tuple(tensor(100) for _ in range(8))], [tensor(100)], "gather", 200),
        ("gather_", [], [tensor(100)], "gather", 200),
        ("scatter_", [tensor(100)], [], "scatter", 200),
        ("send", [tensor(10, 10)], [tensor(10, 10)], "send", 200),
        ("recv_", [tensor(10, 10)], [tensor(10, 10)], "recv", 200),
        ("barrier", [], [], "barrier", 0),
    ],
)
def test_kind_and_bytes(name, outputs, inputs, kind, nbytes):
    found = collective_of(op(name, outputs, inputs, group=3))
    assert (found.kind, found.nbytes, found.group) == (kind, nbytes, 3)


def test_a_rank_that_gets_more_than_it_gives_counts_what_it_gets():
    assert collective_of(op("alltoall_base_", [tensor(12)], [tensor(4)])).nbytes == 12 * 2
    assert collective_of(op("alltoall_base_", [tensor(4)], [tensor(12)])).nbytes == 12 * 2


def test_peer_root_and_splits_are_kept():
    assert collective_of(op("send", [tensor(4)], [tensor(4)], peer=17)).peer == 17
    assert collective_of(op("broadcast_", [tensor(4)], [tensor(4)], root=5)).root == 5
    # rows of one tensor, or a tensor for each place: 2 bytes an element
    found = collective_of(op("alltoall_base_", [tensor(6)], [tensor(4)], splits=(1, 3), received=(1, 5)))
    assert (found.sent, found.received) == ((2, 6), (2, 10))
    found = collective_of(op("alltoall_", [tensor(1), tensor(5)], [tensor(1), tensor(3)]))
    assert (found.sent, found.received, found.nbytes) == ((2, 6), (2, 10), 12)


def test_what_a_rank_keeps_of_an_all_to_all_does_not_travel():
    uneven = collective_of(op("alltoall_base_", [tensor(9)], [tensor(12)], splits=(6, 3, 3)))
    # at the first place 6 of 12 elements leave, as of an even one of 9; at the others 9 of 12, as of one of 13.5
    assert [uneven.travelling_bytes(place) for place in range(3)] == [18, 27, 27]
    even = collective_of(op("alltoall_base_", [tensor(12)], [tensor(12)], splits=(4, 4, 4)))
    assert even.travelling_bytes(1) == even.nbytes == 24
    assert collective_of(op("alltoall_base_", [tensor(12)], [tensor(12)])).travelling_bytes(1) == 24


@pytest.mark.parametrize(
    ("splits", "place", "ahead"),
    [((0, 4, 0), 0, 1), ((4, 0, 0), 2, 1), ((0, 0, 4), 0, 2), ((4, 0, 0), 0, None), ((1, 3, 0), 0, None), ((0, 0), 0, None), (None, 0, None)],
)  # fmt: skip
def test_what_is_passed_on_to_one_other_only(splits, place, ahead):
    """Ring attention that rotates its keys and values by an all-to-all (torch's context_parallel, "alltoall")."""
    call = collective_of(op("alltoall_base_", [tensor(4)], [tensor(4)], **({"splits": splits} if splits else {})))
    assert call.places_on(place) == ahead
