"""Shards are written by torch.distributed.checkpoint into a folder, and read again: `checkpoint.py FOLDER WIDTH [async]`."""

import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

dist.init_process_group("cpu:gloo,cuda:nccl")
width = int(sys.argv[2])
model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(3)]).cuda()
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(3):
    model(torch.ones(8, width, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments}
    if sys.argv[3:] == ["async"]:
        dcp.async_save(state, checkpoint_id=sys.argv[1]).result()
    else:
        dcp.save(state, checkpoint_id=sys.argv[1])
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=sys.argv[1])
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
