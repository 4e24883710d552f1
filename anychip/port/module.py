"""One Python file as porting rules see it: the module of `anychip.source`, with names that are certain.

Audit may name a finding by what a name most likely is; an edit needs what it surely is. So `qualified` here is stricter than
the audit's: a name that is bound in more than one way (a try with another import) is nobody's, and is left alone.
"""

import ast
from collections.abc import Iterator
from functools import cached_property

from anychip.source import module as source
from anychip.source.scopes import Binding, Scope

_STORES = (ast.Store, ast.Del)


class Module(source.Module):
    """A parsed file. Raises Unreadable for what is no Python of today."""

    def __init__(self, text: str) -> None:
        super().__init__(text, source.tree_of(text))

    @cached_property
    def identifiers(self) -> frozenset[str]:
        """Every name that is read or bound anywhere in the file."""
        bound = {name for scope in self._scopes() for name in scope.names}
        return frozenset(bound | {node.id for node in self.found.scope_of if isinstance(node, ast.Name)})

    def _scopes(self) -> Iterator[Scope]:
        seen: set[int] = set()
        for scope in [self.found.top, *self.found.scope_of.values()]:
            if id(scope) not in seen:
                seen.add(id(scope))
                yield scope

    def loads(self, name: str) -> list[ast.Name]:
        """Every place where a name is read."""
        names = (node for node in self.found.scope_of if isinstance(node, ast.Name) and node.id == name)
        return [node for node in names if not isinstance(node.ctx, _STORES)]

    def bound_to(self, name: str) -> str | None:
        """The name under which the top of the file has a module or function of that qualified name, and nothing else."""
        for own, bindings in self.found.top.names.items():
            if bindings and all(b.kind == "import" and b.target == name for b in bindings):
                return own
        return None

    def parent(self, node: ast.AST) -> ast.AST:
        return self.found.parents[node]

    # ------------------------------------------------------------ what a name is, for certain

    def _meaning(self, name: str, scope: Scope, depth: int) -> str | None:
        home = scope.find(name)
        meanings = {self._certain(binding, depth) for binding in home.names[name]} if home is not None else set()
        return meanings.pop() if len(meanings) == 1 else None

    def _certain(self, binding: Binding, depth: int) -> str | None:
        """An import's name, through `c = torch.cuda`; None for anything that is computed."""
        node = binding.node
        if binding.kind == "import":
            return f"{'.' * node.level}{binding.target}" if isinstance(node, ast.ImportFrom) else binding.target
        plain = binding.kind == "value" and isinstance(node, ast.Assign | ast.AnnAssign)
        return self.qualified(binding.value, depth - 1) if plain else None
