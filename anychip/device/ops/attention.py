"""`scaled_dot_product_attention` as an accelerator runs it: one fused kernel, not four.

Without CUDA, torch has no rule that picks a fused kernel for a CUDA tensor and falls to the unfused form.
The rule here is torch's own order on CUDA: flash, memory-efficient, unfused, cuDNN's; each may be switched off by
the program (`torch.backends.cuda.sdp_kernel`, `torch.nn.attention.sdpa_kernel`), so cuDNN's runs where it alone is left.
"""

import warnings
from typing import Any

import torch

from anychip.device.ops.checks import attention as check

HALF = (torch.float16, torch.bfloat16)
FLASH_HEAD_DIM = 256  # largest head dimension of the flash kernel
ALIGN = 8  # the flash kernel pads head dimensions to a multiple of this


def scaled_dot_product_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """query [B, H, L, D], key and value [B, Hk, S, D] -> [B, H, L, D]."""
    check(query, key, value, attn_mask)
    if _flash(query, key, value, attn_mask):
        return _run_flash(query, key, value, dropout_p, is_causal, scale)
    if _cudnn(query):
        return _run_cudnn(query, key, value, attn_mask, dropout_p, is_causal, scale)
    if _efficient(query, key, value):
        return _run_efficient(query, key, value, attn_mask, dropout_p, is_causal, scale)
    if enable_gqa and query.dim() == 4:
        repeat = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    result: torch.Tensor = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale
    )[0]
    return result


def fused_choice(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> int:  # fmt: skip
    """SDPBackend number: 1 flash, 2 memory-efficient, 3 cuDNN's, 0 unfused."""
    if _flash(query, key, value, attn_mask):
        return 1
    if _cudnn(query):
        return 3
    return 2 if _efficient(query, key, value) else 0


def _flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> bool:
    return (
        torch._C._get_flash_sdp_enabled()
        and mask is None
        and query.dim() == 4
        and query.dtype in HALF
        and query.shape[-1] == key.shape[-1] == value.shape[-1] <= FLASH_HEAD_DIM
    )


def _efficient(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Of heads that share keys it knows nothing (check_batch_size_and_num_heads_dense in torch's sdp_utils.cpp)."""
    return (
        torch._C._get_mem_efficient_sdp_enabled()
        and query.dim() == 4
        and query.dtype in (*HALF, torch.float32)
        and query.shape[1] == key.shape[1] == value.shape[1]
    )


def _cudnn(query: torch.Tensor) -> bool:
    others = (
        torch._C._get_flash_sdp_enabled(),
        torch._C._get_mem_efficient_sdp_enabled(),
        torch._C._get_math_sdp_enabled(),
    )
    return torch._C._get_cudnn_sdp_enabled() and not any(others) and query.dim() == 4 and query.dtype in HALF


def _run_cudnn(
    query: Any, key: Any, value: Any, mask: Any, dropout_p: float, is_causal: bool, scale: float | None
) -> torch.Tensor:
    needs_grad = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    result: torch.Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, mask, needs_grad, dropout_p, is_causal, scale=scale
    )[0]
    return result


def _run_flash(
    query: Any, key: Any, value: Any, dropout_p: float, is_causal: bool, scale: float | None
) -> torch.Tensor:
    head_dim = query.shape[-1]
    scale = head_dim**-0.5 if scale is None else scale
    padding = -head_dim % ALIGN
    if padding:
        query, key, value = (torch.nn.functional.pad(one, (0, padding)) for one in (query, key, value))
    result: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, False, scale=scale
    )[0]
    return result[..., :head_dim] if padding else result


def _run_efficient(
    query: Any, key: Any, value: Any, mask: Any, dropout_p: float, is_causal: bool, scale: float | None
) -> torch.Tensor:
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
        if mask.dtype != query.dtype:
            raise RuntimeError("invalid dtype for bias - should match query's dtype")
        mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    needs_grad = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    result: torch.Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, needs_grad, dropout_p, is_causal, scale=scale
    )[0]
    return result


def install() -> None:
    """Register the rule above for chip tensors, above and below autograd."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key in ("AutogradCUDA", "CUDA"):
            library.impl("scaled_dot_product_attention", scaled_dot_product_attention, key)
        library.impl("_fused_sdp_choice", fused_choice, "CUDA")
    _libraries.append(library)
    backend = torch.backends.cuda
    backend.can_use_flash_attention = lambda params, debug=False: _flash(*_asked(params))  # type: ignore[assignment]
    backend.can_use_efficient_attention = lambda params, debug=False: _efficient(*_asked(params)[:3])  # type: ignore[assignment]
    backend.can_use_cudnn_attention = lambda params, debug=False: _cudnn(params.query)  # type: ignore[assignment]


def _asked(params: Any) -> tuple[Any, Any, Any, Any]:
    """The tensors of `torch.backends.cuda.SDPAParams`."""
    return params.query, params.key, params.value, params.attn_mask


_libraries: list[torch.library.Library] = []
