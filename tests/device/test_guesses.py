"""What follows from guesses, and how it is read."""

from tests.device.recorded import run


def test_integers_that_larger_ones_are_viewed_as_have_no_guess_of_theirs() -> None:
    """7,500 is no number of eight bits: the program ended in an error of torch's."""
    _, out = run("""
        import torch
        many = torch.randn(1, 50, device="cuda").argmax(-1) * 300
        out = [many.tolist(), (many.view(torch.uint8) + 1).tolist(), many.view(torch.uint8).tolist()]
    """)
    assert out == [[7500], [2] * 8, [1] * 8]


def test_an_optimizer_of_a_file_that_no_import_knows_steps() -> None:
    """It ended at the name of its module, which was looked up for a line search."""
    program, out = run("""
        import torch
        hidden = {"__name__": "no_such_module", "torch": torch}
        exec('''
        class Descent(torch.optim.Optimizer):
            def __init__(self, params):
                super().__init__(params, dict(max_iter=3, tolerance_grad=1e-7, tolerance_change=1e-9))
            def step(self, closure):
                while closure() > self.param_groups[0]["tolerance_grad"]:
                    return
        ''', hidden)
        layer = torch.nn.Linear(4, 4, device="cuda")
        optimizer = hidden["Descent"](layer.parameters())
        for _ in range(2):
            optimizer.step(lambda: layer(torch.ones(2, 4, device="cuda")).sum())
        out = optimizer.param_groups[0]["tolerance_grad"]
    """)
    assert out == 1e-7
    assert any("Each step of Descent" in one for one in program.meta["warnings"])


def test_reads_in_a_loop_that_ends_by_itself_are_not_counted_against_one_that_waits() -> None:
    _, out = run("""
        import torch
        loss = torch.randn(8, device="cuda").sum()
        def read():
            return loss.item()
        for _ in range(5000):
            read()
        rounds = 0
        while read() > 0.5:
            rounds += 1
        out = rounds
    """)
    assert 950 <= out <= 1000


def test_what_a_mask_selects_is_done_and_what_it_only_mends_is_not() -> None:
    """A radiance field of which no ray was valid computed nothing but its regularisation, without a word."""
    _, out = run("""
        import torch
        x, out = torch.randn(100, 8, device="cuda"), []
        valid, bad, few = x[:, 0] > x[:, 1], x[:, 2] > x[:, 3], torch.randint(0, 1000, (100,), device="cuda") == 3
        if valid.any():
            y = torch.zeros_like(x)
            y[valid] = x[valid] * 2
            out.append("valid")
        if torch.any(bad):
            x[bad] = 0
            out.append("bad")
        if few.any():
            y = x[few]
            out.append("few")
        if bad.any():
            raise ValueError(f"too large: {x[bad]}")
    """)
    assert out == ["valid"]
