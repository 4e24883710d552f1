"""Stand-in for Liger Kernel: its Triton kernels as the one op each is, and the patches that put them into transformers."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins import recording
from anychip.standins.fused import fused

VERSION = "0.6.2"

Tensor = torch.Tensor


# Kernels --------------------------------------------------------------------------------------------------------------


@fused("liger_kernel.rms_norm", flop=lambda x, *_: 5 * x.numel(), saves=(0, 1))
def _rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    """x [..., D] * (weight + offset) / rms(x)."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * (weight.float() + offset)).to(x.dtype)


@fused("liger_kernel.swiglu", flop=lambda a, b: 6 * a.numel(), backward=2.0)
def _swiglu(a: Tensor, b: Tensor) -> Tensor:
    return F.silu(a) * b


@fused("liger_kernel.geglu", flop=lambda a, b: 12 * a.numel(), backward=2.0)
def _geglu(a: Tensor, b: Tensor) -> Tensor:
    return F.gelu(a, approximate="tanh") * b


@fused("liger_kernel.rope", flop=lambda q, k, cos, sin: 3 * (q.numel() + k.numel()), saves=(2, 3), backward=1.0)
def _rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """q [B, H, L, D], k [B, Hk, L, D], cos and sin [B, L, D]: both rotated by one kernel."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return tuple((one * cos + _half_turned(one) * sin).to(one.dtype) for one in (q, k))


def _half_turned(x: Tensor) -> Tensor:
    one, two = x.chunk(2, dim=-1)
    return torch.cat((-two, one), dim=-1)


@fused("liger_kernel.cross_entropy", flop=lambda logits, *_: 6 * logits.numel(), saves=(0,), backward=0.2)
def _cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, smoothing: float, reduction: str) -> Tensor:
    """logits [N, V], labels [N]; the gradient is written over the logits in the forward, the backward only scales it."""
    return F.cross_entropy(
        logits.float(), labels, None, ignore_index=ignore_index, label_smoothing=smoothing, reduction=reduction
    )


def liger_rotary_pos_emb(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Any = None, unsqueeze_dim: int = 1
) -> Any:
    return _rope(q, k, cos, sin)


def liger_rms_norm(X: Tensor, W: Tensor, eps: float = 1e-6, offset: float = 0.0, casting_mode: str = "llama",
                   in_place: bool = True, *_: Any) -> Tensor:  # fmt: skip
    result: Tensor = _rms_norm(X, W, eps, offset)
    return result


def liger_swiglu(a: Tensor, b: Tensor) -> Tensor:
    result: Tensor = _swiglu(a, b)
    return result


def liger_geglu(a: Tensor, b: Tensor) -> Tensor:
    result: Tensor = _geglu(a, b)
    return result


def liger_layer_norm(X: Tensor, W: Tensor, B: Tensor, eps: float) -> Tensor:
    return F.layer_norm(X, (X.shape[-1],), W, B, eps)


def liger_cross_entropy(
    input: Tensor, target: Tensor, weight: Any = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0, **_options: Any,
) -> Tensor:  # fmt: skip
    result: Tensor = _cross_entropy(input, target, ignore_index, label_smoothing, reduction)
    return result


# Linear layer and loss in one -----------------------------------------------------------------------------------------


class _FusedLinearCrossEntropy(torch.autograd.Function):
    """x [N, H], weight [V, H], labels [N] -> loss. Never holds all logits: rows go in chunks, and each chunk's gradients
    are computed at once, in the forward: three products per chunk."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, bias: Any, reduction: str) -> Tensor:
        rows, hidden = x.shape
        vocabulary = weight.shape[0]
        share = -(-vocabulary // hidden)
        size = max(1 << max(-(-rows // share) - 1, 0).bit_length(), 1)
        grad_x = torch.empty_like(x)
        grad_w = torch.zeros_like(weight) if weight.requires_grad else None
        losses = torch.empty(rows, dtype=torch.float32, device=x.device)
        for start in range(0, rows, size):
            part = x[start : start + size]
            logits = F.linear(part, weight, bias)
            target, loss = labels[start : start + size], losses[start : start + size]
            recording.launch("custom.liger_kernel.cross_entropy", (logits, target, loss), (), [logits, loss],
                             (("flop", 6 * logits.numel()),))  # fmt: skip
            grad_x[start : start + size] = logits @ weight
            if grad_w is not None:
                grad_w.addmm_(logits.t(), part)
        ctx.save_for_backward(grad_x, grad_w)
        return losses.sum() if reduction != "none" else losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad_x, grad_w = ctx.saved_tensors
        if torch.ne(grad, 1.0):  # the loss was not the last thing: its factor goes into the gradients
            for one in (grad_x, grad_w):
                if one is not None:
                    one.mul_(grad)
        return grad_x, grad_w, None, None, None


def liger_fused_linear_cross_entropy(
    input: Tensor, weight: Tensor, target: Tensor, bias: Any = None, ce_weight: Any = None, ignore_index: int = -100,
    lse_square_scale: float = 0.0, label_smoothing: float = 0.0, reduction: str = "mean", **_options: Any,
) -> Tensor:  # fmt: skip
    if not recording.any_on_chip([input]):
        return F.cross_entropy(
            F.linear(input, weight, bias).float(), target, reduction=reduction, ignore_index=ignore_index
        )
    result: Tensor = _FusedLinearCrossEntropy.apply(input, weight, target, bias, reduction)  # type: ignore[no-untyped-call]
    return result


# Modules --------------------------------------------------------------------------------------------------------------


class LigerRMSNorm(torch.nn.Module):
    def __init__(self, hidden_size: int, eps: float = 1e-6, offset: float = 0.0, casting_mode: str = "llama",
                 init_fn: str = "ones", in_place: bool = True, **_options: Any) -> None:  # fmt: skip
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size) if init_fn == "ones" else torch.zeros(hidden_size))
        self.variance_epsilon, self.offset = eps, offset

    def forward(self, hidden_states: Tensor) -> Tensor:
        return liger_rms_norm(hidden_states, self.weight, self.variance_epsilon, self.offset)


class LigerLayerNorm(torch.nn.LayerNorm):
    def __init__(self, hidden_size: int, eps: float = 1e-6, bias: bool = False, init_fn: str = "ones") -> None:
        super().__init__(hidden_size, eps)


class _GatedMLP(torch.nn.Module):
    gate: Callable[[Tensor, Tensor], Tensor]

    def __init__(self, config: Any, **_options: Any) -> None:
        super().__init__()
        self.config, self.hidden_size, self.intermediate_size = config, config.hidden_size, config.intermediate_size
        bias = bool(getattr(config, "mlp_bias", False))
        self.gate_proj = torch.nn.Linear(self.hidden_size, self.intermediate_size, bias)
        self.up_proj = torch.nn.Linear(self.hidden_size, self.intermediate_size, bias)
        self.down_proj = torch.nn.Linear(self.intermediate_size, self.hidden_size, bias)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(type(self).gate(self.gate_proj(x), self.up_proj(x)))
        return result


class LigerSwiGLUMLP(_GatedMLP):
    gate = staticmethod(liger_swiglu)


class LigerGEGLUMLP(_GatedMLP):
    gate = staticmethod(liger_geglu)


class LigerCrossEntropyLoss(torch.nn.Module):
    def __init__(self, weight: Any = None, ignore_index: int = -100, lse_square_scale: float = 0.0,
                 label_smoothing: float = 0.0, reduction: str = "mean", **_options: Any) -> None:  # fmt: skip
        super().__init__()
        self.ignore_index, self.label_smoothing, self.reduction = ignore_index, label_smoothing, reduction

    def forward(self, _input: Tensor, target: Tensor) -> Tensor:
        return liger_cross_entropy(_input, target, ignore_index=self.ignore_index, reduction=self.reduction,
                                   label_smoothing=self.label_smoothing)  # fmt: skip


class LigerFusedLinearCrossEntropyLoss(LigerCrossEntropyLoss):
    def forward(self, lin_weight: Tensor, _input: Tensor, target: Tensor, bias: Any = None) -> Tensor:  # type: ignore[override]
        return liger_fused_linear_cross_entropy(_input, lin_weight, target, bias, None, self.ignore_index,
                                                reduction=self.reduction)  # fmt: skip


# Patches of transformers ----------------------------------------------------------------------------------------------


def _causal_loss_forward(
    model: Any, input_ids: Any = None, labels: Any = None, logits_to_keep: int = 0, **kwargs: Any
) -> Any:
    """Forward of a causal language model whose logits are never made while it is trained."""
    outputs_class: Any = importlib.import_module("transformers.modeling_outputs").CausalLMOutputWithPast
    outputs = model.model(input_ids=input_ids, **{k: v for k, v in kwargs.items() if k != "num_items_in_batch"})
    hidden = outputs[0]
    if labels is None or not model.training:
        logits = model.lm_head(hidden if labels is not None else hidden[:, -logits_to_keep:])
        loss = (
            None if labels is None else F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        )
        return outputs_class(loss=loss, logits=logits, past_key_values=getattr(outputs, "past_key_values", None))
    rows = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    loss = liger_fused_linear_cross_entropy(rows, model.lm_head.weight, labels[:, 1:].reshape(-1), model.lm_head.bias)
    return outputs_class(loss=loss)


def _patch(family: str, title: str, mlp: Any) -> Callable[..., None]:
    def apply(rope: bool = True, cross_entropy: bool = False, fused_linear_cross_entropy: bool = True, rms_norm: bool = True,
              swiglu: bool = True, model: Any = None, geglu: bool = True) -> None:  # fmt: skip
        if cross_entropy and fused_linear_cross_entropy:
            raise AssertionError("cross_entropy and fused_linear_cross_entropy cannot both be True.")
        modeling: Any = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        if rope and hasattr(modeling, "apply_rotary_pos_emb"):
            modeling.apply_rotary_pos_emb = liger_rotary_pos_emb
        if rms_norm:
            setattr(modeling, f"{title}RMSNorm", LigerRMSNorm)
        if swiglu and geglu:
            setattr(modeling, f"{title}MLP", mlp)
        if cross_entropy:
            F.cross_entropy = liger_cross_entropy
        if fused_linear_cross_entropy:
            getattr(modeling, f"{title}ForCausalLM").forward = _causal_loss_forward
        if model is not None:
            _patch_instance(model, modeling, rms_norm, swiglu and geglu, mlp)

    apply.__name__ = f"apply_liger_kernel_to_{family}"
    return apply


def _patch_instance(model: Any, modeling: Any, rms_norm: bool, gated: bool, mlp: Any) -> None:
    """A model that exists already: its modules take the new forwards."""
    for module in model.modules():
        name = type(module).__name__
        if rms_norm and name.endswith("RMSNorm") and hasattr(module, "weight"):
            module.offset = 0.0
            module.forward = LigerRMSNorm.forward.__get__(module)
        elif gated and name.endswith("MLP") and hasattr(module, "gate_proj"):
            gate = mlp.gate
            module.forward = lambda x, m=module, g=gate: m.down_proj(g(m.gate_proj(x), m.up_proj(x)))


_FAMILIES = {"llama": ("Llama", LigerSwiGLUMLP), "mistral": ("Mistral", LigerSwiGLUMLP), "qwen2": ("Qwen2", LigerSwiGLUMLP),
             "qwen3": ("Qwen3", LigerSwiGLUMLP), "gemma": ("Gemma", LigerGEGLUMLP), "phi3": ("Phi3", None)}  # fmt: skip
_APPLY: dict[str, Any] = {
    f"apply_liger_kernel_to_{name}": _patch(name, *row) for name, row in _FAMILIES.items() if row[1]
}


def _apply_liger_kernel(model_type: str, **options: Any) -> None:
    apply = _APPLY.get(f"apply_liger_kernel_to_{model_type}")
    if apply is not None:
        apply(**options)


def _apply_liger_kernel_to_instance(model: Any, **options: Any) -> None:
    _apply_liger_kernel(model.config.model_type, model=model, **options)


_FUNCTIONS: dict[str, Any] = {
    "liger_cross_entropy": liger_cross_entropy, "liger_fused_linear_cross_entropy": liger_fused_linear_cross_entropy,
    "liger_rms_norm": liger_rms_norm, "liger_swiglu": liger_swiglu, "liger_geglu": liger_geglu,
    "liger_layer_norm": liger_layer_norm, "liger_rope": liger_rotary_pos_emb,
}  # fmt: skip
_MODULES: dict[str, Any] = {
    "LigerRMSNorm": LigerRMSNorm, "LigerLayerNorm": LigerLayerNorm, "LigerSwiGLUMLP": LigerSwiGLUMLP,
    "LigerGEGLUMLP": LigerGEGLUMLP, "LigerCrossEntropyLoss": LigerCrossEntropyLoss,
    "LigerFusedLinearCrossEntropyLoss": LigerFusedLinearCrossEntropyLoss, "liger_rotary_pos_emb": liger_rotary_pos_emb,
}  # fmt: skip

MODULES: dict[str, dict[str, Any]] = {
    "liger_kernel": {},
    "liger_kernel.transformers": {
        **_MODULES, **_APPLY, "_apply_liger_kernel": _apply_liger_kernel,
        "_apply_liger_kernel_to_instance": _apply_liger_kernel_to_instance,
    },
    "liger_kernel.transformers.functional": _FUNCTIONS,
    "liger_kernel.transformers.rms_norm": {"LigerRMSNorm": LigerRMSNorm},
    "liger_kernel.transformers.swiglu": {"LigerSwiGLUMLP": LigerSwiGLUMLP},
    "liger_kernel.transformers.rope": {"liger_rotary_pos_emb": liger_rotary_pos_emb},
    "liger_kernel.transformers.cross_entropy": {"LigerCrossEntropyLoss": LigerCrossEntropyLoss},
    "liger_kernel.transformers.fused_linear_cross_entropy": {
        "LigerFusedLinearCrossEntropyLoss": LigerFusedLinearCrossEntropyLoss
    },
    "liger_kernel.transformers.monkey_patch": {
        **_APPLY, "_apply_liger_kernel": _apply_liger_kernel,
        "_apply_liger_kernel_to_instance": _apply_liger_kernel_to_instance,
    },
}  # fmt: skip

UNCOVERED: dict[str, tuple[str, ...]] = {
    "liger_kernel": ("ops", "chunked_loss"),
    "liger_kernel.transformers": ("AutoLigerKernelForCausalLM", "LigerGroupNorm", "LigerKLDIVLoss", "LigerJSD", "LigerTVDLoss",
                                  "LigerPhi3SwiGLUMLP", "LigerBlockSparseTop2MLP", "LigerFusedLinearJSD", "LigerDyT",
                                  "apply_liger_kernel_to_phi3", "apply_liger_kernel_to_gemma2", "apply_liger_kernel_to_mixtral",
                                  "apply_liger_kernel_to_qwen2_vl", "apply_liger_kernel_to_mllama"),
}  # fmt: skip
