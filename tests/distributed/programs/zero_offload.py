"""As DeepSpeed's ZeRO 2 does: gradients leave their parameters at each of two micro-batches, the optimizer has a flat copy of
its own on the chip (`zero_offload.py cuda`) or on the host (`zero_offload.py cpu`)."""

import os
import sys

import torch

torch.distributed.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(3)]).cuda()
size = sum(one.numel() for one in model.parameters())
flat = torch.zeros(size, device=sys.argv[1], requires_grad=True)
held = torch.zeros(size, device=sys.argv[1])
optimizer = torch.optim.SGD([flat], lr=0.1)
for _ in range(4):
    for _ in range(2):
        model(torch.ones(8, 256, device="cuda")).sum().backward()
        whole = torch.cat([one.grad.flatten() for one in model.parameters()])
        torch.distributed.all_reduce(whole)
        held += whole.to(held.device)
        for one in model.parameters():
            one.grad = None
    flat.grad = held
    optimizer.step()
    held.zero_()
    with torch.no_grad():
        for one, new in zip(model.parameters(), flat.split([one.numel() for one in model.parameters()]), strict=True):
            one.copy_(new.view_as(one))
