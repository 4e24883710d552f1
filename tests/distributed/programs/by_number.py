"""Replicas with batches of 2, 3, 4 or 5, by the remainder of a rank's number."""

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
batch = 2 + dist.get_rank() % 4
model = torch.nn.Linear(64, 64).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(6):
    model(torch.ones(batch, 64, device="cuda")).sum().backward()
    for weight in model.parameters():
        dist.all_reduce(weight.grad)
    optimizer.step()
