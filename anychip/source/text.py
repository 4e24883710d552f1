"""The text of a file: decoded as its kind says, with lines, byte offsets and columns.

Python files are decoded as PEP 263 says (a byte order mark, a coding line, else UTF-8). What cannot be decoded raises
`Unreadable` with the reason in words.
"""

import ast
import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

BINARY = re.compile(rb"\x00")
# A declaration of another encoding, in the first two lines.
_CODING = re.compile(rb"\A(?:[^\n]*\n)?[ \t\f\xef\xbb\xbf]*#[^\n]*coding[:=]")
# Longer files are data, or made by a program: nobody ports them by hand.
MAX_BYTES = 20_000_000
# So are longer lines, in characters, of settings, scripts and prose.
MAX_LINE = 10_000


class Unreadable(Exception):
    """A file that is skipped; the text says why."""


class Text:
    """A text, its UTF-8 bytes, and where lines begin in them (after \\n, \\r\\n and \\r, as Python's tokenizer counts)."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def data(self) -> bytes:
        return self.text.encode("utf-8", "surrogateescape")

    @property
    def imports(self) -> Mapping[int, int]:
        """Of each import statement the byte offset of its begin, and of its end; of a text that is no Python none."""
        return {}

    @cached_property
    def starts(self) -> list[int]:
        """Byte offset of each line."""
        return [0, *(match.end() for match in re.finditer(rb"\r\n|\n|\r", self.data))]

    @property
    def num_lines(self) -> int:
        """Lines as an editor counts them: a last line without an end counts, nothing after the last end does not."""
        return len(self.starts) - (self.starts[-1] == len(self.data))

    def offset(self, line: int, column: int) -> int:
        """Byte offset of ast's place: line from 1, column in UTF-8 bytes from 0."""
        return self.starts[line - 1] + column

    def line_of(self, offset: int) -> int:
        return bisect_right(self.starts, offset)

    def line(self, number: int) -> str:
        """A line (from 1) without its end."""
        end = self.starts[number] if number < len(self.starts) else len(self.data)
        return self.slice(self.starts[number - 1], end).rstrip("\r\n")

    def start(self, node: ast.AST) -> int:
        """Byte offset at which a node begins."""
        line, column = cast(Any, node).lineno, cast(Any, node).col_offset
        return self.offset(line, column)

    def end(self, node: ast.AST) -> int:
        line, column = cast(Any, node).end_lineno, cast(Any, node).end_col_offset
        return self.offset(line, column)

    def of(self, node: ast.AST) -> str:
        """A node as it is written."""
        return self.slice(self.start(node), self.end(node))

    def end_of_line(self, node: ast.AST) -> int:
        """Where the last line of a node ends, before its line end: behind any comment."""
        number = cast(Any, node).end_lineno
        end = self.starts[number] if number < len(self.starts) else len(self.data)
        while end > self.starts[number - 1] and self.data[end - 1 : end] in (b"\r", b"\n"):
            end -= 1
        return end

    def slice(self, start: int, end: int) -> str:
        return self.data[start:end].decode("utf-8", "surrogateescape")

    def column(self, line: int, byte_column: int) -> int:
        """Column from 1, in characters, of a byte column from 0."""
        start = self.starts[line - 1]
        return len(self.data[start : start + byte_column].decode("utf-8", "replace")) + 1


def shown(path: str) -> str:
    """The name of a file for a line of a report: line ends, and bytes that are no text, as escapes."""
    return path if path.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in path)


def lines_of(text: str) -> list[str]:
    """Lines without their ends, as editors and Python's tokenizer count them: str.splitlines ends them at form feeds too."""
    return re.split("\r\n|\n|\r", text)


def decode(data: bytes, python: bool = False) -> str:
    """The text of a file. Raises Unreadable for binary files, unknown encodings and bytes that are not text."""
    if BINARY.search(data[:8192]):
        raise Unreadable("binary: it has zero bytes")
    if not python:
        return data.decode("utf-8", "replace").removeprefix("\ufeff")
    try:
        encoding = (
            "utf-8" if not _CODING.search(data[:1000]) else tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        )
        return data.decode(encoding).removeprefix("\ufeff")
    except (SyntaxError, LookupError) as error:
        raise Unreadable(f"its encoding is not known: {error}") from None
    except UnicodeDecodeError as error:
        raise Unreadable(f"byte {error.start} is not {error.encoding} text") from None
