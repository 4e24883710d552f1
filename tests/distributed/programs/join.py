"""Ranks with as many inputs as their number and one, which go along with those that have more; "zero": an optimizer does, too."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.algorithms.join import Join
from torch.distributed.optim import ZeroRedundancyOptimizer

dist.init_process_group("nccl")
rank = dist.get_rank()
torch.cuda.set_device(rank)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4).cuda())
joined = [model]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
if "zero" in sys.argv:
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
    joined.append(optimizer)
try:
    with Join(joined, throw_on_early_termination="throw" in sys.argv):
        for _ in range(1 + rank):
            model(torch.ones(2, 4, device="cuda")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
except RuntimeError as error:
    print(f"rank {rank}: {error}")
