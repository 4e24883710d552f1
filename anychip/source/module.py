"""One Python file as rules see it: the tree, what each name really is, and the nodes that rules look at.

    module = parse("from torch import cuda as c\\nc.synchronize()\\n")
    [module.qualified(call.func) for call in module.calls]     # ["torch.cuda.synchronize"]

`qualified` is what a name means, however it is spelt: through imports, aliases and `c = torch.cuda`, in the scope that
binds it. A name of this file's own is `package.module.name`. None: nobody can say (a parameter, an unknown object).
"""

import ast
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from anychip.source.scopes import FUNCTIONS, Binding, Scope, Walk, walk
from anychip.source.text import Text, Unreadable

# Modules that a file may use without an import of its own: a star import or a notebook's earlier state brought them.
KNOWN_BY_NAME = frozenset({"torch", "triton", "cupy", "tensorflow", "jax", "mindspore"})


@dataclass(frozen=True)
class Place:
    """path: as given to `parse`. line from 1; column from 1, in characters. end: where it stops, the same way."""

    path: str
    line: int
    column: int
    end_line: int = 0
    end_column: int = 0


class Module(Text):
    """A parsed Python file. name: its dotted name in its project. lines: for a notebook, code line -> line of the file."""

    kind = "python"

    def __init__(self, text: str, tree: ast.Module, path: str = "", name: str = "") -> None:
        super().__init__(text)
        self.tree, self.path, self.name = tree, path, name
        self.lines: tuple[int, ...] = ()
        self._resolved: dict[tuple[int, str], str | None] = {}

    @cached_property
    def found(self) -> Walk:
        """The walk over the tree; made when a rule first asks."""
        return walk(self.tree, self.package)

    @property
    def package(self) -> str:
        """What relative imports start from."""
        is_package = self.path.endswith("__init__.py")
        return self.name if is_package else self.name.rpartition(".")[0]

    # ------------------------------------------------------------ what a name is

    def qualified(self, node: ast.AST | None, depth: int = 6) -> str | None:
        """The dotted name that a Name or a chain of attributes stands for; None where that is not known."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        base = self._name(node, depth)
        if base is None or not attributes:
            return base
        return ".".join([base, *reversed(attributes)])

    def _name(self, node: ast.Name, depth: int) -> str | None:
        scope = self.found.scope_of.get(node)
        if scope is None or not depth:
            return None
        key = (id(scope), node.id)
        if key not in self._resolved:
            self._resolved[key] = None  # a = a.b is nobody's
            self._resolved[key] = self._meaning(node.id, scope, depth)
        return self._resolved[key]

    def _meaning(self, name: str, scope: Scope, depth: int) -> str | None:
        home = scope.find(name)
        if home is None:
            return name if name in KNOWN_BY_NAME else None
        bindings = home.names[name]
        imported = [binding.target for binding in bindings if binding.kind == "import"]
        if imported:
            return imported[0]
        first = bindings[0]
        if name in KNOWN_BY_NAME and all(_is_made_by_a_call(binding) for binding in bindings):
            return name
        if all(binding.kind in ("def", "class") for binding in bindings):
            return ".".join(part for part in (self.name, home.path, name) if part)
        if len(bindings) == 1 and first.kind == "value" and isinstance(first.node, ast.Assign | ast.AnnAssign):
            alias = self.qualified(first.value, depth - 1)
            if alias:
                return alias
        return None

    def bindings(self, node: ast.Name) -> list[Binding]:
        """Everything that binds the name, in the scope it comes from; empty for builtins and unknown names."""
        scope = self.found.scope_of.get(node)
        home = scope.find(node.id) if scope else None
        return home.names[node.id] if home else []

    @cached_property
    def uses(self) -> list[tuple[ast.Name | ast.Attribute, str]]:
        """Every whole chain of names that is read, with what it means, in the order of the text."""
        named = ((node, self.qualified(node)) for node in self.found.chains)
        return [(node, name) for node, name in named if name is not None]

    @cached_property
    def imports(self) -> Mapping[int, int]:
        return {self.start(node): self.end(node) for node in self.found.imports}

    @property
    def calls(self) -> list[ast.Call]:
        return self.found.calls

    @property
    def strings(self) -> list[ast.Constant]:
        """String constants that are no docstrings: a string that stands alone as a statement is a comment."""
        return self._strings

    @cached_property
    def _strings(self) -> list[ast.Constant]:
        return [node for node in self.found.strings if not isinstance(self.parent(node), ast.Expr)]

    # ------------------------------------------------------------ where a node stands

    def parent(self, node: ast.AST) -> ast.AST | None:
        return self.found.parents.get(node)

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        parents = self.found.parents
        while node in parents:
            node = parents[node]
            yield node

    def function_of(self, node: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        return next((up for up in self.ancestors(node) if isinstance(up, FUNCTIONS)), None)

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Byte offsets [start, end) in `data`."""
        return self.start(node), self.end(node)

    def place(self, node: ast.AST) -> Place:
        line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
        end_line = getattr(node, "end_lineno", None) or line
        end = self.column(end_line, getattr(node, "end_col_offset", None) or column)
        return Place(self.path, self.file_line(line), self.column(line, column), self.file_line(end_line), end)

    def file_line(self, line: int) -> int:
        """The line of the file: another one than the code's in notebooks."""
        return self.lines[line - 1] if self.lines and line <= len(self.lines) else line


def _is_made_by_a_call(binding: Binding) -> bool:
    """`torch = pytest.importorskip("torch")`, `torch, F = imports()`: whoever calls it torch means torch."""
    return isinstance(binding.value, ast.Call) if binding.kind == "value" else isinstance(binding.node, ast.Tuple)


def parse(text: str, path: str = "<text>", name: str = "__main__") -> Module:
    """Parse the text of a Python file. Raises Unreadable, with the line and the reason, for what is no Python of today."""
    return Module(text, tree_of(text), path, name)


def tree_of(text: str) -> ast.Module:
    """Raises Unreadable as `parse` does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        raise Unreadable(f"does not parse: line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Unreadable(f"does not parse: {type(error).__name__}: {str(error)[:100]}") from None


def module_name(path: str) -> str:
    """The dotted name of a file by its path from the project's root: src/pkg/a.py -> src.pkg.a."""
    parts = path.removesuffix(".py").removesuffix(".pyi").replace("\\", "/").split("/")
    if parts and parts[-1] == "__init__":
        parts.pop()
    return sys.intern(".".join(part for part in parts if part not in ("", ".")))
