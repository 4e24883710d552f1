"""Data parallel whose gradients a hook compresses: none, fp16 or powersgd."""

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
model = DistributedDataParallel(torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(4)]).cuda())
if sys.argv[1] == "fp16":
    model.register_comm_hook(None, default_hooks.fp16_compress_hook)
elif sys.argv[1] == "powersgd":
    state = powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=2, use_error_feedback=False)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(4):
    model(torch.randn(32, 512, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
