"""Stand-in for apex's `fused_weight_gradient_mlp_cuda`: a weight's gradient added up by the product that makes it."""

from typing import Any

import torch

from anychip.standins.libraries.te_parallel import accumulate

VERSION = "0.1"


def wgrad_gemm_accum(input: torch.Tensor, grad_output: torch.Tensor, main_grad: torch.Tensor) -> None:
    """main_grad [n, k] += grad_output [..., n]^T @ input [..., k]."""
    accumulate(main_grad, grad_output.reshape(-1, grad_output.shape[-1]), input.reshape(-1, input.shape[-1]))


MODULES: dict[str, dict[str, Any]] = {
    "fused_weight_gradient_mlp_cuda": {
        "wgrad_gemm_accum_fp32": wgrad_gemm_accum, "wgrad_gemm_accum_fp16": wgrad_gemm_accum,
    }
}  # fmt: skip

UNCOVERED: dict[str, tuple[str, ...]] = {}
