"""One training step of GPT-2 124M, timed: `python bench/gpt2_step.py chip|meta`. Prints milliseconds per step, as JSON.

chip: on a virtual chip, recorded. meta: the same on torch's own `meta` device, which computes shapes and nothing else.
12 layers, batch 12 of 1,024 tokens, bf16 autocast, AdamW over lists of tensors.
"""

import json
import sys
import time

STEPS = 5


def model(torch):  # type: ignore[no-untyped-def]
    nn, functional = torch.nn, torch.nn.functional
    width, heads, layers, vocabulary, context = 768, 12, 12, 50304, 1024

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.drop_1, self.drop_2 = nn.Dropout(0.1), nn.Dropout(0.1)

        def forward(self, x):
            batch, length, _ = x.shape
            parts = self.qkv(self.norm_1(x)).split(width, dim=2)
            q, k, v = (part.view(batch, length, heads, width // heads).transpose(1, 2) for part in parts)
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.drop_1(self.out(y.transpose(1, 2).contiguous().view(batch, length, width)))
            return x + self.drop_2(self.down(functional.gelu(self.up(self.norm_2(x)))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, index, target):
            x = self.tokens(index) + self.places(torch.arange(index.shape[1], device=index.device))
            for block in self.blocks:
                x = block(x)
            scores = self.head(self.norm(x))
            return functional.cross_entropy(scores.view(-1, vocabulary), target.view(-1))

    return Model


def times_s(torch, device):  # type: ignore[no-untyped-def]
    with torch.device("meta"):
        net = model(torch)()
    net = net.to_empty(device=device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, foreach=True)
    index = torch.empty(12, 1024, dtype=torch.long, device=device)
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        with torch.autocast("cuda" if device == "cuda" else "cpu", dtype=torch.bfloat16):
            loss = net(index, index)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
    return times


def main() -> None:
    ops = 0
    if sys.argv[1] == "chip":
        from anychip.device.install import install
        from anychip.spec import load_chip

        runtime = install(load_chip("h100"))
        import torch

        from anychip.device.steps.counted import Steps
        from anychip.device.steps.hooks import Hooks
        from anychip.record import Kind
        from anychip.record.tape import KIND_MASK

        endless = Steps(10**9, 10**9, None, runtime.recorder.tape, lambda: None)
        Hooks(runtime, endless).install()
        times = times_s(torch, "cuda")
        ops = sum(1 for word in runtime.recorder.tape if word & KIND_MASK == Kind.OP) // STEPS
    else:
        import torch

        times = times_s(torch, "meta")
    print(json.dumps({"ms": [value * 1e3 for value in times], "ops": ops}))


if __name__ == "__main__":
    main()
