"""Replicas of which one does more in its second step."""

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64, device="cuda"))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(3):
    model(torch.ones(8, 64, device="cuda")).sum().backward()
    if dist.get_rank() == 2 and step == 1:
        torch.empty(1 << 20, device="cuda").fill_(1)
    optimizer.step()
    optimizer.zero_grad()
