"""flash_attn's compiled modules: what they return, and what one op of each moves."""

from pathlib import Path

import pytest

from tests.standins.recorded import Recorded


@pytest.fixture(scope="module")
def csrc(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(Path(__file__).parent / "programs" / "csrc.py", tmp_path_factory.mktemp("csrc") / "said.json")


def test_results_are_those_of_the_real_modules(csrc: Recorded) -> None:
    rows, half = ["float32", 10], ["bfloat16", 10, 64]
    assert csrc.said["plain"] == [half, None, None, rows, rows]  # the sum is the input itself
    assert csrc.said["residual"] == [half, ["float32", 10, 64], ["uint8", 10, 64], rows, rows]
    gamma = ["bfloat16", 64]
    assert csrc.said["backward"] == [half, half, gamma, gamma, None, None]
    assert csrc.said["rotary"] is None
    assert csrc.said["losses"] == [["float32", 6], ["float32", 6]]
    assert csrc.said["into"] is True
    assert "is_cuda" in csrc.said["host"]


def test_each_is_one_op_that_moves_its_tensors_once(csrc: Recorded) -> None:
    # two halves of 2 x 8 x 4 x 32 read and written, cos and sin of 8 x 16, 2 bytes each
    rotary = csrc.work("custom.rotary_emb.apply_rotary")
    assert (rotary.flop, rotary.bytes_moved) == (6 * 1024, 2 * (2 * 2048 + 2 * 128))
    # logits of 2 bytes, six labels of 8, two results of 4 bytes a row
    assert csrc.work("custom.xentropy.forward").bytes_moved == 2 * 600 + 8 * 6 + 2 * 4 * 6
    # losses and sums and labels, logits read and overwritten
    assert csrc.work("custom.xentropy.backward").bytes_moved == (4 + 4 + 8) * 6 + 2 * 2 * 600
    assert csrc.op("custom.xentropy.backward").mutates
    assert csrc.count("custom.dropout_layer_norm") == 3 + 1
