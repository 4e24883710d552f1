"""The level of a chip's products that is found from published runs."""

import pytest

from accuracy.fit import Constant
from anychip.cost.machine import machine
from anychip.spec import load_chip


@pytest.mark.parametrize(("dtype", "others"), [("", 0.5), ("bf16", None)])
def test_what_is_tried_holds_for_prices_meanwhile(dtype: str, others: float | None) -> None:
    """It changed a name that nobody looked up any more, and ended in an AttributeError."""
    chip = load_chip("h100")

    def level(of: str) -> float:
        return machine(chip).rates.need("gemm.sustained", of).value

    before = {of: level(of) for of in ("bf16", "fp8")}
    with Constant(dtype=dtype).at(0.5):
        assert level("bf16") == 0.5
        assert level("fp8") == (others or before["fp8"])
    assert {of: level(of) for of in before} == before
