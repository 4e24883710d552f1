"""`python -m accuracy.serving.routed`: the text of `accuracy.serving.program`, from layers with experts that tokens are routed to, or with
weights of 4 bit.

Of experts a rank has all, each with its part of their width, and what they give is summed over the tensor group, as engines serve
them; in FP8 their weights are kept so. `--experts` counts those that the call's tokens meet (`plan.met`), which alone are read.
"""

import sys
from argparse import ArgumentParser, Namespace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accuracy.reference.experts.layer import Experts
from accuracy.reference.experts.products import GroupedLinear, low_grouped_mm
from accuracy.reference.layout import Layout
from accuracy.reference.linear import E4M3, Linear, to_tensor_scaled_once
from accuracy.reference.model import Layer
from accuracy.serving import program

GROUP = 128  # weights of 4 bit that share a scale
TILES = 8  # inner ones of a packed weight


def options() -> Namespace:
    """Those of this program, taken off the command line."""
    parser = ArgumentParser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--int4", action="store_true", help="weights are stored in 4 bit, and multiplied in 16")
    own, sys.argv[1:] = parser.parse_known_args()
    return own


class Int4:
    """A weight [n, k] that is stored in 4 bit, packed in tiles, with a scale and a zero for each of its groups, and multiplied in 16."""

    def __init__(self, whole: Linear) -> None:
        n, k = whole.weight.shape
        device, dtype = whole.weight.device, whole.weight.dtype
        self.packed = torch.zeros(n // 8, k // (TILES * 16), 32, TILES // 2, device=device, dtype=torch.int32)
        self.scales = torch.ones(k // GROUP, n, 2, device=device, dtype=dtype)
        del whole.weight
        whole.register_buffer("weight", self.packed)

    def multiplied(self, x: Tensor, _: bool) -> Tensor:
        """As `Linear.multiplied`."""
        flat = x.reshape(-1, x.shape[-1])
        return torch.ops.aten._weight_int4pack_mm(flat, self.packed, GROUP, self.scales).view(*x.shape[:-1], -1)  # type: ignore[no-any-return]


class Kept(nn.Module):
    """Weights of a rank's experts in FP8 alone."""

    def __init__(self, wide: GroupedLinear) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(wide.weight.shape, device=wide.weight.device, dtype=E4M3))

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        return low_grouped_mm(to_tensor_scaled_once(x, E4M3), self.weight, ends)  # type: ignore[arg-type]


class Summed(nn.Module):
    """What a rank's parts of the experts give, and those of the others."""

    def __init__(self, experts: Experts, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.experts, self.group = experts, group

    def forward(self, x: Tensor) -> Tensor:
        out = self.experts(x)
        dist.all_reduce(out, group=self.group)
        return out  # type: ignore[no-any-return]


class Routed(program.Serving):
    def __init__(self, args: Namespace, layout: Layout, device: torch.device) -> None:
        super().__init__(args, layout, device)
        group = self.stage.head.how.group
        for layer in self.stage.layers:
            assert isinstance(layer, Layer)
            for module in layer.modules() if OWN.int4 else ():
                if isinstance(module, Linear) and module.weight.shape[0] % 8 == module.weight.shape[1] % GROUP == 0:
                    module.multiplied = Int4(module).multiplied  # type: ignore[method-assign]
            if isinstance(layer.mlp, Experts):
                if args.dtype == "fp8":
                    layer.mlp.first, layer.mlp.second = Kept(layer.mlp.first), Kept(layer.mlp.second)
                if group is not None:
                    layer.mlp = Summed(layer.mlp, group)


OWN = Namespace(int4=False)

if __name__ == "__main__":
    OWN = options()
    program.Serving = Routed  # type: ignore[misc]
    program.main()
