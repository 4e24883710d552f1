"""Stand-in for causal-conv1d: a convolution of each channel over its last few tokens, one op each way.

Tensors are [batch, dim, length], as often as not a transposed view of [batch, length, dim]; weights are [dim, width].
Left out: states kept in a ring or by index, and states returned by `causal_conv1d_fn`.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins import recording
from anychip.standins.fused import fused, gradients
from anychip.standins.recording import any_on_chip, layout

VERSION = "1.6.1"

Tensor = torch.Tensor


not_covered = partial(recording.not_covered, "causal_conv1d")


def _flop(x: Tensor, weight: Tensor, bias: Any, seq_idx: Any, before: Any, silu: bool) -> int:
    """A multiply-add for each tap, four operations for SiLU."""
    return int(x.numel()) * (2 * weight.shape[1] + 4 * silu)


@fused("causal_conv1d.fwd", flop=_flop)
def convolved(x: Tensor, weight: Tensor, bias: Any, seq_idx: Any, before: Any, silu: bool) -> Tensor:
    """Each output sees its own and the width - 1 tokens before it, of the same sequence where `seq_idx` [b, l] tells;
    before the first stand zeros, or `before` [b, d, width - 1]. The result lies in memory as x does."""
    width, length = weight.shape[1], x.shape[2]
    before = x.new_zeros(*x.shape[:2], width - 1) if before is None else before
    padded = torch.cat([before, x], dim=-1).float()
    sequence = None if seq_idx is None else F.pad(seq_idx, (width - 1, 0), value=-1)
    out = torch.zeros_like(x, dtype=torch.float32)
    for tap in range(width):
        seen = padded[..., tap : tap + length]
        if sequence is not None:
            seen = seen * (sequence[:, None, tap : tap + length] == seq_idx[:, None])
        out = out + seen * weight[:, tap, None].float()
    out = out if bias is None else out + bias[:, None].float()
    return torch.empty_like(x).copy_(F.silu(out) if silu else out)


def convolved_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Any, seq_idx: Any, silu: bool, into: Tensor | None = None
) -> list[Any]:
    """Gradients of x (written to `into`, if given), of weight and of bias. The kernel makes the outputs again."""
    outputs = [layout(torch.empty_like(x, device="meta")) if into is None else into, layout(weight)]
    outputs += [] if bias is None else [layout(bias)]
    flop = 3 * _flop(x, weight, bias, seq_idx, None, silu)
    grads = gradients("causal_conv1d.bwd", (grad, x, weight, bias, seq_idx), outputs, flop)
    return grads if bias is not None else [*grads, None]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Any, seq_idx: Any, before: Any, silu: bool) -> Any:
        ctx.save_for_backward(x, weight, bias, seq_idx)
        ctx.silu = silu
        return convolved(x, weight, bias, seq_idx, before, silu)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, weight, bias, seq_idx = ctx.saved_tensors
        return (*convolved_backward(grad, x, weight, bias, seq_idx, ctx.silu), None, None, None)


def is_silu(activation: str | None) -> bool:
    if activation not in (None, "silu", "swish"):
        raise NotImplementedError("activation must be None, silu, or swish")
    return activation is not None


def causal_conv1d_fn(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None, return_final_states: bool = False, final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:  # fmt: skip
    """x [b, d, l], weight [d, w] -> [b, d, l], laid out as x."""
    if return_final_states or (initial_states is not None and initial_states.requires_grad):
        raise not_covered("states that are returned or trained")
    if x.stride(2) != 1 and x.stride(1) != 1:
        x = x.contiguous()
    args = (x, weight, bias, seq_idx, initial_states, is_silu(activation))
    return _Convolution.apply(*args) if any_on_chip([x]) else convolved(*args)  # type: ignore[no-any-return,no-untyped-call]


def _update(x: Tensor, state: Tensor, weight: Tensor, bias: Any, silu: bool) -> Tensor:
    """x [b, d, l]; the last tokens, `state` [b, d, k], move on by l."""
    before = state[..., state.shape[2] - weight.shape[1] + 1 :].clone()
    state.copy_(torch.cat([state, x.to(state.dtype)], dim=-1)[..., x.shape[2] :])
    result: Tensor = convolved.reference(x, weight, bias, None, before, silu)
    return result


def causal_conv1d_update(
    x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None,
    cache_seqlens: Tensor | None = None, conv_state_indices: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A decoder's step: x [b, d] or [b, d, l] -> the same shape; `conv_state` [b, d, k >= w - 1] is written."""
    if cache_seqlens is not None or conv_state_indices is not None:
        raise not_covered("states in a ring or by index (cache_seqlens, conv_state_indices)")
    tokens, silu = x.unsqueeze(-1) if x.dim() == 2 else x, is_silu(activation)
    args = (tokens, conv_state, weight, bias, silu)
    if any_on_chip([x, conv_state]):
        costs = (("flop", _flop(tokens, weight, bias, None, None, silu)), ("unit", "vector"))
        outputs, reference = [layout(torch.empty_like(tokens, device="meta"))], recording.Reference(_update)
        (out,) = recording.launch("custom.causal_conv1d.update", args, outputs, [conv_state], costs, reference)
    else:
        out = _update(*args)
    return out.squeeze(-1) if x.dim() == 2 else out  # type: ignore[no-any-return]


_FUNCTIONS: dict[str, Any] = {"causal_conv1d_fn": causal_conv1d_fn, "causal_conv1d_update": causal_conv1d_update}

MODULES: dict[str, dict[str, Any]] = {
    "causal_conv1d": _FUNCTIONS,
    "causal_conv1d.causal_conv1d_interface": _FUNCTIONS,
}

UNCOVERED: dict[str, tuple[str, ...]] = {
    "causal_conv1d": ("causal_conv1d_varlen", "cpp_functions"),
    "causal_conv1d.causal_conv1d_interface": ("CausalConv1dFn", "causal_conv1d_ref", "causal_conv1d_update_ref"),
}
