"""Rank 0 takes what each other rank sends, whoever comes first."""

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(rank % 8)
model = torch.nn.Linear(64, 64, device="cuda")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    x = torch.zeros(4, 64, device="cuda")
    if rank == 0:
        heard = [dist.recv(x) for _ in range(size - 1)]
        assert sorted(heard) == list(range(1, size)), heard
    else:
        dist.send(model(torch.randn(4, 64, device="cuda")).detach(), dst=0)
    model(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
