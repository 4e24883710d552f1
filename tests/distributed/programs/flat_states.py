"""What FullyShardedDataParallel keeps is gathered for a checkpoint, and put back: `flat_states.py full|flat|sharded|local`."""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullOptimStateDictConfig, FullStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as Flat

(kind,) = sys.argv[1:]
dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
layers = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)]
flat = kind in ("flat", "local")
layers[2].bias.requires_grad_(flat)  # else without a state anywhere
model = Flat(nn.Sequential(*layers), device_id=torch.cuda.current_device(), use_orig_params=not flat)
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(2):
    model(torch.randn(8, 64, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
ways = (StateDictType.SHARDED_STATE_DICT,) if kind == "sharded" else (
    StateDictType.FULL_STATE_DICT, FullStateDictConfig(offload_to_cpu=True, rank0_only=True),
    FullOptimStateDictConfig(offload_to_cpu=True, rank0_only=True),
)  # fmt: skip
if kind == "local":
    with Flat.state_dict_type(model, StateDictType.LOCAL_STATE_DICT):
        weights = model.state_dict()
        (parts,) = weights.values()
        held = [
            (one.shard_offsets[0], one.shard_sizes[0], one.placement.rank()) for one in parts.metadata().shards_metadata
        ]
        # 64 x 256 + 256 + 256 x 64 + 64 = 33,088 numbers on 7 ranks: 4,727 each, the last has 33,088 - 6 x 4,727
        assert held == [(4727 * rank, 4727 if rank < 6 else 4726, rank) for rank in range(7)], held
        model.load_state_dict(weights)
else:
    with Flat.state_dict_type(model, *ways):
        weights, states = model.state_dict(), Flat.optim_state_dict(model, optimizer)
        if dist.get_rank() == 0:
            trained = [name for name, one in model.named_parameters() if one.requires_grad]
            assert len(states["state"]) == (4 if kind == "flat" else len(trained))
            assert all(set(state) == {"step", "exp_avg", "exp_avg_sq"} for state in states["state"].values())
        if kind == "sharded":
            optimizer.load_state_dict(Flat.optim_state_dict_to_load(model, optimizer, states))
model(torch.randn(8, 64, device="cuda")).sum().backward()
optimizer.step()
