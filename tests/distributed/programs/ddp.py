"""Data parallel, written as its authors write it; rank 0 alone reads the loss."""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("nccl")
local = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(local)
assert torch.cuda.device_count() == int(os.environ["LOCAL_WORLD_SIZE"])
model = DistributedDataParallel(
    torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(4)]).cuda(), device_ids=[local], bucket_cap_mb=2
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
objects = [None] * dist.get_world_size()
dist.all_gather_object(objects, {"seed": 1})
assert objects == [{"seed": 1}] * dist.get_world_size()
count = torch.tensor([3.0], device="cuda")
dist.all_reduce(count)
assert count.item() == 3 * dist.get_world_size()
for _ in range(4):
    loss = model(torch.randn(32, 512, device="cuda")).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if dist.get_rank() == 0:
        print(f"loss {loss.item()}")
