"""Ranks that have unlike amounts tell one another before they exchange them."""

import os

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
layer = torch.nn.Linear(64, 64).cuda()
mine = 4 + rank
for _ in range(2):
    layer(torch.randn(mine, 64, device="cuda")).sum().backward()

    length = torch.tensor([mine], device="cuda")
    lengths = [torch.zeros_like(length) for _ in range(size)]
    dist.all_gather(lengths, length)
    assert [int(one) for one in lengths] == [4 + other for other in range(size)]
    dist.all_reduce(length, dist.ReduceOp.MAX)
    assert int(length) == 4 + size - 1
    padded = torch.zeros(int(length), 64, device="cuda")
    dist.all_gather([torch.empty_like(padded) for _ in range(size)], padded)

    given = torch.tensor([mine + other for other in range(size)], device="cuda")
    got = torch.empty_like(given)
    dist.all_to_all_single(got, given)
    assert got.tolist() == [4 + other + rank for other in range(size)]
    tokens = torch.randn(int(given.sum()), 64, device="cuda")
    dist.all_to_all_single(torch.empty(int(got.sum()), 64, device="cuda"), tokens, got.tolist(), given.tolist())

    told = [None] * size
    dist.all_gather_object(told, {"rank": rank, "weight": layer.bias.grad})
    assert [one["rank"] for one in told] == list(range(size))
    found = [None] * size if rank == 0 else None
    dist.gather_object(rank, found, dst=0)
    assert found is None or found == list(range(size))
