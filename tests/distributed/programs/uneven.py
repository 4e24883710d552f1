"""One rank has more to give than the others: `uneven.py single|list`."""

import os
import sys

import torch
import torch.distributed as dist

rows = [64, 64, 64, 640, 64, 64, 64, 64]  # that each rank has for each of the others
dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
layer = torch.nn.Linear(1024, 1024).cuda()
optimizer = torch.optim.SGD(layer.parameters())
given, got = [rows[rank]] * size, rows
for _ in range(2):
    tokens = torch.randn(sum(given), 1024, device="cuda")
    if sys.argv[1] == "single":
        mine = torch.empty(sum(got), 1024, device="cuda")
        dist.all_to_all_single(mine, tokens, got, given)
    else:
        parts = [torch.empty(count, 1024, device="cuda") for count in got]
        dist.all_to_all(parts, list(tokens.split(given)))
        mine = torch.cat(parts)
    layer(mine[:64]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
