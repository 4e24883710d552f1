"""Which ranks a program tells apart by their number: what its own source compares the number with.

Ranks that issue the same ops are one class, of which one runs; that they do is seen from those that ran. A program that
does something on rank 2 alone shows it on no other. So the comparisons in its source that a rank's number decides
(`rank == 2`, `local_rank % 4`, `rank < world_size // 2`) are evaluated for all ranks, and of ranks that come out alike in
all of them one runs. Numbers come from `get_rank()`, RANK and LOCAL_RANK, names that are usual for them, and what functions of
the program return of these (`r, w = setup()`); what else a comparison depends on makes it unknown, and it is left out; where that is the number of a training step, it is told.
"""

import ast
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anychip.device.distributed.launchers import as_torchrun
from anychip.device.distributed.mailbox import installed
from anychip.record import Program

MOST_APART = 8  # ranks that run for this
IMPORTED_FROM = 4  # folders, from a file's own upwards
CALLS = {"get_rank": "RANK", "get_node_local_rank": "LOCAL_RANK", "get_world_size": "WORLD_SIZE"}
USUAL = {"rank": "RANK", "global_rank": "RANK", "local_rank": "LOCAL_RANK", "world_size": "WORLD_SIZE"}
NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
BINARY = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.FloorDiv: np.floor_divide, ast.Mod: np.remainder,
}  # fmt: skip
COMPARED = {
    ast.Eq: np.equal, ast.NotEq: np.not_equal, ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater,
    ast.GtE: np.greater_equal, ast.Is: np.equal, ast.IsNot: np.not_equal,
}  # fmt: skip
Numbers = npt.NDArray[Any]
Nodes = list[ast.AST]


class World(NamedTuple):
    """size: ranks. local: of a node."""

    size: int
    local: int

    def number(self, name: str) -> Numbers:
        """RANK and the like: of every rank, or one number where it is the same for all."""
        ranks = np.arange(self.size)
        fixed = {"WORLD_SIZE": self.size, "LOCAL_WORLD_SIZE": min(self.local, self.size)}
        return np.asarray(fixed[name]) if name in fixed else ranks if name == "RANK" else ranks % self.local


class Apart(NamedTuple):
    """kind: a number for each rank, equal where the program's source does not tell ranks apart. tests: what each of its comparisons,
    with their lines, comes to on every rank. by_step: those that the number of a training step decides, too: of which rank is not known
    before."""

    kind: npt.NDArray[np.int64]
    tests: dict[str, Numbers]
    by_step: list[str]


def told_apart(program: Program, world: World) -> Apart:
    files = {place.file for place in program.places} | {str(one) for one in program.meta.get("argv", ())[:1]}
    sources = [path for path in map(Path, sorted(files)) if path.suffix == ".py" and not installed(str(path))]
    answers: dict[str, Numbers] = {}
    by_step: list[str] = []
    own = _parsed(sources)
    imported = {found for path, nodes in own.items() for found in _imported(path, nodes)}
    readers = {path: Reader(nodes, world) for path, nodes in {**_parsed(sorted(imported)), **own}.items()}
    returned = {name: value for one in readers.values() for name, value in one.values.items() if "()" in name}
    for path, nodes in own.items():
        readers[path].learn(returned)
        known, unknown = _answers(nodes, readers[path])
        answers |= {_text(path, test): value for test, value in known}
        by_step += [_text(path, test) for test in unknown]
    kind = np.zeros(world.size, np.int64)
    if answers:
        kind = np.unique(np.stack([*answers.values()]), axis=1, return_inverse=True)[1].ravel()
    return Apart(kind, answers, by_step)


def _parsed(paths: Iterable[Path]) -> dict[Path, Nodes]:
    """All nodes of each file's tree."""
    found: dict[Path, Nodes] = {}
    for path in paths:
        # RecursionError: more terms than Python reads
        with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError):
            found[path] = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return found


def _imported(path: Path, nodes: Nodes) -> set[Path]:
    """Modules beside a file, or beside a folder that it is in, from which it takes names: one may do no more than join the job, so that
    nothing that was recorded comes from it."""
    found: set[Path] = set()
    folders = list(path.absolute().parents)[:IMPORTED_FROM]
    for name in {name for node in nodes for name in _modules(node)}:
        for folder in folders:
            module = folder.joinpath(*name.split("."))
            found |= {one for one in (module.with_suffix(".py"), module / "__init__.py") if one.is_file()}
    return {one for one in found if not installed(str(one))}


def _modules(node: ast.AST) -> list[str]:
    """The modules that a statement may import: of `from a import b` b may be one."""
    match node:
        case ast.Import(names):
            return [one.name for one in names]
        case ast.ImportFrom(module, names):
            within = f"{module}." if module else ""
            return [*([module] if module else []), *(f"{within}{one.name}" for one in names if one.name != "*")]
    return []


def _text(path: Path, test: ast.expr) -> str:
    return f"{path.name}:{test.lineno} ({ast.unparse(test)})"


def unseen(tests: Mapping[str, Numbers], members: Iterable[Sequence[int]], ran: set[int]) -> dict[str, int]:
    """Comparisons that come to something on a rank of a class that they come to on none of the class that ran, each with the first such
    rank; those left out that came to both on some of one class, which are alike for all that."""
    classes = [(np.array(ranks), here) for ranks in members if (here := [rank for rank in ranks if rank in ran])]
    found: dict[str, int] = {}
    for text, test in tests.items():
        if any(_differs(test[here]) for _, here in classes):
            continue
        others = [ranks[test[ranks] != test[here[0]]] for ranks, here in classes]
        if first := [int(ranks[0]) for ranks in others if ranks.size]:
            found[text] = min(first)
    return found


def first_of_others(kind: npt.NDArray[np.int64], known: Iterable[int]) -> list[int]:
    """The first rank of each kind that none of the known ranks is of."""
    seen = set(kind[list(known)].tolist())
    numbers, first = np.unique(kind, return_index=True)
    return sorted(int(rank) for number, rank in zip(numbers.tolist(), first, strict=True) if number not in seen)


def _answers(nodes: Nodes, reader: "Reader") -> tuple[list[tuple[ast.expr, Numbers]], list[ast.expr]]:
    """What each comparison of a file comes to on every rank, where it is not the same on all, and those that it takes the number of a
    step to tell."""
    values = [(test, reader.value(test)) for node in nodes for test in _tests(node)]
    known = [(test, value != 0) for test, value in values if value is not None and _differs(value != 0)]
    if not (counters := _step_counters(nodes)):
        return known, []
    reader.values |= dict.fromkeys(counters, np.asarray(1))
    unknown = {
        (test.lineno, test.col_offset): test
        for test, value in values
        if value is None and isinstance(test, ast.Compare)
    }
    return known, [test for test in unknown.values() if (value := reader.value(test)) is not None and _differs(value)]


def _step_counters(nodes: Nodes) -> set[str]:
    """The names that count in loops that train."""
    found: list[ast.expr] = []
    for loop in nodes:
        inside = [*ast.walk(loop)] if isinstance(loop, ast.For | ast.While) else []
        if any(isinstance(node, ast.Attribute) and node.attr == "backward" for node in inside):
            found += [loop.target] if isinstance(loop, ast.For) else []
            found += [node.target for node in inside if isinstance(node, ast.AugAssign)]
    return {_last(node) for target in found for node in ast.walk(target)} - {""}


def _tests(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Compare():
            return [node]
        case ast.If() | ast.IfExp() | ast.While() | ast.Assert():
            return [node.test]
        case ast.BoolOp():
            return node.values
        case ast.UnaryOp(ast.Not(), operand):
            return [operand]
    return []


class Reader:
    """Values of a file's expressions: one number, or one for each rank; None for what a rank's number and constants do not decide."""

    def __init__(self, nodes: Nodes, world: World) -> None:
        self.world = world
        self.given: dict[str, list[ast.expr]] = {}
        counted: set[str] = set()  # what counts has no value of its own
        for node in nodes:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self._note(target, node.value)
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                self._note(node.target, node.value)
            elif isinstance(node, ast.AugAssign):
                counted.add(_last(node.target))
            elif isinstance(node, ast.FunctionDef):
                self._note_returns(node)
        for name in counted:
            self.given.pop(name, None)
        self.values: dict[str, Numbers] = {}
        self._settle()
        for name in USUAL:
            self.values.setdefault(name, world.number(USUAL[name]))
        self._settle()

    def learn(self, values: Mapping[str, Numbers]) -> None:
        """What functions of other files return."""
        self.values = {**values, **self.values}
        self._settle()

    def _settle(self) -> None:
        """Values of all names that follow from those that have one; a name's value stays."""
        before = -1
        while before != (before := len(self.values)):
            for name, nodes in self.given.items():
                if name not in self.values and (found := self._first(nodes)) is not None:
                    self.values[name] = found

    def _note(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name | ast.Attribute):
            self.given.setdefault(_last(target), []).append(value)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for one, other in zip(target.elts, value.elts, strict=True):
                self._note(one, other)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Call):
            for place, one in enumerate(target.elts):
                self._note(one, ast.Subscript(value, ast.Constant(place)))

    def _note_returns(self, function: ast.FunctionDef) -> None:
        """What a function returns has the name of a call of it: `setup()`, of a tuple `setup()[0]` and so on."""
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and node.value is not None:
                self.given.setdefault(f"{function.name}()", []).append(node.value)
                for place, one in enumerate(node.value.elts if isinstance(node.value, ast.Tuple) else ()):
                    self.given.setdefault(f"{function.name}()[{place}]", []).append(one)

    def value(self, node: ast.expr) -> Numbers | None:
        try:
            return self._value(node)
        except (ValueError, TypeError, OverflowError, RecursionError):  # beyond 64 bits, a thousand terms
            return None

    def _value(self, node: ast.expr) -> Numbers | None:
        match node:
            case ast.Constant(int() as number):
                return np.asarray(int(number), np.int64)
            case ast.Constant(str() as text) if text.isdecimal():
                return np.asarray(int(text), np.int64)
            case ast.Name() | ast.Attribute():
                return self.values.get(_last(node))
            case ast.BinOp(left, op, right) if type(op) in BINARY:
                return self._both(BINARY[type(op)], left, right)
            case ast.Compare(left, [op], [right]) if type(op) in COMPARED:
                return self._both(COMPARED[type(op)], left, right)
            case ast.Compare(
                left, [ast.In() | ast.NotIn() as op], [ast.Tuple(items) | ast.List(items) | ast.Set(items)]
            ):
                return self._among(left, items, isinstance(op, ast.In))
            case ast.UnaryOp(ast.Not(), operand):
                found = self.value(operand)
                return None if found is None else found == 0
            case ast.UnaryOp(ast.USub(), operand):
                found = self.value(operand)
                return None if found is None else -found.astype(np.int64)
            case ast.NamedExpr(_, given):
                return self.value(given)
            case ast.IfExp(_, body, other):  # `get_rank() if is_initialized() else 0`
                return self._first([body, other])
            case ast.Subscript(_, ast.Constant(str() as name)) if as_torchrun(name) in NUMBERS:
                return self.world.number(as_torchrun(name))
            case ast.Subscript(ast.Call(func), ast.Constant(int() as place)):
                return self.values.get(f"{_last(func)}()[{place}]")
            case ast.Call():
                return self._called(node)
        return None

    def _called(self, node: ast.Call) -> Numbers | None:
        name = _last(node.func)
        if name in CALLS and not node.args and not node.keywords:
            return self.world.number(CALLS[name])
        if name == "int" and len(node.args) == 1:
            return self.value(node.args[0])
        if name in ("get", "getenv") and node.args and isinstance(node.args[0], ast.Constant):
            return self.world.number(node.args[0].value) if node.args[0].value in NUMBERS else None
        return self.values.get(f"{name}()")

    def _first(self, nodes: list[ast.expr]) -> Numbers | None:
        """What differs from rank to rank, of several that a name may be, else the only one."""
        found = [value for node in nodes if (value := self.value(node)) is not None]
        differs = next(filter(_differs, found), None)
        return differs if differs is not None else found[0] if len(found) == len(nodes) == 1 else None

    def _both(self, how: Any, left: ast.expr, right: ast.expr) -> Numbers | None:
        one, other = self.value(left), self.value(right)
        if one is None or other is None or (how in (np.floor_divide, np.remainder) and (other == 0).any()):
            return None
        return how(one.astype(np.int64), other.astype(np.int64))  # type: ignore[no-any-return]

    def _among(self, left: ast.expr, items: list[ast.expr], is_in: bool) -> Numbers | None:
        one, others = self.value(left), [self.value(item) for item in items]
        if one is None or any(other is None for other in others):
            return None
        found = np.asarray(False)
        for other in others:
            found = found | (one == other)
        return found if is_in else ~found


def _differs(value: Numbers) -> bool:
    return bool(value.size and (value != value.flat[0]).any())


def _last(node: ast.AST) -> str:
    """The name of a thing without what it belongs to: `rank` of `self.rank`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
