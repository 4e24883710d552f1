from types import SimpleNamespace
from typing import Any

from anychip.cluster.axes import axes_of, copies, shards_parameters
from anychip.network import Collective
from anychip.record import Group, Op, TensorMeta
from tests.timeline.tapes import Kind, Mark, mark, mm, w
from tests.timeline.tapes import program as tape


def test_megatrons_groups_have_the_short_names_of_the_field() -> None:
    """They were axes of their own, and each tensor-parallel rank counted the tokens of all."""
    described = ("TENSOR_MODEL_PARALLEL_GROUP", "DATA_PARALLEL_GROUP_WITH_CP", "MODEL_PARALLEL_GROUP", "fsdp")
    program: Any = SimpleNamespace(groups=[Group((0, 1), name) for name in described])
    axes = axes_of(program, {})
    assert axes == ["tp", "dp", "tp_pp", "fsdp"]
    assert copies(program, axes, ("tp",)) == 2


def test_ranks_that_send_on_around_an_attention_share_a_sequence() -> None:
    """Rings of attention written by hand were pipelines, of which the first rank's tokens alone counted; stages have products
    before and behind theirs."""
    t = TensorMeta((1, 8, 512, 64), (8 * 512 * 64, 512 * 64, 64, 1), "bfloat16")
    attention = Op("aten._scaled_dot_product_flash_attention.default", (t, t, t), (), (t,))
    ops = [Op(f"c10d.{name}.default", ((t,), (t,), 0)) for name in ("send", "recv_")] + [attention, mm(512, 512, 512)]
    calls = {op: Collective(kind, 1 << 20, "bfloat16", 0, peer=1) for op, kind in enumerate(("send", "recv"))}
    axes = []
    for order in ((3, 0, 1, 2, 0, 1, 2, 3), (0, 3, 2, 3, 1, 0, 3, 2, 3, 1)):
        program = tape([mark(Mark.FORWARD_BEGIN), *(w(Kind.OP, op) for op in order), mark(Mark.FORWARD_END)], ops)
        program.groups = [Group((0, 1))]
        axes += axes_of(program, calls)
    assert axes == ["cp", "pp"]


def test_parameters_are_sharded_where_the_backward_gathers_them_again() -> None:
    """ZeRO-1 gathers in the forward, once a step; sequence-parallel ranks gather activations."""
    gather = Collective("all_gather", 1 << 20, "bfloat16", 0)
    forward = [mark(Mark.FORWARD_BEGIN), w(Kind.OP, 0), mark(Mark.FORWARD_END)]
    backward = [mark(Mark.BACKWARD_BEGIN), w(Kind.OP, 0), mark(Mark.BACKWARD_END)]
    once, twice = (tape(words, [mm(512, 512, 512)]) for words in (forward, [*forward, *backward]))
    assert not shards_parameters(once, {0: gather}, ["dp"])
    assert shards_parameters(twice, {0: gather}, ["dp"])
    assert not shards_parameters(twice, {0: gather}, ["tp"])
