"""A node is the shards of one mesh, made first and with more dimensions, and the tensor parallel ranks of another, which is called."""

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
size = dist.get_world_size()
experts = init_device_mesh("cuda", (1, size, 1), mesh_dim_names=("pp", "efsdp", "ep"))
dense = init_device_mesh("cuda", (1, size), mesh_dim_names=("fsdp", "tp"))
layer = torch.nn.Linear(64, 64).cuda()
optimizer = torch.optim.SGD(layer.parameters(), 0.1)
for _ in range(2):
    y = layer(torch.randn(8, 64, device="cuda"))
    dist.all_reduce(y.detach(), group=dense["tp"].get_group())
    y.sum().backward()
    optimizer.step()
