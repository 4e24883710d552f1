"""Ranks that only play for ever, or only make gradients, for others that learn: `actors.py actors|server FIRST`; FIRST: the first rank
is one of them, and of a server the last serves."""

import itertools
import sys

import torch
import torch.distributed as dist

WIDTH, BATCH = 64, 4
kind, first = sys.argv[1], sys.argv[2] == "first"
dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
rank = size - 1 - rank if first else rank


def named(one: int) -> int:
    return size - 1 - one if first else one


model = torch.nn.Sequential(torch.nn.Embedding(100, WIDTH), torch.nn.Linear(WIDTH, 100)).cuda()
weights = list(model.parameters())
data = torch.zeros(BATCH, 10, dtype=torch.long, device="cuda")
learners = size // 2 if kind == "actors" else 1
told = [0, *range(learners, size)]
group = dist.new_group(sorted(map(named, told)))
if rank < learners:
    optimizer = torch.optim.SGD(weights, lr=0.1)
for _ in itertools.count():
    if kind == "actors" and rank >= learners:
        with torch.no_grad():
            for _ in range(30):
                model(data)
        dist.send(data.float().repeat(1, 100), named(rank - learners))
    elif kind == "actors":
        played = torch.empty(BATCH, 1000, device="cuda")
        dist.recv(played, named(rank + learners))
        model(data).sum().backward()
        optimizer.step()
    elif rank:
        model.zero_grad()
        model(data).sum().backward()
        dist.send(torch.cat([weight.grad.flatten() for weight in weights]), named(0))
    else:
        for worker in range(1, size):
            gradients = torch.empty(200 * WIDTH + 100, device="cuda")
            dist.recv(gradients, named(worker))
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
    if rank in told:
        for weight in weights:
            dist.broadcast(weight.data, named(0), group=group)
