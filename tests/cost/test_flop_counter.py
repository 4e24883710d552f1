"""FLOP against torch.utils.flop_counter: every op that it knows, over tables of shapes, and whole models."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from anychip.cost import work
from tests.cost.ops import from_torch


class Recorder(TorchDispatchMode):
    """Writes every call as the recorder would."""

    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.ops.append(from_torch(func, args, kwargs or {}, result))
        return result


def both(run):
    """(FLOP by torch's counter, FLOP by ours), matrix engine and matrix-shaped work only."""
    counter, recorder = FlopCounterMode(display=False), Recorder()
    with torch.device("meta"), counter, recorder:
        run()
    ours = sum(work(op).flop for op in recorder.ops if work(op).kind in ("gemm", "conv", "attention"))
    return counter.get_total_flops(), ours


def rand(*shape, **kw):
    return torch.empty(*shape, device="meta", **kw)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (3, 5, 7), (128, 256, 512), (12288, 768, 3072), (0, 4, 4)])
def test_products(m, n, k):
    torch_flop, ours = both(lambda: (
        torch.mm(rand(m, k), rand(k, n)),
        torch.addmm(rand(n), rand(m, k), rand(k, n)),
        torch.bmm(rand(5, m, k), rand(5, k, n)),
        torch.baddbmm(rand(5, m, n), rand(5, m, k), rand(5, k, n)),
    ))  # fmt: skip
    # (1 + 1 + 5 + 5) products of 2mnk
    assert ours == torch_flop == 12 * 2 * m * n * k


CONVOLUTIONS = [
    # (input, channels out, window, keywords)
    ((2, 3, 32, 32), 8, (3, 3), {"padding": 1}),
    ((2, 16, 14, 14), 32, (1, 1), {"stride": 2}),
    ((2, 16, 14, 14), 16, (3, 3), {"groups": 16, "padding": 1}),
    ((2, 16, 14, 14), 32, (3, 3), {"groups": 4, "padding": 1, "dilation": 2}),
    ((4, 6, 50), 12, (5,), {}),
    ((1, 4, 8, 8, 8), 8, (3, 3, 3), {"padding": 1}),
]


@pytest.mark.parametrize(("shape", "out", "window", "kw"), CONVOLUTIONS)
def test_convolutions_forward_and_backward(shape, out, window, kw):
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(window)]

    def run():
        x = rand(*shape, requires_grad=True)
        w = rand(out, shape[1] // kw.get("groups", 1), *window, requires_grad=True)
        y = conv(x, w, **kw)
        y.backward(torch.empty_like(y))

    torch_flop, ours = both(run)
    forward, ours_forward = both(lambda: conv(rand(*shape), rand(out, shape[1] // kw.get("groups", 1), *window), **kw))
    assert ours_forward == forward > 0
    # Each gradient takes as many multiplications as the forward; torch's counter agrees where groups are 1 and
    # counts the weight's gradient as if every channel met every other where they are not.
    assert ours == 3 * forward
    if kw.get("groups", 1) == 1:
        assert ours == torch_flop


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolutions(groups, stride):
    def run():
        x, w = rand(2, 8, 7, 7, requires_grad=True), rand(8, 6, 4, 4, requires_grad=True)
        y = F.conv_transpose2d(x, w, stride=stride, groups=groups)
        y.backward(torch.empty_like(y))

    torch_flop, ours = both(run)
    # torch's counter does not divide a transposed convolution by its groups: its formula takes the weight
    # [Cin, Cout/groups, *] as if groups were 1. By hand: forward 2 * N*H*W * Cin * (Cout/groups) * window.
    forward = 2 * (2 * 7 * 7) * 8 * 6 * 16
    assert ours == 3 * forward
    if groups == 1:
        assert ours == torch_flop


def test_weight_gradient_only():
    def run():
        x, w = rand(2, 3, 8, 8), rand(4, 3, 3, 3, requires_grad=True)
        y = F.conv2d(x, w)
        y.backward(torch.empty_like(y))

    torch_flop, ours = both(run)
    assert ours == torch_flop


ATTENTION = [(2, 4, 4, 128, 128, 64), (1, 8, 8, 100, 300, 80), (3, 2, 2, 1, 77, 128)]


@pytest.mark.parametrize(("batch", "heads", "kv_heads", "lq", "lk", "dim"), ATTENTION)
@pytest.mark.parametrize("kind", ["flash", "efficient", "cudnn"])
def test_attention_without_mask(batch, heads, kv_heads, lq, lk, dim, kind):
    q, k = (batch, heads, lq, dim), (batch, kv_heads, lk, dim)
    aten = torch.ops.aten
    forward = getattr(aten, f"_scaled_dot_product_{kind}_attention").default
    backward = getattr(aten, f"_scaled_dot_product_{kind}_attention_backward").default
    from tests.cost.ops import op, t

    tq, tk, lse = t(*q), t(*k), t(batch, heads, lq, dtype="float32")
    count = {f: flop_registry[f._overloadpacket] for f in (forward, backward)}
    ours = work(op(str(forward), tq, tk, tk, out=(tq, lse)))
    assert ours.flop == count[forward](q, k, k, out_val=None) == ours.model_flop
    ours = work(op(str(backward), tq, tq, tk, tk, tq, lse, out=(tq, tk, tk)))
    assert ours.flop == count[backward](q, q, k, k, out_val=None)
    # Of five products in the backward one is made again.
    assert ours.model_flop == ours.flop * 4 // 5


def test_a_transformer_layer_with_its_loss():
    layer = torch.nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, device="meta")
    head = torch.nn.Linear(64, 1000, device="meta")

    def run():
        y = head(layer(rand(2, 50, 64)))
        F.cross_entropy(y.view(-1, 1000), torch.zeros(100, dtype=torch.long, device="meta")).backward()

    torch_flop, ours = both(run)
    assert ours == torch_flop > 0


def test_a_residual_network_block():
    block = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 7, stride=2, padding=3), torch.nn.BatchNorm2d(64), torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, 2, 1), torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(64, 10),
    ).to("meta")  # fmt: skip
    torch_flop, ours = both(lambda: block(rand(4, 3, 224, 224)).sum().backward())
    assert ours == torch_flop > 0
