"""Where attention ops keep their arguments: as torch's own schemas say."""

import pytest
import torch

from anychip.cost.matrix import _CALLS


@pytest.mark.parametrize("name", sorted(_CALLS))
def test_positions_are_those_of_the_schema(name):
    call = _CALLS[name]
    arguments = [a.name for a in getattr(torch.ops.aten, name.removeprefix("aten.")).default._schema.arguments]
    assert arguments[call.query] == "query"
    assert arguments[call.causal] == call.causal_name
