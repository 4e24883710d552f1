"""Workers of torch.distributed.rpc: each calls itself."""

import os

import torch
from torch.distributed import rpc

rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
rpc.init_rpc(f"worker{rank}", rank=rank, world_size=size)
weight = rpc.rpc_sync(f"worker{rank}", torch.add, args=(torch.ones(4), 1))
layer = torch.nn.Linear(4, 4).cuda()
layer(weight.cuda()).sum().backward()
rpc.shutdown()
