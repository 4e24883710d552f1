"""Mamba-2's scan forward at the lengths that https://github.com/vllm-project/vllm/pull/27299 measures on H100."""

import torch
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

for tokens in (4096, 32768, 262144):
    x, dt = (
        torch.empty(1, tokens, 128, 64, device="cuda", dtype=torch.bfloat16),
        torch.empty(1, tokens, 128, device="cuda"),
    )
    A, B = torch.empty(128, device="cuda"), torch.empty(1, tokens, 1, 128, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        mamba_chunk_scan_combined(x, dt, A, B, B, 256, dt_softplus=True)
