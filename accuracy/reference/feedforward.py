"""A layer's feed-forward part that every token passes."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from accuracy.reference.linear import Beside, How, Linear, joins


@dataclass(frozen=True)
class FeedForwardShape:
    """ffn: inner width. rank: of adapters. separate: a gated one's first products are two, where they can be."""

    hidden: int
    ffn: int
    gated: bool = True
    bias: bool = False
    rank: int = 0
    separate: bool = False


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """up: None where one product made both, side by side."""
    if up is None:
        gate, up = gate.chunk(2, -1)
    return nn.functional.silu(gate) * up


def gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return nn.functional.gelu(x if bias is None else x + bias, approximate="tanh")


class FeedForward(nn.Module):
    """[s, b, hidden] -> the same, before the bias."""

    def __init__(self, shape: FeedForwardShape, how: How, fuse: Any, ffn: int = 0) -> None:
        super().__init__()
        width = ffn or shape.ffn
        self.separate = shape.separate and shape.gated and not joins(how)
        wide = width if self.separate else width * (1 + shape.gated)
        own = [Linear(shape.hidden, wide, how, "column", shape.bias, shape.rank) for _ in range(1 + self.separate)]
        self.first: Any = Beside(own) if self.separate else own[0]
        self.second = Linear(width, shape.hidden, how, "row", shape.bias, shape.rank)
        self.act = fuse(swiglu if shape.gated else gelu)
        self.gated = shape.gated

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(x, finish=False)
        if self.separate:
            return self.second(self.act(*inner), finish=False)  # type: ignore[no-any-return]
        inner = self.act(inner) if self.gated else self.act(inner, self.first.bias)
        return self.second(inner, finish=False)  # type: ignore[no-any-return]
