"""flash_attn's compiled modules as TinyLlama calls them: norm with residual, rotary embedding in place, loss."""

import json
import sys

import dropout_layer_norm
import rotary_emb
import torch
import xentropy_cuda_lib

said: dict[str, object] = {}


def new(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def shapes(results: list[torch.Tensor | None]) -> list[object]:
    return [None if one is None else [str(one.dtype).removeprefix("torch."), *one.shape] for one in results]


def forward(*given: object, dropout: float = 0.0, wide: bool = False) -> list[torch.Tensor | None]:
    x, residual = given
    return dropout_layer_norm.dropout_add_ln_fwd(
        x, residual, new(64), None, None, None, None, None, dropout, 1e-5, 1.0, 0, None, wide, True
    )


x = new(10, 64)
said["plain"] = shapes(forward(x, None))
said["residual"] = shapes(forward(x, new(10, 64, dtype=torch.float32), dropout=0.1))
z, summed, _, mu, rsigma = forward(x, x, wide=True)
said["backward"] = shapes(
    dropout_layer_norm.dropout_add_ln_bwd(
        z, None, summed, None, None, mu, rsigma, new(64), None, None, None, None, 0.0, 1.0, 0, True, True
    )
)
q, cos = new(2, 8, 4, 32), new(8, 1, 16)
one, two = q.chunk(2, dim=-1)
said["rotary"] = rotary_emb.apply_rotary(one, two, cos, cos, one, two, False)
logits, labels = new(6, 100), torch.zeros(6, dtype=torch.long, device="cuda")
losses, sums = xentropy_cuda_lib.forward(logits, labels, 0.0)
said["losses"] = shapes([losses, sums])
said["into"] = xentropy_cuda_lib.backward(losses, logits, sums, labels, 0.0, True, 100) is logits
try:
    xentropy_cuda_lib.forward(logits.cpu(), labels.cpu(), 0.0)
except RuntimeError as error:
    said["host"] = str(error)
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(said, file)
