"""Two groups of the same ranks, which the ranks use in another order where they are told to."""

import sys

import torch
import torch.distributed as dist

HOW = sys.argv[1]

dist.init_process_group("nccl")
rank = dist.get_rank()
torch.cuda.set_device(rank % torch.cuda.device_count())
groups = [dist.new_group(list(range(dist.get_world_size()))), dist.group.WORLD]
if HOW != "alike" and rank % 2:
    groups.reverse()
model = torch.nn.Linear(64, 64, device="cuda")
optimizer = torch.optim.SGD(model.parameters(), 1e-3)
for _ in range(3):
    model(torch.ones(8, 64, device="cuda")).sum().backward()
    works = [dist.all_reduce(model.weight.grad, group=group, async_op=HOW == "overlapped") for group in groups]
    for work in filter(None, works):
        work.wait()
    optimizer.step()
