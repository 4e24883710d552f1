"""Generate tokens from a small Llama-like model with a key-value cache, as one would on a CUDA box. No training.

It runs unchanged on a real GPU; `anychip forecast --calls 8 --on tpu-v5p examples/generate_cuda.py` where there is none:
one call of the model is what is forecast, since there is no optimizer to tell one step from the next.
"""

import argparse
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

# Shape suffixes: B batch, T new positions, S positions in the cache, C width, H heads, K key-value heads, D head width.


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, width // heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * kv_heads * self.head_width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BTC: torch.Tensor, cache_2BKSD: torch.Tensor, position: int) -> torch.Tensor:
        B, T, C = x_BTC.shape
        q_BHTD = self.q(x_BTC).view(B, T, self.heads, self.head_width).transpose(1, 2)
        kv_2BKTD = self.kv(x_BTC).view(B, T, 2, self.kv_heads, self.head_width).permute(2, 0, 3, 1, 4)
        cache_2BKSD[:, :, :, position : position + T] = kv_2BKTD
        k_BKSD, v_BKSD = cache_2BKSD[:, :, :, : position + T]
        # One new position sees the whole cache; a prompt sees itself causally.
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, is_causal=T > 1, enable_gqa=True)
        return self.out(y_BHTD.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, heads, kv_heads)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTC: torch.Tensor, cache: torch.Tensor, position: int) -> torch.Tensor:
        x_BTC = x_BTC + self.attention(self.norm1(x_BTC), cache, position)
        h_BTC = self.norm2(x_BTC)
        return x_BTC + self.down(F.silu(self.gate(h_BTC)) * self.up(h_BTC))


class Llama(nn.Module):
    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.tokens = nn.Embedding(args.vocabulary, args.width)
        shape = (args.width, args.heads, args.kv_heads, args.hidden)
        self.blocks = nn.ModuleList([Block(*shape) for _ in range(args.layers)])
        self.norm = nn.RMSNorm(args.width)
        self.head = nn.Linear(args.width, args.vocabulary, bias=False)

    def forward(self, ids_BT: torch.Tensor, caches: list[torch.Tensor], position: int) -> torch.Tensor:
        x_BTC = self.tokens(ids_BT)
        for block, cache in zip(self.blocks, caches, strict=True):
            x_BTC = block(x_BTC, cache, position)
        return self.head(self.norm(x_BTC[:, -1]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=8192)
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    args = parse()
    torch.set_default_device("cuda")
    torch.set_default_dtype(torch.bfloat16)
    model = Llama(args).eval()
    shape = (2, args.batch_size, args.kv_heads, args.prompt + args.new_tokens, args.width // args.heads)
    caches = [torch.zeros(shape) for _ in range(args.layers)]

    ids = torch.randint(args.vocabulary, (args.batch_size, args.prompt))
    torch.cuda.synchronize()
    start = time.perf_counter()
    position = 0
    for _ in range(args.new_tokens):
        logits = model(ids, caches, position)
        position += ids.shape[1]
        probabilities = torch.softmax(logits.float() / 0.8, dim=-1)
        ids = torch.multinomial(probabilities, num_samples=1)
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    print(f"{args.new_tokens * args.batch_size / elapsed:,.1f} tokens/s, {elapsed / args.new_tokens * 1e3:.2f} ms each")


if __name__ == "__main__":
    main()
