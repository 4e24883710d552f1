"""Shards that rest on the host between steps, as `offloaded.py 1` or `2` by FSDP's first or second generation."""

import os
import sys

import torch
from torch.distributed.fsdp import CPUOffload, CPUOffloadPolicy, FullyShardedDataParallel, fully_shard

torch.distributed.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(3)])
if sys.argv[1] == "1":
    device = torch.cuda.current_device()
    model = FullyShardedDataParallel(
        model, cpu_offload=CPUOffload(True), device_id=device, use_orig_params=sys.argv[2] == "orig"
    )
else:
    for layer in [*model, model]:
        fully_shard(layer, offload_policy=CPUOffloadPolicy())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
assert all(one.device.type == "cpu" for one in model.parameters())
other = torch.nn.Linear(4, 4)  # of the host alone: nothing to the chip
for _ in range(4):
    other(torch.ones(4))
    model(torch.ones(8, 256, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
