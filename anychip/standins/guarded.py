"""Who asks for a module, and whether it can do without.

Installed libraries probe for others (`importlib.util.find_spec`, `try: import x`) and take another path where
one is there. In this environment it is not, so a probe by an installed library is answered so; the user's own program,
written for a machine that has the library, is served.
"""

import sys
from collections.abc import Sequence
from types import CodeType, FrameType


def hidden(serves: Sequence[str] = ()) -> bool:
    """Whether the import that is running now is a probe by an installed library or by torch. serves: top-level packages
    that are the program itself, installed (a trainer)."""
    frame: FrameType | None = sys._getframe(1)
    probed = False
    while frame is not None:
        name = frame.f_code.co_filename
        if _is_import_machinery(name) or "/anychip/standins/" in name:
            probed = probed or (frame.f_code.co_name == "find_spec" and name.endswith("util>"))
            probed = probed or (frame.f_code.co_name == "find_spec" and name.endswith("importlib/util.py"))
        elif not is_installed(name) or frame.f_globals.get("__name__", "").partition(".")[0] in serves:
            return False
        elif probed or covered(frame.f_code, frame.f_lasti):
            return True
        elif frame.f_code.co_name != "<module>":
            return False
        frame = frame.f_back
    return False


def asked_by_find_spec() -> bool:
    """Whether somebody only asks for a module, by `importlib.util.find_spec`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not _is_import_machinery(name) and "/anychip/standins/" not in name:
            return False
        if _is_find_spec(frame):
            return True
        frame = frame.f_back
    return False


def _is_find_spec(frame: FrameType) -> bool:
    return frame.f_code.co_name == "find_spec" and frame.f_code.co_filename.endswith(("util>", "importlib/util.py"))


def _is_import_machinery(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or "/importlib/" in filename


def is_installed(filename: str) -> bool:
    """Whether a file lies where packages are installed."""
    return "site-packages" in filename or "dist-packages" in filename


def covered(code: CodeType, instruction: int) -> bool:
    """Whether an exception at this instruction (byte offset) is handled in the same function.

    Reads the exception table of CPython 3.11 and later (InternalDocs/exception_handling.md): entries of four
    variable-length numbers start, length, target, depth << 1 | lasti, in units of two bytes.
    """
    numbers = iter(_varints(code.co_exceptiontable))
    for start, length, _target, depth_lasti in zip(numbers, numbers, numbers, numbers, strict=False):
        if start * 2 <= instruction < (start + length) * 2 and not depth_lasti & 1:
            return True
    return False


def _varints(table: bytes) -> list[int]:
    """Big-endian base-64 numbers; bit 6 says that more follows, bit 7 marks the first byte of an entry."""
    numbers: list[int] = []
    value = 0
    for byte in table:
        value = value << 6 | byte & 63
        if not byte & 64:
            numbers.append(value)
            value = 0
    return numbers
