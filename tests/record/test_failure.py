import pytest

from anychip.record.failure import first_line


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", ""),
        ("ValueError: bad shard\nof rank 3", "ValueError: bad shard"),
        ("RuntimeError: \n            [Stage 3] failed to run forward:\n    args: ()", "RuntimeError: [Stage 3] failed to run forward:"),
        ("SystemExit: no data", "SystemExit: no data"),
        (
            "RuntimeError: Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
            '  File "data.py", line 3, in __getitem__\n    raise OSError(path)\nOSError: no picture\nat all\n',
            "OSError: no picture",
        ),
        ("UnpicklingError: \x1b[1mdo so only if you trust it\x1b[0m.", "UnpicklingError: do so only if you trust it."),
    ],
)  # fmt: skip
def test_an_error_is_told_by_the_first_line_of_its_text_that_says_something(said: str, told: str) -> None:
    assert first_line(said) == told
