"""One Python file as porting rules see it: the walk of `anychip.source`, and names that are certain.

Audit may name a finding by what a name most likely is; an edit needs what it surely is. So `qualified` here is stricter than
the audit's: a name that is bound in more than one way (a try with another import) is nobody's, and is left alone.
"""

import ast
import warnings
from collections.abc import Iterator

from anychip.port.edits import Source
from anychip.source.scopes import FUNCTIONS, Binding, Scope, walk

_STORES = (ast.Store, ast.Del)


class Module:
    """A parsed file. Raises SyntaxError, ValueError or RecursionError for what is no Python of today."""

    def __init__(self, text: str) -> None:
        self.source = Source(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tree = ast.parse(self.source.data)
        found = walk(self.tree)
        self.parents, self.scope_of, self.top = found.parents, found.scope_of, found.top
        self.calls, self.chains, self.joined = found.calls, found.chains, found.joined
        self.strings, self.imports = found.strings, found.imports
        self.functions, self.classes = found.functions, found.classes
        self._resolved: dict[tuple[int, str], str | None] = {}
        self._identifiers: frozenset[str] | None = None
        self._uses: list[tuple[ast.Name | ast.Attribute, str]] | None = None

    @property
    def identifiers(self) -> frozenset[str]:
        """Every name that is read or bound anywhere in the file."""
        if self._identifiers is None:
            bound = {name for scope in self._scopes() for name in scope.names}
            read = {node.id for node in self.scope_of if isinstance(node, ast.Name)}
            self._identifiers = frozenset(bound | read)
        return self._identifiers

    def _scopes(self) -> Iterator[Scope]:
        seen: set[int] = set()
        for scope in [self.top, *self.scope_of.values()]:
            if id(scope) not in seen:
                seen.add(id(scope))
                yield scope

    def loads(self, name: str) -> list[ast.Name]:
        """Every place where a name is read."""
        return [n for n in self.scope_of if isinstance(n, ast.Name) and n.id == name and not isinstance(n.ctx, _STORES)]

    # ------------------------------------------------------------ what a name is

    def bindings(self, node: ast.Name) -> list[Binding]:
        """How the name is bound in the scope that it comes from; empty for builtins."""
        scope = self.scope_of.get(node)
        home = scope.find(node.id) if scope is not None else None
        return home.names[node.id] if home is not None else []

    def qualified(self, node: ast.AST | None, depth: int = 4) -> str | None:
        """torch.cuda.synchronize for what is that, however it is spelt; None for what is not known for certain."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or not depth:
            return None
        base = self._name(node, depth)
        return ".".join([base, *reversed(attributes)]) if base else None

    def _name(self, node: ast.Name, depth: int) -> str | None:
        scope = self.scope_of.get(node)
        home = scope.find(node.id) if scope is not None else None
        if home is None:
            return None
        key = (id(home), node.id)
        if key not in self._resolved:
            self._resolved[key] = None  # a = a.b is nobody's
            names = {_meaning(self, binding, depth) for binding in home.names[node.id]}
            self._resolved[key] = names.pop() if len(names) == 1 else None
        return self._resolved[key]

    @property
    def uses(self) -> list[tuple[ast.Name | ast.Attribute, str]]:
        """Every whole chain of names that is read and certain, with what it means, in the order of the text."""
        if self._uses is None:
            named = ((node, self.qualified(node)) for node in self.chains)
            self._uses = [(node, name) for node, name in named if name is not None]
        return self._uses

    def bound_to(self, name: str) -> str | None:
        """The name under which the top of the file has a module or function of that qualified name, and nothing else."""
        for own, bindings in self.top.names.items():
            if bindings and all(b.kind == "import" and b.target == name for b in bindings):
                return own
        return None

    # ------------------------------------------------------------ where a node stands

    def parent(self, node: ast.AST) -> ast.AST:
        return self.parents[node]

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function_of(self, node: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        return next((up for up in self.ancestors(node) if isinstance(up, FUNCTIONS)), None)


def _meaning(module: Module, binding: Binding, depth: int) -> str | None:
    """An import's name, through `c = torch.cuda`; None for anything that is computed."""
    if binding.kind == "import":
        node = binding.node
        relative = isinstance(node, ast.ImportFrom) and node.level > 0
        return (
            f"{'.' * node.level}{binding.target}" if relative and isinstance(node, ast.ImportFrom) else binding.target
        )
    plain = binding.kind == "value" and isinstance(binding.node, ast.Assign | ast.AnnAssign)
    if plain and isinstance(binding.value, ast.Attribute | ast.Name):
        return module.qualified(binding.value, depth - 1)
    return None
