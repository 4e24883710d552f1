"""apis/<platform>.csv: what became of every public torch.cuda symbol of the installed torch on each platform.

    python tools/import_apis.py [--torch-npu REPOSITORY] [--torch-mlu ...] [--torch-musa ...] [--torch-xla ...]

match: the platform's module has the name (which does not say that it behaves the same). modified: the maker says that
it differs. missing: the module lacks the name, or the maker says that it does not work. unknown: no public list says.
Modules are read as text, never imported.
"""

import argparse
import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from import_common import APIS_HEADER, STANDARD, Tree, write

# Platform: the option that gives its repository, the repository, the file of the module that stands for torch.cuda.
MODULES = {
    "huawei-cann": ("torch_npu", "Ascend/pytorch", "torch_npu/npu/__init__.py"),
    "cambricon-neuware": ("torch_mlu", "Cambricon/torch_mlu", "torch_mlu/mlu/__init__.py"),
    "moorethreads-musa": ("torch_musa", "MooreThreads/torch_musa", "torch_musa/__init__.py"),
    "google-tpu": ("torch_xla", "pytorch/xla", "torch_xla/__init__.py"),
}
IN_TORCH = {
    "nvidia-cuda": "torch/cuda/__init__.py",
    "amd-rocm": "torch/cuda/__init__.py",
    "intel-xpu": "torch/xpu/__init__.py",
    "apple-mps": "torch/mps/__init__.py",
    "cpu": "torch/cpu/__init__.py",
}
ASCEND_PAGE = "docs/zh/api/native_api/pytorch_{version}/torch-cuda.md"
Row = tuple[str, ...]


def module_names(read: Callable[[str], str | None], path: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """Names that the module at `path` has after import, as far as its text tells; `from .x import *` is followed."""
    text = read(path)
    if text is None or path in seen:
        return set()
    body = list(_statements(ast.parse(text).body))
    names = {name for node in body for name in _bound(node)} | _all(ast.parse(text))
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*" and node.level:
            names |= _starred(read, path, node, seen | {path})
    return names


def _starred(read: Callable[[str], str | None], path: str, node: ast.ImportFrom, seen: frozenset[str]) -> set[str]:
    folder = path.split("/")[: -node.level]
    place = "/".join([*folder, *(node.module or "").split(".")])
    for file in (f"{place}.py", f"{place}/__init__.py"):
        text = read(file)
        if text is not None:
            listed = _all(ast.parse(text))
            return listed or {n for n in module_names(read, file, seen) if not n.startswith("_")}
    return set()


def _all(tree: ast.Module) -> set[str]:
    for node in tree.body:
        named = isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        )
        if named and isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Tuple):
            return {e.value for e in node.value.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)}
    return set()


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of the module's own level, those under `if` and `try` too."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements(node.body + node.orelse)


def _bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            yield node.module.split(".")[0]  # importing a submodule makes it an attribute of its package
        yield from (alias.asname or alias.name.split(".")[0] for alias in node.names if alias.name != "*")
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def cuda_symbols(read: Callable[[str], str | None]) -> list[str]:
    """`__all__` of torch.cuda, as its source writes it."""
    text = read("torch/cuda/__init__.py")
    assert text is not None
    return sorted(_all(ast.parse(text)))


def spelled(symbol: str, module: str) -> tuple[str, ...]:
    """How another module may call the symbol: CUDAGraph is NPUGraph in torch.npu."""
    device = module.rsplit(".", 1)[-1]
    upper = device.upper() if device not in ("torch_xla",) else "XLA"
    return (symbol, symbol.replace("CUDA", upper).replace("cuda", device).replace("nccl", _collectives(device)))


def _collectives(device: str) -> str:
    return {"npu": "hccl", "mlu": "cncl", "musa": "mccl"}.get(device, "nccl")


def by_module(symbols: list[str], names: set[str], module: str, source: str, *, whole: bool = True) -> list[Row]:
    """whole: the text shows every name. Plug-ins set their tensor and storage types at run time, where text shows none
    of them, so that there such a name is unknown rather than missing."""
    rows: list[Row] = []
    for symbol in symbols:
        found = next((name for name in spelled(symbol, module) if name in names), None)
        absent = "missing" if whole or not symbol.endswith(("Storage", "Tensor")) else "unknown"
        status, target = ("match", f"{module}.{found}") if found else (absent, "")
        rows.append((symbol, status, target, "", "", source, ""))
    return rows


def ascend_page(text: str) -> dict[str, tuple[str, str]]:
    """symbol -> status and note, of the maker's page: all boards, some, or none; with limits it is `modified`."""
    found: dict[str, tuple[str, str]] = {}
    for part in re.split(r"^### ", text, flags=re.M)[1:]:
        name = re.match(r"(?:<.*?>\s*)*torch\.cuda\.([\w.]+)", part)
        boards = re.findall(r"<term>(.*?)</term>\s*\|\s*(\S)\s*\|", part)
        if not name or not boards:
            continue
        lacking = list(dict.fromkeys(_ascii(board) for board, mark in boards if mark == "\N{HEAVY BALLOT X}"))
        limits = "\u9650\u5236\u4e0e\u8bf4\u660e" in part  # the heading "limits and explanation"
        status = (
            "missing"
            if all(mark == "\N{HEAVY BALLOT X}" for _, mark in boards)
            else "modified"
            if limits or lacking
            else "match"
        )
        found[name[1]] = status, f"missing on {', '.join(lacking)}" if lacking and status != "missing" else ""
    return found


def _ascii(text: str) -> str:
    return " ".join(re.findall(r"[\x21-\x7e]+", text))


def overlay(rows: list[Row], said: dict[str, tuple[str, str]], module: str, source: str) -> list[Row]:
    """What the maker says, over what the module's names say."""
    out: list[Row] = []
    for row in rows:
        if row[0] in said:
            status, note = said[row[0]]
            target = row[2] or (f"{module}.{row[0]}" if status != "missing" else "")
            row = (row[0], status, target, "", "", source, note)
        out.append(row)
    return out


def platforms() -> dict[str, str]:
    """Platform id -> module, of every file of the standard."""
    files = sorted((STANDARD / "platforms").glob("*.toml"))
    return {file.stem: str(tomllib.loads(file.read_text(encoding="utf-8"))["module"]) for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, name, _ in MODULES.values():
        parser.add_argument(f"--{option.replace('_', '-')}", type=Path, metavar="REPOSITORY", help=f"a copy of {name}")
    parser.add_argument("--ascend-docs", default="2-13-0", help="version of the maker's page, as its folder writes it")
    parser.add_argument("--out", type=Path, default=STANDARD)
    args = parser.parse_args()
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch = Tree("pytorch/pytorch", Path(spec.origin).parent.parent)
    release = f"pytorch/pytorch@{version('torch').split('+')[0]}"
    symbols = cuda_symbols(torch.text)
    for platform, module in platforms().items():
        rows: list[Row] = [(symbol, "unknown", "", "", "", "", "") for symbol in symbols]
        if platform in IN_TORCH:
            path = IN_TORCH[platform]
            names = set(symbols) if path == IN_TORCH["nvidia-cuda"] else module_names(torch.text, path)
            rows = by_module(symbols, names, module, f"{release}:{path}")
        elif platform in MODULES and (place := getattr(args, MODULES[platform][0])):
            _, name, path = MODULES[platform]
            tree = Tree(name, place)
            rows = by_module(symbols, module_names(tree.text, path), module, tree.source(path), whole=False)
            page = ASCEND_PAGE.format(version=args.ascend_docs)
            if said := ascend_page(tree.text(page) or ""):
                rows = overlay(rows, said, module, tree.source(page))
        write(args.out / "apis" / f"{platform}.csv", APIS_HEADER, rows)


if __name__ == "__main__":
    main()
