"""The examples of docs/kernels.md run as they stand, and cost what the page says."""

import re
from pathlib import Path

from anychip.standins.finder import LIBRARIES
from tests.standins.recorded import Recorded

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def test_examples_run(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("\n".join(BLOCKS), encoding="utf-8")
    recorded = Recorded(program, tmp_path / "none.json")
    # 4,096 rows of 1,000 floats, loaded once and stored once; five operations each
    softmax = recorded.work("custom.triton.softmax_kernel")
    assert (softmax.flop, softmax.bytes_moved) == (5 * 4096 * 1000, 2 * 4096 * 1000 * 4)
    # three tensors of 1,000 floats
    muladd = recorded.work("custom.muladd")
    assert (muladd.flop, muladd.bytes_moved) == (2000, 3 * 4000)


def test_every_library_is_on_the_page() -> None:
    table = PAGE.read_text(encoding="utf-8")
    for name in LIBRARIES:
        assert f"`{name}`" in table, name
