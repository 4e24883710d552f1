"""Stand-in for grouped_gemm: products of the rows of each expert with its own matrix, and the permutation of tokens beside.

Where the rows of each group are known on the host, the library calls cuBLAS once a group; on the chip it runs one kernel.
"""

from typing import Any

import torch

from anychip.standins import recording
from anychip.standins.fused import fused
from anychip.standins.recording import not_covered

VERSION = "1.1.4"

Tensor = torch.Tensor


def gmm(a: Tensor, b: Tensor, batch_sizes: Tensor, trans_b: bool = False) -> Tensor:
    """a [rows, k], b [groups, k, n] ([groups, n, k] if trans_b), rows of each group [groups] -> [rows, n]."""
    result: Tensor = _Grouped.apply(a, b, batch_sizes, trans_b)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def raw_gmm(
    a: Tensor, b: Tensor, batch_sizes: Tensor, trans_a: bool = False, trans_b: bool = False, c: Tensor | None = None
) -> Tensor:
    """The same without a gradient; if trans_a of a [rows, m] and b [rows, n] -> [groups, m, n]. c: where to put it."""
    assert not (trans_a and trans_b)
    assert batch_sizes.ndim == 1, "Expected 1d tensor for batch_sizes"
    assert a.ndim == 2, "Expected 2d tensor for 'a'"
    assert b.ndim == (2 if trans_a else 3)
    if not a.dtype == b.dtype == torch.bfloat16:
        raise RuntimeError("Expected a.scalar_type() == torch::kBFloat16 to be true, but got false.")
    if batch_sizes.is_cuda:
        if c is not None:
            raise not_covered("grouped_gemm", "an output that is given, with sizes on the chip")
        ends = batch_sizes.cumsum(0, dtype=torch.int32)
        left, right = (a.t() if trans_a else a), (b.transpose(1, 2) if trans_b else b)
        return torch._grouped_mm(left, right, ends)
    groups = _rows(batch_sizes, a.shape[0])
    if c is None:
        columns = b.shape[1] if trans_a or trans_b else b.shape[2]
        c = a.new_empty((len(groups), a.shape[1], columns) if trans_a else (a.shape[0], columns))
    start = 0
    for number, rows in enumerate(groups):
        part = slice(start, start + rows)
        if trans_a:
            torch.mm(a[part].t(), b[part], out=c[number])
        else:
            torch.mm(a[part], b[number].t() if trans_b else b[number], out=c[part])
        start += rows
    return c


def _rows(batch_sizes: Tensor, rows: int) -> list[int]:
    """Rows of each group; where those that a kernel without numbers counted do not add up, equal parts of all."""
    found: list[int] = batch_sizes.tolist()
    running = recording.runtime()
    if running is None or sum(found) == rows:
        return found
    running.recorder.warn("grouped_gemm: how many rows each group has is not known: they are taken to be equal")
    share, more = divmod(rows, max(len(found), 1))
    return [share + (number < more) for number in range(len(found))]


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, batch_sizes: Tensor, trans_b: bool) -> Tensor:
        ctx.save_for_backward(a, b, batch_sizes)
        ctx.trans_b = trans_b
        return raw_gmm(a, b, batch_sizes, trans_b=trans_b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad = grad.contiguous()
        a, b, batch_sizes = ctx.saved_tensors
        of_a = raw_gmm(grad, b, batch_sizes, trans_b=not ctx.trans_b) if ctx.needs_input_grad[0] else None
        left, right = (grad, a) if ctx.trans_b else (a, grad)
        of_b = raw_gmm(left, right, batch_sizes, trans_a=True) if ctx.needs_input_grad[1] else None
        return of_a, of_b, None, None


@fused("grouped_gemm.permute", flop=lambda *_: 0, saves=(), backward=0.0)
def _permute(x: Tensor, indices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    tokens, top = indices.shape
    order = indices.reshape(-1).argsort(stable=True)
    place = torch.empty_like(order).scatter(0, order, torch.arange(tokens * top, device=order.device))
    row_id_map = torch.where(place < count, place, -1).view(tokens, top).t().reshape(-1).to(torch.int32)
    return x.index_select(0, order[:count] // top), row_id_map


@fused("grouped_gemm.unpermute", flop=lambda x, *_: 2 * x.numel(), backward=1.0)
def _unpermute(x: Tensor, row_id_map: Tensor, probs: Tensor | None, tokens: int) -> Tensor:
    places = row_id_map.view(-1, tokens).t()  # [tokens, top]
    shares = torch.ones_like(places, dtype=x.dtype) if probs is None else probs
    shares = shares.masked_fill(places < 0, 0.0)
    rows = x.index_select(0, places.clamp(min=0).reshape(-1)).view(*places.shape, -1)
    return (rows * shares.unsqueeze(-1)).sum(1).to(x.dtype)


def permute(
    input_act: Tensor, indices: Tensor, num_out_tokens: int | None = None, max_token_num: int = 0
) -> tuple[Tensor, Tensor | None]:
    """input_act [tokens, hidden], experts of each token [tokens] or [tokens, top] -> (rows by expert, where they went)."""
    if not input_act.numel():
        return input_act, None
    indices = (indices.view(-1, 1) if indices.dim() == 1 else indices).to(torch.int32)
    permuted, row_id_map = _permute(input_act.contiguous(), indices, num_out_tokens or indices.numel())
    return permuted, row_id_map


def unpermute(input_act: Tensor, row_id_map: Tensor, probs: Tensor | None = None) -> Tensor:
    """The way back: each token's rows summed up, by their probabilities [tokens, top]."""
    if not input_act.numel():
        return input_act
    tokens = input_act.shape[0] if probs is None else probs.shape[0]
    result: Tensor = _unpermute(
        input_act.contiguous(), row_id_map, None if probs is None else probs.to(torch.float32), tokens
    )
    return result


MODULES: dict[str, dict[str, Any]] = {
    "grouped_gemm.ops": {"gmm": gmm, "permute": permute, "unpermute": unpermute},
    "grouped_gemm.backend": {"gmm": raw_gmm},
}

UNCOVERED: dict[str, tuple[str, ...]] = {
    "grouped_gemm.ops": ("sinkhorn_kernel",),
    "grouped_gemm.backend": ("sinkhorn", "permute", "unpermute", "unpermute_bwd"),
}
