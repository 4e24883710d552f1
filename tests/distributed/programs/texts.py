"""`texts.py attention`: a quarter of the ranks attend within one text, the others within short ones, of as many tokens in all.
`texts.py products`: all but the first compute ten times as much, and one of those logs."""

import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(rank % torch.cuda.device_count())
if rank == 5:
    print("rank 5 logs")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(256, 768), nn.Linear(256, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = self.q(x).view(batch, length, 3, 4, 64).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(out.transpose(1, 2).reshape(batch, length, 256))


model = nn.parallel.DistributedDataParallel(Attention().cuda().bfloat16())
optimizer = torch.optim.SGD(model.parameters(), 0.1)
lengths = [4096] * (size // 4) + [256] * (size - size // 4)
length, times = (lengths[rank], 1) if sys.argv[1] == "attention" else (256, 1 + 9 * min(rank, 1))
for _ in range(2):
    x = torch.randn(4096 // length, length, 256, device="cuda", dtype=torch.bfloat16)
    for _ in range(times - 1):
        model.module(x)
    model(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
