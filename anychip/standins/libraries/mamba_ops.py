"""The functions of mamba_ssm: the scans of Mamba and Mamba-2 and the gated norm, each kernel one op.

What a call keeps for its backward and what it makes again there is the library's choice, as memory depends on it.
Letters as in `mamba_scan`; Mamba's tensors are [b, d, l] with d channels. Left out: complex A, gated MLPs beside the scan,
norms of B, C and delta within `mamba_inner_fn`, states by index.
"""

from functools import partial
from math import inf
from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins import recording
from anychip.standins.fused import fused, gradients
from anychip.standins.libraries import causal_conv1d
from anychip.standins.libraries.mamba_scan import Scan, keep, scanned, scanned_backward
from anychip.standins.recording import any_on_chip, layout

Tensor = torch.Tensor


not_covered = partial(recording.not_covered, "mamba_ssm")


# Gated norm -----------------------------------------------------------------------------------------------------------


@fused("mamba_ssm.gated_norm", flop=lambda x, weight, bias, z, *_: x.numel() * (5 if z is None else 10))
def normed(
    x: Tensor, weight: Tensor, bias: Any, z: Any, eps: float, group: int | None, before: bool, rms: bool
) -> Tensor:
    """norm(x) * silu(z) if `before`, else norm(x * silu(z)); each `group` channels are normed by themselves."""
    wide, gate = x.float(), None if z is None else F.silu(z.float())
    wide = wide * gate if gate is not None and not before else wide
    rows = wide.unflatten(-1, (-1, group or x.shape[-1]))
    rows = rows if rms else rows - rows.mean(-1, keepdim=True)
    out = (rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps)).flatten(-2) * weight.float()
    out = out if bias is None else out + bias.float()
    return (out * gate if gate is not None and before else out).to(x.dtype).contiguous()


def layernorm_fn(
    x: Tensor, weight: Tensor, bias: Any, z: Any = None, eps: float = 1e-6, group_size: int | None = None,
    norm_before_gate: bool = True, is_rms_norm: bool = False,
) -> Tensor:  # fmt: skip
    return normed(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm)  # type: ignore[no-any-return]


def rmsnorm_fn(
    x: Tensor, weight: Tensor, bias: Any, z: Any = None, eps: float = 1e-6, group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:  # fmt: skip
    return layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, True)


class LayerNorm(torch.nn.Module):
    rms = False
    bias: Tensor | None

    def __init__(self, hidden_size: int, eps: float = 1e-5, group_size: int | None = None,
                 norm_before_gate: bool = True, device: Any = None, dtype: Any = None) -> None:  # fmt: skip
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        bias = None if self.rms else torch.nn.Parameter(torch.zeros(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return layernorm_fn(x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate, self.rms)


class RMSNorm(LayerNorm):
    rms = True


# Mamba-2's scan -------------------------------------------------------------------------------------------------------


def mamba_chunk_scan_combined(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, D: Tensor | None = None,
    z: Tensor | None = None, dt_bias: Tensor | None = None, initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None, cu_seqlens: Tensor | None = None, dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, inf), return_final_states: bool = False, return_varlen_states: bool = False,
    state_dtype: Any = None,
) -> Any:  # fmt: skip
    """-> out [b, l, h, p], with `return_final_states` also the last states [b, h, p, n] in float32."""
    if return_varlen_states or state_dtype not in (None, x.dtype):
        raise not_covered("return_varlen_states, and state_dtype other than the inputs'")
    (batch, length, heads, _), groups = x.shape, B.shape[2]
    assert heads % groups == 0, f"{heads} heads in {groups} groups"
    for one, shape in (
        (B, (batch, length, groups, B.shape[3])),
        (C, B.shape),
        (dt, (batch, length, heads)),
        (A, (heads,)),
    ):
        assert one.shape == shape, f"{tuple(one.shape)} where {tuple(shape)} belongs, x being {tuple(x.shape)}"
    args = (x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx, chunk_size, dt_softplus, *_limits(dt_limit))
    out, *_, final = Scan.apply(*args) if any_on_chip([x]) else scanned(*args)  # type: ignore[no-untyped-call]
    return (out, final) if return_final_states else out


def _limits(given: tuple[float, float]) -> tuple[float, float | None]:
    least, most = given
    return float(least), None if most == inf else float(most)


# Mamba-2's scan with what stands around it ----------------------------------------------------------------------------


class _Split:
    """Sizes of a block whose first product gives z, x, B, C and dt side by side, and its tensors in parts."""

    def __init__(self, zxbcdt: Tensor, weight: Tensor, D: Tensor, head_dim: Any, groups: int) -> None:
        self.heads, self.p = D.shape[0], int(D.shape[1] if D.dim() == 2 else head_dim)
        self.dim, self.groups = self.heads * self.p, groups
        self.bc = (weight.shape[0] - self.dim) // 2
        if zxbcdt.shape[-1] != 2 * self.dim + 2 * self.bc + self.heads:
            raise not_covered("a gated MLP beside the scan (d_ssm)")

    def parts(self, zxbcdt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(z, what is convolved, dt)."""
        z, mixed, dt = zxbcdt.split([self.dim, self.dim + 2 * self.bc, self.heads], dim=-1)
        return z, mixed, dt

    def xbc(self, mixed: Tensor) -> tuple[Tensor, ...]:
        x, B, C = mixed.split([self.dim, self.bc, self.bc], dim=-1)
        return self.by_head(x), B.unflatten(-1, (self.groups, -1)), C.unflatten(-1, (self.groups, -1))

    def by_head(self, one: Tensor) -> Tensor:
        return one.unflatten(-1, (self.heads, self.p))


def _block(
    zxbcdt: Tensor, weight: Tensor, bias: Any, dt_bias: Tensor, A: Tensor, D: Tensor, norm: Any, out_weight: Any,
    out_bias: Any, initial: Any, seq_idx: Any, chunk: int, least: float, most: float | None, silu: bool, eps: float,
    head_dim: Any, groups: int, before: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(out, last states, out before gate, norm and product)."""
    sizes = _Split(zxbcdt, weight, D, head_dim, groups)
    z, mixed, dt = sizes.parts(zxbcdt)
    mixed = causal_conv1d.convolved(mixed.transpose(1, 2), weight, bias, seq_idx, None, silu).transpose(1, 2)
    x, B, C = sizes.xbc(mixed)
    gate = sizes.by_head(z) if norm is None else None
    out, plain, final = scanned(x, dt, A, B, C, D, gate, dt_bias, initial, seq_idx, chunk, True, least, most)
    out = (
        out.flatten(2)
        if norm is None
        else normed(out.flatten(2), norm, None, z, eps, sizes.dim // groups, before, True)
    )
    out = out if out_weight is None else F.linear(out.to(out_weight.dtype), out_weight, out_bias)
    return out, final, plain


class _SplitScan(torch.autograd.Function):
    """`_block` on the chip. Kept: the first product's result and the scan's; the rest is made again."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        out, final, kept = _block(*args)
        keep(ctx, kept, args, 11)
        return out, final

    @staticmethod
    def backward(ctx: Any, grad: Tensor, final: Any) -> Any:  # type: ignore[override]
        kept, zxbcdt, weight, bias, dt_bias, A, D, norm, out_weight, out_bias, initial, seq_idx = ctx.saved_tensors
        chunk, least, most, silu, _, head_dim, groups, _ = ctx.how
        sizes = _Split(zxbcdt, weight, D, head_dim, groups)
        z, mixed, dt = sizes.parts(zxbcdt)
        again = causal_conv1d.convolved(mixed.transpose(1, 2), weight, bias, seq_idx, None, silu).transpose(1, 2)
        whole, grad_mixed = torch.empty_like(zxbcdt), torch.empty_like(mixed, memory_format=torch.contiguous_format)
        grad_z, grad_taps, grad_dt = sizes.parts(whole)
        inner, grad_norm = grad if out_weight is None else F.linear(grad, out_weight.t()), None
        made: Any = None
        if norm is not None:
            given = (inner, kept, norm, z)
            outputs = [layout(kept), layout(norm), grad_z, *([] if out_weight is None else [layout(kept)])]
            inner, grad_norm, _, *rest = gradients("mamba_ssm.gated_norm_bwd", given, outputs, 20 * kept.numel())
            made = rest[0] if rest else None
        gate = sizes.by_head(z) if norm is None else None
        x, B, C = sizes.xbc(again)
        into_x, into_B, into_C = sizes.xbc(grad_mixed)
        args = (x, dt, A, B, C, D, gate, dt_bias, initial, seq_idx, chunk, True, least, most)
        into = (into_x, grad_dt, into_B, into_C, sizes.by_head(grad_z))
        inner = inner if inner.dim() == 4 else sizes.by_head(inner)
        found, gated = scanned_backward(inner, kept, final, args, into, norm is None and out_weight is not None)
        grad_weight = grad_out_bias = None
        if out_weight is not None:
            made = gated if made is None else made
            grad_weight = grad.flatten(0, 1).t() @ made.flatten(2).flatten(0, 1).to(grad.dtype)
            grad_out_bias = None if out_bias is None else grad.sum((0, 1))
        _, grad_conv, grad_bias = causal_conv1d.convolved_backward(
            grad_mixed.transpose(1, 2), mixed.transpose(1, 2), weight, bias, seq_idx, silu, grad_taps.transpose(1, 2)
        )
        _, _, grad_A, _, _, grad_D, _, grad_dt_bias, grad_initial = found
        return (whole, grad_conv, grad_bias, grad_dt_bias, grad_A, grad_D, grad_norm, grad_weight, grad_out_bias,
                grad_initial, *(None,) * 9)  # fmt: skip


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor, conv1d_weight: Tensor, conv1d_bias: Tensor | None, dt_bias: Tensor, A: Tensor, D: Tensor,
    chunk_size: int, initial_states: Tensor | None = None, seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, inf), return_final_states: bool = False, activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None, rmsnorm_eps: float = 1e-6, outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None, headdim: int | None = None, ngroups: int = 1, norm_before_gate: bool = True,
    state_dtype: Any = None,
) -> Any:  # fmt: skip
    """zxbcdt [b, l, 2 * h * p + 2 * g * n + h] -> [b, l, h * p], or as wide as the last product where it is given."""
    if state_dtype not in (None, zxbcdt.dtype):
        raise not_covered("state_dtype other than the inputs'")
    args = (zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, rmsnorm_weight, *_cast(zxbcdt, outproj_weight, outproj_bias),
            initial_states, seq_idx, chunk_size, *_limits(dt_limit), causal_conv1d.is_silu(activation), rmsnorm_eps,
            headdim, ngroups, norm_before_gate)  # fmt: skip
    out, final, *_ = _SplitScan.apply(*args) if any_on_chip([zxbcdt]) else _block(*args)  # type: ignore[no-untyped-call]
    return (out, final) if return_final_states else out


def _cast(like: Tensor, *tensors: Any) -> tuple[Any, ...]:
    """As autocast would have them, where it is on."""
    if not torch.is_autocast_enabled(like.device.type):
        return tensors
    dtype = torch.get_autocast_dtype(like.device.type)
    return tuple(None if one is None else one.to(dtype) for one in tensors)


# Mamba's scan ---------------------------------------------------------------------------------------------------------

SAVED_EVERY = 2048  # tokens: a state that the forward leaves for the backward


def _selective_flop(u: Tensor, delta: Tensor, A: Tensor, *_: Any) -> int:
    """Each state of each token: delta * A, its exponential, B * (delta * u), a multiply-add into the state and one into
    the output: 7."""
    return 7 * int(u.numel()) * A.shape[1]


@fused("mamba_ssm.selective_scan", flop=_selective_flop)
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Any, z: Any, bias: Any, softplus: bool
) -> tuple[Tensor, ...]:
    """(out before the gate, states at every `SAVED_EVERY` tokens beside the decays up to there, out behind the gate if there
    is one). The recurrence s <- a * s + b over tokens by doubling: after step k each token has seen the 2**k before it."""
    steps = delta.float() if bias is None else delta.float() + bias.float()[:, None]
    steps = F.softplus(steps) if softplus else steps
    channels, length = u.shape[1:]
    B_, C_ = (_by_channel(one.float(), channels) for one in (B, C))  # [b or 1, d, n, l or 1]
    decay = (steps[:, :, None] * A.float()[:, :, None]).exp()  # [b, d, n, l]
    state = (steps * u.float())[:, :, None] * B_
    reach = 1
    while reach < length:
        state = state + decay * F.pad(state[..., :-reach], (reach, 0))
        decay = decay * F.pad(decay[..., :-reach], (reach, 0), value=1.0)
        reach *= 2
    out = (state * C_).sum(2)
    out = out if D is None else out + u.float() * D.float()[:, None]
    ends = [min(at + SAVED_EVERY, length) - 1 for at in range(0, length, SAVED_EVERY)]
    saved = torch.stack([decay[..., ends], state[..., ends]], dim=-1).permute(0, 1, 3, 2, 4).flatten(3).contiguous()
    plain = torch.empty_like(delta, dtype=u.dtype).copy_(out)
    return (plain, saved) if z is None else (plain, saved, torch.empty_like(z).copy_(out * F.silu(z.float())))


def _by_channel(one: Tensor, channels: int) -> Tensor:
    """[d, n], [b, n, l] or [b, g, n, l] -> [b or 1, d, n, l or 1]."""
    if one.dim() == 2:
        return one[None, :, :, None]
    grouped = one[:, None] if one.dim() == 3 else one
    return grouped.repeat_interleave(channels // grouped.shape[1], dim=1)


def selective_backward(
    grad: Tensor, args: tuple[Any, ...], plain: Any, saved: Tensor, into: Any = None, again: bool = False
) -> list[Any]:
    """Gradients of the first eight arguments of `selective_scan` (z's written to `into`), then with `again` its result. The
    kernel makes the states again, and each multiply-add has two gradients."""
    outputs = [None if one is None else layout(torch.empty_like(one, device="meta")) for one in args[:8]]
    outputs[6] = outputs[6] if into is None else into
    outputs += [layout(plain)] if again else []
    flop = 3 * _selective_flop(*args)
    given = (grad, *args[:8], plain if args[6] is not None else None, saved)
    made = iter(gradients("mamba_ssm.selective_scan_bwd", given, [one for one in outputs if one is not None], flop))
    return [None if one is None else next(made) for one in outputs]


class _Selective(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        plain, saved, *gated = selective_scan(*args)
        ctx.save_for_backward(plain, saved, *args[:8])
        ctx.softplus = args[8]
        return gated[0] if gated else plain.view_as(plain), saved[:, :, -1, 1::2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:  # type: ignore[override]
        plain, saved, *tensors = ctx.saved_tensors
        return (*selective_backward(grad, (*tensors, ctx.softplus), plain, saved), None)


def selective_scan_fn(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False, return_last_state: bool = False,
) -> Any:  # fmt: skip
    """u, delta, z [b, d, l], A [d, n], B and C [d, n], [b, n, l] or [b, g, n, l] -> [b, d, l]; last state [b, d, n]."""
    if A.is_complex():
        raise not_covered("complex A")
    u, delta, B, C = (one if one.stride(-1) == 1 else one.contiguous() for one in (u, delta, B, C))
    z = z if z is None or z.stride(-1) == 1 else z.contiguous()
    args = (u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    if any_on_chip([u]):
        out, last = _Selective.apply(*args)  # type: ignore[no-untyped-call]
    else:
        plain, saved, *gated = selective_scan(*args)
        out, last = gated[0] if gated else plain, saved[:, :, -1, 1::2]
    return (out, last) if return_last_state else out


# Mamba's block --------------------------------------------------------------------------------------------------------


def _delta(low: Tensor, dt_proj: Tensor, batch: int) -> Tensor:
    """[d, r] @ [r, b * l] -> [b, d, l], the channels outermost."""
    return (dt_proj @ low[:, : dt_proj.shape[1]].t()).unflatten(1, (batch, -1)).transpose(0, 1)


def projected(mixed: Tensor, x_proj: Tensor, dt_proj: Tensor, states: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the convolution's result gives: rows [b * l, r + 2 * n], of which delta [b, d, l], B and C [b, 1, n, l]."""
    rank, batch = dt_proj.shape[1], mixed.shape[0]
    low = F.linear(mixed.transpose(1, 2).flatten(0, 1), x_proj)
    B, C = (
        low[:, start : start + states].unflatten(0, (batch, -1)).transpose(1, 2).unsqueeze(1).contiguous()
        for start in (rank, rank + states)
    )
    return low, _delta(low, dt_proj, batch), B, C


class _Inner(torch.autograd.Function):
    """Mamba's block between its first product and behind its last. The convolution's result, delta and the last product's
    input are made again in the backward."""

    @staticmethod
    def forward(
        ctx: Any, xz: Tensor, taps: Tensor, taps_bias: Any, x_proj: Tensor, dt_proj: Tensor, out_proj: Tensor,
        out_bias: Any, A: Tensor, D: Any, dt_bias: Any, softplus: bool,
    ) -> Tensor:  # fmt: skip
        x, z = xz.chunk(2, dim=1)
        mixed = causal_conv1d.convolved(x, taps, taps_bias, None, None, True)
        low, delta, B, C = projected(mixed, x_proj, dt_proj, A.shape[1])
        plain, saved, gated = selective_scan(mixed, delta, A, B, C, D, z, dt_bias, softplus)
        ctx.save_for_backward(
            xz, taps, taps_bias, x_proj, dt_proj, out_proj, out_bias, A, D, dt_bias, low, B, C, plain, saved
        )
        ctx.softplus = softplus
        return F.linear(gated.transpose(1, 2), out_proj, out_bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        xz, taps, taps_bias, x_proj, dt_proj, out_proj, out_bias, A, D, dt_bias, low, B, C, plain, saved = (
            ctx.saved_tensors
        )
        (x, z), batch, rank, states = xz.chunk(2, dim=1), xz.shape[0], dt_proj.shape[1], A.shape[1]
        mixed = causal_conv1d.convolved(x, taps, taps_bias, None, None, True)
        whole, rows = torch.empty_like(xz), grad.flatten(0, 1)  # [b * l, e]
        into_x, into_z = whole.chunk(2, dim=1)
        inner = (out_proj.t() @ rows.t()).unflatten(1, (batch, -1)).transpose(0, 1)
        args = (mixed, _delta(low, dt_proj, batch), A, B, C, D, z, dt_bias, ctx.softplus)
        grad_mixed, grad_delta, grad_A, grad_B, grad_C, grad_D, _, grad_dt_bias, gated = selective_backward(
            inner, args, plain, saved, into_z, True
        )
        # Channels outermost, [d, b * l].
        by_mixed, by_delta, mixed, gated = (
            one.transpose(0, 1).flatten(1) for one in (grad_mixed, grad_delta, mixed, gated)
        )
        grad_low = torch.empty_like(low)
        grad_low[:, rank : rank + states] = grad_B.squeeze(1).transpose(1, 2).flatten(0, 1)
        grad_low[:, rank + states :] = grad_C.squeeze(1).transpose(1, 2).flatten(0, 1)
        grad_low[:, :rank] = by_delta.t() @ dt_proj
        of_conv = torch.addmm(by_mixed, x_proj.t(), grad_low.t()).unflatten(1, (batch, -1)).transpose(0, 1)
        _, grad_taps, grad_bias = causal_conv1d.convolved_backward(of_conv, x, taps, taps_bias, None, True, into_x)
        return (whole, grad_taps, grad_bias, grad_low.t() @ mixed.t(), by_delta @ low[:, :rank], rows.t() @ gated.t(),
                None if out_bias is None else grad.sum((0, 1)), grad_A, grad_D, grad_dt_bias, None)  # fmt: skip


def mamba_inner_fn(
    xz: Tensor, conv1d_weight: Tensor, conv1d_bias: Tensor | None, x_proj_weight: Tensor, delta_proj_weight: Tensor,
    out_proj_weight: Tensor, out_proj_bias: Tensor | None, A: Tensor, B: Tensor | None = None, C: Tensor | None = None,
    D: Tensor | None = None, delta_bias: Tensor | None = None, B_proj_bias: Any = None, C_proj_bias: Any = None,
    delta_softplus: bool = True, checkpoint_lvl: int = 1, b_rms_weight: Any = None, c_rms_weight: Any = None,
    dt_rms_weight: Any = None, b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:  # fmt: skip
    """xz [b, 2 * d, l] -> [b, l, e]."""
    if any(one is not None for one in (B, C, B_proj_bias, C_proj_bias, b_rms_weight, c_rms_weight, dt_rms_weight)):
        raise not_covered("B and C that are given, biased or normed in mamba_inner_fn")
    if checkpoint_lvl != 1:
        raise not_covered("checkpoint_lvl other than 1")
    taps, xz = conv1d_weight.squeeze(1), xz if xz.stride(-1) == 1 else xz.contiguous()
    weights = _cast(xz, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias)
    if any_on_chip([xz]):
        return _Inner.apply(xz, taps, conv1d_bias, *weights, A, D, delta_bias, delta_softplus)  # type: ignore[no-any-return,no-untyped-call]
    x, z = xz.chunk(2, dim=1)
    mixed = causal_conv1d.convolved(x, taps, conv1d_bias, None, None, True)
    _, delta, B, C = projected(mixed, weights[0], weights[1], A.shape[1])
    out = selective_scan_fn(mixed, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return F.linear(out.transpose(1, 2), weights[2], weights[3])


# A decoder's step -----------------------------------------------------------------------------------------------------


def _step(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Any, z: Any, bias: Any, softplus: bool
) -> Tensor:
    """state [b, h, p, n], x, dt, z [b, h, p], A [h, p, n], B and C [b, g, n], D and bias [h, p] -> [b, h, p]."""
    steps = dt.float() if bias is None else dt.float() + bias.float()
    steps = (F.softplus(steps) if softplus else steps)[..., None]
    B_, C_ = (one.float().repeat_interleave(x.shape[1] // one.shape[1], dim=1)[:, :, None] for one in (B, C))
    new = state.float() * (steps * A.float()).exp() + steps * B_ * x.float()[..., None]
    state.copy_(new)
    out = (new * C_).sum(-1)
    out = out if D is None else out + x.float() * D.float()
    return (out if z is None else out * F.silu(z.float())).to(x.dtype)


def selective_state_update(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    z: Tensor | None = None, dt_bias: Tensor | None = None, dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `_step`; heads may be left out of every tensor. `state` is written."""
    if state_batch_indices is not None:
        raise not_covered("state_batch_indices")

    def with_heads(one: Any, dims: int, place: int) -> Any:
        return one if one is None or one.dim() != dims else one.unsqueeze(place)

    args = (
        with_heads(state, 3, 1), with_heads(x, 2, 1), with_heads(dt, 2, 1), with_heads(A, 2, 0), with_heads(B, 2, 1),
        with_heads(C, 2, 1), with_heads(D, 1, 0), with_heads(z, 2, 1), with_heads(dt_bias, 1, 0), dt_softplus,
    )  # fmt: skip
    if any_on_chip([state, x]):
        costs = (("flop", 7 * state.numel()), ("unit", "vector"))
        outputs, reference = [layout(torch.empty_like(args[1], device="meta"))], recording.Reference(_step)
        (out,) = recording.launch("custom.mamba_ssm.state_update", args, outputs, [args[0]], costs, reference)
    else:
        out = _step(*args)
    return out if state.dim() > 3 else out.squeeze(1)  # type: ignore[no-any-return]
