"""grouped_gemm's stand-in: values as the real one's on the CPU, and what it puts on a chip's tape."""

from pathlib import Path

import pytest
import torch

from anychip.standins.libraries import grouped_gemm
from tests.standins.recorded import Recorded

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(HERE / "programs" / "grouped.py", tmp_path_factory.mktemp("grouped") / "said.json")


def test_shapes_are_the_real_ones(grouped: Recorded) -> None:
    shapes = [[128, 96], [128, 96], [4, 96, 160], [4, 96, 160]]
    assert (grouped.said["host"], grouped.said["chip"]) == (shapes, shapes)
    assert grouped.said["given"] is True
    assert grouped.said["permuted"] == [[128, 48], [128], [64, 48], [64, 48], [64, 2]]
    assert "kBFloat16" in grouped.said["float32"]


def test_sizes_on_the_host_are_a_product_of_each_group_and_on_the_chip_one(grouped: Recorded) -> None:
    # four experts, two products forward, two each backward; and the one whose output is given
    assert grouped.count("aten.mm.out") == 4 * (2 + 4) + 4 + 4
    assert grouped.count("aten._grouped_mm") == 2 + 4
    # 128 rows in all, whoever they belong to: 2 * 128 * 96 * 160 of one chip's product
    assert {op.outputs[0].shape for op in grouped.ops if op.name.startswith("aten._grouped_mm")} == {
        (128, 160), (128, 96), (4, 96, 160),
    }  # fmt: skip


def test_sizes_that_do_not_add_up_are_equal_parts(grouped: Recorded) -> None:
    """Counts of a kernel whose cost alone is known read as ones: the products were of four rows of 128."""
    assert {op.args[0].shape for op in grouped.ops if op.name == "aten.mm.out" and op.args[0].shape[1] == 80} == {
        (32, 80)
    }
    assert any("taken to be equal" in text for text in grouped.warnings)


def test_a_permutation_is_one_op_that_moves_each_row_once(grouped: Recorded) -> None:
    # 64 tokens read and 128 rows written of 48 bf16; 128 experts read, 128 places written, int32
    task = grouped.work("custom.grouped_gemm.permute")
    assert (task.flop, task.bytes_moved) == (0, 2 * 48 * (64 + 128) + 4 * (128 + 128))
    assert grouped.count("custom.grouped_gemm.permute_backward") == 1
    assert grouped.count("custom.grouped_gemm.unpermute") == 2


def test_values_are_those_of_products_one_by_one() -> None:
    sizes = torch.tensor([3, 0, 5])
    a, b = torch.randn(8, 4).bfloat16(), torch.randn(3, 4, 6).bfloat16()
    expected = torch.cat([a[:3] @ b[0], a[3:] @ b[2]])
    assert torch.equal(grouped_gemm.gmm(a, b, sizes), expected)
    assert torch.equal(grouped_gemm.gmm(a, b.transpose(1, 2).contiguous(), sizes, trans_b=True), expected)
    weights = grouped_gemm.raw_gmm(a, expected, sizes, trans_a=True)
    assert torch.equal(weights, torch.stack([a[:3].t() @ expected[:3], 0 * weights[1], a[3:].t() @ expected[3:]]))


def test_tokens_come_back_from_their_experts() -> None:
    x, indices = torch.randn(5, 4), torch.tensor([[1, 0], [0, 2], [2, 1], [0, 1], [2, 0]])
    permuted, where = grouped_gemm.permute(x, indices)
    # expert 0 has tokens 0, 1, 3, 4; expert 1 has 0, 2, 3; expert 2 has 1, 2, 4
    assert torch.equal(permuted, x[[0, 1, 3, 4, 0, 2, 3, 1, 2, 4]])
    assert where is not None
    probs = torch.rand(5, 2)
    torch.testing.assert_close(grouped_gemm.unpermute(permuted, where, probs), x * probs.sum(1, keepdim=True))
    # the last three rows are dropped: tokens 1, 2 and 4 lose their expert 2
    permuted, where = grouped_gemm.permute(x, indices, 7)
    assert where is not None
    kept = probs * (indices < 2)
    torch.testing.assert_close(grouped_gemm.unpermute(permuted, where, probs), x * kept.sum(1, keepdim=True))
