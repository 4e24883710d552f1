"""Convolutions and their two gradients, as rows of the product that each is."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torch.nn.grad as gradients

from anychip.measure.device import DTYPES, Device
from anychip.measure.point import Call, Point


class Shape(NamedTuple):
    """[batch, inputs, side, side] through `outputs` windows of window x window, same side."""

    batch: int
    inputs: int
    outputs: int
    side: int
    window: int

    @property
    def flop(self) -> float:
        return 2.0 * self.batch * self.side**2 * self.outputs * self.inputs * self.window**2


SHAPES = (Shape(8, 3, 16, 32, 3), Shape(8, 8, 8, 16, 3), Shape(8, 16, 16, 32, 3), Shape(8, 64, 64, 8, 3), Shape(8, 32, 64, 16, 3),
          Shape(8, 128, 128, 4, 3), Shape(8, 64, 256, 8, 1), Shape(8, 64, 64, 32, 3), Shape(4, 256, 256, 16, 3),
          Shape(64, 3, 64, 112, 7), Shape(64, 64, 64, 56, 3), Shape(64, 64, 256, 56, 1), Shape(64, 256, 256, 14, 3))  # fmt: skip
QUICK = SHAPES[:6] + SHAPES[7:8] + SHAPES[10:11]


def points(device: Device, quick: bool) -> Iterator[Point]:
    shapes = sorted(QUICK if quick else SHAPES, key=lambda shape: shape.flop)
    for dtype in device.dtypes:
        if dtype == "tf32":
            continue
        for shape in shapes:
            rows, inner = shape.batch * shape.side**2, shape.inputs * shape.window**2
            products = {"conv": (rows, shape.outputs, inner), "conv.data": (rows, inner, shape.outputs),
                        "conv.weight": (inner, shape.outputs, rows)}  # fmt: skip
            for op, product in products.items():
                for last in (False, True):
                    name = "x".join(map(str, product)) + (" channels_last" if last else "")
                    yield Point(op, dtype, name, "TFLOP/s", _make(device, dtype, shape, op, last), amount=shape.flop)


def _make(device: Device, dtype: str, shape: Shape, op: str, last: bool) -> Callable[[], Call]:
    def make() -> Call:
        layout = torch.channels_last if last else torch.contiguous_format

        def tensor(*sizes: int) -> torch.Tensor:
            return torch.randn(sizes, device=device.torch).to(DTYPES[dtype]).contiguous(memory_format=layout)

        x = tensor(shape.batch, shape.inputs, shape.side, shape.side)
        w = tensor(shape.outputs, shape.inputs, shape.window, shape.window)
        grad = tensor(shape.batch, shape.outputs, shape.side, shape.side)
        around = shape.window // 2
        calls: dict[str, Call] = {
            "conv": lambda: F.conv2d(x, w, padding=around),
            "conv.data": partial(gradients.conv2d_input, x.shape, w, grad, padding=around),
            "conv.weight": partial(gradients.conv2d_weight, x, w.shape, grad, padding=around),
        }
        return calls[op]

    return make
