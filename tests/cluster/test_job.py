"""Forecasts of jobs: sums over all chips."""

import numpy as np
import pytest

from anychip.cluster import Stragglers
from anychip.cluster.axes import axes_of
from anychip.job import forecast_job
from anychip.network import Fabric, collective_of
from anychip.record import Kind, Mark, TensorMeta
from anychip.spec import load_chip
from tests.cluster.jobs import Rank, Wire, job, one_f_one_b
from tests.cost.ops import mm, op, t
from tests.timeline.tapes import w

H100 = load_chip("h100")
EMBED = op("aten.embedding.default", t(1000, 64), t(4, 128, dtype="int64"), out=t(4, 128, 64))


class Net(Wire):
    cluster, chip = None, H100


def forecast(program, **rest):
    """Of chips that are all alike."""
    alike = {"stragglers": Stragglers(spread=0)}
    return forecast_job(program, H100, Net(**rest.pop("net", {})), **{**alike, **rest})


@pytest.mark.parametrize(("stages", "batches"), [(4, 4), (4, 16)])
def test_the_bubble_comes_out(stages, batches):
    found = forecast(one_f_one_b(stages, batches, 0.1, 0.2, steps=3, replicas=2), net={"rate": 1e15})
    assert found.num_chips == 2 * stages
    assert found.step_kind == "train"
    assert found.step_time_s == pytest.approx((batches + stages - 1) * 0.3, rel=2e-3)
    assert sum(found.breakdown_s.values()) == pytest.approx(found.step_time_s)
    share = found.breakdown_s["bubble"] / found.step_time_s
    assert share == pytest.approx((stages - 1) / (batches + stages - 1), abs=5e-3)
    assert found.breakdown_s["exposed_comm"] < 1e-3
    # all of it but what stages wait after their last step, 0.1 to 0.6 s once in two steps
    assert 0 < found.breakdown_s["bubble"] - found.axes["pp"].waiting_s < 0.3


def test_each_stage_waits_as_long_as_the_formula_says():
    # every stage stands idle for p - 1 slots of 0.3 s, wherever it is
    found = forecast(one_f_one_b(4, 8, 0.1, 0.2, steps=3), net={"rate": 1e15})
    assert [rank.place for rank in found.ranks] == [{"pp": i} for i in range(4)]
    for rank in found.ranks:
        assert rank.breakdown_s["bubble"] == pytest.approx(0.9, abs=5e-3)


def steps(rank, count=3, seconds=0.1, axis=0, elements=10**6, overlap=False):
    for _ in range(count):
        rank.mark(Mark.FORWARD_BEGIN).compute(seconds).mark(Mark.FORWARD_END)
        rank.mark(Mark.BACKWARD_BEGIN).compute(seconds)
        event = rank.start(rank.call("allreduce_", axis, elements))
        if overlap:
            rank.compute(seconds)
        rank.wait(event).mark(Mark.BACKWARD_END).mark(Mark.OPTIMIZER_BEGIN).compute(1e-6).mark(Mark.OPTIMIZER_END)
    return rank


def test_network_is_exposed_or_hidden_by_axis():
    # 2 * 7 / 8 * 4 MB at 1 GB/s: 7 ms
    plain = forecast(job(steps(Rank(0, 8, [(tuple(range(8)), None)], range(8)))))
    assert plain.axes["dp"].exposed_s == pytest.approx(0.007, rel=1e-2)
    assert plain.axes["dp"].busy_s == pytest.approx(0.007, rel=1e-2)
    assert (plain.axes["dp"].size, plain.axes["dp"].calls, plain.axes["dp"].nbytes) == (8, 1, 4e6)
    hidden = forecast(job(steps(Rank(0, 8, [(tuple(range(8)), None)], range(8)), overlap=True)))
    assert hidden.axes["dp"].exposed_s == pytest.approx(0, abs=1e-6)
    assert hidden.axes["dp"].busy_s == pytest.approx(0.007, rel=1e-2)
    assert hidden.step_time_s == pytest.approx(0.3, rel=1e-2)


def test_groups_without_a_name_are_named_by_use():
    rank = Rank(0, 16, [((0, 1), None), ((0, 2), None), ((0, 4), None), ((0, 8), None), ((0, 1, 2), "cp")])
    rank.mark(Mark.FORWARD_BEGIN).add(rank.call("allreduce_", 0, 10**6), rank.call("alltoall_base_", 2, 10**6))
    rank.add(rank.call("allreduce_", 3, 1)).run(rank.send(2, 10, group=1)).mark(Mark.FORWARD_END)
    rank.mark(Mark.BACKWARD_BEGIN).add(rank.call("allreduce_", 3, 10**6)).mark(Mark.BACKWARD_END)
    program = rank.program()
    calls = {index: collective_of(one) for index, one in enumerate(program.ops)}
    assert axes_of(program, calls) == ["tp", "pp", "ep", "dp", "cp"]


def test_an_exchange_outside_of_a_forward_makes_no_experts():
    """A DTensor laid out anew before the training, or gradients that travel in pieces (ZeRO++), named the replicas "ep"."""
    rank = Rank(0, 8, [(tuple(range(8)), None)])
    rank.add(rank.call("alltoall_base_", 0, 10**6)).mark(Mark.FORWARD_BEGIN).compute(0.1).mark(Mark.FORWARD_END)
    rank.mark(Mark.BACKWARD_BEGIN).add(rank.call("allreduce_", 0, 10**6)).mark(Mark.BACKWARD_END)
    program = rank.program()
    calls = {index: found for index, one in enumerate(program.ops) if (found := collective_of(one)) is not None}
    assert axes_of(program, calls) == ["dp"]


def test_tokens_and_flop_are_of_the_whole_job():
    # 4 x 128 tokens a data-parallel rank; 8 ranks in pairs that share them: 4 * 512
    product = mm(512, 512, 512)

    def rank():
        me = Rank(0, 8, [((0, 1), "tp"), ((0, 2, 4, 6), "dp")], range(8))
        for _ in range(3):
            me.mark(Mark.FORWARD_BEGIN).add(me.op(EMBED), me.op(product)).compute(0.1).mark(Mark.FORWARD_END)
            me.mark(Mark.OPTIMIZER_BEGIN).compute(0.1).mark(Mark.OPTIMIZER_END)
        return me

    found = forecast(job(rank()))
    assert found.tokens_per_step == 4 * 512
    assert found.samples_per_step == 4 * 4
    assert found.model_flop_per_step == 8 * 2 * 512**3
    assert found.tokens_per_s_per_chip == pytest.approx(2048 / found.step_time_s / 8)
    peak = 8 * H100.peak_flop_per_s("bf16")
    assert found.mfu == pytest.approx(8 * 2 * 512**3 / found.step_time_s / peak)
    assert found.energy_j == pytest.approx(8 * 700 * found.step_time_s)
    given = forecast(job(rank()), tokens_per_step=100)
    assert given.tokens_per_step == 100


ROWS = op("aten.relu.default", t(512, 64), out=t(512, 64))
SEQUENCES = op("aten.relu.default", t(8, 64, 64), out=t(8, 64, 64))
TURNED = op("aten._to_copy.default", TensorMeta((64, 8, 64), (64, 4096, 1), "float32"), out=t(64, 8, 64))
LINEAR = mm(512, 64, 64)


@pytest.mark.parametrize(
    ("called", "samples"),
    [([SEQUENCES, LINEAR], 8), ([LINEAR, SEQUENCES], 8), ([TURNED, LINEAR], 8), ([LINEAR, LINEAR, SEQUENCES], 8),
     ([LINEAR, ROWS, SEQUENCES], 512), ([ROWS, LINEAR, ROWS], 512), ([LINEAR], 512)],
)  # fmt: skip
def test_samples_of_sequences_are_not_counted_by_their_positions(called, samples):
    """A linear layer on 8 sequences of 64 is a product of 512 rows, and so many samples they were."""
    rank = Rank(0, 2, [((0, 1), "dp")], range(2))
    for _ in range(2):
        rank.mark(Mark.FORWARD_BEGIN).add(*(rank.op(one) for one in called)).mark(Mark.FORWARD_END)
        rank.mark(Mark.OPTIMIZER_BEGIN).compute(0.1).mark(Mark.OPTIMIZER_END)
    assert forecast(job(rank)).samples_per_step == 2 * samples


def test_collectives_are_shown_with_all_that_they_move():
    """A reduce-scatter was shown with the shard that comes out, a coalesced all-reduce with the first of its tensors."""
    rank = Rank(0, 8, [(tuple(range(8)), "dp")], range(8))
    several = op("c10d.allreduce_coalesced_.default", (t(2**18), t(2**18)), (t(2**18), t(2**18)), 0)
    found = forecast(job(rank.run(rank.call("_reduce_scatter_base_", 0, 2**17)).run(rank.op(several))))
    assert {(one.name, one.shape) for one in found.top_ops} == {
        ("reduce_scatter dp", "4.00 MiB fp32"),  # 8 * 2**17 * 4
        ("all_reduce dp", "1.00 MiB bf16"),  # 2 * 2**18 * 2
    }


def test_later_pipeline_stages_read_no_tokens():
    program = one_f_one_b(2, 2, 0.1, 0.1, steps=2, replicas=4)
    for rank in program.ranks:
        rank.ops.append(EMBED)
        at = np.flatnonzero(rank.tape == w(Kind.MARK, Mark.FORWARD_BEGIN))
        rank.tape = np.insert(rank.tape, at + 1, w(Kind.OP, len(rank.ops) - 1))
    assert forecast(program).tokens_per_step == 4 * 512


def test_replicas_that_tell_their_neighbours_read_tokens_of_their_own():
    """Weights that go around a ring once a step (gossip) are no pipeline: only the first replica's tokens counted."""
    ring = [Rank(one, 4, [((0, 1, 2, 3), None)]) for one in range(4)]
    for one, me in enumerate(ring):
        for _ in range(3):
            me.mark(Mark.FORWARD_BEGIN).add(me.op(EMBED), me.op(mm(512, 512, 512))).mark(Mark.FORWARD_END)
            me.run(me.send((one + 1) % 4, 2**18), me.recv((one - 1) % 4, 2**18))
            me.mark(Mark.OPTIMIZER_BEGIN).compute(0.1).mark(Mark.OPTIMIZER_END)
    assert forecast(job(*ring)).tokens_per_step == 4 * 512


def test_a_later_stage_of_the_first_rank_reads_no_tokens():
    # Two stages a rank, two micro-batches each: what the second stage is given are the first's tokens, counted once.
    me = Rank(0, 8, [(tuple(range(8)), "dp")], range(8))
    for _ in range(3):
        for stage in (0, 0, 1, 1, 0, 1):
            me.mark(Mark.FORWARD_BEGIN).add(*([] if stage else [me.op(EMBED)]), me.op(mm(512, 512, 512)))
            me.compute(0.1).mark(Mark.FORWARD_END)
        me.mark(Mark.OPTIMIZER_BEGIN).compute(0.1).mark(Mark.OPTIMIZER_END)
    found = forecast(job(me))
    assert (found.tokens_per_step, found.samples_per_step) == (8 * 3 * 512, 8 * 3 * 4)


def test_a_later_stage_of_the_first_rank_reads_no_samples():
    """Of inputs that are no tokens each stage's were counted: twice as many samples with two stages a rank."""
    me = Rank(0, 8, [(tuple(range(8)), "dp")], range(8))
    for _ in range(3):
        for stage in (0, 0, 1, 1, 0, 1):
            me.mark(Mark.FORWARD_BEGIN).add(w(Kind.ENTER, stage), me.op(mm(4, 512, 512)), w(Kind.EXIT, stage))
            me.compute(0.1).mark(Mark.FORWARD_END)
        me.mark(Mark.OPTIMIZER_BEGIN).compute(0.1).mark(Mark.OPTIMIZER_END)
    program = me.program()
    program.modules = ["Sequential", "Sequential"]
    found = forecast(program)
    assert (found.tokens_per_step, found.samples_per_step) == (None, 8 * 3 * 4)


def test_the_worst_rank_that_does_not_fit_is_named():
    ranks = [Rank(i, 4, [(tuple(range(4)), "pp")]) for i in range(4)]
    programs = [steps(rank, 2).program() for rank in ranks]
    for program in programs:
        size = 90 if program.rank == 2 else 10
        program.block_bytes = np.array([size * 2**30], np.int64)
        program.tape = np.concatenate([[w(Kind.ALLOC, 0)], program.tape])
    programs[0].others = programs[1:]
    found = forecast(programs[0])
    assert not found.fits
    assert found.peak_memory_bytes == 90 * 2**30
    assert [rank.fits for rank in found.ranks] == [True, True, False, True]
    assert any("rank 2 need up to 90.0 GiB" in text or "rank 2 needs" in text for text in found.warnings)


def test_dtypes_that_the_chip_lacks_are_told_of_every_rank():
    """The last stage's product would fail there, which is not the first one's."""
    first, last = (Rank(i, 2, [((0, 1), "pp")]) for i in range(2))
    last.add(last.op(mm(64, 64, 64, "float8_e4m3fn")))
    found = forecast_job(job(steps(first), steps(last)), load_chip("a100"), Net())
    assert any("no float8_e4m3fn matrix products" in text for text in found.warnings)


def test_steps_that_are_unlike_are_told():
    """Replicas that meet in every fourth step only (DiLoCo): of whole rounds the mean is told, else the median step, which has nothing of it."""

    def trained(count):
        rank = Rank(0, 8, [(tuple(range(8)), "dp")], range(8))
        for number in range(count):
            rank.mark(Mark.FORWARD_BEGIN).compute(0.1).mark(Mark.FORWARD_END).mark(Mark.OPTIMIZER_BEGIN)
            (rank.compute(0.3) if number % 4 == 3 else rank).compute(1e-6).mark(Mark.OPTIMIZER_END)
        return forecast(job(rank))

    assert (trained(9).step_time_s, trained(9).uneven) == (
        pytest.approx(0.175, rel=1e-3),
        "",
    )  # eight, two with 0.3 s more
    assert (trained(7).step_time_s, trained(7).uneven) == (
        pytest.approx(0.1, rel=1e-3),
        "100 ms to 400 ms, 150 ms on average",
    )
    assert trained(3).uneven == ""


@pytest.mark.parametrize(("count", "is_call"), [(3, True), (4, True), (5, True), (3, False)])
def test_what_a_rank_evaluates_after_the_first_step_is_in_none(count, is_call):
    """Of 8 chips a step was 205 ms, on one 32: thirty passes after the first step were half of each; of more steps the time was the
    median's, and the operations' 387% of it. A snapshot is no call of a model."""

    def rank(number, calls):
        one = Rank(number, 2, [((0, 1), "dp")])
        for step in range(count):
            one.mark(Mark.FORWARD_BEGIN).compute(0.1).mark(Mark.FORWARD_END).mark(Mark.OPTIMIZER_BEGIN)
            one.run(one.call("allreduce_", 0, 10)).mark(Mark.OPTIMIZER_END)
            for _ in range(calls if step == 0 else 0):
                if is_call:
                    one.mark(Mark.INFER_BEGIN).compute(0.05).mark(Mark.INFER_END)
                else:
                    one.compute(0.05)
        return one

    plain, found = (forecast(job(rank(0, calls), rank(1, 0))) for calls in (0, 20))
    assert found.step_time_s == pytest.approx(plain.step_time_s, rel=1e-3)
    assert found.breakdown_s == pytest.approx(plain.breakdown_s, rel=1e-2, abs=1e-6)
    assert sum(op.time_s for op in found.top_ops) == pytest.approx(sum(op.time_s for op in plain.top_ops), rel=1e-2)
    assert any("is left out, too" in text for text in found.warnings)
    assert plain.warnings == ()


def test_a_step_that_is_longer_for_something_else_stays():
    """One rank trains longer after the first step, and another evaluates a little: that is no evaluation."""
    ranks = []
    for number in range(2):
        one = Rank(number, 2, [((0, 1), "dp")])
        for step in range(3):
            one.mark(Mark.FORWARD_BEGIN).compute(0.4 if (number, step) == (0, 1) else 0.1).mark(Mark.FORWARD_END)
            one.mark(Mark.OPTIMIZER_BEGIN).run(one.call("allreduce_", 0, 10)).mark(Mark.OPTIMIZER_END)
            if (number, step) == (1, 0):
                one.mark(Mark.INFER_BEGIN).compute(0.001).mark(Mark.INFER_END)
        ranks.append(one)
    found = forecast(job(*ranks))
    assert found.step_time_s == pytest.approx(0.25, rel=1e-2)
    assert not any("is left out, too" in text for text in found.warnings)


def test_ranks_that_drift_apart_are_told_by_all_their_steps():
    """In no common group, each at its own pace: in the time of one's step another is far behind or ahead."""
    ranks = []
    for number in range(2):
        one = Rank(number, 2, [((number,), None)])
        for step in range(7):
            seconds = 0.1 if number == 0 else 1.3 if step == 4 else 0.3
            one.mark(Mark.FORWARD_BEGIN).compute(seconds).mark(Mark.FORWARD_END).mark(Mark.OPTIMIZER_BEGIN)
            one.compute(1e-6).mark(Mark.OPTIMIZER_END)
        ranks.append(one)
    found = forecast(job(*ranks))
    assert [rank.breakdown_s["compute"] > 0.02 for rank in found.ranks] == [True, True]


def test_a_step_of_a_job_is_made_of_what_it_takes():
    """Parts were those of all steps, squeezed into the time of the median one: a sample on rank 0 was waiting in each."""

    def rank(number):
        one = Rank(number, 2, [((0, 1), "dp")])
        for step in range(6):
            one.mark(Mark.FORWARD_BEGIN).compute(0.1).mark(Mark.FORWARD_END).mark(Mark.OPTIMIZER_BEGIN)
            one.run(one.call("allreduce_", 0, 10)).mark(Mark.OPTIMIZER_END)
            if number == 0 and step == 2:
                one.mark(Mark.INFER_BEGIN).compute(1.0).mark(Mark.INFER_END)
        return one

    found = forecast(job(rank(0), rank(1)))
    assert found.step_time_s == pytest.approx(0.1, rel=1e-2)
    assert found.breakdown_s["compute"] == pytest.approx(0.1, rel=1e-2)
    assert found.breakdown_s["bubble"] < 1e-3
    assert found.uneven != ""


def test_the_critical_path_leads_through_the_slow_rank():
    ranks = [steps(Rank(i, 2, [((0, 1), "dp")]), seconds=0.1 + 0.1 * i) for i in range(2)]
    found = forecast(job(*ranks))
    assert found.critical_path[0].rank == 1
    assert found.critical_path[0].share > 0.95
    assert found.ranks[0].breakdown_s["bubble"] == pytest.approx(0.2, rel=1e-2)
    assert found.step_time_s == pytest.approx(0.404, rel=1e-2)


def test_the_critical_path_of_a_pipeline_leads_through_every_stage():
    found = forecast(one_f_one_b(4, 2, 0.1, 0.2, steps=2), net={"rate": 1e15})
    assert {part.rank for part in found.critical_path} == {0, 1, 2, 3}
    assert sum(part.share for part in found.critical_path) == pytest.approx(1)


def test_stragglers_reach_the_forecast():
    def one():
        return job(steps(Rank(0, 64, [(tuple(range(64)), "dp")], range(64))))

    plain = forecast(one())
    slow = forecast(one(), stragglers=Stragglers(slow_node=1.5, spread=0))
    assert slow.step_time_s == pytest.approx(plain.step_time_s + 0.1, rel=1e-2)
    assert slow.breakdown_s["bubble"] == pytest.approx(0.1 * 56 / 64, rel=2e-2)
    assert [(rank.rank, rank.members, rank.place) for rank in slow.ranks] == [(0, 56, {"dp": 0}), (56, 8, {"dp": 56})]
    assert slow.critical_path[0].rank == 56


def held(program):
    """The program with 1 GiB of parameters before its first step and as much optimizer state in it."""
    program.block_bytes = np.array([2**30, 2**30], np.int64)
    at = np.flatnonzero(program.tape == w(Kind.MARK, Mark.OPTIMIZER_BEGIN))[0]
    program.tape = np.concatenate([[w(Kind.ALLOC, 0)], np.insert(program.tape, at + 1, w(Kind.ALLOC, 1))])
    return program


def test_goodput_where_the_cluster_tells():
    # replicas hold the same 2 GiB: one checkpoint of 2 GiB; at 2 TB/s 1.07 ms
    rank = steps(Rank(0, 16, [(tuple(range(16)), "dp")], range(16)))
    fabric = Fabric.of(H100, 16, "llama3")
    found = forecast_job(held(job(rank)), H100, fabric)
    assert found.cluster == "meta-24k-roce"
    assert found.goodput.checkpoint_bytes == 2 * 2**30
    assert found.goodput.checkpoint_s == pytest.approx(2 * 2**30 / 2e12)
    assert found.goodput.mtbf_s == pytest.approx(3600 / 1.973e-5 / 16)
    # shards hold 2 GiB each: 32 GiB
    rank = Rank(0, 16, [(tuple(range(16)), "dp_shard")], range(16))
    rank.add(rank.call("_allgather_base_", 0, 10**6))
    assert forecast_job(held(job(steps(rank))), H100, fabric).goodput.checkpoint_bytes == 32 * 2**30


def test_no_goodput_where_nothing_is_known():
    assert forecast(job(steps(Rank(0, 8, [(tuple(range(8)), "dp")], range(8))))).goodput is None


def test_fsdp_moves_three_times_its_parameters():
    # each of 4 layers of 4 MB: gathered before forward and before backward, its gradients scattered: 3 * 16 MB a step,
    # 3 * 7/8 * 16 ms of network at 1 GB/s
    rank = Rank(0, 8, [(tuple(range(8)), "dp_shard")], range(8))
    gather, scatter = (rank.call(name, 0, 125_000) for name in ("_allgather_base_", "_reduce_scatter_base_"))
    for _ in range(3):
        rank.mark(Mark.FORWARD_BEGIN)
        for _ in range(4):
            rank.run(gather).compute(0.01)
        rank.mark(Mark.FORWARD_END).mark(Mark.BACKWARD_BEGIN)
        for _ in range(4):
            rank.run(gather).compute(0.02).start(scatter)
        rank.mark(Mark.BACKWARD_END).mark(Mark.OPTIMIZER_BEGIN).compute(1e-6).mark(Mark.OPTIMIZER_END)
    found = forecast(job(rank))
    axis = found.axes["dp_shard"]
    assert (axis.calls, axis.nbytes) == (12, 48e6)
    assert axis.busy_s == pytest.approx(3 * 7 / 8 * 16e-3, rel=1e-2)
    # 8 gathers are exposed; scatters run beside the next layer's gather and backward, on the same stream as gathers
    assert found.step_time_s == pytest.approx(0.12 + 8 * 3.5e-3 + 4 * 3.5e-3, rel=1e-2)


def test_the_sentence_says_along_which_axis():
    rank = Rank(0, 8, [((0, 1), "tp"), ((0, 2, 4, 6), "dp")], range(8))
    for _ in range(3):
        rank.mark(Mark.FORWARD_BEGIN).compute(1e-3).run(rank.call("allreduce_", 0, 10**6)).mark(Mark.FORWARD_END)
        rank.run(rank.call("allreduce_", 1, 10**8)).mark(Mark.OPTIMIZER_BEGIN).mark(Mark.OPTIMIZER_END)
    found = forecast(job(rank))
    # 1 ms of compute, 4 ms along tp, 600 ms along dp
    assert found.limit == "Communication: 100% of the step is spent in it alone, most of it along dp."
    waits = forecast(one_f_one_b(8, 1, 0.1, 0.2, steps=2), net={"rate": 1e15}).limit
    assert waits == "Waiting: 87% of the chips' time passes idle until other ranks have come as far."
