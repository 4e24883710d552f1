"""Stand-in for Transformer Engine's PyTorch layers: real compositions of torch's ops; in FP8, casts and scaled products.

A linear layer in FP8 is: cast of the input, cast of the weight, one scaled product; backward a cast of the gradient and two
scaled products. Refused where the chip has no FP8 product, as there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins import recording
from anychip.standins.recording import layout
from anychip.standins.te_recipe import COMMON, RECIPES

VERSION = "2.6.0"

Tensor = torch.Tensor


class _Fp8:
    """Whether products run in FP8 just now."""

    enabled = False


@contextmanager
def fp8_autocast(enabled: bool = True, calibrating: bool = False, fp8_recipe: Any = None, fp8_group: Any = None,
                 **_options: Any) -> Iterator[None]:  # fmt: skip
    """Inside, the layers of this module multiply in FP8. Raises AssertionError where the chip cannot."""
    if enabled:
        available, reason = check_fp8_support()
        assert available, reason
    before, _Fp8.enabled = _Fp8.enabled, enabled
    try:
        yield
    finally:
        _Fp8.enabled = before


@contextmanager
def fp8_model_init(
    enabled: bool = True, recipe: Any = None, preserve_high_precision_init_val: bool = False
) -> Iterator[None]:
    """Weights stay 16 bits wide here: their FP8 copies are made at each use."""
    yield


def check_fp8_support() -> tuple[bool, str]:
    runtime = recording.runtime()
    if runtime is None or runtime.ask("supports.float8_e4m3fn.matmul"):
        return True, ""
    return False, f"{runtime.chip.name} has no FP8 product; FP8 execution is not available on it."


# Products -------------------------------------------------------------------------------------------------------------

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def _cast(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [m, k] -> (x in FP8 [m, k], its transpose [k, m]): one kernel that also finds the largest value."""
    both = [layout(torch.empty(shape, dtype=dtype, device="meta")) for shape in (x.shape, x.shape[::-1])]
    made = recording.launch("custom.transformer_engine.cast_transpose", (x,), both, (), (("flop", 3 * x.numel()),))
    return made[0], made[1]


class _Fp8Linear(torch.autograd.Function):
    """x [m, k], weight [n, k], bias [n] -> [m, n]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Any) -> Tensor:
        x8, x8_t = _cast(x, E4M3)
        w8, w8_t = _cast(weight, E4M3)
        ctx.save_for_backward(x8_t, w8_t)
        ctx.dtypes = x.dtype, weight.dtype
        return _product(x8, w8.t(), bias, x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x8_t, w8_t = ctx.saved_tensors
        to_input, to_weight, to_bias = ctx.needs_input_grad
        g8, g8_t = _cast(grad.contiguous(), E5M2)
        input_grad = _product(g8, w8_t.t(), None, ctx.dtypes[0]) if to_input else None
        weight_grad = _product(g8_t, x8_t.t(), None, ctx.dtypes[1]) if to_weight else None
        return input_grad, weight_grad, grad.sum(0) if to_bias else None


def _product(one: Tensor, two: Tensor, bias: Any, dtype: torch.dtype) -> Tensor:
    """[m, k] @ [k, n] in FP8, with the scales that a real run keeps beside its tensors."""
    out = dtype if dtype is not torch.float32 else torch.bfloat16
    scale = torch.ones((), device=one.device)
    bias = None if bias is None else bias.to(out)
    return torch._scaled_mm(one, two, scale, scale, bias=bias, out_dtype=out, use_fast_accum=True).to(dtype)


def linear(x: Tensor, weight: Tensor, bias: Any) -> Tensor:
    """[..., k] -> [..., n], in FP8 inside of `fp8_autocast`, else as torch does it."""
    if not _Fp8.enabled:
        return F.linear(x, weight, bias)
    if torch.is_autocast_enabled("cuda"):
        x = x.to(torch.get_autocast_dtype("cuda"))
    rows = x.reshape(-1, x.shape[-1])
    assert not any(size % 16 for size in (*rows.shape, weight.shape[0])), (
        f"FP8 execution requires all dimensions to be divisible by 16, got {tuple(rows.shape)} and {tuple(weight.shape)}"
    )
    out: Tensor = _Fp8Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], weight.shape[0])


# Layers ---------------------------------------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    """weight [out, in]. With `return_bias` the bias is not added but returned."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, params_dtype: Any = None, device: Any = "cuda",
                 return_bias: bool = False, init_method: Any = None, **_options: Any) -> None:  # fmt: skip
        super().__init__()
        self.in_features, self.out_features, self.return_bias = in_features, out_features, return_bias
        self.weight = torch.nn.Parameter(torch.empty(out_features, in_features, dtype=params_dtype, device=device))
        (init_method or _normal)(self.weight)
        self.register_parameter(
            "bias", torch.nn.Parameter(torch.zeros(out_features, dtype=params_dtype, device=device)) if bias else None
        )

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None, **_options: Any) -> Any:
        if self.return_bias:
            return linear(inp, self.weight, None), self.bias
        return linear(inp, self.weight, self.bias)


def _normal(weight: Tensor) -> None:
    torch.nn.init.normal_(weight, std=0.023)


class LayerNorm(torch.nn.LayerNorm):
    def __init__(self, normalized_shape: Any, eps: float = 1e-5, zero_centered_gamma: bool = False, device: Any = "cuda",
                 params_dtype: Any = None, dtype: Any = None, **_options: Any) -> None:  # fmt: skip
        super().__init__(normalized_shape, eps, device=device, dtype=params_dtype or dtype)


class RMSNorm(torch.nn.RMSNorm):
    def __init__(self, normalized_shape: Any, eps: float = 1e-5, zero_centered_gamma: bool = False, device: Any = "cuda",
                 params_dtype: Any = None, dtype: Any = None, **_options: Any) -> None:  # fmt: skip
        super().__init__(normalized_shape, eps, device=device, dtype=params_dtype or dtype)


def _norm(kind: str, size: int, eps: float, device: Any, dtype: Any) -> Any:
    """[weight, bias or None] of a norm over the last dimension."""
    weight = torch.nn.Parameter(torch.ones(size, dtype=dtype, device=device))
    bias = torch.nn.Parameter(torch.zeros(size, dtype=dtype, device=device)) if kind == "LayerNorm" else None
    return weight, bias


class _Normed(torch.nn.Module):
    """What starts with a norm: `layer_norm_weight` and `layer_norm_bias`, as the real layers name them."""

    def __init__(self, size: int, eps: float, normalization: str, device: Any, dtype: Any) -> None:
        super().__init__()
        self.eps, self.normalization = eps, normalization
        self.layer_norm_weight, bias = _norm(normalization, size, eps, device, dtype)
        self.layer_norm_bias: torch.nn.Parameter | None
        self.register_parameter("layer_norm_bias", bias)

    def normed(self, x: Tensor) -> Tensor:
        size = (x.shape[-1],)
        if self.normalization == "RMSNorm":
            return F.rms_norm(x, list(size), self.layer_norm_weight, self.eps)
        return F.layer_norm(x, size, self.layer_norm_weight, self.layer_norm_bias, self.eps)


class LayerNormLinear(_Normed):
    def __init__(self, in_features: int, out_features: int, eps: float = 1e-5, bias: bool = True,
                 normalization: str = "LayerNorm", params_dtype: Any = None, device: Any = "cuda",
                 return_layernorm_output: bool = False, return_bias: bool = False, **_options: Any) -> None:  # fmt: skip
        super().__init__(in_features, eps, normalization, device, params_dtype)
        inner = Linear(in_features, out_features, bias, params_dtype, device)
        self.weight, self.bias = inner.weight, inner.bias
        self.return_bias, self.return_layernorm_output = return_bias, return_layernorm_output

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None, **_options: Any) -> Any:
        normed = self.normed(inp)
        out = linear(normed, self.weight, None if self.return_bias else self.bias)
        found = [out, *([self.bias] if self.return_bias else []), *([normed] if self.return_layernorm_output else [])]
        return found[0] if len(found) == 1 else tuple(found)


_GATED: dict[str, Any] = {"swiglu": F.silu, "geglu": F.gelu, "reglu": F.relu}
_PLAIN: dict[str, Any] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "srelu": lambda x: F.relu(x).square(),
    "qgelu": F.gelu,
}


class LayerNormMLP(_Normed):
    """Norm, product, activation, product; gated activations take half of the first product each."""

    def __init__(self, hidden_size: int, ffn_hidden_size: int, eps: float = 1e-5, bias: bool = True,
                 normalization: str = "LayerNorm", activation: str = "gelu", params_dtype: Any = None, device: Any = "cuda",
                 **_options: Any) -> None:  # fmt: skip
        super().__init__(hidden_size, eps, normalization, device, params_dtype)
        self.activation = activation
        width = ffn_hidden_size * (2 if activation in _GATED else 1)
        one = Linear(hidden_size, width, bias, params_dtype, device)
        two = Linear(ffn_hidden_size, hidden_size, bias, params_dtype, device)
        self.fc1_weight, self.fc1_bias, self.fc2_weight, self.fc2_bias = one.weight, one.bias, two.weight, two.bias

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None, **_options: Any) -> Tensor:
        hidden = linear(self.normed(inp), self.fc1_weight, self.fc1_bias)
        if self.activation in _GATED:
            gate, value = hidden.chunk(2, dim=-1)
            hidden = _GATED[self.activation](gate) * value
        else:
            hidden = _PLAIN[self.activation](hidden)
        return linear(hidden, self.fc2_weight, self.fc2_bias)


class DotProductAttention(torch.nn.Module):
    """Fused attention over "sbhd" or "bshd" tensors; the heads are flattened in the result."""

    def __init__(self, num_attention_heads: int, kv_channels: Any, num_gqa_groups: int | None = None,
                 attention_dropout: float = 0.0, qkv_format: str = "sbhd", attn_mask_type: str = "causal",
                 softmax_scale: float | None = None, **_options: Any) -> None:  # fmt: skip
        super().__init__()
        self.dropout, self.format, self.mask_type, self.scale = (
            attention_dropout,
            qkv_format,
            attn_mask_type,
            softmax_scale,
        )

    def forward(self, query_layer: Tensor, key_layer: Tensor, value_layer: Tensor, attention_mask: Any = None,
                qkv_format: str | None = None, attn_mask_type: str | None = None, **_options: Any) -> Tensor:  # fmt: skip
        kind = qkv_format or self.format
        order = (1, 2, 0, 3) if kind == "sbhd" else (0, 2, 1, 3)
        q, k, v = (one.permute(order) for one in (query_layer, key_layer, value_layer))
        causal = "causal" in (attn_mask_type or self.mask_type)
        out = F.scaled_dot_product_attention(q, k, v, None, self.dropout if self.training else 0.0, causal,
                                             scale=self.scale, enable_gqa=q.shape[1] != k.shape[1])  # fmt: skip
        return out.permute((2, 0, 1, 3) if kind == "sbhd" else (0, 2, 1, 3)).flatten(2)


class MultiheadAttention(torch.nn.Module):
    def __init__(self, hidden_size: int, num_attention_heads: int, kv_channels: int | None = None,
                 attention_dropout: float = 0.1, layernorm_epsilon: float = 1e-5, num_gqa_groups: int | None = None,
                 input_layernorm: bool = False, bias: bool = True, normalization: str = "LayerNorm",
                 params_dtype: Any = None, device: Any = "cuda", qkv_format: str = "sbhd", attn_mask_type: str = "causal",
                 **_options: Any) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.groups = num_attention_heads, num_gqa_groups or num_attention_heads
        self.dim = kv_channels or hidden_size // num_attention_heads
        width = (self.heads + 2 * self.groups) * self.dim
        options: dict[str, Any] = {"bias": bias, "params_dtype": params_dtype, "device": device}
        if input_layernorm:
            self.layernorm_qkv: Any = LayerNormLinear(
                hidden_size, width, layernorm_epsilon, normalization=normalization, **options
            )
        else:
            self.qkv: Any = Linear(hidden_size, width, **options)
        self.core_attention = DotProductAttention(
            self.heads, self.dim, self.groups, attention_dropout, qkv_format, attn_mask_type
        )
        self.proj = Linear(self.heads * self.dim, hidden_size, **options)

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, rotary_pos_emb: Any = None, **_options: Any
    ) -> Tensor:
        mixed = (self.layernorm_qkv if hasattr(self, "layernorm_qkv") else self.qkv)(hidden_states)
        sizes = [one * self.dim for one in (self.heads, self.groups, self.groups)]
        q, k, v = (one.unflatten(-1, (-1, self.dim)) for one in mixed.split(sizes, dim=-1))
        if rotary_pos_emb is not None:
            from anychip.standins.apex import fused_apply_rotary_pos_emb

            q, k = (fused_apply_rotary_pos_emb(one, rotary_pos_emb) for one in (q, k))
        result: Tensor = self.proj(self.core_attention(q, k, v))
        return result


class TransformerLayer(torch.nn.Module):
    """Attention and MLP, each behind a norm, with residuals: x [L, B, E] or [B, L, E] by `attn_input_format`."""

    def __init__(self, hidden_size: int, ffn_hidden_size: int, num_attention_heads: int, num_gqa_groups: int | None = None,
                 layernorm_epsilon: float = 1e-5, hidden_dropout: float = 0.1, attention_dropout: float = 0.1,
                 kv_channels: int | None = None, self_attn_mask_type: str = "causal", normalization: str = "LayerNorm",
                 bias: bool = True, activation: str = "gelu", params_dtype: Any = None, device: Any = "cuda",
                 attn_input_format: str = "sbhd", **_options: Any) -> None:  # fmt: skip
        super().__init__()
        self.self_attention = MultiheadAttention(
            hidden_size, num_attention_heads, kv_channels, attention_dropout, layernorm_epsilon, num_gqa_groups, True, bias,
            normalization, params_dtype, device, attn_input_format, self_attn_mask_type,
        )  # fmt: skip
        self.layernorm_mlp = LayerNormMLP(hidden_size, ffn_hidden_size, layernorm_epsilon, bias, normalization, activation,
                                          params_dtype, device)  # fmt: skip
        self.hidden_dropout = hidden_dropout

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, rotary_pos_emb: Any = None, **_options: Any
    ) -> Tensor:
        attended = self.self_attention(hidden_states, attention_mask, rotary_pos_emb)
        x = hidden_states + F.dropout(attended, self.hidden_dropout, self.training)
        return x + F.dropout(self.layernorm_mlp(x), self.hidden_dropout, self.training)


_LAYERS: dict[str, Any] = {
    "Linear": Linear, "LayerNorm": LayerNorm, "RMSNorm": RMSNorm, "LayerNormLinear": LayerNormLinear,
    "LayerNormMLP": LayerNormMLP, "DotProductAttention": DotProductAttention, "MultiheadAttention": MultiheadAttention,
    "TransformerLayer": TransformerLayer,
}  # fmt: skip
_CONTEXTS: dict[str, Any] = {"fp8_autocast": fp8_autocast, "fp8_model_init": fp8_model_init, "autocast": fp8_autocast}

MODULES: dict[str, dict[str, Any]] = {
    "transformer_engine": {},
    "transformer_engine.common": {},
    "transformer_engine.common.recipe": {**COMMON, **RECIPES},
    "transformer_engine.pytorch": {**_LAYERS, **_CONTEXTS},
    "transformer_engine.pytorch.fp8": {
        **_CONTEXTS, "check_fp8_support": check_fp8_support,
    },
    "transformer_engine.pytorch.module": _LAYERS,
    "transformer_engine.pytorch.attention": {
        "DotProductAttention": DotProductAttention, "MultiheadAttention": MultiheadAttention,
    },
}  # fmt: skip

UNCOVERED: dict[str, tuple[str, ...]] = {
    "transformer_engine": ("jax",),
    "transformer_engine.pytorch": ("GroupedLinear", "checkpoint", "make_graphed_callables", "optimizers", "CudaRNGStatesTracker",
                                   "initialize_ub", "moe_permute", "moe_unpermute", "ops", "get_cpu_offload_context",
                                   "InferenceParams", "cpp_extensions", "distributed", "float8_tensor", "utils", "tensor"),
    "transformer_engine.pytorch.fp8": ("FP8GlobalStateManager", "get_default_fp8_recipe", "get_fp8_te_dtype"),
}  # fmt: skip
