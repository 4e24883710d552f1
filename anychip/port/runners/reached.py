"""Which of some lines a program reaches. Each is written down at once: a run may end at any moment, and in any process."""

import json
import os
import sys
import threading
from types import FrameType
from typing import Any


class Reached:
    """A trace function of Python's. left: by file the lines that nobody has reached."""

    def __init__(self, out: str, left: dict[str, set[int]]) -> None:
        self.out = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.left = left
        self.known: dict[str, set[int]] = {}  # the same by the name that code has for its file

    def called(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Follow a function that has such a line."""
        name = frame.f_code.co_filename
        if name not in self.known:
            self.known[name] = self.left.get(os.path.realpath(name), set())
        left = self.known[name]
        return self.line if left and any(line in left for *_, line in frame.f_code.co_lines()) else None

    def line(self, frame: FrameType, event: str, argument: Any) -> Any:
        name, line = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and line in self.known[name]:
            self.known[name].discard(line)
            os.write(self.out, f"{json.dumps([os.path.realpath(name), line])}\n".encode())
        return self.line


def watch(asked: str) -> None:
    """asked: a JSON file, {"lines": {file: [line, ...]}, "out": file}. Lines of files below the current folder are looked for."""
    with open(asked, encoding="utf-8") as file:
        wanted = json.load(file)
    here = os.path.join(os.path.realpath(os.getcwd()), "")
    lines = {file: set(lines) for file, lines in wanted["lines"].items() if file.startswith(here)}
    if lines:
        trace = Reached(wanted["out"], lines).called
        threading.settrace(trace)
        sys.settrace(trace)
