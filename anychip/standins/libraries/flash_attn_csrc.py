"""Stand-ins for the compiled modules that flash_attn's `csrc` builds beside attention: rotary embedding, loss, norm with dropout.

Programs that carry flash_attn's own Python around them (TinyLlama, MPT) import these directly: one op each, no gradients.
"""

from typing import Any

import torch

from anychip.standins.recording import any_on_chip, launch, layout, not_covered

VERSION = "0.1"

Tensor = torch.Tensor


def _new(like: Tensor, dtype: torch.dtype, *sizes: int) -> Tensor:
    """What a kernel makes: of these sizes, else like `like`."""
    return torch.empty(sizes or like.shape, dtype=dtype, device="meta")


def _kernel(
    name: str, flop: int, reads: list[Any], made: list[Tensor | None], into: tuple[Tensor, ...] = ()
) -> list[Any]:
    """Record one op that reads some tensors, fills others and makes new ones; None stays None."""
    given = [one for one in reads if isinstance(one, torch.Tensor)]
    if not any_on_chip(given):
        raise RuntimeError(f"{name}: Expected x.is_cuda() to be true, but got false.")
    moved = sum(one.numel() * one.element_size() for one in (*given, *into, *(one for one in made if one is not None)))
    costs = (("flop", flop), ("bytes", moved))
    results = iter(launch(name, (*given, *into), [layout(one) for one in made if one is not None], into, costs))
    return [None if one is None else next(results) for one in made]


# Rotary embedding -----------------------------------------------------------------------------------------------------


def apply_rotary(x1: Tensor, x2: Tensor, cos: Tensor, sin: Tensor, out1: Tensor, out2: Tensor, conj: bool) -> None:
    """out1 = x1 cos - x2 sin, out2 = x1 sin + x2 cos; turned back if conj."""
    _kernel("custom.rotary_emb.apply_rotary", 6 * x1.numel(), [x1, x2, cos, sin], [], (out1, out2))


# Loss -----------------------------------------------------------------------------------------------------------------


def xentropy_forward(logits: Tensor, labels: Tensor, smoothing: float, total_classes: int = -1) -> list[Tensor]:
    """logits [rows, classes], labels [rows] -> losses and logarithms of the sums [rows], in float32."""
    made = [_new(logits, torch.float32, logits.shape[0]) for _ in range(2)]
    return _kernel("custom.xentropy.forward", 5 * logits.numel(), [logits, labels], [*made])


def xentropy_backward(
    grad_loss: Tensor,
    logits: Tensor,
    lse: Tensor,
    labels: Tensor,
    smoothing: float,
    inplace: bool,
    total_classes: int = -1,
) -> Tensor:
    """The gradient of the logits; in their memory if inplace."""
    reads = [grad_loss, logits, lse, labels]
    made = [] if inplace else [_new(logits, logits.dtype)]
    results = _kernel("custom.xentropy.backward", 5 * logits.numel(), reads, [*made], (logits,) if inplace else ())
    return logits if inplace else results[0]


# Norm with dropout and residual ---------------------------------------------------------------------------------------


def _whole(*subsets: Any) -> None:
    if any(one is not None for one in subsets):
        raise not_covered("dropout_layer_norm", "rows that are dropped whole")


def dropout_add_ln_fwd(
    x0: Tensor, residual: Tensor | None, gamma: Tensor, beta: Tensor | None, rowscale: Tensor | None, colscale: Tensor | None,
    x0_subset: Any, z_subset: Any, dropout_p: float, epsilon: float, rowscale_const: float, z_numrows: int, gen: Any,
    residual_in_fp32: bool, is_rms_norm: bool,
) -> list[Any]:  # fmt: skip
    """x0 [rows, n] -> its norm after dropout and residual, their sum where it is none of the inputs, the dropout's mask, means and
    factors of the rows."""
    _whole(x0_subset, z_subset)
    kind = residual.dtype if residual is not None else torch.float32 if residual_in_fp32 else x0.dtype
    keeps = any(one is not None for one in (residual, rowscale, colscale)) or dropout_p > 0.0 or kind != x0.dtype
    made = [
        _new(x0, x0.dtype),
        _new(x0, kind) if keeps else None,
        _new(x0, torch.uint8) if dropout_p > 0.0 else None,
        *(_new(x0, torch.float32, x0.shape[0]) for _ in range(2)),
    ]
    return _kernel(
        "custom.dropout_layer_norm.fwd", 8 * x0.numel(), [x0, residual, gamma, beta, rowscale, colscale], made
    )


def dropout_add_ln_bwd(
    dz: Tensor, dx: Tensor | None, x: Tensor, x0: Tensor | None, dmask: Tensor | None, mu: Tensor, rsigma: Tensor, gamma: Tensor,
    rowscale: Tensor | None, colscale: Tensor | None, x0_subset: Any, z_subset: Any, dropout_p: float, rowscale_const: float,
    x0_numrows: int, has_residual: bool, is_rms_norm: bool,
) -> list[Any]:  # fmt: skip
    """Gradients of x0, the residual, gamma and beta, two that are summed up for these, and those of colscale."""
    _whole(x0_subset, z_subset)
    made: list[Tensor | None] = [
        _new(x, dz.dtype),
        _new(x, x.dtype) if has_residual else None,
        _new(gamma, gamma.dtype),
        _new(gamma, gamma.dtype),
    ]
    scales = [] if colscale is None else [_new(colscale, colscale.dtype)]
    reads = [dz, dx, x, x0, dmask, mu, rsigma, gamma, rowscale, colscale]
    results = _kernel("custom.dropout_layer_norm.bwd", 10 * x.numel(), reads, [*made, *scales])
    return [*results[:4], None, None, *results[4:], *(None for _ in scales)]


MODULES: dict[str, dict[str, Any]] = {
    "rotary_emb": {"apply_rotary": apply_rotary},
    "xentropy_cuda_lib": {"forward": xentropy_forward, "backward": xentropy_backward},
    "dropout_layer_norm": {"dropout_add_ln_fwd": dropout_add_ln_fwd, "dropout_add_ln_bwd": dropout_add_ln_bwd},
}

UNCOVERED: dict[str, tuple[str, ...]] = {
    "dropout_layer_norm": ("dropout_add_ln_parallel_residual_fwd", "dropout_add_ln_parallel_residual_bwd"),
}
