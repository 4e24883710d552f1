"""A recording that is forked from a warm process is as one from a process of its own."""

from pathlib import Path

import pytest
from warm import Recorders

from anychip.device import launch
from anychip.spec import load_chip

PROGRAMS = Path(__file__).parent


@pytest.mark.parametrize(
    ("program", "num_chips"), [("programs/train_small.py", 1), ("distributed/programs/ddp.py", 2)], ids=["chip", "job"]
)
def test_a_warm_recording_is_as_a_cold_one(program, num_chips, monkeypatch):
    recorders = Recorders()
    monkeypatch.setattr(launch, "subprocess", recorders.as_subprocess())

    def recorded():
        return launch.record(
            [str(PROGRAMS / program)], load_chip("h100"), world_size=num_chips, devices=num_chips, show_output=False
        )

    cold = recorded()
    assert not recorders.kept
    warm = recorded()
    assert recorders.kept
    recorders.end()
    for one, other in zip(cold.ranks, warm.ranks, strict=True):
        assert one.ops == other.ops
        assert one.tape.tolist() == other.tape.tolist()
    assert {**cold.meta, "wall_s": 0} == {**warm.meta, "wall_s": 0}
