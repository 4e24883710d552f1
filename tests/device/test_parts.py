"""What single parts of the device put on the tape: recurrent layers, sparse tensors, norms, steps taken by hand."""

import textwrap
from functools import cache
from pathlib import Path
from struct import unpack_from
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from anychip.device.cuda import smi
from anychip.device.insides import machine_code
from anychip.device.launch import record
from anychip.device.steps.counted import Steps
from anychip.forecast import forecast
from anychip.record import Kind, Mark, Op, Program
from anychip.record.op import TensorMeta
from anychip.record.steps import Marks, Phase, find_steps
from anychip.report.trace import PHASE_THREAD, trace
from anychip.spec import load_chip
from anychip.timeline import price
from anychip.timeline.memory import KINDS, kinds_of, lives

PROGRAM = """
    import torch
    from torch import nn
    x = torch.randn(5, 3, 8, device="cuda", requires_grad=True)
    nn.LSTM(8, 16).cuda()(x)[0].sum().backward()
    nn.GRU(8, 16, num_layers=2).cuda().eval()(x)
    with torch.backends.cudnn.flags(enabled=False):
        nn.RNN(8, 16).cuda()(x)
    places = torch.tensor([[0, 1, 2], [2, 0, 1]])
    adjacency = torch.sparse_coo_tensor(places, torch.ones(3), (3, 3)).cuda()
    torch.sparse.mm(adjacency, torch.randn(3, 4, device="cuda"))
    nn.RMSNorm(8).cuda().half()(torch.randn(6, 8, device="cuda").half())
    nn.BatchNorm2d(4).cuda()(torch.randn(2, 4, 8, 8, device="cuda", requires_grad=True)).sum().backward()
"""

BY_HAND = """
    import torch
    from torch import nn
    model = nn.Linear(4, 4).cuda()
    while True:
        model.zero_grad()
        for _ in range(2):  # two micro-batches make one step
            model(torch.randn(2, 4, device="cuda")).sum().backward()
        for parameter in model.parameters():
            parameter.data.add_(parameter.grad, alpha=-0.1)
"""


OWN = """
    import torch
    from torch import nn
    model = nn.Linear(512, 512).cuda()
    size = 1 << 22
    while True:  # gradients come and are dropped, and nothing is learnt
        try:
            model(torch.randn(size, 512, device="cuda")).sum().backward()
        except torch.cuda.OutOfMemoryError:
            break
        model.zero_grad()
        size *= 2
    moments = {}
    while True:
        loss = model(torch.randn(64, 512, device="cuda")).sum()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter not in moments:
                    moments[parameter] = torch.zeros_like(parameter)
                parameter.add_(moments[parameter].lerp_(parameter.grad, 0.1), alpha=-0.1)
                parameter.grad.zero_()
        loss.item()
"""


LATE = """
    import torch
    model, optimizer = torch.nn.Linear(512, 512).cuda(), None
    while True:
        model(torch.randn(64, 512, device="cuda")).sum().backward()
        optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
"""


@cache
def recorded(text: str, steps: int | None = None) -> Program:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return record([str(path)], load_chip("h100"), steps=steps, show_output=False)


def ops(name: str) -> list[Op]:
    return [op for op in recorded(PROGRAM).ops if op.name == f"aten.{name}.default"]


def test_a_norm_is_the_same_operator_on_every_build_of_torch() -> None:
    """A CUDA build would choose cuDNN's, and the same program be told apart by where it was recorded."""
    assert len(ops("native_batch_norm")) == len(ops("native_batch_norm_backward")) == 1
    assert not ops("cudnn_batch_norm")


def test_an_lstm_is_one_operator_forward_and_one_backward() -> None:
    forward, inference = ops("_cudnn_rnn")
    assert [one.shape for one in forward.outputs[:3]] == [(5, 3, 16), (1, 3, 16), (1, 3, 16)]
    # four gates and the cell: 5 steps * 3 sequences * 16 * (4 + 1) * 4 bytes = 4,800
    assert forward.outputs[3] == TensorMeta((4800,), (1,), "uint8")
    assert inference.outputs[0].shape == (5, 3, 16)
    assert inference.outputs[1].shape == (2, 3, 16)
    assert inference.outputs[3].shape == (0,), "nothing is kept for a backward pass that will not come"
    (backward,) = ops("_cudnn_rnn_backward")
    assert [one.shape for one in backward.outputs] == [(5, 3, 8), (64, 8), (64, 16), (64,), (64,)]


def test_without_cudnn_an_rnn_is_composed_of_single_operators() -> None:
    assert ops("tanh"), "the RNN that ran with cuDNN switched off"


def test_a_sparse_product_names_what_it_reads() -> None:
    (product,) = ops("_sparse_mm")
    assert [one.shape for one in product.tensors] == [(2, 3), (3,), (3, 4)]
    assert [one.shape for one in product.outputs] == [(3, 4)]


def test_an_rms_norm_is_one_operator() -> None:
    (norm,) = ops("_fused_rms_norm")
    assert norm.outputs == (TensorMeta((6, 8), (8, 1), "float16"), TensorMeta((6, 1), (1, 1), "float32"))
    assert not ops("rsqrt")


def test_a_program_without_an_optimizer_takes_steps_by_hand() -> None:
    program = recorded(BY_HAND)
    assert program.meta["steps"] == 3
    assert len(program.meta["parameter_blocks"]) == 2
    steps = find_steps(program)
    assert [step.kind for step in steps] == ["train"] * 3
    assert [len(step.forwards) for step in steps] == [2, 2, 2]


BARE = """
    import torch
    x = torch.randn(8, 64, device="cuda")
    weight = torch.randn(64, 64, device="cuda", requires_grad=True)
    for step in range(500):
        for micro in range(2): (x @ weight).square().mean().backward()
        UPDATE
"""


@pytest.mark.parametrize(
    "update", ["with torch.no_grad(): weight -= 0.1 * weight.grad", "weight.data.sub_(0.1 * weight.grad)"]
)
def test_weights_that_no_module_has_are_updated_by_hand(update: str) -> None:
    """Only modules' weights were known as such: each backward was a step, and a recording had all rounds of the program's."""
    program = recorded(BARE.replace("UPDATE", f"{update}; weight.grad = None"))
    assert program.meta["steps"] == 3
    assert len(program.meta["parameter_blocks"]) == 1
    steps = find_steps(program)
    assert [step.kind for step in steps] == ["train"] * len(steps)
    assert len(steps) == 3
    marks = Marks(program)
    backwards = marks.at[marks.what == Mark.BACKWARD_BEGIN]
    assert [sum(step.begin <= at < step.end for at in backwards) for step in steps] == [2, 2, 2]


def test_updates_that_make_new_weights_end_after_a_hundred_backwards() -> None:
    """There is nothing to tell a step by but the backward, and the program took all of its 500 rounds."""
    program = recorded(BARE.replace("UPDATE", "weight = (weight - 0.1 * weight.grad).detach().requires_grad_()"))
    assert len(find_steps(program)) == 100


def test_backwards_on_the_host_end_no_recording() -> None:
    """A model that is fitted on the host first took the recording with it, after a hundred rounds."""
    program = recorded("""
        import torch
        weight = torch.zeros(4, requires_grad=True)
        for _ in range(150): (weight - 1).square().sum().backward()
        model = torch.nn.Linear(4, 4).cuda()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        while True:
            model(torch.ones(2, 4, device="cuda")).sum().backward()
            optimizer.step()
    """)
    assert program.meta["steps"] == 3


def test_an_update_by_hand_that_a_graph_captured_is_off_the_tape() -> None:
    """What came after the capture was an IndexError in the program."""
    program = recorded("""
        import torch
        x, weight = torch.randn(8, 64, device="cuda"), torch.randn(64, 64, device="cuda", requires_grad=True)
        saved = weight.detach().clone()
        def step():
            (x @ weight).square().mean().backward()
            with torch.no_grad(): weight.sub_(0.1 * weight.grad)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph): step()
        with torch.no_grad(): weight.copy_(saved)
        for _ in range(4): graph.replay()
    """)
    assert len(find_steps(program)) > 0


SAMPLES = """
    import torch
    model = torch.nn.Linear(64, 64).cuda()
    optimizer = torch.optim.Adam(model.parameters())  # (its state comes in the first step)
    for step in range(100):
        model(torch.ones(8, 64, device="cuda")).sum().backward()
        optimizer.step()
        if step % EVERY == 0:
            for _ in range(20): model(torch.ones(1, 64, device="cuda"))
"""


@pytest.mark.parametrize(("every", "asked", "steps"), [("50", None, 5), ("2", None, 5), ("1", None, 3), ("50", 3, 3)])
def test_more_steps_are_recorded_where_they_differ(every: str, asked: int | None, steps: int) -> None:
    """A program that samples after its first step: of two steps one would have the sample. Where all have it, or so many were
    asked for, there are no more."""
    assert recorded(SAMPLES.replace("EVERY", every), steps=asked).meta["steps"] == steps


def test_a_closures_forward_ends_no_step() -> None:
    """Lightning calls the model inside the optimizer's step: the forward of each was taken for the one after it, and the last step
    was not recorded."""
    program = recorded("""
        import torch
        model = torch.nn.Linear(64, 64).cuda()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)

        def closure():
            optimizer.zero_grad()
            loss = model(torch.ones(8, 64, device="cuda")).sum()
            loss.backward()
            return loss

        for step in range(100):
            optimizer.step(closure)
    """)
    assert program.meta["steps"] == len(find_steps(program)) == 3


def test_what_an_agent_sees_is_no_batch() -> None:
    """It acts by the network that it trains, without torch.no_grad: a step that learns from 64 samples had one more, or that one alone."""
    program = recorded("""
        import torch
        actor, critic = torch.nn.Linear(16, 4).cuda(), torch.nn.Linear(20, 1).cuda()
        optimizer = torch.optim.SGD([*actor.parameters(), *critic.parameters()], 0.1)
        for step in range(100):
            actor(torch.ones(1, 16, device="cuda")).detach().cpu()
            batch = torch.ones(64, 20, device="cuda")
            critic(batch).sum().backward()
            actor(batch[:, :16]).sum().backward()
            optimizer.step()
    """)
    assert forecast(program, load_chip("h100")).samples_per_step == 64


def test_an_optimizer_of_the_programs_own_is_what_writes_parameters() -> None:
    """And a search for the largest batch, before it, takes no steps. From the backward to the last write: two momenta and two sums."""
    program = recorded(OWN)
    assert program.meta["steps"] == 3
    first, *others = find_steps(program)
    assert [len(step.forwards) for step in others] == [1, 1]
    assert len(first.forwards) > 2
    at = np.flatnonzero(program.kinds == Kind.OP)
    in_optimizer = at[Marks(program).phase()[at] == Phase.OPTIMIZER]
    done = [program.ops[op].name.split(".")[1] for op in program.payloads[in_optimizer]]
    weight, bias = ["lerp_", "add_", "zero_"], ["lerp_", "add_"]
    assert done == ["zeros_like", *weight, "zeros_like", *bias, *(weight + bias) * 2]
    state_bytes = (512 * 512 + 512) * 4
    assert int(lives(program).size[kinds_of(program, lives(program)) == KINDS.index("optimizer")].sum()) == state_bytes
    events = trace(price(program, load_chip("h100")))["traceEvents"]
    assert [one["name"] for one in events if one.get("tid") == PHASE_THREAD].count("optimizer") == 3


def test_an_optimizer_that_is_made_after_the_first_backward_is_torchs() -> None:
    program = recorded(LATE)
    assert [len(step.forwards) for step in find_steps(program)] == [1, 1, 1]
    assert int(((program.kinds == Kind.MARK) & (program.payloads == Mark.OPTIMIZER_END)).sum()) == 3


@pytest.mark.parametrize("code", [machine_code.pinned_allocate(1, 2, "arm64"), machine_code.is_pinned("arm64")])
def test_arm64_code_loads_its_own_literals(code: bytes) -> None:
    words = [unpack_from("<I", code, at)[0] for at in range(0, len(code), 4)]
    targets = [at * 4 + (one >> 5 & 0x7FFFF) * 4 for at, one in enumerate(words) if one >> 24 == 0x58]  # ldr x, label
    literals = {unpack_from("<Q", code, target)[0] for target in targets}
    assert all(target % 8 == 0 for target in targets)
    assert literals in ({1, 2, machine_code.PINNED_MAGIC}, {machine_code.PINNED_MAGIC})


SMI = {"count": 2, "name": "X1", "total_mib": 81920, "used_mib": 512, "power_w": 700.0, "capability": "9.0"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--query-gpu=name,memory.used", "--format=csv"], "name, memory.used [MiB]\nX1, 512 MiB\nX1, 512 MiB\n"),
        (["--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", "1"], "81408\n"),
        (["--query-gpu=index,no.such", "--format=csv,noheader", "--id=0"], "0, [N/A]\n"),
        (["--query-compute-apps=pid", "--format=csv,noheader"], ""),
        (["-L"], "GPU 0: X1 (UUID: GPU-00000000-0000-0000-0000-000000000000)\nGPU 1: X1 (UUID: GPU-00000000-0000-0000-0000-000000000001)\n"),
    ],
)  # fmt: skip
def test_nvidia_smi_prints(arguments: list[str], text: str) -> None:
    assert smi.text(SMI, arguments) == text


def test_a_program_that_starts_others_asks_by_nvidia_smi_alone() -> None:
    """Whatever looked at a terminal's size or at git was recorded anew for each chip."""
    program = recorded("""
        import os, subprocess
        os.popen("echo 1").read()
        subprocess.run(["true"])
        for _ in range(2):
            subprocess.run("nvidia-smi -L; nvidia-smi --query-gpu=memory.total,memory.used --format=csv", shell=True)
    """)
    assert [question.name for question in program.questions] == ["name", "memory_bytes"]
    assert {question.place.line for question in program.questions} == {6}
    load = 'import os; os.system("nvidia-smi --query-gpu=utilization.gpu,memory.used,temperature.gpu --format=csv")'
    assert not recorded(load).questions


def test_an_optimizer_that_steps_for_each_group_of_parameters_takes_one_step() -> None:
    """DeepSpeed's ZeRO steps its optimizer once for each group: the first step counted as two, and one too few was recorded."""
    program = recorded("""
        import torch
        model = torch.nn.Linear(64, 64).cuda()
        optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], 0.1)
        groups = optimizer.param_groups
        for step in range(100):
            model(torch.ones(8, 64, device="cuda")).sum().backward()
            for group in groups:
                optimizer.param_groups = [group]
                optimizer.step()
            optimizer.param_groups = groups
            optimizer.zero_grad()
    """)
    assert program.meta["steps"] == len(find_steps(program)) == 3


def test_a_mark_that_never_comes_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped --step-mark ran a program to its end, five minutes, without a word."""
    counted = Steps(3, 3, None, [], lambda: None)
    counted.by_mark = True
    for _ in range(300):
        counted.optimizer(0)
    assert capsys.readouterr().err.count("has not returned once") == 1
    counted.marked()
    for _ in range(300):
        counted.optimizer(0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("steps", "uneven", "recorded"), [(3, 5, 17), (3, 3, 3), (30, 30, 30)])
def test_a_gan_s_regularisers_are_waited_for_until_they_come_again(steps: int, uneven: int, recorded: int) -> None:
    """StyleGAN's of each 4th and 16th iteration stood in the first alone, which does not count."""
    ended: list[int] = []
    tape: list[int] = []
    counted = Steps(steps, uneven, None, tape, lambda: ended.append(counted.done))
    for iteration in range(40):
        for number, every in ((0, 1), (0, 4), (1, 1), (1, 16)):
            if iteration % every == 0:
                counted.forward()
                tape.append(0)
                counted.optimizer(number)
                counted.stepped()
    assert ended[0] == recorded
