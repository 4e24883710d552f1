"""The JSON that scripts rely on: schema 1. Taking a key away, or changing what it means, raises the number."""

import json

import pytest

from anychip import api
from anychip.report import to_json

TOP = {"schema", "program", "targets", "num_ops", "distinct_ranks", "steps", "wall_s", "warnings"}
TARGET = {
    "chip": str, "num_chips": int, "fits": bool, "grade": str, "step_time_s": float, "step_time_error": float,
    "tokens_per_s_per_chip": (float, type(None)), "samples_per_s": (float, type(None)), "mfu": (float, type(None)), "hfu": (float, type(None)),
    "model_flop_per_step": float, "peak_memory_bytes": int, "memory_bytes": int, "breakdown_s": dict,
    "unpriced_share": float, "evidence": dict, "energy_j": (float, type(None)), "cost_usd": (float, type(None)),
}  # fmt: skip
BREAKDOWN = {"compute", "memory_bound", "exposed_comm", "bubble", "host"}
EVIDENCE = {"measured", "interpolated", "modelled", "bytes_only"}


@pytest.fixture
def data(program):
    return json.loads(json.dumps(to_json(api.forecast(program, on=["h100", "tpu-v5p"]))))


def test_keys_and_types(data):
    assert data["schema"] == 1
    assert set(data) >= TOP
    assert set(data["wall_s"]) == {"record", "price", "total"}
    assert [target["chip"] for target in data["targets"]] == ["nvidia-h100-sxm", "google-tpu-v5p"]
    for target in data["targets"]:
        for key, kind in TARGET.items():
            assert isinstance(target[key], kind), key
        assert set(target["breakdown_s"]) == BREAKDOWN
        assert set(target["evidence"]) == EVIDENCE
        assert set(target["compared"]) == {
            "sigma",
            "runs",
            "layers",
            "times",
            "all_chips",
            "bias",
            "most_chips",
            "does",
            "trait",
            "own",
            "lacks",
        }


def test_what_was_added_is_listed_here(data):
    assert set(data) - TOP == {
        "interrupted",
        "stragglers",
        "outcome",
        "exit_code",
        "left_out",
        "failure",
        "hang",
        "host",
    }
    assert set(data["targets"][0]) - set(TARGET) == {
        "asked", "compared", "failure", "kernels_per_step", "limit", "matrix_dtype", "memory_by_kind", "own_recording", "reserved_memory_bytes",
        "axes", "cluster", "first_step_s", "critical_path", "distinct_ranks", "goodput", "pace", "ranks",
        "samples_per_step", "step_kind", "stepping_memory_bytes", "time_by_phase_s", "tokens_per_step", "top_ops", "memory_by_module", "values_read",
        "would_fail", "runs_took", "tokens_per_s", "usd_per_hour", "usd_per_million_tokens", "scaling", "inherits", "rests_on", "host_bound", "error_parts",
        "prompt_tokens", "usd_per_million_prompt_tokens",
    }  # fmt: skip


def test_one_chip_is_no_job(data):
    assert data["distinct_ranks"] == 1
    for target in data["targets"]:
        assert (target["cluster"], target["goodput"], target["distinct_ranks"]) == (None, None, 1)
        assert target["ranks"] == target["critical_path"] == []
        assert target["axes"] == {}


def test_parts_add_up(data):
    for target in data["targets"]:
        assert sum(target["breakdown_s"].values()) == pytest.approx(target["step_time_s"])
        assert sum(target["evidence"].values()) == pytest.approx(1)
        assert sum(target["memory_by_kind"].values()) == pytest.approx(target["peak_memory_bytes"])
        assert target["unpriced_share"] == target["evidence"]["bytes_only"]


def test_it_is_strict_json(program):
    """No NaN and no Infinity: many readers refuse them."""
    json.dumps(to_json(api.forecast(program, on="h100")), allow_nan=False)
