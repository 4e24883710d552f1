"""Which loop or check a program is in where it asks something, read from its bytecode and its source."""

import ast
import dis
import linecache
from enum import Enum
from functools import cache
from types import CodeType, FrameType
from typing import NamedTuple


class Around(Enum):
    """The innermost loop around what runs. WHILE and ENDLESS end by what they are told, the latter, a `while True`, by nothing else; a
    `for` ends when nothing is left."""

    NONE = 0
    FOR = 1
    WHILE = 2
    ENDLESS = 3


def loop_around(frame: FrameType | None) -> Around:
    """In this frame, or in one that called it."""
    while frame is not None:
        around = [loop for loop in _loops(frame.f_code) if loop[0] <= frame.f_lasti <= loop[1]]
        if around:
            if min(around, key=lambda loop: loop[1] - loop[0])[2]:
                return Around.FOR
            whiles = [
                one
                for one in _whiles(frame.f_code.co_filename)
                if one.lineno <= frame.f_lineno <= (one.end_lineno or 0)
            ]
            # (Of those around a line the innermost begins last.)
            ends = whiles and isinstance(max(whiles, key=lambda one: one.lineno).test, ast.Constant)
            return Around.ENDLESS if ends else Around.WHILE
        # (What runs the program is none of its loops.)
        is_whole = frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__"
        frame = None if is_whole else frame.f_back
    return Around.NONE


@cache
def _loops(code: CodeType) -> tuple[tuple[int, int, bool], ...]:
    """First and last byte of each loop of a function, and whether it is a `for`: whatever jumps back to a FOR_ITER, before which
    EXTENDED_ARG stands where the loop is long."""
    found: dict[int, tuple[int, int, bool]] = {}
    instructions = {one.offset: one for one in dis.get_instructions(code)}
    for one in instructions.values():
        if "JUMP_BACKWARD" in one.opname and "NO_INTERRUPT" not in one.opname:  # that one waits for a coroutine
            first = start = int(one.argval)
            while instructions[first].opname == "EXTENDED_ARG":
                first += 2  # bytes of an instruction
            found[start] = (start, one.offset, instructions[first].opname == "FOR_ITER")  # the last is the loop's end
    return tuple(found.values())


class Wanted(NamedTuple):
    """Of the condition of a `while`, of an `assert`, of an `if` that asks whether a mask selects anything, or of one that leaves a loop
    (`ast.Break`), or a part of it: of which, the truth of it with which the loop goes on, the check holds, the selection is made or the
    loop is left, and where it stands: file, line and column."""

    of: type[ast.AST]
    truth: bool
    where: tuple[str, int, int]


def wanted(frame: FrameType) -> Wanted | None:
    """What is wanted of that which is read now, if it is a condition; what a function in one reads for itself is none."""
    file, (line, column, is_asked) = frame.f_code.co_filename, _read_at(frame.f_code).get(frame.f_lasti, (0, 0, False))
    at = line, column
    for kind, test in _conditions(file):
        if _covers(test, at):
            part, truth = _part(test, at)
            return Wanted(kind, truth, (file, *at)) if is_asked or _reads(part) else None
    return None


@cache
def _read_at(code: CodeType) -> dict[int, tuple[int, int, bool]]:
    """Line and column of the expression whose value each instruction reads: a jump, or what asks for truth, that of the one before;
    and whether it asks for truth. From Python 3.13 on a comparison asks for its own."""
    found, at = {}, (0, 0)
    for one in dis.get_instructions(code):
        asks_last = "JUMP" in one.opname or one.opname in ("TO_BOOL", "COPY", "UNARY_NOT")
        if not asks_last and one.positions is not None:
            at = (one.positions.lineno or 0, one.positions.col_offset or 0)
        found[one.offset] = (*at, asks_last or one.argrepr.startswith("bool("))
    return found


@cache
def _conditions(filename: str) -> tuple[tuple[type[ast.AST], ast.expr], ...]:
    return tuple(
        (kind, node.test)
        for node in ast.walk(_tree(filename))
        if isinstance(node, ast.While | ast.Assert | ast.If) and (kind := _kind(node)) is not None
    )


def _kind(node: ast.While | ast.Assert | ast.If) -> type[ast.AST] | None:
    if not isinstance(node, ast.If) or _selects(node):
        return type(node)
    return ast.Break if any(isinstance(line, ast.Break) for line in node.body) else None


def _selects(node: ast.If) -> bool:
    """`if mask.any(): y[mask] = f(x[mask])`: what it does is done with what the mask selects. One that only writes there (`x[bad] = 0`)
    mends what is exceptional, and one that raises refuses it."""
    test = node.test
    if not (isinstance(test, ast.Call) and isinstance(test.func, ast.Attribute) and test.func.attr == "any"):
        return False
    mask = test.func.value if not test.args else test.args[0]  # torch.any(mask)
    refuses = any(isinstance(line, ast.Raise) for line in node.body)
    return (
        isinstance(mask, ast.Name)
        and not refuses
        and any(
            isinstance(part, ast.Subscript)
            and isinstance(part.ctx, ast.Load)
            and any(isinstance(one, ast.Name) and one.id == mask.id for one in ast.walk(part.slice))
            for line in node.body
            for part in ast.walk(line)
        )
    )


@cache
def _whiles(filename: str) -> tuple[ast.While, ...]:
    return tuple(node for node in ast.walk(_tree(filename)) if isinstance(node, ast.While))


@cache
def _tree(filename: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _covers(node: ast.expr, at: tuple[int, int]) -> bool:
    return (node.lineno, node.col_offset) <= at < (node.end_lineno or 0, node.end_col_offset or 0)


def _part(test: ast.expr, at: tuple[int, int]) -> tuple[ast.expr, bool]:
    """The part of a condition that is at a place, and the truth of it that makes the whole true: an odd number of `not` turns it round."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        part, truth = _part(test.operand, at)
        return part, not truth
    parts = test.values if isinstance(test, ast.BoolOp) else []
    return next((_part(part, at) for part in parts if _covers(part, at)), (test, True))


def _reads(part: ast.expr) -> bool:
    """Whether an expression is what a call reads of a tensor: `x.item()`, `bool(x)`."""
    function = part.func if isinstance(part, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", "")) in ("item", "bool")
