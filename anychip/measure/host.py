"""What launching costs: the host's time to issue an op, bare and from a training step's modules and autograd, and of a
kernel that does nothing where graphs show it."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from anychip.measure.device import Device
from anychip.measure.point import Call, Point

IN_A_ROW = 100
WARM_UP = 30  # steps until Python and autograd have met all of it
LAYERS = 8
OPS_OF_A_LAYER = 8  # norm, product, gelu; their gradients: gelu's, two products, a sum over rows, norm's


def points(device: Device, quick: bool) -> Iterator[Point]:
    op = "kernel.floor" if device.is_cpu else "host.launch"
    yield Point(op, "", "", "us", lambda: _tiny(device), calls=IN_A_ROW, note="a copy of 8 elements, without autograd")
    yield Point("host.step", "", "", "us", lambda: _module(device), calls=LAYERS * OPS_OF_A_LAYER,
                note=f"an op of {LAYERS} tiny layers, forward and backward")  # fmt: skip
    if device.is_cpu:
        return
    yield Point("host.read", "", "", "us", lambda: _read(device), note="item() of an idle device")
    if device.type == "cuda":
        yield Point("host.replay", "", "", "us", _replay(device, 1), note="a graph of one kernel")
        yield Point("kernel.floor_graph", "", "", "us", _replay(device, IN_A_ROW), calls=IN_A_ROW,
                    note=f"a kernel of {IN_A_ROW} in a graph")  # fmt: skip


def _tiny(device: Device) -> Call:
    x, y = torch.zeros(8, device=device.torch), torch.ones(8, device=device.torch)

    def call() -> None:
        for _ in range(IN_A_ROW):
            x.copy_(y)

    return call


def _module(device: Device) -> Call:
    layers = nn.Sequential(*[nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(LAYERS)])
    layers.to(device.torch)
    x = torch.ones(2, 8, device=device.torch, requires_grad=True)
    grad = torch.ones(2, 8, device=device.torch)

    def call() -> None:
        for parameter in layers.parameters():
            parameter.grad = None
        layers(x).backward(grad)

    for _ in range(WARM_UP):
        call()
    return call


def _read(device: Device) -> Call:
    x = torch.zeros((), device=device.torch)
    return lambda: x.item()


def _replay(device: Device, kernels: int) -> Callable[[], Call]:
    def make() -> Call:
        x = torch.zeros(8, device=device.torch)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(kernels):
                x.add_(1.0)
        return graph.replay

    return make
