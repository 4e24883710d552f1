"""What is said of targets beside one another."""

from types import SimpleNamespace

import pytest

from anychip.caveats import targets
from anychip.places import Place
from anychip.spec import load_chip


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("h100", "PYTORCH_CUDA_ALLOC_CONF"),
        ("mi300x", "PYTORCH_HIP_ALLOC_CONF"),
        ("ascend-910b", "PYTORCH_NPU_ALLOC_CONF"),
    ],
)
def test_a_setting_of_the_allocator_is_named_as_the_platform_names_it(name, variable):
    """Owners of every vendor's chips were told to set NVIDIA's."""
    full = SimpleNamespace(peak_memory_bytes=70 << 30, memory_bytes=72 << 30)
    said = targets.scattered(Place(name, load_chip(name)), full)
    assert said.endswith(f"finds no room for one of them in a piece. {variable}=expandable_segments:True may help.")


def test_no_setting_is_named_where_the_platform_s_file_has_none():
    full = SimpleNamespace(peak_memory_bytes=70 << 30, memory_bytes=72 << 30)
    assert targets.scattered(Place("gaudi3", load_chip("gaudi3")), full).endswith("in a piece.")
