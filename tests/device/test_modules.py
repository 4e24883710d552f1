"""Modules as a recording knows them: which blocks are their parameters, and which ops of a backward are theirs."""

import sys

import numpy as np
import pytest

from anychip.forecast import forecast
from anychip.record import Kind
from anychip.record.steps import Marks, Phase
from anychip.spec import load_chip
from anychip.timeline.memory import memory
from anychip.timeline.modules import module_at
from tests.device.recorded import run


def test_a_model_that_is_only_called_has_its_parameters_on_the_chip() -> None:
    program, _ = run(
        """
        import torch
        net = torch.nn.Linear(64, 64).cuda()
        for _ in range(3):
            with torch.no_grad():
                net(torch.randn(2, 64, device="cuda"))
        """,
        calls=3,
    )
    # 64 x 64 and 64 numbers of 4 bytes
    assert program.block_bytes[program.meta["parameter_blocks"]].sum() == 64 * 65 * 4


def test_parameters_before_a_conversion_are_known() -> None:
    program, _ = run(
        """
        import torch
        net = torch.nn.Sequential(torch.nn.Linear(64, 64, device="cuda"), torch.nn.Linear(64, 64, device="cuda"))
        net.to(torch.float16).eval()
        x = torch.ones(2, 64, device="cuda", dtype=torch.float16)
        for _ in range(3):
            with torch.no_grad():
                net(x)
        """,
        calls=3,
    )
    assert program.block_bytes[program.meta["replaced_blocks"]].sum() == 2 * 64 * 65 * 4
    held = memory(program)
    # Fullest at the first weight: both layers in fp32, and it in fp16.
    assert held.by_kind["parameters"] == held.peak_bytes > 2 * 64 * 65 * 4


def test_a_backward_is_told_apart_by_module() -> None:
    """The ops between two NODE words are those of the module that the first names."""
    program, _ = run("""
        import torch
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)
            def forward(self, x):
                return self.second(torch.tanh(self.first(x))) + x
        net = Net().cuda()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(2):
            net(torch.randn(4, 8, device="cuda")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    """)
    modules = module_at(program)
    of: dict[str, list[str]] = {}
    backward = Marks(program).phase() == Phase.BACKWARD
    for at in np.flatnonzero(backward & (program.kinds == Kind.OP)).tolist():
        name = program.ops[int(program.payloads[at])].name.split(".")[1]
        of.setdefault(program.modules[modules[at]] if modules[at] >= 0 else "", []).append(name)
    assert of["Net"].count("tanh_backward") == 2
    assert (of["second"].count("mm"), of["first"].count("mm")) == (4, 2)  # x of `first` needs no gradient
    held = memory(program)
    assert set(held.by_module) <= {"Net", "first", "second", "(outside modules)", "(optimizer)"}
    assert sum(held.by_module.values()) == held.peak_bytes


def test_gradients_of_each_sample_by_a_transform() -> None:
    """`torch.func` calls a module with wrappers in the place of its parameters: "Cannot access storage of TensorWrapper"."""
    program, out = run("""
        import copy
        import torch
        from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
        net = torch.nn.Linear(8, 4).cuda()
        x = torch.randn(16, 8, device="cuda")
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        def loss(parameters, row):
            return functional_call(net, parameters, (row,)).sum()
        for _ in range(4):
            grads = vmap(grad(loss), in_dims=(None, 0))(dict(net.named_parameters()), x)
            for name, parameter in net.named_parameters():
                parameter.grad = grads[name].mean(0)
            optimizer.step()
        parameters, buffers = stack_module_state([torch.nn.Linear(8, 4).cuda() for _ in range(3)])
        base = copy.deepcopy(net).to("meta")
        each = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)
        out = [list(grads["weight"].shape), list(jacrev(net)(x[0]).shape), list(each.shape)]
    """, steps=8)  # fmt: skip
    assert out == [[16, 4, 8], [4, 8], [3, 16, 4]]
    # weight 4 x 8 and bias 4, in fp32, of which the wrappers are no others; and three of both, stacked
    assert sorted(program.block_bytes[program.meta["parameter_blocks"]].tolist()) == [16, 48, 128, 384]


def test_a_parameter_that_wraps_others_is_where_they_are() -> None:
    """torchao's quantised weights have no memory of their own: the first call of their module ended the program."""
    program, out = run(
        """
        import torch
        class Quantised(torch.Tensor):
            @staticmethod
            def __new__(cls, numbers, scale):
                return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=torch.bfloat16, device=numbers.device)
            def __init__(self, numbers, scale):
                self.numbers, self.scale, self.mesh = numbers, scale, "no tensor, as a DTensor's"
            def __tensor_flatten__(self):
                return ["numbers", "scale", "mesh"], None
            @classmethod
            def __torch_dispatch__(cls, func, types, args, kwargs=None):
                if func is torch.ops.aten.detach.default:
                    return Quantised(args[0].numbers, args[0].scale)
                raise NotImplementedError(func)
        layer = torch.nn.Linear(64, 32, bias=False, device="cuda")
        numbers, scale = torch.zeros(32, 64, dtype=torch.int8, device="cuda"), torch.ones(32, 1, device="cuda")
        layer.weight = torch.nn.Parameter(Quantised(numbers, scale), requires_grad=False)
        layer.forward = lambda x: x @ (layer.weight.numbers * layer.weight.scale).t()
        out = [list(layer(torch.randn(4, 64, device="cuda")).shape)]
        """,
        calls=2,
    )
    assert out == [[4, 32]]
    assert sorted(program.block_bytes[program.meta["parameter_blocks"]].tolist()) == [128, 2048]


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="torch 2.13 reads the name of a module that Python 3.12 has freed"
)
def test_a_profile_with_stacks_knows_whose_module_is_called() -> None:
    """torch reads what `self` is in the frame of `Module.__call__`."""
    _, out = run("""
        import torch
        net = torch.nn.Linear(8, 8).cuda()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with torch.profiler.profile(with_stack=True, profile_memory=True, record_shapes=True) as profile:
            for _ in range(2):
                net(torch.randn(4, 8, device="cuda")).sum().backward()
                optimizer.step()
        out = len(profile.key_averages()) > 0
    """)
    assert out


def test_an_ensemble_under_vmap_trains() -> None:
    """Its calls were told as a model's without gradients before the first step."""
    program, _ = run("""
        import copy
        import torch
        from torch.func import functional_call, stack_module_state, vmap
        nets = [torch.nn.Linear(8, 2).cuda() for _ in range(3)]
        parameters, buffers = stack_module_state(nets)
        base = copy.deepcopy(nets[0]).to("meta")
        optimizer = torch.optim.SGD(parameters.values(), 0.1)
        call = vmap(lambda p, b, x: functional_call(base, (p, b), (x,)), in_dims=(0, 0, None))
        for _ in range(6):
            call(parameters, buffers, torch.randn(16, 8, device="cuda")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    """)
    found = forecast(program, load_chip("h100"))
    assert not [text for text in found.warnings if "without gradients" in text]
    # 3 models, 16 samples: forward and the weight's gradient of [16, 8] @ [8, 2]
    assert (found.model_flop_per_step, found.samples_per_step) == (2 * 3 * 2 * 16 * 8 * 2, None)
