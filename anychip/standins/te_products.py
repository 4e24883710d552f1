"""Products of Transformer Engine's layers, in FP8 inside of `fp8_autocast`, else as torch does them.

A linear layer in FP8 is: cast of the input, cast of the weight, one scaled product; backward a cast of the gradient and two
scaled products. Refused where the chip has no FP8 product, as there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins import recording, te_parallel
from anychip.standins.recording import layout
from anychip.standins.te_recipe import RECIPES

Tensor = torch.Tensor


class _Fp8:
    """Whether products run in FP8 just now, and by which recipe."""

    enabled = False
    recipe: Any = None


class FP8GlobalStateManager:
    """What the layers do just now."""

    @staticmethod
    def is_fp8_enabled() -> bool:
        return _Fp8.enabled

    @staticmethod
    def get_fp8_recipe() -> Any:
        return _Fp8.recipe or RECIPES["DelayedScaling"]()

    @staticmethod
    def get_fp8_group() -> Any:
        return None

    @staticmethod
    def is_first_fp8_module() -> bool:
        return False

    @staticmethod
    def reset() -> None:
        _Fp8.enabled, _Fp8.recipe = False, None


@contextmanager
def fp8_autocast(enabled: bool = True, calibrating: bool = False, fp8_recipe: Any = None, fp8_group: Any = None,
                 **_options: Any) -> Iterator[None]:  # fmt: skip
    """Inside, the layers of this module multiply in FP8. Raises AssertionError where the chip cannot."""
    if enabled:
        available, reason = check_fp8_support()
        assert available, reason
    before = _Fp8.enabled, _Fp8.recipe
    _Fp8.enabled, _Fp8.recipe = enabled, fp8_recipe
    try:
        yield
    finally:
        _Fp8.enabled, _Fp8.recipe = before


@contextmanager
def fp8_model_init(
    enabled: bool = True, recipe: Any = None, preserve_high_precision_init_val: bool = False
) -> Iterator[None]:
    """Weights stay 16 bits wide here: their FP8 copies are made at each use."""
    yield


def check_fp8_support() -> tuple[bool, str]:
    runtime = recording.runtime()
    if runtime is None or runtime.ask("supports.float8_e4m3fn.matmul"):
        return True, ""
    return False, f"{runtime.chip.name} has no FP8 product; FP8 execution is not available on it."


# Products -------------------------------------------------------------------------------------------------------------

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def _cast(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [m, k] -> (x in FP8 [m, k], its transpose [k, m]): one kernel that also finds the largest value."""
    both = [layout(torch.empty(shape, dtype=dtype, device="meta")) for shape in (x.shape, x.shape[::-1])]
    made = recording.launch("custom.transformer_engine.cast_transpose", (x,), both, (), (("flop", 3 * x.numel()),))
    return made[0], made[1]


class _Fp8Linear(torch.autograd.Function):
    """x [m, k], weight [n, k], bias [n] -> [m, n]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Any) -> Tensor:
        x8, x8_t = _cast(x, E4M3)
        w8, w8_t = _cast(weight, E4M3)
        ctx.save_for_backward(x8_t, w8_t)
        ctx.dtypes = x.dtype, weight.dtype
        return _product(x8, w8.t(), bias, x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x8_t, w8_t = ctx.saved_tensors
        to_input, to_weight, to_bias = ctx.needs_input_grad
        g8, g8_t = _cast(grad.contiguous(), E5M2)
        input_grad = _product(g8, w8_t.t(), None, ctx.dtypes[0]) if to_input else None
        weight_grad = _product(g8_t, x8_t.t(), None, ctx.dtypes[1]) if to_weight else None
        return input_grad, weight_grad, grad.sum(0) if to_bias else None


def _product(one: Tensor, two: Tensor, bias: Any, dtype: torch.dtype) -> Tensor:
    """[m, k] @ [k, n] in FP8, with the scales that a real run keeps beside its tensors."""
    out = dtype if dtype is not torch.float32 else torch.bfloat16
    scale = torch.ones((), device=one.device)
    bias = None if bias is None else bias.to(out)
    return torch._scaled_mm(one, two, scale, scale, bias=bias, out_dtype=out, use_fast_accum=True).to(dtype)


class _Fp8Products(te_parallel.Products):
    """Products in FP8 of a layer that is split: what travels is 8 bits wide too."""

    @staticmethod
    def keep(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _cast(x, E4M3)[0], _cast(weight, E4M3)[0]

    @staticmethod
    def keep_grad(grad: Tensor) -> Tensor:
        return _cast(grad, E5M2)[0]

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Any, dtype: torch.dtype) -> Tensor:
        return _product(x, weight.t(), bias, dtype)

    @staticmethod
    def to_input(grad: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return _product(grad, weight.t().contiguous().t(), None, dtype)

    @staticmethod
    def to_weight(grad: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        return _product(grad.t().contiguous(), x.t().contiguous().t(), None, dtype)

    @staticmethod
    def add_to(main_grad: Tensor, grad: Tensor, x: Tensor) -> None:
        main_grad += _Fp8Products.to_weight(grad, x, main_grad.dtype)


WHOLE = te_parallel.Split(None, None, False)


def linear(x: Tensor, weight: Tensor, bias: Any, split: te_parallel.Split = WHOLE, fuse: bool = False) -> Tensor:
    """[..., k] -> [..., n], in FP8 inside of `fp8_autocast`, else as torch does it. fuse: add gradients to `main_grad`."""
    if split.size > 1 or (fuse and hasattr(weight, "main_grad")):
        products = _Fp8Products if _Fp8.enabled else te_parallel.Products
        return te_parallel.product(x, weight, bias, split, products, fuse and hasattr(weight, "main_grad"))
    if not _Fp8.enabled:
        return F.linear(x, weight, bias)
    if torch.is_autocast_enabled("cuda"):
        x = x.to(torch.get_autocast_dtype("cuda"))
    rows = x.reshape(-1, x.shape[-1])
    assert not any(size % 16 for size in (*rows.shape, weight.shape[0])), (
        f"FP8 execution requires all dimensions to be divisible by 16, got {tuple(rows.shape)} and {tuple(weight.shape)}"
    )
    out: Tensor = _Fp8Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], weight.shape[0])
