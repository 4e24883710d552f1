"""What is an optimizer's own."""

import time
from types import SimpleNamespace

import torch

from anychip.device.steps.holdings import kept_by


class Pairs(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self) -> None:
        self.each = [(torch.zeros(1), number) for number in range(1000)]


def test_the_data_that_an_optimizer_s_trainer_has_are_not_its_own() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], 0.1)
    optimizer.factor = SimpleNamespace(left=torch.ones(3))
    optimizer.trainer = SimpleNamespace(data=Pairs(), model=torch.nn.Linear(2, 2))
    assert sorted(one.numel() for one in kept_by(optimizer)) == [2, 3]


def test_an_optimizer_that_knows_a_million_objects_is_not_looked_into_for_seconds() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], 0.1)
    optimizer.known = [(number, str(number)) for number in range(500_000)]
    began = time.perf_counter()
    kept_by(optimizer)
    assert time.perf_counter() - began < 2.0
