import pytest

from anychip.record.failure import first_line


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", ""),
        ("ValueError: bad shard\nof rank 3", "ValueError: bad shard"),
        ("RuntimeError: \n            [Stage 3] failed to run forward:\n    args: ()", "RuntimeError: [Stage 3] failed to run forward:"),
        ("SystemExit: no data", "SystemExit: no data"),
        ("UnpicklingError: \x1b[1mdo so only if you trust it\x1b[0m.", "UnpicklingError: do so only if you trust it."),
    ],
)  # fmt: skip
def test_an_error_is_told_by_the_first_line_of_its_text_that_says_something(said: str, told: str) -> None:
    assert first_line(said) == told
