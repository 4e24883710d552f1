"""Every library's stand-in on a virtual chip: shapes as the real one, one op where it runs one kernel, cost by hand."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from anychip.standins.libraries import apex, apex_parallel, bitsandbytes, flash_attn, liger_kernel, xformers
from anychip.standins.libraries.optimizers import FusedAdam
from tests.standins.recorded import Recorded

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(HERE / "programs" / "libraries.py", tmp_path_factory.mktemp("libraries") / "said.json")


def test_flash_attention_is_one_op_each_way_with_gradients_of_the_inputs_shapes(libraries: Recorded) -> None:
    q, k = [2, 96, 8, 64], [2, 96, 2, 64]
    assert libraries.said["flash"] == [q, q, k]
    assert libraries.said["flash packed"] == [2, 80, 4, 32]
    # plain, packed, lengths, xformers' blocks; FlashAttention-3: plain, lengths, cache
    assert libraries.count("aten._flash_attention_forward") == 4 + 3
    assert libraries.count("aten._flash_attention_backward") == 2 + 1


def test_flash_attention_3_is_a_module_of_its_own(libraries: Recorded) -> None:
    q, k = [2, 48, 8, 64], [2, 48, 2, 64]
    assert libraries.said["flash 3"] == [q, [2, 8, 48], k, [96, 8, 64], [2, 1, 8, 64], [2, 8, 1]]


def test_flash_attention_refuses_float32_as_the_real_one(libraries: Recorded) -> None:
    assert libraries.said["flash float32"] == "FlashAttention only support fp16 and bf16 data type"


def test_packed_sequences_see_only_themselves(libraries: Recorded) -> None:
    # 4 sequences of 128: 2 products * 2 * 4 * 8 heads * 128 * 128 * 64, half of it under the causal mask
    from anychip.cost import work

    flops = [work(op).flop for op in libraries.program.ops if op.name.startswith("aten._flash_attention_forward")]
    assert 2 * 2 * 4 * 8 * 128 * 128 * 64 // 2 in flops


def test_rotary_embedding_is_one_op(libraries: Recorded) -> None:
    assert libraries.said["rotary"] == [[2, 16, 4, 32], "torch.bfloat16"]
    # x 2*16*4*32 = 4,096 elements read and written, cos and sin 16*16 each, 2 bytes
    task = libraries.work("custom.flash_attn.rotary")
    assert (task.flop, task.bytes_moved) == (3 * 4096, 2 * (2 * 4096 + 2 * 256))
    assert libraries.count("custom.flash_attn.rotary_backward") == 1


def test_a_norm_with_its_residual_is_one_op(libraries: Recorded) -> None:
    # x and residual read, norm and sum written: 4 * 6 * 48 elements; 48 weights
    assert libraries.work("custom.flash_attn.add_norm").bytes_moved == 2 * (4 * 6 * 48 + 48)


def test_xformers_masks_and_attention(libraries: Recorded) -> None:
    assert libraries.said["xformers split"] == [[2, 16, 4, 32], [1, 8, 4, 32]]
    assert libraries.count("aten._scaled_dot_product_flash_attention.default") >= 1


@pytest.mark.parametrize("number", range(7))
def test_optimizers_are_torch_optimizers_with_state(libraries: Recorded, number: int) -> None:
    assert libraries.said[f"optimizer {number}"] == [True, 1 if number != 2 else 0]  # SGD without momentum has none


def test_fused_optimizers_are_one_launch_a_step(libraries: Recorded) -> None:
    assert libraries.count("aten._fused_adamw_") == 2 + 2 + 2  # apex, DeepSpeed, and one step at each amp level
    assert libraries.count("aten._fused_sgd_") == 2
    assert libraries.count("custom.apex.multi_tensor_lamb") == 2
    assert libraries.count("custom.apex.multi_tensor_novograd") == 2


def test_an_optimizer_without_an_epsilon_is_one_op_a_step(libraries: Recorded) -> None:
    """HRM's and TinyRecursiveModels' programs ended where they imported it: its kernel is built with CUDA's compiler alone."""
    # 107 * 100 elements: parameter and both moments read and written, the gradient read; the step's number read and written
    n = 107 * 100
    task = libraries.work("custom.adam_atan2.adam_atan2")
    assert (task.bytes_moved, task.flop) == (7 * 4 * n + 2 * 4, 16 * n)
    assert libraries.count("custom.adam_atan2.adam_atan2") == 2
    assert libraries.said["optimizer 7"] == [True, 1]


def test_eight_bit_adam_moves_a_byte_of_state_per_element(libraries: Recorded) -> None:
    # 105 * 100 elements: parameter read and written (8 bytes), gradient (4), two bytes of state read and written (4),
    # two scales of 4 bytes per 256 elements (42 blocks) read and written
    n, blocks = 105 * 100, 42
    assert libraries.work("custom.bitsandbytes.optimizer_8bit").bytes_moved == n * (8 + 4 + 4) + blocks * 2 * 8


def test_an_optimizer_of_the_librarys_parts_has_its_kernel(libraries: Recorded) -> None:
    """GaLore's package ended where it imported these, whichever of its optimizers was asked for."""
    assert libraries.said["optimizer 8"] == [True, 1]
    moved = [op.tensors[0].numel for op in libraries.program.ops if op.name == "custom.bitsandbytes.optimizer_32bit"]
    assert sorted(moved) == [106 * 100, 108 * 100]


def test_a_layer_of_eight_bits_has_the_state_that_adapters_read(libraries: Recorded) -> None:
    """peft ended at `target.state.has_fp16_weights`: no LoRA of a model that was loaded in 8 bits."""
    assert libraries.said["int8 state"] == [False, 6.0, False, None]
    assert bitsandbytes.MODULES["bitsandbytes"]["MatmulLtState"]().has_fp16_weights


@pytest.mark.parametrize("kind", [bitsandbytes.Params4bit, bitsandbytes.Int8Params])
def test_a_weight_without_memory_is_not_quantised_before_it_has_some(kind: type) -> None:
    """accelerate makes a model on `meta` so; its weights took the marks of quantised ones, and were loaded whole."""
    made = kind(torch.ones(8, 4), requires_grad=False)
    empty = kind(made.to("meta"), requires_grad=False, **made.__dict__)
    assert (empty.shape, empty.dtype) == ((8, 4), torch.float32)
    assert getattr(empty, "quant_state", None) is None


def test_a_product_of_eight_bits_keeps_its_input_and_makes_the_weight_wide_for_the_backward(
    libraries: Recorded,
) -> None:
    # The output, 16 x 112 of 2 bytes, and the input, 16 x 64, though only its own gradient is asked for.
    assert libraries.said["int8 kept"] == 2 * (16 * 112 + 16 * 64)
    assert libraries.said["int8 trained"] == [96, 64]


def test_amp_levels(libraries: Recorded) -> None:
    single, half = "torch.float32", "torch.float16"
    assert libraries.said["O1"] == [single, single, single]
    assert libraries.said["O2"] == [half, single, single]  # batch norm stays, the optimizer works on fp32 copies
    assert libraries.said["norm"] == [1]


def test_fp8_layers_multiply_in_fp8(libraries: Recorded) -> None:
    products = [op for op in libraries.ops if op.name.startswith("aten._scaled_mm")]
    assert len(products) == 4 * 3  # four linear layers; forward, and two for gradients
    assert all("float8" in op.tensors[0].dtype for op in products)
    assert libraries.count("custom.transformer_engine.cast_transpose") == 4 * 3
    assert libraries.said["te"] == ["layernorm_mlp", "self_attention"]


def test_fused_linear_cross_entropy_never_holds_all_logits(libraries: Recorded) -> None:
    assert libraries.said["liger"] == [[1000, 64], [128, 64]]
    # ceil(1000 / 64) = 16 shares of 128 rows are 8 rows, a power of two already: 16 chunks
    assert libraries.count("custom.liger_kernel.cross_entropy") == 16
    assert libraries.op("custom.liger_kernel.cross_entropy").tensors[0].shape == (8, 1000)


def test_quantised_layers_keep_their_sizes(libraries: Recorded) -> None:
    assert libraries.said["4bit"] == [[64 * 128 // 2, 1], "torch.uint8"]
    assert libraries.said["4bit kept"] == 4 * 128 * 2  # the output alone: the backward makes the weight wide again
    assert libraries.count("custom.bitsandbytes.dequantize_4bit") == 2
    assert libraries.said["int8"] == ["torch.int8", [6, 112], [4, 64]]


def test_a_row_by_a_quantised_layer_reads_its_four_bits(libraries: Recorded) -> None:
    task = libraries.work("custom.bitsandbytes.gemv_4bit")
    scales = 64 * 128 // 64  # a byte each: compressed
    assert (task.flop, task.bytes_moved) == (2 * 64 * 128, 64 * 128 // 2 + scales + (64 + 128) * 2)


def test_int8_products_are_the_chips_own(libraries: Recorded) -> None:
    # twice forward alone, once with outliers asked for; forward and for its weight of the layer that trains it
    assert libraries.count("aten._int_mm") == 2 + 1 + 2
    assert libraries.count("aten.any") == 1


def test_the_report_names_each_library(libraries: Recorded) -> None:
    for name in (
        "flash_attn",
        "flash_attn_interface",
        "apex",
        "xformers",
        "bitsandbytes",
        "transformer_engine",
        "liger_kernel",
        "deepspeed",
    ):
        assert any(text.startswith(f"{name} is not installed") for text in libraries.warnings), name


# Numbers: the references on CPU tensors, against torch's own formulas -------------------------------------------------


def test_rotary_turns_pairs() -> None:
    # one pair (x1, x2) = (1, 0) turned by 90 degrees is (0, 1)
    x, cos, sin = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.zeros(1, 1), torch.ones(1, 1)
    assert flash_attn.apply_rotary_emb(x, cos, sin).flatten().tolist() == [0.0, 1.0]
    assert flash_attn.apply_rotary_emb(x, cos, sin, interleaved=True).flatten().tolist() == [0.0, 1.0]


def test_norms_and_losses_equal_torchs() -> None:
    torch.manual_seed(0)
    x, weight, labels = torch.randn(6, 16), torch.rand(16), torch.randint(16, (6,))
    close = torch.testing.assert_close
    close(liger_kernel.liger_rms_norm(x, weight, 1e-6), F.rms_norm(x, (16,), weight, 1e-6))
    close(liger_kernel.liger_cross_entropy(x, labels), F.cross_entropy(x, labels))
    close(liger_kernel.liger_swiglu(x, x), F.silu(x) * x)
    close(flash_attn.CrossEntropyLoss()(x, labels), F.cross_entropy(x, labels))
    out, total = flash_attn.layer_norm_fn(x, weight, None, residual=x, prenorm=True)
    close(total, x + x)
    close(out, F.layer_norm(x + x, (16,), weight, None, 1e-6))
    close(apex.FusedLayerNorm(16)(x), F.layer_norm(x, (16,)))


def test_block_diagonal_attention_equals_attention_of_each_sequence() -> None:
    torch.manual_seed(0)
    mask, packed = xformers.BlockDiagonalMask.from_tensor_list([torch.randn(2, 5, 3, 8), torch.randn(1, 7, 3, 8)])
    parts = mask.split(xformers.memory_efficient_attention(packed, packed, packed, attn_bias=mask))
    first = mask.split(packed)[0].transpose(1, 2)
    torch.testing.assert_close(parts[0], F.scaled_dot_product_attention(first, first, first).transpose(1, 2))


def test_apexs_larc_takes_a_smaller_step_where_a_gradient_is_large() -> None:
    """By its paper: of norm 2, gradient 8, trust 0.02 and decay 0.5 the rate is 0.02 * 2 / (8 + 0.5 * 2), no more than the group's."""
    parameter = torch.nn.Parameter(torch.tensor([2.0, 0.0]))
    optimizer = apex_parallel.LARC(torch.optim.SGD([parameter], lr=0.1, weight_decay=0.5), trust_coefficient=0.02)
    parameter.grad = torch.tensor([0.0, 8.0])
    optimizer.step()
    rate = 0.02 * 2 / (8 + 0.5 * 2)
    torch.testing.assert_close(parameter.detach(), torch.tensor([2 - rate * 0.5 * 2, -rate * 8]))
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    optimizer.zero_grad()
    assert parameter.grad is None


def test_apexs_adam_is_adamw() -> None:
    ours, theirs = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    for one, optimizer in (
        (ours, FusedAdam([ours], weight_decay=0.1)),
        (theirs, torch.optim.AdamW([theirs], 1e-3, weight_decay=0.1)),
    ):
        one.grad = torch.full((3,), 2.0)
        optimizer.step()
    torch.testing.assert_close(ours, theirs)
