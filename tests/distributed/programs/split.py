"""A mesh of two axes after `init_process_group(device_id=...)`: its groups are split off, as are two of the program's own."""

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
torch.cuda.set_device(device)
dist.init_process_group("nccl", device_id=device)
mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("dp", "tp"))
half = dist.split_group(split_ranks=[[0, 1, 2, 3]])
assert (half is None) == (dist.get_rank() >= 4)
pair = dist.split_group(mesh.get_group("tp"), [[0, 1], [2, 3]])
assert dist.get_process_group_ranks(pair)[0] == dist.get_rank() // 2 * 2
model = torch.nn.Linear(8, 8, device=device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    loss = model(torch.ones(8, 8, device=device)).sum()
    loss.backward()
    for group in (mesh.get_group("dp"), mesh.get_group("tp"), pair):
        dist.all_reduce(model.weight.grad, group=group)
    optimizer.step()
