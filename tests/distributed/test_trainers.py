"""What public programs of several ranks stumbled over, each as a few lines that do the same."""

import contextlib
from pathlib import Path

from anychip.device.launch import record
from anychip.record import Program
from anychip.spec import load_chip

REPLICAS = """
torch.distributed.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(16, 16).cuda())
optimizer = torch.optim.SGD(model.parameters(), 0.1)
x = torch.rand(8, 16, device="cuda")
"""
STEP = """
for _ in range(4):
    model(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


def run(folder: Path, text: str, world_size: int = 4) -> Program:
    script = folder / "train.py"
    script.write_text(text, encoding="utf-8")
    return record([str(script)], load_chip("h100"), world_size=world_size, devices=world_size, show_output=False)


def test_a_device_mesh_that_joins_by_itself_does_not_wait_for_the_others(tmp_path: Path) -> None:
    program = run(tmp_path, f"""
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
mesh = init_device_mesh("cuda", (4,), mesh_dim_names=("tp",))
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)).cuda()
model = parallelize_module(model, mesh, {{"0": ColwiseParallel(), "1": RowwiseParallel()}})
optimizer = torch.optim.SGD(model.parameters(), 0.1)
x = torch.rand(8, 16, device="cuda")
{STEP}
""")  # fmt: skip
    assert [(group.axis, group.ranks) for group in program.groups] == [("tp", (0, 1, 2, 3))]


def test_ranks_that_choose_no_chip_get_theirs_from_the_mesh(tmp_path: Path) -> None:
    # The script of pytorch/examples' FSDP2 names its device but never sets it: the mesh does, as CUDA is not in use yet.
    program = run(tmp_path, f"""
import os
import torch
from torch.distributed.fsdp import fully_shard
rank = int(os.environ["LOCAL_RANK"])
device = torch.device("cuda", rank)
torch.distributed.init_process_group("nccl", device_id=device)
assert not torch.cuda.is_initialized()
torch.manual_seed(0)
with torch.device("meta"):
    model = torch.nn.Linear(16, 16)
fully_shard(model)
assert torch.cuda.is_initialized()
assert torch.cuda.current_device() == rank
model.to_empty(device=device)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
x = torch.rand(8, 16, device=device)
{STEP}
""")  # fmt: skip
    assert not program.meta["warnings"]
    assert [len(one.members) for one in program.ranks] == [4]


def test_a_tensor_on_the_chip_initializes_cuda(tmp_path: Path) -> None:
    run(tmp_path, f"""
import torch
assert not torch.cuda.is_initialized()
model = torch.nn.Linear(16, 16).cuda()
assert torch.cuda.is_initialized()
x = torch.rand(8, 16, device="cuda")
optimizer = torch.optim.SGD(model.parameters(), 0.1)
{STEP}
""", world_size=1)  # fmt: skip


def test_a_launcher_that_ends_in_torchs_runs_its_script_as_this_rank(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"""
import os, sys
import torch
assert os.environ["ASKED"] == "yes" and sys.argv[1:] == ["--size", "16"]
{REPLICAS}
{STEP}
""")
    program = run(tmp_path, f"""
import os
from torch.distributed import run
os.environ["ASKED"] = "yes"
run.run(run.parse_args(["--nproc_per_node=4", {str(tmp_path / "script.py")!r}, "--size", "16"]))
""")  # fmt: skip
    assert [len(one.members) for one in program.ranks] == [4]


def test_whole_numbers_that_one_rank_gives_decide_what_the_others_do(tmp_path: Path) -> None:
    # Megatron-LM reads its data on the first rank of a tensor-parallel group, which tells the others whether to train.
    program = run(tmp_path, """
import torch
torch.distributed.init_process_group("nccl")
rank = torch.distributed.get_rank()
torch.cuda.set_device(rank)
pairs = [torch.distributed.new_group([one, one + 1]) for one in (0, 2)]
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(16, 16).cuda())
optimizer = torch.optim.SGD(model.parameters(), 0.1)
x = torch.rand(8, 16, device="cuda")


def check(*_):  # DeepSpeed compares lists with the first rank's so
    given = torch.tensor([step] if rank == 0 else [-1], device="cuda")
    torch.distributed.broadcast(given, 0)
    assert given.item() == step, (rank, given)


for step in range(4):
    flags = torch.tensor([1, step] if rank % 2 == 0 else [0, 0], device="cuda")
    torch.distributed.broadcast(flags, rank // 2 * 2, group=pairs[rank // 2])
    assert flags.tolist() == [1, step], (rank, flags)
    model.register_forward_pre_hook(check) if step == 0 else None
    model(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
""")  # fmt: skip
    assert sum(len(one.members) for one in program.ranks) == 4
    assert not program.meta["warnings"]


def test_a_pipeline_that_sends_in_the_group_of_all_ranks_runs_its_stages_only(tmp_path: Path) -> None:
    # Two stages of four replicas. Megatron-LM sends one way in the stages' own group, the other way in that of all.
    program = run(tmp_path, """
import torch
import torch.distributed as dist
dist.init_process_group("nccl")
rank = dist.get_rank()
torch.cuda.set_device(rank)
stages = [dist.new_group([one, one + 4]) for one in range(4)][rank % 4]
copies = [dist.new_group(list(range(first, first + 4))) for first in (0, 4)][rank // 4]
model = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(1 + rank // 4))).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(4):
    x = torch.rand(8, 16, device="cuda", requires_grad=True)
    if rank < 4:
        out = model(x)
        dist.send(out.detach(), rank + 4, group=stages)
        grad = torch.empty_like(out)
        dist.recv(grad, rank + 4)
        out.backward(grad)
    else:
        received = torch.empty(8, 16, device="cuda")
        dist.recv(received, rank - 4, group=stages)
        received.requires_grad_()
        model(received).sum().backward()
        dist.send(received.grad, rank - 4)
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad, group=copies)
    optimizer.step()
    optimizer.zero_grad()
""", world_size=8)  # fmt: skip
    assert [(one.rank, one.members) for one in program.ranks] == [(0, (0, 1, 2, 3)), (4, (4, 5, 6, 7))]


def test_ranks_that_a_sample_was_found_to_differ_for_have_their_partners_run(tmp_path: Path) -> None:
    # Two stages of two replicas of two tensor-parallel ranks, of which the first copies the batch to the chip and the second receives it:
    # each exchanges with its like in the other stage.
    program = run(tmp_path, """
import torch
import torch.distributed as dist
dist.init_process_group("nccl")
rank = dist.get_rank()
torch.cuda.set_device(rank)
stages = [dist.new_group([one, one + 4]) for one in range(4)][rank % 4]
parts = [dist.new_group([one, one + 1]) for one in (0, 2, 4, 6)][rank // 2]
copies = {one: dist.new_group([one, one + 2]) for one in (0, 1, 4, 5)}[rank & 5]
model = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(1 + rank // 4))).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(4):
    model[0](torch.ones(1, 16, device="cuda"))
    x = torch.rand(8, 16).cuda() if rank % 2 == 0 else torch.empty(8, 16, device="cuda")
    dist.broadcast(x, rank // 2 * 2, group=parts)
    if rank < 4:
        out = model(x.requires_grad_())
        dist.send(out.detach(), rank + 4, group=stages)
        grad = torch.empty_like(out)
        dist.recv(grad, rank + 4, group=stages)
        out.backward(grad)
    else:
        dist.recv(x, rank - 4, group=stages)
        x.requires_grad_()
        model(x).sum().backward()
        dist.send(x.grad, rank - 4, group=stages)
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad, group=copies)
    optimizer.step()
    optimizer.zero_grad()
""", world_size=8)  # fmt: skip
    assert [(one.rank, one.members) for one in program.ranks] == [(0, (0, 2)), (1, (1, 3)), (4, (4, 6)), (5, (5, 7))]


def test_a_draft_is_what_is_returned_unless_a_sample_does_otherwise(tmp_path: Path) -> None:
    def drafts_of(extra: str) -> tuple[list[Program], Program]:
        script = tmp_path / "train.py"
        script.write_text(f"""
import os, torch
{REPLICAS}
{extra}
{STEP}
""", encoding="utf-8")  # fmt: skip
        drafts: list[Program] = []
        # (into a file: what prints is not read here, and a draft is looked for meanwhile)
        with (tmp_path / "log").open("w") as log, contextlib.redirect_stderr(log):
            found = record([str(script)], load_chip("h100"), world_size=4, devices=4, draft=drafts.append)
        return drafts, found

    drafts, found = drafts_of("")
    assert [one is found for one in drafts] == [True]
    assert [len(one.members) for one in found.ranks] == [4]
    # The last rank does more than the one that was taken to stand for it.
    drafts, found = drafts_of(
        "torch.cuda.current_device() == 3 and model.register_forward_hook(lambda _, x, out: torch.relu(out))"
    )
    assert not any(one is found for one in drafts)
    assert sorted(len(one.members) for one in found.ranks) == [1, 3]
