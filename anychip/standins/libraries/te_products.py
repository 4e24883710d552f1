"""Products of Transformer Engine's layers, in FP8 inside of `fp8_autocast`, else as torch does them.

A linear layer in FP8 is: cast of the input, cast of the weight, one scaled product; backward a cast of the gradient and two
scaled products; with scales of the moment (`Float8CurrentScaling`) a pass for the largest value before each cast, with
`MXFP8BlockScaling` kernels that lay out scales before each product. Refused where the chip has no FP8 product, as there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins import recording
from anychip.standins.libraries import te_parallel
from anychip.standins.libraries.te_recipe import RECIPES, Recipe
from anychip.standins.libraries.te_release import called, lay_out, release
from anychip.standins.recording import layout

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


def _cast_once(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The cast alone."""
    made = recording.launch("custom.transformer_engine.cast", (x,), [layout(torch.empty(x.shape, dtype=dtype, device="meta"))],
                            (), (("flop", 3 * x.numel()),))  # fmt: skip
    return made[0]  # type: ignore[no-any-return]


def _product(one: Tensor, two: Tensor, bias: Any, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """[m, k] @ [n, k]^T in FP8, with the scales that a real run keeps beside its tensors."""
    wide = dtype if dtype is not torch.float32 else torch.bfloat16
    scale = _one(one.device)
    bias = None if bias is None else bias.to(wide)
    options = {"bias": bias, "out_dtype": wide, "use_fast_accum": True}
    if out is not None:
        return torch._scaled_mm(one, two.t(), scale, scale, **options, out=out)
    return torch._scaled_mm(one, two.t(), scale, scale, **options).to(dtype)


@cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), device=device)


def _added(grad: Tensor, x: Tensor, _one: Tensor, _two: Tensor, main_grad: Tensor) -> Tensor:
    return main_grad.add_((grad.float() @ x.float()).to(main_grad.dtype))


class Fp8Products(te_parallel.Products):
    """Products in FP8. Transposes come with the casts; what travels between ranks is 8 bits wide too, and is turned when it
    has arrived. kept: the casts of a weight, made at a step's first micro-batch. split: of the layer. alone: no expert of
    many, whose scales one kernel lays out."""

    def __init__(self, kept: tuple[Tensor, Tensor] | None, split: te_parallel.Split, alone: bool = True) -> None:
        self.kept, self.split = kept, split
        self.finds_scales = isinstance(_Fp8.recipe, Recipe) and _Fp8.recipe.float8_current_scaling()
        self.lays_out = scales_by_block() and (alone or release().at_once == 1)
        self.has_begun: set[str] = set()  # passes that multiply piece by piece, of one weight

    def of_input(self, x: Tensor, once: bool) -> tuple[Tensor, Tensor]:
        self.find_scale(x, "column")
        return (_cast_once(x, E4M3),) * 2 if once else _cast(x, E4M3)

    def of_weight(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if self.kept is None:
            self.find_scale(weight)
            self.kept = _cast(weight, E4M3)
        return self.kept

    def of_grad(self, grad: Tensor, once: bool) -> tuple[Tensor, Tensor]:
        self.find_scale(grad, "row")
        return (_cast_once(grad, E5M2),) * 2 if once else _cast(grad, E5M2)

    def lay_out_cast(self, x: Tensor, mode: str) -> None:
        """Scales that no cast has laid out, or that were gathered since, as layers of that mode do."""
        is_gathered = self.split.gathers and self.split.mode == mode
        if self.lays_out and (is_gathered or not release().casts_lay_out):
            lay_out(x, x.numel())

    def lay_out_weight(self, weight: Tensor, what: str) -> None:
        if self.lays_out and what not in self.has_begun:
            lay_out(weight, weight.numel())
        self.has_begun.add(what)

    def find_scale(self, x: Tensor, mode: str = "") -> None:
        """A pass for the largest value, where the tensor is scaled by it; in layers of that mode the ranks hold parts of one
        tensor and find its largest together."""
        if not self.finds_scales:
            return
        scalar = layout(torch.empty((), device="meta"))
        largest = recording.launch("custom.transformer_engine.amax", (x,), [scalar], (), (("flop", x.numel()),))[0]
        if self.split.gathers and self.split.mode == mode:
            torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, self.split.group)
        recording.launch("custom.transformer_engine.compute_scale", (largest,), [scalar], (), (("flop", 1),))

    def turned(self, x: Tensor) -> Tensor:
        return x.t().contiguous()

    def forward(self, x: Tensor, weight: Tensor, bias: Any, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        self.lay_out_cast(x, "column")
        self.lay_out_weight(weight, "forward")
        return _product(x, weight, bias, dtype, out)

    def to_input(self, grad: Tensor, weight: Tensor, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        self.lay_out_cast(grad, "row")
        self.lay_out_weight(weight, "backward")
        return _product(grad, weight, None, dtype, out)

    def to_weight(self, grad: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        self.lay_out_cast(grad, "row")
        self.lay_out_cast(x, "column")
        return _product(grad, x, None, dtype)

    def add_to(self, main_grad: Tensor, grad: Tensor, x: Tensor) -> None:
        """One product that adds to what is there, which torch's own FP8 product cannot."""
        self.lay_out_cast(grad, "row")
        self.lay_out_cast(x, "column")
        scale = _one(grad.device)
        recording.launch("aten._scaled_mm.out", (grad, x.t(), scale, scale, main_grad), (), (main_grad,),
                         reference=recording.Reference(_added))  # fmt: skip


def scales_by_block() -> bool:
    """Whether products are in MXFP8 just now."""
    return _Fp8.enabled and isinstance(_Fp8.recipe, Recipe) and _Fp8.recipe.mxfp8()


WHOLE = te_parallel.Split(None, None, False)


def linear(x: Tensor, weight: Tensor, bias: Any, split: te_parallel.Split = WHOLE, fuse: bool = False,
           is_first_microbatch: bool | None = None) -> Tensor:  # fmt: skip
    """[..., k] -> [..., n] of a layer, in FP8 inside of `fp8_autocast`, else as torch does it. fuse: add gradients to
    `main_grad`. is_first_microbatch: a weight's cast is made there and used by the others; None: made each time."""
    out = multiplied(x, weight, bias, split, fuse, is_first_microbatch)
    if not out.is_cuda:
        return out
    return called(out, release().layer_fp8 if _Fp8.enabled else release().layer)


def multiplied(x: Tensor, weight: Tensor, bias: Any, split: te_parallel.Split, fuse: bool, is_first_microbatch: bool | None,
               alone: bool = True) -> Tensor:  # fmt: skip
    """`linear` without what the layer's own code takes the host. alone: as of `Fp8Products`."""
    fuse = fuse and hasattr(weight, "main_grad")
    if not _Fp8.enabled:
        if split.size > 1 or fuse:
            return te_parallel.product(x, weight, bias, split, te_parallel.Products(), fuse)
        return F.linear(x, weight, bias)
    if torch.is_autocast_enabled("cuda"):
        x = x.to(torch.get_autocast_dtype("cuda"))
    sizes = (x.numel() // x.shape[-1], x.shape[-1], weight.shape[0])
    assert not any(size % 16 for size in sizes), (
        f"FP8 execution requires all dimensions to be divisible by 16, got {sizes[:2]} and {tuple(weight.shape)}"
    )
    products = Fp8Products(getattr(weight, "_casts", None) if is_first_microbatch is False else None, split, alone)
    out = te_parallel.product(x, weight, bias, split, products, fuse)
    if is_first_microbatch:
        weight._casts = products.kept  # type: ignore[attr-defined]
    return out
