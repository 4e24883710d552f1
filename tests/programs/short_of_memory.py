"""Linear layers of 1 GiB of weights each, trained by AdamW: `short_of_memory.py LAYERS [GROWS [asks]]`, with a larger batch in the
third step; one that asks has read the chip's name."""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn

if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    dist.init_process_group("nccl")
if sys.argv[3:]:
    torch.cuda.get_device_name()
layers, growth = int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 1
with torch.device("cuda"):
    model = nn.Sequential(*[nn.Linear(16384, 16384, bias=False) for _ in range(layers)])
optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
for step in range(3):
    x = torch.randn(4096 * (growth if step == 2 else 1), 16384, device="cuda")
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
