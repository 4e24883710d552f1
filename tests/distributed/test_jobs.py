"""Programs of several ranks on a virtual machine: which ranks run, what their collectives are, how they wait."""

import time
from collections import Counter
from pathlib import Path

import pytest

from anychip.api import forecast
from anychip.cluster import simulate
from anychip.device.launch import record
from anychip.errors import Deadlock, ProgramFailed
from anychip.job import forecast_job
from anychip.network import Fabric, collective_of
from anychip.record import Kind, Mark
from anychip.record.steps import find_steps
from anychip.spec import load_chip
from anychip.timeline.memory import memory
from tests.distributed.jobs import PROGRAMS, collectives, job


def test_a_job_of_one_finds_the_environment_of_torchrun_too() -> None:
    with pytest.raises(ProgramFailed, match="RANK"):
        job("ddp.py", 1)
    (step, *_) = find_steps(job("ddp.py", 1, is_job=True))
    assert step.kind == "train"


def test_buckets_of_gradients_are_gradients() -> None:
    """They were "inputs, others", as much as all gradients again."""
    held = memory(job("ddp.py", 2).ranks[0]).by_kind
    assert held["gradients"] == pytest.approx(2 * held["parameters"], rel=0.01)


def test_data_parallel_replicas_are_one_class_apart_from_the_one_that_prints() -> None:
    program = job("ddp.py", 8)
    assert [(one.rank, len(one.members)) for one in program.ranks] == [(0, 1), (1, 7)]
    (group,) = program.groups
    assert group.ranks == tuple(range(8))
    # A layer has (512 x 512 + 512) x 4 bytes = 1.05 MB of gradients; a bucket is full above 2 MiB, so with two layers: two
    # buckets in a step, each waited for before the optimizer steps.
    assert collectives(program, of_step=1)["allreduce_"] == 2
    step = find_steps(program)[1]
    words = list(
        zip(
            program.kinds[step.begin : step.end].tolist(), program.payloads[step.begin : step.end].tolist(), strict=True
        )
    )
    optimizer = words.index((Kind.MARK, Mark.OPTIMIZER_BEGIN))
    for at, (kind, payload) in enumerate(words):
        if kind == Kind.OP and program.ops[payload].name == "c10d.allreduce_.default":
            over = next(event for kind, event in words[at:] if kind == Kind.RECORD)
            assert (Kind.WAIT, over) in words[at:optimizer]


@pytest.mark.parametrize("how", [("1", "orig"), ("1", "flat"), ("2",)], ids=" ".join)
def test_steps_are_found_where_shards_rest_on_the_host(how: tuple[str, ...]) -> None:
    """Each layer's call was taken for a step of its own: an optimizer of the host's tensors alone said nothing."""
    program = job("offloaded.py", 4, *how)
    steps = find_steps(program)
    assert len(steps) == 3
    for step in steps:
        marks = program.payloads[step.begin : step.end][program.kinds[step.begin : step.end] == Kind.MARK].tolist()
        assert marks.count(Mark.FORWARD_BEGIN) == marks.count(Mark.OPTIMIZER_BEGIN) == 1
    assert any("steps on the host" in one for one in program.meta["warnings"])


@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_gradients_that_leave_at_each_micro_batch_end_no_step(where: str) -> None:
    """DeepSpeed's ZeRO 2 and 3: until its optimizer had stepped once, and with offload ever, each micro-batch was a step."""
    program = job("zero_offload.py", 4, where)
    steps = find_steps(program)
    assert len(steps) == 3
    for step in steps:
        marks = program.payloads[step.begin : step.end][program.kinds[step.begin : step.end] == Kind.MARK].tolist()
        assert (marks.count(Mark.FORWARD_BEGIN), marks.count(Mark.OPTIMIZER_BEGIN)) == (2, 1)
    assert any("steps on the host" in one for one in program.meta["warnings"]) == (where == "cpu")


def test_groups_are_split_where_the_device_was_given_at_the_start() -> None:
    program = job("split.py", 8)
    groups = {group.axis: group.ranks for group in program.groups}
    assert (groups["dp"], groups["tp"]) == ((0, 4), (0, 1, 2, 3))
    assert (0, 1) in [group.ranks for group in program.groups]
    assert collectives(program, of_step=1)["allreduce_"] == 3


@pytest.mark.parametrize("how", [("64",), ("64", "async"), ("65",)], ids=" ".join)
def test_shards_are_saved_and_loaded(tmp_path: Path, how: tuple[str, ...]) -> None:
    """Of 65 rows on 4 ranks the last has 14, not 17: it was given the first rank's plan, and failed at what it lacks."""
    program = job("checkpoint.py", 4, tmp_path, *how)
    assert not program.meta.get("exit_code")
    assert len(find_steps(program)) == 3


def test_collectives_that_torch_would_compare_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    assert collectives(job("ddp.py", 2), of_step=1)["allreduce_"] == 2


def test_replicas_may_meet_over_a_group_called_gloo(tmp_path: Path) -> None:
    script = tmp_path / "gloo.py"
    script.write_text((PROGRAMS / "ddp.py").read_text().replace('"nccl"', '"gloo"'))
    program = record([str(script)], load_chip("h100"), world_size=2, devices=2, show_output=False)
    assert collectives(program, of_step=1)["allreduce_"] == 2


def test_batch_norms_meet_across_ranks() -> None:
    """`convert_sync_batchnorm` ended in a table of dispatch keys: torch has no meta kernel for what it calls."""
    program = job("sync_norm.py", 8)
    assert program.meta["exit_code"] == 0
    shapes = {(op.name.split(".")[1], op.outputs[0].shape, op.outputs[0].dtype) for op in program.ops if op.outputs}
    channels, maps = (8,), (2, 8, 14, 14)
    for name in ("stats", "gather_stats_with_counts", "backward_reduce"):  # in float whatever comes in
        assert [one for one in shapes if one[0] == f"batch_norm_{name}"] == [
            (f"batch_norm_{name}", channels, "float32")
        ]
    for name in ("elemt", "backward_elemt"):
        found = {one[1:] for one in shapes if one[0] == f"batch_norm_{name}"}
        assert found == {(maps, "float16"), (maps, "float32"), (maps, "bfloat16")}
    # each of the three gathers mean and inverse deviation of 8 channels and a count: 17 numbers from each of 8 ranks
    gathered = [op for op in program.ops if op.name.startswith("c10d._allgather")]
    assert {tensor.numel for op in gathered for tensor in op.tensors} == {17, 17 * 8}


def test_flat_shards_are_gathered_for_each_pass() -> None:
    """Their parameters are views of memory that was freed and written since: looking at one raised torch's error."""
    program = job("flat_shards.py", 4)
    assert program.meta["exit_code"] == 0
    counted = collectives(program, of_step=1)
    # three blocks, each gathered for its forward and for its backward, and its gradients scattered once
    assert (counted["_allgather_base_"], counted["_reduce_scatter_base_"]) == (6, 3)


def test_sequences_that_are_exchanged_for_heads_are_no_experts_and_are_counted_once() -> None:
    chip = load_chip("h100")
    found = forecast_job(job("ulysses.py", 8), chip, Fabric.of(chip, 8))
    assert {name: axis.size for name, axis in found.axes.items()} == {"cp": 4, "dp": 8}
    assert (found.samples_per_step, found.tokens_per_step) == (
        2 * 2,
        8 * 2 * 128,
    )  # two groups of four, two samples each


@pytest.mark.parametrize("kind", ["full", "flat", "sharded"])
def test_states_of_flat_shards_are_gathered_though_other_ranks_do_not_run(kind: str) -> None:
    """Each rank is asked which parameters it has states of: with the answers of one alone, others' were missing, an error."""
    assert job("flat_states.py", 4, kind).meta["exit_code"] == 0


@pytest.mark.parametrize("ranks", ["distinct", "all"])
def test_a_local_state_is_put_together_from_what_the_ranks_would_hold(ranks: str) -> None:
    """Each was taken to hold this rank's part of a flat parameter: parts that overlap, an error."""
    assert job("flat_states.py", 7, "local", ranks=ranks).meta["exit_code"] == 0


def test_sharding_takes_the_same_recording_at_8_and_at_16384_ranks() -> None:
    small, large = job("sharded.py", 8, 2), job("sharded.py", 16384, 8)
    assert [len(one.members) for one in small.ranks] == [8]
    assert sum(len(one.members) for one in large.ranks) == 16384
    # Three blocks and the root, each gathered for forward and blocks again for backward; scattered once.
    assert collectives(small, of_step=1)["_allgather_base_"] == collectives(large, of_step=1)["_allgather_base_"]
    assert collectives(small, of_step=1)["_reduce_scatter_base_"] == 3
    ops = [sum(one.kinds[step.begin : step.end] == Kind.OP) for one in (small, large) for step in find_steps(one)[1:2]]
    assert abs(ops[0] - ops[1]) <= 0.05 * ops[0]
    assert {group.axis: len(group.ranks) for group in large.groups} == {"tp": 8, "dp": 2048}


def test_ranks_of_one_sample_count_it_once_though_the_mesh_is_gone_at_the_end() -> None:
    """A program that destroys its process group within what is recorded named its axes mesh_tp, and each rank a batch of its own."""
    chip = load_chip("h100")
    figures = forecast_job(job("sharded.py", 8, 2, steps=3), chip, Fabric.of(chip, 8))
    assert set(figures.axes) == {"dp", "tp"}
    assert figures.samples_per_step == 4 * 16


def test_a_mesh_without_names_is_called_after_its_use(tmp_path: Path) -> None:
    script = tmp_path / "nameless.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "from torch.distributed.device_mesh import init_device_mesh\n"
        "from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module\n"
        "dist.init_process_group('nccl')\n"
        "torch.cuda.set_device(dist.get_rank())\n"
        "model = torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 512)).cuda()\n"
        "parallelize_module(model, init_device_mesh('cuda', (4,)), {'0': ColwiseParallel(), '2': RowwiseParallel()})\n"
        "optimizer = torch.optim.SGD(model.parameters(), 1e-3)\n"
        "for step in range(3):\n"
        "    model(torch.ones(256, 512, device='cuda')).sum().backward()\n"
        "    optimizer.step()\n"
    )
    figures = forecast(str(script), on="h100:4", show_output=False).forecasts[0]
    assert set(figures.axes) == {"tp"}
    assert figures.samples_per_step == 256


def test_stages_of_a_pipeline_run_together_and_exchange_their_shapes() -> None:
    program = job("pipeline.py", 8, 4, 6, "Schedule1F1B")
    assert [(one.rank, one.members) for one in program.ranks] == [(0, (0, 1)), (2, (2, 3)), (4, (4, 5)), (6, (6, 7))]
    first, second = (collectives(one, of_step=1) for one in program.ranks[:2])
    # Six activations to the right and six gradients to the left.
    assert (first["send"], first["recv_"]) == (6, 6)
    assert (second["send"], second["recv_"]) == (12, 12)
    peers = {op.kwarg("peer") for op in program.others[0].ops if op.name == "c10d.send.default"}
    assert peers == {0, 4}


def test_samples_of_a_rank_with_two_stages_are_counted_once() -> None:
    chip = load_chip("h100")
    program = job("pipeline.py", 2, 2, 4, "ScheduleInterleaved1F1B")
    # four micro-batches of 8 samples, which are no tokens; the second stage of a rank is given them again
    assert forecast_job(program, chip, Fabric.of(chip, 2)).samples_per_step == 4 * 8


@pytest.mark.parametrize("how", ["spawn", "elastic", "fork", "left"])
def test_a_program_that_starts_its_own_ranks(how: str) -> None:
    """Processes that were spawned one by one saw no chip, and those that nobody waited for were not there yet at the end."""
    program = job("spawned.py", 4, how)
    assert sum(len(one.members) for one in program.ranks) == 4
    assert len(find_steps(program)) >= 2
    assert collectives(program)["allreduce_"] == 3


def test_the_only_rank_that_a_program_spawns_is_recorded() -> None:
    """It saw no chip, and its program was said to have done nothing there."""
    program = record([str(PROGRAMS / "spawned.py"), "left"], load_chip("h100"), show_output=False)
    assert len(find_steps(program)) == 3
    assert not any("joins" in text for text in program.meta["warnings"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_program_that_waits_for_what_a_rank_of_its_own_tells_it_ends_with_that(ranks: int) -> None:
    """ColBERT reads the result of its training from a queue: the rank was ended after its steps, and the program waited for ever."""
    argv, began_s = [str(PROGRAMS / "spawned.py"), "told"], time.monotonic()
    program = record(argv, load_chip("h100"), world_size=ranks, devices=ranks, show_output=False, steps=3)
    assert len(find_steps(program)) == 3
    assert program.meta["exit_code"] == 0
    assert time.monotonic() - began_s < 55  # less than the program would wait


def test_a_launcher_in_front_of_the_program_is_stepped_over() -> None:
    script = str(PROGRAMS / "spawned.py")
    argv = ["torch.distributed.run", "--nproc-per-node", "2", script, "spawn"]
    program = record(argv, load_chip("h100"), module=True, world_size=2, devices=2, show_output=False)
    assert collectives(program)["allreduce_"] == 3


@pytest.mark.parametrize(("options", "count"), [((), 1), (("--use_env",), 0)], ids=["argument", "environment"])
def test_the_older_launcher_tells_a_rank_its_number_by_an_argument(
    tmp_path: Path, options: tuple[str, ...], count: int
) -> None:
    """Scripts that require --local-rank ended at their parser, and --use_env ended the launcher's."""
    script = tmp_path / "told.py"
    script.write_text(
        "import os, sys, torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl')\n"
        f"assert sys.argv[1:] == ['--local-rank=' + os.environ['LOCAL_RANK']] * {count} + ['--epochs', '3']\n"
        "torch.nn.Linear(4, 4).cuda()(torch.randn(2, 4, device='cuda'))\n"
    )
    argv = ["torch.distributed.launch", "--nproc_per_node", "2", *options, str(script), "--epochs", "3"]
    program = record(argv, load_chip("h100"), module=True, world_size=2, devices=2, show_output=False, ranks="all")
    assert program.meta["exit_code"] == 0


def test_what_ranks_tell_one_another_arrives() -> None:
    program = job("exchange.py", 4)
    assert sum(len(one.members) for one in program.ranks) == 4


def test_each_rank_gets_of_an_exchange_what_the_others_have_for_it(tmp_path: Path) -> None:
    """A rank was given back what it gave: a full expert's rank had no more to compute than the others (--imbalance)."""
    script = tmp_path / "swap.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl')\n"
        "rank, size = dist.get_rank(), dist.get_world_size()\n"
        "mine = torch.arange(2 * size, device='cuda')\n"
        "got = torch.empty_like(mine)\n"
        "dist.all_to_all_single(got, mine)\n"
        "assert got.tolist() == [2 * rank, 2 * rank + 1] * size, got\n"
        "import torch.distributed._functional_collectives as functional\n"
        "even = [2] * size\n"
        "got = functional.all_to_all_single(mine, even, even, dist.group.WORLD)\n"
        "assert got.tolist() == [2 * rank, 2 * rank + 1] * size, got\n"
        "parts = [torch.empty(2, dtype=torch.int64, device='cuda') for _ in range(size)]\n"
        "dist.all_to_all(parts, list(mine.split(2)))\n"
        "assert [part.tolist() for part in parts] == [[2 * rank, 2 * rank + 1]] * size, parts\n"
        "torch.nn.Linear(4, 4).cuda()(torch.randn(2, 4, device='cuda'))\n"
    )
    program = record([str(script)], load_chip("h100"), world_size=4, devices=4, show_output=False, ranks="all")
    assert program.meta["exit_code"] == 0
    assert program.meta["ranks_run"] == [0, 1, 2, 3]


def test_an_object_that_is_gathered_as_bytes_is_whole(tmp_path: Path) -> None:
    """DETR's and detectron2's helper gathers an evaluation's results so: of more than a few hundred bytes what came was no pickle."""
    script = tmp_path / "pickled.py"
    script.write_text(
        "import pickle, torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl')\n"
        "size, results = dist.get_world_size(), {'boxes': list(range(30_000)), 'name': 'x' * 1000}\n"
        "mine = torch.frombuffer(bytearray(pickle.dumps(results)), dtype=torch.uint8).cuda()\n"
        "each = [torch.empty_like(mine) for _ in range(size)]\n"
        "dist.all_gather(each, mine)\n"
        "assert all(pickle.loads(one.cpu().numpy().tobytes()) == results for one in each)\n"
        "scores = torch.linspace(0, 1, 1000).cuda()\n"
        "dist.all_reduce(scores)\n"
        "assert scores.cpu().tolist() == (torch.linspace(0, 1, 1000) * size).tolist()\n"
        "torch.nn.Linear(4, 4).cuda()(torch.randn(2, 4, device='cuda'))\n"
    )
    assert record([str(script)], load_chip("h100"), world_size=4, devices=4, show_output=False).meta["exit_code"] == 0


@pytest.mark.parametrize("call", ["all_gather(pieces, own)", "reduce_scatter(own, pieces)"])
def test_lists_of_pieces_are_copied_from_or_to_one_buffer(tmp_path: Path, call: str) -> None:
    """As torch's backend does, each on its own: of a thousand ranks the host is busier with it than the network."""
    script = tmp_path / "pieces.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl')\n"
        "pieces = [torch.empty(96, device='cuda') for _ in range(dist.get_world_size())]\n"
        "own = torch.zeros(96, device='cuda')\n"
        f"dist.{call}\n"
        "ragged = [torch.empty(1 + n, device='cuda') for n in range(dist.get_world_size())]\n"
        "dist.all_gather(ragged, ragged[dist.get_rank()])\n"
        "torch.nn.Linear(4, 4).cuda()(torch.randn(2, 4, device='cuda'))\n"
    )
    rank = record([str(script)], load_chip("h100"), world_size=64, devices=8, show_output=False).ranks[0]
    issued = [rank.ops[op].name for op in rank.payloads[rank.kinds == Kind.OP]]
    copies = [at for at, name in enumerate(issued) if name == "aten.copy_.default"]
    collective = next(at for at, name in enumerate(issued) if name.startswith("c10d."))
    assert len(copies) == 64
    assert all((at < collective) == call.startswith("reduce") for at in copies)


@pytest.mark.parametrize("how", ["single", "list"])
def test_an_uneven_exchange_takes_what_its_fullest_rank_takes(how: str) -> None:
    """The fourth gives ten times as much as the others; of the eight it was taken to do as the second."""
    few, everyone = job("uneven.py", 8, how), job("uneven.py", 8, how, ranks="all")
    assert few.meta["ranks_run"] == [0, 3]
    chip = load_chip("h100")
    calls = {
        rank: next(call for call in map(collective_of, one.ops) if call is not None)
        for one in everyone.ranks
        for rank in one.members
    }
    calls = dict(sorted(calls.items()))
    for rank, call in calls.items():  # what one gives another is what that one gets of it
        assert [call.sent[other] for other in calls] == [calls[other].received[rank] for other in calls]
    took = []
    for program in (few, everyone):
        timeline = simulate(program, chip, Fabric.of(chip, 8, None))
        ends = {wait.end_s - wait.start_s for rank in timeline.ranks for wait in rank.waits}
        took.append(max(ends))
    # 640 rows of 4 KiB for each of eight: 20 MiB leave the fourth rank, of which it keeps an eighth
    network = Fabric.of(chip, 8, None).cost("all_to_all", 8 * 640 * 4096, range(8), "float32")
    assert took == [pytest.approx(network.time_s, rel=0.01)] * 2


def test_every_rank_of_a_small_world_can_be_run() -> None:
    everyone = job("ddp.py", 4, ranks="all")
    few = job("ddp.py", 4)
    assert [one.members for one in everyone.ranks] == [one.members for one in few.ranks] == [(0,), (1, 2, 3)]


def test_what_ranks_gather_is_theirs_where_all_of_them_run() -> None:
    """Each took its own length for that of all, padded to it, and the job was said to hang."""
    program = job("lengths.py", 4, ranks="all")
    assert program.meta["exit_code"] == 0
    chip = load_chip("h100")
    simulate(program, chip, Fabric.of(chip, 4, None))
    calls = [[call for call in map(collective_of, one.ops) if call is not None] for one in program.ranks]
    assert {call.nbytes for mine in calls for call in mine if call.kind == "all_gather"} == {4 * 8, 4 * 7 * 64 * 4}
    exchanged = [call for mine in calls for call in mine if call.sent]
    rows = sum(4 + one + other for one in range(4) for other in range(4))
    for side in ("sent", "received"):  # nothing is lost between ranks
        assert sum(sum(getattr(call, side)) for call in exchanged) == rows * 64 * 4


@pytest.mark.parametrize("ranks", ["all", "distinct"])
def test_only_the_rank_that_sends_is_said_to_send(ranks: str) -> None:
    """A rank that ends sooner was taken to do as one that goes on, since its ops are how the other's begin."""
    program = job("unmatched.py", 4, ranks=ranks)
    h100 = load_chip("h100")
    with pytest.raises(Deadlock) as told:
        simulate(program, h100, Fabric.of(h100, 4, None))
    assert "rank 0: send of 4.00 KiB float32 to rank 1" in str(told.value)
    assert ("makes it certain" in str(told.value)) == (ranks == "distinct")


@pytest.mark.parametrize("ranks", ["classes", "all"])
def test_ranks_that_call_nothing_at_all_are_waited_for(ranks: str, tmp_path: Path) -> None:
    """Their recordings know no group, so the first rank was taken to be alone in it."""
    script = tmp_path / "alone.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('nccl')\n"
        "model = torch.nn.Linear(4, 4).cuda()\n"
        "optimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "for _ in range(3):\n"
        "    model(torch.randn(2, 4, device='cuda')).sum().backward()\n"
        "    if dist.get_rank() == 0:\n"
        "        dist.all_reduce(model.weight.grad)\n"
        "    optimizer.step()\n"
    )
    options = {"ranks": "all"} if ranks == "all" else {}
    program = record([str(script)], load_chip("h100"), world_size=4, devices=4, show_output=False, **options)  # type: ignore[arg-type]
    others = "ranks 1, 2, 3" if ranks == "all" else "rank 1, which stands for ranks 2, 3"
    with pytest.raises(Deadlock, match=rf"waits for {others} \(ended without it\)"):
        simulate(program, load_chip("h100"), Fabric.of(load_chip("h100"), 4, None))


def test_a_groups_store_and_futures_answer() -> None:
    """The store's Python half was gone once the group was made, and a future of a gather had a list that was gone too."""
    assert job("asides.py", 4).meta["exit_code"] == 0


def test_one_process_with_several_chips_is_told_of_once() -> None:
    """DataParallel was also called as many copies of the program, side by side."""
    told = forecast(job("replicated.py", 4), on="h100:4").warnings
    assert len(told) == 1
    assert told[0].startswith("The program uses several chips from one process")
    assert "--on CHIP:COUNT" in told[0]


def test_a_receive_from_any_rank_hears_from_each_in_turn() -> None:
    program = job("any_source.py", 4, steps=2)
    assert program.meta["exit_code"] == 0
    assert len(find_steps(program)) == 2
    chip = load_chip("h100")
    (receiver,) = [
        one for one in simulate(program, chip, Fabric.of(chip, 4, None), node_chips=8).ranks if one.rank == 0
    ]
    assert Counter(call.peer for call in receiver.calls.values() if call.kind == "recv") == {1: 1, 2: 1, 3: 1}


def test_a_checkpoint_is_what_is_kept_wherever_the_peak_is() -> None:
    """A model that is largest before it is sharded had no checkpoint, and so no goodput: at its peak there are no shards yet."""
    found = forecast([str(PROGRAMS / "sharded.py"), "2"], on="h100:16@llama3", show_output=False).forecasts[0]
    assert found.memory_by_kind["parameters"] == 0
    assert found.goodput is not None
    # 3 blocks of two weights of 4096 x 512, in 32 bit, with two moments of Adam's: 3 * 2 * 4096 * 512 * 4 * 3 = 151 MB
    assert found.goodput.checkpoint_bytes == 3 * 2 * 4096 * 512 * 4 * 3


@pytest.mark.parametrize(
    ("ranks", "size", "is_told"), [("distinct", 32, True), ("distinct", 8, False), ("all", 8, False)]
)
def test_what_ranks_between_two_unlike_ones_do_is_told_to_be_taken(ranks: str, size: int, is_told: bool) -> None:
    """Batches of 2, 3, 4, 5, 2 ... 5 were taken to be of 2, 3, 3 ... 5, without a word. Of eight ranks each is seen."""
    program = job("by_number.py", size, ranks=ranks)
    assert any("do otherwise" in text for text in program.meta["warnings"]) == is_told
    if not is_told:  # (the third does as the last, with less, and is taken to have as much)
        assert [len(one.members) for one in program.ranks] == ([2, 2, 4] if ranks == "distinct" else [2] * 4)


@pytest.mark.parametrize(("layers", "size", "idle_from"), [(5, 32, 5), (12, 8, 6), (1, 16, 1)])
def test_where_those_end_that_have_a_share_is_found_by_halves(layers: int, size: int, idle_from: int) -> None:
    """All that did not run were taken to do as rank 0 (nanochat's Muon splits matrices so): MFU was of work that nobody does."""
    program = job("shares.py", size, layers)
    members = {one.rank: one.members for one in program.ranks}
    assert members[0] == tuple(range(idle_from))
    assert sum(map(len, members.values())) == size
    (told,) = (
        [text for text in program.meta["warnings"] if "follows from their numbers" in text] if idle_from > 1 else [""]
    )
    assert idle_from == 1 or f"1 to {idle_from - 1} as rank 0, {idle_from} to {size - 1} as rank {size - 1}" in told


@pytest.mark.parametrize("more", [0, 1])
def test_parts_of_a_flat_parameter_in_more_pieces_are_as_much_to_do(more: int) -> None:
    """Who does as which was looked for by halves, in a dozen runs more, where each rank has other pieces of as many elements. Where they
    compute on more, it still is."""
    program = job("flat_parts.py", 16, more)
    told = [text for text in program.meta["warnings"] if "in more or fewer pieces" in text]
    assert (len(told), sum("otherwise" in text for text in program.meta["warnings"])) == ((0, 1) if more else (1, 0))
    assert more or program.meta["ranks_run"] == [0, 15]


@pytest.mark.parametrize(("what", "alike"), [("attention", [4, 12]), ("products", [1, 15])])
def test_as_many_elements_in_other_shapes_are_other_work(what: str, alike: list[int]) -> None:
    """Attention within one text of 4,096 tokens is sixteen times that within texts of 256."""
    program = job("texts.py", 16, what)
    assert not any("in more or fewer pieces" in text for text in program.meta["warnings"])
    assert sorted(len(one.members) for one in program.ranks) == alike


def test_a_group_has_the_name_by_which_it_is_called() -> None:
    """It had that of any mesh with the same ranks, so that at random each of eight tensor-parallel ranks had tokens of its own."""
    program = job("one_group_two_names.py", 8)
    assert [group.axis for group in program.groups if len(group.ranks) == 8] == ["tp"]
