"""Which operators the device has kernels of its own for, and what torch's schemas say of each."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch

# Views that C++ composes out of as_strided by itself need no kernel; these do the composing.
VIEW_PRIMITIVES = {
    "aten::as_strided", "aten::view", "aten::_reshape_alias", "aten::view.dtype", "aten::unfold", "aten::alias",
    "aten::view_as_real", "aten::view_as_complex", "aten::_neg_view", "aten::_conj", "aten::detach",
    "aten::as_strided_", "aten::_unsafe_view",
}  # fmt: skip

# These change a tensor's own shape or strides, which torch composes of `as_strided_` and `resize_` (its tag: inplace_view).
IN_PLACE_VIEWS = {"aten::t_", "aten::transpose_", "aten::squeeze_", "aten::unsqueeze_", "aten::swapdims_",
                  "aten::swapaxes_", "aten::resize_as_"}  # fmt: skip

# In-place list ops: the shapes of what they are given are all there is to know.
UNCHECKED_PREFIXES = ("_foreach_", "_fused_", "_amp_")

# Never reached on a device, or better left to torch's own composition.
LEFT_TO_TORCH = {
    "aten::_has_compatible_shallow_copy_type", "aten::is_pinned", "aten::_pin_memory", "aten::_sparse_coo_tensor_with_dims",
    "aten::_pack_padded_sequence",
}  # fmt: skip


# out= forms that torch writes for its chips themselves: products with another dtype than their operands'.
OWN_OUT = {"dtype_out"}

# Operators that torch composes on the host and has one kernel for on its chips (FSDP2 copies in and out by them).
OWN_KERNEL = {"aten::_chunk_cat", "aten::_chunk_cat.out", "aten::split_with_sizes_copy.out"}

# Whose first tensor, too, may be a number (`7 // x`, `torch.add(7, x)`): torch/csrc/utils/python_arg_parser.cpp, should_allow_numbers_as_tensors.
OF_NUMBERS = {"add", "sub", "mul", "div", "floor_divide"}

# Products whose float32 operands a program's settings may shorten to TF32: base name -> what torch calls the setting.
SHORTENED = {
    **dict.fromkeys(("mm", "addmm", "addmm_", "_addmm_activation", "bmm", "baddbmm", "baddbmm_", "addbmm", "addbmm_", "linear"),
                    "matmul"),
    **dict.fromkeys(("convolution", "convolution_backward", "convolution_overrideable", "convolution_backward_overrideable"),
                    "conv"),
    "_cudnn_rnn": "rnn", "_cudnn_rnn_backward": "rnn",
}  # fmt: skip

# What a generated kernel can return; an integer among tensors depends on shapes alone.
RESULTS = {"Tensor", "List[Tensor]", "Optional[Tensor]", "int"}


@dataclass(frozen=True)
class Argument:
    """One argument of an operator. type is torch's own text: Tensor, Tensor?, int[], Scalar, ..."""

    name: str
    type: str
    kwarg_only: bool
    alias: str | None
    writes: bool

    def key(self, schema: "Schema") -> str | None:
        """Source of this argument's part of the cache key; None if nothing depends on it."""
        name, kind = self.name, self.type
        tensor = "({0}.shape, {0}.stride(), {0}.dtype, {0}.get_device())"
        if (
            kind == "Tensor"
            and self is schema.arguments[0]
            and not (schema.base in OF_NUMBERS or "backward" in schema.base)
        ):
            return f"{name}.shape, {name}.stride(), {name}.dtype, {name}.get_device()"
        if kind == "Tensor":  # `x + 1` arrives with the number itself, a missing gradient as None
            return f"{name}.__class__ if {name}.__class__ in _numbers else {tensor.format(name)}"
        if kind == "Optional[Tensor]":
            return f"{name} if {name} is None else {tensor.format(name)}"
        if kind in ("List[Tensor]", "List[Optional[Tensor]]"):
            each = "(t.shape, t.dtype)" if schema.unchecked else f"t if t is None else {tensor.format('t')}"
            return f"tuple([{each} for t in {name}])"
        if kind in ("number", "Optional[number]"):
            return name if schema.is_factory else f"{name}.__class__"
        if kind in ("float", "Optional[float]", "Optional[Generator]", "Generator", "List[number]", "Any"):
            return None
        if kind.startswith("Optional[List["):
            return f"{name} if {name} is None else tuple({name})"
        if kind.startswith("List["):
            return f"tuple({name})"
        return name


class Schema:
    """An operator as the generator sees it. name is qualified, `aten::add.Tensor`."""

    def __init__(self, schema: Any) -> None:
        self.name = schema.name + (f".{schema.overload_name}" if schema.overload_name else "")
        self.base = schema.name.removeprefix("aten::")
        self.overload_name: str = schema.overload_name
        self.arguments: list[Argument] = []
        self.defaults: dict[str, Any] = {}
        for argument in schema.arguments:
            alias = argument.alias_info
            name = argument.name if argument.name != "self" else "self_"
            self.arguments.append(
                Argument(
                    name if name not in ("from", "lambda") else name + "_",
                    str(argument.type), argument.kwarg_only,
                    "".join(sorted(alias.before_set)) if alias else None, bool(alias and alias.is_write),
                )
            )  # fmt: skip
            if argument.has_default_value():
                value = argument.default_value
                self.defaults[self.arguments[-1].name] = tuple(value) if isinstance(value, list) else value
        self._kwarg_names = [argument.name for argument in schema.arguments]
        self.returns = [
            (str(one.type), "".join(sorted(one.alias_info.before_set)) if one.alias_info else None)
            for one in schema.returns
        ]
        self.aliased = [alias is not None for _, alias in self.returns]
        self.writes = any(argument.writes for argument in self.arguments)
        self._overload: Any = None

    def overload(self) -> Any:
        """torch's callable; looked up late, since there are a thousand of them."""
        if self._overload is None:
            packet = getattr(torch.ops.aten, self.base)
            self._overload = getattr(packet, self.overload_name or "default")
        return self._overload

    @cached_property
    def is_view(self) -> bool:
        return (
            any(self.aliased) and not any(argument.writes for argument in self.arguments)
        ) or self.name in VIEW_PRIMITIVES

    @cached_property
    def unchecked(self) -> bool:
        return self.base.startswith(UNCHECKED_PREFIXES)

    @cached_property
    def shortened(self) -> str | None:
        """The setting that says whether float32 operands are shortened, if it is a product."""
        return SHORTENED.get(self.base)

    @cached_property
    def checks_shapes(self) -> bool:
        """An in-place op can still be wrong (`add_` of shapes that do not fit): ask torch once."""
        return not self.unchecked

    @cached_property
    def returns_nothing_new(self) -> bool:
        return all(self.aliased)

    @cached_property
    def has_out(self) -> bool:
        return any(argument.kwarg_only and argument.writes for argument in self.arguments)

    @cached_property
    def is_factory(self) -> bool:
        return not any("Tensor" in argument.type for argument in self.arguments)

    @cached_property
    def single_list(self) -> bool:
        return len(self.returns) == 1 and self.returns[0][0].startswith("List")

    def mutated(self, args: Any, kwargs: Any) -> list[torch.Tensor]:
        """The tensors among these arguments that the op writes to."""
        found: list[torch.Tensor] = []
        if not self.writes:
            return found
        position = 0
        for argument in self.arguments:
            if argument.kwarg_only:
                value = kwargs.get(argument.name)
            else:
                value = args[position] if position < len(args) else None
                position += 1
            if argument.writes and value is not None:
                found.extend(value if isinstance(value, list | tuple) else [value])
        return found

    def full_args(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return args

    def _given(self, alias: str) -> Argument:
        return next(argument for argument in self.arguments if argument.alias == alias)

    def result(self, made: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the op returns: made outputs, or the arguments that it returns again."""
        results = self._again(made, args, kwargs) if any(self.aliased) else made
        if not results:
            return None
        return results[0] if len(results) == 1 else tuple(results)

    def _again(self, made: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        positional = [argument.name for argument in self.arguments if not argument.kwarg_only]
        bound = dict(zip(positional, args, strict=False)) | kwargs
        return [
            bound[self._given(alias).name] if alias is not None else one
            for (_, alias), one in zip(self.returns, made, strict=True)
        ]

    def result_source(self) -> str:
        """The same as `result`, as an expression over `_entry[1]` (see `kernels._fast`)."""
        if not self.returns:
            return "None"
        if len(self.returns) == 1:
            kind, alias = self.returns[0]
            if alias is not None:
                return self._given(alias).name
            return "[make() for make in _entry[1][0]]" if kind.startswith("List") else "_entry[1]()"
        parts = []
        for position, (kind, alias) in enumerate(self.returns):
            made = f"_entry[1][{position}]"
            if alias is not None:
                parts.append(self._given(alias).name)
            elif kind.startswith("List"):
                parts.append(f"[make() for make in {made}]")
            else:
                parts.append(made if kind == "int" else f"({made} and {made}())")
        return f"({', '.join(parts)})"


def device_operators(skip: Container[str]) -> Iterator[str]:
    """Qualified name of every aten operator that a device must bring a kernel for.

    Left out: operators that torch composes of others on any device, view composites, out= forms that torch
    writes by way of the plain form, operators with other than tensor results (they are special), and `skip`.
    """
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    for schema in torch._C._jit_get_all_schemas():
        if not schema.name.startswith("aten::"):
            continue
        name = schema.name + (f".{schema.overload_name}" if schema.overload_name else "")
        if name in skip or name in LEFT_TO_TORCH or not torch._C._dispatch_has_kernel(name):
            continue
        if name in OWN_KERNEL:
            yield name
            continue
        if not has(name, "CPU") and (
            has(name, "CompositeImplicitAutograd")
            or (schema.overload_name.endswith("out") and schema.overload_name not in OWN_OUT)
            or schema.name.removesuffix("_copy") in VIEW_PRIMITIVES
        ):
            continue
        kinds = [str(one.type) for one in schema.returns]
        if (kinds and not ("Tensor" in kinds or "List[Tensor]" in kinds)) or not RESULTS.issuperset(kinds):
            continue
        composed = has(name, "CompositeExplicitAutograd") or not has(name, "CPU")
        if composed and name not in VIEW_PRIMITIVES and (_is_view(schema) or schema.name in IN_PLACE_VIEWS):
            continue
        yield name


def _is_view(schema: Any) -> bool:
    returns_given = any(one.alias_info for one in schema.returns)
    return returns_given and not any(one.alias_info and one.alias_info.is_write for one in schema.arguments)


@cache
def schema_of(name: str) -> Schema:
    """The schema of one operator by its qualified name."""
    base, _, overload = name.partition(".")
    return Schema(torch._C._get_schema(base, overload))
