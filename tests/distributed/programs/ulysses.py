"""Sequences are split over four ranks, and exchanged for heads around each attention (DeepSpeed-Ulysses, arXiv:2309.14509), in groups
without a name."""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

PARTS = 4
dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
for first in range(0, dist.get_world_size(), PARTS):
    group = dist.new_group(list(range(first, first + PARTS)))
    if first <= dist.get_rank() < first + PARTS:
        parts = group


class Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        out = torch.empty_like(x)
        dist.all_to_all_single(out, x.contiguous(), group=parts)
        return out

    @staticmethod
    def backward(ctx, grad):
        return Exchange.forward(ctx, grad)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.qkv, self.out, self.up, self.down = (
            nn.Linear(*sizes) for sizes in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
        )

    def forward(self, x):
        batch, length, width = x.shape
        mine, dim = self.heads // PARTS, width // self.heads
        qkv = self.qkv(self.norm(x)).view(batch, length, 3, PARTS, mine, dim).permute(3, 1, 0, 2, 4, 5)
        q, k, v = Exchange.apply(qkv).reshape(PARTS * length, batch, 3, mine, dim).permute(2, 1, 3, 0, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = Exchange.apply(y.permute(2, 0, 1, 3).reshape(PARTS, length, batch, mine, dim))
        x = x + self.out(y.permute(2, 1, 0, 3, 4).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(x)))


model = nn.Sequential(nn.Embedding(1024, 256), *[Block(256, 8) for _ in range(3)], nn.Linear(256, 1024)).cuda()
model = nn.parallel.DistributedDataParallel(model, device_ids=[torch.cuda.current_device()])
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(3):
    tokens = torch.randint(0, 1024, (2, 128), device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
