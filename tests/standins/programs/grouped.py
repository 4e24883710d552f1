"""grouped_gemm as Megatron and MegaBlocks call it: tokens to their experts, two products, and back."""

import json
import sys

import grouped_gemm
import torch

said: dict[str, object] = {}
sizes = torch.tensor([32, 0, 64, 32])  # rows of four experts, on the host
for name, rows in (("host", sizes), ("chip", sizes.cuda())):
    x = torch.randn(128, 96, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    w = torch.randn(4, 96, 160, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    v = torch.randn(4, 96, 160, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    made = grouped_gemm.ops.gmm(grouped_gemm.ops.gmm(x, w, rows), v, rows, trans_b=True)
    made.sum().backward()
    said[name] = [list(one.shape) for one in (made, x.grad, w.grad, v.grad)]

given = torch.empty(4, 96, 160, device="cuda", dtype=torch.bfloat16)
said["given"] = grouped_gemm.backend.gmm(x, made.new_empty(128, 160), sizes, trans_a=True, c=given) is given
with torch.no_grad():  # a kernel that computes nothing counted a row for each
    grouped_gemm.ops.gmm(
        x.detach()[:, :80].contiguous(), w.detach()[:, :80].contiguous(), torch.ones(4, dtype=torch.int64)
    )
tokens = torch.randn(64, 48, device="cuda", dtype=torch.bfloat16, requires_grad=True)
probs = torch.rand(64, 2, device="cuda", requires_grad=True)
permuted, where = grouped_gemm.ops.permute(tokens, torch.randint(4, (64, 2), device="cuda"))
back = grouped_gemm.ops.unpermute(permuted, where, probs)
back.sum().backward()
said["permuted"] = [list(one.shape) for one in (permuted, where, back, tokens.grad, probs.grad)]
try:
    grouped_gemm.ops.gmm(x.float(), w.float(), sizes)
except RuntimeError as error:
    said["float32"] = str(error)
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(said, file)
