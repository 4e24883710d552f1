"""All-to-alls by counts that each rank draws for itself, and tells the others as objects or as floats."""

import sys

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(rank % 8)
torch.manual_seed(rank)
model = torch.nn.Linear(4, 4).cuda()
for _ in range(2):
    given = torch.multinomial(torch.ones(size), 64, replacement=True).bincount(minlength=size)
    if sys.argv[1] == "objects":
        everyone = [None] * size
        dist.all_gather_object(everyone, given.tolist())
        taken = [one[rank] for one in everyone]
    else:
        theirs = torch.empty(size, device="cuda")
        dist.all_to_all_single(theirs, given.float().cuda())
        taken = [int(one) for one in theirs.tolist()]
    dist.all_to_all_single(
        torch.empty(sum(taken), 16, device="cuda"), torch.randn(64, 16, device="cuda"), taken, given.tolist()
    )
    model(torch.ones(2, 4, device="cuda")).sum().backward()
