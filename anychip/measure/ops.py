"""Ops that memory limits, one by one and by size: point-wise, reductions, norms, losses, indices, optimizers, random numbers.

The list is what models of all kinds are made of, chosen without a look at any one program. Bytes are those that
`anychip.cost` counts for the op, so that a forecast turns them back into the time that was measured.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from anychip.cost.work import work
from anychip.measure.device import DTYPES, Device
from anychip.measure.point import Call, Point
from anychip.record import Op, TensorMeta

KIB = 2**10
SIZES = (2 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, KIB**2, 4 * KIB**2)  # elements
QUICK_SIZES = (2 * KIB, 64 * KIB, KIB**2, 4 * KIB**2)
LARGE_SIZES = (16 * KIB, KIB**2, 16 * KIB**2, 64 * KIB**2)  # of accelerators
WIDTH = 512  # of rows


@dataclass(frozen=True)
class Case:
    """An op to be timed. args: as the dispatcher's op takes them. outputs: what it makes, where that is not what `call`
    returns. mutates: positions among the tensors of args that it writes."""

    call: Call
    args: tuple[Any, ...]
    outputs: tuple[torch.Tensor, ...] | None = None
    mutates: tuple[int, ...] = ()


Build = Callable[["Maker"], Case]


@dataclass(frozen=True)
class Maker:
    """Makes the tensors of a case: n elements of a dtype on a device."""

    n: int
    dtype: torch.dtype
    device: torch.device

    def flat(self) -> torch.Tensor:
        return torch.randn(self.n, device=self.device).to(self.dtype)

    def rows(self, width: int = WIDTH) -> torch.Tensor:
        return self.flat().view(-1, width)

    def maps(self) -> torch.Tensor:
        """[4, C, 8, 8] images."""
        return self.flat().view(4, -1, 8, 8)

    def index(self, most: int, count: int) -> torch.Tensor:
        return torch.randint(most, (count,), device=self.device)

    def ones(self, size: int) -> torch.Tensor:
        return torch.ones(size, dtype=self.dtype, device=self.device)


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Build:
    def build(make: Maker) -> Case:
        x = make.flat()
        return Case(lambda: function(x), (x,))

    return build


def _binary(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Build:
    def build(make: Maker) -> Case:
        x, y = make.flat(), make.flat().abs() + 0.5
        return Case(lambda: function(x, y), (x, y))

    return build


def _gradient(function: Callable[[torch.Tensor], torch.Tensor], of_result: bool = False, rows: bool = False) -> Build:
    """The backward of a function of one tensor: grad and its input (or its result) in, the gradient out."""

    def build(make: Maker) -> Case:
        x = (make.rows() if rows else make.flat()).requires_grad_()
        y = function(x)
        grad = torch.randn_like(y)
        kept = y.detach() if of_result else x.detach()
        args: tuple[Any, ...] = (grad, kept, 1, str(x.dtype).removeprefix("torch.")) if rows else (grad, kept)
        return Case(lambda: torch.autograd.grad(y, x, grad, retain_graph=True), args)

    return build


def _cast(to: torch.dtype) -> Build:
    def build(make: Maker) -> Case:
        x = make.flat()
        target = to if to != x.dtype else torch.float32
        return Case(lambda: x.to(target), (x,))

    return build


def _in_place(function: Callable[[torch.Tensor], Any]) -> Build:
    def build(make: Maker) -> Case:
        x = make.flat()
        return Case(lambda: function(x), (x,), (), (0,))

    return build


def _add_in_place(make: Maker) -> Case:
    x, y = make.flat(), make.flat()
    return Case(lambda: x.add_(y), (x, y), (), (0,))


def _copy(make: Maker) -> Case:
    x, y = make.flat(), make.flat()
    return Case(lambda: x.copy_(y), (x, y), (), (0,))


def _transposed(make: Maker) -> Case:
    x = make.rows().t()
    return Case(lambda: x.contiguous(), (x,))


def _where(make: Maker) -> Case:
    x, y = make.flat(), make.flat()
    mask = x > 0
    return Case(lambda: torch.where(mask, x, y), (mask, x, y))


def _cat(make: Maker) -> Case:
    parts = make.rows().chunk(2, dim=0)
    return Case(lambda: torch.cat(parts, dim=1), (tuple(parts), 1))


def _softmax(function: Callable[..., torch.Tensor]) -> Build:
    def build(make: Maker) -> Case:
        x = make.rows()
        return Case(lambda: function(x, dim=1), (x, 1, False))

    return build


def _norm(function: Callable[..., torch.Tensor], with_bias: bool, backward: bool) -> Build:
    """A norm over rows: x, shape, weight, bias; backward: grad, x, shape, mean, rstd, weight, bias."""

    def build(make: Maker) -> Case:
        x, w = make.rows(), make.ones(WIDTH)
        b = (make.ones(WIDTH),) if with_bias else ()
        if not backward:
            return Case(lambda: function(x, (WIDTH,), w, *b), (x, (WIDTH,), w, *b, 1e-5))
        leaves = tuple(leaf.requires_grad_() for leaf in (x, w, *b))
        y = function(x, (WIDTH,), w, *b)
        grad, rows = torch.randn_like(y), torch.empty(x.shape[0], device=x.device)
        stats = (rows, rows) if with_bias else (rows,)
        args = (grad, x.detach(), (WIDTH,), *stats, w, *b, (True,) * len(leaves))
        return Case(lambda: torch.autograd.grad(y, leaves, grad, retain_graph=True), args)

    return build


def _batch_norm(backward: bool) -> Build:
    def build(make: Maker) -> Case:
        x = make.maps()
        layer = torch.nn.BatchNorm2d(x.shape[1], device=x.device)
        w, b, mean, var = layer.weight, layer.bias, layer.running_mean, layer.running_var
        if not backward:
            with torch.no_grad():
                return Case(lambda: layer(x), (x, w, b, mean, var, True, 0.1, 1e-5))
        y = layer(x.requires_grad_())
        grad = torch.randn_like(y)
        args = (grad, x.detach(), w, mean, var, mean, var, True, 1e-5, (True, True, True))
        return Case(lambda: torch.autograd.grad(y, (x, w, b), grad, retain_graph=True), args)

    return build


def _group_norm(backward: bool) -> Build:
    def build(make: Maker) -> Case:
        x = make.maps()
        channels = x.shape[1]
        w, b = make.ones(channels), make.ones(channels)
        if not backward:
            return Case(lambda: F.group_norm(x, 8, w, b), (x, w, b, 4, channels, 64, 8, 1e-5))
        leaves = (x.requires_grad_(), w.requires_grad_(), b.requires_grad_())
        y = F.group_norm(x, 8, w, b)
        grad = torch.randn_like(y)
        args = (grad, x.detach(), w, w, w, 4, channels, 64, 8, (True, True, True))
        return Case(lambda: torch.autograd.grad(y, leaves, grad, retain_graph=True), args)

    return build


def _embedding(backward: bool) -> Build:
    """As many words looked up as a table has rows."""

    def build(make: Maker) -> Case:
        table = make.rows()
        index = make.index(table.shape[0], table.shape[0])
        if not backward:
            return Case(lambda: F.embedding(index, table), (table, index))
        y = F.embedding(index, table.requires_grad_())
        grad = torch.randn_like(y)
        return Case(
            lambda: torch.autograd.grad(y, table, grad, retain_graph=True), (grad, index, table.shape[0], -1, False)
        )

    return build


def _gather(make: Maker) -> Case:
    x = make.rows()
    index = torch.randint(WIDTH, tuple(x.shape), device=x.device)
    return Case(lambda: x.gather(1, index), (x, 1, index))


def _loss(backward: bool) -> Build:
    def build(make: Maker) -> Case:
        x = make.rows()
        target = make.index(WIDTH, x.shape[0])
        if not backward:
            return Case(lambda: F.nll_loss(x, target), (x, target, None, 1, -100))
        y = F.nll_loss(x.requires_grad_(), target)
        return Case(
            lambda: torch.autograd.grad(y, x, retain_graph=True), (y.detach(), x.detach(), target, None, 1, -100)
        )

    return build


def _pool(backward: bool) -> Build:
    def build(make: Maker) -> Case:
        x = make.maps()
        if not backward:
            return Case(lambda: F.max_pool2d(x, 2), (x, (2, 2)))
        y = F.max_pool2d(x.requires_grad_(), 2)
        grad = torch.randn_like(y)
        index = torch.empty(y.shape, dtype=torch.int64, device=x.device)
        return Case(lambda: torch.autograd.grad(y, x, grad, retain_graph=True), (grad, x.detach(), (2, 2), index))

    return build


def _upsample(make: Maker) -> Case:
    x = make.maps()
    return Case(lambda: F.interpolate(x, scale_factor=2.0), (x,))


def _optimizer(kind: Callable[..., torch.optim.Optimizer], backward: str) -> Build:
    """A fused optimizer's step over eight tensors. backward: which states it has."""

    def build(make: Maker) -> Case:
        parts = [part.clone().requires_grad_() for part in make.flat().chunk(8)]
        for part in parts:
            part.grad = torch.randn_like(part)
        optimizer = kind(parts, lr=1e-3, fused=True)
        optimizer.step()
        leaves, grads = tuple(parts), tuple(part.grad for part in parts)
        args = (leaves, grads, leaves, leaves) if backward == "adam" else (leaves, grads, leaves)
        return Case(optimizer.step, args, ())

    return build


def _sort(function: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> Build:
    def build(make: Maker) -> Case:
        x = make.rows()
        return Case(lambda: function(x), (x,))

    return build


def _sample(make: Maker) -> Case:
    x = make.rows(make.n).abs()
    return Case(lambda: torch.multinomial(x, 1), (x, 1))


def _dropout(make: Maker) -> Case:
    x = make.flat().requires_grad_()  # without gradients dropout is another op
    return Case(lambda: F.dropout(x, 0.1), (x, 0.1, True), (x.detach(), torch.empty_like(x, dtype=torch.bool)))


CASES: dict[str, Build] = {
    "aten.add": _binary(torch.add),
    "aten.add_": _add_in_place,
    "aten.mul": _binary(torch.mul),
    "aten.div": _binary(torch.div),
    "aten.copy_": _copy,
    "aten.clone": _unary(torch.clone),
    "aten.clone strided": _transposed,
    "aten._to_copy": _cast(torch.bfloat16),
    "aten.cat": _cat,
    "aten.where": _where,
    "aten.fill_": _in_place(lambda x: x.fill_(1.0)),
    "aten.exp": _unary(torch.exp),
    "aten.tanh": _unary(torch.tanh),
    "aten.sigmoid": _unary(torch.sigmoid),
    "aten.pow": _unary(lambda x: x.pow(2)),
    "aten.rsqrt": _unary(torch.rsqrt),
    "aten.relu": _unary(torch.relu),
    "aten.threshold_backward": _gradient(torch.relu, of_result=True),
    "aten.gelu": _unary(F.gelu),
    "aten.gelu_backward": _gradient(F.gelu),
    "aten.silu": _unary(F.silu),
    "aten.silu_backward": _gradient(F.silu),
    "aten.native_dropout": _dropout,
    "aten.normal_": _in_place(lambda x: x.normal_()),
    "aten.uniform_": _in_place(lambda x: x.uniform_()),
    "aten.sum": _unary(torch.sum),
    "aten.mean": _unary(lambda x: x.view(-1, WIDTH).mean(0)),
    "aten.linalg_vector_norm": _unary(torch.linalg.vector_norm),
    "aten.argmax": _unary(torch.argmax),
    "aten.cumsum": _unary(lambda x: x.cumsum(0)),
    "aten._softmax": _softmax(F.softmax),
    "aten._softmax_backward_data": _gradient(lambda x: F.softmax(x, dim=1), of_result=True, rows=True),
    "aten._log_softmax": _softmax(F.log_softmax),
    "aten._log_softmax_backward_data": _gradient(lambda x: F.log_softmax(x, dim=1), of_result=True, rows=True),
    "aten.native_layer_norm": _norm(F.layer_norm, with_bias=True, backward=False),
    "aten.native_layer_norm_backward": _norm(F.layer_norm, with_bias=True, backward=True),
    "aten._fused_rms_norm": _norm(F.rms_norm, with_bias=False, backward=False),
    "aten._fused_rms_norm_backward": _norm(F.rms_norm, with_bias=False, backward=True),
    "aten.native_batch_norm": _batch_norm(backward=False),
    "aten.native_batch_norm_backward": _batch_norm(backward=True),
    "aten.native_group_norm": _group_norm(backward=False),
    "aten.native_group_norm_backward": _group_norm(backward=True),
    "aten.nll_loss_forward": _loss(backward=False),
    "aten.nll_loss_backward": _loss(backward=True),
    "aten.embedding": _embedding(backward=False),
    "aten.embedding_dense_backward": _embedding(backward=True),
    "aten.gather": _gather,
    "aten.max_pool2d_with_indices": _pool(backward=False),
    "aten.max_pool2d_with_indices_backward": _pool(backward=True),
    "aten.upsample_nearest2d": _upsample,
    "aten.topk": _sort(lambda x: torch.topk(x, 8)),
    "aten.sort": _sort(torch.sort),
    "aten.multinomial": _sample,
    "aten._fused_adamw_": _optimizer(torch.optim.AdamW, "adam"),
    "aten._fused_sgd_": _optimizer(lambda parts, **options: torch.optim.SGD(parts, momentum=0.9, **options), "sgd"),
}  # fmt: skip


def points(device: Device, quick: bool) -> Iterator[Point]:
    sizes = LARGE_SIZES if not device.is_cpu else QUICK_SIZES if quick else SIZES
    for dtype in device.dtypes:
        if dtype == "tf32":
            continue
        for name, build in CASES.items():
            op, _, flag = name.partition(" ")
            for n in sizes:
                maker = Maker(n, DTYPES[dtype], device.torch)
                nbytes = _bytes(op, build, maker)
                shape = f"{nbytes} {flag}".strip()
                yield Point(op, dtype, shape, "GB/s", _make(build, maker), amount=float(nbytes), floor="kernel.floor",
                            note=f"{n} elements")  # fmt: skip


def _make(build: Build, maker: Maker) -> Callable[[], Call]:
    return lambda: build(maker).call


def _bytes(op: str, build: Build, maker: Maker) -> int:
    """The bytes that anychip counts for a case; found on small tensors, since they are proportional."""
    small = Maker(SIZES[0], maker.dtype, torch.device("cpu"))
    case = build(small)
    outputs = case.outputs if case.outputs is not None else _tensors(case.call())
    described = Op(
        f"{op}.default", tuple(_meta(arg) for arg in case.args), (), tuple(_meta(out) for out in outputs), case.mutates
    )
    return round(work(described).bytes_moved * maker.n / small.n)


def _tensors(value: Any) -> tuple[torch.Tensor, ...]:
    if isinstance(value, torch.Tensor):
        return (value,)
    return tuple(item for item in value if isinstance(item, torch.Tensor)) if isinstance(value, tuple | list) else ()


def _meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return TensorMeta(tuple(value.shape), tuple(value.stride()), str(value.dtype).removeprefix("torch."))
    return tuple(_meta(item) for item in value) if isinstance(value, tuple | list) else value
