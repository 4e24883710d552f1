"""Stand-in for NVIDIA apex: fused optimizers and norms by torch's own fused ops, amp by torch's autocast."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins.fused import fused
from anychip.standins.libraries import amp_c, apex_amp, apex_parallel
from anychip.standins.libraries.optimizers import FusedAdagrad, FusedAdam, FusedLAMB, FusedNovoGrad, FusedSGD

VERSION = "0.1"

Tensor = torch.Tensor


# Norms ----------------------------------------------------------------------------------------------------------------


def fused_layer_norm_affine(input: Tensor, weight: Tensor, bias: Tensor, normalized_shape: Any, eps: float = 1e-6,
                            memory_efficient: bool = False) -> Tensor:  # fmt: skip
    return F.layer_norm(input, _shape(normalized_shape), weight, bias, eps)


def fused_layer_norm(input: Tensor, normalized_shape: Any, eps: float = 1e-6, memory_efficient: bool = False) -> Tensor:
    return F.layer_norm(input, _shape(normalized_shape), None, None, eps)


def fused_rms_norm_affine(input: Tensor, weight: Tensor, normalized_shape: Any, eps: float = 1e-6,
                          memory_efficient: bool = False) -> Tensor:  # fmt: skip
    return F.rms_norm(input, list(_shape(normalized_shape)), weight, eps)


def fused_rms_norm(input: Tensor, normalized_shape: Any, eps: float = 1e-6, memory_efficient: bool = False) -> Tensor:
    return F.rms_norm(input, list(_shape(normalized_shape)), None, eps)


def mixed_dtype_fused_layer_norm_affine(input: Tensor, weight: Tensor, bias: Tensor, normalized_shape: Any,
                                        eps: float = 1e-6, memory_efficient: bool = False) -> Tensor:  # fmt: skip
    """The result has the dtype of the weight."""
    return F.layer_norm(input.to(weight.dtype), _shape(normalized_shape), weight, bias, eps)


def mixed_dtype_fused_rms_norm_affine(input: Tensor, weight: Tensor, normalized_shape: Any, eps: float = 1e-6,
                                      memory_efficient: bool = False) -> Tensor:  # fmt: skip
    return F.rms_norm(input.to(weight.dtype), list(_shape(normalized_shape)), weight, eps)


def _shape(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


class FusedLayerNorm(torch.nn.LayerNorm):
    def __init__(self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True,
                 memory_efficient: bool = False) -> None:  # fmt: skip
        super().__init__(normalized_shape, eps, elementwise_affine)


class FusedRMSNorm(torch.nn.RMSNorm):
    def __init__(self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True,
                 memory_efficient: bool = False) -> None:  # fmt: skip
        super().__init__(normalized_shape, eps, elementwise_affine)


class MixedFusedLayerNorm(FusedLayerNorm):
    def __init__(self, normalized_shape: Any, eps: float = 1e-5, **_options: Any) -> None:
        super().__init__(normalized_shape, eps, True)

    def forward(self, input: Tensor) -> Tensor:
        return mixed_dtype_fused_layer_norm_affine(input, self.weight, self.bias, self.normalized_shape, self.eps)


class MixedFusedRMSNorm(FusedRMSNorm):
    def __init__(self, normalized_shape: Any, eps: float = 1e-5, **_options: Any) -> None:
        super().__init__(normalized_shape, eps, True)

    def forward(self, input: Tensor) -> Tensor:
        assert self.weight is not None
        return mixed_dtype_fused_rms_norm_affine(input, self.weight, self.normalized_shape, self.eps or 1e-6)


# Fused layers ---------------------------------------------------------------------------------------------------------


class MLP(torch.nn.Module):
    """Products with an activation behind each but the last of `mlp_sizes`."""

    def __init__(self, mlp_sizes: list[int], bias: bool = True, activation: str = "relu") -> None:
        super().__init__()
        pairs = pairwise(mlp_sizes)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(one, two, bias) for one, two in pairs)
        self.activation: Any = {"relu": F.relu, "sigmoid": torch.sigmoid, "none": lambda x: x}[activation]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.activation(layer(x))
        return x


class FusedDenseGeluDense(torch.nn.Module):
    def __init__(self, in_features: int, intermediate_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.dense1 = torch.nn.Linear(in_features, intermediate_features, bias)
        self.dense2 = torch.nn.Linear(intermediate_features, out_features, bias)

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.dense2(F.gelu(self.dense1(input)))
        return result


@fused("apex.scaled_masked_softmax", flop=lambda x, *_: 6 * x.numel(), saves=(), backward=0.7)
def scaled_masked_softmax(x: Tensor, mask: Any, scale: float, causal: bool) -> Tensor:
    """Scale, mask (True hides) and softmax over the last dimension, in one kernel; x [..., L, S]."""
    x = x * scale
    if mask is not None:
        x = x.masked_fill(mask, -10000.0)
    if causal:
        x = x.masked_fill(torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).triu(1), float("-inf"))
    return torch.softmax(x, dim=-1)


class FusedScaleMaskSoftmax(torch.nn.Module):
    """One kernel where the real one has it (16 bit, fusion asked for); torch's own ops otherwise."""

    def __init__(self, input_in_fp16: bool, input_in_bf16: bool, attn_mask_type: Any, scaled_masked_softmax_fusion: bool,
                 mask_func: Any, softmax_in_fp32: bool, scale: float | None) -> None:  # fmt: skip
        super().__init__()
        self.in_half, self.fusion = input_in_fp16 or input_in_bf16, scaled_masked_softmax_fusion
        self.causal = "causal" in str(attn_mask_type).lower() or getattr(attn_mask_type, "value", attn_mask_type) == 2
        self.mask_func, self.softmax_in_fp32, self.scale = mask_func, softmax_in_fp32, 1.0 if scale is None else scale

    def forward(self, input: Tensor, mask: Tensor | None) -> Tensor:
        if self.in_half and self.fusion:
            fast: Tensor = scaled_masked_softmax(input, None if self.causal else mask, self.scale, self.causal)
            return fast
        x = (input.float() if self.softmax_in_fp32 else input) * self.scale
        return torch.softmax(x if mask is None else self.mask_func(x, mask), dim=-1).to(input.dtype)


class FusedLayerNormAffineFunction:
    """What `fused_layer_norm_affine` calls there."""

    forward = apply = staticmethod(fused_layer_norm_affine)


@fused("apex.rotary", flop=lambda x, cos, sin: 3 * x.numel(), saves=(1, 2), backward=1.0)
def _rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [L, B, H, D], cos and sin [L, 1, 1, R]."""
    part, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    one, two = part.chunk(2, dim=-1)
    return torch.cat((part * cos + torch.cat((-two, one), dim=-1) * sin, rest), dim=-1).to(x.dtype)


@fused("apex.rotary", flop=lambda x, freqs: 3 * x.numel(), saves=(1,), backward=1.0)
def _rope_by_angle(x: Tensor, freqs: Tensor) -> Tensor:
    """x [L, B, H, D], freqs [L, 1, 1, R]: the angles' cos and sin are found inside of the kernel."""
    return _rope.reference(x, freqs.cos(), freqs.sin())  # type: ignore[no-any-return]


def fused_apply_rotary_pos_emb(t: Tensor, freqs: Tensor, transpose_output_memory: bool = False) -> Tensor:
    result: Tensor = _rope_by_angle(t, freqs)
    return result


def fused_apply_rotary_pos_emb_cached(
    t: Tensor, cos_: Tensor, sin_: Tensor, transpose_output_memory: bool = False
) -> Tensor:
    result: Tensor = _rope(t, cos_, sin_)
    return result


@fused("apex.xentropy", flop=lambda logits, *_: 5 * logits.numel(), saves=(0, 1), backward=0.8)
def _xentropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """logits [N, V], labels [N] -> loss [N]."""
    return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)


class SoftmaxCrossEntropyLoss:
    @staticmethod
    def apply(
        logits: Tensor, labels: Tensor, smoothing: float = 0.0, padding_idx: int = 0, half_to_float: bool = False
    ) -> Tensor:
        losses: Tensor = _xentropy(logits, labels, smoothing)
        return losses.masked_fill(labels == padding_idx, 0)


_NORMS: dict[str, Any] = {
    "FusedLayerNorm": FusedLayerNorm, "FusedRMSNorm": FusedRMSNorm, "MixedFusedLayerNorm": MixedFusedLayerNorm,
    "MixedFusedRMSNorm": MixedFusedRMSNorm,
}  # fmt: skip
_NORM_FUNCTIONS: dict[str, Any] = {
    one.__name__: one
    for one in (
        fused_layer_norm_affine, fused_layer_norm, fused_rms_norm_affine, fused_rms_norm,
        mixed_dtype_fused_layer_norm_affine, mixed_dtype_fused_rms_norm_affine,
    )
}  # fmt: skip
_FUNCTIONAL: dict[str, Any] = {
    "FusedScaleMaskSoftmax": FusedScaleMaskSoftmax, "fused_apply_rotary_pos_emb": fused_apply_rotary_pos_emb,
    "fused_apply_rotary_pos_emb_cached": fused_apply_rotary_pos_emb_cached,
}  # fmt: skip
_OPTIMIZERS: dict[str, Any] = {
    "FusedAdam": FusedAdam, "FusedLAMB": FusedLAMB, "FusedSGD": FusedSGD, "FusedNovoGrad": FusedNovoGrad,
    "FusedAdagrad": FusedAdagrad,
}  # fmt: skip
_PARALLEL: dict[str, Any] = {
    one.__name__: one
    for one in (
        apex_parallel.DistributedDataParallel, apex_parallel.SyncBatchNorm, apex_parallel.convert_syncbn_model,
        apex_parallel.create_syncbn_process_group,
    )
}  # fmt: skip
_APPLY: dict[str, Any] = {"multi_tensor_applier": amp_c.applier, "MultiTensorApply": amp_c.Applier}

MODULES: dict[str, dict[str, Any]] = {
    "apex": {},
    "apex.amp": apex_amp.NAMES,
    "apex.optimizers": _OPTIMIZERS,
    "apex.normalization": _NORMS,
    "apex.normalization.fused_layer_norm": {
        **_NORMS, **_NORM_FUNCTIONS, "FusedLayerNormAffineFunction": FusedLayerNormAffineFunction,
    },
    "apex.multi_tensor_apply": _APPLY,
    "apex.parallel": _PARALLEL,
    "apex.parallel.LARC": {"LARC": apex_parallel.LARC},
    "apex.mlp": {"MLP": MLP},
    "apex.fused_dense": {"FusedDense": torch.nn.Linear, "FusedDenseGeluDense": FusedDenseGeluDense},
    "apex.transformer.functional": _FUNCTIONAL,
    "apex.transformer.functional.fused_softmax": _FUNCTIONAL,
    "apex.contrib.clip_grad": {"clip_grad_norm_": torch.nn.utils.clip_grad_norm_},
    "apex.contrib.layer_norm": {"FastLayerNorm": FusedLayerNorm},
    "apex.contrib.xentropy": {"SoftmaxCrossEntropyLoss": SoftmaxCrossEntropyLoss},
}  # fmt: skip

UNCOVERED: dict[str, tuple[str, ...]] = {
    "apex": ("fp16_utils", "RNN", "reparameterization"),
    "apex.optimizers": ("FusedMixedPrecisionLamb",),
    "apex.parallel": ("Reducer", "multiproc"),
    "apex.transformer": ("parallel_state", "tensor_parallel", "pipeline_parallel", "amp", "layers", "enums", "utils"),
    "apex.contrib": ("optimizers", "multihead_attn", "fmha", "group_norm", "bottleneck", "sparsity", "transducer"),
}
