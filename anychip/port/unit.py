"""What a rule is given and what it makes: one file, one target, and the changes and refusals so far.

A rule calls `change` for an occurrence that it edits and `leave` for one that it does not. Two rules that want the same
bytes: the first has them, and what stands inside them is thereby done.
"""

import ast
import sys
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from anychip.port.edits import UNSURE, Edit, Left
from anychip.port.header import Header
from anychip.port.module import Module
from anychip.port.target import Target
from anychip.source.ignores import NONE, Ignores

# Positions inside f-strings are told exactly from Python 3.12 on.
EXACT_F_STRINGS = sys.version_info >= (3, 12)


@dataclass(frozen=True)
class Change:
    """One occurrence that was edited: by which rule, what it was, why, and the bytes to replace."""

    rule: str
    symbol: str
    reason: str
    pieces: tuple[Edit, ...]

    @property
    def offset(self) -> int:
        return self.pieces[0].start


@dataclass
class Unit:
    """own_cuda: classes of the project with a method cuda() and none called to(), by name. ignores: comments of the file that
    keep rules away from a line (`# anychip: ignore[cuda-api]`)."""

    module: Module
    target: Target
    header: Header
    own_cuda: Mapping[str, str] = field(default_factory=dict)
    ignores: Ignores = NONE
    changes: list[Change] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    done: list[tuple[int, int]] = field(default_factory=list)
    handled: set[ast.AST] = field(default_factory=set)

    # ------------------------------------------------------------ what rules call

    def replace(self, node: ast.AST, text: str, rule: str, reason: str, symbol: str = "") -> bool:
        """Write `text` in the place of a node. False (and told) where its place is not certain."""
        span = self.span(node)
        if span is None or not self._fits(node, text):
            return self.unsure(node, rule, symbol)
        return self.change([(*span, text)], rule, reason, symbol or self.module.slice(*span))

    def change(self, pieces: Sequence[tuple[int, int, str]], rule: str, reason: str, symbol: str) -> bool:
        """Edit all the pieces or none. True where the bytes are taken care of, by this change or an earlier one."""
        if self.ignores.covers(self.module.line_of(min(pieces)[0]), rule):
            return True
        if any(self._is_taken(start, end) for start, end, _ in pieces):
            return True
        ordered = sorted(pieces)
        self.changes.append(
            Change(rule, symbol, reason, tuple(Edit(s, e, text, rule, reason) for s, e, text in ordered))
        )
        for start, end, _ in ordered:
            if end > start:
                insort(self.done, (start, end))
        return True

    def _is_taken(self, start: int, end: int) -> bool:
        """Whether an earlier change has some of these bytes; `done` is sorted, and nothing in it overlaps."""
        at = bisect_left(self.done, (end, 0))
        return at > 0 and self.done[at - 1][1] > start

    def leave(self, node: ast.AST, rule: str, reason: str, kind: str, symbol: str = "") -> None:
        """Tell that this was left, once per place."""
        offset = self.module.start(node)
        if self.ignores.covers(self.module.line_of(offset), rule):
            return
        if not self._is_taken(offset, offset + 1):
            self.left.append(Left(offset, symbol or self.module.of(node).split("\n")[0][:80], rule, reason, kind))

    def unsure(self, node: ast.AST, rule: str, symbol: str = "") -> bool:
        anchor = self.f_string(node) or node
        why = "inside an f-string, where an edit could change its text"
        if anchor is node and self.scripted(node):
            why = "TorchScript compiles this function, and sees no names of the file's top"
        self.leave(anchor, rule, why, UNSURE, symbol)
        return False

    # ------------------------------------------------------------ places

    def f_string(self, node: ast.AST) -> ast.JoinedStr | None:
        """The outermost f-string that a node stands in."""
        if not self.module.found.joined:
            return None
        found = [up for up in self.module.ancestors(node) if isinstance(up, ast.JoinedStr)]
        return found[-1] if found else None

    def span(self, node: ast.AST) -> tuple[int, int] | None:
        """Bytes of a node. Inside f-strings, where older Pythons misplace nodes, only where the text there is the node."""
        source, string = self.module, self.f_string(node)
        if string is None or EXACT_F_STRINGS:
            return source.start(node), source.end(node)
        text = ast.unparse(node)
        start, end = source.start(string), source.end(string)
        own = source.start(node), source.end(node)
        if start < own[0] < own[1] < end and source.slice(*own) == text:
            return own
        whole = source.slice(start, end)
        if whole.count(text) != 1:
            return None
        at = start + len(whole[: whole.index(text)].encode("utf-8", "surrogateescape"))
        return at, at + len(text.encode("utf-8", "surrogateescape"))

    def _fits(self, node: ast.AST, text: str) -> bool:
        """Inside an f-string the text may hold no quote of the kind that ends it, in Pythons before 3.12 none at all."""
        return self.f_string(node) is None or not ({'"', "'", "\\"} & set(text))

    def open_paren(self, call: ast.Call) -> int | None:
        """Offset behind the parenthesis that opens a call's arguments; None if anything else stands before it."""
        at = self.module.end(call.func)
        data = self.module.data
        while data[at : at + 1] in (b" ", b"\t", b"\n", b"\r", b"\\"):
            at += 1
        return at + 1 if data[at : at + 1] == b"(" else None

    def insert_argument(self, call: ast.Call, text: str) -> tuple[int, int, str] | None:
        """A first positional argument, with the comma that it needs."""
        at = self.open_paren(call)
        if at is None:
            return None
        return at, at, f"{text}, " if call.args or call.keywords else text

    def scripted(self, node: ast.AST) -> bool:
        """Whether a node stands in a function that TorchScript compiles, which sees no global names."""
        function = self.module.function_of(node)
        if function is None:
            return False
        names = {self.module.qualified(d.func if isinstance(d, ast.Call) else d) for d in function.decorator_list}
        return bool(names & {"torch.jit.script", "torch.jit.script_method", "torch.jit.export"})
