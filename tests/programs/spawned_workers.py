"""Data loader workers that load this file anew; its first lines are about the chip."""

import torch

device = torch.device("cuda")
scale = torch.ones(1, device=device)
name = torch.cuda.get_device_name()


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        assert torch.cuda.is_available()
        return torch.full((8,), float(index))


if __name__ == "__main__":
    net = torch.nn.Linear(8, 8).to(device)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    loader = torch.utils.data.DataLoader(
        Numbers(), batch_size=8, num_workers=1, multiprocessing_context="spawn", pin_memory=True
    )
    for batch in loader:
        optimizer.zero_grad()
        net(batch.to(device, non_blocking=True) * scale).sum().backward()
        optimizer.step()
    print("trained on", name)
