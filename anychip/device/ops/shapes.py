"""What comes out of the operators that have no meta kernel in torch: shape and dtype of each output, by name.

A rule gets the operator's arguments by name and returns its outputs in order: (shape, dtype), with the stride where
it is not contiguous, None for one that is not there, or a list of those. Adding an operator is one function.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from anychip.device.ops.kernels import Kernels, canonical
from anychip.device.ops.schemas import Schema, schema_of
from anychip.device.ops.special import contiguous_stride, copied_stride

Rule = Callable[[SimpleNamespace], list[Any]]
RULES: dict[str, Rule] = {}

GATES = {0: 1, 1: 1, 2: 4, 3: 3}  # cuDNN's RNN modes: relu, tanh, LSTM, GRU


def rule(*names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, name
            RULES[name] = function
        return function

    return add


def like(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype)


def laid_like(tensor: torch.Tensor) -> Any:
    """The same with its layout: channels stay last."""
    return (tuple(tensor.shape), tensor.dtype, copied_stride(tensor, None))


def summed(dtype: torch.dtype) -> torch.dtype:
    """What chips sum elements of this type in: half types in float."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@rule("aten::_scaled_mm.out", "aten::batch_norm_elemt.out")
def into_given(args: SimpleNamespace) -> list[Any]:
    """Writes what it was given."""
    return [None]


def overrides(kernels: Kernels) -> dict[str, Callable[..., Any]]:
    """Operator -> kernel, for the chip's dispatch key."""
    return {name: kernel(kernels, schema_of(name), rule) for name, rule in RULES.items()}


def kernel(kernels: Kernels, schema: Schema, rule: Rule) -> Callable[..., Any]:
    names = [argument.name for argument in schema.arguments]

    def run(*args: Any, **kwargs: Any) -> Any:
        key = (schema.name, canonical(args), tuple(canonical(one) for one in kwargs.values()))
        outputs: list[Any] = []
        if key not in kernels.entries:
            bound = SimpleNamespace(**{**schema.defaults, **dict(zip(names, args, strict=False)), **kwargs})
            index = kernels.tensors.native.device[0] >> 8
            outputs = [_makers(kernels, one, index) for one in rule(bound)]
        return kernels.call_made(schema, key, args, kwargs, outputs)

    return run


def _makers(kernels: Kernels, output: Any, index: int) -> Any:
    if output is None:
        return None
    if isinstance(output, list):
        return [_makers(kernels, one, index) for one in output]
    shape, dtype, *stride = output
    return kernels.tensors.maker(tuple(shape), stride[0] if stride else contiguous_stride(shape), dtype, index)


# ---------------------------------------------------------------- recurrent networks


@rule("aten::_cudnn_rnn")
def _cudnn_rnn(of: SimpleNamespace) -> list[Any]:
    """output, hy, cy, reserve, weight_buf.

    reserve is what training keeps for the backward pass. cuDNN does not publish its size; the gates and the
    cell of every layer and time step are the least that it needs, and are taken for it.
    """
    directions = 2 if of.bidirectional else 1
    out = of.proj_size or of.hidden_size
    if of.batch_sizes:
        batch, steps, shape = of.batch_sizes[0], of.input.shape[0], (of.input.shape[0], out * directions)
    else:
        batch = of.input.shape[0 if of.batch_first else 1]
        steps = of.input.shape[0] * of.input.shape[1]
        shape = (*of.input.shape[:2], out * directions)
    dtype, layers = of.input.dtype, of.num_layers * directions
    kept = steps * of.hidden_size * layers * (GATES[of.mode] + (of.mode == 2)) * dtype.itemsize if of.train else 0
    cell = ((layers, batch, of.hidden_size) if of.cx is not None else (0,), dtype)
    return [(shape, dtype), ((layers, batch, out), dtype), cell, ((kept,), torch.uint8), ((0,), dtype)]


@rule("aten::_cudnn_rnn_backward")
def _cudnn_rnn_backward(of: SimpleNamespace) -> list[Any]:
    mask = of.output_mask
    return [
        like(of.input) if mask[0] else None, like(of.hx) if mask[1] else None,
        like(of.cx) if mask[2] else None, [like(one) for one in of.weight] if mask[3] else [],
    ]  # fmt: skip


@rule("aten::_thnn_fused_lstm_cell")
def _lstm_cell(of: SimpleNamespace) -> list[Any]:
    return [like(of.cx), like(of.cx), like(of.input_gates)]


@rule("aten::_thnn_fused_lstm_cell_backward_impl")
def _lstm_cell_backward(of: SimpleNamespace) -> list[Any]:
    gates = like(of.workspace)
    return [gates, like(of.cx), ((gates[0][1],), gates[1]) if of.has_bias else None]


@rule("aten::_thnn_fused_gru_cell")
def _gru_cell(of: SimpleNamespace) -> list[Any]:
    return [like(of.hx), ((of.hx.shape[0], of.hx.shape[1] * 5), of.hx.dtype)]


@rule("aten::_thnn_fused_gru_cell_backward")
def _gru_cell_backward(of: SimpleNamespace) -> list[Any]:
    batch, hidden = of.grad_hy.shape
    gates, bias = ((batch, 3 * hidden), of.grad_hy.dtype), ((3 * hidden,), of.grad_hy.dtype)
    return [gates, gates, like(of.grad_hy), *([bias, bias] if of.has_bias else [None, None])]


@rule("aten::cudnn_convolution_relu", "aten::cudnn_convolution_add_relu")
def _convolution_relu(of: SimpleNamespace) -> list[Any]:
    """What TorchScript makes of a convolution and what follows it, once a graph is frozen."""
    maps, weight = (
        torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="meta") for one in (of.self_, of.weight)
    )
    where = of.stride, of.padding, of.dilation, False, (0,) * len(of.stride), of.groups
    return [laid_like(torch.convolution(maps, weight, None, *where))]


# ---------------------------------------------------------------- losses and norms


@rule("aten::_ctc_loss_backward")
def _ctc_loss_backward(of: SimpleNamespace) -> list[Any]:
    return [like(of.log_probs)]


@rule(
    "aten::multi_margin_loss_backward", "aten::multilabel_margin_loss_backward", "aten::fractional_max_pool3d_backward"
)  # fmt: skip
def _gradient(of: SimpleNamespace) -> list[Any]:
    return [like(of.self_)]


@rule("aten::_fused_rms_norm")
def _fused_rms_norm(of: SimpleNamespace) -> list[Any]:
    """output, and one reciprocal norm a row, which is kept in float for half types."""
    normed = len(of.normalized_shape)
    shape = of.input.shape[: of.input.dim() - normed]
    return [like(of.input), ((*shape, *(1,) * normed), summed(of.input.dtype))]


@rule("aten::_fused_rms_norm_backward")
def _fused_rms_norm_backward(of: SimpleNamespace) -> list[Any]:
    return [like(of.input) if of.output_mask[0] else None, like(of.weight) if of.output_mask[1] else None]


@rule("aten::batch_norm_stats", "aten::batch_norm_update_stats")
def _channel_stats(of: SimpleNamespace) -> list[Any]:
    """Mean and inverse deviation (or variance) of each channel, as SyncBatchNorm sends them to the other ranks."""
    return [((of.input.shape[1],), summed(of.input.dtype))] * 2


@rule("aten::batch_norm_gather_stats", "aten::batch_norm_gather_stats_with_counts")
def _gathered_stats(of: SimpleNamespace) -> list[Any]:
    """The same of all ranks' statistics [ranks, channels], of which the input says no more than the type."""
    kept = of.input if of.running_mean is None else of.running_mean
    return [((of.mean.shape[1],), summed(kept.dtype))] * 2


@rule("aten::batch_norm_elemt", "aten::batch_norm_backward_elemt")
def _normalized(of: SimpleNamespace) -> list[Any]:
    return [laid_like(of.input)]


@rule("aten::batch_norm_backward_reduce")
def _channel_sums(of: SimpleNamespace) -> list[Any]:
    """Sums of the gradient and of its product with the input, and the gradients of weight and bias."""
    sums, parameter = like(of.mean) if of.input_g else None, like(of.weight)
    return [sums, sums, parameter if of.weight_g else None, parameter if of.bias_g else None]


# ---------------------------------------------------------------- products


@rule("aten::_grouped_mm", "aten::_scaled_grouped_mm", "aten::_scaled_grouped_mm_v2")
def _grouped_mm(of: SimpleNamespace) -> list[Any]:
    """Groups of rows, of columns, of the inner dimension, or a batch. torch's own rule knows bfloat16 only, while its
    chips take the other dtypes too, group by group."""
    one, other = of.self_, of.mat2
    rows, columns = one.shape[-2], other.shape[-1]
    if one.dim() == other.dim():  # 2-D: the inner dimension is grouped; 3-D: a batch
        shape: tuple[int, ...] = (of.offs.shape[0] if one.dim() == 2 else one.shape[0], rows, columns)
    else:
        shape = (rows, columns)
    return [(shape, of.out_dtype or (torch.bfloat16 if one.dtype.itemsize == 1 else one.dtype))]


@rule("aten::_weight_int4pack_mm")
def _weight_int4pack_mm(of: SimpleNamespace) -> list[Any]:
    """torch's own rule asks which chip a weight is on, in a way that only its own stand-ins for tensors answer. x [m, k]; a weight
    [n / 8, ...] in tiles, or [n, k / 8] in rows; both of int32."""
    x, weight = of.self_, of.mat2
    torch._check(x.dim() == 2, lambda: f"x must be a 2D tensor, got {x.dim()}D")
    torch._check(weight.dtype == torch.int32, lambda: f"expected w to be int32, got {weight.dtype}")
    return [((x.shape[0], weight.shape[0] * (8 if weight.dim() == 4 else 1)), x.dtype)]


@rule("aten::linalg_lstsq")
def _linalg_lstsq(of: SimpleNamespace) -> list[Any]:
    """solution, residuals, and rank and singular values, which the chips' only driver (gels) leaves empty."""
    rows, columns = of.self_.shape[-2:]
    right = of.b.shape[-1] if of.b.dim() == of.self_.dim() else 1
    batch = tuple(of.self_.shape[:-2])
    shape = (*batch, columns, right) if of.b.dim() == of.self_.dim() else (*batch, columns)
    residuals = (*batch, right) if rows > columns else (0,)
    dtype = of.self_.dtype
    return [(shape, dtype), (residuals, dtype), ((0,), torch.int64), ((0,), dtype)]


# ---------------------------------------------------------------- distributions, quantisation


@rule("aten::_sample_dirichlet", "aten::_standard_gamma", "aten::_standard_gamma_grad", "aten::poisson")
def _same(of: SimpleNamespace) -> list[Any]:
    return [like(of.self_)]


@rule("aten::_dirichlet_grad")
def _dirichlet_grad(of: SimpleNamespace) -> list[Any]:
    return [like(of.x)]


@rule("aten::binomial")
def _binomial(of: SimpleNamespace) -> list[Any]:
    return [like(of.count)]


@rule(
    "aten::fake_quantize_per_tensor_affine_cachemask", "aten::fake_quantize_per_channel_affine_cachemask",
    "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
)  # fmt: skip
def _fake_quantize(of: SimpleNamespace) -> list[Any]:
    """output, and where it was not cut off."""
    return [like(of.self_), (tuple(of.self_.shape), torch.bool)]


@rule("aten::_fake_quantize_learnable_per_tensor_affine", "aten::_fake_quantize_learnable_per_channel_affine")
def _fake_quantize_learnable(of: SimpleNamespace) -> list[Any]:
    return [like(of.self_)]


@rule("aten::geqrf")
def _geqrf(of: SimpleNamespace) -> list[Any]:
    """The matrix that holds both factors, and the reflectors' scales."""
    *batch, rows, columns = of.self_.shape
    return [like(of.self_), ((*batch, min(rows, columns)), of.self_.dtype)]
