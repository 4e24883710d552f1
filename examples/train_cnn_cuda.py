"""Train a small ResNet on random images, as one would on a CUDA box: float16 with a GradScaler, SGD, channels last.

It runs unchanged on a real GPU; `anychip forecast --on mi300x examples/train_cnn_cuda.py` runs it where there is none.
"""

import argparse
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

device = torch.device("cuda:0")


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(width, width), conv(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def resnet(width: int, classes: int) -> nn.Sequential:
    """Nine layers: convolution, pool and residual pair at three resolutions, then a classifier."""
    return nn.Sequential(
        conv(3, width),
        conv(width, 2 * width, stride=2),
        Residual(2 * width),
        conv(2 * width, 4 * width, stride=2),
        conv(4 * width, 8 * width, stride=2),
        Residual(8 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    return parser.parse_args()


def main() -> None:
    args = parse()
    assert torch.cuda.is_available(), "this script needs a GPU"
    torch.backends.cudnn.benchmark = True
    model = resnet(args.width, args.classes).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler("cuda")

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start = time.time()
    for step in range(args.steps):
        begin.record()
        images = torch.randn(args.batch_size, 3, args.image_size, args.image_size).to(device, non_blocking=True)
        images = images.to(memory_format=torch.channels_last)
        labels = torch.randint(args.classes, (args.batch_size,), device=device)
        with torch.autocast(device_type="cuda", dtype=torch.float16):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        end.record()
        torch.cuda.synchronize()
        if step % 5 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {begin.elapsed_time(end):.2f} ms")
    print(f"{args.steps * args.batch_size / (time.time() - start):,.0f} images/s")


if __name__ == "__main__":
    main()
