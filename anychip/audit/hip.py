"""What PyTorch's own hipify makes of a CUDA symbol, read from the installed torch without importing it.

The table is part of every PyTorch (torch/utils/hipify); where there is no torch, nothing is known.
"""

import ast
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path


@cache
def hip_names() -> Mapping[str, str]:
    """CUDA symbol -> HIP symbol; empty without torch."""
    file = _table()
    if file is None:
        return {}
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            _note(found, node.elts[0], node.elts[1])
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                _note(found, key, value)
    return found


def _note(found: dict[str, str], key: ast.expr | None, value: ast.expr) -> None:
    """A row: "cudaMalloc": ("hipMalloc", ...), or ("cudaMalloc", ("hipMalloc", ...))."""
    if isinstance(value, ast.Tuple) and value.elts:
        value = value.elts[0]
    texts = [node.value for node in (key, value) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    if len(texts) == 2:
        found.setdefault(texts[0], texts[1])


def _table() -> Path | None:
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return None
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        file = Path(folder) / "utils" / "hipify" / "cuda_to_hip_mappings.py"
        if file.is_file():
            return file
    return None
