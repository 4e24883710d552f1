"""The lines that a file needs at its top before edits may use their names, and where they go.

Portable code names two things, both fixed by how PyTorch was built, so neither starts a driver nor spoils a fork:

    DEVICE        where tensors go: the accelerator, or the CPU where PyTorch was built for none
    ACCELERATOR   the accelerator's type in words, "cuda" where PyTorch was built for none, so that comparisons,
                  autocast and torch.get_device_module mean on a CPU build what they meant before

A chip's form names the chip itself and needs only its plug-in imported.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from anychip.port.edits import Edit
from anychip.port.module import Module
from anychip.port.target import Target

DEVICE, ACCELERATOR = "DEVICE", "ACCELERATOR"
_DEVICE_VALUE = "{torch}.accelerator.current_accelerator() or {torch}.device('cpu')"
_ACCELERATOR_VALUE = "getattr({torch}.accelerator.current_accelerator(), 'type', 'cuda')"
_VALUES = {DEVICE: _DEVICE_VALUE, ACCELERATOR: _ACCELERATOR_VALUE}
# In a file where torch must not be imported at the top, the value stands in the place of the name.
REASON = "names for the accelerator, fixed by how PyTorch was built; a CPU build has none"


@dataclass
class Header:
    """The names of one file, taken as rules ask for them, and the edit that defines those that were."""

    module: Module
    target: Target
    private: bool = False
    used: set[str] = field(default_factory=set)
    submodules: set[str] = field(default_factory=set)
    needs_torch: bool = False
    needs_plugin: bool = False
    needs_backend: bool = False  # what makes the target's collectives known
    early: bool = False

    def __post_init__(self) -> None:
        self.known = _defined(self.module)
        self.torch = _torch_name(self.module)
        self.place = _place(self.module)
        self.names = {name: self.known.get(name) or self._free(name) for name in _VALUES}

    def _free(self, name: str) -> str:
        """A name that nothing in the file has. A leading underscore where the file's own names are read or exported."""
        reads = {"globals", "vars", "locals", "exec", "eval"} & self.module.identifiers
        name = f"_{name}" if self.private or reads else name
        while name in self.module.identifiers:
            name = f"_{name}"
        return name

    # ------------------------------------------------------------ what rules write

    def device(self) -> str:
        """An expression for the torch.device that work goes to."""
        return self._name(DEVICE) if self.target.portable else f'"{self.target.device_type}"'

    def device_type(self, quote: str = '"') -> str:
        """An expression for its type, as a string that a device can be made of."""
        if not self.target.portable:
            return f"{quote}{self.target.device_type}{quote}"
        return f"{self._name(DEVICE)}.type"

    def accelerator(self, quote: str = '"') -> str:
        """An expression for the type in comparisons and names: never the CPU's."""
        return self._name(ACCELERATOR) if self.target.portable else f"{quote}{self.target.device_type}{quote}"

    def torch_name(self) -> str:
        """The name under which the file has torch; it is imported if it has none."""
        self.needs_torch = self.needs_torch or self.torch is None
        return self.torch or "torch"

    def submodule(self, name: str) -> str:
        """An expression for a module of torch that `import torch` alone does not load ("nn.attention.bias"). It is
        imported at the top; where `place` is None it cannot be, and must not be written."""
        self.submodules.add(name)
        return f"{self.torch_name()}.{name}"

    def fill(self, words: str) -> str:
        """Words of a Spelling with the names in their places, and torch under the file's own name for it."""
        if words.startswith("torch."):
            words = f"{self.torch_name()}{words.removeprefix('torch')}"
        needs = {"{device}": self.device, "{accelerator}": self.accelerator}
        for mark, name in needs.items():
            if mark in words:
                words = words.replace(mark, name())
        return words

    def _name(self, key: str) -> str:
        if key in self.known:
            return self.known[key]
        if self.place is None:
            value = _VALUES[key].format(torch=self.torch or "torch")
            return f"({value})" if key == DEVICE else value
        self.used.add(key)
        self.torch_name()
        return self.names[key]

    # ------------------------------------------------------------ the lines themselves

    def keep(self, written: Sequence[Edit]) -> None:
        """Forget the names that no edit wrote after all (a comment kept the rule away, or another rule was first), and
        go above the first statement with one that was written."""
        words = {word for edit in written for word in re.findall(r"\w+", edit.text)}
        self.used = {key for key in self.used if self.names[key] in words}
        self.submodules = {name for name in self.submodules if any(f".{name}" in edit.text for edit in written)}
        self.needs_backend = self.needs_backend and any(self.target.backend in edit.text for edit in written)
        self.needs_torch = self.needs_torch and ("torch" in words or bool(self.used))
        ours = {self.names[key] for key in self.used} | ({"torch"} if self.torch is None else set())
        uses = (edit for edit in written if not edit.text.startswith("from "))
        first = min((edit.start for edit in uses if self._is_use(edit.text, ours)), default=None)
        if self.place is not None and first is not None:
            self.place = _place(self.module, first)
            self.early = self.place is not None and not self.place[2] and self.torch is not None and bool(self.used)

    def _is_use(self, text: str, names: set[str]) -> bool:
        return bool(names & set(re.findall(r"\w+", text))) or any(f".{name}" in text for name in self.submodules)

    def edits(self, removed: Sequence[tuple[int, int]] = ()) -> list[Edit]:
        """Insertions after the imports: torch or the plug-in where they are missing, then the names.

        removed: spans that other edits take out; where the last import goes, the lines take its place.
        """
        torch = self.torch or "torch"
        quoted = {key: value.format(torch=torch).replace("'", '"') for key, value in _VALUES.items()}
        lines = [f"{self.names[key]} = {quoted[key]}" for key in _VALUES if key in self.used]
        imports = ["import torch"] if self.needs_torch and self.torch is None else []
        submodules = (f"torch.{name}" for name in sorted(self.submodules))
        imports += [f"import {name}" for name in submodules if not _loads(self.module, name)]
        if self.needs_plugin:
            imports += [f"import {name}" for name in self.target.imports if not _imports(self.module, name)]
        if self.needs_backend:
            imports += [f"import {name}" for name in self.target.backend_imports if not _imports(self.module, name)]
        if self.place is None or not (lines or imports):
            return []
        offset, alone, _ = self.place
        if self.early:  # torch is imported further down, below the first use of a name
            imports.insert(0, "import torch" if torch == "torch" else f"import torch as {torch}")
        gone = next((start for start, end in removed if start <= offset < end), None)
        return self._insertions(imports, lines, offset if gone is None else gone, alone, gone is not None)

    def _insertions(self, imports: list[str], lines: list[str], offset: int, alone: bool, instead: bool) -> list[Edit]:
        newline = "\r\n" if b"\r\n" in self.module.data[:2000] else "\n"
        found: list[Edit] = []
        first = next((node for node in self.module.tree.body if is_torch_import(node)), None)
        if imports[:1] == ["import torch"] and first is not None and first.col_offset == 0 and not self.early:
            at = self.module.start(first)
            found.append(Edit(at, at, f"import torch{newline}", "header", "what the edits below need"))
            imports = imports[1:]
        body = self.module.tree.body
        under_docstring = bool(body) and _is_docstring(body, offset, self.module)
        if instead or alone:
            text = _own_lines(imports, lines, newline, bool(offset or found), alone)
        else:
            text = _below(imports, lines, newline, under_docstring, self.module.data[offset:])
        reason = REASON if lines else "what the edits below need"
        return found + ([Edit(offset, offset, text, "header", reason)] if text else [])


def _own_lines(imports: list[str], lines: list[str], newline: str, something_above: bool, at_start: bool) -> str:
    """Lines that stand where a line begins: in the place of a removed import, or at the start of the file."""
    apart = newline if lines and (imports or (something_above and not at_start)) else ""
    end = newline if at_start else ""
    return "".join(f"{line}{newline}" for line in imports) + apart + "".join(f"{line}{newline}" for line in lines) + end


def _below(imports: list[str], lines: list[str], newline: str, under_docstring: bool, follows: bytes) -> str:
    """Lines that go behind the end of a line: imports at once, names after an empty line, and one before what follows."""
    text = (newline if under_docstring else "") + "".join(f"{newline}{line}" for line in imports)
    text += newline + "".join(f"{newline}{line}" for line in lines) if lines else ""
    rest = follows.removeprefix(b"\r").removeprefix(b"\n")
    return text + (newline if rest and not rest.startswith((b"\n", b"\r")) else "")


def _defined(module: Module) -> dict[str, str]:
    """Names of an earlier port that stand at the top already, by what they are."""
    found = {}
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            for key, value in _VALUES.items():
                if ast.unparse(node.value) == value.format(torch=_torch_name(module) or "torch"):
                    found[key] = node.targets[0].id
    return found


def is_own(module: Module, node: ast.AST) -> bool:
    """Whether a "cuda" is one that a port wrote: the last word where PyTorch was built for no accelerator."""
    parent = module.found.parents.get(node)
    if not isinstance(parent, ast.Call) or len(parent.args) != 3 or not isinstance(parent.args[0], ast.Call):
        return False
    made = module.qualified(parent.args[0].func)
    return made == "torch.accelerator.current_accelerator" and parent.args[2] is node


def _torch_name(module: Module) -> str | None:
    """The name that is bound to torch, once and at the top of the file."""
    return module.bound_to("torch")


def _imports(module: Module, name: str) -> bool:
    for node in module.found.imports:
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == name.split(".")[0] for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == name.split(".")[0]:
            return True
    return False


def _loads(module: Module, name: str) -> bool:
    """Whether the top of the file loads a module by its whole name: one of the same package is not enough."""
    for node in module.tree.body:
        if isinstance(node, ast.Import) and any(f"{alias.name}.".startswith(f"{name}.") for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            if any(f"{one}.".startswith(f"{name}.") for one in names):
                return True
    return False


def _place(module: Module, limit: int | None = None) -> tuple[int, bool, bool] | None:
    """(offset, nothing above, torch is imported above) at which lines go: behind the last import before anything else is
    defined or run. limit: offset of the first use, before which they must stand.

    None where torch is imported only inside functions or tries: there the file means to work without it.
    """
    last: ast.stmt | None = None
    torch_seen, first = False, None
    for node in module.tree.body:
        if limit is not None and module.end(node) > limit:
            break
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom):
            last = node
            torch_seen = torch_seen or is_torch_import(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.For | ast.While) or (
            not docstring and torch_seen and not _only_settings(node)
        ):
            break
        elif docstring and last is None:
            first = node
    others = any(is_torch_import(node) for node in module.found.imports)
    if others and not any(is_torch_import(node) for node in module.tree.body):
        return None
    anchor = last or first
    if anchor is not None and any(n.lineno == anchor.end_lineno and n is not anchor for n in module.tree.body):
        return None  # other statements share its line
    if anchor is None:
        return (len(module.data) if not module.tree.body else _head(module)), True, torch_seen
    return module.end_of_line(anchor), False, torch_seen


def _head(module: Module) -> int:
    """Where the first statement begins: below a first line of #! and comments that belong to the file."""
    first = module.tree.body[0]
    decorators = getattr(first, "decorator_list", [])
    return module.start(decorators[0]) - 1 if decorators else module.start(first)


def _is_docstring(body: list[ast.stmt], offset: int, module: Module) -> bool:
    """Whether the first statement is a docstring and the lines go right below it."""
    first = body[0]
    words = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return words and module.end_of_line(first) == offset


def is_torch_import(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] == "torch" for alias in node.names)
    return isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "torch"


def _only_settings(node: ast.stmt) -> bool:
    """Statements that stand between imports and use nothing of ours: tries of imports, ifs, settings without strings
    of devices. A try that imports may need what stands above it, never what we put below."""
    return not any(
        (isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value.startswith("cuda"))
        or (isinstance(inner, ast.Attribute) and inner.attr in ("cuda", "is_cuda"))
        for inner in ast.walk(node)
    )
