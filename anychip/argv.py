"""`check(argv, module)`: whether a program is there to be run, told before a process is started for it.

Nothing of it is imported or run: packages are looked into as the import system would find them, from the folder it is run in.
"""

import ast
import importlib
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from anychip.errors import BadUse


def check(argv: Sequence[str], module: bool) -> None:
    """Raises BadUse for a script or a module that is not there, and for a script of another language."""
    if not argv:
        raise BadUse("no program given: a script's path and its arguments, or a module's name with module=True")
    if module:
        _check_module(argv[0])
        return
    path = Path(argv[0])
    if not argv[0]:
        raise BadUse("no program given: its path is empty")
    if not path.is_file():
        if not path.is_dir() and shutil.which(argv[0]):
            raise BadUse(
                f"{argv[0]} is a command, not a script: name the program that it starts. Instead of torchrun --on CHIP:COUNT starts "
                "the ranks, or -m torch.distributed.run with its options."
            )
        there, name = " It is a folder." if path.is_dir() else "", "" if path.is_absolute() else _module_name(path)
        hint = f" For a module: -m {name}" if name else ""
        raise BadUse(f"there is no script {argv[0]!r} (in {os.getcwd()}).{there}{hint}")
    if path.suffix == ".ipynb":  # where its JSON has no `null`, Python takes it for a dictionary, and does nothing
        raise BadUse(
            f"{argv[0]} is a notebook, not a script. Try: jupyter nbconvert --to script {shlex.quote(argv[0])}, then the script that it "
            "writes, without its magics (get_ipython())."
        )
    problem = "" if path.suffix == ".py" else _no_python(path)
    if problem:
        raise BadUse(
            f"{argv[0]} is not Python ({problem}): of a shell script, name the program that it starts, with the number of "
            "torchrun's ranks as --on CHIP:COUNT."
        )


def _module_name(path: Path) -> str:
    """What python -m would take for it: pkg/train.py -> pkg.train."""
    parts = Path(path.as_posix().removesuffix(".py")).parts
    return ".".join(part for part in parts if part not in ("/", "..", "."))


def _no_python(path: Path) -> str:
    """Where text does not parse, else nothing: compiled Python and archives run as well."""
    try:
        data = path.read_bytes()
        if b"\0" not in data:
            ast.parse(data)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (OSError, ValueError, RecursionError, MemoryError):
        return ""  # told by whoever runs it
    return ""


def _check_module(name: str) -> None:
    if not _is_there(name):
        script = Path(name) if Path(name).is_file() else Path(f"{name.replace('.', '/')}.py")
        hint = f" For a script leave out -m: {script}" if script.is_file() else ""
        raise BadUse(f"there is no module {name!r} (from {os.getcwd()}).{hint}")


def _is_there(name: str) -> bool:
    """Whether a module can be found. True where only running a package could say where its modules are."""
    importlib.invalidate_caches()
    top, *below = name.split(".")
    if not all((top, *below)):
        return False
    spec = PathFinder.find_spec(top, [os.getcwd()]) or _find(top)
    whole = top
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return spec is not None and not _is_plain(spec)
        whole = f"{whole}.{part}"
        found = PathFinder.find_spec(whole, list(spec.submodule_search_locations))
        if found is None and not _is_plain(spec):
            return True
        spec = found
    return spec is not None


def _find(top: str) -> ModuleSpec | None:
    """By whatever finds modules here, those of editable installs included."""
    finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
    return next((spec for find in finders if find is not None and (spec := find(top, None)) is not None), None)


def _is_plain(spec: ModuleSpec) -> bool:
    """Whether a package's modules are the files beside it: one that sets __path__ or is no file of Python may have others."""
    if spec.origin is None or not spec.origin.endswith(".py"):
        return spec.origin is None
    try:
        text = Path(spec.origin).read_bytes()
    except OSError:
        return False
    return b"__path__" not in text and b"sys.modules" not in text
