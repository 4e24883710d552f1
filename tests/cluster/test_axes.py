from types import SimpleNamespace
from typing import Any

from anychip.cluster.axes import axes_of, copies
from anychip.record import Group


def test_megatrons_groups_have_the_short_names_of_the_field() -> None:
    """They were axes of their own, and each tensor-parallel rank counted the tokens of all."""
    described = ("TENSOR_MODEL_PARALLEL_GROUP", "DATA_PARALLEL_GROUP_WITH_CP", "MODEL_PARALLEL_GROUP", "fsdp")
    program: Any = SimpleNamespace(groups=[Group((0, 1), name) for name in described])
    axes = axes_of(program, {})
    assert axes == ["tp", "dp", "tp_pp", "fsdp"]
    assert copies(program, axes, ("tp",)) == 2
