"""Operators that a CUDA extension registers with torch (TORCH_LIBRARY), which a program calls as `torch.ops.<namespace>.<name>`.

In: the C++ text. Out: torch's own operators with the schemas that it gives, whose kernel on the chip is the function that
`make` returns for a name; one whose schema torch would infer from C++ is a plain function of that name.
"""

import re
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from anychip.device.insides._torch_library import sized
from anychip.standins import recording
from anychip.standins.cxx import closing, known, plain

_BLOCK = re.compile(r"\bTORCH_LIBRARY(?:_FRAGMENT)?\s*\(\s*(\w+)\s*,\s*(\w+)\s*\)\s*\{")
_LITERAL = re.compile(r'R"\((.*?)\)"|"((?:[^"\\]|\\.)*)"', re.S)
_libraries: list[Any] = []


def defined(text: str, module: str) -> Iterator[tuple[str, str]]:
    """Namespace and schema, or name alone, of each operator that C++ text defines. module: stands for TORCH_EXTENSION_NAME."""
    text = plain(text)
    for block in _BLOCK.finditer(text):
        namespace = module if block[1] == "TORCH_EXTENSION_NAME" else block[1]
        body = text[block.end() : closing(text, block.end() - 1, "{}")]
        for call in re.finditer(rf"\b{block[2]}\s*\.\s*def\s*\(\s*(?:\w+\()?((?:{_LITERAL.pattern}\s*)+)", body, re.S):
            whole = "".join(raw or re.sub(r"\\(.)", r"\1", quoted) for raw, quoted in _LITERAL.findall(call[1]))
            yield namespace, whole.removeprefix(f"{namespace}::").strip()


def register(text: str, module: str, make: Callable[[str, str], Callable[..., Any]]) -> None:
    """Make the operators of an extension's text known to torch. make(namespace, name): what runs on the chip."""
    for namespace, schema in defined(text, module):
        name = schema.partition("(")[0]  # with its overload: `add.out`
        if operator(namespace, name) is not None or vars(getattr(torch.ops, namespace)).get(name) is not None:
            continue  # loaded twice
        function = make(namespace, name)
        library = keep_library(namespace, "FRAGMENT")
        if "(" not in schema or not _defined(library, schema):
            setattr(getattr(torch.ops, namespace), name, function)
            continue
        if recording.runtime() is not None:
            from anychip.device.insides._torch_tensors import DISPATCH_KEYS

            library.impl(name, function, DISPATCH_KEYS[recording.runtime().device_type])


def _defined(library: Any, schema: str) -> bool:
    """False where the schema has types that only the compiled extension would have told torch of."""
    try:
        library.define(schema)
    except RuntimeError:
        return False
    return True


def keep_library(namespace: str, kind: str) -> Any:
    """One of torch's, for as long as this process lives: what is registered by it goes with it."""
    make: Any = torch.library.Library
    _libraries.append(make(namespace, kind))
    return _libraries[-1]


def operator(namespace: str, name: str) -> Any:
    """torch's operator, or None where it was not defined by a schema."""
    packet, _, overload = name.partition(".")
    found = getattr(getattr(torch.ops, namespace), packet, None)
    return getattr(found, overload or "default", None)


def in_order(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """All arguments of a call as the schema has them; torch leaves out those that are as the schema has them anyway."""
    rest = op._schema.arguments[len(args) :]
    return (*args, *(kwargs.get(one.name, one.default_value) for one in rest))


def written(op: Any, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """The tensors among the arguments that a schema says are written."""
    marked = [
        one for one, of in zip(args, op._schema.arguments, strict=False) if of.alias_info and of.alias_info.is_write
    ]
    return [one for one in marked if isinstance(one, torch.Tensor)]


def by_fake(op: Any, args: tuple[Any, ...]) -> Any:
    """What the program's own `register_fake` makes of the arguments, on torch's meta device. NotImplementedError: it has none."""
    positional = [one for one in op._schema.arguments if not one.kwarg_only]
    by_name = [one.name for one in op._schema.arguments[len(positional) :]]
    metas = tree_map_only(torch.Tensor, lambda one: known(one).meta(), args)
    given, named = metas[: len(positional)], dict(zip(by_name, metas[len(positional) :], strict=True))
    try:
        return op(*given, **named)
    except RuntimeError as error:
        if "data-dependent shape" not in str(error):
            raise
        size = most_given(args)
        if (rule := sized(op._schema.name, size)) is None:
            raise
        recording.runtime().recorder.warn(
            f"{op._schema.name}: how much it gives depends on values; where the ends of its parts are not known, it is all that it is given"
        )
        return rule(*given, **named)


def most_given(args: Any) -> int:
    """What an operator gives whose size depends on values: the last of known ends of parts, as of sequences without padding, else as
    many rows as the first tensor has."""
    tensors = [one for one in tree_leaves(args) if isinstance(one, torch.Tensor)]
    ends = [
        recording.runtime().driver.values_of(one) for one in tensors if one.dim() == 1 and not one.is_floating_point()
    ]
    last = [int(one[-1]) for one in ends if one is not None and one.numel() and bool((one.diff() >= 0).all())]
    rows = [prod(one.shape[:-1]) if one.dim() > 1 else one.numel() for one in tensors]
    return next(iter([*last, *rows]), 0)
