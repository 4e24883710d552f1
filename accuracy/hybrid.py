"""`python -m accuracy.hybrid`: trains the reference transformer with layers that each are one thing only, as Nemotron-H's are: a
state-space mixer (Mamba-2), attention, a feed-forward part, or experts.

Its options are those of `accuracy.reference` and a few of its own. A layer is a norm, its mixer and the residual, as
https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/core/ssm/mamba_block.py has it; the state-space mixer is that of
mamba_mixer.py beside it, on mamba_ssm's kernels. Left out: pipelines, context parallelism, recomputation of parts of layers.
"""

import argparse
import sys
from argparse import Namespace
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from accuracy.reference import __main__ as reference
from accuracy.reference import model
from accuracy.reference.attention import Attention, AttentionShape
from accuracy.reference.feedforward import FeedForward, FeedForwardShape
from accuracy.reference.layout import Layout, size
from accuracy.reference.linear import Exchange, How, Linear, mark_partial

CONVOLVED = 4  # tokens that the mixer's convolution sees
OWN = Namespace()  # this program's options


def options() -> tuple[Namespace, list[str]]:
    """Those of this program, and the rest."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--pattern", default="M", help="M mixer, * attention, - feed-forward, E experts; over and over")
    for name, value, words in (
        ("mamba-heads", 64, ""), ("mamba-head-dim", 64, ""), ("mamba-groups", 8, "of heads that share B and C"),
        ("mamba-states", 128, "of a head's element"), ("chunk", 128, "tokens that the scan takes at once"),
        ("latent", 0, "width of what experts are given; 0: the layer's"), ("bf16-layers", 0, "at the end, without FP8 or FP4"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=words)
    parser.add_argument("--mtp-pattern", default="*E", help="layers of what predicts one token more, --mtp times")
    return parser.parse_known_args()


class Mixer(nn.Module):
    """[s, b, hidden] -> the same: heads are split over the tensor group, and the groups whose B and C they share."""

    def __init__(self, args: Namespace, how: How) -> None:
        super().__init__()
        parts, inner = size(how.group), OWN.mamba_heads * OWN.mamba_head_dim
        shared = 2 * OWN.mamba_groups * OWN.mamba_states
        heads, convolved = OWN.mamba_heads // parts, (inner + shared) // parts
        self.groups = OWN.mamba_groups // parts
        self.into = Linear(args.hidden, 2 * inner + shared + OWN.mamba_heads, how, "column")
        # The last product stays in MXFP8 where others are in NVFP4 (`MIXED`).
        self.out = Linear(inner, args.hidden, how._replace(low="mx") if how.low == "nv" else how, "row")
        self.taps = nn.Parameter(torch.empty(convolved, CONVOLVED))
        self.taps_bias = nn.Parameter(torch.empty(convolved))
        self.dt_bias, self.A_log, self.D = (nn.Parameter(torch.empty(heads)) for _ in range(3))
        self.norm = nn.Parameter(torch.empty(inner // parts))

    def forward(self, x: Tensor, _: Any = None) -> Tensor:
        from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn  # type: ignore[import-not-found]
        from mamba_ssm.ops.triton.ssd_combined import mamba_split_conv1d_scan_combined  # type: ignore[import-not-found]

        mixed = self.into(x).transpose(0, 1).contiguous()
        done = mamba_split_conv1d_scan_combined(
            mixed, self.taps, self.taps_bias, self.dt_bias.float(), -self.A_log.float().exp(), self.D, OWN.chunk,
            headdim=OWN.mamba_head_dim, ngroups=self.groups, norm_before_gate=False,
        )  # fmt: skip
        done = done.transpose(0, 1).contiguous()
        done = rmsnorm_fn(done, self.norm, None, None, 1e-5, self.norm.shape[0] // self.groups, False)
        return self.out(done)  # type: ignore[no-any-return]


# Products of Nemotron 3 Super's NVFP4 training that stay in 16 bit, by the quantization recipe of its benchmark:
# https://github.com/NVIDIA-NeMo/Megatron-Bridge/blob/067f987df03b/src/megatron/bridge/perf_recipes/nemotronh/te_quant.cfg
def mixed(how: How) -> How:
    """Of attention and of latents."""
    return how._replace(low="") if how.low == "nv" else how


class Whole(nn.Module):
    """Attention, or a feed-forward part, as a layer's mixer."""

    def __init__(self, inside: nn.Module, is_attention: bool) -> None:
        super().__init__()
        self.inside, self.is_attention = inside, is_attention

    def forward(self, x: Tensor, angles: Any) -> Tensor:
        return self.inside(x, angles) if self.is_attention else self.inside(x)  # type: ignore[no-any-return]


def attention_of(args: Namespace, layout: Layout, how: How, fuse: Any) -> nn.Module:
    shape = AttentionShape(
        args.hidden, args.heads, args.kv_heads, args.head_dim, args.position == "rope_complex", args.bias, args.attention,
        args.recompute == "attention", dropout=args.dropout, separate=args.separate,
    )  # fmt: skip
    return Whole(Attention(shape, mixed(how), layout.context, fuse), True)


def feed_forward_of(args: Namespace, how: How, fuse: Any) -> nn.Module:
    return Whole(FeedForward(FeedForwardShape(args.hidden, args.ffn, args.gated, args.bias), how, fuse), False)


def experts_of(args: Namespace, layout: Layout, how: How, fuse: Any) -> nn.Module:
    from accuracy.reference.experts import layer

    shape = FeedForwardShape(args.hidden, args.ffn, args.gated, args.bias)
    if not OWN.latent:
        return Whole(layer.experts_of(args, layout, how, shape, fuse), False)
    narrow = Namespace(**{**vars(args), "shared_ffn": 0})
    inside = layer.experts_of(narrow, layout, how, replace(shape, hidden=OWN.latent), fuse)
    shared = FeedForward(shape, how, fuse, args.shared_ffn) if args.shared_ffn else None
    return Whole(Latent(args, inside, shared, how), False)


class Chooser(nn.Module):
    """A router that looks at the layer's own input, not at the latents that its experts are given."""

    def __init__(self, hidden: int, experts: int, how: How) -> None:
        super().__init__()
        self.inside = Linear(hidden, experts, How(plain=how.plain))
        self.seen: Tensor | None = None

    def forward(self, _: Tensor) -> Tensor:
        seen, self.seen = self.seen, None
        return self.inside(seen)  # type: ignore[no-any-return]


class Latent(nn.Module):
    """Experts of latents (LatentMoE, arXiv:2601.18089): a product in front, one behind, both whole on each rank; the router
    and what all tokens pass work on the layer's own width."""

    def __init__(self, args: Namespace, inside: Any, shared: nn.Module | None, how: How) -> None:
        super().__init__()
        self.inside, self.shared = inside, shared
        inside.router = Chooser(args.hidden, args.experts, how)
        how = mixed(how)
        self.down, self.up = Linear(args.hidden, OWN.latent, how), Linear(OWN.latent, args.hidden, how)
        for module in (self.down, self.up):
            mark_partial(module, how)

    def forward(self, x: Tensor) -> Tensor:
        self.inside.router.seen = x.reshape(-1, x.shape[-1])
        done = self.up(self.inside(self.down(x)))
        return done if self.shared is None else done + self.shared(x)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Norm, mixer and residual."""

    def __init__(self, args: Namespace, layout: Layout, how: How, number: int, kind: str = "") -> None:
        super().__init__()
        fuse = model.fuse_of(args)
        if number >= args.layers - OWN.bf16_layers:
            how = how._replace(low="")
        kind = kind or OWN.pattern[number % len(OWN.pattern)]
        self.dropout = args.dropout
        self.norm = model.norm_of(args)
        if kind == "M":
            self.mixer: nn.Module = Mixer(args, how)
        elif kind == "*":
            self.mixer = attention_of(args, layout, how, fuse)
        else:
            self.mixer = experts_of(args, layout, how, fuse) if kind == "E" else feed_forward_of(args, how, fuse)
        self.add = fuse(model.add_dropped)
        mark_partial(self.norm, how)

    def forward(self, x: Tensor, angles: Any = None) -> Tensor:
        return self.add(self.mixer(self.norm(x), angles), None, x, self.dropout)  # type: ignore[no-any-return]


class Next(nn.Module):
    """As the reference's, `--mtp` times over with the same weights, each on what the one before made; in 16 bit
    (keep_mtp_spec_in_bf16, mtp_use_repeated_layer of the benchmarks' recipes)."""

    def __init__(self, args: Namespace, layout: Layout, how: How) -> None:
        super().__init__()
        how = how._replace(low="")
        self.norm1, self.norm2, self.last = (model.norm_of(args) for _ in range(3))
        self.join = Linear(2 * args.hidden, args.hidden, how, "column")
        self.layers = nn.ModuleList(Layer(args, layout, how, 0, kind) for kind in OWN.mtp_pattern)
        self.how, self.times = how, args.mtp
        for module in (self.norm1, self.norm2, self.last):
            mark_partial(module, how)

    def forward(self, x: Tensor, angles: Any) -> Tensor:
        found = []
        for _ in range(self.times):
            both = self.join(torch.cat((self.norm1(x), self.norm2(x)), -1))
            x = Exchange.apply(both, self.how) if self.how.group is not None else both
            for layer in self.layers:
                x = layer(x, angles)
            x = self.last(x)
            found.append(x)
        return torch.cat(found)


class Loss(model.VocabularyLoss):
    """Of as many tokens more as are predicted."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        times = logits.shape[0] // targets.shape[1]
        return super().forward(logits, targets.repeat(1, times) if times > 1 else targets)


def main() -> None:
    own, sys.argv[1:] = options()
    vars(OWN).update(vars(own))
    model.Layer, model.Next = Layer, Next  # type: ignore[assignment, misc]
    reference.VocabularyLoss = Loss  # type: ignore[misc]
    reference.main()


if __name__ == "__main__":
    main()
