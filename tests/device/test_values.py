"""What a program is told when it reads values or picks by them (docs/values.md)."""

import random

import numpy as np
import torch

from tests.device.recorded import run


def test_a_list_of_indices_comes_back_as_it_was_sent() -> None:
    """DDP sends the indices of its buckets through the chip to agree on them; 1,000 parameters are usual."""
    _, out = run("""
        import torch
        sent = torch.randperm(1000, dtype=torch.int32)
        back = sent.cuda().cpu()
        there = torch.empty(1000, dtype=torch.int32, device="cuda")
        there.copy_(sent)
        out = [bool((back == sent).all()), bool((there.cpu() == sent).all()), (sent.cuda().max() + 1).item()]
    """)
    assert out == [True, True, 1000]


def test_numbers_of_the_host_come_back_as_they_were_sent() -> None:
    """Labels go to the chip with a batch and come back for a metric, which wants both kinds: all 4,096 were 1."""
    _, out = run("""
        import torch
        sent = (torch.arange(4096) % 2).float()
        there, parts = sent.cuda(), torch.empty(4096, device="cuda")
        parts[:4000].copy_(sent[:4000])
        parts[4000:] = there[4000:]
        back = there.cpu(), parts.half().double().clone().cpu(), there.view(64, 64)[:, 10:50].t().contiguous().cpu()
        out = [bool((back[0] == sent).all()), bool((back[1] == sent).all()), back[2].sum().item(), there.sum().item()]
        wrote = []
        for write in (
            lambda x: x.add_(1.0), lambda x: x[:2000].mul_(3.0), lambda x: torch._foreach_add_([x], 1.0),
            lambda x: torch.add(x, 1.0, out=x), lambda x: x.copy_(torch.randn(4096, device="cuda")), lambda x: x.data.relu_(),
        ):
            for _ in range(2):  # the second time the op is known
                given = sent.cuda()
                write(given)
                wrote.append(given.cpu().unique().tolist())
        out.append(wrote)
    """)
    assert out == [True, True, 1280.0, 2048.0, [[1.0]] * 12]


def test_what_is_made_on_the_chip_of_nothing_else_has_its_values() -> None:
    """F5-TTS makes a mask of lengths there, whose fullest row is how long a batch is padded: above 256 elements 1 was read."""
    _, out = run("""
        import torch
        n = 300
        numbers = torch.arange(n, device="cuda")
        lengths = torch.tensor([280, 100]).cuda()
        longest = (numbers[None, :] < lengths[:, None]).sum(dim=1)
        causal = torch.tril(torch.ones(n, n, device="cuda"))
        hot = torch.nn.functional.one_hot(numbers % 7, 7)
        marked = torch.zeros(1000, dtype=torch.bool, device="cuda")
        marked[:n] = True
        part = torch.full((1000,), 7.0, device="cuda")
        part[:n] = 2.0
        out = [
            numbers.max().item(), (numbers < 100).sum().item(), (numbers.flip(0) - 5)[0].item(), longest.tolist(), longest.max().item(),
            (causal == 0).sum().item(), causal.bool().sum(-1).max().item(), hot.sum(0).tolist(), hot.sum(1).max().item(),
            torch.randn(1000, device="cuda")[~marked].shape[0], part.sum().item(), torch.ones(20000, dtype=torch.long, device="cuda").cpu().sum().item(),
            numbers[None].expand(100_000, n).sum().item() > 0,
        ]
    """)
    rows = [43] * 6 + [42]
    assert out == [299, 100, 294, [280, 100], 280, 44850, 300, rows, 1, 700, 600 + 4900, 20000, True]


def test_numbers_that_were_filled_are_not_so_once_something_wrote_to_them() -> None:
    """A moment of an optimizer begins as zeros, and who divides by what is read of it ended in an error."""
    _, out = run("""
        import torch
        out = []
        for write in (
            lambda x: x.add_(1.0), lambda x: torch._foreach_add_([x], 1.0), lambda x: x[:500].mul_(2.0), lambda x: x.lerp_(x, 0.5),
            lambda x: x[:300].copy_(torch.randn(300, device="cuda")), lambda x: x.index_add_(0, torch.tensor([3]).cuda(), x[:1]),
        ):
            for _ in range(2):
                made = torch.zeros(1000, device="cuda")
                write(made)
                out.append([made.sum().item(), made.cpu()[0].item()])
    """)
    assert out == [[1.0, 1.0]] * 12


def test_what_is_drawn_without_a_seed_is_the_same_on_each_target() -> None:
    """A shuffle gave each column of a table batches of its own: 8,376 tokens a step on one chip and 7,824 on another."""
    _, drawn = run("""
        import random
        import numpy as np
        import torch
        out = [random.random(), np.random.rand(), torch.rand(3).tolist()]
        torch.ones(1, device="cuda")
    """)
    seeded = torch.rand(3, generator=torch.Generator().manual_seed(0)).tolist()
    assert drawn == [random.Random(0).random(), np.random.RandomState(0).rand(), seeded]


def test_the_largest_five_are_five_different_ones() -> None:
    """Beam search keys its candidates by token: equal ones would be one candidate."""
    _, out = run("""
        import torch
        best = torch.randn(2, 100, device="cuda").topk(5).indices.tolist()
        first = torch.randn(8, 4, device="cuda").topk(2).indices
        out = [[len(set(row)) for row in best], torch.bincount(first.flatten(), minlength=4).tolist()]
    """)
    assert out == [[5, 5], [4, 4, 4, 4]]


def test_checks_of_labels_pass() -> None:
    """A plausible label is 1: in range where there are two classes. A check that nothing is wrong, compared with false."""
    _, out = run("""
        import torch
        labels = torch.randint(0, 2, (3, 400, 400)).cuda()
        bad = torch.randn(5000, device="cuda").abs().min().lt(1e-11)
        out = [bool(labels.min() >= 0), bool(labels.max() < 2), bool(labels.max() < 1), bad.item(), bad.eq(0).item()]
    """)
    assert out == [True, True, False, False, True]


def test_a_sampler_takes_as_many_boxes_as_it_chose() -> None:
    """Mask R-CNN marks 128 boxes of one kind and 384 of another in masks of 2,005; all 2,005 went on to its heads."""
    _, out = run("""
        import torch
        chosen, others = (torch.zeros(2005, dtype=torch.uint8, device="cuda") for _ in range(2))
        chosen[torch.randperm(2005, device="cuda")[:128]] = 1
        others[torch.randperm(2005, device="cuda")[:384]] = 1
        grid = torch.zeros(100, 20, dtype=torch.bool, device="cuda")
        grid[torch.randperm(100, device="cuda")[:25]] = True
        out = [one.nonzero().shape[0] for one in (chosen, chosen | others, grid)]
    """)
    assert abs(out.pop(1) - 512) < 30
    assert out == [128, 500]


def test_a_few_elements_of_a_large_cache_are_written() -> None:
    """The host made a copy of the whole, 76 GB, to keep what they are."""
    _, out = run("""
        import torch
        cache = torch.empty(19_000_000_000, dtype=torch.float32, device="cuda")
        cache[:16].fill_(3.0)
        cache[16:20] = torch.arange(4.0)
        cache[:4].masked_fill_(torch.ones(4, dtype=torch.bool, device="cuda"), -1e9)
        small = torch.zeros(64, device="cuda")
        small[:16].fill_(3.0)
        out = [list(cache[:2].tolist()), small[15:17].tolist()]
    """)
    assert out == [[1.0, 1.0], [3.0, 0.0]]


def test_a_tensor_is_equal_to_itself_on_the_host_as_on_the_chip() -> None:
    """A large mask of which nothing was known was all true there: a check for what is no number found a million."""
    _, out = run("""
        import torch
        x = torch.randn(1000, 1000, device="cuda")
        out = [int((x != x).cpu().sum()), int((x == x).cpu().sum()), int((x != x).sum()), bool((x != x).any())]
    """)
    assert out == [0, 10**6, 0, False]
