"""Where attention ops keep their arguments: as torch's own schemas say."""

import pytest
import torch

from anychip.cost import work
from anychip.cost.matrix import _CALLS
from tests.cost.ops import op, t


@pytest.mark.parametrize("name", sorted(_CALLS))
def test_positions_are_those_of_the_schema(name):
    call = _CALLS[name]
    arguments = [a.name for a in getattr(torch.ops.aten, name.removeprefix("aten.")).default._schema.arguments]
    assert arguments[call.query] == "query"
    assert arguments[call.causal] == call.causal_name
    assert call.packed < 0 or arguments[call.packed] in ("cum_seq_q", "cu_seqlens_q")


@pytest.mark.parametrize(
    ("name", "before"), [("_flash_attention_forward", ()), ("_efficient_attention_forward", (None,))]
)
def test_packed_sequences_see_only_themselves(name, before):
    """A nested tensor of four sequences, 400 tokens together: 4 of 100 x 100 scores, not one of 400 x 400."""
    x = t(1, 400, 8, 64) if before else t(400, 8, 64)
    lengths = t(5, dtype="int32")
    rest = (0.0, 0) if before else (0.0, False, False)
    flop = work(op(f"aten.{name}.default", x, x, x, *before, lengths, lengths, 100, 100, *rest, out=x)).flop
    assert flop == 2 * 2 * 4 * 100 * 100 * 8 * 64
