"""Classes of ranks, from recordings made by hand: meshes, pipelines, rings, a rank that does otherwise."""

import random

import numpy as np
import pytest

from anychip.device.distributed.ranks import alike, members, orbit, reached, stream, wanted, within
from anychip.record import Group, Kind, Op, Program, TensorMeta, word


def rank(number: int, names: list[str], groups: list[Group], peers: dict[int, int] | None = None) -> Program:
    """A rank that issues ops of these names; peers: group -> whom it sends to there."""
    ops = [Op(name) for name in names]
    ops += [Op("c10d.send.default", ((), (), group), (("peer", peer),)) for group, peer in (peers or {}).items()]
    tape = np.array([word(Kind.OP, i) for i in range(len(ops))], np.int64)
    return Program(tape, ops, np.zeros(0, np.int64), rank=number, world_size=64, groups=groups)


def streams(programs: dict[int, Program]) -> dict[int, np.ndarray]:
    return {number: stream(program) for number, program in programs.items()}


def test_a_rank_reaches_the_whole_mesh_by_its_groups() -> None:
    # 4 x 4 x 4: groups of rank 21 = (1, 1, 1) along each dimension.
    groups = [Group((5, 21, 37, 53)), Group((17, 21, 25, 29)), Group((20, 21, 22, 23))]
    assert orbit(rank(21, ["a"], groups), (), 64).tolist() == list(range(64))
    # Somebody in the first dimension differs: only ranks of its own layer do as it does.
    assert orbit(rank(21, ["a"], groups), (5,), 64).tolist() == list(range(16, 32))


def test_groups_that_overlap_in_some_ranks_take_nobody_beyond_them() -> None:
    """Pairs multiply together, fours share experts, and every second rank of a stage of 16 shares a parameter; 4 stages."""
    shared = (20, 21), (20, 21, 22, 23), (16, 20, 24, 28), tuple(range(16, 32, 2)), tuple(range(4, 64, 16))
    groups = [Group(ranks) for ranks in shared]
    assert orbit(rank(20, ["a"], groups), (4, 36, 52), 64).tolist() == list(range(16, 32))


@pytest.mark.parametrize("seed", range(100))
def test_the_first_rank_of_a_stage_reaches_its_stage_in_any_mesh(seed: int) -> None:
    """Up to five dimensions, the first a pipeline; groups along one or several of the others, that may overlap."""
    choose = random.Random(seed)
    dims = [choose.choice((2, 3, 4)), *(choose.choice((1, 2, 2, 4)) for _ in range(4))]
    mesh = np.arange(np.prod(dims)).reshape(dims)
    stage = choose.randrange(dims[0])
    axes = [choose.sample(range(1, 5), choose.choice((2, 2, 3))) for _ in range(choose.randrange(4))]
    axes += [[axis] for axis in range(1, 5)]
    inside = [mesh[(stage, *(slice(None) if one in along else 0 for one in range(1, 5)))].ravel() for along in axes]
    line = mesh[(slice(None), 0, 0, 0, 0)].tolist()
    groups = [Group(tuple(ranks.tolist())) for ranks in inside if ranks.size > 1] + [Group(tuple(line))]
    first = line[stage]
    found = orbit(rank(first, ["a"], groups), set(line) - {first}, mesh.size)
    assert found.tolist() == mesh[stage].ravel().tolist()


def test_a_group_within_another_takes_nobody_beyond_it() -> None:
    # tp 2, cp 2 in data-parallel groups that hold the context ranks too, four stages of 16: stage 0 is 0 to 15, not 17 = 1 + 2 + 14
    groups = [
        Group((0, 1), "tp"),
        Group((0, 2), "cp"),
        Group(tuple(range(0, 16, 2)), "dp"),
        Group((0, 16, 32, 48), "pp"),
    ]
    assert orbit(rank(0, ["a"], groups), (16, 32, 48), 64).tolist() == list(range(16))


def test_a_pipeline_asks_for_every_stage_and_a_ring_for_its_neighbour_only() -> None:
    line = Group((0, 16, 32, 48))
    programs = {0: rank(0, ["first"], [line], {0: 16})}
    assert wanted(programs, streams(programs)) == {16}
    programs[16] = rank(16, ["middle"], [line], {0: 32})
    assert wanted(programs, streams(programs)) == {32, 48}
    ring = {0: rank(0, ["same"], [line], {0: 16}), 16: rank(16, ["same"], [line], {0: 32})}
    assert wanted(ring, streams(ring)) == {32}


def test_a_pipeline_that_sends_in_the_group_of_all_ranks_asks_for_one_rank_of_each_stage() -> None:
    """Four stages of 16 replicas, which sum up in groups of their own: all 64 ranks ran, one by one."""
    programs: dict[int, Program] = {}
    for stage in range(4):
        one = 16 * stage
        stages = [Group(tuple(range(64))), Group(tuple(range(one, one + 16)))]
        programs[one] = rank(one, [f"stage {stage}"], stages, {0: min(one + 16, 48)} if stage < 3 else {0: 32})
        assert wanted(programs, streams(programs)) == ({one + 16} if stage < 3 else set())
    assert members(reached(programs, streams(programs), 64)) == {one: list(range(one, one + 16)) for one in programs}


def test_of_a_long_ring_only_its_ends_run_and_of_a_long_pipeline_more() -> None:
    """Replicas that pass something on to the next, over 4,096 ranks: each was run, until there were too many."""
    world = Group(tuple(range(4096)))

    def ring(number: int, name: str = "same") -> Program:
        ops = [Op(name)] + [
            Op(what, ((), (), 0), (("peer", (number + step) % 4096),))
            for what, step in (("c10d.send.default", 1), ("c10d.recv_.default", -1))
        ]
        tape = np.array([word(Kind.OP, i) for i in range(len(ops))], np.int64)
        return Program(tape, ops, np.zeros(0, np.int64), rank=number, world_size=4096, groups=[world])

    programs = {0: ring(0)}
    assert wanted(programs, streams(programs)) == {1, 4095}
    programs |= {1: ring(1), 4095: ring(4095)}
    assert wanted(programs, streams(programs)) == set()
    assert members(reached(programs, streams(programs), 4096)) == {0: list(range(4096))}
    programs[4095] = ring(4095, "loss")
    assert wanted(programs, streams(programs)) == {2, 4094}


def test_a_learner_asks_for_its_own_actor_and_not_for_all_that_get_its_weights() -> None:
    told = Group((0, *range(32, 64)))
    programs = {0: rank(0, ["learn"], [told, Group(tuple(range(32)))], {0: 32}), 32: rank(32, ["play"], [told], {0: 0})}
    assert wanted(programs, streams(programs)) == set()
    assert members(reached(programs, streams(programs), 64)) == {0: list(range(32)), 32: list(range(32, 64))}


def test_stages_that_do_the_same_keep_their_own_place() -> None:
    line = Group((0, 16, 32, 48))
    layer = {0: [0, 1], 16: [16, 17], 32: [32, 33], 48: [48, 49]}
    kinds = {0: "first", 16: "middle", 32: "middle", 48: "last"}
    programs = {
        one: rank(one, [kinds[one]], [line, Group(tuple(layer[one]))], {0: (one + 16) % 64}) for one in (0, 16, 32, 48)
    }
    found = members(reached(programs, streams(programs), 50))
    assert {one: members[:2] for one, members in found.items()} == layer


def test_one_that_prints_is_a_class_of_its_own() -> None:
    world = [Group(tuple(range(8)))]
    programs = {0: rank(0, ["a", "read"], world), 1: rank(1, ["a", "b"], world), 7: rank(7, ["a", "b"], world)}
    assert members(reached(programs, streams(programs), 8)) == {0: [0], 1: [1, 2, 3, 4, 5, 6, 7]}


@pytest.mark.parametrize("size", [1, 5, 64])
def test_every_rank_belongs_to_one_class(size: int) -> None:
    programs = {0: rank(0, ["a"], [Group((0,))])}
    found = members(reached(programs, streams(programs), size))
    assert sorted(one for members in found.values() for one in members) == list(range(size))


def test_whom_a_rank_sends_to_does_not_tell_it_apart() -> None:
    group = [Group((0, 1))]
    one, other = rank(0, ["a"], group, {0: 1}), rank(1, ["a"], group, {0: 0})
    assert alike(stream(one), stream(other))
    assert not alike(stream(one), stream(rank(1, ["b"], group, {0: 0})))


def test_replicas_between_one_that_ran_and_one_that_differs_go_with_the_first() -> None:
    # Megatron-LM on 16 ranks: pairs of a layer (of which the second gets the batch from the first), four replicas that share
    # the optimizer's state (the last has less of it), two stages. Those of 16 that ran:
    def one(rank_: int) -> Program:
        stage, copy, part = rank_ // 8, rank_ % 8 // 2, rank_ % 2
        pair, line = Group((rank_ - part, rank_ - part + 1)), Group((rank_ % 8, rank_ % 8 + 8))
        copies = Group(tuple(8 * stage + part + 2 * other for other in range(4)))
        return rank(rank_, [f"{stage} {part} {copy == 3}"], [line, pair, copies], {0: (rank_ + 8) % 16})

    programs = {number: one(number) for number in (0, 1, 6, 7, 8, 9, 14, 15)}
    assert members(reached(programs, streams(programs), 16)) == {
        0: [0, 2, 4], 1: [1, 3, 5], 6: [6], 7: [7], 8: [8, 10, 12], 9: [9, 11, 13], 14: [14], 15: [15],
    }  # fmt: skip


def test_partners_of_ranks_that_differ_differ_too() -> None:
    # picotron: pairs of a layer, two stages. Only the first stage's first rank prints; 2 and 3 do the same, with 0 and 1.
    pairs = [Group((0, 1)), Group((0, 1)), Group((2, 3)), Group((2, 3))]
    names = ["print", "first", "last", "last"]
    programs = {
        one: rank(one, [names[one]], [Group(tuple(sorted((one, (one + 2) % 4)))), pairs[one]], {0: (one + 2) % 4})
        for one in range(4)
    }
    assert members(reached(programs, streams(programs), 4)) == {0: [0], 1: [1], 2: [2], 3: [3]}


@pytest.mark.parametrize("stride", [1, 2])
def test_lines_that_only_the_whole_job_joins_lie_one_after_the_other(stride: int) -> None:
    """Causal ring attention in groups of four, gradients summed up over all 16: each rank of a ring sees more blocks."""
    ring = tuple(range(0, 4 * stride, stride))
    groups = [Group(tuple(range(16))), Group(ring)]
    programs = {
        one: rank(one, [f"{place} blocks"], groups, {1: ring[(place + 1) % 4]}) for place, one in enumerate(ring)
    }
    assert members(reached(programs, streams(programs), 16)) == {
        one: [other for other in range(16) if other // stride % 4 == place] for place, one in enumerate(ring)
    }


def test_a_rank_that_recorded_nothing_is_like_itself() -> None:
    programs = {0: rank(0, [], []), 1: rank(1, ["a"], [])}
    assert members(reached(programs, streams(programs), 2)) == {0: [0], 1: [1]}


def test_partners_are_told_apart_all_along_a_pipeline() -> None:
    # Pairs of a layer, six stages; the two of the first differ, and so each has a line of its own down to the last.
    programs = {}
    for one in range(12):
        stage, part = divmod(one, 2)
        name = f"first {part}" if stage == 0 else "last" if stage == 5 else "middle"
        line = Group(tuple(range(part, 12, 2)))
        peers = {number: peer for number, peer in enumerate((one - 2, one + 2)) if 0 <= peer < 12}
        programs[one] = rank(one, [name], [line, line, Group((one - part, one - part + 1))], peers)
    assert members(reached(programs, streams(programs), 12)) == {one: [one] for one in range(12)}


def test_numbers_that_only_values_depend_on_do_not_tell_ranks_apart() -> None:
    def part(name: str, number: int) -> np.ndarray:
        program = Program(np.array([word(Kind.OP, 0)], np.int64), [Op(name, ((), number))], np.zeros(0, np.int64))
        return stream(program)

    assert alike(part("aten.sub.Tensor", 0), part("aten.sub.Tensor", 256))  # where a part of a vocabulary begins
    assert not alike(part("aten.select.int", 0), part("aten.select.int", 1))


def test_one_with_what_is_left_of_a_tensor_does_no_more_than_the_others() -> None:
    def part(rows: int, name: str = "aten.add_.Tensor") -> Program:
        meta = TensorMeta((rows, 64), (64, 1), "float32")
        return Program(np.array([word(Kind.OP, 0)], np.int64), [Op(name, (meta, meta))], np.zeros(0, np.int64))

    assert within(part(30), part(126))
    assert not within(part(126), part(30))
    assert not within(part(30, "aten.mul_.Tensor"), part(126))


def test_another_flag_or_a_smaller_group_is_no_remainder() -> None:
    def part(name: str, *args: object) -> Program:
        groups = [Group((0, 1)), Group((0, 1, 2, 3))]
        ops = [Op(name, args)]
        return Program(np.array([word(Kind.OP, 0)], np.int64), ops, np.zeros(0, np.int64), world_size=4, groups=groups)

    assert not within(part("aten.sort.stable", False), part("aten.sort.stable", True))
    assert within(part("c10d.allreduce_.default", (), (), 1), part("c10d.allreduce_.default", (), (), 1))
    assert not within(part("c10d.allreduce_.default", (), (), 0), part("c10d.allreduce_.default", (), (), 1))


def test_less_of_a_collective_than_its_group_has_is_no_remainder() -> None:
    def part(numbers: int, *members: int) -> Program:
        meta = TensorMeta((numbers,), (1,), "float32")
        ops = [Op("c10d.allreduce_.default", ((meta,), (meta,), 0))]
        return Program(
            np.array([word(Kind.OP, 0)], np.int64), ops, np.zeros(0, np.int64), world_size=8, groups=[Group(members)]
        )

    assert not within(part(4, 0, 1, 2, 3), part(5, 0, 1, 2, 3))
    assert within(part(4, 1, 3, 5, 7), part(5, 0, 2, 4, 6))  # replicas of the last part of a tensor
