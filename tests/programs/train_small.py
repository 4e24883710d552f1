"""Trains two layers on "cuda". What it does besides is named by its arguments."""

import argparse
import os
import subprocess
import sys

import torch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--raise-at", type=int)
    parser.add_argument("--exit-at", type=int)
    parser.add_argument("--exit-code", type=int, default=0)
    parser.add_argument("--children", choices=("fork", "spawn"))
    args = parser.parse_args()
    if args.children == "fork":
        child = os.fork()
        if child == 0:
            sys.exit(5)
        print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    elif args.children == "spawn":
        code = "import torch; print('child sees', torch.cuda.is_available())"
        subprocess.run([sys.executable, "-c", code], check=True)
    dtype = getattr(torch, args.dtype)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8)).to("cuda", dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(args.steps):
        if step == args.raise_at:
            raise ValueError(f"nothing left at step {step}")
        if step == args.exit_at:
            sys.exit(args.exit_code)
        loss = model(torch.randn(32, 64, device="cuda", dtype=dtype)).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print("step", step, loss.item())


if __name__ == "__main__":
    main()
