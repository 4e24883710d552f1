"""Indices that came from the host and are outside of what they index are refused; those that are inside, or unknown, are not."""

import pytest

from tests.device.recorded import run

# What a program does -> the index that is outside, how many there are, from where they count.
OUTSIDE = {
    "table(on_chip(3, 10))": (10, 10, 0),
    "table(on_chip(-1))": (-1, 10, 0),
    "table(torch.full((64, 64), 999).cuda())": (999, 10, 0),
    "table(torch.arange(20, device='cuda'))": (10, 10, 0),
    "x.gather(1, on_chip(4).view(1, 1))": (4, 4, 0),
    "x.index_select(-1, on_chip(4))": (4, 4, 0),
    "x.scatter_(1, on_chip(7).view(1, 1), 1.0)": (7, 4, 0),
    "x.index_add_(0, on_chip(9), x[:1])": (9, 8, 0),
    "x[:, on_chip(-5)]": (-5, 4, -4),
    "x.index_put_((on_chip(8),), x[:1])": (8, 8, -8),
    "F.cross_entropy(x[:2], on_chip(1, 4))": (4, 4, 0),
    "F.one_hot(on_chip(5), 3)": (5, 3, 0),
}
INSIDE = (
    "table(on_chip(0, 9))", "x[on_chip(-8, 7)]", "F.cross_entropy(x[:2], on_chip(1, -100))", "x[x > 0]",
    "F.cross_entropy(x[:2], on_chip(3, -1), ignore_index=-1)", "table(x.argmax(1))", "x.gather(1, on_chip(3).view(1, 1))",
    "table(torch.empty_like(on_chip(*range(40))))", "table((on_chip(12) - 3))", "table(on_chip(12).clamp(max=9))",
)  # fmt: skip


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    program = f"""
        import torch
        import torch.nn.functional as F
        def on_chip(*values): return torch.tensor(values).to("cuda")
        table, x = torch.nn.Embedding(10, 4).cuda(), torch.rand(8, 4, device="cuda")
        out = {{}}
        for case in {[*OUTSIDE, *INSIDE]!r}:
            try:
                eval(case)
                out[case] = ""
            except RuntimeError as error:
                out[case] = str(error)
    """
    return run(program)[1]


@pytest.mark.parametrize("case", OUTSIDE)
def test_an_index_of_the_hosts_that_is_outside_is_refused(said: dict[str, str], case: str) -> None:
    index, size, least = OUTSIDE[case]
    assert said[case].startswith("CUDA error: device-side assert triggered: ")
    assert f" is given index {index} where there are {size} (from {least})" in said[case]


@pytest.mark.parametrize("case", INSIDE)
def test_an_index_that_is_inside_or_unknown_is_taken(said: dict[str, str], case: str) -> None:
    assert said[case] == ""
