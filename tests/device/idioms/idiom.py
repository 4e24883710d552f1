"""What the idiom programs beside this file share: a table of small functions, each run by itself, and its report."""

import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import torch

_table: list[tuple[tuple[str, ...], Callable[[], None]]] = []


def idiom(*names: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """The function shows that a program may use each of `names` (lines of cuda_idioms.csv, or other names)."""

    def add(function: Callable[[], None]) -> Callable[[], None]:
        _table.append((names, function))
        return function

    return add


def chip(*shape: int, **options: object) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", **options)


def raises(kind: type[BaseException], function: Callable[[], object], text: str = "") -> None:
    try:
        function()
    except kind as error:
        said = str(error)
    else:
        raise AssertionError(f"{kind.__name__} was not raised")
    assert text in said, said


def main() -> None:
    """Run everything and write {name: "" or traceback} to the file named on the command line."""
    warnings.simplefilter("ignore")
    only = sys.argv[2:]
    report: dict[str, str] = {}
    for names, function in _table:
        if only and not any(one in name for one in only for name in names):
            continue
        began = time.process_time()
        try:
            function()
            text = ""
        except BaseException:
            text = traceback.format_exc()
        if only or time.process_time() - began > 1:
            print(f"{function.__name__}: {time.process_time() - began:.2f} s {text}", file=sys.stderr)
        for name in names:
            report[name] = report.get(name, "") + text
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(report, file)
