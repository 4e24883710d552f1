"""One process with a replica on each of its chips."""

import torch

model = torch.nn.DataParallel(torch.nn.Linear(64, 64)).cuda()
optimizer = torch.optim.SGD(model.parameters())
for _ in range(2):
    model(torch.randn(64, 64, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
