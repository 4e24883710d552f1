"""Stand-in for xformers: memory-efficient attention by torch's fused attention, SwiGLU as the products that it is.

Tensors are [batch, length, heads, dim]; [batch, length, dim] is one head; [batch, length, groups, heads, dim] shares keys
among the heads of a group.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins.libraries import flash_attn

VERSION = "0.0.32"

Tensor = torch.Tensor


# Masks ----------------------------------------------------------------------------------------------------------------


class AttentionBias:
    """Base of masks that are not tensors. causal: keys behind a query are hidden."""

    causal = False


class LowerTriangularMask(AttentionBias):
    causal = True

    def __init__(self, *_tensor_args: Any, **_tensor_kwargs: Any) -> None:
        pass

    def add_bias(self, bias: Tensor) -> "LowerTriangularMaskWithTensorBias":
        return LowerTriangularMaskWithTensorBias(bias)

    def materialize(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Any = "cpu") -> Tensor:
        return torch.full(tuple(shape), float("-inf"), dtype=dtype, device=device).triu(1)


class LowerTriangularFromBottomRightMask(LowerTriangularMask):
    pass


class LowerTriangularMaskWithTensorBias(LowerTriangularMask):
    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self._bias = bias


@dataclass
class _SeqLenInfo:
    """Cumulative lengths of packed sequences, on the host and on the chip."""

    lengths: tuple[int, ...]

    @property
    def max_seqlen(self) -> int:
        return max(self.lengths, default=0)

    @property
    def seqstart_py(self) -> list[int]:
        starts = [0]
        for length in self.lengths:
            starts.append(starts[-1] + length)
        return starts

    def seqstart(self, device: Any) -> Tensor:
        return torch.tensor(self.seqstart_py, dtype=torch.int32, device=device)


@dataclass
class _PaddedSeqLenInfo(_SeqLenInfo):
    """Of keys in a cache: those of each sequence begin at a multiple of `padding`."""

    padding: int

    @property
    def seqstart_py(self) -> list[int]:
        return [number * self.padding for number in range(len(self.lengths) + 1)]


@dataclass
class BlockDiagonalMask(AttentionBias):
    """Packed sequences that do not see one another. at_end: the last query of each sees its last key, not the first its first."""

    q_seqinfo: _SeqLenInfo
    k_seqinfo: _SeqLenInfo
    _batch_sizes: Sequence[int] | None = None
    _window_size: int | None = None

    at_end = False

    @classmethod
    def from_seqlens(cls, q_seqlen: Sequence[int], kv_seqlen: Sequence[int] | None = None, **_options: Any) -> Any:
        queries = _SeqLenInfo(tuple(q_seqlen))
        return cls(queries, queries if kv_seqlen is None else _SeqLenInfo(tuple(kv_seqlen)))

    @classmethod
    def from_tensor_list(cls, tensors: Sequence[Tensor]) -> tuple[Any, Tensor]:
        """Tensors [b, length, ...] -> (mask, [1, sum of b * length, ...])."""
        lengths = [one.shape[1] for one in tensors for _ in range(one.shape[0])]
        mask = cls.from_seqlens(lengths)
        mask._batch_sizes = [one.shape[0] for one in tensors]
        return mask, torch.cat([one.reshape(1, -1, *one.shape[2:]) for one in tensors], dim=1)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """The inverse of `from_tensor_list`."""
        sizes = self._batch_sizes or [1] * len(self.q_seqinfo.lengths)
        found, at, sequence = [], 0, 0
        for batch in sizes:
            length = self.q_seqinfo.lengths[sequence]
            found.append(tensor[:, at : at + batch * length].reshape(batch, length, *tensor.shape[2:]))
            at, sequence = at + batch * length, sequence + batch
        return found

    def _as(self, kind: type["BlockDiagonalMask"], window: int | None = None) -> Any:
        return kind(self.q_seqinfo, self.k_seqinfo, self._batch_sizes, window)

    def make_causal(self) -> "BlockDiagonalCausalMask":
        mask: BlockDiagonalCausalMask = self._as(BlockDiagonalCausalMask)
        return mask

    def make_causal_from_bottomright(self) -> "BlockDiagonalCausalFromBottomRightMask":
        mask: BlockDiagonalCausalFromBottomRightMask = self._as(BlockDiagonalCausalFromBottomRightMask)
        return mask

    def make_local_attention(self, window_size: int) -> "BlockDiagonalCausalLocalAttentionMask":
        mask: BlockDiagonalCausalLocalAttentionMask = self._as(BlockDiagonalCausalLocalAttentionMask, window_size)
        return mask

    def make_local_attention_from_bottomright(
        self, window_size: int
    ) -> "BlockDiagonalCausalLocalAttentionFromBottomRightMask":
        mask: BlockDiagonalCausalLocalAttentionFromBottomRightMask = self._as(
            BlockDiagonalCausalLocalAttentionFromBottomRightMask, window_size
        )
        return mask


class BlockDiagonalCausalMask(BlockDiagonalMask):
    causal = True


class BlockDiagonalCausalFromBottomRightMask(BlockDiagonalMask):
    causal = at_end = True


class BlockDiagonalCausalLocalAttentionMask(BlockDiagonalCausalMask):
    """Each query sees the last `_window_size` keys up to its own."""


class BlockDiagonalCausalLocalAttentionFromBottomRightMask(BlockDiagonalCausalFromBottomRightMask):
    """The same, counted from the last one."""


class BlockDiagonalPaddedKeysMask(BlockDiagonalMask):
    """Keys lie in a cache that has room for more."""

    @classmethod
    def from_seqlens(  # type: ignore[override]
        cls, q_seqlen: Sequence[int], kv_padding: int, kv_seqlen: Sequence[int], causal_diagonal: Any = None
    ) -> Any:
        return cls(_SeqLenInfo(tuple(q_seqlen)), _PaddedSeqLenInfo(tuple(kv_seqlen), kv_padding))


class BlockDiagonalCausalWithOffsetPaddedKeysMask(BlockDiagonalPaddedKeysMask):
    causal = at_end = True


# Attention ------------------------------------------------------------------------------------------------------------


def memory_efficient_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, p: float = 0.0, scale: float | None = None, *,
    op: Any = None, output_dtype: Any = None,
) -> Tensor:  # fmt: skip
    """softmax(q @ k.T * scale + bias) @ v, fused; the result has the layout of `query`."""
    if query.dim() == 3:
        q, k, v = (one.unsqueeze(2) for one in (query, key, value))
        return memory_efficient_attention(q, k, v, attn_bias, p, scale).squeeze(2)
    if query.dim() == 5:
        q, k, v = (one.flatten(2, 3) for one in (query, key, value))
        return memory_efficient_attention(q, k, v, attn_bias, p, scale).view_as(query)
    if isinstance(attn_bias, BlockDiagonalMask):
        return _packed(query, key, value, attn_bias, p, scale)
    mask = attn_bias if isinstance(attn_bias, Tensor) else getattr(attn_bias, "_bias", None)
    causal = bool(getattr(attn_bias, "causal", False)) and mask is None
    if mask is not None and mask.dim() == 3:
        mask = mask.view(query.shape[0], -1, *mask.shape[1:])
    q, k, v = (one.transpose(1, 2) for one in (query, key, value))
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, mask, p, causal, scale=scale, enable_gqa=grouped)
    result = out.transpose(1, 2)
    return result if output_dtype is None else result.to(output_dtype)


def _packed(
    query: Tensor, key: Tensor, value: Tensor, bias: BlockDiagonalMask, p: float, scale: float | None
) -> Tensor:
    if query.device.type == "cpu" or query.dtype not in (torch.float16, torch.bfloat16):
        pieces = []
        for each in _sequences(query, key, value, bias):
            q, k, v = (one.transpose(1, 2) for one in each)
            seen = _seen(q.shape[2], k.shape[2], bias, q.device)
            causal = bias.causal and seen is None
            pieces.append(F.scaled_dot_product_attention(q, k, v, seen, p, causal, scale=scale))
        return torch.cat([one.transpose(1, 2) for one in pieces], dim=1)
    # What is read of a cache is as much as its sequences have, wherever they lie in it.
    keys = _SeqLenInfo(bias.k_seqinfo.lengths)
    used, window = sum(keys.lengths), bias._window_size
    out: Tensor = flash_attn.flash_attn_varlen_func(
        query[0], key[0, :used], value[0, :used], bias.q_seqinfo.seqstart(query.device), keys.seqstart(query.device),
        bias.q_seqinfo.max_seqlen, keys.max_seqlen, p, scale, bias.causal, (-1, -1) if window is None else (window - 1, 0),
    )  # fmt: skip
    return out.unsqueeze(0)


def _seen(rows: int, columns: int, bias: BlockDiagonalMask, device: Any) -> Tensor | None:
    """[rows, columns] of keys that queries see; None where that is all, or all up to their own from the first on."""
    if not bias.causal or (bias._window_size is None and (not bias.at_end or rows == columns)):
        return None
    offset = columns - rows if bias.at_end else 0
    seen = torch.ones(rows, columns, dtype=torch.bool, device=device).tril(offset)
    return seen if bias._window_size is None else seen.triu(offset - bias._window_size + 1)


def _sequences(query: Tensor, key: Tensor, value: Tensor, bias: BlockDiagonalMask) -> Iterable[tuple[Tensor, ...]]:
    queries, keys = bias.q_seqinfo.seqstart_py, bias.k_seqinfo.seqstart_py
    for n, length in enumerate(bias.k_seqinfo.lengths):
        rows, columns = slice(queries[n], queries[n + 1]), slice(keys[n], keys[n] + length)
        yield query[:, rows], key[:, columns], value[:, columns]


class AttentionOpBase:
    """Name of an implementation; a program passes it as `op=`, and torch's own choice is taken."""


class _Flash(AttentionOpBase):
    NAME = "fa2F"


class _Cutlass(AttentionOpBase):
    NAME = "cutlassF"


# Layers ---------------------------------------------------------------------------------------------------------------


def swiglu(x: Tensor, w1: Tensor, b1: Any, w2: Tensor, b2: Any, w3: Tensor, b3: Any, *, op: Any = None) -> Tensor:
    """w3 @ (silu(w1 @ x) * (w2 @ x))."""
    return F.linear(F.silu(F.linear(x, w1, b1)) * F.linear(x, w2, b2), w3, b3)


class SwiGLU(torch.nn.Module):
    """Both first products as one, unless `_pack_weights` is off."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int | None = None, bias: bool = True, *,
                 _pack_weights: bool = True) -> None:  # fmt: skip
        super().__init__()
        out_features = out_features or in_features
        self.w12: torch.nn.Linear | None = None
        if _pack_weights:
            self.w12 = torch.nn.Linear(in_features, 2 * hidden_features, bias)
        else:
            self.w1 = torch.nn.Linear(in_features, hidden_features, bias)
            self.w2 = torch.nn.Linear(in_features, hidden_features, bias)
        self.w3 = torch.nn.Linear(hidden_features, out_features, bias)
        self.hidden_features, self.out_features, self.in_features, self.op = (
            hidden_features,
            out_features,
            in_features,
            None,
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.w12 is not None:
            one, two = self.w12(x).chunk(2, dim=-1)
        else:
            one, two = self.w1(x), self.w2(x)
        result: Tensor = self.w3(F.silu(one) * two)
        return result


def unbind(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    return x.unbind(dim)


def index_select_cat(sources: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
    return torch.cat([one[index].flatten() for one, index in zip(sources, indices, strict=True)])


def scaled_index_add(input: Tensor, index: Tensor, source: Tensor, scaling: Any = None, alpha: float = 1.0) -> Tensor:
    return torch.index_add(input, 0, index, source if scaling is None else source * scaling, alpha=alpha)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float = 1e-6) -> Tensor:
    return F.rms_norm(x, [x.shape[-1]], weight, eps)


class RMSNorm(torch.nn.RMSNorm):
    def __init__(self, dim: int, include_weight: bool = True, eps: float = 1e-6) -> None:
        super().__init__(dim, eps, include_weight)


_MASKS: dict[str, Any] = {
    "AttentionBias": AttentionBias, "LowerTriangularMask": LowerTriangularMask,
    "LowerTriangularFromBottomRightMask": LowerTriangularFromBottomRightMask,
    "LowerTriangularMaskWithTensorBias": LowerTriangularMaskWithTensorBias, "BlockDiagonalMask": BlockDiagonalMask,
    "BlockDiagonalCausalMask": BlockDiagonalCausalMask,
    **{one.__name__: one for one in (
        BlockDiagonalCausalFromBottomRightMask, BlockDiagonalCausalLocalAttentionMask,
        BlockDiagonalCausalLocalAttentionFromBottomRightMask, BlockDiagonalPaddedKeysMask,
        BlockDiagonalCausalWithOffsetPaddedKeysMask,
    )},
}  # fmt: skip
_PAIR = (_Flash, _Flash), (_Cutlass, _Cutlass)
_OPS: dict[str, Any] = {
    **{name: mask for name, mask in _MASKS.items() if not name.startswith("BlockDiagonal")},
    "memory_efficient_attention": memory_efficient_attention,
    "memory_efficient_attention_forward": memory_efficient_attention, "AttentionOpBase": AttentionOpBase,
    "MemoryEfficientAttentionFlashAttentionOp": _PAIR[0], "MemoryEfficientAttentionCutlassOp": _PAIR[1],
    "swiglu": swiglu, "SwiGLU": SwiGLU, "unbind": unbind, "index_select_cat": index_select_cat,
    "scaled_index_add": scaled_index_add, "rms_norm": rms_norm, "RMSNorm": RMSNorm,
}  # fmt: skip

MODULES: dict[str, dict[str, Any]] = {
    "xformers": {},
    "xformers.ops": _OPS,
    "xformers.ops.fmha": {**_MASKS, "memory_efficient_attention": memory_efficient_attention},
    "xformers.ops.fmha.attn_bias": _MASKS,
    "xformers.ops.swiglu_op": {"SwiGLU": SwiGLU, "swiglu": swiglu},
    "xformers.ops.rmsnorm": {"RMSNorm": RMSNorm, "rms_norm": rms_norm},
}

UNCOVERED: dict[str, tuple[str, ...]] = {
    "xformers": ("components", "factory", "sparse", "triton", "benchmarks", "profiler", "attn_bias_utils", "info"),
    "xformers.ops": ("memory_efficient_attention_backward", "memory_efficient_attention_forward_requires_grad",
                     "memory_efficient_attention_partial", "merge_attentions", "sequence_parallel_fused", "rope_padded",
                     "tree_attention", "sp24", "AttentionOp", "AttentionOpDispatch", "fused_allgather_and_linear"),
    "xformers.ops.fmha": ("cutlass", "flash", "flash3", "ck", "triton_splitk", "merge_attentions", "dispatch"),
    "xformers.ops.fmha.attn_bias": ("LocalAttentionFromBottomRightMask", "LowerTriangularFromBottomRightLocalAttentionMask",
                                    "BlockDiagonalGappyKeysMask", "BlockDiagonalCausalWithOffsetGappyKeysMask",
                                    "PagedBlockDiagonalPaddedKeysMask", "PagedBlockDiagonalGappyKeysMask",
                                    "PagedBlockDiagonalCausalWithOffsetPaddedKeysMask"),
}  # fmt: skip
