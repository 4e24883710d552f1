"""One Python kernel for each operator that torch would run on the chip.

A kernel does the least that is true of every call: it looks the call up by the shapes, strides, dtypes and
integers it was given, notes one word on the tape, and makes the outputs, which have size and no memory.
The first call with new shapes runs torch's own meta kernel to learn what comes out. Kernels are generated
from torch's operator schemas, one function per operator, because a generic one costs three times as much.

Views cost nothing on a chip and are sent to torch's CPU kernels, which touch no data.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch

from anychip.device.insides._torch_tensors import DISPATCH_KEYS, Tensors, cpu_keyset, dtype_name
from anychip.device.ops.checks import dtypes, same_device
from anychip.device.ops.schemas import Schema, device_operators, schema_of
from anychip.drivers.base import Call, Driver
from anychip.record.op import Op, TensorMeta
from anychip.record.recorder import Recorder

Make = Callable[[], torch.Tensor]


class Watcher(Protocol):
    """Sees every call, which makes each of them slow: for compiled regions and programs with several streams."""

    def before(self) -> None: ...
    def after(self, call: Call) -> None: ...


@dataclass(slots=True)
class Entry:
    """What is known of a call after its first time.

    fast: what the generated kernel needs (`_fast`), kept in the fast cache unless `watched`.
    outputs: per output, how to make it, a list of that for a tensor list, an integer, or None.
    """

    word: int
    outputs: list[Any]
    fast: Any
    watched: bool


class Kernels:
    """Generates, registers and serves the kernels of one device.

    `cache` is what generated kernels read; `entries` is everything that is known. While somebody must see
    every call (`watch`), the cache is empty and all calls take the slow path, `call`.
    """

    def __init__(self, recorder: Recorder, driver: Driver, tensors: Tensors) -> None:
        self.recorder, self.driver, self.tensors = recorder, driver, tensors
        self.cache: dict[Any, Any] = {}
        self.entries: dict[Any, Entry] = {}
        self.watchers: list[Watcher] = []
        self.reduces_rows = False  # a compiled region is open that makes reductions of products of one row
        self.devices: set[int] = set()  # that anything was computed on
        self._namespace: dict[str, Any] = {}

    # ------------------------------------------------------------ registration

    def install(self, overrides: dict[str, Callable[..., Any]]) -> None:
        """Register a kernel for every operator of the device, `overrides` (by qualified name) before generated ones."""
        self._key = DISPATCH_KEYS[self.tensors.device_type]
        self._namespace = {
            "_get": self.cache.get, "_launch": self.driver.launch, "_first": self.call,
            "_unwatched": self.driver.unwatched, "_wrote": self.driver.wrote,
            "_numbers": frozenset((int, float, bool, complex, type(None))), "_precision": fp32_precision,
        }  # fmt: skip
        self._library = torch._C._dispatch_library("IMPL", "aten", self._key, __file__, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # replacing torch's own kernels is what this is for
            for name in device_operators(skip=overrides):
                self._library.impl(name, self._key, self._stub(name))
            for name, function in overrides.items():
                self._library.impl(name, self._key, function)

    def _stub(self, name: str) -> Callable[..., Any]:
        """Writes the kernel of one operator when it is first called, and registers it in its own place."""

        def stub(*args: Any, **kwargs: Any) -> Any:
            schema = schema_of(name)
            kernel = self._view(schema) if schema.is_view else self.generated(schema)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._library.impl(name, self._key, kernel)
            return kernel(*args, **kwargs)

        return stub

    def generated(self, schema: Schema) -> Callable[..., Any]:
        """The kernel of one operator, compiled from `generate`'s source."""
        number = len(self._namespace)
        self._namespace[f"s{number}"] = schema
        for name, value in schema.defaults.items():
            self._namespace[f"d{number}_{name}"] = value
        source = "\n".join(generate(schema, number))
        # (by this name tracebacks leave it out)
        exec(compile(source, f"{__file__}:generated", "exec"), self._namespace)
        kernel: Callable[..., Any] = self._namespace[f"k{number}"]
        return kernel

    def _view(self, schema: Schema) -> Callable[..., Any]:
        keys = cpu_keyset()
        overload: list[Any] = []

        def kernel(*args: Any, **kwargs: Any) -> Any:
            if not overload:
                overload.append(schema.overload().redispatch)
            return overload[0](keys, *args, **kwargs)

        return kernel

    # ------------------------------------------------------------ the slow path

    def watch(self, watcher: Watcher) -> None:
        """Show every following call to `watcher`, before and after."""
        self.watchers.append(watcher)
        self.cache.clear()

    def unwatch(self, watcher: Watcher) -> None:
        self.watchers.remove(watcher)
        if not self.watchers:
            self.cache.update((key, entry.fast) for key, entry in self.entries.items() if not entry.watched)

    def call(self, schema: Schema, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that the cache does not serve: new shapes, a tensor made elsewhere, or somebody looks."""
        if schema.base == "convolution" and torch._C._get_tracing_state():
            # torch's own kernel is made of this one, which is what `torch.jit.trace` takes down.
            return torch.ops.aten._convolution(*args, False, False, True, True)
        device = kwargs.get("device")
        if device is not None and device.type != self.tensors.device_type:
            # Of the chip's tensor only its layout counts.
            return schema.overload()(*(to_meta(one) for one in args), **kwargs)
        return self._call_entry(schema, self._known(schema, key, args, kwargs, None), args, kwargs)

    def call_made(
        self, schema: Schema, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Any]
    ) -> Any:
        """The same for an op whose outputs are known without asking torch's meta kernel."""
        return self._call_entry(schema, self._known(schema, key, args, kwargs, outputs), args, kwargs)

    def _known(self, schema: Schema, key: Any, args: Any, kwargs: Any, outputs: list[Any] | None) -> Entry:
        for watcher in self.watchers:
            watcher.before()  # it may open a compiled region, on which depends what the op is
        reduced = self.reduces_rows and has_one_row(schema, args)
        key = ("reduced", key) if reduced else key
        entry = self.entries.get(key)
        if entry is None:
            entry = self.entries[key] = self._learn(schema, args, kwargs, outputs, reduced)
            if not entry.watched and not self.watchers:
                self.cache[key] = entry.fast
        return entry

    def _call_entry(self, schema: Schema, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.driver.launch(entry.word)
        made = [
            [make() for make in one] if isinstance(one, list) else one() if callable(one) else one
            for one in entry.outputs
        ]
        if entry.watched or self.watchers:
            call = self._call(schema, args, kwargs, made)
            if entry.watched:
                self.driver.run(call)
            for watcher in self.watchers:
                watcher.after(call)
        if self.driver.unwatched and schema.writes and not entry.watched:
            self.driver.wrote(*schema.mutated(args, kwargs))
        return schema.result(made, args, kwargs)

    def _call(self, schema: Schema, args: tuple[Any, ...], kwargs: dict[str, Any], made: list[Any]) -> Call:
        outputs: list[torch.Tensor] = []
        for one in made:
            outputs.extend(one if isinstance(one, list) else [one] if isinstance(one, torch.Tensor) else [])
        tensors = flat_tensors((args, kwargs))
        return Call(schema.overload(), schema.base, args, kwargs, tensors, schema.mutated(args, kwargs), outputs)

    def _learn(
        self, schema: Schema, args: Any, kwargs: dict[str, Any], outputs: list[Any] | None, reduced: bool
    ) -> Entry:
        """Learn the outputs (from torch's meta kernel unless they are given), describe the op for the tape."""
        tensors = flat_tensors((args, kwargs))
        said = precision(schema, tensors) + ((("reduced", True),) if reduced else ())
        if outputs is None:
            same_device(schema, args, kwargs)
            dtypes(schema, args, kwargs)
            index = self._device_index(tensors, kwargs)
            self._used(index)
            outputs = [self._makers(one, index) for one in self._meta(schema, args, kwargs)]
        layouts = [layout_of(make) for make in flat_makers(outputs)]
        metas = tuple(TensorMeta(shape, stride, dtype_name(dtype)) for shape, stride, dtype, _ in layouts)
        mutated = schema.mutated(args, kwargs)
        positions = tuple(n for n, tensor in enumerate(tensors) if any(tensor is other for other in mutated))
        op = Op(
            f"aten.{schema.base}.{schema.overload_name or 'default'}",
            canonical(args), tuple((k, canonical(v)) for k, v in kwargs.items()) + said, metas,
            positions,
        )  # fmt: skip
        word = self.recorder.op_word(op)
        written = [(one.numel(), one.dtype) for one in mutated] + [
            (prod(shape), dtype) for shape, _, dtype, _ in layouts
        ]
        watched = self.driver.wants(tensors, written, schema)
        return Entry(word, outputs, _fast(word, outputs), watched)

    def _used(self, index: int) -> None:
        if index not in self.devices:
            self.devices.add(index)
            if len(self.devices) == 2:
                self.recorder.warn(
                    "The program uses several chips from one process (as DataParallel does): their work is counted one after "
                    "another, and their memory together, as one chip's. For chips that work at the same time give each a process, as "
                    "DistributedDataParallel has: --on CHIP:COUNT starts them."
                )

    def _device_index(self, tensors: list[torch.Tensor], kwargs: dict[str, Any]) -> int:
        device = kwargs.get("device")
        if device is not None and device.index is not None:
            return int(device.index)
        for tensor in tensors if device is None else ():
            if tensor.device.type not in ("cpu", "meta"):
                return tensor.device.index
        return self.tensors.native.device[0] >> 8

    def _meta(self, schema: Schema, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Meta tensors of the op's new outputs, in the order of its returns; None for those it was given."""
        if schema.returns_nothing_new and not schema.checks_shapes:
            return [None] * len(schema.returns)
        on_meta = [to_meta(arg) for arg in args], {name: to_meta(value) for name, value in kwargs.items()}
        if schema.overload_name == "out" or schema.has_out:
            before = [tuple(tensor.shape) for tensor in schema.mutated(args, kwargs)]
        try:
            result = laid_out(schema, on_meta[0], _on_meta(schema, *on_meta))
        except NotImplementedError as error:
            # torch's dispatcher says that it has none, on a page about other things or with a table of all its kernels
            if "with Meta tensors" not in str(error) and "'Meta' backend" not in str(error):
                raise
            name = schema.name.replace("::", ".")
            raise NotImplementedError(f"anychip has no shape rule for {name}: please report it") from None
        except RuntimeError as error:
            raise as_torch(schema, args, kwargs, error) from None
        if schema.overload_name == "out" or schema.has_out:
            targets = schema.mutated(*on_meta)
            for real, meta, shape in zip(schema.mutated(args, kwargs), targets, before, strict=True):
                if tuple(meta.shape) != shape:
                    real.resize_(meta.shape)
        if not schema.returns:
            return []
        if not isinstance(result, tuple | list) or schema.single_list:
            result = [result]
        return [None if alias else one for one, alias in zip(result, schema.aliased, strict=True)]

    def _makers(self, meta: Any, index: int) -> Any:
        if meta is None or isinstance(meta, int):
            return meta
        if isinstance(meta, list | tuple):
            return [self._makers(one, index) for one in meta]
        return self.tensors.maker(tuple(meta.shape), tuple(meta.stride()), meta.dtype, index)


CONVOLUTIONS = ("convolution", "convolution_backward", "_convolution")


def laid_out(schema: Schema, args: list[Any], result: Any) -> Any:
    """Convolutions whose maps or weight lie channels last give such maps and gradients, as cuDNN and MIOpen do and torch's CPU
    kernels; torch's meta kernels only know that of a device that is called cuda."""
    if schema.base not in CONVOLUTIONS or not any(_channels_last(one) for one in args):
        return result
    return tuple(_as_channels_last(one) for one in result) if isinstance(result, tuple) else _as_channels_last(result)


def _channels_last(value: Any) -> bool:
    last = torch.channels_last
    return (
        isinstance(value, torch.Tensor)
        and value.dim() == 4
        and value.is_contiguous(memory_format=last)
        and not value.is_contiguous()
    )


def _as_channels_last(value: Any) -> Any:
    four = isinstance(value, torch.Tensor) and value.dim() == 4
    return value.contiguous(memory_format=torch.channels_last) if four else value


def _on_meta(schema: Schema, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """torch's meta kernel. Some of its rules refuse a number of the host beside tensors of the chip, which real chips
    take: then it goes to the meta device too."""
    try:
        return schema.overload()(*args, **kwargs)
    except RuntimeError:
        numbers = [one for one in flat_tensors((args, kwargs)) if one.device.type == "cpu"]
        if not numbers:
            raise
        moved = [one.to("meta") if any(one is other for other in numbers) else one for one in args]
        return schema.overload()(*moved, **kwargs)


def _fast(word: int, outputs: list[Any]) -> Any:
    """What a generated kernel gets from the cache; its form depends on the schema alone (`generate`)."""
    if len(outputs) == 1 and callable(outputs[0]):
        return word, outputs[0]
    return word, outputs


# ---------------------------------------------------------------- settings

# `set_float32_matmul_precision`, `allow_tf32` and `fp32_precision` all end here: what holds for "cuda" and one kind of op
fp32_precision = torch._C._get_fp32_precision_getter
SHORT_BY_DEFAULT = {"matmul": False, "conv": True, "rnn": True}  # torch's own; only what differs is noted


def has_one_row(schema: Schema, args: Sequence[Any]) -> bool:
    """Is it a product of one row or one column? Source: torch._inductor.decomposition, mm and bmm."""
    if schema.base not in ("mm", "bmm"):
        return False
    left, right = args[:2]  # (a third is the dtype of what comes out)
    return bool(left.shape[-2] == 1 or right.shape[-1] == 1)


def precision(schema: Schema, tensors: list[torch.Tensor]) -> tuple[tuple[str, bool], ...]:
    """A product's keyword `allow_tf32`, where the program set it otherwise than torch does by itself."""
    if schema.shortened is None or all(tensor.dtype != torch.float32 for tensor in tensors):
        return ()
    allowed = fp32_precision("cuda", schema.shortened) == "tf32"
    return () if allowed == SHORT_BY_DEFAULT[schema.shortened] else (("allow_tf32", allowed),)


# ---------------------------------------------------------------- values in and out


def as_torch(schema: Schema, args: tuple[Any, ...], kwargs: dict[str, Any], refused: RuntimeError) -> RuntimeError:
    """What torch's CPU kernel refuses a call with, in its own words, where the meta kernel's (`refused`) are others.

    It gets tensors of these shapes that share one element each; since the shapes are wrong, it computes nothing.
    """
    if schema.mutated(args, kwargs):
        return refused
    try:
        schema.overload()(*(hollow(one) for one in args), **{name: hollow(one) for name, one in kwargs.items()})
    except RuntimeError as error:
        if "stride" not in str(error):  # that would be about how these are made
            return error
    return refused


def hollow(value: Any) -> Any:
    """A CPU tensor of the same shape and dtype without memory of its own; other values as they are."""
    if isinstance(value, torch.Tensor):
        return torch.zeros((), dtype=value.dtype, device="cpu").expand(value.shape)
    if isinstance(value, list | tuple):
        return [hollow(item) for item in value]
    return torch.device("cpu") if isinstance(value, torch.device) else value


def flat_tensors(value: Any) -> list[torch.Tensor]:
    """Every tensor among nested args, in the order that `Op.tensors` has them."""
    found: list[torch.Tensor] = []
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, dict):
        for item in value.values():
            found.extend(flat_tensors(item))
    elif isinstance(value, list | tuple):
        for item in value:
            found.extend(flat_tensors(item))
    return found


def meta_of(tensor: torch.Tensor) -> TensorMeta:
    return TensorMeta(
        tuple(tensor.shape), tuple(tensor.stride()), dtype_name(tensor.dtype), tensor.device.type != "cpu"
    )


def flat_makers(outputs: list[Any]) -> list[Make]:
    return [make for one in outputs for make in (one if isinstance(one, list) else [one]) if callable(make)]


def layout_of(make: Make) -> tuple[tuple[int, ...], tuple[int, ...], torch.dtype, int]:
    """Shape, stride, dtype and device index that a `Tensors.maker` makes."""
    layout: tuple[tuple[int, ...], tuple[int, ...], torch.dtype, int] = make.layout  # type: ignore[attr-defined]
    return layout


def canonical(value: Any) -> Any:
    """An argument as `Op` holds it: tensors as TensorMeta, lists as tuples, torch's own types as text."""
    if isinstance(value, torch.Tensor):
        return meta_of(value)
    if isinstance(value, list | tuple):
        return tuple(canonical(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    if isinstance(value, torch.device):
        return value.type
    return str(value)


def to_meta(value: Any) -> Any:
    """An argument for torch's meta kernel. CPU scalars stay: they promote dtypes in their own way."""
    if isinstance(value, torch.Tensor):
        if value.device.type == "cpu" and value.dim() == 0:
            return value
        return torch.empty_strided(tuple(value.shape), tuple(value.stride()), dtype=value.dtype, device="meta")
    if isinstance(value, list | tuple):
        return [to_meta(item) for item in value]
    if isinstance(value, torch.device):
        return torch.device("meta")
    if isinstance(value, torch.Generator):
        return None
    return value


# ---------------------------------------------------------------- generation


def generate(schema: Schema, number: int) -> list[str]:
    """Source of one kernel, `k{number}`: look up, note, make."""
    parameters = []
    for argument in schema.arguments:
        if argument.kwarg_only and "*" not in parameters:
            parameters.append("*")
        default = f"=d{number}_{argument.name}" if argument.name in schema.defaults else ""
        parameters.append(argument.name + default)
    setting = [f'_precision("cuda", {schema.shortened!r})'] if schema.shortened else []
    parts = [str(number), *(part for argument in schema.arguments if (part := argument.key(schema))), *setting]
    key = ", ".join(parts)
    positional = "".join(f"{argument.name}, " for argument in schema.arguments if not argument.kwarg_only)
    keywords = ", ".join(f"{a.name!r}: {a.name}" for a in schema.arguments if a.kwarg_only)
    written = ", ".join(argument.name for argument in schema.arguments if argument.writes)
    return [
        f"def k{number}({', '.join(parameters)}):",
        f"    _key = ({key},)",
        "    _entry = _get(_key)",
        "    if _entry is None:",
        f"        return _first(s{number}, _key, ({positional}), {{{keywords}}})",
        "    _launch(_entry[0])",
        *([f"    if _unwatched: _wrote({written})"] if written else []),
        f"    return {schema.result_source()}",
    ]
