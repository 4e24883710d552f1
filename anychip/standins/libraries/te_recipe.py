"""`transformer_engine.common.recipe`: how FP8 scales are kept. Which recipe is used changes no shape here, but what is read."""

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, NamedTuple


class _Range(NamedTuple):
    max_fwd: float
    max_bwd: float


class Format(Enum):
    """Largest values forward and backward."""

    E4M3 = _Range(448.0, 448.0)
    E5M2 = _Range(57344.0, 57344.0)
    HYBRID = _Range(448.0, 57344.0)


class Recipe:
    """Base of all recipes."""

    def delayed(self) -> bool:
        return isinstance(self, DelayedScaling)

    def mxfp8(self) -> bool:
        return isinstance(self, MXFP8BlockScaling)

    def float8_current_scaling(self) -> bool:
        return isinstance(self, Float8CurrentScaling)

    def float8_block_scaling(self) -> bool:
        return isinstance(self, Float8BlockScaling)


def recipe(cls: type) -> type:
    """A dataclass that ignores keywords that it does not know, as pydantic's do, of which the real recipes are made."""
    made: Any = dataclass(cls)
    known, init = {one.name for one in fields(made)}, made.__init__

    def __init__(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **{name: value for name, value in options.items() if name in known})

    made.__init__ = __init__
    return made  # type: ignore[no-any-return]


@recipe
class DelayedScaling(Recipe):
    margin: int = 0
    fp8_format: Format = Format.HYBRID
    amax_history_len: int = 1024
    amax_compute_algo: Any = "max"
    scaling_factor_compute_algo: Any = None
    reduce_amax: bool = True
    fp8_dpa: bool = False
    fp8_mha: bool = False
    interval: int = -1
    override_linear_precision: tuple[bool, bool, bool] = (False, False, False)


@recipe
class Float8CurrentScaling(Recipe):
    fp8_format: Format = Format.HYBRID
    fp8_dpa: bool = False
    fp8_mha: bool = False


@recipe
class MXFP8BlockScaling(Recipe):
    margin: int = 0
    fp8_format: Format = Format.E4M3


@recipe
class Float8BlockScaling(Recipe):
    fp8_format: Format = Format.E4M3


COMMON: dict[str, Any] = {"Format": Format, "Recipe": Recipe}
RECIPES: dict[str, Any] = {
    one.__name__: one for one in (DelayedScaling, Float8CurrentScaling, MXFP8BlockScaling, Float8BlockScaling)
}
