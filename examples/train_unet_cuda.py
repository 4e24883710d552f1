"""Train a small diffusion U-Net on random images in float32, as one would on a CUDA box: group norms, SiLU, skips, EMA.

It runs unchanged on a real GPU; `anychip forecast --on mi300x examples/train_unet_cuda.py` runs it where there is none.
"""

import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, time_width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(time_width, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class UNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.time = nn.Sequential(nn.Linear(w, 4 * w), nn.SiLU(), nn.Linear(4 * w, 4 * w))
        self.enter = nn.Conv2d(3, w, 3, padding=1)
        self.down = nn.ModuleList([Residual(w, w, 4 * w), Residual(w, 2 * w, 4 * w)])
        self.middle = Residual(2 * w, 2 * w, 4 * w)
        self.up = nn.ModuleList([Residual(4 * w, 2 * w, 4 * w), Residual(3 * w, w, 4 * w)])
        self.leave = nn.Sequential(nn.GroupNorm(8, w), nn.SiLU(), nn.Conv2d(w, 3, 3, padding=1))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        half = self.enter.out_channels // 2
        angles = t[:, None] * torch.exp(-9.2 * torch.arange(half, device=t.device) / half)
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        h, kept = self.enter(x), []
        for block in self.down:
            h = block(h, time)
            kept.append(h)
            h = F.avg_pool2d(h, 2)
        h = self.middle(h, time)
        for block in self.up:
            h = block(torch.cat([F.interpolate(h, scale_factor=2.0), kept.pop()], dim=1), time)
        return self.leave(h)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    return parser.parse_args()


def main() -> None:
    args = parse()
    device = torch.device("cuda")
    model = UNet(args.width).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    images = torch.randn(args.batch_size, 3, args.side, args.side, device=device)
    for _ in range(args.steps):
        noise, t = torch.randn_like(images), torch.rand(args.batch_size, device=device)
        noisy = torch.lerp(images, noise, t[:, None, None, None])
        loss = F.mse_loss(model(noisy, 1000 * t), noise - images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 0.01)
    print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
