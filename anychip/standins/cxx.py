"""What a C++ function of an extension returns, read from its source: never compiled, never run.

Most such functions make their results by `torch::empty_like(x)` or `torch::empty({x.size(0), n}, x.options())`, fill them
by a kernel and return them. A call's own arguments give the sizes. Whatever is not of that form is `Unknown`.
"""

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

DTYPES: dict[str, torch.dtype] = {
    "kFloat": torch.float32, "kFloat32": torch.float32, "kDouble": torch.float64, "kFloat64": torch.float64,
    "kHalf": torch.float16, "kFloat16": torch.float16, "kBFloat16": torch.bfloat16, "kInt": torch.int32,
    "kInt32": torch.int32, "kLong": torch.int64, "kInt64": torch.int64, "kShort": torch.int16, "kChar": torch.int8,
    "kByte": torch.uint8, "kUInt8": torch.uint8, "kInt8": torch.int8, "kBool": torch.bool,
}  # fmt: skip
LIKE = {"empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"}
MAKE = {"empty", "zeros", "ones", "full"}
SAME = {"clone", "detach", "to", "cuda", "device", "requires_grad", "layout", "memory_format"}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b, ast.Mod: lambda a, b: a % b,
    ast.Div: lambda a, b: a // b if isinstance(a, int) and isinstance(b, int) else a / b,
}  # fmt: skip
SHAPED = {"transpose", "t", "view", "reshape", "permute", "unsqueeze", "squeeze", "flatten", "expand", "sum", "mean"}
PRODUCTS = {"matmul", "mm", "bmm", "linear"}  # that a source leaves to torch's library
DEPTH = 8  # functions that call one another


class Unknown(Exception):
    """The source does not say, as far as it is understood here."""


@dataclass(frozen=True)
class Shape:
    """A tensor, as far as the source speaks of it. stride: None where it is contiguous."""

    sizes: tuple[int, ...]
    dtype: torch.dtype
    stride: tuple[int, ...] | None = None

    def meta(self) -> torch.Tensor:
        """A tensor without memory of this form."""
        if self.stride is None:
            return torch.empty(self.sizes, dtype=self.dtype, device="meta")
        return torch.empty_strided(self.sizes, self.stride, dtype=self.dtype, device="meta")


@dataclass(frozen=True)
class Options:
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Definition:
    """returns: the type before the name; parameters: their names; body: its text."""

    returns: str
    parameters: tuple[str, ...]
    body: str


def returned(text: str, function: str, args: Sequence[Any], products: list[tuple[int, ...]] | None = None) -> Any:
    """What `function` returns for these arguments: Shape, a list of Shape, or None for void. Raises Unknown.

    products: gets (batch, m, n, k) of each product of torch's that the results come from."""
    return _call(plain(text), function, [known(one) for one in args], 0, [] if products is None else products)


@cache
def plain(text: str) -> str:
    """Without comments, preprocessor lines and namespaces; macros that are numbers are constants."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+([-+*/().\w \t]+)$", r"const int \1 = \2;", text, flags=re.M)
    text = re.sub(r"^\s*#(?:[^\n]*\\\n)*[^\n]*$", "", text, flags=re.M)
    return re.sub(r"\b(?:torch|at|c10|std)::", "", text)


@cache
def find(text: str, function: str) -> Definition | None:
    """The definition (not a declaration) of a function in plain text."""
    for match in re.finditer(rf"([\w<>,&*\s]*?)\b{re.escape(function)}\s*\(", text):
        end = closing(text, match.end() - 1, "()")
        after = re.match(r"\s*(?:const\s*)?\{", text[end + 1 :])
        if after is None or not match[1].strip():
            continue
        start = end + after.end()
        parameters = _split(text[match.end() : end])
        names = tuple(re.sub(r"\s*=.*", "", one, flags=re.S).strip().split()[-1].lstrip("&*") for one in parameters)
        return Definition(match[1].split()[-1], names, text[start + 1 : closing(text, start, "{}")])
    return None


def closing(text: str, start: int, pair: str) -> int:
    """Where the bracket that opens at `start` closes. pair: both of its kind."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == pair[0]) - (text[position] == pair[1])
        if depth == 0:
            return position
    return len(text)


def _split(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    last = text[start:]
    return [one for one in (*parts, last) if one.strip()]


def _call(text: str, function: str, args: Sequence[Any], depth: int, products: list[tuple[int, ...]]) -> Any:
    definition = find(text, function)
    if definition is None or depth > DEPTH:
        raise Unknown(function)
    if definition.returns == "void":
        return None
    scope: dict[str, Any] = dict(zip(definition.parameters, args, strict=False))
    sources: dict[str, str] = {}
    result = None
    for statement in re.split(r";", definition.body):
        assigned = re.search(r"(?:^|[\s*&])(\w+(?:\.\w+)?)\s*=(?!=)\s*(.+)$", statement, re.S)
        constructed = re.search(r"\bTensor\s+(\w+)\((.+)\)\s*$", statement, re.S)
        given = re.search(r"\breturn\b(.+)$", statement, re.S)
        if given is not None:
            result = given[1]
        elif (found := assigned or constructed) is not None:
            sources[found[1]] = found[2]
    if result is None:
        raise Unknown(function)
    return _Reader(text, scope, sources, depth, products).value(_expression(result))


@cache
def _constant(text: str, name: str) -> Any:
    """A number that the source gives a name outside of what is called; all that it gives the name have to be one."""
    declared = (
        rf"\bconst(?:expr)?\s+(?:static\s+|unsigned\s+)*\w+\s+{re.escape(name)}\s*(?:=\s*([^;]+)|\{{([^}};]+)\}});"
    )
    values = {(one[1] or one[2]).strip() for one in re.finditer(declared, text)}
    if len(values) != 1:
        raise Unknown(name)
    return _Reader(text, {}, {}, 0, []).value(_expression(values.pop()))


def _expression(text: str) -> ast.expr:
    """A C++ expression as Python reads it."""
    text = re.sub(r"\b(?:tuple|vector|array)\s*<[^{(]*>\s*(?=[{(])", "", text)
    text = re.sub(r"\bstatic_cast\s*<[^>]*>|\((?:int|int64_t|long|size_t|unsigned|uint32_t|float|double)\)", "", text)
    text = re.sub(r"\b(?:make_tuple|IntArrayRef|move)\s*(?=\()", "", text)
    text = text.replace("{", "[").replace("}", "]").replace("->", ".").replace("::", "__")
    try:
        return ast.parse(" ".join(text.split()), mode="eval").body  # lines end where C++ likes
    except SyntaxError:
        raise Unknown(text) from None


@dataclass
class _Reader:
    """Evaluates expressions over tensors and integers. sources: local variables, and members of structs, that were not needed yet."""

    text: str
    scope: dict[str, Any]
    sources: dict[str, str]
    depth: int
    products: list[tuple[int, ...]]

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self._name(name)
            case ast.Attribute(value=ast.Name(id=struct), attr=member):
                return self._name(f"{struct}.{member}")
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [self.value(one) for one in parts]
            case ast.Subscript(value=of, slice=index):
                several, at = self.value(of), self.value(index)
                if isinstance(several, list):
                    return several[at]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                return ARITHMETIC[type(op)](self.value(left), self.value(right))
            case ast.Call(func=ast.Name(id=name), args=args):
                return self._function(name, args)
            case ast.Call(func=ast.Attribute(value=of, attr=name), args=args):
                return self._method(self.value(of), name, args)
        raise Unknown(ast.dump(node))

    def _name(self, name: str) -> Any:
        if name in self.sources:  # an argument may be assigned again: `x = x.contiguous()`
            source = self.sources.pop(name)
            self.scope[name] = self.value(_expression(source))
        if name in self.scope:
            return self.scope[name]
        if name in DTYPES:
            return DTYPES[name]
        return _constant(self.text, name)

    def _function(self, name: str, args: list[ast.expr]) -> Any:
        if name in LIKE:
            like, *rest = [self._or_none(one) for one in args]
            return known(torch.empty_like(_shape(like).meta(), dtype=_dtype(rest)))
        if name in MAKE:
            sizes = self.value(args[0])
            rest = [self._or_none(one) for one in args[1:]]
            channels_last = [one for one in rest if isinstance(one, torch.memory_format)]
            made = Shape(tuple(int(one) for one in sizes), _dtype(rest) or torch.float32)
            return known(made.meta().contiguous(memory_format=channels_last[0])) if channels_last else made
        if name == "TensorOptions":
            return Options(None)
        if name in ("min", "max"):
            return {"min": min, "max": max}[name](*[self.value(one) for one in args])
        if name in PRODUCTS and find(self.text, name) is None:
            return self._multiplied(name, *[_shape(self.value(one)) for one in args[:2]])
        return _call(self.text, name, [self._or_none(one) for one in args], self.depth + 1, self.products)

    def _multiplied(self, name: str, left: Shape, right: Shape) -> Shape:
        of = torch.nn.functional.linear if name == "linear" else getattr(torch, name)
        made = _shaped(lambda: of(left.meta(), right.meta()))
        n = made.sizes[-1] if len(right.sizes) > 1 else 1
        batch = 1 if len(right.sizes) < 3 else _product(made.sizes[:-2])
        self.products.append((batch, _product(made.sizes) // max(batch * n, 1), n, left.sizes[-1]))
        return made

    def _or_none(self, node: ast.expr) -> Any:
        """An argument that need not be understood."""
        try:
            return self.value(node)
        except Unknown:
            return None

    def _method(self, of: Any, name: str, args: list[ast.expr]) -> Any:
        if isinstance(of, Options) and name == "dtype":
            return Options(self.value(args[0]))
        if name in SAME or (name == "contiguous" and args):
            return of
        tensor = _shape(of)
        if name == "contiguous":
            return Shape(tensor.sizes, tensor.dtype)
        if name in SHAPED:
            values = [self.value(one) for one in args]
            return _shaped(lambda: getattr(tensor.meta(), name)(*values))
        if name in PRODUCTS:
            return self._multiplied(name, tensor, _shape(self.value(args[0])))
        simple: dict[str, Callable[[], Any]] = {
            "size": lambda: tensor.sizes[self.value(args[0])], "sizes": lambda: list(tensor.sizes),
            "dim": lambda: len(tensor.sizes), "ndimension": lambda: len(tensor.sizes),
            "options": lambda: Options(tensor.dtype), "type": lambda: Options(tensor.dtype),
            "scalar_type": lambda: tensor.dtype, "dtype": lambda: tensor.dtype, "numel": lambda: _product(tensor.sizes),
            "view_as": lambda: Shape(_shape(self.value(args[0])).sizes, tensor.dtype),
            "suggest_memory_format": lambda: _memory_format(tensor), "new_empty": lambda: Shape(tuple(self.value(args[0])), tensor.dtype),
            "new_zeros": lambda: Shape(tuple(self.value(args[0])), tensor.dtype),
        }  # fmt: skip
        if name not in simple:
            raise Unknown(name)
        return simple[name]()


def _shaped(make: Callable[[], torch.Tensor]) -> Shape:
    """What torch makes of tensors without memory, unless it refuses them."""
    try:
        made: Shape = known(make())
    except RuntimeError as error:
        raise Unknown(str(error)) from None
    return made


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _memory_format(tensor: Shape) -> torch.memory_format:
    last = len(tensor.sizes) == 4 and tensor.meta().is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not tensor.meta().is_contiguous() else torch.contiguous_format


def _shape(value: Any) -> Shape:
    if not isinstance(value, Shape):
        raise Unknown(repr(value))
    return value


def _dtype(values: Sequence[Any]) -> torch.dtype | None:
    for one in values:
        if isinstance(one, Options) and one.dtype is not None:
            return one.dtype
        if isinstance(one, torch.dtype):
            return one
    return None


def known(value: Any) -> Any:
    """A result of torch in this module's terms: tensors as their Shape."""
    if isinstance(value, list | tuple):
        return [known(one) for one in value]
    if not isinstance(value, torch.Tensor):
        return value
    return Shape(tuple(value.shape), value.dtype, None if value.is_contiguous() else tuple(value.stride()))
