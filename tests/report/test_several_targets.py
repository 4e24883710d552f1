"""What is said of targets beside one another."""

from types import SimpleNamespace

import pytest

from anychip import api
from anychip.caveats import targets
from anychip.places import Place
from anychip.spec import load_chip
from tests.timeline.tapes import Kind, add, program, w


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


def test_what_is_set_as_it_is_told_to_counts_for_that_chip_alone(monkeypatch):
    """The setting that owners of an MI300X were told, by its name there, changed nothing."""
    blocks = [w(Kind.ALLOC, 0), w(Kind.FREE, 0), w(Kind.ALLOC, 1), w(Kind.OP, 0)]
    grown = program(blocks, [add(4)], [30 << 20, 50 << 20])

    def reserved():
        return api.forecast(grown, on=["h100", "mi300x"]).reserved_bytes

    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_HIP_ALLOC_CONF", "expandable_segments:True")
    assert reserved() == (80 << 20, 60 << 20)  # a second segment; one that grows by pages of 20 MiB
    monkeypatch.delenv("PYTORCH_HIP_ALLOC_CONF")
    assert reserved() == (80 << 20, 80 << 20)
