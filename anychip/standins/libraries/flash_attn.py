"""Stand-in for flash_attn 2: attention by torch's flash op, rotary embedding and norms as the one kernel each is.

Tensors are [batch, length, heads, head_dim], or [tokens, heads, head_dim] with cumulative lengths.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins import recording
from anychip.standins.fused import fused

VERSION = "2.8.3"

Tensor = torch.Tensor


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """What the real kernels refuse."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    if not q.dtype == k.dtype == v.dtype:
        raise RuntimeError("query, key and value must have the same dtype")
    if q.shape[-1] > 256:
        raise RuntimeError("FlashAttention forward only supports head dimension at most 256")
    if q.shape[-2] % k.shape[-2]:
        raise RuntimeError("Number of heads in key/value must divide number of heads in query")


def _attend(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor | None, cu_k: Tensor | None, max_q: int, max_k: int, dropout_p: float,
    scale: float | None, causal: bool, window: tuple[int, int], alibi: Tensor | None, probabilities: bool,
) -> Any:  # fmt: skip
    _check(q, k, v)
    dim = q.shape[-1]
    scale = dim**-0.5 if scale is None else float(scale)
    padding = -dim % 8
    if padding:
        q, k, v = (F.pad(one, (0, padding)) for one in (q, k, v))
    if q.device.type == "cpu":
        raise RuntimeError("FlashAttention only supports tensors on the chip, and these are on the CPU")
    left, right = window
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_q, cu_k, int(max_q), int(max_k), dropout_p, causal, False, scale=scale,
        window_size_left=None if left < 0 else left, window_size_right=None if right < 0 else right, alibi_slopes=alibi,
    )  # fmt: skip
    out = out[..., :dim] if padding else out
    return (out, lse, None) if probabilities else out


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, alibi_slopes: Tensor | None = None,
    deterministic: bool = False, return_attn_probs: bool = False, **_options: Any,
) -> Any:  # fmt: skip
    """q [B, L, H, D], k and v [B, S, Hk, D] -> [B, L, H, D]."""
    return _attend(q, k, v, None, None, q.shape[1], k.shape[1], dropout_p, softmax_scale, causal, window_size,
                   alibi_slopes, return_attn_probs)  # fmt: skip


def flash_attn_qkvpacked_func(qkv: Tensor, *args: Any, **kwargs: Any) -> Any:
    """qkv [B, L, 3, H, D]."""
    q, k, v = qkv.unbind(dim=2)
    return flash_attn_func(q, k, v, *args, **kwargs)


def flash_attn_kvpacked_func(q: Tensor, kv: Tensor, *args: Any, **kwargs: Any) -> Any:
    """kv [B, S, 2, Hk, D]."""
    k, v = kv.unbind(dim=2)
    return flash_attn_func(q, k, v, *args, **kwargs)


def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, alibi_slopes: Tensor | None = None,
    deterministic: bool = False, return_attn_probs: bool = False, block_table: Tensor | None = None, **_options: Any,
) -> Any:  # fmt: skip
    """q [tokens, H, D], cu_seqlens_q [sequences + 1] -> [tokens, H, D]."""
    return _attend(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal,
                   window_size, alibi_slopes, return_attn_probs)  # fmt: skip


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, *args: Any, **kwargs: Any
) -> Any:
    """qkv [tokens, 3, H, D]."""
    q, k, v = qkv.unbind(dim=1)
    return flash_attn_varlen_func(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, *args, **kwargs)


def flash_attn_varlen_kvpacked_func(
    q: Tensor, kv: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    *args: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    k, v = kv.unbind(dim=1)
    return flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, *args, **kwargs)


def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor | None = None, v: Tensor | None = None,
    rotary_cos: Tensor | None = None, rotary_sin: Tensor | None = None, cache_seqlens: Any = None,
    cache_batch_idx: Tensor | None = None, cache_leftpad: Tensor | None = None, block_table: Tensor | None = None,
    softmax_scale: float | None = None, causal: bool = False, window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0, rotary_interleaved: bool = True, alibi_slopes: Tensor | None = None, num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Any:  # fmt: skip
    """Decoding: attention over as much of the cache as its sequences have on average, of a captured graph at each replay; where nobody
    knows their lengths, over the whole of it, an upper bound."""
    if k is not None and v is not None:
        torch.ops.aten.copy_(k_cache[: k.shape[0], : k.shape[1]], k)
        torch.ops.aten.copy_(v_cache[: v.shape[0], : v.shape[1]], v)
    batch = q.shape[0]
    if block_table is not None:  # pages [pages, page, heads, dim] -> each sequence's share of them
        # Of a table that is longer than its sequences, as one for a captured graph is, no more than there is.
        pages = min(block_table.shape[1] * k_cache.shape[1], k_cache[..., 0, 0].numel() // batch)
        k_cache, v_cache = (one.reshape(-1, *one.shape[2:])[: batch * pages].view(batch, pages, *one.shape[2:])
                            for one in (k_cache, v_cache))  # fmt: skip

    def attend(q: Tensor) -> Any:
        used = _used(cache_seqlens, k_cache.shape[1])
        return flash_attn_func(q, k_cache[:batch, :used], v_cache[:batch, :used], 0.0, softmax_scale, causal and q.shape[1] > 1,
                               window_size, softcap, alibi_slopes, False, return_softmax_lse)  # fmt: skip

    runtime = recording.runtime()
    result = attend(q) if runtime is None else runtime.graphs.launch(attend, q)
    return result[:2] if return_softmax_lse else result


def _used(lengths: Any, room: int) -> int:
    """How much of a cache its sequences have on average; all of it where that is not said or not known."""
    runtime = recording.runtime()
    if isinstance(lengths, Tensor) and runtime is not None:
        lengths = runtime.driver.mean_of(lengths)
        if lengths is None and not runtime.graphs.capturing:
            runtime.recorder.warn(
                "flash_attn_with_kvcache: how long the sequences in a cache are is not known: it is priced as read whole, an "
                "upper bound"
            )
    return min(max(math.ceil(lengths), 1), room) if isinstance(lengths, int | float) else room


# What rings of ranks are made of, forward and backward apart ------------------------------------------------------------


def _flash_attn_varlen_forward(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor | None, cu_seqlens_k: Tensor | None, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float, softmax_scale: float | None, causal: bool, window_size_left: int = -1, window_size_right: int = -1,
    softcap: float = 0.0, alibi_slopes: Tensor | None = None, return_softmax: bool = False, block_table: Tensor | None = None,
    leftpad_k: Tensor | None = None, seqused_k: Tensor | None = None, zero_tensors: bool = False,
) -> Any:  # fmt: skip
    """(out, logsumexp, probabilities or None, state of the random numbers)."""
    _check(q, k, v)
    out, lse, state, _, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_seqlens_q, cu_seqlens_k, int(max_seqlen_q), int(max_seqlen_k), dropout_p, causal, False, scale=softmax_scale,
        window_size_left=None if window_size_left < 0 else window_size_left,
        window_size_right=None if window_size_right < 0 else window_size_right, alibi_slopes=alibi_slopes,
    )  # fmt: skip
    return out, lse, None, state


def _flash_attn_forward(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float, softmax_scale: float | None, causal: bool, window_size_left: int = -1,
    window_size_right: int = -1, softcap: float = 0.0, alibi_slopes: Tensor | None = None, return_softmax: bool = False,
) -> Any:  # fmt: skip
    return _flash_attn_varlen_forward(q, k, v, None, None, q.shape[1], k.shape[1], dropout_p, softmax_scale, causal,
                                      window_size_left, window_size_right, softcap, alibi_slopes)  # fmt: skip


def _flash_attn_varlen_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, softmax_lse: Tensor, dq: Tensor | None, dk: Tensor | None,
    dv: Tensor | None, cu_seqlens_q: Tensor | None, cu_seqlens_k: Tensor | None, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float, softmax_scale: float | None, causal: bool, window_size_left: int = -1, window_size_right: int = -1,
    softcap: float = 0.0, alibi_slopes: Tensor | None = None, deterministic: bool = False, rng_state: Tensor | None = None,
    zero_tensors: bool = False,
) -> Tensor:  # fmt: skip
    """Writes dq, dk and dv, where they are given; returns the sums of out x dout."""
    state = torch.empty(2, dtype=torch.uint64, device=q.device) if rng_state is None else rng_state
    made = torch.ops.aten._flash_attention_backward(
        dout, q, k, v, out, softmax_lse, cu_seqlens_q, cu_seqlens_k, int(max_seqlen_q), int(max_seqlen_k), dropout_p, causal, state,
        torch.empty(0, dtype=torch.uint64, device=q.device), scale=softmax_scale,
        window_size_left=None if window_size_left < 0 else window_size_left,
        window_size_right=None if window_size_right < 0 else window_size_right,
    )  # fmt: skip
    for target, value in zip((dq, dk, dv), made, strict=True):
        if target is not None:
            target.copy_(value)
    return torch.empty_like(softmax_lse)


def _flash_attn_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, softmax_lse: Tensor, dq: Tensor | None, dk: Tensor | None,
    dv: Tensor | None, dropout_p: float, softmax_scale: float | None, causal: bool, window_size_left: int = -1,
    window_size_right: int = -1, softcap: float = 0.0, alibi_slopes: Tensor | None = None, deterministic: bool = False,
    rng_state: Tensor | None = None,
) -> Tensor:  # fmt: skip
    return _flash_attn_varlen_backward(dout, q, k, v, out, softmax_lse, dq, dk, dv, None, None, q.shape[1], k.shape[1], dropout_p,
                                       softmax_scale, causal, window_size_left, window_size_right, softcap, alibi_slopes,
                                       deterministic, rng_state)  # fmt: skip


# Rotary embedding -----------------------------------------------------------------------------------------------------


@fused("flash_attn.rotary", flop=lambda x, cos, sin, interleaved: 3 * x.numel(), saves=(1, 2), backward=1.0)
def _rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x [..., L, H, D], cos and sin [L, R/2]: rotates the first R of D; a multiply-add pair and a product per element."""
    rotated = cos.shape[-1] * 2
    cos, sin = (one[: x.shape[-3]].unsqueeze(-2) for one in (cos, sin))
    part = x[..., :rotated]
    if interleaved:
        one, two = part[..., ::2], part[..., 1::2]
        turned = torch.stack((one * cos - two * sin, one * sin + two * cos), dim=-1).flatten(-2)
    else:
        one, two = part.chunk(2, dim=-1)
        turned = torch.cat((one * cos - two * sin, one * sin + two * cos), dim=-1)
    return torch.cat((turned, x[..., rotated:]), dim=-1).to(x.dtype)


@fused(
    "flash_attn.rotary_", flop=lambda x, cos, sin, interleaved: 3 * x.numel(), saves=(1, 2), backward=1.0, mutates=(0,)
)
def _rotary_(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    return x.copy_(_rotary.reference(x, cos, sin, interleaved))


def apply_rotary_emb(
    x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, inplace: bool = False, seqlen_offsets: Any = 0,
    cu_seqlens: Tensor | None = None, max_seqlen: int | None = None,
) -> Tensor:  # fmt: skip
    """x [B, L, H, D] or [tokens, H, D] -> the same, its first R = 2 * cos.shape[-1] dimensions rotated."""
    result: Tensor = (_rotary_ if inplace else _rotary)(x, cos, sin, interleaved)
    return result


def apply_rotary_emb_qkv_(
    qkv: Tensor, cos: Tensor, sin: Tensor, cos_k: Any = None, sin_k: Any = None, interleaved: bool = False,
    seqlen_offsets: Any = 0, **_options: Any,
) -> Tensor:  # fmt: skip
    """qkv [B, L, 3, H, D]; queries and keys are rotated in place by one kernel."""
    both = qkv[:, :, :2].flatten(2, 3)
    _rotary_(both, cos, sin, interleaved)
    return qkv


def apply_rotary_emb_kv_(kv: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, **_options: Any) -> Tensor:
    _rotary_(kv[:, :, 0], cos, sin, interleaved)
    return kv


class RotaryEmbedding(torch.nn.Module):
    """Tables of cosine and sine, made once per length."""

    inv_freq: Tensor

    def __init__(self, dim: int, base: float = 10000.0, interleaved: bool = False, scale_base: Any = None,
                 device: Any = None, **_options: Any) -> None:  # fmt: skip
        super().__init__()
        self.dim, self.base, self.interleaved = dim, base, interleaved
        exponents = torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim
        self.register_buffer("inv_freq", 1.0 / base**exponents, persistent=False)
        self._cos_cached: Tensor | None = None
        self._sin_cached: Tensor | None = None

    def _update_cos_sin_cache(self, seqlen: int, device: Any = None, dtype: Any = None) -> None:
        if self._cos_cached is None or self._cos_cached.shape[0] < seqlen:
            angles = torch.outer(torch.arange(seqlen, device=device, dtype=torch.float32), self.inv_freq)
            self._cos_cached, self._sin_cached = angles.cos().to(dtype), angles.sin().to(dtype)

    def forward(self, qkv: Tensor, kv: Tensor | None = None, seqlen_offset: Any = 0, cu_seqlens: Any = None,
                max_seqlen: int | None = None, num_heads_q: int | None = None) -> Any:  # fmt: skip
        self._update_cos_sin_cache(max_seqlen or qkv.shape[1], qkv.device, qkv.dtype)
        cos: Any = self._cos_cached
        sin: Any = self._sin_cached
        if kv is None:
            return apply_rotary_emb_qkv_(qkv, cos, sin, interleaved=self.interleaved)
        q = apply_rotary_emb(qkv, cos, sin, interleaved=self.interleaved, inplace=True)
        return q, apply_rotary_emb_kv_(kv, cos, sin, interleaved=self.interleaved)


# Norms and loss -------------------------------------------------------------------------------------------------------


def _norm(x: Tensor, weight: Any, bias: Any, eps: float, rms: bool) -> Tensor:
    if rms:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


@fused("flash_attn.add_norm", flop=lambda x, *_: 8 * x.numel(), saves=(1,))
def _residual_norm(x: Tensor, residual: Tensor, weight: Any, bias: Any, eps: float, fp32: bool, rms: bool) -> Any:
    """x, residual [..., D] -> (norm of the sum, the sum), in one kernel."""
    total = x.float() + residual.float()
    total = total if fp32 else total.to(residual.dtype)
    return _norm(total.to(x.dtype), weight, bias, eps, rms), total


def _add_norm(
    x: Tensor, weight: Any, bias: Any, residual: Any, eps: float, prenorm: bool, residual_in_fp32: bool, rms: bool
) -> Any:
    if residual is not None:
        out, x = _residual_norm(x, residual, weight, bias, eps, residual_in_fp32, rms)
    else:
        out = _norm(x, weight, bias, eps, rms)
    return (out, x) if prenorm else out


def layer_norm_fn(x: Tensor, weight: Any, bias: Any, residual: Any = None, eps: float = 1e-6, prenorm: bool = False,
                  residual_in_fp32: bool = False, is_rms_norm: bool = False, **_options: Any) -> Any:  # fmt: skip
    return _add_norm(x, weight, bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm)


def rms_norm_fn(x: Tensor, weight: Any, bias: Any = None, residual: Any = None, eps: float = 1e-6, prenorm: bool = False,
                residual_in_fp32: bool = False, **_options: Any) -> Any:  # fmt: skip
    return _add_norm(x, weight, bias, residual, eps, prenorm, residual_in_fp32, True)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return _norm(x, weight, None, epsilon, True)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    return _norm(x, weight, bias, epsilon, False)


class RMSNorm(torch.nn.Module):
    def __init__(
        self, hidden_size: int, eps: float = 1e-5, device: Any = None, dtype: Any = None, **_options: Any
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(self, x: Tensor, residual: Any = None, prenorm: bool = False, residual_in_fp32: bool = False) -> Any:
        return _add_norm(x, self.weight, None, residual, self.eps, prenorm, residual_in_fp32, True)


class DropoutAddRMSNorm(RMSNorm):
    pass


@fused("flash_attn.cross_entropy", flop=lambda logits, *_: 5 * logits.numel(), saves=(0, 1), backward=0.8)
def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, ignore_index: int) -> Tensor:
    """logits [N, V], labels [N] -> loss [N]: a maximum, an exponential, two sums and a difference per element."""
    return F.cross_entropy(
        logits.float(), labels, reduction="none", label_smoothing=smoothing, ignore_index=ignore_index
    )


def cross_entropy_loss(
    logits: Tensor, labels: Tensor, precomputed_lse: Any = None, label_smoothing: float = 0.0, logit_scale: float = 1.0,
    lse_square_scale: float = 0.0, ignore_index: int = -100, inplace_backward: bool = False, process_group: Any = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    losses = _cross_entropy(logits, labels, label_smoothing, ignore_index)
    return losses, torch.zeros_like(losses)


class CrossEntropyLoss(torch.nn.Module):
    def __init__(
        self, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0, **_options: Any
    ) -> None:
        super().__init__()
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    def forward(self, input: Tensor, target: Tensor, precomputed_lse: Any = None) -> Tensor:
        losses: Tensor = _cross_entropy(input, target, self.label_smoothing, self.ignore_index)
        if self.reduction == "mean":
            return losses.sum() / (target != self.ignore_index).sum()
        return losses.sum() if self.reduction == "sum" else losses


# Padding --------------------------------------------------------------------------------------------------------------


def index_first_axis(x: Tensor, indices: Tensor) -> Tensor:
    return x[indices]


def pad_input(hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """[tokens, ...] -> [batch, seqlen, ...], zeros where there is no token."""
    out = hidden_states.new_zeros(batch * seqlen, *hidden_states.shape[1:])
    return out.index_copy(0, indices, hidden_states).view(batch, seqlen, *hidden_states.shape[1:])


def unpad_input(hidden_states: Tensor, attention_mask: Tensor, unused_mask: Tensor | None = None) -> Any:
    """[batch, seqlen, ...] -> (tokens, their indices, cumulative lengths, longest, lengths)."""
    mask = attention_mask if unused_mask is None else attention_mask + unused_mask
    lengths = mask.sum(dim=-1, dtype=torch.int32)
    indices = torch.nonzero(mask.flatten(), as_tuple=False).flatten()
    longest = int(lengths.max().item())
    cumulative = F.pad(torch.cumsum(lengths, dim=0, dtype=torch.int32), (1, 0))
    flat = hidden_states.flatten(0, 1)
    return flat[indices], indices, cumulative, longest, attention_mask.sum(dim=-1, dtype=torch.int32)


_PACKED = {
    "flash_attn_func": flash_attn_func, "flash_attn_qkvpacked_func": flash_attn_qkvpacked_func,
    "flash_attn_kvpacked_func": flash_attn_kvpacked_func, "flash_attn_varlen_func": flash_attn_varlen_func,
    "flash_attn_varlen_qkvpacked_func": flash_attn_varlen_qkvpacked_func,
    "flash_attn_varlen_kvpacked_func": flash_attn_varlen_kvpacked_func,
    "flash_attn_with_kvcache": flash_attn_with_kvcache,
}  # fmt: skip
_ROTARY = {
    "apply_rotary_emb": apply_rotary_emb, "apply_rotary_emb_func": apply_rotary_emb, "RotaryEmbedding": RotaryEmbedding,
    "apply_rotary_emb_qkv_": apply_rotary_emb_qkv_, "apply_rotary_emb_kv_": apply_rotary_emb_kv_,
}  # fmt: skip

MODULES: dict[str, dict[str, Any]] = {
    "flash_attn": _PACKED,
    "flash_attn.flash_attn_interface": _PACKED | {
        "_flash_attn_forward": _flash_attn_forward, "_flash_attn_backward": _flash_attn_backward,
        "_flash_attn_varlen_forward": _flash_attn_varlen_forward, "_flash_attn_varlen_backward": _flash_attn_varlen_backward,
    },
    "flash_attn.modules.mha": {name: value for name, value in _PACKED.items() if name != "flash_attn_func"},
    "flash_attn.layers.rotary": _ROTARY,
    "flash_attn.ops.triton.rotary": {"apply_rotary": apply_rotary_emb},
    "flash_attn.ops.triton.layer_norm": {"layer_norm_fn": layer_norm_fn, "rms_norm_fn": rms_norm_fn, "RMSNorm": RMSNorm},
    "flash_attn.ops.triton.cross_entropy": {"cross_entropy_loss": cross_entropy_loss},
    "flash_attn.ops.rms_norm": {"rms_norm": rms_norm, "RMSNorm": RMSNorm, "DropoutAddRMSNorm": DropoutAddRMSNorm},
    "flash_attn.ops.layer_norm": {"layer_norm": layer_norm},
    "flash_attn.losses.cross_entropy": {"CrossEntropyLoss": CrossEntropyLoss},
    "flash_attn.bert_padding": {
        "index_first_axis": index_first_axis, "pad_input": pad_input, "unpad_input": unpad_input,
    },
}  # fmt: skip

UNCOVERED: dict[str, tuple[str, ...]] = {
    "flash_attn": (
        "flash_attn_interface_torch",
        "models",
        "flash_blocksparse_attention",
        "flash_attn_triton",
    ),
    "flash_attn.bert_padding": ("unpad_input_for_concatenated_sequences", "index_put_first_axis", "IndexFirstAxis"),
    "flash_attn.modules": ("block", "embedding", "mlp"),
    "flash_attn.modules.mha": (
        "MHA",
        "ParallelMHA",
        "SelfAttention",
        "CrossAttention",
        "FlashSelfAttention",
        "FlashCrossAttention",
    ),
}
