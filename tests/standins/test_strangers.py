"""Operators of libraries that are installed without kernels for a chip."""

from pathlib import Path

import pytest

from anychip.caveats.chip import by_bytes_alone
from tests.standins.recorded import Recorded

PROGRAM = Path(__file__).parent / "programs" / "strangers.py"


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(PROGRAM, tmp_path_factory.mktemp("strangers") / "said.json")


def test_an_operator_without_a_kernel_is_one_op_with_results_of_its_shape_function(strange: Recorded) -> None:
    assert strange.said["pooled"] == [[2, 4], "cuda"]
    assert strange.said["both"] == [[2], [3]]
    assert strange.count("extension.mailroom.pooled") == 1
    # 8 x 4 numbers of 4 bytes are read, 2 x 4 written
    assert strange.work("extension.mailroom.pooled").bytes_moved == (8 * 4 + 2 * 4) * 4


def test_it_is_told_that_they_were_not_run(strange: Recorded) -> None:
    (told,) = [text for text in strange.warnings if text.startswith("mailroom")]
    assert "recorded, not run" in told
    assert "extension.mailroom.pooled" in by_bytes_alone(strange.program)[0]


def test_one_without_a_shape_function_says_how_to_give_it_one(strange: Recorded) -> None:
    assert 'anychip.kernel("extension.mailroom.opaque", outputs=' in strange.said["opaque"]
    assert "shape function for torch's meta device" in strange.said["opaque"]


def test_its_own_kernels_for_the_host_and_torch_s_refusals_stay(strange: Recorded) -> None:
    assert strange.said["on the host"] == [[1.0, 1.0, 1.0, 1.0]]
    assert strange.said["torch's own"] in ("NotImplementedError", "RuntimeError")
