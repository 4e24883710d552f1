"""How much a mask selects, and how full experts and ranges are, where nothing or little is known of the data (docs/values.md)."""

import pytest

from tests.device.recorded import run


@pytest.mark.parametrize("samples", [4, 400])  # with values, and more than keep them
@pytest.mark.parametrize("kind", ["bool", "uint8", "int64", "float32", "float64"])
def test_a_mask_that_comes_as_numbers_selects_as_many_as_it_has(samples: int, kind: str) -> None:
    """VideoMAE's loader gives zeros and ones of NumPy's type; all of 1,568 tokens went on for 160."""
    program, out = run(f"""
        import torch
        one = torch.cat([torch.zeros(160), torch.ones(1408)])
        mask = torch.stack([one[torch.randperm(1568)] for _ in range({samples})]).to(torch.{kind}).cuda()
        x = torch.randn({samples}, 1568, 2, device="cuda")
        picked = [~mask.to(torch.bool), mask.bool().flatten(1).logical_not(), mask == 0, ~(mask > 0), ~(mask != 0)]
        out = [list(x[one].reshape({samples}, -1, 2).shape) for one in picked]
    """)
    assert out == [[samples, 160, 2]] * 5
    assert not any("selects" in text for text in program.meta["warnings"])


def test_a_mask_of_which_nothing_is_known_is_told_where_it_decides_a_shape() -> None:
    program, _ = run("""
        import torch
        x = torch.randn(4096, device="cuda")
        for limit in 0.1, 0.2:
            kept = x[x > limit]
        one = x[:1][x[:1] > 0]
        known = x[torch.ones(4096, dtype=torch.bool).cuda()]
    """)
    (told,) = [text for text in program.meta["warnings"] if "selects" in text]
    assert told.startswith("program.py:6: what a mask selects is taken to be all")


def test_a_mask_in_the_shape_of_numbers_has_its_sums() -> None:
    """wav2vec 2.0 makes one of its sounds and sums it: of 80,000 samples 1 was told, of which its convolutions left -1 for the CTC loss."""
    _, out = run("""
        import torch
        sounds = torch.randn(4, 80000, device="cuda")
        masks = (
            torch.ones_like(sounds, dtype=torch.long), torch.full_like(sounds, 2, dtype=torch.long),
            sounds.new_ones(4, 80000, dtype=torch.long), ~torch.zeros_like(sounds, dtype=torch.bool),
        )
        out = [mask.sum(-1).tolist()[0] for mask in masks]
        lengths = torch.div(masks[0].sum(-1) - 10, 5, rounding_mode="floor") + 1
        out.append(lengths.tolist())
    """)
    assert out == [80000, 160000, 80000, 80000, [15999] * 4]


def test_a_mask_of_the_host_selects_as_many_as_it_has() -> None:
    """A layer keeps which of its 3,072 columns are adapted as a mask on the host."""
    _, out = run("""
        import torch
        mask = torch.zeros(3, 1024, dtype=torch.bool)
        mask[0] = mask[2] = True
        mask = mask.view(-1)
        x = torch.randn(2048, 4, device="cuda", requires_grad=True)
        padded = x.new_zeros(3072, 4)
        padded[mask] = x
        padded.sum().backward()
        out = [list(padded[mask].shape), list(x.grad.shape)]
    """)
    assert out == [[2048, 4], [2048, 4]]


def test_a_mask_selects_as_many_on_the_host_as_on_the_chip() -> None:
    """Scores are on the chip and the points that they are of on the host: both are filtered, and then once more."""
    _, out = run("""
        import torch
        scores, points = torch.randn(192, device="cuda"), torch.zeros(192, 2)
        for limit in 0.5, 0.9:
            keep = scores > limit
            scores, points = scores[keep], points[keep.cpu()]
        unused = torch.randn(192, device="cuda") > 0.5
        out = [len(scores), len(points), int(unused.cpu().sum())]
    """)
    assert out == [192, 192, 0]


def test_what_is_known_of_one_mask_decides_with_another_of_which_nothing_is() -> None:
    _, out = run("""
        import torch
        out = []
        for n in (4, 600):  # spelled out, and not
            true, false = torch.full((n,), True, device="cuda"), torch.zeros(n, dtype=torch.bool, device="cuda")
            unknown = torch.randn(n, device="cuda") > 0
            grown = unknown.clone()
            grown |= true
            part = false.clone()
            part[: n // 2] |= unknown[: n // 2] | true[: n // 2]
            seen = [
                (true | unknown).all(), torch.logical_or(unknown, true).all(), ~(unknown & false).any(), grown.all(),
                ~torch.where(true, false, unknown).any(), torch.where(unknown, true, true).all(),
                unknown.masked_fill(true, True).all(), torch.cat([true, true]).all(), true.expand(3, n).repeat(2, 1).all(),
                ~torch.cat([true, false]).all(), (true ^ false).all(), not part[-1], (true != false).all(),
            ]
            out.append([at for at, one in enumerate(seen) if not one])
        present = torch.ones(8, 512, dtype=torch.long, device="cuda")
        labels = torch.randint(0, 2, (3, 400), device="cuda")
        in_range = (labels.min() >= 0) & (labels.max() < 2)
        out += [present.sum(-1).tolist(), bool((present == 0).any()), bool(in_range), bool(~in_range)]
    """)
    assert out == [[], [], [512] * 8, False, True, False]


def test_a_large_mask_selects_as_much_on_the_host_as_on_the_chip() -> None:
    """Rays that hit a box were picked on the host: none was, and the training had no batch."""
    _, out = run("""
        import torch
        rays = torch.rand(40000, 2, device="cuda")
        hit, one = rays[:, 0] > rays[:, 1], torch.randint(0, 8, (40000,), device="cuda") == 3
        out = [torch.arange(40000)[mask.cpu()].numel() for mask in (hit, one)] + [rays[mask].shape[0] for mask in (hit, one)]
        out += [int(torch.zeros(40000, dtype=torch.bool, device="cuda").cpu().sum()), int(torch.isnan(rays).cpu().sum())]
    """)
    assert out == [40000, 5000, 40000, 5000, 0, 0]


def test_a_mask_takes_over_what_another_one_says_of_what_it_selects() -> None:
    """Detectors narrow a mask by one of what it selected: it still selected all, and YOLOX had other boxes than targets."""
    _, out = run("""
        import torch
        boxes, out = torch.randn(8400, 4, device="cuda"), []
        chosen = torch.zeros(8400, dtype=torch.bool, device="cuda")
        chosen[torch.randperm(8400, device="cuda")[:5000]] = True
        for mask in (boxes[:, 0] > 0, chosen):
            inside = torch.randint(4, (boxes[mask].shape[0],), device="cuda") == 0
            mask[mask.clone()] = inside
            out.append([inside.sum().item(), boxes[mask].shape[0]])
    """)
    assert out == [[2100, 2100], [1250, 1250]]


def test_of_a_large_matrix_that_is_mostly_zeros_it_is_known_how_many_are_not() -> None:
    """A graph's normalised edges came from the host, and pyGAT had one between each two of 2,708 nodes: 6 GB for 0.1. What is written to
    such a matrix is no zeros any more, as to weights that begin as zeros."""
    _, out = run("""
        import torch
        edges = torch.eye(1000) * 0.25
        weight = torch.zeros(1000, 1000).cuda()
        out = [edges.cuda().nonzero().shape[0], weight.nonzero().shape[0]]
        torch._foreach_add_([weight], [torch.randn(1000, 1000, device="cuda")])
        out += [weight.nonzero().shape[0], torch.rand(1000, 1000).cuda().nonzero().shape[0]]
    """)
    assert out == [1000, 0, 1_000_000, 1_000_000]


ADAPTIVE = """
    import torch
    tokens = torch.arange({count}) % 100
    if {large}:
        tokens = torch.cat([tokens, torch.zeros(1 << 17, dtype=torch.int64)])[torch.randperm((1 << 17) + {count})]
    target = tokens.cuda()[:6000]
    found = []
    for low, high in ((0, 7), (7, 20), (20, 50), (50, 100)):
        mask = (target >= low) & (target < high)
        found.append(mask.nonzero().squeeze().numel())
    beyond = (target < 7) | (target >= 20)
    out = [found, int(target[beyond].numel()), int(target[~beyond].numel()), int(target[target != 3].numel())]
"""


def test_ranges_of_tokens_add_up_to_all_and_are_as_full_as_the_data_says() -> None:
    """An adaptive softmax sorts tokens by how rare they are: each range was given all of them, and the second had no room."""
    _, (found, beyond, within, others) = run(ADAPTIVE.format(count=6000, large=False))
    assert found == [420, 780, 1800, 3000]
    assert (beyond, within, others) == (6000 - 780, 780, 6000 - 60)
    _, (found, beyond, within, others) = run(
        ADAPTIVE.format(count=60_000, large=True)
    )  # so many that some are looked at
    assert sum(found) == beyond + within == 6000
    zeros = (1 << 17) / ((1 << 17) + 60_000)
    assert found[0] / 6000 == pytest.approx(zeros + 0.07 * (1 - zeros), abs=0.05)
    assert 0.98 < others / 6000 <= 1.0


def test_experts_of_this_rank_get_their_part_of_the_tokens() -> None:
    """Experts of a rank are picked by their range of numbers: each rank took the tokens of all."""
    text = """
        import torch
        chosen = torch.randn(4096, 64, device="cuda").topk(8).indices
        out = []
        for first in range(0, 64, 16):
            mine = (chosen >= first) & (chosen <= first + 15)
            out.append(int(chosen[mine].numel()))
    """
    assert run(text)[1] == [4096 * 8 // 4] * 4
    uneven = run(text, imbalance=2.0)[1]
    assert sum(uneven) == 4096 * 8
    assert uneven[0] > uneven[1] == uneven[2] == uneven[3]


def test_ranges_of_two_parts_of_a_tensor_have_nothing_to_do_with_one_another() -> None:
    """Of two columns one was taken for the other: nothing was in both ranges, or as much as in one."""
    _, out = run("""
        import torch
        pairs = torch.randint(0, 100, (100_000, 2)).cuda()
        first, second = pairs[:, 0], pairs[:, 1]
        upper, lower = pairs[:50_000], pairs[50_000:]
        count = lambda mask: mask.nonzero().shape[0] / mask.numel()
        out = [count((first >= 50) & (second < 50)), count((first < 80) & (second < 80)), count((upper >= 50) & (lower < 50)),
               count((first >= 50) & (pairs[:, 0] < 80)), count((first < 50) | (first < 30)), count((first < 50) | (first > 20))]
    """)
    # a half of a half, 0.8 * 0.8, a half of a half; the last are of ranges of the same: 0.8 - 0.5, all of the larger, all
    assert out == pytest.approx([0.25, 0.64, 0.25, 0.3, 0.5, 1.0], abs=0.07)  # 1,024 of them are looked at


def test_a_mask_of_what_was_there_before_is_none_of_what_is_there_now() -> None:
    _, out = run("""
        import torch
        numbers = torch.randint(0, 100, (100_000,))
        given = numbers.cuda()
        before = given < 50
        given.copy_(numbers.flip(0))
        half = before & (given >= 50)
        out = half.nonzero().shape[0] / 100_000
    """)
    assert out == pytest.approx(0.5 * 0.5, abs=0.05)


def test_masks_that_are_joined_or_shifted_are_not_of_the_integers_that_they_were_of() -> None:
    _, out = run("""
        import torch
        given = torch.randint(0, 100, (200_000,), dtype=torch.int32).cuda()  # more than keep their values
        count = lambda mask: mask.nonzero().shape[0] / mask.numel()
        low, high = given < 40, given >= 80
        joined, others = torch.cat([low, high]), torch.cat([given >= 20, given >= 0])    # 0.3 of one, 0.9 of the other
        out = [count(low & low.roll(1)), count(joined & others), count(given == 2.5), count(given.bool() == True)]
    """)
    assert out == pytest.approx(
        [0.4 * 0.4, 0.3 * 0.9, 0.0, 0.99], abs=0.06
    )  # by the first of the joined 0.4 and 0.2 were


def test_two_experts_of_each_token_fill_them_alike() -> None:
    """A gate that drops no token gives each expert as much room as the fullest needs: it was read as room for one."""
    _, out = run("""
        import torch
        scores = torch.randn(2048, 8, device="cuda")
        first = torch.nn.functional.one_hot(scores.argmax(1), num_classes=8)
        second = torch.nn.functional.one_hot(scores.masked_fill(first.bool(), float("-inf")).argmax(1), num_classes=8)
        out = (first + second).sum(0).max().item(), (first + 1).sum(0).max().item()
    """)
    assert out[0] == 2048 * 2 // 8
    assert out[1] != 2048 * 2 // 8  # no mask is added


def test_sums_of_masks_that_are_no_shares_are_as_before() -> None:
    _, out = run("""
        import torch
        ones = torch.ones(64, 1000, dtype=torch.long, device="cuda")
        hot = torch.nn.functional.one_hot(torch.randn(1024, 8, device="cuda").argmax(1), num_classes=8)
        index, counts = torch.randn(1000, 8, device="cuda").argmax(1), torch.zeros(8, dtype=torch.long, device="cuda")
        tripled = counts.index_add(0, index, torch.ones_like(index), alpha=3)
        out = (ones + ones).sum().item(), (ones + hot.new_zeros(64, 1000)).sum().item(), tripled.tolist()
    """)
    assert out[:2] == [128000, 64000]
    assert out[2] != [125] * 8


def test_ones_that_are_added_up_by_their_experts_are_all_there() -> None:
    """What each expert gets is how an exchange is split: parts that do not add up to all rows end the program."""
    _, out = run("""
        import torch
        chosen = torch.randn(4096, 16, device="cuda").topk(2).indices.view(-1)
        zeros, ones = torch.zeros(16, dtype=torch.int64, device="cuda"), torch.ones_like(chosen)
        added = zeros.scatter_add(0, chosen, ones), zeros.index_add(0, chosen, ones), zeros.scatter_add_(0, chosen, ones)
        out = [one.tolist() for one in added]
    """)
    assert out == [[512] * 16] * 3


def test_gates_above_zero_are_as_many_as_were_scattered() -> None:
    """A layer of experts splits its rows by how many gates are above zero, and finds the rows by the gates that are not zero."""
    _, out = run("""
        import torch
        for tokens, experts, k in (5, 10, 4), (512, 8, 2):
            scores, chosen = torch.randn(tokens, experts, device="cuda").topk(k)
            gates = torch.zeros(tokens, experts, device="cuda").scatter(1, chosen, scores.softmax(1))
            sizes = [(gates > 0).sum(0).tolist(), (gates != 0).sum(0).tolist()]
            rows = torch.nonzero(gates)[:, 0]
            out = (out or []) + [[len(rows), sum(sizes[0]), sum(sizes[1]), max(sizes[0]), int((gates <= 0).sum())]]
            parts = torch.randn(tokens, 3, device="cuda")[rows].split(sizes[0])
    """)
    assert out == [[20, 20, 20, 2, 30], [1024, 1024, 1024, 128, 3072]]


def test_an_expert_is_picked_once_for_each_token() -> None:
    """`(picked == expert).any(-1)` (makeMoE): 120 of 512 tokens for each of eight experts of which each takes two, as if one could be
    picked twice; all of them are 1,024."""
    rows = """
        import torch
        x, picked = torch.randn(512, 4, device="cuda"), torch.randn(512, 8, device="cuda").topk(2, -1).indices
        out = [x[(picked == expert).any(-1)].shape[0] for expert in range(8)]
    """
    assert run(rows)[1] == [128] * 8
    assert run(rows, imbalance=2.0)[1] == [256] + [110] * 7
