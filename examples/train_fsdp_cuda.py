"""Train a Llama on random tokens under FSDP2, and tensor and sequence parallelism with --tp, as `torchrun` starts it.

The default is Llama 3 8B, 1 sequence of 8192 tokens a rank, full recomputation, bfloat16 with 32-bit gradients. Where there is no
cluster: `anychip forecast --on h100:8..1024 examples/train_fsdp_cuda.py`. On CPUs it runs too: `torchrun --nproc-per-node 2
examples/train_fsdp_cuda.py --device cpu --layers 2 --width 64 --hidden 128 --heads 4 --kv-heads 2 --vocabulary 256 --context 64`.
"""

import argparse
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.utils.checkpoint import checkpoint

# Shape suffixes: B batch, T sequence, C width, H heads, K heads of keys and values, D width of a head.


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.q = nn.Linear(width, heads * self.head_width, bias=False)
        self.k = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.v = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.out = nn.Linear(heads * self.head_width, width, bias=False)

    def forward(self, x_BTC: torch.Tensor, rotation_TD: torch.Tensor) -> torch.Tensor:
        # Under tensor parallelism a rank has some of the heads: their number follows from what the products return.
        q_BHTD, k_BKTD, v_BKTD = (
            part(x_BTC).unflatten(-1, (-1, self.head_width)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        q_BHTD, k_BKTD = rotated(q_BHTD, rotation_TD), rotated(k_BKTD, rotation_TD)
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BKTD, v_BKTD, is_causal=True, enable_gqa=True)
        return self.out(y_BHTD.transpose(1, 2).flatten(2))


def rotated(x_BHTD: torch.Tensor, rotation_TD: torch.Tensor) -> torch.Tensor:
    cos, sin = rotation_TD.to(x_BHTD.dtype).chunk(2, -1)
    a, b = x_BHTD.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x_BTC)) * self.up(x_BTC))


class Block(nn.Module):
    def __init__(self, width: int, hidden: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.attention = Attention(width, heads, kv_heads)
        self.mlp = MLP(width, hidden)

    def forward(self, x_BTC: torch.Tensor, rotation_TD: torch.Tensor) -> torch.Tensor:
        x_BTC = x_BTC + self.attention(self.norm1(x_BTC), rotation_TD)
        return x_BTC + self.mlp(self.norm2(x_BTC))


class Llama(nn.Module):
    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.recompute = args.recompute
        self.tokens = nn.Embedding(args.vocabulary, args.width)
        shape = args.width, args.hidden, args.heads, args.kv_heads
        self.blocks = nn.ModuleList([Block(*shape) for _ in range(args.layers)])
        self.norm = nn.RMSNorm(args.width, eps=1e-5)
        self.head = nn.Linear(args.width, args.vocabulary, bias=False)
        self.register_buffer("rotation_TD", torch.empty(args.context, args.width // args.heads), persistent=False)

    def initialize(self) -> None:
        for name, parameter in self.named_parameters():
            nn.init.ones_(parameter) if "norm" in name else nn.init.normal_(parameter, std=0.02)
        context, head_width = self.rotation_TD.shape
        half = torch.arange(head_width // 2, device=self.rotation_TD.device) / (head_width // 2)
        angle = torch.arange(context, device=half.device)[:, None] * 500000.0**-half
        self.rotation_TD.copy_(torch.cat((angle.cos(), angle.sin()), -1))

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        x_BTC = self.tokens(ids_BT)
        for block in self.blocks:
            if self.recompute:
                x_BTC = checkpoint(block, x_BTC, self.rotation_TD, use_reentrant=False)
            else:
                x_BTC = block(x_BTC, self.rotation_TD)
        return self.head(self.norm(x_BTC))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=14336)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--context", type=int, default=8192, help="tokens of a sequence")
    parser.add_argument("--batch-size", type=int, default=1, help="sequences a data-parallel rank has in a step")
    parser.add_argument("--tp", type=int, default=1, help="ranks that share each matrix product")
    parser.add_argument("--no-recompute", dest="recompute", action="store_false")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    return parser.parse_args()


def parallelized(model: Llama, args: argparse.Namespace) -> Llama:
    world = dist.get_world_size()
    if world % args.tp:
        raise SystemExit(f"--tp {args.tp} does not divide {world} ranks")
    mesh = init_device_mesh(args.device, (world // args.tp, args.tp), mesh_dim_names=("dp", "tp"))
    if args.tp > 1:
        # Outside of attention and MLP each rank of a tensor-parallel group has its own part of the sequence.
        whole, part = Replicate(), Shard(1)
        ends = {
            "tokens": RowwiseParallel(input_layouts=whole, output_layouts=part),
            "norm": SequenceParallel(),
            "head": ColwiseParallel(input_layouts=part, output_layouts=whole),
        }
        column, row = ColwiseParallel(), RowwiseParallel(output_layouts=part)
        inside = {
            "norm1": SequenceParallel(),
            "attention": PrepareModuleInput(input_layouts=(part, None), desired_input_layouts=(whole, None)),
            **{f"attention.{name}": column for name in "qkv"},
            "attention.out": row,
            "norm2": SequenceParallel(),
            "mlp": PrepareModuleInput(input_layouts=(part,), desired_input_layouts=(whole,)),
            "mlp.gate": column,
            "mlp.up": column,
            "mlp.down": row,
        }
        parallelize_module(model, mesh["tp"], ends)
        for block in model.blocks:
            parallelize_module(block, mesh["tp"], inside)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mesh=mesh["dp"], mp_policy=policy)
    fully_shard(model, mesh=mesh["dp"], mp_policy=policy)
    return model


def main() -> None:
    args = parsed()
    dist.init_process_group("nccl" if args.device == "cuda" else "gloo")
    if args.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Llama(args)
    model = parallelized(model, args)
    model.to_empty(device=args.device)
    model.initialize()
    torch.manual_seed(1 + dist.get_rank() // args.tp)  # ranks that share each product read the same tokens
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    for step in range(args.steps):
        start = time.perf_counter()
        ids_BT = torch.randint(args.vocabulary, (args.batch_size, args.context + 1), device=args.device)
        logits_BTV = model(ids_BT[:, :-1])
        loss = F.cross_entropy(logits_BTV.flatten(0, 1).float(), ids_BT[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach() / dist.get_world_size()
        dist.all_reduce(mean)
        if dist.get_rank() == 0:
            print(f"step {step}: loss {mean.item():.3f}, {time.perf_counter() - start:.2f} s")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
