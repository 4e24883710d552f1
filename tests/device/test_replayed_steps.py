"""A training step that is captured once and replayed: the replays are the program's steps, not its warm-up."""

import numpy as np

from anychip.record import Kind
from anychip.record.steps import find_steps
from anychip.record.tape import KIND_BITS, KIND_MASK
from tests.device.recorded import run


def test_replays_of_a_captured_step_are_recorded_behind_its_warm_up() -> None:
    """The recording ended with three steps of the warm-up, launched op by op: what the graph is there to spare was in all figures."""
    program, _ = run(
        """
        import torch
        model = torch.nn.Linear(8, 8).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(4, 8, device="cuda")

        def step():
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()

        aside = torch.cuda.Stream()
        with torch.cuda.stream(aside):
            for _ in range(4):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        for _ in range(100):
            x.copy_(torch.randn(4, 8, device="cuda"))
            graph.replay()
        """
    )
    kinds = program.kinds
    replayed = [bool(np.any(kinds[step.begin : step.end] == Kind.GRAPH)) for step in find_steps(program)]
    assert replayed == [False] * 4 + [True] * 6  # two more than the warm-up: the median is of a replay


def test_calls_that_warm_up_for_a_capture_are_no_calls_of_texts() -> None:
    """A server captures a graph for each size of a batch, and calls the model once before each: the median call was one of those."""
    program, _ = run(
        """
        import torch
        model = torch.nn.Linear(64, 64).cuda()
        graphs = {}
        with torch.inference_mode():
            model(torch.randn(1024, 64, device="cuda"))
            for size in 32, 16, 8, 4, 2, 1:
                x = torch.randn(size, 64, device="cuda")
                model(x)
                graphs[size] = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graphs[size]):
                    model(x)
            model(torch.randn(100, 64, device="cuda"))
            for _ in range(3):
                graphs[4].replay()
            late = torch.cuda.CUDAGraph()
            with torch.cuda.graph(late):
                model(x)
            late.replay()
        """
    )
    launched = [[int(word) >> KIND_BITS for word in program.tape[one.begin : one.end] if int(word) & KIND_MASK == Kind.OP]
                for one in find_steps(program)]  # fmt: skip
    given = [[program.ops[at].args[1].shape[0] for at in ops if "addmm" in program.ops[at].name] for ops in launched]
    assert given == [[100], [4], [4], [4], [1]]


def test_calls_that_are_asked_for_are_counted_from_the_last_capture_on() -> None:
    program, _ = run(
        """
        import torch
        model = torch.nn.Linear(64, 64).cuda()
        with torch.inference_mode():
            x = torch.randn(8, 64, device="cuda")
            for _ in range(2):
                model(x)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                model(x)
            model(torch.randn(100, 64, device="cuda"))
            while True:
                graph.replay()
        """,
        calls=3,
    )
    assert len(find_steps(program)) == program.meta["calls"] == 3
