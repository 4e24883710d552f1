"""A pipeline with data parallel beside it: `pipeline.py STAGES MICROBATCHES SCHEDULE`."""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
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
model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024)).cuda()
stage = PipelineStage(model, rank, stages, torch.device("cuda"), group=mesh.get_group("pp"))
schedule = vars(schedules).get(sys.argv[3], Own)(
    stage, n_microbatches=microbatches, loss_fn=lambda out, target: ((out - target) ** 2).mean()
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    x, target = (torch.randn(8 * microbatches, 1024, device="cuda") for _ in range(2))
    schedule.step(*((x,) if rank == 0 else ()), **({"target": target} if rank == stages - 1 else {}))
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad, group=mesh.get_group("dp"))
    optimizer.step()
    optimizer.zero_grad()
