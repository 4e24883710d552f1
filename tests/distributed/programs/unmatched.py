"""Rank 0 sends to rank 1, which does not receive; all begin with the same ops."""

import os

import torch

torch.distributed.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
x = torch.ones(1024, device="cuda")
if torch.distributed.get_rank() == 0:
    torch.distributed.send(x, 1)
