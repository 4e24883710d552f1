"""Transformer Engine's layers across the ranks of a tensor-parallel group: products with the collectives around them.

A "column" layer holds a part of the outputs: the input is gathered along the sequence first where activations are split
there (`sequence_parallel`), and in the backward the input's gradient is scattered again, or summed up, while the weight's
is computed. A "row" layer holds a part of the inputs: its output is scattered along the sequence, or summed up. The
collectives of the backward run beside a product, as they do there; user buffers (`ub_...`) cut those of the forward, and
what a row layer gathers in the backward, into pieces that run beside products too.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

Tensor = torch.Tensor


@dataclass(frozen=True)
class Split:
    """How a layer is split. mode: "column" or "row". group: None where there is one rank. ahead, behind: its products run
    in pieces beside the gather before them, or the scatter after (`ub_overlap_ag`, `ub_overlap_rs`)."""

    mode: str | None
    group: Any
    sequence: bool
    ahead: bool = False
    behind: bool = False

    @property
    def size(self) -> int:
        return dist.get_world_size(self.group) if self.group is not None and self.mode else 1

    @property
    def gathers(self) -> bool:
        """Whether activations outside of the layer are split along the sequence."""
        return self.sequence and self.size > 1


def gather(x: Tensor, group: Any, async_op: bool = False) -> tuple[Tensor, Any]:
    """[n, ...] of each rank -> [n * ranks, ...], and what to wait for."""
    whole = x.new_empty((x.shape[0] * dist.get_world_size(group), *x.shape[1:]))
    return whole, dist.all_gather_into_tensor(whole, x.contiguous(), group=group, async_op=async_op)


def scatter(x: Tensor, group: Any, async_op: bool = False) -> tuple[Tensor, Any]:
    """[n, ...] summed up over the ranks -> each rank's [n / ranks, ...], and what to wait for."""
    part = x.new_empty((x.shape[0] // dist.get_world_size(group), *x.shape[1:]))
    return part, dist.reduce_scatter_tensor(part, x.contiguous(), group=group, async_op=async_op)


class _Product(torch.autograd.Function):
    """x [rows, k], weight [n, k], bias [n] -> [rows', n]; rows are along the sequence. products: how to multiply, and
    what of x and the weight to keep (`Products`)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Any, split: Split, products: Any, main_grad: Any) -> Tensor:
        ctx.split, ctx.products, ctx.main_grad, ctx.dtypes = split, products, main_grad, (x.dtype, weight.dtype)
        ctx.weight = weight
        gathers, late = split.mode == "column" and split.gathers, split.mode == "row" and split.size > 1
        inner, kept = products.of_input(x, gathers or not weight.requires_grad)
        factor, turned = products.of_weight(weight)
        ctx.save_for_backward(kept if weight.requires_grad else None, turned)

        def multiply(part: Tensor, into: Tensor | None = None) -> Tensor:
            # Of a row layer the bias is added after the sum.
            return products.forward(part, factor, None if late else bias, x.dtype, into)  # type: ignore[no-any-return]

        if gathers:
            out = gather_multiplied(inner, split, weight.shape[0], x.dtype, multiply)[0]
        elif late and split.gathers:
            out = multiplied_scatter(inner, split, weight.shape[0], x.dtype, multiply)
        else:
            out = multiply(inner)
            if late:
                dist.all_reduce(out, group=split.group)
        return out + bias if late and bias is not None else out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        split, products, (x, weight) = ctx.split, ctx.products, ctx.saved_tensors
        to_input, to_weight, to_bias = ctx.needs_input_grad[:3]
        gathers, gathered = split.mode == "row" and split.gathers, split.mode == "column" and split.gathers
        given, turned = products.of_grad(grad.contiguous(), gathers or not to_weight)
        work, rest, whole, input_grad = None, None, x, None
        if gathered and to_weight:
            whole, rest = gather(x, split.group, async_op=True)

        def multiply(part: Tensor, into: Tensor | None = None) -> Tensor:
            return products.to_input(part, weight, ctx.dtypes[0], into)  # type: ignore[no-any-return]

        if gathers and to_input:
            input_grad, given = gather_multiplied(given, split, ctx.weight.shape[1], ctx.dtypes[0], multiply)
        elif to_input:
            input_grad = multiply(given)
        elif gathers:
            given = gather(given, split.group)[0]
        if rest is not None:
            rest.wait()
        if input_grad is not None and split.mode == "column" and split.size > 1:
            if split.gathers:
                input_grad, work = scatter(input_grad, split.group, async_op=True)
            else:
                work = dist.all_reduce(input_grad, group=split.group, async_op=True)
        weight_grad = None
        if to_weight:
            turned = products.turned(given) if gathers else turned
            weight_grad = _weight_grad(ctx, products, turned, products.turned(whole) if gathered else whole)
        bias_grad = grad.sum(0) if to_bias else None
        if work is not None:
            work.wait()
        return input_grad, weight_grad, bias_grad, None, None, None


# Pieces of a product that runs beside its communication: `num_splits` of the real one's "pipeline". Its ring of gathers has
# a piece for each rank, whose products share the chip on several streams: as whole as these.
PIECES = 4


def gather_multiplied(x: Tensor, split: Split, width: int, dtype: torch.dtype,
                      multiply: Any) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(product of the gathered x [rows, width], the gathered x). With user buffers (`ahead`) by pieces: one is multiplied
    while the next travels; rows then stand by piece and rank."""
    count = PIECES if split.ahead and x.shape[0] % PIECES == 0 else 1
    if count == 1:
        whole = gather(x, split.group)[0]
        return multiply(whole), whole
    whole = x.new_empty((x.shape[0] * split.size, *x.shape[1:]))
    out = x.new_empty((whole.shape[0], width), dtype=dtype)
    parts = whole.chunk(count)
    works = [
        dist.all_gather_into_tensor(part, piece, group=split.group, async_op=True)
        for part, piece in zip(parts, x.chunk(count), strict=True)
    ]
    for work, part, into in zip(works, parts, out.chunk(count), strict=True):
        work.wait()
        multiply(part, into)
    return out, whole


def multiplied_scatter(x: Tensor, split: Split, width: int, dtype: torch.dtype, multiply: Any) -> Tensor:
    """The rank's part of the sum of products; with user buffers (`behind`) a piece is scattered while the next is made."""
    count = PIECES if split.behind and x.shape[0] % (PIECES * split.size) == 0 else 1
    if count == 1:
        return scatter(multiply(x), split.group)[0]
    whole = x.new_empty((x.shape[0], width), dtype=dtype)
    out = x.new_empty((x.shape[0] // split.size, width), dtype=dtype)
    works = []
    for piece, into, own in zip(x.chunk(count), whole.chunk(count), out.chunk(count), strict=True):
        multiply(piece, into)
        works.append(dist.reduce_scatter_tensor(own, into, group=split.group, async_op=True))
    for work in works:
        work.wait()
    return out


def _weight_grad(ctx: Any, products: Any, grad: Tensor, x: Tensor) -> Tensor | None:
    """The weight's gradient; where the layer adds it up itself (`fuse_wgrad_accumulation`), into the weight's `main_grad`,
    and what autograd gets is not read."""
    if not ctx.main_grad:
        return products.to_weight(grad, x, ctx.dtypes[1])  # type: ignore[no-any-return]
    weight = ctx.weight
    products.add_to(weight.main_grad, grad, x)
    weight.grad_added_to_main_grad = True
    return torch.empty_like(weight)


class Products:
    """Products in the tensors' own type. `of_...` give what is multiplied first, and what a later product takes: the
    transpose in FP8, which multiplies rows by rows only, here the same tensor (`once`: there is none, or one is not made
    yet)."""

    def of_input(self, x: Tensor, once: bool) -> tuple[Tensor, Tensor]:
        return x, x

    def of_weight(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight, weight

    def of_grad(self, grad: Tensor, once: bool) -> tuple[Tensor, Tensor]:
        return grad, grad

    def turned(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor, weight: Tensor, bias: Any, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        if out is None:
            return torch.nn.functional.linear(x, weight, bias)
        return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)

    def to_input(self, grad: Tensor, weight: Tensor, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        return torch.mm(grad, weight) if out is None else torch.mm(grad, weight, out=out)

    def to_weight(self, grad: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        return grad.t() @ x

    def add_to(self, main_grad: Tensor, grad: Tensor, x: Tensor) -> None:
        accumulate(main_grad, grad, x)


def accumulate(main_grad: Tensor, grad: Tensor, x: Tensor) -> None:
    """main_grad [n, k] += grad^T [n, rows] @ x [rows, k]: one product, which reads and writes the sum."""
    if grad.dtype == main_grad.dtype:
        main_grad.addmm_(grad.t(), x)
    else:
        torch.addmm(main_grad, grad.t(), x, out_dtype=main_grad.dtype, out=main_grad)


def product(x: Tensor, weight: Tensor, bias: Any, split: Split, products: Any, main_grad: bool) -> Tensor:
    """[..., k] -> [..., n], the first dimension being the sequence's where it is split."""
    rows = x.reshape(-1, x.shape[-1])
    out: Tensor = _Product.apply(rows, weight, bias, split, products, main_grad)  # type: ignore[no-untyped-call]
    return out.view(-1, *x.shape[1:-1], out.shape[-1])


def mark(parameter: Any, split: Split, kind: str) -> None:
    """What trainers read off parameters: which dimension is split, and which are copies that the ranks must sum up."""
    parted = split.mode == "column" or (split.mode == "row" and kind == "weight")
    parameter.tensor_model_parallel = parted
    parameter.partition_dim = 1 if split.mode == "row" and kind == "weight" else 0
    parameter.partition_stride = 1
    if split.sequence and not parted:
        parameter.sequence_parallel = True


# ---------------------------------------------------------------- what Megatron asks of `pytorch.distributed`


class CudaRNGStatesTracker:
    """Named states of the chip's random numbers; `fork` draws from one of them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.states_: dict[str, Any] = {}
        self.seeds_: set[int] = set()

    def get_states(self) -> dict[str, Any]:
        return dict(self.states_)

    def set_states(self, states: dict[str, Any]) -> None:
        self.states_ = states

    def add(self, name: str, seed: int) -> None:
        if seed in self.seeds_ or name in self.states_:
            raise Exception(f"seed {seed} or state {name} already exists")
        self.seeds_.add(seed)
        before = torch.cuda.get_rng_state()
        torch.cuda.manual_seed(seed)
        self.states_[name] = torch.cuda.get_rng_state()
        torch.cuda.set_rng_state(before)

    def fork(self, name: str = "model-parallel-rng") -> Any:
        return _Forked(self, name)


class _Forked:
    def __init__(self, tracker: CudaRNGStatesTracker, name: str) -> None:
        if name not in tracker.states_:
            raise KeyError(f"cuda rng state {name} is not added")
        self.tracker, self.name = tracker, name

    def __enter__(self) -> None:
        self.before = torch.cuda.get_rng_state()
        torch.cuda.set_rng_state(self.tracker.states_[self.name])

    def __exit__(self, *_: Any) -> None:
        self.tracker.states_[self.name] = torch.cuda.get_rng_state()
        torch.cuda.set_rng_state(self.before)


def checkpoint(function: Any, *args: Any, distribute_saved_activations: bool = False, get_rng_state_tracker: Any = None,
               tp_group: Any = None, use_reentrant: bool = True, **kwargs: Any) -> Any:  # fmt: skip
    """The forward without what it keeps, and once more in the backward."""
    from torch.utils.checkpoint import checkpoint as of_torch

    return of_torch(function, *args, use_reentrant=use_reentrant and not kwargs, **kwargs)


class activation_recompute_forward:
    """Told that a forward will be, or is being, done again; only FP8 scales depend on it."""

    def __init__(self, activation_recompute: bool = False, recompute_phase: bool = False) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass


def split_along_dim(mixed: Tensor, dim: int, sizes: Any, squeeze: bool = False) -> Any:
    parts = torch.split(mixed, sizes, dim)
    return tuple(part.squeeze(dim) for part in parts) if squeeze else parts


class SplitAlongDim:
    apply = staticmethod(split_along_dim)


def apply_rotary_pos_emb(t: Tensor, freqs: Tensor, tensor_format: str = "sbhd", interleaved: bool = False,
                         fused: bool = False, **_options: Any) -> Tensor:  # fmt: skip
    """t [L, B, H, D] (or [B, L, H, D]), freqs [L, 1, 1, D]: one kernel."""
    from anychip.standins.libraries.apex import fused_apply_rotary_pos_emb

    if tensor_format == "bshd":
        return fused_apply_rotary_pos_emb(t.transpose(0, 1), freqs).transpose(0, 1)
    return fused_apply_rotary_pos_emb(t, freqs)


DISTRIBUTED: dict[str, Any] = {
    "CudaRNGStatesTracker": CudaRNGStatesTracker, "checkpoint": checkpoint,
    "activation_recompute_forward": activation_recompute_forward, "get_all_rng_states": lambda: {},
    "is_fp8_activation_recompute_enabled": lambda: False,
    "gather_along_first_dim": lambda x, group, async_op=False, **_: gather(x, group, async_op),
    "reduce_scatter_along_first_dim": lambda x, group, async_op=False: scatter(x, group, async_op),
}  # fmt: skip
