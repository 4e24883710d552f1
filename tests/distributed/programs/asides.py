"""What programs ask of a group beside collectives: its store, and futures of what is on its way."""

import os

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
layer = torch.nn.Linear(64, 64).cuda()
layer(torch.randn(8, 64, device="cuda")).sum().backward()

store = dist.distributed_c10d._get_default_store()
store.set(f"ready {rank}", "yes")
store.wait([f"ready {(rank + 1) % size}"])
assert store.get(f"ready {(rank + 1) % size}") == b"yes"

# torch's NCCL backend gathers into one tensor, which a future gives; nobody else holds the list.
mine = torch.randn(3, 5, device="cuda")
future = dist.all_gather([torch.empty_like(mine) for _ in range(size)], mine, async_op=True).get_future()
assert future.then(lambda done: tuple(done.wait()[0].shape)).wait() == (size, 3, 5)
