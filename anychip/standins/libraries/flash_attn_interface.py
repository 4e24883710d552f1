"""Stand-in for FlashAttention-3, which installs the module `flash_attn_interface`: the same attention as FlashAttention-2's, by the
signatures of 3.0.0, which have no dropout and other keywords.

Tensors are [batch, length, heads, head_dim], or [tokens, heads, head_dim] with cumulative lengths.
"""

from typing import Any

import torch

from anychip.standins.libraries import flash_attn

VERSION = "3.0.0"

Tensor = torch.Tensor


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False, qv: Tensor | None = None,
    q_descale: Tensor | None = None, k_descale: Tensor | None = None, v_descale: Tensor | None = None,
    window_size: tuple[int, int] = (-1, -1), attention_chunk: int = 0, softcap: float = 0.0, num_splits: int = 1,
    pack_gqa: bool | None = None, deterministic: bool = False, sm_margin: int = 0, return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """q [B, L, H, D], k and v [B, S, Hk, D] -> [B, L, H, D]."""
    result = flash_attn.flash_attn_func(q, k, v, softmax_scale=softmax_scale, causal=causal, window_size=window_size,
                                        return_attn_probs=return_attn_probs)  # fmt: skip
    return result[:2] if return_attn_probs else result


def flash_attn_qkvpacked_func(
    qkv: Tensor, softmax_scale: float | None = None, causal: bool = False, **options: Any
) -> Any:
    """qkv [B, L, 3, H, D]."""
    q, k, v = qkv.unbind(dim=2)
    kept = {name: options[name] for name in ("window_size", "return_attn_probs") if name in options}
    return flash_attn_func(q, k, v, softmax_scale, causal, **kept)


def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    seqused_q: Tensor | None = None, seqused_k: Tensor | None = None, softmax_scale: float | None = None,
    causal: bool = False, qv: Tensor | None = None, q_descale: Tensor | None = None, k_descale: Tensor | None = None,
    v_descale: Tensor | None = None, window_size: tuple[int, int] = (-1, -1), attention_chunk: int = 0,
    softcap: float = 0.0, num_splits: int = 1, pack_gqa: bool | None = None, deterministic: bool = False,
    sm_margin: int = 0, return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """q [tokens, H, D], cu_seqlens_q [sequences + 1] -> [tokens, H, D]."""
    result = flash_attn.flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=softmax_scale, causal=causal,
        window_size=window_size, return_attn_probs=return_attn_probs,
    )  # fmt: skip
    return result[:2] if return_attn_probs else result


def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor | None = None, v: Tensor | None = None, *,
    cache_seqlens: Any = None, page_table: Tensor | None = None, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), return_softmax_lse: bool = False, **_options: Any,
) -> Any:  # fmt: skip
    """Decoding: over as much of the cache as its sequences have on average, as `flash_attn`'s."""
    return flash_attn.flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=cache_seqlens, block_table=page_table, softmax_scale=softmax_scale,
        causal=causal, window_size=window_size, return_softmax_lse=return_softmax_lse,
    )  # fmt: skip


MODULES: dict[str, dict[str, Any]] = {
    "flash_attn_interface": {
        "flash_attn_func": flash_attn_func, "flash_attn_qkvpacked_func": flash_attn_qkvpacked_func,
        "flash_attn_varlen_func": flash_attn_varlen_func, "flash_attn_with_kvcache": flash_attn_with_kvcache,
    },
}  # fmt: skip

UNCOVERED: dict[str, tuple[str, ...]] = {
    "flash_attn_interface": (
        "flash_attn_combine",
        "get_scheduler_metadata",
        "_flash_attn_forward",
        "_flash_attn_backward",
    ),
}
