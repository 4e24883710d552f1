"""The public names: changing them is a decision."""

import inspect
import subprocess
import sys

import anychip


def test_names():
    assert anychip.__all__ == [
        "Answer",
        "Chip",
        "Forecast",
        "Program",
        "__version__",
        "audit",
        "forecast",
        "kernel",
        "measure",
        "port",
        "record",
    ]
    assert dir(anychip) == sorted(anychip.__all__)
    for name in anychip.__all__:
        assert getattr(anychip, name) is not None


def test_parameters():
    from anychip import api

    assert list(inspect.signature(api.record).parameters) == [
        "program", "on", "module", "steps", "calls", "step_mark", "host", "device", "imbalance", "show_output", "num_chips", "chips_per_node", "ranks", "jobs", "cluster", "draft", "note",
    ]  # fmt: skip
    assert list(inspect.signature(api.forecast).parameters) == [
        "program", "on", "tokens_per_step", "samples_per_step", "prices", "jobs", "jitter", "slow_node", "degraded_link", "spread", "progress", "options",
    ]  # fmt: skip
    for method in ("save", "load"):
        assert callable(getattr(anychip.Program, method))
    assert callable(anychip.Chip.load)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(anychip, "no_such_name")


def test_verbs_are_callable_before_and_after_their_package_is_imported():
    code = """
import anychip
assert callable(anychip.record) and callable(anychip.forecast)
import anychip.record.program
from anychip.record import Program
assert callable(anychip.record) and anychip.record.Program is Program is anychip.Program
try:
    anychip.record("no-such-script.py", on="h100")
except anychip.errors.BadUse as error:
    assert "no-such-script.py" in str(error)
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
