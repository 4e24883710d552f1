"""What releases of Transformer Engine differ in: how long their own code takes the host, and kernels that lay out scales."""

import pytest

from anychip.device.launch import record
from anychip.forecast import forecast
from anychip.record import Kind
from anychip.spec import load_chip
from anychip.standins.libraries import te_release

PROGRAM = """
import sys
import torch
import transformer_engine.pytorch as te
from transformer_engine.common import recipe
from anychip.standins.libraries import te_release

version, kind, layers, experts = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
is_frozen = "frozen" in sys.argv
te_release.use(version)
with_fp8 = {{"bf16": None, "mx": recipe.MXFP8BlockScaling(), "current": recipe.Float8CurrentScaling()}}[kind]
stack = [te.Linear(64, 64, bias=False, params_dtype=torch.bfloat16) for _ in range(layers)]
if experts:
    stack.append(te.GroupedLinear(experts, 64, 64, bias=False, params_dtype=torch.bfloat16))
head = torch.nn.Parameter(torch.ones((), device="cuda", dtype=torch.bfloat16))
for layer in stack:
    layer.requires_grad_(not is_frozen)
optimizer = torch.optim.SGD([one for layer in stack for one in layer.parameters()] + [head], 0.1)
x = torch.rand(max(experts, 1) * 16, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
for _ in range({steps}):
    with te.fp8_autocast(enabled=with_fp8 is not None, fp8_recipe=with_fp8):
        out = x
        for layer in stack:
            out = layer(out, [16] * experts) if experts and layer is stack[-1] else layer(out)
        out += 1  # what a layer gives may be written to
    (out.sum() * head).backward()
    optimizer.step()
    optimizer.zero_grad()
"""
TURN = "custom.transformer_engine.swizzle_scales"


def recorded(folder, *words: object, steps: int = 3):
    path = folder / "train.py"
    path.write_text(PROGRAM.format(steps=steps), encoding="utf-8")
    return record([str(path), "none", *map(str, words)], load_chip("gb200"), show_output=False)


def layer_us(folder, version: str, kind: str, chip: str) -> float:
    """What one more layer takes a step that the host bounds."""
    few, many = (forecast(recorded(folder, version, kind, n, 0), load_chip(chip)).step_time_s for n in (40, 80))
    return (many - few) / 40 * 1e6


@pytest.mark.parametrize(("chip", "op_us"), [("nvidia-h100-sxm", 4.0), ("nvidia-gb200-nvl72", 11.0)])
@pytest.mark.parametrize("kind", ["bf16", "current"])
def test_a_layer_of_2025_takes_the_host_longer_than_one_of_2026(tmp_path, chip, op_us, kind) -> None:
    old, new = (layer_us(tmp_path, version, kind, chip) for version in ("2.6", "2.12"))
    assert old - new == pytest.approx((3 if kind == "bf16" else 4) * op_us, rel=0.15)


def turned(folder, *words: object) -> int:
    """Kernels of one step."""
    program = recorded(folder, *words, steps=1)
    return sum(program.ops[index].name == TURN for index in program.payloads[program.kinds == Kind.OP].tolist())


@pytest.mark.parametrize(
    ("version", "kind", "layers", "experts", "kernels"),
    [
        ("2.8", "mx", 3, 0, 18),  # two operands of three products each
        ("2.12", "mx", 3, 0, 6),  # the weight's, forward and back
        ("2.8", "mx", 0, 8, 6),  # one for all experts
        ("2.8", "mx", 0, 80, 12),  # or for 64 of them
        ("2.12", "mx", 0, 8, 2),
        ("2.6", "mx", 0, 8, 48),  # one for each
        ("2.8", "current", 3, 0, 0),
        ("2.8", "bf16", 3, 4, 0),
    ],
)
def test_scales_of_blocks_are_laid_out_before_products(tmp_path, version, kind, layers, experts, kernels) -> None:
    assert turned(tmp_path, version, kind, layers, experts) == kernels


@pytest.mark.parametrize(("layers", "experts"), [(1, 0), (0, 8)])
def test_none_are_laid_out_for_a_product_that_is_not_made(tmp_path, layers, experts) -> None:
    assert turned(tmp_path, "2.8", "mx", layers, experts, "frozen") == 4


@pytest.mark.parametrize(
    ("version", "layer"),
    [("1.13", 6), ("2.11.0+cu12", 6), ("2.12.0", 3), ("3.0", 3), ("v2.12", 3), ("2.12rc1", 3), ("3rc1", 3), ("0+unknown", 6), ("dev", 6)],
)  # fmt: skip
def test_releases_by_version(monkeypatch, version, layer) -> None:
    monkeypatch.setattr(te_release._Used, "version", version)
    assert te_release.release().layer[0] == layer
