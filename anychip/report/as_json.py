"""The answer as JSON, schema 1: additions keep the number, anything else raises it. Plain SI units; null is unknown."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from anychip.errors import INTERRUPTED, Deadlock

if TYPE_CHECKING:
    from anychip.api import Answer
    from anychip.errors import ProgramFailed
    from anychip.forecast import Forecast
    from anychip.record.failure import Failure

SCHEMA = 1
TARGET_FIELDS = (
    "chip", "num_chips", "fits", "grade", "step_time_s", "step_time_error", "tokens_per_s_per_chip", "samples_per_s",
    "mfu", "hfu", "model_flop_per_step", "first_step_s", "peak_memory_bytes", "stepping_memory_bytes", "memory_bytes", "unpriced_share", "energy_j", "cost_usd",
    "step_kind", "limit", "matrix_dtype", "tokens_per_step", "samples_per_step", "kernels_per_step", "cluster", "would_fail",
    "tokens_per_s", "host_bound", "usd_per_million_tokens", "usd_per_hour",
    "prompt_tokens", "usd_per_million_prompt_tokens",
)  # fmt: skip
TARGET_TABLES = ("breakdown_s", "evidence", "memory_by_kind", "memory_by_module", "time_by_phase_s")
INHERITS_FIELDS = ("chip", "holds", "fails", "runs", "differs")
READ_FIELDS = ("file", "line", "function", "count")
OP_FIELDS = ("name", "shape", "count", "time_s", "share", "evidence", "limit")


def to_json(answer: "Answer") -> dict[str, Any]:
    first = answer.forecasts[0]
    return {
        "schema": SCHEMA,
        "program": answer.program,
        "targets": [_target(answer, index) for index in range(len(answer.names))],
        "num_ops": first.num_ops,
        "distinct_ranks": len(first.ranks) or 1,
        "steps": first.steps,
        "wall_s": dict(answer.wall_s),
        "warnings": list(answer.warnings),
        "interrupted": answer.interrupted,
        "host": answer.host,
        "stragglers": asdict(answer.stragglers) if answer.stragglers is not None else None,
        "outcome": answer.outcome,
        "exit_code": answer.exit_code,
        "left_out": list(answer.left_out),
        "failure": next((_failure(one) for one in answer.failures if one is not None), None),
        "hang": None,
    }


def no_answer(program: str, asked: Sequence[str], error: "ProgramFailed | Deadlock") -> dict[str, Any]:
    """The same keys where the program failed on every target before its first step was complete, or would hang."""
    interrupted = error.exit_code == INTERRUPTED
    hang, how = None, None
    if isinstance(error, Deadlock):
        outcome = "would_hang"
        hang = {"is_mismatch": error.is_mismatch, "ranks": [asdict(one) for one in error.stuck]}
    else:
        outcome = "interrupted" if interrupted else "does_not_fit" if error.is_short else "program_failed"
        how = error.how
    return {
        "schema": SCHEMA, "program": program, "targets": [], "num_ops": 0, "distinct_ranks": 0, "steps": 0, "wall_s": {},
        "warnings": [str(error)], "interrupted": interrupted, "host": None, "stragglers": None,
        "outcome": outcome, "exit_code": error.exit_code, "left_out": list(asked), "failure": _failure(how), "hang": hang,
    }  # fmt: skip


def _failure(failure: "Failure | None") -> dict[str, Any] | None:
    return asdict(failure) if failure is not None else None


def _target(answer: "Answer", index: int) -> dict[str, Any]:
    forecast = answer.forecasts[index]
    return {
        **{field: getattr(forecast, field) for field in TARGET_FIELDS},
        **{field: dict(getattr(forecast, field)) for field in TARGET_TABLES},
        "asked": answer.names[index],
        "inherits": [{name: getattr(lent, name) for name in INHERITS_FIELDS} for lent in answer.chips[index].inherits],
        "error_parts": [{"reason": reason, "error": error} for reason, error in forecast.error_parts.items()],
        "rests_on": {part: asdict(one) for part, one in forecast.rests_on.items()},
        "scaling": answer.scaling[index],
        "failure": _failure(answer.failures[index]) if answer.failures else None,
        "reserved_memory_bytes": answer.reserved_bytes[index],
        "own_recording": list(answer.own_recordings[index]),
        "compared": forecast.compared._asdict() if forecast.compared is not None else None,
        "runs_took": forecast.compared.longer if forecast.compared is not None else None,
        **_job(forecast),
        "values_read": [{field: getattr(read, field) for field in READ_FIELDS} for read in forecast.values_read],
        "top_ops": [{field: getattr(op, field) for field in OP_FIELDS} for op in forecast.top_ops],
    }


def _job(forecast: "Forecast") -> dict[str, Any]:
    """What there is to say of a job of several ranks; empty and null for one chip."""
    return {
        "distinct_ranks": len(forecast.ranks) or 1,
        "ranks": [asdict(rank) for rank in forecast.ranks],
        "axes": {name: asdict(axis) for name, axis in forecast.axes.items()},
        "critical_path": [asdict(part) for part in forecast.critical_path],
        "goodput": asdict(forecast.goodput) if forecast.goodput is not None else None,
        "pace": forecast.pace,
    }
