"""Backwards that are started elsewhere than by `Tensor.backward`: at autograd's engine, and inside of another backward."""

from pathlib import Path

from anychip.device.launch import record
from anychip.record import Kind, Mark, Program
from anychip.spec import load_chip

DIRECT = """
import torch
from torch.autograd.variable import Variable

model = torch.nn.Linear(64, 64, device="cuda")
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(2):
    out = model(torch.rand(8, 64, device="cuda")).sum()
    Variable._execution_engine.run_backward((out,), (torch.ones_like(out),), False, False, (), allow_unreachable=True, accumulate_grad=True)
    optimizer.step()
"""

NESTED = """
import torch
from torch.utils.checkpoint import checkpoint

@torch.compile
def act(x):
    return torch.nn.functional.gelu(x * 2)

first, second = (torch.nn.Linear(64, 64, device="cuda") for _ in range(2))
for _ in range(2):
    x = act(first(torch.rand(8, 64, device="cuda")))
    checkpoint(second, x, use_reentrant=True).sum().backward()
"""

AGAIN = """
import torch
from torch.utils.checkpoint import checkpoint

act = torch.compile(lambda x: torch.nn.functional.gelu(x * 2))
norm = torch.nn.LayerNorm(64, device="cuda")
x = torch.rand(8, 64, device="cuda", requires_grad=True)
checkpoint(lambda x: act(norm(x)), x, use_reentrant=False).sum().backward()
"""

ALONE = """
import torch
import torch.distributed as dist

dist.init_process_group("nccl")
group = next(one for one in [dist.new_group([rank]) for rank in range(2)] if one is not dist.GroupMember.NON_GROUP_MEMBER)
buffer = torch.zeros(64, device="cuda")
dist.reduce_scatter_tensor(buffer, buffer, group=group)
dist.reduce_scatter_tensor(torch.empty(64, device="cuda"), buffer, group=group)
"""

COUNTS = """
import torch
import torch.distributed as dist

dist.init_process_group("nccl")
counts = torch.bincount(torch.randint(0, 128, (4096,), device="cuda"), minlength=128)
known = torch.empty(8 * 128, dtype=counts.dtype, device="cuda")
dist.all_gather_into_tensor(known, counts)
assert known.view(8, 128)[:, 16:32].sum(0).tolist() == [8 * 32] * 16
"""


def recorded(folder: Path, text: str, world_size: int = 1) -> Program:
    (folder / "train.py").write_text(text, encoding="utf-8")
    return record([str(folder / "train.py")], load_chip("h100"), world_size=world_size, show_output=False)


def test_a_backward_that_is_started_at_the_engine_is_one(tmp_path: Path) -> None:
    program = recorded(tmp_path, DIRECT)
    marks = program.payloads[program.kinds == Kind.MARK].tolist()
    assert marks.count(Mark.BACKWARD_BEGIN) == marks.count(Mark.BACKWARD_END) == 2


def test_what_was_compiled_stays_so_after_a_checkpoint_inside_of_the_backward(tmp_path: Path) -> None:
    program = recorded(tmp_path, NESTED)
    region, found = 0, []
    for kind, payload in zip(program.kinds.tolist(), program.payloads.tolist(), strict=True):
        region = payload if kind == Kind.COMPILED else region
        if kind == Kind.OP and "gelu_backward" in program.ops[payload].name:
            found.append(region)
    assert len(found) == 2
    assert all(found)


def test_what_a_checkpoint_computes_again_is_compiled_where_it_was(tmp_path: Path) -> None:
    program = recorded(tmp_path, AGAIN)
    region, found = 0, []
    for kind, payload in zip(program.kinds.tolist(), program.payloads.tolist(), strict=True):
        region = payload if kind == Kind.COMPILED else region
        if kind == Kind.OP and any(name in program.ops[payload].name for name in ("layer_norm", "gelu")):
            found.append((program.ops[payload].name.split(".")[1], region > 0))
    # The norm is not compiled, forward, again and backward; what comes after it is (and not computed again but for what
    # its backward needs).
    norm, act = ("native_layer_norm", False), ("gelu", True)
    assert found == [norm, act, norm, ("gelu_backward", True), ("native_layer_norm_backward", False)]


def test_in_a_group_of_one_nothing_is_copied_in_place(tmp_path: Path) -> None:
    program = recorded(tmp_path, ALONE, world_size=2)
    copies = [op for op in program.ops if op.name.startswith("aten.copy_")]
    words = program.payloads[program.kinds == Kind.OP].tolist()
    assert sum(program.ops[payload] in copies for payload in words) == 1


def test_gathered_counts_of_many_experts_are_known(tmp_path: Path) -> None:
    recorded(tmp_path, COUNTS, world_size=8)  # 4096 tokens over 128 experts are 32 a rank, of eight ranks
