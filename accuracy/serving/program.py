"""`python -m accuracy.serving.program`: text from the reference transformer, one call of it again and again: a prompt that is read (`--phase
prompt`), or the next token of each sequence with all before it in a cache (`--phase token`).

Its options are the reference's and those below. No gradients, no optimizer; heads and inner widths are split over the tensor group, keys
and values that are fewer than its ranks are held by several. The call is compiled whole and captured as one graph, as Neuron's and
Gaudi's static graphs are.
"""

import os
import sys
from argparse import ArgumentParser, Namespace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accuracy.reference import __main__ as reference
from accuracy.reference.attention import Attention
from accuracy.reference.fused import attend
from accuracy.reference.layout import Layout, layout_of
from accuracy.reference.linear import Linear, all_gather, to_tensor_scaled_once
from accuracy.reference.model import Layer, Stage, keep_low
from accuracy.serving import PHASES, PROMPT, TOKEN


def arguments() -> Namespace:
    """Its own options, taken off the command line before the reference reads the rest."""
    parser = ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--phase", choices=PHASES, default=TOKEN)
    parser.add_argument("--seen", type=int, default=1024, help="tokens of each sequence that the next one sees")
    parser.add_argument("--int8", action="store_true", help="weights are stored in 8 bit, and multiplied in 16")
    own, rest = parser.parse_known_args()
    sys.argv[1:] = [*rest, *(("--seq", "1") if own.phase == TOKEN else ())]
    return split_evenly(Namespace(**vars(reference.arguments()), **vars(own)))


def split_evenly(args: Namespace) -> Namespace:
    """Heads and inner widths up to what the tensor ranks can share, keys and values at least one head for each."""
    args.heads, args.ffn = (-(-size // args.tp) * args.tp for size in (args.heads, args.ffn))
    args.kv_heads = max(-(-args.kv_heads // args.tp) * args.tp, args.tp)
    if args.heads % args.kv_heads:  # each group of heads has as many
        args.heads = -(-args.heads // args.kv_heads) * args.kv_heads
    args.vocab = -(-args.vocab // args.tp) * args.tp
    return args


class Cache:
    """Keys and values of one layer, [b, kv_heads, seen, head_dim] each, in FP8 where products are: written at the end, read whole."""

    def __init__(self, args: Namespace, attention: Attention, device: torch.device, dtype: torch.dtype) -> None:
        heads = max(args.kv_heads // attention.parts, 1)
        shape = (args.micro_batch, heads, max(args.seen, args.seq), args.head_dim)
        self.keys, self.values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        self.is_prompt = args.phase == PROMPT
        self.at = 0 if self.is_prompt else args.seen - 1

    def core(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `Attention.core`: [s, b, heads, d] of each -> [s, b, heads, d]."""
        dtype, low = q.dtype, self.keys.dtype
        q, k, v = (one.permute(1, 2, 0, 3) for one in (q, k, v))
        if low != dtype:
            q, k, v = (to_tensor_scaled_once(one, low) for one in (q, k, v))
        written = slice(self.at, self.at + k.shape[2])
        for cache, new in ((self.keys, k), (self.values, v)):
            bytewise(cache)[:, :, written] = bytewise(new)
        if not self.is_prompt:
            k, v = self.keys, self.values
        kind = "flash" if low == dtype else "cudnn"
        return attend(q, k, v, kind, self.is_prompt)[0].permute(2, 0, 1, 3).to(dtype)


def bytewise(x: Tensor) -> Tensor:
    """FP8 as bytes, which can be copied."""
    return x.view(torch.uint8) if x.element_size() == 1 else x


class Int8:
    """A weight [n, k] that is stored in 8 bit with a scale for each row, and multiplied in 16."""

    def __init__(self, whole: Linear) -> None:
        n, k = whole.weight.shape
        device, dtype = whole.weight.device, whole.weight.dtype
        self.rows, self.scales = (
            torch.zeros(n, k, device=device, dtype=torch.int8),
            torch.ones(n, device=device, dtype=dtype),
        )
        del whole.weight
        whole.register_buffer("weight", self.rows)

    def multiplied(self, x: Tensor, _: bool) -> Tensor:
        """As `Linear.multiplied`."""
        flat = x.reshape(-1, x.shape[-1])
        return torch.ops.aten._weight_int8pack_mm(flat, self.rows, self.scales).view(*x.shape[:-1], -1)  # type: ignore[no-any-return]


class Serving(nn.Module):
    """One call: tokens [b, s] -> the next token of each sequence [b]."""

    def __init__(self, args: Namespace, layout: Layout, device: torch.device) -> None:
        super().__init__()
        (stage,) = reference.build(args, layout, device)
        assert isinstance(stage, Stage)
        assert stage.embedding is not None
        self.stage = stage.eval().requires_grad_(False)
        dtype = torch.float8_e4m3fn if args.dtype == "fp8" else reference.DTYPES[args.dtype]
        for layer in stage.layers:
            assert isinstance(layer, Layer)
            layer.attention.core = Cache(args, layer.attention, device, dtype).core  # type: ignore[method-assign]
            if args.dtype == "fp8":
                keep_low(layer)
            if args.int8:
                for module in layer.modules():
                    if isinstance(module, Linear):
                        module.multiplied = Int8(module).multiplied  # type: ignore[method-assign]

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.stage.embedding(tokens)
        for number, layer in enumerate(self.stage.layers):
            x = self.stage.through(number, layer, x)
        logits = self.stage.head(x[-1:])[0]
        group = self.stage.head.how.group
        return (logits if group is None else whole(logits, group)).argmax(-1)


def whole(logits: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[b, vocabulary / ranks] of each rank -> [b, vocabulary]"""
    parts = all_gather(logits, group)[0]
    return parts.view(-1, *logits.shape).transpose(0, 1).reshape(logits.shape[0], -1)


class Captured(nn.Module):
    """Calls of a model as one graph: the first warms up, the second is captured."""

    def __init__(self, model: nn.Module, tokens: Tensor) -> None:
        super().__init__()
        self.model, self.run = model, reference.graphed(lambda: model(tokens))

    def forward(self) -> Tensor:
        return self.run()  # type: ignore[no-any-return]


@torch.no_grad()
def main() -> None:
    args = arguments()
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    device = torch.device("cuda", torch.cuda.current_device())
    model: nn.Module = Serving(args, layout_of(args), device)
    if args.compile != "none":
        model.compile()
    tokens = torch.zeros(args.micro_batch, args.seq, dtype=torch.int64, device=device)
    called = Captured(model, tokens) if args.graph else model
    for _ in range(args.steps):
        (called() if args.graph else called(tokens)).cpu()


if __name__ == "__main__":
    main()
