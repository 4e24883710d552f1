"""Collectives of Python objects take whatever the torch that is here takes."""

import pytest
from torch.distributed import distributed_c10d as c10d

from anychip.device.distributed import objects


def test_what_a_later_torch_asks_for_besides_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.14 has a `weights_only`, by which each job that broadcasts its settings ended."""
    monkeypatch.setattr(c10d, "_get_default_group", lambda: "everyone")

    def broadcast_object_list(object_list, src=None, group=None, device=None, group_src=None, weights_only=False):
        raise AssertionError("ours is called in its place")

    def ours(object_list: list[int], src: int, group: str, group_src: int | None = None) -> tuple[object, ...]:
        return object_list, src, group, group_src

    call = objects._for_members(broadcast_object_list, ours)
    assert call([1], src=0) == ([1], 0, "everyone", None)
    assert call([1], 0, device="cuda", weights_only=True) == ([1], 0, "everyone", None)
