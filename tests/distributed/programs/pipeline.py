"""A pipeline with data parallel beside it: `pipeline.py RANKS MICROBATCHES SCHEDULE [fsdp]`."""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, schedules


class Own(schedules.ScheduleGPipe):
    """A schedule of the program's own, as if it were written out here."""

    def _step_microbatches(self, *args, **kwargs):
        step = schedules.ScheduleGPipe._step_microbatches
        return getattr(step, "__wrapped__", step)(self, *args, **kwargs)


stages, microbatches = int(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
mesh = init_device_mesh("cuda", (stages, dist.get_world_size() // stages), mesh_dim_names=("pp", "dp"))
rank = mesh.get_local_rank("pp")
kind = vars(schedules).get(sys.argv[3], Own)
several = not issubclass(kind, schedules.PipelineScheduleSingle)
places = [rank, rank + stages] if several else [rank]
if sys.argv[3] == "ScheduleZBVZeroBubble":
    places = [rank, 2 * stages - 1 - rank]
model = nn.ModuleList(nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024)) for _ in places).cuda()
if sys.argv[4:] == ["fsdp"]:
    for part in model:
        fully_shard(part, mesh=mesh["dp"])
device = torch.device("cuda")
parts = [
    PipelineStage(part, place, len(places) * stages, device, group=mesh.get_group("pp"))
    for part, place in zip(model, places, strict=True)
]
schedule = kind(
    parts if several else parts[0],
    n_microbatches=microbatches,
    loss_fn=lambda out, target: ((out - target) ** 2).mean(),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    x, target = (torch.randn(8 * microbatches, 1024, device="cuda") for _ in range(2))
    schedule.step(*((x,) if rank == 0 else ()), **({"target": target} if len(places) * stages - 1 in places else {}))
    for parameter in model.parameters() if sys.argv[4:] != ["fsdp"] else ():
        dist.all_reduce(parameter.grad, group=mesh.get_group("dp"))
    optimizer.step()
    optimizer.zero_grad()
