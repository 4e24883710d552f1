"""What a program is told where a value of the chip decides how it goes on: loops and checks (docs/values.md)."""

import textwrap

from tests.device.recorded import names, run


def test_what_waits_for_a_loss_to_fall_ends_and_is_told() -> None:
    """A tolerance is not reached before the steps are recorded; what compares two losses stops, and its line is named."""
    train = """
        import torch
        model = torch.nn.Linear(64, 64).cuda()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        def step():
            optimizer.zero_grad()
            loss = model(torch.ones(2, 64, device="cuda")).square().mean()
            loss.backward()
            optimizer.step()
            return loss
    """
    ends = {
        "while step() > 1e-3: pass": "",
        "while not (step() < torch.tensor([1e-3], device='cuda')).all(): pass": "",
        "best, last = step().item(), step().item()": "program.py:12 after 2 of 3 steps --steps 2",
        "x = torch.randn(4, device='cuda')\nwhile x.norm() > 1e-3: x = x / 2": "program.py:13: answered True 200 times",
        "x = torch.randn(4, device='cuda')\nlast = x.sum().item()": "program.py:13 without a step",
    }
    for end, told in ends.items():
        program, _ = run(textwrap.dedent(train) + end)
        (said,) = [one for one in program.meta["warnings"] if "an optimizer (SGD) that took no step" not in one] or [""]
        assert bool(told) == bool(said), (end, said)
        assert all(word in said for word in told.split()), (end, said)
        assert (program.meta["steps"] == 3) == (not told)


def test_weights_that_are_drawn_again_until_they_are_within_bounds_are_no_loop_of_the_programs() -> None:
    """torch asks once for each tensor: above 200 of them, its answer began to alternate and the program was said to wait for it."""
    program, _ = run("""
        import torch
        weights = [torch.empty(8, 8, device="cuda") for _ in range(300)]
        for weight in weights:
            torch.nn.init.trunc_normal_(weight, std=0.02)
        out = 0
    """)
    assert not any("a loop that waits" in text for text in program.meta["warnings"])
    assert sum(name.startswith("aten.normal_") for name in names(program)) == 300


def test_a_condition_that_is_asked_for_each_parameter_is_no_loop_that_waits() -> None:
    """DINO clips its gradients one by one: from the 200th on every other was scaled, and each step had other ops."""
    program, _ = run("""
        import torch
        weights = [torch.ones(1000, device="cuda") for _ in range(90)]
        steps = 0
        while steps < 3:
            for weight in weights:
                norm = weight.norm()
                if norm > 1:
                    weight.mul_(1 / norm)
            steps += 1
        out = 0
    """)
    assert not any("a loop that waits" in text for text in program.meta["warnings"])
    assert sum(name.startswith("aten.mul_") for name in names(program)) == 0


def test_a_long_loop_over_what_ends_is_no_loop_that_waits() -> None:
    """A `for` of more than 255 instructions begins with another one: it was taken for a `while`, and a text that a long loop wrote began
    to be read otherwise at its 200th token (MiniMind)."""
    _, out = run(f"""
        import torch
        x, said = torch.randn(2, 4, device="cuda"), set()
        for _ in range(300):
            said.add(bool(x[0, 0] == x[1, 0]))
            {"y = x.shape[0] + 1; " * 60}
        out = list(said)
    """)
    assert out == [False]


def test_a_number_of_which_nothing_is_known_is_compared_as_if_it_were_read() -> None:
    """A solver asserts that a time lies between two others, of which one was computed: 0 <= 1 <= 1."""
    _, out = run("""
        import torch
        first, time = torch.tensor([0.0, 1.0], device="cuda")
        last = first + torch.randn((), device="cuda")
        out = [bool((first <= time) & (time <= last)), bool(time > last), bool(last > first)]
    """)
    assert out == [True, False, True]


def test_a_loop_of_which_nothing_says_that_it_goes_on_goes_round_once() -> None:
    """A solver with steps of its own choice took none, so an ODE's layers were not in the figures. Loops that guesses keep going, and
    conditions within a loop, are read as before."""
    program, out = run("""
        import torch
        x, rounds = torch.randn(4, device="cuda"), [0] * 7
        for _ in range(3):
            while x[0] > x[1]:
                rounds[0] += 1
            while (x > 3).any():
                rounds[1] += 1
            while not (x[0] > x[1]).item() and not (x > 0).all():
                rounds[2] += 1
            while True:
                rounds[3] += 1
                if (x > 0).all(): break
            limits = torch.tensor([0.0, 1.0], device="cuda")
            while limits[0] < limits[1]:  # known the first time
                rounds[6] += 1
                limits = limits + x[0]
            while x[0] > 0.5:
                rounds[4] += 1
                if rounds[4] % 5 == 0: break
            while rounds[5] % 5 < 4:
                rounds[5] += 1
                if x[0] > x[1]: rounds[5] += 100
        out = rounds
    """)
    assert out == [3, 3, 3, 3, 15, 4, 3]
    told = [text.split()[0] for text in program.meta["warnings"] if "go round once" in text]
    assert told == ["program.py:6:", "program.py:8:", "program.py:10:", "program.py:16:"]


def test_a_solver_that_goes_its_whole_length_is_told() -> None:
    """Conjugate gradients in a `for`, left where the error is small (gpytorch): its 1,000 rounds were told as a step's without a word. A
    text that is written to its length is not told."""
    program, out = run("""
        import torch
        x, rounds = torch.randn(4, device="cuda"), [0] * 3
        for k in range(300):
            rounds[0] += 1
            if k > 10 and bool(x.norm() < 1e-3):
                break
        for k in range(300):
            rounds[1] += 1
            token = torch.multinomial(x.softmax(0), 1)
            if (x < token).all() and bool(x[0] < 0.0): break
        for k in range(300):
            for _ in range(2):
                rounds[2] += 1
                if (x > 0).all(): break
        out = rounds
    """)
    assert out == [300, 300, 600]
    told = [text.split()[0] for text in program.meta["warnings"] if "whole length" in text]
    assert told == ["program.py:7:", "program.py:16:"]


def test_a_text_whose_rows_are_all_to_end_is_written_to_its_length() -> None:
    """`if done.all(): break` where the prompts are too many to be known (GRPO written by hand): the first token was the last, as `all` of
    what nobody knows is read as true. With a default device a function mode stands between the read and its line."""
    _, out = run("""
        import torch
        torch.set_default_device("cuda")
        tokens = torch.zeros(64, 1200, dtype=torch.int64)
        tokens[0, :8] = torch.ones(8, dtype=torch.int64)
        is_prompt, out = tokens != 0, 0
        done = torch.zeros(64, dtype=torch.bool)
        for at in range(8, 38):
            out += 1
            token = torch.multinomial(torch.rand(64, 100), 1)[:, 0]
            done |= (token == 2) & ~is_prompt[:, at]
            if done.all():
                break
    """)
    assert out == 30


def test_checks_of_what_is_not_known_hold() -> None:
    """A solver asserts that its time goes on: of two numbers that nobody knows neither is more."""
    _, out = run("""
        import torch
        now, step = torch.randn(2, device="cuda")
        assert now + step > now, "underflow"
        assert not (now > step or (now < 0).item())
        x, window = torch.randn(2, 4000, device="cuda"), torch.hann_window(400, device="cuda")
        parts = torch.stft(x, 400, 100, 400, window, return_complex=True)
        assert torch.istft(parts, 400, 100, 400, window).dim() == 2  # it reads a number of its own, and not this
        out = [bool(now + step > now)]
    """)
    assert out == [False]
