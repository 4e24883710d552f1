"""One operation as the chip saw it: its name, the shapes it was given and the shapes it gave back."""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "complex128": 16, "complex64": 8, "complex32": 4,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
}  # fmt: skip


class TensorMeta(NamedTuple):
    """Shape in elements, stride in elements, dtype as torch spells it, and where the tensor lives."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    on_chip: bool = True

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def item_bytes(self) -> int:
        """Bytes per element; a dtype this table does not know counts as one byte, as quantised types do."""
        return ITEM_BYTES.get(self.dtype, 1)

    @property
    def nbytes(self) -> int:
        """Bytes that must move to touch each distinct element once: an expanded dimension (stride 0) counts once."""
        touched = prod(size for size, step in zip(self.shape, self.stride, strict=True) if step != 0 or size == 0)
        return touched * self.item_bytes


@dataclass(frozen=True)
class Op:
    """An operator call.

    name: dispatcher name with its overload, ``aten.mm.default``. args, kwargs: as called, with each
    tensor as a TensorMeta, lists as tuples, dtypes and devices as their names. outputs: the tensors it
    returned. mutates: positions in `tensors` that it wrote in place; those are not in `outputs`.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    outputs: tuple[TensorMeta, ...] = ()
    mutates: tuple[int, ...] = ()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Of all that is nested in its arguments: remembered, as ops are looked up for every rank of a job."""
        return hash((self.name, self.args, self.kwargs, self.outputs, self.mutates))

    @cached_property
    def tensors(self) -> tuple[TensorMeta, ...]:
        """Every tensor among args and kwargs, in order, lists flattened."""
        found: list[TensorMeta] = []
        _collect(self.args, found)
        _collect(tuple(value for _, value in self.kwargs), found)
        return tuple(found)

    def kwarg(self, name: str, default: Any = None) -> Any:
        return dict(self.kwargs).get(name, default)


def _collect(value: Any, found: list[TensorMeta]) -> None:
    if isinstance(value, TensorMeta):
        found.append(value)
    elif isinstance(value, tuple):
        for item in value:
            _collect(item, found)


def to_json(value: Any) -> Any:
    """Args as JSON: a tensor becomes {"t": [shape, stride, dtype, on_chip]}, a complex number its text."""
    if isinstance(value, TensorMeta):
        return {"t": [list(value.shape), list(value.stride), value.dtype, value.on_chip]}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # JSON has no infinities; repr survives the round trip through float().
        return value if value - value == 0 else {"f": repr(value)}
    return {"s": str(value)}


def from_json(value: Any) -> Any:
    """The inverse of `to_json`; whatever is neither tensor nor scalar comes back as text."""
    if isinstance(value, dict):
        if "t" in value:
            shape, stride, dtype, on_chip = value["t"]
            return TensorMeta(tuple(shape), tuple(stride), dtype, on_chip)
        return float(value["f"]) if "f" in value else value["s"]
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    return value
