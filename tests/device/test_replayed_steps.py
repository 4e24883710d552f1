"""A training step that is captured once and replayed: the replays are the program's steps, not its warm-up."""

import numpy as np

from anychip.record import Kind
from anychip.record.steps import find_steps
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
