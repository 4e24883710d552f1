"""A barrier of hosts that the first rank reaches in a thread of its own."""

import threading

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
rank = dist.get_rank()
torch.cuda.set_device(rank)
hosts = dist.new_group(backend="gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4).cuda())
optimizer = torch.optim.SGD(model.parameters())
for _ in range(3):
    thread = threading.Thread(target=dist.barrier, args=(hosts,))
    if rank == 0:
        thread.start()
    else:
        dist.barrier(hosts)
    model(torch.ones(2, 4, device="cuda")).sum().backward()
    optimizer.step()
    if rank == 0:
        thread.join()
