"""Each of two ranks first receives from the other."""

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
size = torch.zeros(1, dtype=torch.int64, device="cuda")
dist.recv(size, src=1 - dist.get_rank())
dist.send(size, dst=1 - dist.get_rank())
