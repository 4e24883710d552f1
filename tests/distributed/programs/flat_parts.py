"""FSDP1 with the program's own parameters: each rank has another part of a flat parameter, in one piece or in several. `flat_parts.py MORE`
gives each that many tokens more than the one before it: then they compute on more."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as Flat
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

dist.init_process_group("nccl")
torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
layers = [nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True) for _ in range(2)]
policy = ModuleWrapPolicy({nn.TransformerEncoderLayer})
device = torch.cuda.current_device()
model = Flat(nn.Sequential(*layers), auto_wrap_policy=policy, device_id=device, use_orig_params=True)
optimizer = torch.optim.AdamW(model.parameters())
more = int(sys.argv[1])
for _ in range(2):
    optimizer.zero_grad()
    tokens = torch.randn(2, 64 + more * dist.get_rank(), 256, device="cuda")
    model(tokens).pow(2).mean().backward()
    model.clip_grad_norm_(1.0)
    optimizer.step()
