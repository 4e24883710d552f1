"""Which steps of a program are recorded, and whose samples they are."""

import pytest

from anychip.api import _check_used
from anychip.errors import BadUse, ProgramFailed
from anychip.figures import batch_of
from anychip.record.steps import find_steps
from anychip.timeline.memory import memory
from tests.device.recorded import TRAIN, names, run


def test_training_ends_after_the_steps_that_were_asked_for() -> None:
    program, _ = run(TRAIN.replace("COMPILE", "False"), steps=2)
    assert program.meta["steps"] == 2
    assert names(program).count("aten.addmm.default") == 2 * 2
    assert len(program.meta["parameter_blocks"]) == 4


def test_a_gan_s_two_optimizers_make_one_step() -> None:
    program, _ = run(
        """
        import torch
        d, g = torch.nn.Linear(8, 1).cuda(), torch.nn.Linear(4, 8).cuda()
        od, og = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (d, g))
        for _ in range(50):
            fake = g(torch.randn(2, 4, device="cuda"))
            (d(fake.detach()).mean() - d(torch.randn(2, 8, device="cuda")).mean()).backward()
            od.step()
            d(fake).mean().backward()
            og.step()
        """,
        steps=3,
    )
    assert program.meta["steps"] == 3
    forwards = names(program).count("aten.addmm.default")
    assert forwards == 3 * 4 + 3  # with those of the next update, which tells whose it is


def test_weights_that_were_computed_are_not_asked_for_their_gradients() -> None:
    """torch warned a program of meta-learning, or ended it under `-W error`, of a `.grad` that only we had asked for."""
    program, _ = run(
        """
        import warnings
        import torch
        from torch.func import functional_call
        warnings.simplefilter("error")
        net = torch.nn.Linear(8, 1).cuda()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(4):
            inner = functional_call(net, dict(net.named_parameters()), (torch.randn(2, 8, device="cuda"),)).mean()
            grads = torch.autograd.grad(inner, net.parameters(), create_graph=True)
            moved = {name: one - grad for (name, one), grad in zip(net.named_parameters(), grads)}
            functional_call(net, moved, (torch.randn(2, 8, device="cuda"),)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        """,
        steps=3,
    )
    assert program.meta["steps"] == 3


def test_a_discriminator_that_steps_twice_makes_one_step_of_a_loop() -> None:
    """Its second update came before the generator's first, and three halves of a loop were three steps."""
    program, _ = run(
        """
        import torch
        d, g = torch.nn.Linear(8, 1).cuda(), torch.nn.Linear(4, 8).cuda()
        od, og = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (d, g))
        for number in range(50):
            for _ in range(2):
                fake = g(torch.randn(2, 4, device="cuda")).detach()
                (d(fake).mean() - d(torch.randn(2, 8, device="cuda")).mean()).backward()
                od.step()
            d(g(torch.randn(2, 4, device="cuda"))).mean().backward()
            og.step()
        """,
        steps=3,
    )
    found = find_steps(program)
    assert [len(step.forwards) for step in found] == [8] * 3
    assert batch_of(program, tuple(found)) == (None, 4)  # two of two, not what is made or judged of them


@pytest.mark.parametrize(("updates", "steps", "forwards"), [(2, 3, 8), (5, 3, 17), (40, 16, 3)])
def test_a_generator_is_waited_for_where_nobody_says_how_many_steps_to_take(
    updates: int, steps: int, forwards: int
) -> None:
    """A critic's five updates (as of Wasserstein GANs) were a recording without its generator; two were recorded for five steps, as those
    that were counted began in the middle of a loop. What has not come after 16 is not waited for."""
    program, _ = run(f"""
        import torch
        d, g = torch.nn.Linear(8, 1).cuda(), torch.nn.Linear(4, 8).cuda()
        od, og = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (d, g))
        for number in range(50):
            for _ in range({updates}):
                fake = g(torch.randn(2, 4, device="cuda")).detach()
                (d(fake).mean() - d(torch.randn(2, 8, device="cuda")).mean()).backward()
                od.step()
            d(g(torch.randn(2, 4, device="cuda"))).mean().backward()
            og.step()
        """)
    found = find_steps(program)
    assert [len(step.forwards) for step in found] == [forwards] * steps


@pytest.mark.parametrize(("turn", "samples"), [
    ("for _ in range(3): (d(g(z(2, 4)).detach()).mean() - d(z(2, 8)).mean()).backward()", 6),
    ("for _ in range(3): d(z(2, 8)).mean().backward(); d(g(z(2, 4)).detach()).mean().backward()", 6),
    ("d(z(2, 8)).mean().backward(); d(z(2, 8)).mean().backward()", 2),
    ("d(z(2, 8)).mean().backward()", 2),
])  # fmt: skip
def test_samples_of_a_gan_are_of_every_micro_batch_whose_gradients_add_up(turn: str, samples: int) -> None:
    """Of a discriminator's accumulated gradients the first micro-batch was all of its samples."""
    program, _ = run(f"""
        import torch
        d, g = torch.nn.Linear(8, 1).cuda(), torch.nn.Linear(4, 8).cuda()
        od, og = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (d, g))
        z = lambda *shape: torch.randn(*shape, device="cuda")
        for number in range(50):
            {turn}
            od.step()
            d(g(z(2, 4))).mean().backward()
            og.step()
        """)
    assert batch_of(program, tuple(find_steps(program))) == (None, samples)


def test_samples_are_those_of_the_tokens_where_the_first_optimizer_s_model_reads_none() -> None:
    program, _ = run("""
        import torch
        d, words = torch.nn.Linear(8, 1).cuda(), torch.nn.Sequential(torch.nn.Embedding(16, 8), torch.nn.Linear(8, 8)).cuda()
        first, second = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (d, words))
        for number in range(50):
            d(torch.randn(2, 8, device="cuda")).mean().backward()
            first.step()
            words(torch.zeros(3, 5, dtype=torch.long, device="cuda")).mean().backward()
            second.step()
        """)
    assert batch_of(program, tuple(find_steps(program))) == (15, 3)


def test_an_optimizer_that_never_comes_again_holds_no_recording_up() -> None:
    """Two steps of one, then only the other's."""
    program, _ = run(
        """
        import torch
        model = torch.nn.Linear(8, 1).cuda()
        first, second = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
        for number in range(500):
            model(torch.randn(2, 8, device="cuda")).mean().backward()
            (first if number < 2 else second).step()
        """,
        steps=3,
    )
    assert names(program).count("aten.addmm.default") < 60


def test_samples_of_an_agent_are_those_that_it_learns_from() -> None:
    """It acts on one state before it is trained with 32 of them; the one was counted."""
    program, _ = run(
        """
        import torch
        pi, q = torch.nn.Linear(4, 2).cuda(), torch.nn.Linear(6, 1).cuda()
        to_pi, to_q = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (pi, q))
        for number in range(50):
            pi(torch.randn(1, 4, device="cuda")).detach()
            x, u = torch.randn(32, 4, device="cuda"), torch.randn(32, 2, device="cuda")
            q(torch.cat([x, u], 1)).mean().backward()
            to_q.step()
            q(torch.cat([x, pi(x)], 1)).mean().backward()
            to_pi.step()
    """,
        steps=3,
    )
    assert batch_of(program, tuple(find_steps(program))) == (None, 32)


KEPT = """
    import torch
    class Factors:
        def __init__(self):
            self.sides = (torch.zeros(100, 1024, device="cuda"), None)
    class Own(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {})
            self.state["taken"] = 0
            self.state["pairs"] = [torch.zeros(300, 1024, device="cuda")]
            self.state["factors"] = Factors()
            self.update = torch.zeros(20, 1024, device="cuda")
        @torch.no_grad()
        def step(self):
            self.state["taken"] += 1
            for parameter in self.param_groups[0]["params"]:
                parameter.sub_(parameter.grad)
    model = torch.nn.Linear(1024, 1024, bias=False)
    model.register_buffer("mask", torch.zeros(200, 1024))
    model.cuda()
    model.buffers = []
    optimizer = Own(model.parameters())
    x = torch.zeros(100, 1024, device="cuda")
    for _ in range(3):
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
"""


def test_what_an_optimizer_and_a_module_hold_from_the_start_is_told_from_parameters() -> None:
    """A program whose optimizer kept a number in its state, by a name of its own, failed, and one whose module had something else
    called buffers, as Megatron's of data parallelism has: all of its programs failed. What is in an object, as Shampoo's factors are, or an attribute, were buffers."""
    program, _ = run(KEPT)
    held = memory(program)
    assert held.by_kind["parameters"] == 4 << 20
    assert held.by_kind["optimizer"] == (300 + 100 + 20) << 12
    assert held.by_kind["buffers"] == (200 + 100) << 12
    assert held.by_module["Linear"] >= (4 << 20) + (200 << 12)


def test_gradients_of_one_block_that_is_there_from_the_start_are_gradients() -> None:
    """As Megatron and DistributedDataParallel with gradient_as_bucket_view have: they were buffers, and before these parameters."""
    text = KEPT.replace(
        "optimizer = Own(",
        "flat = torch.zeros(1 << 20, device='cuda')\n    model.weight.grad = flat.view(1024, 1024)\n    optimizer = Own(",
    )
    held = memory(run(text.replace("zero_grad()", "zero_grad(set_to_none=False)"))[0])
    assert (held.by_kind["parameters"], held.by_kind["gradients"]) == (4 << 20, 4 << 20)
    assert held.by_kind["buffers"] == (200 + 100) << 12


def test_sparse_buffers_and_gradients_have_no_block() -> None:
    """A graph's adjacency in a buffer: the program failed, as such a tensor has no storage."""
    program, _ = run("""
        import torch
        class Graph(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.table = torch.nn.Embedding(16, 8, sparse=True)
                self.register_buffer("adjacency", torch.eye(16).to_sparse())
            def forward(self, nodes):
                return torch.sparse.mm(self.adjacency, self.table(nodes))
        model = Graph().cuda()
        optimizer = torch.optim.SparseAdam(model.parameters())
        for _ in range(3):
            model(torch.arange(16, device="cuda")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    """)
    assert program.meta["steps"] == 3
    assert len(program.meta["parameter_blocks"]) == 1


def test_a_backward_of_one_number_is_no_step_of_a_program_that_failed() -> None:
    """Some begin with one, around a fault of some system: a program that then found no data was forecast at 22 us a step."""
    with pytest.raises(ProgramFailed, match="before its first step was complete"):
        run("""
            import torch
            torch.empty(1, device="cuda", requires_grad=True).backward()
            raise SystemExit("no data")
        """)


@pytest.mark.parametrize("trains", [False, True])
def test_a_program_that_caught_its_own_error_before_its_first_step_is_told_of(trains: bool) -> None:
    """Its interrupted forward was told as a call of a model, with exit code 0 and no word of training."""
    program, _ = run(f"""
        import torch
        def train():
            model = torch.nn.Linear(64, 64).cuda()
            optimizer = torch.optim.AdamW(model.parameters())
            for step in range(2):
                out = model(torch.randn(8, 64, device="cuda"))
                if not {trains}:
                    raise ValueError("no such label")
                out.sum().backward()
                optimizer.step()
        try:
            train()
        except ValueError as error:
            print(error)
    """)
    assert any("an optimizer (AdamW) that took no step" in text for text in program.meta["warnings"]) is not trains


def test_an_optimizer_that_has_not_stepped_yet_is_told_and_one_that_shares_its_parameters_is_not() -> None:
    """A critic that takes three steps for each of the generator's ended the recording, without the generator, and nothing was said."""
    train = """
        import torch
        made, judge = torch.nn.Linear(8, 8).cuda(), torch.nn.Linear(8, 1).cuda()
        critic, generator = (torch.optim.Adam(one.parameters()) for one in (judge, {second}))
        for _ in range(10):
            for _ in range(3):
                judge(made(torch.ones(4, 8, device="cuda")).detach()).sum().backward()
                critic.step()
            judge(made(torch.ones(4, 8, device="cuda"))).sum().backward()
            generator.step()
    """
    told = "1 of the program's 2 optimizers (Adam) took no step in the 3 recorded"
    for second, steps, is_told in (("made", 3, True), ("made", 8, False), ("judge", 3, False)):
        program, _ = run(train.format(second=second), steps=steps)
        assert any(told in text and text.endswith("--steps 20.") for text in program.meta["warnings"]) == is_told


@pytest.mark.parametrize("every", [2, 8])
def test_an_outer_optimizer_of_copies_on_the_host_is_told_where_it_has_not_stepped_yet(every: int) -> None:
    """Ranks that meet every so many steps keep what they met at on the host (DiLoCo): nothing was said of what was left out."""
    program, _ = run(f"""
        import torch
        model = torch.nn.Linear(8, 8).cuda()
        inner = torch.optim.AdamW(model.parameters())
        copies = [torch.nn.Parameter(one.detach().cpu()) for one in model.parameters()]
        outer = torch.optim.SGD(copies, lr=0.7, momentum=0.9)
        for step in range(1, 20):
            model(torch.ones(4, 8, device="cuda")).sum().backward()
            inner.step()
            if step % {every} == 0:
                for copy, one in zip(copies, model.parameters()):
                    copy.grad = copy.detach() - one.detach().cpu()
                outer.step()
    """)
    assert any("optimizers (SGD) took no step" in text for text in program.meta["warnings"]) == (every == 8)


@pytest.mark.parametrize(("search", "evaluations"), [("None", 10), ("'strong_wolfe'", 11)])
def test_lbfgs_takes_all_of_its_iterations(search: str, evaluations: int) -> None:
    """A descent of 1.0 is none: a step ended after it had evaluated its closure once."""
    program, out = run(f"""
        import torch
        x, w = torch.randn(200, 5, device="cuda"), torch.zeros(5, 1, device="cuda", requires_grad=True)
        optimizer = torch.optim.LBFGS([w], max_iter=10, line_search_fn={search})
        out = []
        def closure():
            out[-1] += 1
            optimizer.zero_grad()
            loss = (x @ w).square().mean()
            loss.backward()
            return loss
        for _ in range(3):
            out.append(0)
            optimizer.step(closure)
        out.append(optimizer.param_groups[0]["tolerance_grad"])
    """)
    assert out == [evaluations] * 3 + [1e-7]
    assert any("all 10 iterations" in one for one in program.meta["warnings"])


def test_a_training_that_is_one_step_takes_its_first_iterations() -> None:
    """50,000 iterations of LBFGS in one step, as where physics is learnt, ran for an hour without a word."""
    program, out = run("""
        import torch
        x, w = torch.randn(200, 5, device="cuda"), torch.zeros(5, 1, device="cuda", requires_grad=True)
        optimizer = torch.optim.LBFGS([w], max_iter=50_000, history_size=1)
        out = [0]
        def closure():
            out[0] += 1
            optimizer.zero_grad()
            loss = (x @ w).square().mean()
            loss.backward()
            return loss
        optimizer.step(closure)
        def failing():
            raise ValueError
        try:
            optimizer.step(failing)
        except ValueError:
            out += [optimizer.param_groups[0][name] for name in ("max_iter", "tolerance_grad")]
    """)
    assert out == [200, 50_000, 1e-7]
    (told,) = [one for one in program.meta["warnings"] if "LBFGS" in one]
    assert "the first 200 iterations, of 50,000 that it may take: one of all takes at least 250 times as long" in told


def test_an_optimizer_of_the_programs_own_takes_all_of_its_iterations_too() -> None:
    """pykan brings an LBFGS that is written after torch's: its steps were of one iteration, and nothing said so."""
    program, out = run("""
        import torch
        from torch.optim.lbfgs import _strong_wolfe as written_after
        def _strong_wolfe(*args):
            return written_after(*args)
        class Descent(torch.optim.Optimizer):
            def __init__(self, params):
                super().__init__(params, dict(max_iter=7, tolerance_grad=1e-7, tolerance_change=1e-9))
            def step(self, closure):
                group = self.param_groups[0]
                for _ in range(group["max_iter"]):
                    closure()
                    gradient = w.grad.flatten().clone()
                    if gradient.abs().max() <= group["tolerance_grad"] or gradient.dot(-gradient) > -group["tolerance_change"]:
                        break
                    tries.append(_strong_wolfe(lambda *_: (1.0, gradient), w, 1.0, -gradient, 1.0, gradient, -1.0)[-1])
        w, tries, out = torch.zeros(5, 1, device="cuda", requires_grad=True), [], []
        optimizer = Descent([w])
        def closure():
            out[-1] += 1
            w.grad = None
            w.square().mean().backward()
        for _ in range(3):
            out.append(0)
            optimizer.step(closure)
        out += [max(tries), optimizer.param_groups[0]["tolerance_grad"]]
    """)
    assert out == [7, 7, 7, 1, 1e-7]
    (said,) = [one for one in program.meta["warnings"] if "all 7 iterations" in one]
    assert said.startswith("Each step of Descent")


def test_a_process_that_the_program_starts_may_be_what_trains() -> None:
    """Hogwild: the program itself only waits, and then evaluates, which was forecast instead, without a word."""
    program, _ = run("""
        import torch
        import torch.multiprocessing as mp
        def train(net):
            optimizer = torch.optim.SGD(net.parameters(), 0.1)
            for _ in range(6):
                net(torch.randn(4, 8, device="cuda")).sum().backward()
                optimizer.step()
        context = mp.get_context("spawn")
        net = torch.nn.Linear(8, 8).cuda().share_memory()
        processes = [context.Process(target=train, args=(net,)) for _ in range(2)]
        for one in processes:
            one.start()
        for one in processes:
            one.join()
        with torch.no_grad():
            for _ in range(5):
                net(torch.randn(100, 8, device="cuda"))
    """)
    assert program.meta["steps"] == 3
    assert names(program).count("aten.addmm.default") >= 3
    assert any("in processes that it starts" in one for one in program.meta["warnings"])


ENGINE = """
    import torch
    import torch.multiprocessing as mp
    def engine(asked):
        net = torch.nn.Linear(8, 8).cuda()
        with torch.inference_mode():
            while asked.get() is not None:
                net(torch.randn(4, 8, device="cuda"))
    context = mp.get_context("spawn")
    asked = context.Queue()
    process = context.Process(target=engine, args=(asked,))
    process.start()
    for request in (*range(9), None):
        asked.put(request)
    process.join()
"""


def test_a_server_whose_model_is_in_a_process_of_its_own() -> None:
    program, _ = run(ENGINE, calls=5)
    assert (program.meta["calls"], names(program).count("aten.addmm.default")) == (5, 5)
    # Without a number of calls it goes on as it would, and nothing is recorded.
    program, _ = run(ENGINE)
    assert (program.meta["forked"], program.ops) == (True, [])
    with pytest.raises(BadUse, match=r"processes of its own.*--calls N"):
        _check_used([program], "server.py")


@pytest.mark.parametrize(("steps", "is_told"), [(3, True), (12, False)])
def test_what_an_optimizer_does_once_in_more_steps_than_were_recorded_is_told(steps: int, is_told: bool) -> None:
    """SOAP's preconditioners, made every tenth step, were in no figure, without a word."""
    program, _ = run(
        """
        import torch
        class Soap(torch.optim.Optimizer):
            def __init__(self, parameters):
                super().__init__(parameters, dict(lr=0.1, precondition_frequency=10, normalize=True))
            @torch.no_grad()
            def step(self):
                for one in self.param_groups[0]["params"]:
                    one.sub_(one.grad)
        model = torch.nn.Linear(8, 8).cuda()
        optimizer = Soap(model.parameters())
        for _ in range(40):
            model(torch.ones(4, 8, device="cuda")).sum().backward()
            optimizer.step()
        """,
        steps=steps,
    )
    told = [text for text in program.meta["warnings"] if "Soap has precondition_frequency = 10" in text]
    assert len(told) == is_told
    assert all(text.endswith("--steps 21 tells how long steps take on average.") for text in told)
