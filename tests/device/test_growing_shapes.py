"""Programs whose shapes grow, on chips whose software compiles whole steps: it compiles each anew, which is told."""

import pytest

from anychip.forecast import forecast
from anychip.spec import load_chip
from tests.device.recorded import run

GENERATE = """
    import torch
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 64)
        def forward(self, x, cache):
            return torch.cat([cache, self.layer(x)]) if GROWS else self.layer(x)
    net = Net().cuda()
    cache = torch.zeros(16, 64, device="cuda")
    with torch.no_grad():
        for _ in range(6):
            cache = net(torch.ones(1, 64, device="cuda"), cache)
"""


@pytest.mark.parametrize(
    ("grows", "chip", "told"), [(True, "tpu-v5p", True), (True, "h100", False), (False, "tpu-v5p", False)]
)
def test_steps_that_each_have_shapes_of_their_own_are_told(grows: bool, chip: str, told: bool) -> None:
    """Generation with a cache that grows by a token looked as fast on a TPU as one with a static cache."""
    program, _ = run(GENERATE.replace("GROWS", str(grows)), calls=4)
    found = [text for text in forecast(program, load_chip(chip)).warnings if "shapes of its own" in text]
    assert bool(found) == told
    if told:
        # 16 rows of before, and one more with each call, which the next one reads
        assert "4 calls were recorded, and each has shapes of its own (17x64, then 18x64, then 19x64)" in found[0]
        assert "static cache" in found[0]


def test_shapes_that_come_again_in_a_second_run_are_compiled_once_each_all_the_same() -> None:
    """A warm-up and the run that is timed have the same shapes: then nothing was told."""
    program, _ = run(
        GENERATE.replace("GROWS", "True").replace("for _ in range(6):", "for at in range(12):").replace(
            "            cache = net", "            cache = cache if at % 6 else cache[:16]\n            cache = net"
        ),
        calls=12,
    )  # fmt: skip
    (told,) = [text for text in forecast(program, load_chip("tpu-v5p")).warnings if "compiles each anew" in text]
    assert "12 calls were recorded, and 6 have shapes of their own" in told
