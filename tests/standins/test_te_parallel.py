"""Transformer Engine's layers across ranks: which collectives they call, where, and what trainers read off their parameters."""

from collections import Counter
from pathlib import Path

import pytest

from anychip.device.launch import record
from anychip.record import Program
from anychip.record.steps import find_steps
from anychip.spec import load_chip

RANKS, ROWS, WIDTH, INNER = 4, 64, 32, 128
PROGRAM = """
import sys
import torch
import transformer_engine.pytorch as te
from contextlib import nullcontext
from transformer_engine.common import recipe

sequence, fuse = (flag == "1" for flag in sys.argv[1:3])
fp8 = {"0": None, "1": recipe.DelayedScaling(), "2": recipe.Float8CurrentScaling()}[sys.argv[3]]
torch.distributed.init_process_group("nccl")
group = torch.distributed.group.WORLD
options = dict(tp_group=group, sequence_parallel=sequence, fuse_wgrad_accumulation=fuse, params_dtype=torch.bfloat16)
model = torch.nn.Sequential(
    te.LayerNormLinear(32, 128, parallel_mode="column", **options),
    te.Linear(128, 32, parallel_mode="row", **options),
)
assert model[0].weight.shape == (32, 32) and model[1].weight.shape == (32, 32)
assert model[0].weight.partition_dim == 0 and model[1].weight.partition_dim == 1
assert model[0].layer_norm_weight.sequence_parallel is sequence
if fuse:
    for parameter in model.parameters():
        parameter.main_grad = torch.zeros(parameter.shape, device="cuda")
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(4):
    x = torch.rand(16 if sequence else 64, 1, 32, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    with te.fp8_autocast(fp8_recipe=fp8) if fp8 else nullcontext():
        out = model(x)
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad.shape == x.shape
    assert fuse == hasattr(model[0].weight, "grad_added_to_main_grad")
    optimizer.step()
    optimizer.zero_grad()
"""


def run(folder: Path, *flags: int) -> Program:
    (folder / "train.py").write_text(PROGRAM, encoding="utf-8")
    argv = [str(folder / "train.py"), *map(str, flags)]
    return record(argv, load_chip("h100"), world_size=RANKS, devices=RANKS, show_output=False)


def step(program: Program) -> tuple[Counter[str], list[tuple[str, tuple[int, ...]]]]:
    """Ops of the second step by name, and its collectives with the first input's shape."""
    one = find_steps(program)[1]
    words = zip(
        program.kinds[one.begin : one.end].tolist(), program.payloads[one.begin : one.end].tolist(), strict=True
    )
    from anychip.record import Kind

    ops = [program.ops[payload] for kind, payload in words if kind == Kind.OP]
    wires = [(op.name.split(".")[1], tuple(op.args[1][0].shape)) for op in ops if op.name.startswith("c10d")]
    return Counter(op.name for op in ops), wires


def test_along_the_sequence_inputs_are_gathered_and_outputs_scattered(tmp_path: Path) -> None:
    _, wires = step(run(tmp_path, 1, 0, 0))
    assert [len(one.members) for one in run(tmp_path, 1, 0, 0).ranks] == [RANKS]
    # Forward: the column layer gathers its normed input [16, 32], the row layer scatters its output [64, 32]. Backward: the
    # row layer gathers its gradient; the column layer gathers its input once more and scatters the input's gradient.
    part, whole = (ROWS // RANKS, WIDTH), (ROWS, WIDTH)
    assert wires == [
        ("_allgather_base_", part), ("_reduce_scatter_base_", whole),
        ("_allgather_base_", part), ("_allgather_base_", part), ("_reduce_scatter_base_", whole),
    ]  # fmt: skip


def test_without_it_outputs_and_gradients_are_summed_up(tmp_path: Path) -> None:
    _, wires = step(run(tmp_path, 0, 0, 0))
    assert wires == [("allreduce_", (ROWS, WIDTH))] * 2


def test_scales_of_the_moment_take_a_pass_over_each_tensor_that_is_cast(tmp_path: Path) -> None:
    """The input, the weight and the gradient of each layer; of tensors that ranks hold parts of, its largest is theirs all."""
    delayed, wires_delayed = step(run(tmp_path, 1, 0, 1))
    current, wires = step(run(tmp_path, 1, 0, 2))
    assert delayed["custom.transformer_engine.amax"] == 0
    assert current["custom.transformer_engine.amax"] == 6
    assert current["custom.transformer_engine.compute_scale"] == 6
    # Of the column layer's input forward, of the row layer's gradient backward.
    assert [one for one in wires if one[0] == "allreduce_"] == [("allreduce_", ())] * 2
    assert [one for one in wires if one[0] != "allreduce_"] == wires_delayed
    casts = {name: count for name, count in delayed.items() if "cast" in name}
    assert casts == {name: count for name, count in current.items() if "cast" in name}


@pytest.mark.parametrize("fp8", [0, 1])
def test_weight_gradients_are_added_up_by_the_layer(tmp_path: Path, fp8: int) -> None:
    ops, _ = step(run(tmp_path, 1, 1, fp8))
    if fp8:  # two products forward, four backward, of which two write into main_grad
        assert ops["aten._scaled_mm.default"] == 4
        assert ops["aten._scaled_mm.out"] == 2
    else:  # of six products two write into main_grad
        assert ops["aten.addmm.dtype_out"] == 2
        assert ops["aten.mm.default"] + ops["aten.addmm.default"] == 4


def test_with_user_buffers_products_run_in_pieces_beside_communication(tmp_path: Path) -> None:
    program = PROGRAM.replace("fuse_wgrad", "ub_overlap_ag=True, ub_overlap_rs=True, fuse_wgrad")
    (tmp_path / "train.py").write_text(program, encoding="utf-8")
    argv = [str(tmp_path / "train.py"), "1", "0", "0"]
    _, wires = step(record(argv, load_chip("h100"), world_size=RANKS, devices=RANKS, show_output=False))
    # Of each rank's 16 rows 4 travel at a time; a quarter of 64 rows is scattered at a time. The backward of the column
    # layer runs beside whole products.
    piece, quarter = (ROWS // RANKS // RANKS, WIDTH), (ROWS // 4, WIDTH)
    forward = [("_allgather_base_", piece)] * RANKS + [("_reduce_scatter_base_", quarter)] * 4
    assert wires[:8] == forward
    assert wires[8:12] == [("_allgather_base_", piece)] * RANKS
    assert [name for name, _ in wires[12:]] == ["_allgather_base_", "_reduce_scatter_base_"]


def test_a_weight_is_cast_at_the_first_micro_batch_of_a_step(tmp_path: Path) -> None:
    program = PROGRAM.replace("out = model(x)", "out = model[1](model[0](x, True), False if _ > 0 else True)")
    (tmp_path / "train.py").write_text(program, encoding="utf-8")
    argv = [str(tmp_path / "train.py"), "0", "0", "1"]
    ops, _ = step(record(argv, load_chip("h100"), world_size=RANKS, devices=RANKS, show_output=False))
    # Of each layer the input, the weight and the gradient are cast; of the second layer the weight was, a step before.
    assert ops["custom.transformer_engine.cast_transpose"] == 5
