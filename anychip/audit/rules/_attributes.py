"""Attributes of objects by their name alone, for methods that only tensors, modules and streams have."""

import ast

from anychip.source.module import Module

# Modules with functions of such names: they are no objects.
_MODULES = ("torch", "numba", "cupy", "tensorflow", "jax", "triton", "pycuda", "cupyx", "paddle", "os", "sys")


def attributes(module: Module) -> dict[str, list[ast.Attribute]]:
    """Name -> the attributes of that name whose object is no module, in the order of the text. Once per module."""
    known = module.__dict__.get("_attributes")
    if known is None:
        known = {}
        for node in module.found.chains:
            while isinstance(node, ast.Attribute):
                known.setdefault(node.attr, []).append(node)
                node = node.value  # type: ignore[assignment]
        module.__dict__["_attributes"] = known
    return known


def of_objects(module: Module, name: str) -> list[ast.Attribute]:
    return [node for node in attributes(module).get(name, ()) if not _is_module(module, node.value)]


def _is_module(module: Module, node: ast.expr) -> bool:
    name = module.qualified(node)
    return name is not None and name.split(".")[0] in _MODULES and not name[name.rfind(".") + 1 :][:1].isupper()


def is_called(module: Module, node: ast.Attribute) -> bool:
    parent = module.parent(node)
    return isinstance(parent, ast.Call) and parent.func is node
