"""Which name is what: one walk over a tree gathers the scopes, what binds each name, and the nodes that rules look at.

Python's rules: a name belongs to the innermost function, class or comprehension that binds it, class bodies are not
seen from the functions inside them, `global` and `nonlocal` point elsewhere, and the walrus binds outside comprehensions.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True, slots=True)
class Binding:
    """What a name is bound by. target: an import's dotted name. value: the expression that is assigned, or a parameter's
    default. node: the statement, parameter or class. kind: import, value, parameter, def, class, other."""

    kind: str
    node: ast.AST
    target: str = ""
    value: ast.expr | None = None


@dataclass(eq=False, slots=True)
class Scope:
    """kind: module, function, class or comprehension. path: dotted name inside the module, "" for the module itself."""

    kind: str
    node: ast.AST
    parent: "Scope | None"
    path: str
    names: dict[str, list[Binding]] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)

    def bind(self, name: str, binding: Binding) -> None:
        home = self.home(name)
        known = home.names.get(name)
        if known is None:
            home.names[name] = [binding]
        else:
            known.append(binding)

    def home(self, name: str) -> "Scope":
        """The scope that an assignment to `name` here binds in."""
        said = self.elsewhere.get(name)
        if said is None:
            return self
        scope = self
        while scope.parent is not None:
            scope = scope.parent
            if said == "nonlocal" and scope.kind == "function" and name in scope.names:
                return scope
        return scope

    def find(self, name: str) -> "Scope | None":
        """The scope that binds `name` as seen from here; None for builtins and names that nothing binds."""
        scope: Scope | None = self
        first = True
        while scope is not None:
            if (first or scope.kind != "class") and name in scope.names and name not in scope.elsewhere:
                return scope
            scope, first = scope.parent, False
        return None

    def function(self) -> "Scope":
        """The nearest enclosing scope that is no comprehension."""
        scope = self
        while scope.kind == "comprehension" and scope.parent is not None:
            scope = scope.parent
        return scope

    def class_scope(self) -> "Scope | None":
        """The class whose method this is, seen from anywhere inside the method."""
        scope: Scope | None = self
        while scope is not None and scope.kind != "class":
            scope = scope.parent
        return scope


@dataclass(eq=False)
class Walk:
    """The gathered nodes, in the order of the text. keyed: subscripts by a string."""

    tree: ast.Module
    top: Scope
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)
    scope_of: dict[ast.AST, Scope] = field(default_factory=dict)
    chains: list[ast.Name | ast.Attribute] = field(default_factory=list)
    calls: list[ast.Call] = field(default_factory=list)
    strings: list[ast.Constant] = field(default_factory=list)
    joined: list[ast.JoinedStr] = field(default_factory=list)
    imports: list[ast.Import | ast.ImportFrom] = field(default_factory=list)
    functions: list[ast.FunctionDef | ast.AsyncFunctionDef] = field(default_factory=list)
    classes: list[ast.ClassDef] = field(default_factory=list)
    keyed: list[ast.Subscript] = field(default_factory=list)


def walk(tree: ast.Module, package: str = "") -> Walk:
    """package: dotted package of the module, against which relative imports are read."""
    found = Walk(tree, Scope("module", tree, None, ""))
    handlers = _handlers(found, package)
    stack: list[tuple[ast.AST, Scope]] = [(tree, found.top)]
    push, pop, parents = stack.append, stack.pop, found.parents
    while stack:
        node, scope = pop()
        handler = handlers.get(type(node))
        own = handler(node, scope) if handler is not None else None
        if own is None:
            for child in reversed(children(node)):
                parents[child] = node
                push((child, scope))
        else:
            for pair in reversed(list(own)):
                parents[pair[0]] = node
                push(pair)
    return found


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What has no place in the text and no meaning of its own.
_PLAIN = words("ctx op ops name names id attr arg module level lineno type_comment kind asname rest")


_FIELDS: dict[type, tuple[str, ...]] = {}


def children(node: ast.AST) -> list[ast.AST]:
    """Child nodes in the order of the text, without operators and contexts: ast.iter_child_nodes, three times as fast."""
    found: list[ast.AST] = []
    kind = type(node)
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(name for name in kind._fields if name not in _PLAIN)
    for name in _FIELDS[kind]:
        value = getattr(node, name, None)
        if type(value) is list:
            found += [child for child in value if isinstance(child, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


def _handlers(found: Walk, package: str) -> dict[type, Callable[[Any, Scope], Any]]:
    """Node type -> what to note about it, and its children with their scopes (None: all of them, in this scope)."""
    parents, scope_of = found.parents, found.scope_of

    def name(node: ast.Name, scope: Scope) -> list[tuple[ast.AST, Scope]]:
        if isinstance(node.ctx, ast.Load):
            scope_of[node] = scope
            if type(parents[node]) is not ast.Attribute:
                found.chains.append(node)
        else:
            scope_of[node] = scope
            _store(node, scope, parents)
        return []

    def attribute(node: ast.Attribute, scope: Scope) -> list[tuple[ast.AST, Scope]]:
        if type(parents[node]) is not ast.Attribute:
            found.chains.append(node)
            scope_of[node] = scope
        return [(node.value, scope)]

    def constant(node: ast.Constant, scope: Scope) -> list[tuple[ast.AST, Scope]]:
        if type(node.value) is str:
            found.strings.append(node)
            scope_of[node] = scope
        return []

    def call(node: ast.Call, scope: Scope) -> None:
        found.calls.append(node)
        scope_of[node] = scope

    def joined(node: ast.JoinedStr, scope: Scope) -> None:
        found.joined.append(node)
        scope_of[node] = scope

    def subscript(node: ast.Subscript, scope: Scope) -> None:
        if isinstance(node.slice, ast.Constant) and type(node.slice.value) is str:
            found.keyed.append(node)

    def function(node: ast.FunctionDef, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
        found.functions.append(node)
        scope.bind(node.name, Binding("def", node))
        inner = Scope("function", node, scope, _join(scope.path, node.name))
        scope_of[node] = inner
        yield from ((child, scope) for child in node.decorator_list)
        yield from _arguments(node.args, scope, inner)
        if node.returns:
            yield node.returns, scope
        yield from ((child, inner) for child in node.body)

    def lambda_(node: ast.Lambda, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
        inner = Scope("function", node, scope, _join(scope.path, f"<lambda:{node.lineno}:{node.col_offset}>"))
        scope_of[node] = inner
        yield from _arguments(node.args, scope, inner)
        yield node.body, inner

    def class_(node: ast.ClassDef, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
        found.classes.append(node)
        scope.bind(node.name, Binding("class", node))
        inner = Scope("class", node, scope, _join(scope.path, node.name))
        scope_of[node] = inner
        yield from ((child, scope) for child in (*node.decorator_list, *node.bases, *node.keywords))
        yield from ((child, inner) for child in node.body)

    def comprehension(node: Any, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
        inner = Scope("comprehension", node, scope, scope.path)
        yield from ((child, inner) for child in children(node))

    def import_(node: ast.Import, scope: Scope) -> None:
        found.imports.append(node)
        scope_of[node] = scope
        for alias in node.names:
            bound = alias.asname or alias.name.split(".")[0]
            scope.bind(bound, Binding("import", node, alias.name if alias.asname else bound))

    def import_from(node: ast.ImportFrom, scope: Scope) -> None:
        found.imports.append(node)
        scope_of[node] = scope
        source = absolute(node, package)
        for alias in node.names:
            if alias.name != "*":
                scope.bind(alias.asname or alias.name, Binding("import", node, f"{source}.{alias.name}"))

    def elsewhere(node: Any, scope: Scope) -> None:
        word = "global" if isinstance(node, ast.Global) else "nonlocal"
        scope.function().elsewhere.update(dict.fromkeys(node.names, word))

    def named(node: Any, scope: Scope) -> None:
        bound = getattr(node, "name", None) or getattr(node, "rest", None)
        if bound:
            scope.bind(bound, Binding("other", node))

    handlers: dict[type, Callable[[Any, Scope], Any]] = {
        ast.Name: name, ast.Attribute: attribute, ast.Constant: constant, ast.Call: call, ast.JoinedStr: joined,
        ast.Subscript: subscript, ast.FunctionDef: function, ast.AsyncFunctionDef: function,
        ast.Lambda: lambda_, ast.ClassDef: class_, ast.Import: import_, ast.ImportFrom: import_from,
        ast.Global: elsewhere, ast.Nonlocal: elsewhere, ast.ExceptHandler: named, ast.MatchAs: named,
        ast.MatchStar: named, ast.MatchMapping: named,
    }  # fmt: skip
    handlers.update(dict.fromkeys(COMPREHENSIONS, comprehension))
    return handlers


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def absolute(node: ast.ImportFrom, package: str) -> str:
    """The dotted module of `from ..x import y`, seen from a module of `package`."""
    module = node.module or ""
    if not node.level:
        return module
    parts = package.split(".") if package else []
    kept = parts[: len(parts) - node.level + 1] if node.level > 1 else parts
    return ".".join([*kept, *([module] if module else [])]) or module


def _arguments(arguments: ast.arguments, outer: Scope, inner: Scope) -> Iterator[tuple[ast.AST, Scope]]:
    """Parameters are bound inside; defaults and annotations are evaluated outside."""
    defaults = dict(defaults_of(arguments))
    for parameter in parameters(arguments):
        inner.bind(parameter.arg, Binding("parameter", parameter, value=defaults.get(parameter.arg)))
    yield arguments, outer


def parameters(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from arguments.posonlyargs
    yield from arguments.args
    if arguments.vararg:
        yield arguments.vararg
    yield from arguments.kwonlyargs
    if arguments.kwarg:
        yield arguments.kwarg


def defaults_of(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    """Parameter -> its default."""
    positional = [*arguments.posonlyargs, *arguments.args]
    if arguments.defaults:
        for parameter, default in zip(positional[-len(arguments.defaults) :], arguments.defaults, strict=True):
            yield parameter.arg, default
    for parameter, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if value is not None:
            yield parameter.arg, value


def _store(node: ast.Name, scope: Scope, parents: dict[ast.AST, ast.AST]) -> None:
    """Bind an assigned name, to the assigned expression where that is plain to see."""
    parent = parents[node]
    home = scope
    if type(parent) is ast.NamedExpr:
        home = scope.function()
    value: ast.expr | None = None
    if type(parent) is ast.Assign or isinstance(parent, ast.AnnAssign | ast.NamedExpr | ast.AugAssign):
        value = parent.value
    elif isinstance(parent, ast.Tuple | ast.List):
        value = _element(node, parent, parents)
    elif isinstance(parent, ast.withitem):
        value = parent.context_expr
    if value is None:
        home.bind(node.id, Binding("other", parent))
    else:
        home.bind(node.id, Binding("value", parent, value=value))


def _element(node: ast.Name, parent: ast.Tuple | ast.List, parents: dict[ast.AST, ast.AST]) -> ast.expr | None:
    """The element of `a, b = x, y` that goes to the name."""
    statement = parents.get(parent)
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Tuple | ast.List):
        return None
    values = statement.value.elts
    if len(values) != len(parent.elts) or any(isinstance(e, ast.Starred) for e in (*values, *parent.elts)):
        return None
    return values[parent.elts.index(node)]
