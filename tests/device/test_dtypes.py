"""Dtypes that do not go together are refused as torch's kernels for chips refuse them, and where it promotes they are not."""

import pytest

from tests.device.recorded import run

# What a program does -> what torch says on a chip. Sources: aten/src/ATen/native/cuda/Blas.cpp (mm), LinearAlgebra.cpp (addmm),
# Convolution.cpp, transformers/attention.cpp, LossNLL.cpp, TensorAdvancedIndexing.cpp, cuda/layer_norm_kernel.cu.
REFUSED = {
    "r(4, 4) @ h(4, 4)": "expected mat1 and mat2 to have the same dtype, but got: float != c10::BFloat16",
    "torch.nn.Linear(4, 4).to('cuda', torch.bfloat16)(r(2, 4))": "mat1 and mat2 must have the same dtype, but got Float and BFloat16",
    "F.linear(r(2, 4), r(4, 4), h(4))": "self and mat2 must have the same dtype, but got BFloat16 and Float",
    "r(4, 4) @ h(4)": "expected scalar type Float but found BFloat16",
    "torch.bmm(r(2, 4, 4), h(2, 4, 4))": "expected scalar type Float but found BFloat16",
    "F.conv2d(r(1, 4, 8, 8), h(4, 4, 3, 3))":
        "Input type (torch.cuda.FloatTensor) and weight type (torch.cuda.BFloat16Tensor) should be the same",
    "F.scaled_dot_product_attention(h(1, 2, 4, 8), h(1, 2, 4, 8), r(1, 2, 4, 8))":
        "Expected query, key, and value to have the same dtype, but got query.dtype: c10::BFloat16 key.dtype: c10::BFloat16 "
        "and value.dtype: float instead.",
    "F.scaled_dot_product_attention(h(1, 2, 4, 8), h(1, 2, 4, 8), h(1, 2, 4, 8), attn_mask=r(4, 4))":
        "invalid dtype for bias - should match query's dtype",
    "F.layer_norm(h(4, 4), (4,), r(4), r(4))": "expected scalar type BFloat16 but found Float",
    "F.cross_entropy(r(4, 4), i(4).int())": "expected target dtype to be Long or Byte, but got Int",
    "F.cross_entropy(r(4, 4), i(4), weight=h(4))": "expected scalar type Float but found BFloat16",
    "F.binary_cross_entropy(r(4), i(4))": "Found dtype Long but expected Float",
    "F.embedding(r(4), r(4, 4))":
        "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got",
    "r(4, 4).index_select(0, r(4))": "index_select(): Expected dtype int32 or int64 for index",
    "r(4, 4).index_add(0, i(4), h(4, 4))": "index_add_(): self (Float) and source (BFloat16) must have the same scalar type",
    "r(4, 4).index_put((i(4),), h(4, 4))":
        "Index put requires the source and destination dtypes match, got Float for the destination and BFloat16 for the source.",
    "torch._scaled_mm(r(32, 32).to(f8), h(32, 32).t(), r(1)[0], r(1)[0])": "Invalid scaling configuration.",
    "autocast(lambda: r(4, 4).double() @ h(4, 4))":
        "expected mat1 and mat2 to have the same dtype, but got: double != c10::BFloat16",
}  # fmt: skip
TAKEN = (
    "r(4) + h(4)", "h(4).mul_(r(4))", "torch.cat([r(4), h(4)])", "torch.where(r(4) > 0, r(4), h(4))", "torch.outer(h(4), r(4))",
    "F.mse_loss(r(4), h(4))", "F.rms_norm(h(4, 4), (4,), r(4))", "F.batch_norm(h(2, 4, 4), r(4), r(4), r(4), r(4), True)",
    "F.embedding(i(4).int(), r(4, 4))", "F.cross_entropy(h(4, 4), i(4))", "r(4, 4).__setitem__(r(4, 4) > 0, 1.0)",
    "F.scaled_dot_product_attention(h(1, 2, 4, 8), h(1, 2, 4, 8), h(1, 2, 4, 8), attn_mask=i(4, 4).bool())",
    "torch._scaled_mm(r(32, 32).to(f8), r(32, 32).to(f8).t(), r(1)[0], r(1)[0], out_dtype=torch.bfloat16)",
    "torch.addmm(r(4, 4), h(4, 4), h(4, 4), out_dtype=torch.float32)",
    "autocast(lambda: r(4, 4) @ h(4, 4))", "autocast(lambda: F.conv2d(r(1, 4, 8, 8), h(4, 4, 3, 3)))",
    "autocast(lambda: F.layer_norm(h(4, 4), (4,), r(4), r(4)))",
    "autocast(lambda: F.scaled_dot_product_attention(r(1, 2, 4, 8), h(1, 2, 4, 8), r(1, 2, 4, 8), attn_mask=r(4, 4)))",
)  # fmt: skip


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """Each expression -> what its error says, or nothing. All in one recording."""
    cases = [*REFUSED, *TAKEN]
    program = f"""
        import torch
        import torch.nn.functional as F
        f8 = torch.float8_e4m3fn
        def r(*size): return torch.rand(*size, device="cuda")
        def h(*size): return r(*size).bfloat16()
        def i(*size): return torch.zeros(*size, dtype=torch.long, device="cuda")
        def autocast(call):
            with torch.autocast("cuda", torch.bfloat16):
                return call()
        out = {{}}
        for case in {cases!r}:
            try:
                eval(case)
                out[case] = ""
            except (RuntimeError, ValueError) as error:
                out[case] = str(error)
    """
    return run(program)[1]


@pytest.mark.parametrize("case", REFUSED)
def test_dtypes_that_do_not_go_together_are_refused_in_torchs_words(said: dict[str, str], case: str) -> None:
    assert said[case].startswith(REFUSED[case])


@pytest.mark.parametrize("case", TAKEN)
def test_dtypes_that_torch_takes_together_are_taken(said: dict[str, str], case: str) -> None:
    assert said[case] == ""
