"""Train a GPT on random tokens, as one would on a CUDA box: "cuda" is written into it, and nothing here knows anychip.

The default is GPT-2 small (124M parameters), 8 sequences of 1024 tokens, bfloat16 autocast, fused AdamW. It runs
unchanged on a real GPU; `anychip forecast --on ascend-910b examples/train_gpt_cuda.py` runs it where there is none.
"""

import argparse
import math
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

# Shape suffixes: B batch, T sequence, C width, H heads, D width of a head, V vocabulary.


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        B, T, C = x_BTC.shape
        q, k, v = self.qkv(x_BTC).split(C, dim=2)
        q_BHTD, k_BHTD, v_BHTD = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2) for t in (q, k, v))
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        return self.out(y_BHTD.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        x_BTC = x_BTC + self.attention(self.norm1(x_BTC))
        return x_BTC + self.mlp(self.norm2(x_BTC))


class GPT(nn.Module):
    def __init__(self, vocabulary: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # GPT-2's rule: what writes to the residual stream starts smaller, by the number of such writes.
                scale = 1 / math.sqrt(2 * layers) if name.endswith(("out.weight", "mlp.2.weight")) else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)

    def forward(self, ids_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        x_BTC = self.tokens(ids_BT) + self.positions(torch.arange(ids_BT.shape[1], device=ids_BT.device))
        for block in self.blocks:
            x_BTC = block(x_BTC)
        logits_BTV = self.head(self.norm(x_BTC))
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=50304)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.manual_seed(1337)
    torch.backends.cuda.matmul.allow_tf32 = True
    print(f"training on {torch.cuda.get_device_name(0)}")

    model = GPT(args.vocabulary, args.context, args.width, args.layers, args.heads).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.95), fused=True)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters")

    shape = (args.batch_size, args.context + 1)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for step in range(args.steps):
        tokens = torch.randint(args.vocabulary, shape).pin_memory().to("cuda", non_blocking=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        start = time.perf_counter()
        rate = args.batch_size * args.context / elapsed
        print(
            f"step {step}: loss {loss.item():.3f}, norm {norm.item():.2f}, {elapsed * 1e3:.1f} ms, {rate:,.0f} tokens/s"
        )
    print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
