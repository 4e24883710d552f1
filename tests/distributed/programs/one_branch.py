"""What a branch on one rank alone, or all ranks, exchange after each step, by its name on the command line."""

import sys

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(rank)
hosts = dist.new_group(backend="gloo")


def same_line():
    """Two sends that differ by their tags, received in the other order."""
    first, second = torch.ones(3), torch.ones(3)
    if rank == 0:
        for work in [dist.isend(first, 1, tag=5, group=hosts), dist.isend(second, 1, tag=6, group=hosts)]:
            work.wait()
    else:
        dist.recv(second, 0, tag=6, group=hosts)
        dist.recv(first, 0, tag=5, group=hosts)


def tags_differ():
    tensor = torch.ones(3)
    dist.send(tensor, 1, tag=1, group=hosts) if rank == 0 else dist.recv(tensor, 0, tag=2, group=hosts)


def received_over_a_synchronised_chip():
    """A chip is waited for while the host's receive is open: of that the chip knows nothing."""
    tensor = torch.ones(3)
    if rank == 0:
        work = dist.irecv(tensor, 1, group=hosts)
        torch.cuda.synchronize()
        dist.send(torch.ones(3), 1, group=hosts)
        work.wait()
    else:
        dist.recv(tensor, 0, group=hosts)
        dist.send(tensor, 0, group=hosts)


def batch():
    """What hosts exchange beside what chips do, each rank in its own order."""
    ours = [
        dist.P2POp(dist.isend, torch.ones(3), 1 - rank, hosts),
        dist.P2POp(dist.irecv, torch.ones(3), 1 - rank, hosts),
    ]
    for work in dist.batch_isend_irecv(ours[:: 1 - 2 * rank]):
        work.wait()


def logged():
    everyone = [None] * size if rank == 0 else None
    dist.gather_object({"rank": rank}, everyone, dst=0, group=hosts)
    dist.monitored_barrier(hosts)
    dist.all_reduce(torch.ones(2), group=hosts)


def beside():
    """Collectives of hosts and of chips stand in no order with one another."""
    tensor, on_chip = torch.ones(3), torch.ones(3, device="cuda")
    work = dist.all_reduce(on_chip, async_op=True) if rank == 0 else None
    dist.all_reduce(tensor, group=hosts)
    work = work or dist.all_reduce(on_chip, async_op=True)
    work.wait()


ALL = {one.__name__: one for one in (same_line, tags_differ, received_over_a_synchronised_chip, batch, logged, beside)}
ONE_RANK = {
    "all_gather_object": lambda: dist.all_gather_object([None] * size, 1),
    "gather_object": lambda: dist.gather_object(1, [None] * size, dst=0),
    "broadcast_object_list": lambda: dist.broadcast_object_list([1], src=0),
    "scatter_object_list": lambda: dist.scatter_object_list([None], [1] * size, src=0),
    "monitored_barrier": lambda: dist.monitored_barrier(hosts),
    "barrier": lambda: dist.barrier(hosts),
    "all_reduce": lambda: dist.all_reduce(torch.ones(3), group=hosts),
}

model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4).cuda())
optimizer = torch.optim.SGD(model.parameters())
for _ in range(3):
    model(torch.ones(2, 4, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    if sys.argv[1] in ALL:
        ALL[sys.argv[1]]()
    elif rank == 0:
        ONE_RANK[sys.argv[1]]()
