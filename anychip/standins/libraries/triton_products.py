"""What the products (`tl.dot`) of a Triton kernel multiply, from its source: its programs are gone through with shapes alone.

Of a grid those programs are gone through that do not do the same (a causal attention's blocks of queries, of one head), and a long
loop's body once for all its turns. Where how often something is multiplied stands in memory (lengths of packed sequences), nothing is told.
"""

import ast
import builtins
import functools
import inspect
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from anychip.standins.libraries.triton_blocks import (
    FUNCTIONS,
    UNTOLD,
    Block,
    Product,
    broadcast,
    indexed,
    shape_of,
    turned,
)
from anychip.standins.libraries.triton_source import defaults, definition

SAMPLES = 256  # programs at most that are gone through, where they do not all do the same
TURNS = 4  # of a loop that are each gone through; of longer ones that in the middle stands for all
DEPTH = 12  # functions inside of each other
OPERATORS: dict[type, Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv, ast.Div: operator.truediv,
    ast.Mod: operator.mod, ast.Pow: operator.pow, ast.LShift: operator.lshift, ast.RShift: operator.rshift, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda x, y: x in y, ast.NotIn: lambda x, y: x not in y,
    ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip


class Untold(Exception):
    """The source does not tell how much is multiplied."""


class _Returned(Exception):
    """A function of the kernel's ends, with what it gives."""

    def __init__(self, value: Any) -> None:
        self.value = value


def products(function: Any, bound: dict[str, Any], grid: Sequence[int]) -> "Products | None":
    """(programs, m, n, k) of the products of one launch: what a program multiplies into tiles of [m, n] goes on without a pause, as one
    product that is so deep does. () of a kernel without; None where the source does not tell. bound: the kernel's parameters."""
    if not multiplies(function):
        return ()
    values = {name: _plain(value) for name, value in (defaults(function) | bound).items()}
    return _launched(function, values, tuple(int(size) for size in grid))


@functools.cache
def multiplies(function: Any, depth: int = 0) -> bool:
    """Whether a kernel, or a function of the program's that it calls, has a product."""
    found = definition(function)
    if found is None or depth > DEPTH:
        return False
    calls = [one.func for one in ast.walk(found) if isinstance(one, ast.Call)]
    if any(isinstance(one, ast.Attribute) and one.attr in ("dot", "dot_scaled") for one in calls):
        return True
    scope = _scope(function)
    called = (getattr(scope.get(one.id), "fn", None) for one in calls if isinstance(one, ast.Name))
    return any(inspect.isfunction(one) and multiplies(one, depth + 1) for one in called)


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    if isinstance(value, list | tuple):
        return tuple(_plain(one) for one in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    tile = getattr(value, "block_shape", None)  # of a descriptor
    return Block(tuple(tile)) if isinstance(tile, list | tuple) else Block()


Products = tuple[tuple[int, int, int, int], ...]


class Counted(NamedTuple):
    """undecided: how many branches and loops were taken without that their number was known."""

    products: Products
    undecided: int


_first: dict[Any, dict[str, Any]] = {}  # of each kernel its parameters in the first launch
_idle: dict[Any, Products] = {}  # of a kernel whose changing numbers are hidden, where they decide nothing
_decisive: set[Any] = set()  # kernels and sets of their parameters that do decide


def _launched(function: Any, values: dict[str, Any], grid: tuple[int, ...]) -> Products | None:
    """The products of one launch. Numbers that change from launch to launch (a seed, a rate) are looked at once: to go through the
    source takes a tenth of a second, and a program may launch a kernel thousands of times."""
    first = _first.setdefault(function, values)
    changing = frozenset(
        name for name, value in values.items() if _is_number(value) and value != first.get(name, value)
    )
    hidden = tuple((name, Block() if name in changing else value) for name, value in values.items())
    if (found := _idle.get((function, hidden, grid))) is not None:
        return found
    counted = _counted(function, tuple(values.items()), grid)
    if counted and changing and (function, changing) not in _decisive:
        if _counted(function, hidden, grid) == counted:
            _idle[function, hidden, grid] = counted.products
        else:
            _decisive.add((function, changing))
    return counted.products if counted else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@functools.lru_cache(maxsize=4096)
def _counted(function: Any, values: tuple[tuple[str, Any], ...], grid: tuple[int, ...]) -> Counted | None:
    if math.prod(grid) <= 0:
        return Counted((), 0)
    try:
        unlike = tuple(size if _matters(function, values, grid, axis) else 1 for axis, size in enumerate(grid))
        few = [_Program(function, dict(values), grid, at) for at in _spread(unlike)]
    except Exception:  # Untold, or lines that no chip would come to: a division by a size that is 0
        return None
    depths: dict[tuple[int, int], float] = {}
    for program in few:
        for times, m, n, k in program.found:
            depths[m, n] = depths.get((m, n), 0.0) + times * k / len(few)
    products = tuple((math.prod(grid), m, n, max(round(k), 1)) for (m, n), k in depths.items())
    return Counted(products, sum(program.undecided for program in few))


def _matters(function: Any, values: tuple[tuple[str, Any], ...], grid: tuple[int, ...], axis: int) -> bool:
    """Whether programs of unlike numbers along an axis do unlike things."""
    middle = [size // 2 for size in grid]
    numbers = sorted({0, grid[axis] // 3, grid[axis] // 2, grid[axis] - 1})
    found = [
        _Program(function, dict(values), grid, (*middle[:axis], number, *middle[axis + 1 :])).found
        for number in numbers
    ]
    return any(one != found[0] for one in found)


def _spread(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Programs of a grid: all, or some that are spread evenly along each axis, by steps that fall in with no size."""
    if math.prod(grid) <= SAMPLES:
        return list(itertools.product(*map(range, grid)))
    steps = (0.6180339887498949, 0.7548776662466927, 0.8191725133961645)
    return [
        tuple(int(size * ((0.5 + at * step) % 1)) for size, step in zip(grid, steps, strict=False))
        for at in range(SAMPLES)
    ]


def _scope(function: Any) -> dict[str, Any]:
    closed = inspect.getclosurevars(function).nonlocals if function.__closure__ else {}
    return {**vars(builtins), **function.__globals__, **closed}


class _Program:
    """One program of a grid, gone through. found: the products of it."""

    def __init__(self, function: Any, values: dict[str, Any], grid: tuple[int, ...], at: tuple[int, ...]) -> None:
        self.grid, self.at = (*grid, 1, 1)[:3], (*at, 0, 0)[:3]
        self.found: list[Product] = []
        self.times, self.depth, self.undecided = 1, 0, 0
        self.run(function, values)

    def run(self, function: Any, values: dict[str, Any]) -> Any:
        found = definition(function)
        if found is None or self.depth > DEPTH:
            return UNTOLD
        self.depth += 1
        try:
            self.body(found.body, {**_scope(function), **values})
        except _Returned as returned:
            return returned.value
        finally:
            self.depth -= 1
        return None

    # ------------------------------------------------------------ lines

    def body(self, lines: list[ast.stmt], names: dict[str, Any]) -> None:
        for line in lines:
            self.line(line, names)

    def line(self, line: ast.stmt, names: dict[str, Any]) -> None:
        if isinstance(line, ast.Expr):
            self.value(line.value, names)
        elif isinstance(line, ast.Assign):
            value = self.value(line.value, names)
            for target in line.targets:
                self.assign(target, value, names)
        elif isinstance(line, ast.AugAssign):
            value = self.operation(line.op, (self.value(_read(line.target), names), self.value(line.value, names)))
            self.assign(line.target, value, names)
        elif isinstance(line, ast.AnnAssign) and line.value is not None:
            self.assign(line.target, self.value(line.value, names), names)
        elif isinstance(line, ast.If):
            self.body(self.taken(line, names), names)
        elif isinstance(line, ast.For):
            self.loop(line, names)
        elif isinstance(line, ast.While):
            if _multiply(line):
                raise Untold
            self.forget(line, names)
        elif isinstance(line, ast.Return):
            raise _Returned(None if line.value is None else self.value(line.value, names))

    def assign(self, target: ast.expr, value: Any, names: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            each = (value,) * len(target.elts) if isinstance(value, Block) or not isinstance(value, tuple) else value
            for one, its in zip(target.elts, each, strict=False):
                self.assign(one, its, names)

    def taken(self, line: ast.If, names: dict[str, Any]) -> list[ast.stmt]:
        """The lines of a branch. Where memory decides, a program goes on, and does what it may do."""
        test = self.value(line.test, names)
        if not isinstance(test, Block):
            return line.body if test else line.orelse
        self.undecided += 1
        return line.orelse if isinstance(line.body[-1], ast.Return) else line.body

    def loop(self, line: ast.For, names: dict[str, Any]) -> None:
        turns = self.turns(line.iter, names)
        if turns is None:
            if _multiply(line):
                raise Untold
            self.undecided += 1
            self.forget(line, names)
            return
        if len(turns) <= TURNS:
            for turn in turns:
                self.assign(line.target, turn, names)
                self.body(line.body, names)
            return
        before = dict(names)
        self.assign(line.target, turns[len(turns) // 2], names)
        self.times *= len(turns)
        self.body(line.body, names)
        self.times //= len(turns)
        for name, value in names.items():  # a number that grows with each turn
            if (
                name in before
                and isinstance(value, int | float)
                and before[name] is not value
                and before[name] != value
            ):
                names[name] = Block()

    def turns(self, over: ast.expr, names: dict[str, Any]) -> Sequence[Any] | None:
        if not isinstance(over, ast.Call):
            each = self.value(over, names)
            return each if isinstance(each, tuple) and not isinstance(each, Block) else None
        given = [self.value(one, names) for one in over.args]
        whole = _called(over) in ("range", "static_range") and given and all(isinstance(one, int) for one in given)
        return range(*given[:3]) if whole else None

    def forget(self, line: ast.stmt, names: dict[str, Any]) -> None:
        """What lines that are not gone through may have made is not known: of a block that it is one of the same shape is."""
        for one in ast.walk(line):
            if (
                isinstance(one, ast.Name)
                and isinstance(one.ctx, ast.Store)
                and not isinstance(names.get(one.id), Block)
            ):
                names[one.id] = Block() if isinstance(names.get(one.id), int | float) else UNTOLD

    # ------------------------------------------------------------ values

    def value(self, node: ast.expr, names: dict[str, Any]) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return _known(names.get(node.id, UNTOLD))
        if isinstance(node, ast.Tuple | ast.List):
            return tuple(self.value(one, names) for one in node.elts)
        if isinstance(node, ast.BinOp):
            return self.operation(node.op, (self.value(node.left, names), self.value(node.right, names)))
        if isinstance(node, ast.UnaryOp):
            return self.operation(node.op, (self.value(node.operand, names),))
        if isinstance(node, ast.Compare):
            sides = [self.value(one, names) for one in (node.left, *node.comparators)]
            results = [self.operation(op, pair) for op, pair in zip(node.ops, itertools.pairwise(sides), strict=True)]
            return results[0] if len(results) == 1 else _all(results)
        if isinstance(node, ast.BoolOp):
            return self.either(node, names)
        if isinstance(node, ast.IfExp):
            test = self.value(node.test, names)
            self.undecided += isinstance(test, Block)
            return self.value(node.body if isinstance(test, Block) or test else node.orelse, names)
        if isinstance(node, ast.Subscript):
            return self.part(node, names)
        if isinstance(node, ast.Attribute):
            return self.attribute(node, names)
        if isinstance(node, ast.Call):
            return self.call(node, names)
        return UNTOLD

    def operation(self, op: ast.AST, values: tuple[Any, ...]) -> Any:
        if any(isinstance(one, Block) for one in values):
            if isinstance(op, ast.Is | ast.IsNot):  # an address is not None
                return isinstance(op, ast.IsNot)
            return broadcast(*values)
        try:
            return OPERATORS[type(op)](*values)
        except (KeyError, TypeError, ValueError, ArithmeticError):
            return UNTOLD

    def either(self, node: ast.BoolOp, names: dict[str, Any]) -> Any:
        """`and`, `or`: one that is known may decide for those that are not."""
        stops = isinstance(node.op, ast.Or)
        values = [self.value(one, names) for one in node.values]
        known = [one for one in values if not isinstance(one, Block)]
        decided = next((one for one in known if bool(one) is stops), None)
        if decided is not None:
            return decided
        return values[-1] if len(known) == len(values) else Block()

    def part(self, node: ast.Subscript, names: dict[str, Any]) -> Any:
        whole = self.value(node.value, names)
        index = (
            tuple(slice(None) if isinstance(one, ast.Slice) else self.value(one, names) for one in node.slice.elts)
            if isinstance(node.slice, ast.Tuple)
            else slice(None) if isinstance(node.slice, ast.Slice) else self.value(node.slice, names)
        )  # fmt: skip
        if isinstance(whole, Block):
            return indexed(whole, index)
        try:
            return whole[index]
        except (TypeError, IndexError, KeyError):
            return UNTOLD

    def attribute(self, node: ast.Attribute, names: dict[str, Any]) -> Any:
        of = self.value(node.value, names)
        if isinstance(of, Block):
            if node.attr == "T":
                return turned(of)
            return of.shape if node.attr == "shape" and of.shape is not None else UNTOLD
        return _known(getattr(of, node.attr, UNTOLD)) if isinstance(of, ModuleType) else UNTOLD

    def call(self, node: ast.Call, names: dict[str, Any]) -> Any:
        given = [self.value(one, names) for one in node.args if not isinstance(one, ast.Starred)]
        named = {one.arg: self.value(one.value, names) for one in node.keywords if one.arg}
        name = _called(node)
        if isinstance(node.func, ast.Attribute):
            of = self.value(node.func.value, names)
            target = getattr(of, name, None) if isinstance(of, ModuleType) else None
            if not isinstance(of, ModuleType):  # a method: x.to(dtype), descriptor.load(offsets)
                given = [of, *given]
        else:
            target = names.get(name)
        inner = getattr(target, "fn", None)
        if inspect.isfunction(inner) and not inner.__module__.startswith("triton."):
            return self.run(inner, _bound(inner, given, named))
        name = getattr(target, "__name__", name) if callable(target) else name  # `exp = tl.exp`
        if name in ("dot", "dot_scaled"):
            return self.dot(name, given, named)
        if name in ("program_id", "num_programs"):
            axis = given[0] if given else named.get("axis", 0)
            return (self.at if name == "program_id" else self.grid)[axis] if isinstance(axis, int) else Block()
        function = FUNCTIONS.get(name)
        try:
            return function(*given, **named) if function is not None else broadcast(*given)
        except (TypeError, ValueError, IndexError):
            return UNTOLD

    def dot(self, name: str, given: list[Any], named: dict[str, Any]) -> Block:
        first, second = (given[0], given[1 if name == "dot" else 3]) if len(given) > 1 else (UNTOLD, UNTOLD)
        a, b = shape_of(named.get("input", first)), shape_of(named.get("other", second))
        if a is None or b is None or len(a) < 2 or len(b) < 2:
            raise Untold
        self.found.append(Product(self.times * math.prod(a[:-2]), a[-2], b[-1], max(a[-1], b[-2])))
        return Block((*a[:-1], b[-1]))


def _known(value: Any) -> Any:
    """A number, or what one is looked up in; else what is not known (an address of a tensor is a Block already)."""
    value = getattr(value, "value", value)
    if value is None or isinstance(value, bool | int | float | str | tuple | ModuleType | Block):
        return value
    return UNTOLD


def _read(target: ast.expr) -> ast.expr:
    return ast.Name(target.id, ast.Load()) if isinstance(target, ast.Name) else target


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _all(results: list[Any]) -> Any:
    return broadcast(*results) if any(isinstance(one, Block) for one in results) else all(results)


def _bound(function: Any, given: Iterable[Any], named: dict[str, Any]) -> dict[str, Any]:
    plain = {name: _plain(value) for name, value in defaults(function).items()}
    return {**plain, **dict(zip(inspect.signature(function).parameters, given, strict=False)), **named}


def _multiply(line: ast.stmt) -> bool:
    """Whether lines may multiply: by a product of their own, or by a function that is called by its name alone."""
    called: Iterator[ast.Call] = (one for one in ast.walk(line) if isinstance(one, ast.Call))
    own = {*FUNCTIONS, "range", "static_range"}
    return any(
        _called(one) in ("dot", "dot_scaled") or (isinstance(one.func, ast.Name) and one.func.id not in own)
        for one in called
    )
