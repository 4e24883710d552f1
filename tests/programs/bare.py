"""Trains a tensor that belongs to no module."""

import torch

weight = torch.randn(64, 64, device="cuda", requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=0.1)
for step in range(10):
    loss = (torch.randn(32, 64, device="cuda") @ weight).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print("step", step)
