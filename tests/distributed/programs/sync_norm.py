"""Networks whose batch norms meet across ranks: with and without weights, channels last and first, half types."""

import os

import torch
from torch import nn

torch.distributed.init_process_group("nccl")
rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(rank)
for affine, layout, dtype in (
    (True, torch.channels_last, torch.float16),
    (False, torch.contiguous_format, torch.float32),
    (True, torch.contiguous_format, torch.bfloat16),
):
    norm = nn.BatchNorm2d(8, affine=affine, track_running_stats=affine)
    net = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 4, 3)))
    net = nn.parallel.DistributedDataParallel(net.cuda().to(memory_format=layout), device_ids=[rank])
    x = torch.randn(2, 3, 16, 16, device="cuda").to(memory_format=layout)
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        y = net(x)
    y.sum().backward()
    assert y.stride()[1] == (1 if layout == torch.channels_last else 144)
    assert all(one.grad.shape == one.shape for one in net.parameters())
torch.distributed.destroy_process_group()
