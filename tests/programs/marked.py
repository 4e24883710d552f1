"""Steps that only its author can tell: two optimizer steps, or none, between calls of `one_round`."""

import torch

model = torch.nn.Linear(8, 8).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


class Trainer:
    def one_round(self, number):
        for _ in range(number % 3):
            model(torch.randn(4, 8, device="cuda")).sum().backward()
            optimizer.step()


for number in range(100):
    Trainer().one_round(number)
