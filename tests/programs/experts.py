"""Sends each of 32 tokens to one of four experts, and says how many each got."""

import torch

gate = torch.nn.Linear(16, 4, device="cuda")
expert = gate(torch.randn(32, 16, device="cuda")).argmax(-1)
print("tokens per expert", torch.bincount(expert, minlength=4).tolist())
