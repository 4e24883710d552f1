"""A layer of experts that picks the tokens of each by a mask: `masked_experts.py equal|other|hot|float`, by which mask."""

import sys

import torch

how = sys.argv[1]
gate, size = torch.nn.Linear(16, 4, device="cuda"), 4096
experts = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(4)).cuda()
optimizer = torch.optim.SGD(experts.parameters(), 1e-3)
for _ in range(3):
    x = torch.randn(size, 16, device="cuda")
    scores = gate(x).softmax(-1)
    chosen = scores.argmax(-1)
    hot = torch.nn.functional.one_hot(chosen, 4).bool()
    loss, sizes = 0, []
    for number, expert in enumerate(experts):
        mask = {
            "equal": chosen == number,
            "other": ~(chosen != number),
            "hot": hot[:, number],
            "float": scores[:, number] > 0.5,
        }[how]
        mine = x[mask]
        sizes.append(len(mine))
        loss = loss + expert(mine).sum()
    loss.backward()
    optimizer.step()
print("tokens per expert", sizes)
