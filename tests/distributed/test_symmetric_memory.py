"""Symmetric memory: its operators are the collectives that they stand for, and what reaches into a peer's memory is refused."""

import pytest

from anychip import api
from anychip.errors import ProgramFailed
from anychip.network import collective_of
from tests.distributed.jobs import collectives, job

MIB = 1 << 20


def test_its_operators_are_priced_as_collectives() -> None:
    """`empty` already failed: a build without CUDA has no such memory."""
    program = job("symmetric.py", 8, "ops", steps=1)
    assert program.meta["exit_code"] == 0
    assert collectives(program) == {
        "allreduce_": 4,
        "_allgather_base_": 2,
        "_reduce_scatter_base_": 2,
        "barrier": 2,
    }
    calls = [call for call in map(collective_of, program.ops) if call is not None]
    assert {(call.kind, call.nbytes) for call in calls} == {
        ("all_reduce", 2 * MIB), ("all_gather", 16 * MIB), ("reduce_scatter", 16 * MIB), ("barrier", 0),
    }  # fmt: skip


def test_fused_products_run_beside_their_collective() -> None:
    plain, fused = (api.forecast(job("symmetric.py", 8, how), on="h100:8").forecasts[0] for how in ("plain", "fused"))
    # a gather and a scatter of 128 MiB, each of which the product that it belongs to outlasts
    assert plain.breakdown_s["exposed_comm"] > 0.7e-3
    assert fused.breakdown_s["exposed_comm"] < 0.05e-3
    assert fused.executed_flop_per_step == plain.executed_flop_per_step


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("peer", "asks rank 0's symmetric memory for get_buffer(1, ...)"),
        ("put", "calls torch.ops.symm_mem.nvshmem_put"),
    ],
    ids=["peer", "put"],
)
def test_what_goes_through_a_peers_memory_is_refused(how: str, what: str) -> None:
    with pytest.raises(ProgramFailed) as failed:
        job("symmetric.py", 8, how)
    assert failed.value.exit_code == 2
    assert f" {what}: what a program reads" in failed.value.said
    assert "Try an operator of torch.ops.symm_mem" in failed.value.said
