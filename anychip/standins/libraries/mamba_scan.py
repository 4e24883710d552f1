"""Mamba-2's scan as mamba_ssm computes it: in chunks, by products (state space duality, SSD).

Dao and Gu, "Transformers are SSMs" (arXiv:2405.21060), section 6; mamba_ssm 2.3, `ops/triton/ssd_combined.py`, of which each
kernel here is one op with the tensors that it reads and writes and the products of its inside. By letter: b batch, l
length, h heads, p head_dim, g groups, n states, c chunks, q tokens of a chunk; a head's state is [p, n].
x [b, l, h, p], dt [b, l, h], A [h], B and C [b, l, g, n], D [h] or [h, p], z as x; made on the way: steps (dt as it is used)
and sums (of dt * A within a chunk) [b, h, c, q], states [b, c, h, p, n], pairs (C @ B) [b, c, g, q, q].
Left out: that heads of one group read B, C and pairs again, work on tiles that the mask cuts (half a chunk's pairs are
taken as skipped), and partial sums that blocks leave to be added.
"""

from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins.fused import fused, gradients
from anychip.standins.recording import layout

Tensor = torch.Tensor
Layout = tuple[tuple[int, ...], tuple[int, ...], Any]


def _chunked(tensor: Tensor, chunk: int) -> Tensor:
    """[b, l, ...] -> [b, c, q, ...] in float32, zeros behind the end."""
    padding = -tensor.shape[1] % chunk
    return F.pad(tensor.float(), (0, 0) * (tensor.dim() - 2) + (0, padding)).unflatten(1, (-1, chunk))


def _by_head(tensor: Tensor, heads: int, dim: int) -> Tensor:
    return tensor.repeat_interleave(heads // tensor.shape[dim], dim)


# The kernels of the forward -------------------------------------------------------------------------------------------


@fused("mamba_ssm.chunk_cumsum", flop=lambda dt, *_: 6 * dt.numel())
def chunk_cumsum(
    dt: Tensor, A: Tensor, bias: Any, chunk: int, softplus: bool, least: float, most: float | None
) -> tuple[Tensor, Tensor]:
    """(sums, steps). Per step a bias, softplus as three operations, a product and a sum."""
    steps = dt.float() if bias is None else dt.float() + bias.float()
    steps = _chunked((F.softplus(steps) if softplus else steps).clamp(least, most), chunk)
    steps = steps.permute(0, 3, 1, 2).contiguous()
    return (steps * A.float()[:, None, None]).cumsum(-1), steps


def _cut(x: Tensor, sums: Tensor) -> tuple[int, int, int]:
    """(b * c * h, q, p)."""
    batch, heads, chunks, chunk = sums.shape
    return batch * chunks * heads, chunk, x.shape[-1]


def _states_product(B: Tensor, x: Tensor, steps: Tensor, sums: Tensor, *_: Any) -> Any:
    cut, q, p = _cut(x, sums)
    return ((cut, p, B.shape[-1], q),)


@fused("mamba_ssm.chunk_state", flop=lambda *_: 0, products=_states_product)
def chunk_state(B: Tensor, x: Tensor, steps: Tensor, sums: Tensor, seq_idx: Any) -> Tensor:
    """Each chunk's own state, of the tokens of the sequence that its end belongs to."""
    chunk = sums.shape[-1]
    weight = (sums[..., -1:] - sums).exp() * steps
    if seq_idx is not None:
        number = _numbers(seq_idx, chunk)
        weight = weight * (number == number[..., -1:])[:, None]
    B_ = _by_head(_chunked(B, chunk), x.shape[2], 3)
    return torch.einsum("bckhn,bhck,bckhp->bchpn", B_, weight, _chunked(x, chunk)).contiguous()


@fused("mamba_ssm.state_passing", flop=lambda states, *_: 2 * states.numel())
def state_passing(
    states: Tensor, ends: Tensor, initial: Any, seq_idx: Any, chunk: int, dtype: Any
) -> tuple[Tensor, Tensor]:
    """(the state before each chunk, the last one in float32) of each chunk's own and its whole sum `ends` [b, h, c]. A
    multiply-add per element."""
    decay = ends.exp().movedim(1, 2)  # [b, c, h]
    if seq_idx is not None:
        end = _numbers(seq_idx, chunk)[..., -1]
        decay = decay * (torch.cat([torch.zeros_like(end[:, :1]), end[:, :-1]], dim=1) == end)[..., None]
    state = torch.zeros_like(states[:, 0]) if initial is None else initial.float()
    before = []
    for number in range(states.shape[1]):
        before.append(state)
        state = decay[:, number, :, None, None] * state + states[:, number]
    return torch.stack(before, dim=1).to(dtype), state


def _numbers(seq_idx: Tensor, chunk: int) -> Tensor:
    """Each token's sequence [b, c, q]; what is behind the end belongs to the last."""
    padding = -seq_idx.shape[1] % chunk
    return torch.cat([seq_idx, seq_idx[:, -1:].expand(-1, padding)], dim=1).unflatten(1, (-1, chunk))


def _pairs_product(C: Tensor, B: Tensor, chunk: int, seq_idx: Any) -> Any:
    batch, length, groups, states = B.shape
    return ((batch * -(-length // chunk) * groups, chunk, chunk, states),)


@fused("mamba_ssm.bmm_chunk", flop=lambda *_: 0, products=_pairs_product)
def bmm_chunk(C: Tensor, B: Tensor, chunk: int, seq_idx: Any) -> Tensor:
    pairs = torch.einsum("bcqgn,bckgn->bcgqk", _chunked(C, chunk), _chunked(B, chunk))
    if seq_idx is not None:
        number = _numbers(seq_idx, chunk)
        pairs = pairs * (number[..., :, None] == number[..., None, :])[:, :, None]
    return pairs.contiguous()


def _scan_products(x: Tensor, C: Tensor, pairs: Tensor, steps: Tensor, sums: Tensor, *_: Any) -> Any:
    cut, q, p = _cut(x, sums)
    return (cut, q, p, -(-q // 2)), (cut, q, p, C.shape[-1])


@fused("mamba_ssm.chunk_scan", flop=lambda *_: 0, products=_scan_products)
def chunk_scan(
    x: Tensor, C: Tensor, pairs: Tensor, steps: Tensor, sums: Tensor, before: Tensor, D: Any, z: Any, seq_idx: Any
) -> Any:
    """out, and before the gate z too where there is one: tokens of the chunk itself under the causal mask, and what the
    state before the chunk adds."""
    (_, length, heads, _), chunk = x.shape, sums.shape[-1]
    above = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    apart = (sums[..., :, None] - sums[..., None, :]).masked_fill(above, float("-inf"))
    shares = _by_head(pairs, heads, 2) * (apart.exp() * steps[..., None, :]).movedim(1, 2)
    out = torch.einsum("bchqk,bckhp->bcqhp", shares, _chunked(x, chunk))
    reach = sums.exp()
    if seq_idx is not None:
        number = _numbers(seq_idx, chunk)
        end = number[..., -1]
        reach = reach * (number == torch.cat([torch.zeros_like(end[:, :1]), end[:, :-1]], dim=1)[..., None])[:, None]
    out = out + torch.einsum("bcqhn,bhcq,bchpn->bcqhp", _by_head(_chunked(C, chunk), heads, 3), reach, before.float())
    out = out.flatten(1, 2)[:, :length]
    out = out if D is None else out + x.float() * D.float().view(heads, -1)
    plain = out.to(x.dtype).contiguous()
    return plain if z is None else ((out * F.silu(z.float())).to(x.dtype).contiguous(), plain)


def scanned(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Any, z: Any, dt_bias: Any, initial: Any, seq_idx: Any,
    chunk: int, softplus: bool, least: float, most: float | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(out, out before the gate, which is the same where there is none, the last states [b, h, p, n])."""
    sums, steps = chunk_cumsum(dt, A, dt_bias, chunk, softplus, least, most)
    states = chunk_state(B, x, steps, sums, seq_idx)
    before, final = state_passing(states, sums[..., -1], initial, seq_idx, chunk, C.dtype)
    pairs = bmm_chunk(C, B, chunk, seq_idx)
    out = chunk_scan(x, C, pairs, steps, sums, before, D, z, seq_idx)
    return (*out, final) if z is not None else (out, out, final)


# The backward ---------------------------------------------------------------------------------------------------------


def plain(*shape: int, dtype: Any = torch.float32) -> Layout:
    return layout(torch.empty(shape, dtype=dtype, device="meta"))


def scanned_backward(
    grad: Tensor, plain_out: Tensor, final: Any, args: tuple[Any, ...], into: tuple[Any, ...], again: bool = False
) -> tuple[list[Any], Any]:
    """Gradients of the first nine arguments of `scanned`, and with `again` its gated result. `into`: tensors for those of x, dt, B, C, z
    that are written in place. All of the forward but its last kernel is run again."""
    x, dt, A, B, C, D, z, bias, initial, seq_idx, chunk, softplus, least, most = args
    place = dict(zip(("x", "dt", "B", "C", "z"), into or (None,) * 5, strict=True))

    def where(name: str, like: Tensor) -> Any:
        return layout(torch.empty_like(like, device="meta")) if place[name] is None else place[name]

    batch, _, groups, n = B.shape
    given: tuple[Any, ...]
    sums, steps = chunk_cumsum(dt.clone(), A, bias, chunk, softplus, least, most)
    pairs = bmm_chunk(C, B, chunk, seq_idx)
    states = chunk_state(B, x, steps, sums, seq_idx)
    states, _ = state_passing(states, sums[..., -1], initial, seq_idx, chunk, torch.float32)
    cut, q, p = _cut(x, sums)
    half, bc, by_step = -(-q // 2), plain(*B.shape), layout(sums)
    shape, grad_z, gated = tuple(states.shape), None, None
    if z is not None:
        made = [where("z", z), layout(x), *([layout(x)] if again else ())]
        grad_z, grad, *rest = gradients("mamba_ssm.chunk_scan_bwd_dz", (x, z, plain_out, grad, D), made)
        gated = rest[0] if again else None
    given = (C, grad, sums, seq_idx)
    (grad_states,) = gradients("mamba_ssm.chunk_scan_bwd_dstates", given, [layout(states)], products=((cut, p, n, q),))
    made = [plain(*shape, dtype=x.dtype), plain(batch, shape[2], shape[1]), plain(*shape, dtype=x.dtype)]
    made += [] if initial is None else [layout(initial)]
    given = (states, sums[..., -1], grad_states, final)
    grad_states, grad_ends, states, *rest = gradients("mamba_ssm.state_passing_bwd", given, made, 4 * states.numel())
    grad_initial = rest[0] if rest else None
    made = [where("x", x), by_step, *([] if D is None else [layout(D)])]
    grad_x, grad_steps, *rest = gradients(
        "mamba_ssm.chunk_scan_chunk_state_bwd_dx", (x, pairs, grad, steps, sums, D, B, grad_states), made,
        products=((cut, q, p, n), (cut, q, p, half)),
    )  # fmt: skip
    by_x, by_pairs = ((cut, q, n, p),), ((cut, q, half, p),)
    given = (x, grad_states, B, steps, sums, seq_idx)
    wide_B, grad_next = gradients("mamba_ssm.chunk_state_bwd_db", given, [bc, by_step], products=by_x)
    given = (grad, states, C, sums, seq_idx)
    wide_C, grad_before = gradients("mamba_ssm.chunk_scan_bwd_dc", given, [bc, by_step], products=by_x)
    given = (x, steps, sums, grad, seq_idx)
    (grad_pairs,) = gradients("mamba_ssm.chunk_scan_bwd_dcb", given, [layout(pairs)], products=by_pairs)
    grad_B, grad_C = (
        gradients("mamba_ssm.bmm_chunk_bwd", (one, grad_pairs, wide), [where(name, one)],
                  products=((batch * shape[1] * groups, q, n, q),))[0]
        for name, one, wide in (("B", C, wide_B), ("C", B, wide_C))
    )  # fmt: skip
    grad_before[..., -1] += grad_ends
    grad_before = grad_before.flip([-1]).cumsum(dim=-1).flip([-1])
    (grad_sums,) = gradients(
        "mamba_ssm.chunk_scan_bwd_ddacs", (x, steps, sums, grad, pairs), [by_step], products=by_pairs
    )
    grad_sums += grad_next + grad_before
    made = [where("dt", dt), layout(A), *([] if bias is None else [layout(bias)])]
    grad_dt, grad_A, *of_bias = gradients(
        "mamba_ssm.chunk_cumsum_bwd", (grad_sums, grad_steps, dt, A, bias), made, 12 * dt.numel()
    )
    return [grad_x, grad_dt, grad_A, grad_B, grad_C, rest[0] if rest else None, grad_z,
            of_bias[0] if of_bias else None, grad_initial], gated  # fmt: skip


def keep(ctx: Any, made: Tensor, args: tuple[Any, ...], tensors: int) -> None:
    """For the backward: what the forward made, the first arguments, which are tensors, and the others as `ctx.how`."""
    ctx.save_for_backward(made, *args[:tensors])
    ctx.how = args[tensors:]
    ctx.set_materialize_grads(False)


class Scan(torch.autograd.Function):
    """`scanned` on the chip; returns (out, final states)."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        out, kept, final = scanned(*args)
        keep(ctx, kept, args, 10)
        return out, final

    @staticmethod
    def backward(ctx: Any, grad: Tensor, final: Any) -> Any:  # type: ignore[override]
        kept, *tensors = ctx.saved_tensors
        found, _ = scanned_backward(grad, kept, final, (*tensors, *ctx.how), ())
        return (*found, *(None,) * (1 + len(ctx.how)))
