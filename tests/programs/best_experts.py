"""Sends each of 4,096 tokens to the best two of four experts, and says how many each got: `best_experts.py equal|counts|hot`."""

import sys

import torch

gate = torch.nn.Linear(16, 4, device="cuda")
_, chosen = gate(torch.randn(4096, 16, device="cuda")).topk(2, -1)
sizes = {
    "equal": lambda: [len(torch.where(chosen == number)[0]) for number in range(4)],
    "counts": lambda: torch.bincount(chosen.flatten(), minlength=4).tolist(),
    "hot": lambda: torch.nn.functional.one_hot(chosen, 4).sum((0, 1)).tolist(),
}[sys.argv[1]]()
print("tokens per expert", sizes)
