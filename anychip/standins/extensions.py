"""CUDA extensions: modules of compiled kernels that cannot be built or loaded here.

Served where a program builds one (`torch.utils.cpp_extension.load`, `load_inline`, with CUDA sources) and where it
imports one that a `setup.py` near it declares. Their functions record one op, `extension.<module>.<function>`, also where
they are reached as `torch.ops.<namespace>.<function>`. What they return is read from their source or from the program's
`register_fake`; where neither tells, `anychip.kernel` says it, and what it costs.
"""

import ast
import importlib.abc
import importlib.machinery
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import IntEnum
from functools import cache
from itertools import count
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from anychip.standins import custom, recording, registered
from anychip.standins.cxx import Shape, Unknown, known, plain, returned
from anychip.standins.guarded import hidden

CUDA_SUFFIXES = (".cu", ".cuh")
NUMBERS = {"int", "long", "unsigned", "int32_t", "int64_t", "uint32_t", "uint64_t", "intptr_t", "uintptr_t", "size_t"}
# A class that is bound: its name, and the chain of its methods up to the end of the statement.
_CLASS = re.compile(r'\bclass_\s*<[^;{}]*?>\s*\(\s*\w+\s*,\s*"(\w+)"([^;]*);')
_ENUM = re.compile(r'\benum_\s*<[^;{}]*?>\s*\(\s*\w+\s*,\s*"(\w+)"([^;]*);')
_VALUE = re.compile(r'\.value\(\s*"(\w+)"')
_METHOD = re.compile(r'\.def\(\s*"(\w+)"')
_BOUND = re.compile(r'\.(?:def|impl)\(\s*"(\w+)(?:\([^"]*)?"\s*,\s*(?:TORCH_FN\()?&?\s*(?:[\w:]+::)?(\w+)')


class Handle(int):
    """A number that a function gave for tensors that the extension keeps. kept: their bytes, which kernels that are given it read."""

    kept: int = 0


class ExtensionFunction:
    """A function of a module that was not built. cxx: its name in C++; source: the C++ text of the module."""

    unclear = "is a CUDA extension's function that is not built here, and what it returns is not clear from its source"

    def __init__(self, module: str, name: str, cxx: str, source: str) -> None:
        self.__name__, self.__qualname__, self.__module__ = name, name, module
        self.op = f"extension.{module}.{name}"
        self.cxx, self.source = cxx, source
        self.products: list[tuple[int, ...]] = []  # of the call that was read last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from anychip.device.ops.kernels import flat_tensors

        tensors = flat_tensors((args, kwargs))
        if not tensors and (kind := declared_return(self.source, self.cxx)) in {"void", *NUMBERS}:
            return None if kind == "void" else self._number(0)  # sets something up, or tells of it
        if not recording.any_on_chip(tensors):
            raise RuntimeError(f"{self.op}: this CUDA extension is not built here, and no argument is on the chip.")
        cost = custom.COSTS.get(self.op)
        if cost is not None:
            return custom.record_call(f"custom.{self.op}", cost, args, kwargs)
        return self._by_source(self._in_order(args, kwargs))

    def _in_order(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        return (*args, *kwargs.values())

    def _by_source(self, args: tuple[Any, ...]) -> Any:
        """Record by what the source says of the results; its inputs count as written where it returns nothing."""
        from anychip.device.ops.kernels import flat_tensors

        found = self._returned(args)
        shapes = [] if found in (None, int) else found if isinstance(found, list) else [found]
        outputs = [recording.layout(one.meta()) for one in shapes]
        given = sum(one.numel() * one.element_size() for one in flat_tensors(args))
        given += sum(one.kept for one in tree_leaves(args) if isinstance(one, Handle))
        moved = given + sum(prod(shape) * dtype.itemsize for shape, _, dtype in outputs)
        written = () if found is int else self._written(args, found)
        costs = (("bytes", moved), *([("products", tuple(self.products))] if self.products else ()))
        made = recording.launch(self.op, args, outputs, written, costs)
        if found is int:
            return self._number(given)
        return made if isinstance(found, list) else made[0] if made else None

    def _number(self, kept: int) -> Handle:
        handle = Handle(1 + next(_HANDLES)) if kept else Handle(1)
        handle.kept = kept
        return handle

    def _written(self, args: tuple[Any, ...], found: Any) -> Sequence[Any]:
        from anychip.device.ops.kernels import flat_tensors

        return flat_tensors(args) if found is None else ()

    def _returned(self, args: tuple[Any, ...]) -> Any:
        self.products = []
        try:
            found = returned(self.source, self.cxx, args, self.products)
            if all(isinstance(one, Shape) for one in (found if isinstance(found, list) else [found] if found else [])):
                return found
        except (Unknown, TypeError, ValueError, IndexError, AttributeError):
            pass  # any of them means that the source was not understood
        kind = declared_return(self.source, self.cxx)
        if kind == "void":
            return None
        if kind in NUMBERS:
            return int
        raise RuntimeError(
            f'{self.op} {self.unclear}. Say it before the call: anychip.kernel("{self.op}", outputs=lambda *args: ..., '
            "flop=lambda *args: ...); see docs/kernels.md."
        )


class Operator(ExtensionFunction):
    """One that the extension registers with torch: its schema says what it writes, `register_fake` what it returns."""

    def _in_order(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        op = registered.operator(self.__module__, self.__name__)
        return super()._in_order(args, kwargs) if op is None else registered.in_order(op, args, kwargs)

    def _returned(self, args: tuple[Any, ...]) -> Any:
        if (op := registered.operator(self.__module__, self.__name__)) is not None:
            try:
                return known(registered.by_fake(op, args))
            except NotImplementedError:  # the program registered none
                if not op._schema.returns:
                    return None
        return super()._returned(args)

    def _written(self, args: tuple[Any, ...], found: Any) -> Sequence[Any]:
        op = registered.operator(self.__module__, self.__name__)
        return super()._written(args, found) if op is None else registered.written(op, args)


@cache
def declared_return(source: str, function: str) -> str | None:
    """The type that a declaration says is returned, a single word."""
    kinds = "|".join(("void", *sorted(NUMBERS)))
    found = re.search(rf"\b({kinds})\s+{re.escape(function)}\s*\(", plain(source))
    return None if found is None else found[1]


def make_module(name: str, sources: Iterable[str], functions: Iterable[str] = ()) -> ModuleType:
    """A module with a function for each name that the C++ text binds, and for `functions`."""
    module = ModuleType(name)
    text = "\n".join(sources)
    classes = _CLASS.findall(text)
    bound = dict(_BOUND.findall(_CLASS.sub("", text))) | {one: one for one in functions}
    for python, cxx in bound.items():
        setattr(module, python, ExtensionFunction(name, python, cxx, text))
    for python, chain in classes:
        setattr(module, python, _bound_class(name, python, chain, text))
    for python, chain in _ENUM.findall(text):
        with suppress(TypeError, ValueError):  # names that Python's have themselves
            values = IntEnum(python, [*dict.fromkeys(_VALUE.findall(chain))], module=name, start=0)  # type: ignore[misc]
            vars(module).update({python: values, **(values.__members__ if "export_values" in chain else {})})

    def cxx_name(operator: str) -> str:
        plain_name = operator.partition(".")[0]
        return bound.get(plain_name, plain_name)

    registered.register(text, name, lambda space, one: Operator(space, one, cxx_name(one), text))
    module.__dict__["__anychip__"] = True
    module.__file__ = f"{name}.so"  # as of one that was built; there is no such file
    _load_no_more(module.__file__)
    if not bound and not classes:
        module.__dict__["__getattr__"] = _any_function(name)
    if recording.runtime() is not None:
        recording.runtime().recorder.warn(
            f"CUDA extension {name} is not built here: its functions are recorded, not run"
        )
    return module


def _bound_class(module: str, name: str, chain: str, source: str) -> type:
    """A class that the C++ text binds. Making one does nothing; its methods are functions named `<module>.<class>.<method>`, as what they
    read of the object is not known here."""
    cxx = dict(_BOUND.findall(chain))
    methods = {
        one: ExtensionFunction(f"{module}.{name}", one, cxx.get(one, one), source)
        for one in _METHOD.findall(chain)
        if not one.startswith("__")
    }
    return type(name, (), {"__init__": lambda self, *args, **kwargs: None, "__module__": module, **methods})


_HANDLES = count(1)
_made: set[str] = set()  # libraries that would be there had they been built


def _load_no_more(path: str) -> None:
    """Let `torch.ops.load_library` take the file of a module that was made here: its operators are known already."""
    ops: Any = torch.ops
    if not _made:
        real = ops.load_library
        ops.load_library = lambda one: None if str(one) in _made else real(one)
    _made.add(path)


def _any_function(module: str) -> Any:
    def __getattr__(name: str) -> ExtensionFunction:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return ExtensionFunction(module, name, name, "")

    return __getattr__


# Built by the program -------------------------------------------------------------------------------------------------


def answer_builds(cpp_extension: Any) -> None:
    """Answer `load` and `load_inline` of torch.utils.cpp_extension for extensions with CUDA sources; others are built as
    always."""
    real_load, real_inline = cpp_extension.load, cpp_extension.load_inline

    def load(name: str, sources: Any, *args: Any, **kwargs: Any) -> Any:
        paths = [sources] if isinstance(sources, str) else [str(one) for one in sources]
        if not any(path.endswith(CUDA_SUFFIXES) for path in paths):
            return real_load(name, sources, *args, **kwargs)
        files = [Path(path) for path in paths]
        given = [one for value in (*args, *kwargs.values()) if isinstance(value, list | tuple) for one in value]
        macros = [f"#define {one[2:].replace('=', ' ', 1)}" for one in given if str(one).startswith("-D")]
        return _kept(make_module(name, [*macros, *(_read(path) for path in dict.fromkeys([*files, *_headers(files)]))]))

    def load_inline(
        name: str, cpp_sources: Any, cuda_sources: Any = None, functions: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if not cuda_sources:
            return real_inline(name, cpp_sources, cuda_sources, functions, *args, **kwargs)
        texts = [*_texts(cpp_sources), *_texts(cuda_sources)]
        return _kept(make_module(name, texts, functions if isinstance(functions, dict) else _texts(functions)))

    cpp_extension.load = load
    cpp_extension.load_inline = load_inline


def _kept(module: ModuleType) -> ModuleType:
    """A built extension can be imported by its name afterwards."""
    sys.modules[module.__name__] = module
    return module


def _texts(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# Imported by the program ----------------------------------------------------------------------------------------------


class Finder(importlib.abc.MetaPathFinder):
    """Serves a missing module that a setup.py beside the program declares as a CUDAExtension."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        sources = declared(tuple(sys.path[:2])).get(fullname)
        if sources is None or hidden():
            return None
        return importlib.machinery.ModuleSpec(fullname, _Loader(fullname, sources))


class _Loader(importlib.abc.Loader):
    def __init__(self, name: str, sources: tuple[Path, ...]) -> None:
        self.name, self.sources = name, sources

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return make_module(self.name, [_read(path) for path in self.sources])

    def exec_module(self, module: ModuleType) -> None:
        pass


DEPTH = 3  # folders below the program's own in which setup.py files are looked for
MOST_FILES = 2000


@cache
def declared(folders: tuple[str, ...]) -> dict[str, tuple[Path, ...]]:
    """Name -> sources of every CUDAExtension in the setup.py files at or below these folders."""
    found: dict[str, tuple[Path, ...]] = {}
    for folder in dict.fromkeys(folders):
        root = Path(folder or ".")
        if "site-packages" in folder or "/lib/python" in folder or not root.is_dir():
            continue
        for setup in _setups(root):
            for name, sources in _extensions(setup):
                found.setdefault(name, sources)
    return found


def _setups(root: Path) -> list[Path]:
    found: list[Path] = []
    for depth in range(DEPTH + 1):
        for number, path in enumerate(root.glob("*/" * depth + "setup.py")):
            if number >= MOST_FILES:
                break
            found.append(path)
    return found


def _extensions(setup: Path) -> list[tuple[str, tuple[Path, ...]]]:
    text = _read(setup)
    if "CUDAExtension" not in text:
        return []
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return []
    given = {
        to.id: one.value
        for one in ast.walk(tree)
        if isinstance(one, ast.Assign)
        for to in one.targets
        if isinstance(to, ast.Name)
    }
    makes = {"CUDAExtension"} | {name for name, value in given.items() if "CUDAExtension" in ast.unparse(value)}
    found = []
    for call in (one for one in ast.walk(tree) if isinstance(one, ast.Call)):
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        named = next((one.value for one in call.keywords if one.arg == "name"), call.args[0] if call.args else None)
        if called in makes and named is not None and (name := _text_of(named, given)) is not None:
            beside = [path for path in setup.parent.rglob("*") if path.suffix in (".cpp", ".cu", ".cc")][:MOST_FILES]
            found.append((name, (*beside, *_headers(beside))))
    return found


def _headers(sources: Iterable[Path]) -> list[Path]:
    """Those in the folders of these files: functions that are bound are often defined there."""
    folders = dict.fromkeys(path.parent for path in sources)
    return [path for one in folders for path in sorted(one.glob("*")) if path.suffix in (".h", ".hpp", ".cuh")][
        :MOST_FILES
    ]


def _text_of(node: ast.expr, given: dict[str, ast.expr]) -> str | None:
    """The text that an expression of a setup.py comes to, where constants alone decide it: `f"{library_name}._C"`."""
    match node:
        case ast.Constant(str() as text):
            return text
        case ast.Name(name) if isinstance(given.get(name), ast.Constant):
            return _text_of(given[name], {})
        case ast.FormattedValue(value):
            return _text_of(value, given)
        case ast.JoinedStr(values):
            parts = [_text_of(one, given) for one in values]
            return None if None in parts else "".join(part for part in parts if part)
    return None
