"""Speculative decoding: one model drafts tokens one by one, another reads them at once. A call is a round of both."""

import pytest

from anychip.forecast import forecast
from anychip.record.steps import find_steps
from anychip.spec import load_chip
from tests.device.recorded import run

PROGRAM = """
    import torch

    class Model(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.words, self.head = torch.nn.Embedding(100, width), torch.nn.Linear(width, 100)
        def forward(self, ids):
            return self.head(self.words(ids))

    draft, model = Model(16).cuda(), Model(64).cuda()
    with torch.no_grad():
        ids = torch.zeros(1, 9, dtype=torch.long, device="cuda")
        model(ids), draft(ids)
        for drafts in DRAFTS:
            for _ in range(drafts):
                draft(ids[:, :1])
            model(torch.cat([ids[:, :1]] * READS, 1))
"""


@pytest.mark.parametrize(("drafts", "reads"), [([5, 6] * 3, "(drafts + 1)"), ([12, 11, 1, 9, 10, 12], "drafts")])
def test_a_round_of_drafts_and_their_check_is_one_call(drafts: list[int], reads: str) -> None:
    """Calls of the draft model were the steps: 383 tokens a second were told of a program of which a token takes eight of them."""
    program, _ = run(PROGRAM.replace("DRAFTS", str(drafts)).replace("READS", reads), calls=10**6)
    found = find_steps(program)[-len(drafts) :]
    # before the first round both read the prompt: the draft model behind the other one, and so beside its first drafts
    assert [len(one.forwards) for one in found] == [drafts[0] + 2, *(number + 1 for number in drafts[1:])]
    told = forecast(program, load_chip("h100"))
    assert told.step_kind == "call"
    assert told.tokens_per_step is None
    assert any(f"a round writes 1 to {max(drafts) + 1}" in one for one in told.warnings)


def test_an_encoder_and_its_decoder_are_no_rounds_of_drafts() -> None:
    """What is read once and then written from word by word: a call is a word."""
    text = PROGRAM.replace("DRAFTS", "[12] * 5").replace("READS", "7")
    program, _ = run(text, calls=10**6)
    assert {len(one.forwards) for one in find_steps(program)} == {1}
    assert forecast(program, load_chip("h100")).tokens_per_step == 1


def test_a_step_without_a_call_of_a_module_is_no_round_of_drafts() -> None:
    program, _ = run(
        """
        import torch
        weight = torch.randn(8, 8, device="cuda", requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=0.1)
        for _ in range(9):
            (weight @ weight).sum().backward()
            optimizer.step()
        """,
        steps=3,
    )
    assert forecast(program, load_chip("h100")).step_kind == "train"
