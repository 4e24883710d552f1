"""torch's functions for objects get arguments with its versions, which mean nothing to what stands for them."""

from inspect import signature

from torch.distributed import distributed_c10d as c10d

from anychip.device.distributed.objects import Objects, _for_members


def test_arguments_that_later_torch_has_are_taken_and_those_that_older_lacks_not_missed(monkeypatch):
    monkeypatch.setattr(c10d, "_rank_not_in_group", lambda group: False)
    seen = []

    def broadcast_object_list(object_list, src=None, group=None, device=None, group_src=None, weights_only=None):
        """As of torch 2.14."""

    def older(object_list, src=0, group=None, device=None):
        """As of torch 2.6."""

    def ours(object_list, src, group, device, group_src=None):
        seen.append((object_list, src, group, device, group_src))

    _for_members(broadcast_object_list, ours)([1], group="g", group_src=2, weights_only=False)
    _for_members(older, ours)([1], 3, group="g")
    assert seen == [([1], None, "g", None, 2), ([1], 3, "g", None, None)]


def test_all_that_stand_for_torchs_functions_have_its_arguments_names():
    for name in [name for name in vars(Objects) if name.endswith(("_object", "_object_list"))]:
        assert set(signature(getattr(Objects, name)).parameters) - {"self"} <= set(
            signature(getattr(c10d, name)).parameters
        )
