"""Stand-in for Transformer Engine's PyTorch layers: real compositions of torch's ops; in FP8, casts and scaled products.

A linear layer in FP8 is: cast of the input, cast of the weight, one scaled product; backward a cast of the gradient and two
scaled products. Refused where the chip has no FP8 product, as there.
"""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins.libraries import te_parallel
from anychip.standins.libraries.amp_c import applier, multi_tensor_l2norm, multi_tensor_scale
from anychip.standins.libraries.optimizers import FusedAdam, FusedSGD
from anychip.standins.libraries.te_attention import DotProductAttention
from anychip.standins.libraries.te_permute import PERMUTATION, Fp8Padding, Fp8Unpadding
from anychip.standins.libraries.te_products import (
    WHOLE,
    FP8GlobalStateManager,
    check_fp8_support,
    fp8_autocast,
    fp8_model_init,
    linear,
    multiplied,
    scales_by_block,
)
from anychip.standins.libraries.te_recipe import COMMON, RECIPES
from anychip.standins.libraries.te_release import PRODUCT_OPS, lay_out, only_called, release

VERSION = "2.6.0"

Tensor = torch.Tensor


# Layers ---------------------------------------------------------------------------------------------------------------


class TransformerEngineBaseModule(torch.nn.Module):
    """Base of the layers with products. What trainers set or ask: the tensor-parallel group."""

    split = WHOLE
    fuse = False
    save_original_input = False

    def set_tensor_parallel_group(self, tp_group: Any) -> None:
        self.tp_group = tp_group
        self.split = replace(self.split, group=tp_group)

    def init_fp8_metadata(self, num_gemms: int = 1) -> None:
        """Scales are not kept here."""

    def _parameters_of(self, in_features: int, out_features: int, bias: bool, params_dtype: Any, device: Any,
                       init_method: Any, options: dict[str, Any]) -> None:  # fmt: skip
        """Make `weight` [out, in] and `bias`, of which a rank of a tensor-parallel group holds its part."""
        mode, group = options.get("parallel_mode"), options.get("tp_group")
        size = torch.distributed.get_world_size(group) if group is not None else options.get("tp_size", 1)
        self.tp_group, self.tp_size = group, size
        self.split = te_parallel.Split(mode, group, bool(options.get("sequence_parallel")) and size > 1,
                                       bool(options.get("ub_overlap_ag")), bool(options.get("ub_overlap_rs")))  # fmt: skip
        self.fuse = bool(options.get("fuse_wgrad_accumulation"))
        inputs, outputs = (in_features // size, out_features) if mode == "row" else (in_features, out_features)
        outputs = outputs // size if mode == "column" else outputs
        self.in_features, self.out_features = inputs, outputs
        self.weight = torch.nn.Parameter(torch.empty(outputs, inputs, dtype=params_dtype, device=device))
        with _drawn_by(options):
            (init_method or _normal)(self.weight)
        self.bias: torch.nn.Parameter | None
        values = torch.zeros(outputs, dtype=params_dtype, device=device) if bias else None
        self.register_parameter("bias", None if values is None else torch.nn.Parameter(values))
        if mode is not None:
            te_parallel.mark(self.weight, self.split, "weight")
            if self.bias is not None:
                te_parallel.mark(self.bias, self.split, "bias")


def _drawn_by(options: dict[str, Any]) -> Any:
    """The random numbers that a rank's own part is drawn from."""
    tracker = options.get("get_rng_state_tracker")
    if tracker is None:
        return nullcontext()
    name = options.get("rng_tracker_name")
    return tracker().fork(name) if name else tracker().fork()


class Linear(TransformerEngineBaseModule):
    """weight [out, in]. With `return_bias` the bias is not added but returned."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, params_dtype: Any = None, device: Any = "cuda",
                 return_bias: bool = False, init_method: Any = None, **options: Any) -> None:  # fmt: skip
        super().__init__()
        self.return_bias = return_bias
        self._parameters_of(in_features, out_features, bias, params_dtype, device, init_method, options)

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None, **_options: Any) -> Any:
        bias = None if self.return_bias else self.bias
        out = linear(inp, self.weight, bias, self.split, self.fuse, is_first_microbatch)
        return (out, self.bias) if self.return_bias else out


def _normal(weight: Tensor) -> None:
    torch.nn.init.normal_(weight, std=0.023)


def _copies(module: torch.nn.Module, sequence: bool) -> None:
    """Each rank of a tensor-parallel group has the same norm and sees a part of the sequence: trainers sum the gradients."""
    for parameter in module.parameters(recurse=False):
        parameter.sequence_parallel = sequence  # type: ignore[attr-defined]


class LayerNorm(torch.nn.LayerNorm):
    def __init__(self, normalized_shape: Any = None, eps: float = 1e-5, zero_centered_gamma: bool = False, device: Any = "cuda",
                 params_dtype: Any = None, dtype: Any = None, sequence_parallel: bool = False,
                 hidden_size: Any = None, **_options: Any) -> None:  # fmt: skip
        super().__init__(normalized_shape or hidden_size, eps, device=device, dtype=params_dtype or dtype)
        _copies(self, sequence_parallel)


class RMSNorm(torch.nn.RMSNorm):
    def __init__(self, normalized_shape: Any = None, eps: float = 1e-5, zero_centered_gamma: bool = False, device: Any = "cuda",
                 params_dtype: Any = None, dtype: Any = None, sequence_parallel: bool = False,
                 hidden_size: Any = None, **_options: Any) -> None:  # fmt: skip
        super().__init__(normalized_shape or hidden_size, eps, device=device, dtype=params_dtype or dtype)
        _copies(self, sequence_parallel)


def _norm(kind: str, size: int, eps: float, device: Any, dtype: Any) -> Any:
    """[weight, bias or None] of a norm over the last dimension."""
    weight = torch.nn.Parameter(torch.ones(size, dtype=dtype, device=device))
    bias = torch.nn.Parameter(torch.zeros(size, dtype=dtype, device=device)) if kind == "LayerNorm" else None
    return weight, bias


class _Normed(TransformerEngineBaseModule):
    """What starts with a norm: `layer_norm_weight` and `layer_norm_bias`, as the real layers name them."""

    def __init__(self, size: int, eps: float, normalization: str, device: Any, dtype: Any,
                 sequence: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.eps, self.normalization = eps, normalization
        self.layer_norm_weight, bias = _norm(normalization, size, eps, device, dtype)
        self.layer_norm_bias: torch.nn.Parameter | None
        self.register_parameter("layer_norm_bias", bias)
        _copies(self, sequence)

    def normed(self, x: Tensor) -> Tensor:
        size = (x.shape[-1],)
        if self.normalization == "RMSNorm":
            return F.rms_norm(x, list(size), self.layer_norm_weight, self.eps)
        return F.layer_norm(x, size, self.layer_norm_weight, self.layer_norm_bias, self.eps)


class LayerNormLinear(_Normed):
    def __init__(self, in_features: int, out_features: int, eps: float = 1e-5, bias: bool = True,
                 normalization: str = "LayerNorm", params_dtype: Any = None, device: Any = "cuda",
                 return_layernorm_output: bool = False, return_bias: bool = False, init_method: Any = None,
                 **options: Any) -> None:  # fmt: skip
        super().__init__(in_features, eps, normalization, device, params_dtype, bool(options.get("sequence_parallel")))
        self._parameters_of(in_features, out_features, bias, params_dtype, device, init_method, options)
        self.return_bias, self.return_layernorm_output = return_bias, return_layernorm_output

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None, **_options: Any) -> Any:
        normed = self.normed(inp)
        bias = None if self.return_bias else self.bias
        out = linear(normed, self.weight, bias, self.split, self.fuse, is_first_microbatch)
        found = [out, *([self.bias] if self.return_bias else []), *([normed] if self.return_layernorm_output else [])]
        return found[0] if len(found) == 1 else tuple(found)


class Joined(torch.autograd.Function):
    """Rows of products that a chip writes into one tensor: nothing is copied, there or on the way back. The library calls
    cuBLASLt for each, 33 us of a Xeon that takes 4 for an op and 13.5 for torch's Linear: 8 products of 2 x 128 x 2048 x 2048 take 267 us,
    69 in one kernel (https://github.com/NVIDIA/TransformerEngine/pull/3134, issue 2053). more: calls in FP8."""

    @staticmethod
    def forward(ctx: Any, more: tuple[int, int], laid_out: Any, *parts: Tensor) -> Tensor:
        ctx.rows, ctx.more, ctx.laid_out = [len(part) for part in parts], more, laid_out
        only_called(parts[0], len(parts) * (PRODUCT_OPS + more[0]))
        return parts[0].new_empty(sum(ctx.rows), *parts[0].shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        only_called(grad, len(ctx.rows) * (2 * PRODUCT_OPS + ctx.more[1]))
        if ctx.laid_out is not None:
            ctx.laid_out(grad)
        return None, None, *grad.split(ctx.rows)


class Parted(torch.autograd.Function):
    """Consecutive rows of one tensor; their gradients are written into one as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: list[int]) -> tuple[Tensor, ...]:
        return tuple(part.view_as(part) for part in x.split(rows))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grads[0].new_empty(sum(map(len, grads)), *grads[0].shape[1:]), None


class GroupedLinear(TransformerEngineBaseModule):
    """num_gemms weights [out, in]: consecutive rows of the input are multiplied with one each, as many as `m_splits` say."""

    def __init__(self, num_gemms: int, in_features: int, out_features: int, bias: bool = True, params_dtype: Any = None,
                 device: Any = "cuda", return_bias: bool = False, init_method: Any = None, **options: Any) -> None:  # fmt: skip
        super().__init__()
        self.num_gemms, self.use_bias, self.return_bias = num_gemms, bias, return_bias
        mode = options.pop("parallel_mode", None)
        size = options.get("tp_size", 1)
        self.in_features, self.out_features = in_features, out_features
        inputs = in_features // size if mode == "row" else in_features
        outputs = out_features // size if mode == "column" else out_features
        self.fuse = bool(options.get("fuse_wgrad_accumulation"))
        for number in range(num_gemms):
            weight = torch.nn.Parameter(torch.empty(outputs, inputs, dtype=params_dtype, device=device))
            with _drawn_by(options):
                (init_method or _normal)(weight)
            self.register_parameter(f"weight{number}", weight)
            if bias:
                values = torch.zeros(outputs, dtype=params_dtype, device=device)
                self.register_parameter(f"bias{number}", torch.nn.Parameter(values))

    def forward(self, inp: Tensor, m_splits: Any, is_first_microbatch: bool | None = None) -> Any:
        biases = [getattr(self, f"bias{number}") if self.use_bias else None for number in range(self.num_gemms)]
        weights = [getattr(self, f"weight{number}") for number in range(self.num_gemms)]
        rows = list(m_splits)
        parts = Parted.apply(inp, rows) if inp.is_cuda else inp.split(rows)
        outs = [
            multiplied(
                part, weight, None if self.return_bias else bias, WHOLE, self.fuse, is_first_microbatch, alone=False
            )
            for part, weight, bias in zip(parts, weights, biases, strict=True)
        ]
        made = self._joined(inp, outs, weights) if inp.is_cuda else torch.cat(outs)
        return (made, biases) if self.return_bias else made

    def _joined(self, inp: Tensor, outs: list[Tensor], weights: list[Tensor]) -> Tensor:
        """One tensor of all products, in FP8 with what that takes beyond 16 bit."""
        found, rows, size = release(), inp.numel(), sum(weight.numel() for weight in weights)
        to_input, to_weight = inp.requires_grad, weights[0].requires_grad
        kernels = -(-len(weights) // found.at_once)

        def lay_out_casts(beside: Tensor, elements: int) -> None:
            if not found.casts_lay_out:
                lay_out(beside, elements, kernels)

        def laid_out(grad: Tensor) -> None:
            if to_input:
                lay_out_casts(grad, grad.numel())
                lay_out(grad, size, kernels)
            if to_weight:
                lay_out_casts(grad, grad.numel())
                lay_out_casts(grad, rows)

        together = scales_by_block() and found.at_once > 1
        if together:
            lay_out_casts(inp, rows)
            lay_out(inp, size, kernels)
        more = found.expert_fp8 if FP8GlobalStateManager.is_fp8_enabled() else (0, 0)
        return Joined.apply(more, laid_out if together else None, *outs)  # type: ignore[no-untyped-call, no-any-return]


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
            from anychip.standins.libraries.apex import fused_apply_rotary_pos_emb

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


class QuantizedTensor(torch.Tensor):
    """Weights that are kept in 8 bits: there are none here (see `fp8_model_init`)."""


class Float8Tensor(QuantizedTensor):
    pass


_LAYERS: dict[str, Any] = {
    "Linear": Linear, "LayerNorm": LayerNorm, "RMSNorm": RMSNorm, "LayerNormLinear": LayerNormLinear,
    "LayerNormMLP": LayerNormMLP, "DotProductAttention": DotProductAttention, "MultiheadAttention": MultiheadAttention,
    "TransformerLayer": TransformerLayer, "GroupedLinear": GroupedLinear,
}  # fmt: skip
_CONTEXTS: dict[str, Any] = {"fp8_autocast": fp8_autocast, "fp8_model_init": fp8_model_init, "autocast": fp8_autocast}
_ATTENTION: dict[str, Any] = {
    "DotProductAttention": DotProductAttention, "MultiheadAttention": MultiheadAttention,
    "_SplitAlongDim": te_parallel.SplitAlongDim, "apply_rotary_pos_emb": te_parallel.apply_rotary_pos_emb,
}  # fmt: skip

MODULES: dict[str, dict[str, Any]] = {
    "transformer_engine": {},
    "transformer_engine.common": {},
    "transformer_engine.common.recipe": {**COMMON, **RECIPES},
    "transformer_engine.pytorch": {
        **_LAYERS, **_CONTEXTS, "checkpoint": te_parallel.checkpoint,
        "CudaRNGStatesTracker": te_parallel.CudaRNGStatesTracker, "Fp8Padding": Fp8Padding,
        "Fp8Unpadding": Fp8Unpadding, **PERMUTATION,
    },
    "transformer_engine.pytorch.fp8": {
        **_CONTEXTS, "check_fp8_support": check_fp8_support, "FP8GlobalStateManager": FP8GlobalStateManager,
    },
    "transformer_engine.pytorch.module": _LAYERS,
    "transformer_engine.pytorch.module.base": {
        "TransformerEngineBaseModule": TransformerEngineBaseModule,
        "get_dummy_wgrad": lambda shape, dtype, zero=False: torch.empty(shape, dtype=dtype, device="cuda"),
    },
    "transformer_engine.pytorch.attention": _ATTENTION,
    "transformer_engine.pytorch.attention.rope": {"apply_rotary_pos_emb": te_parallel.apply_rotary_pos_emb},
    "transformer_engine.pytorch.distributed": te_parallel.DISTRIBUTED,
    "transformer_engine.pytorch.optimizers": {
        "FusedAdam": FusedAdam, "FusedSGD": FusedSGD, "multi_tensor_applier": applier,
        "multi_tensor_l2norm": multi_tensor_l2norm, "multi_tensor_scale": multi_tensor_scale,
    },
    "transformer_engine.pytorch.permutation": PERMUTATION,
    "transformer_engine.pytorch.tensor": {"QuantizedTensor": QuantizedTensor},
    "transformer_engine.pytorch.tensor.float8_tensor": {"Float8Tensor": Float8Tensor},
    "transformer_engine.pytorch.float8_tensor": {"Float8Tensor": Float8Tensor},
    "transformer_engine.pytorch.ops": {"Sequential": torch.nn.Sequential, "FusibleOperation": torch.nn.Module},
}  # fmt: skip

UNCOVERED: dict[str, tuple[str, ...]] = {
    "transformer_engine": ("jax",),
    "transformer_engine.pytorch": ("make_graphed_callables", "initialize_ub",
                                   "get_cpu_offload_context", "cpu_offload", "cross_entropy", "graph",
                                   "InferenceParams", "cpp_extensions", "utils"),
    "transformer_engine.pytorch.optimizers": ("multi_tensor_scale_tensor", "multi_tensor_adam"),
    "transformer_engine.pytorch.ops": ("BasicLinear", "Bias", "LayerNorm", "RMSNorm", "AllReduce", "ReduceScatter"),
    "transformer_engine.pytorch.tensor": ("mxfp8_tensor", "nvfp4_tensor", "utils", "float8_blockwise_tensor"),
    "transformer_engine.pytorch.fp8": ("get_default_fp8_recipe", "get_fp8_te_dtype"),
}  # fmt: skip
