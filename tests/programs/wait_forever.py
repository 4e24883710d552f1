"""Takes a step, says so, and then waits."""

import time

import torch

model = torch.nn.Linear(64, 64, device="cuda")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    model(torch.zeros(8, 64, device="cuda")).sum().backward()
    optimizer.step()
print("now waiting", flush=True)
while True:
    time.sleep(1)
