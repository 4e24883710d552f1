"""What a program that writes texts is told by its tokens: how long they are, which beams go on, where one ends (docs/values.md)."""

import pytest

from tests.device.recorded import run


def test_texts_are_as_long_as_they_may_be_however_many_are_written() -> None:
    """transformers asks after each token whether all texts have ended: of 300 tokens 202 were written, and 2 of each text after that."""
    program, out = run("""
        import torch
        class Stop:
            def __call__(self, unfinished):
                return bool(unfinished.max() == 0)
        stop, table, out = Stop(), torch.nn.Embedding(100, 8).cuda(), []
        for length in 300, 300, 1500:
            tokens, number, done = torch.ones(4, 1, dtype=torch.long, device="cuda"), 0, False
            unfinished = torch.ones(4, dtype=torch.long, device="cuda")
            while not done:
                number += 1
                tokens = torch.multinomial((table(tokens[:, -1]) @ table.weight.T).softmax(-1), 1)
                ended = torch.full((4,), number >= length, device="cuda") | torch.isin(tokens[:, -1], torch.tensor([2], device="cuda"))
                unfinished = unfinished & ~ended
                done = stop(unfinished)
            out.append(number)
    """)
    assert out == [300, 300, 1500]
    assert not any("answered" in text for text in program.meta["warnings"])


@pytest.mark.parametrize(
    ("loop", "written"), [("while True", 202), ("while number < 300", 300), ("for _ in range(300)", 300)]
)
def test_a_text_that_only_its_end_ends_is_not_written_for_ever(loop: str, written: int) -> None:
    """10,000 tokens of a model are hours; where the loop has a length, that is what the text has."""
    _, out = run(f"""
        import torch
        table, tokens, number = torch.nn.Embedding(100, 8).cuda(), torch.ones(1, dtype=torch.long, device="cuda"), 0
        {loop}:
            tokens = (table(tokens) @ table.weight.T).argmax(-1)
            number += 1
            if (tokens == 2).all():
                break
        out = number
    """)
    assert out == written


def test_a_token_that_was_chosen_is_none_with_a_special_meaning() -> None:
    """Numbers at the ends of a vocabulary stand for the end of a text: a program would stop generating."""
    _, out = run("""
        import torch
        logits = torch.randn(3, 32000, device="cuda")
        out = [logits.argmax(-1).tolist(), torch.multinomial(logits.softmax(-1), 1)[0].item()]
    """)
    assert out == [[16000] * 3, 16000]


def test_generated_tokens_seldom_end_a_text() -> None:
    """Padding after the end of a text is found by comparing tokens with one of 32,000: nearly no row has it."""
    _, out = run("""
        import torch
        prompt = torch.randint(0, 32000, (4, 6)).cuda()
        unfinished = torch.ones(4, dtype=torch.long, device="cuda")
        for _ in range(8):
            tokens = torch.multinomial(torch.randn(4, 32000, device="cuda").softmax(-1), 1).squeeze(1)
            tokens = tokens * unfinished + 2 * (1 - unfinished)
            prompt = torch.cat([prompt, tokens[:, None]], dim=1)
        made = prompt[:, 6:]
        ended = made == 2
        end = torch.full((4,), made.shape[1], dtype=torch.long, device="cuda")
        end[ended.any(dim=1)] = ended.int().argmax(dim=1)[ended.any(dim=1)]
        mask = (torch.arange(made.shape[1], device="cuda").expand(4, -1) <= end.unsqueeze(1)).int()
        out = [len(row[keep].tolist()) for row, keep in zip(made.cpu(), mask.bool().cpu())]
        among = torch.isin(made, torch.tensor([2, 3], device="cuda"))
        out.append(made[among.any(dim=1)].shape[0])
    """)
    assert out == [8, 8, 8, 8, 0]


def test_generation_ends_at_its_longest() -> None:
    """`generate` asks whether all rows are done: at its longest all are, whether or not one of them met the end of a text.
    It ran on past `max_new_tokens`, since an all-true mask or an unknown one was unknown; with 600 rows as with 4."""
    _, out = run("""
        import torch
        out = []
        for rows in (4, 600):
            unfinished = torch.ones(rows, dtype=torch.long, device="cuda")
            for length in range(1, 100):
                token = torch.randint(0, 32000, (rows,), device="cuda")
                done = torch.full((rows,), False, device="cuda")
                done = done | torch.full((rows,), length >= 8, device="cuda", dtype=torch.bool)
                done = done | torch.isin(token, torch.tensor([2], device="cuda"))
                unfinished = unfinished & ~done
                if unfinished.max() == 0:
                    break
            out.append(length)
    """)
    assert out == [8, 8]


def test_a_beam_that_has_no_rival_goes_on() -> None:
    """Beam search ended after one token: scores that were never set, -1e9, were taken for better than a beam's."""
    _, out = run("""
        import torch
        scores = torch.log_softmax(torch.randn(4, 8, device="cuda"), -1)
        finished = torch.zeros(4, 8, dtype=torch.bool, device="cuda")
        worst = torch.where(finished, scores.min(dim=1, keepdim=True)[0], -1.0e9)
        better = torch.any(scores[:, :1] > worst, dim=-1)
        out = [bool(better.all()), bool((scores < float("-inf")).any()), bool((scores < 3.0).all()), worst[0, 0].item()]
    """)
    assert out == [True, False, True, -1e9]


def test_beams_of_which_it_is_not_known_that_none_has_ended_go_on() -> None:
    """Beam search of 8 texts of 1,088 tokens ended after one: more integers than keep values, each one of 32,000."""
    _, out = run("""
        import torch
        texts = torch.randint(0, 32000, (8, 8, 1088), device="cuda")
        ended = torch.isin(texts[:, :, 1024], torch.tensor([2], device="cuda"))
        scores = torch.log_softmax(torch.randn(8, 8, device="cuda"), -1)
        worst = torch.where(ended, scores.min(dim=1, keepdim=True)[0], -1.0e9)
        goes_on = torch.ones(8, 1, dtype=torch.bool, device="cuda") & torch.any(scores[:, :1] > worst, dim=-1, keepdim=True)
        out = [bool(torch.any(goes_on) & ~torch.all(ended)), bool(torch.any(ended) | torch.all(ended))]
    """)
    assert out == [True, False]


def test_the_best_of_several_vocabularies_are_no_ends_of_one() -> None:
    """Of 4 beams times 32,000 tokens the middle is where a vocabulary begins: one beam had ended at once."""
    _, out = run("""
        import torch
        beams = [torch.randn(2, beams * 32000, device="cuda").topk(2 * beams).indices % 32000 for beams in (1, 2, 3, 4, 5, 6, 8)]
        out = [min(one.min().item() for one in beams), max(one.max().item() for one in beams)]
    """)
    assert 1000 < out[0] < out[1] < 31000


def test_a_text_is_cut_at_its_end() -> None:
    """Whisper looks for the first end of a text, which it was padded with: it read the second place, nothing was left of the text, and a score was
    divided by its length."""
    _, out = run("""
        import torch
        prompt = torch.tensor([[50258, 50259, 50359]], device="cuda")
        words = torch.randn(1, 20, 51866, device="cuda").argmax(-1)
        text = torch.nn.functional.pad(torch.cat([prompt, words], -1), (0, 1), value=50257)[0]
        end = (text == 50257).nonzero()[0, 0]
        grid = (torch.randn(5, 7, device="cuda") > 0).nonzero()
        out = [text[3:end].tolist().__len__(), grid[0].tolist(), (prompt[0] == 50259).nonzero()[0, 0].item()]
    """)
    assert out == [20, [4, 4], 1]
