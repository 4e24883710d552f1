"""Numbers that are made up, and what programs do with them (docs/values.md)."""

from tests.device.recorded import run


def test_loops_that_wait_for_a_number_end_and_are_told() -> None:
    """An ODE's solver halves its step until an error, read as 1.0 for ever, is small: it never ended, and nothing said why."""
    program, out = run("""
        import torch
        def solve(y, tolerance=1e-3):
            time, step, rounds = 0.0, 0.1, 0
            while time < 1:
                step, rounds = min(step, 1 - time), rounds + 1
                error = (step * y).abs().max().item()
                if error < tolerance:
                    time += step
                step *= min(2.0, max(0.5, 0.9 * (tolerance / error) ** 0.5))
            return rounds
        y = torch.randn(8, device="cuda")
        out = [solve(y) for _ in range(3)]
        rounds = 0
        while y.norm().item() < 100:
            rounds += 1
        out += [rounds, sum(y[0].item() for _ in range(2000))]
    """)
    assert out[1:] == [4, 4, 3000, 2000.0]  # once it is known to wait, each of them ends as soon as it may
    assert 1000 < out[0] < 2100
    told = [text.split()[0] for text in program.meta["warnings"]]
    assert told == ["program.py:8:", "program.py:16:"]


def test_numbers_that_follow_from_a_guess_are_read_as_what_follows() -> None:
    """How many of five guessed tokens were kept is read as one, so a text grows by that and not to a length of 1."""
    _, out = run("""
        import torch
        kept = (torch.randn(1, 5, device="cuda") > 0).cumsum(-1).eq(0).sum(-1)
        length = torch.full((1,), 100, device="cuda")
        length += 5
        rejected = 5 - kept
        length -= rejected
        token = torch.randn(1, 50, device="cuda").argmax(-1)
        many = torch.full((8,), 3, device="cuda") * torch.randn(8, 50, device="cuda").argmax(-1)
        out = [kept.item(), rejected.item(), length.amax().item(), bool(length < 512), (token * 2 + 1).item(), many.tolist()]
    """)
    assert out == [1, 4, 101, True, 51, [75] * 8]


def test_results_that_a_program_gives_are_known_as_new_ones_are() -> None:
    """GPyTorch's conjugate gradients sum into a tensor of theirs, which ended in a traceback."""
    _, out = run("""
        import torch
        x, total, above = torch.randn(8, 4, device="cuda"), torch.empty(4, device="cuda"), torch.empty(8, 4, device="cuda").bool()
        torch.sum(x, 0, out=total)
        torch.gt(x, 0, out=above)
        torch.lt(x[0, :1], 0.5, out=above[0, :1])
        ones = torch.empty((), dtype=torch.long, device="cuda")
        torch.sum(torch.ones(600, dtype=torch.long, device="cuda"), 0, out=ones)
        first, at = torch.empty(8, 2, device="cuda"), torch.empty(8, 2, dtype=torch.long, device="cuda")
        torch.topk(x, 2, out=(first, at))
        out = [total.tolist(), ones.item(), at[0].tolist()]
    """)
    assert out == [[1.0] * 4, 600, [1, 2]]
