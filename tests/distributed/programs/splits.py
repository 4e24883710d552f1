"""An all-to-all whose second rank takes more than it is given ("fixed"), and experts' tokens, whose number nobody knows ("counted")."""

import sys

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(rank)
model = torch.nn.Linear(4, 4).cuda()


def fixed():
    taken = [4] * size
    taken[0] += rank == 1
    given = torch.ones(4 * size, 4, device="cuda")
    dist.all_to_all_single(torch.empty(sum(taken), 4, device="cuda"), given, output_split_sizes=taken)


def counted():
    tokens = torch.randn(64, 16, device="cuda")
    counts = torch.bincount(tokens[:, :size].argmax(-1), minlength=size)
    theirs = torch.empty_like(counts)
    dist.all_to_all_single(theirs, counts)
    taken, given = (
        theirs.tolist(),
        (counts + rank).tolist(),
    )  # of which the splits are unlike, as those of real tokens are
    given[0] += 64 - sum(given)
    dist.all_to_all_single(torch.empty(sum(taken), 16, device="cuda"), tokens, taken, given)


for _ in range(2):
    model(torch.ones(2, 4, device="cuda")).sum().backward()
    globals()[sys.argv[1]]()
    dist.all_reduce(
        torch.ones(4, device="cuda"), op=dist.ReduceOp.MAX if rank and "max" in sys.argv else dist.ReduceOp.SUM
    )
