"""Async tensor parallelism hides collectives behind the products that they feed, and nothing else."""

import pytest

from anychip import api
from anychip.forecast import Forecast
from tests.distributed.jobs import job

RANKS, TOKENS, WIDTH, BLOCKS = 8, 8192, 4096, 2


@pytest.fixture(scope="module")
def forecasts() -> dict[str, Forecast]:
    return {
        how: api.forecast(job("async_tp.py", RANKS, how), on=f"h100:{RANKS}").forecasts[0] for how in ("plain", "async")
    }


def calls(forecast: Forecast, kind: str) -> float:
    return sum(op.count for op in forecast.top_ops if kind in op.name)


def test_the_same_collectives_and_products_run(forecasts: dict[str, Forecast]) -> None:
    plain, beside = forecasts["plain"], forecasts["async"]
    for kind in ("all_gather", "reduce_scatter", "mm"):
        assert calls(plain, kind) == calls(beside, kind) > 0
    assert beside.executed_flop_per_step == plain.executed_flop_per_step


def test_gathers_and_scatters_hide_behind_their_products(forecasts: dict[str, Forecast]) -> None:
    """Of a block, up takes from a gather and down gives to a scatter; in the backward down's gradients take from a gather and
    that of up's input gives to a scatter. Each pair takes as long as its longer side, so most of the shorter is hidden."""
    plain, beside = forecasts["plain"], forecasts["async"]
    hidden = plain.breakdown_s["exposed_comm"] - beside.breakdown_s["exposed_comm"]
    product = 2 * TOKENS * WIDTH * 4 * WIDTH / RANKS / 989e12  # at peak, beside which nothing can hide more
    gather = 7 / 8 * TOKENS * WIDTH * 2 / 450e9
    assert hidden > 0.8 * BLOCKS * 4 * min(product, gather)
    assert beside.step_time_s < plain.step_time_s - 0.7 * hidden
    assert beside.step_time_s > plain.step_time_s - 1.05 * hidden
