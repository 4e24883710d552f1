"""torch's insides, what C++ asks: the device guard and the accelerator hooks.

Nothing but the files `_torch*.py` reads a private address, offset or C++ vtable of torch. Every assumption is probed
when the device is installed (`_torch_tensors.probe`), and a probe that fails raises UnsupportedTorch with one sentence.
Slots of C++ vtables are not numbers here: they are read from the headers that the installed torch ships.

How it works, in the order of installation:
1. `Native` writes a page of small native functions (`machine_code`) over shared cells.
2. `install_guard` puts a device guard of ours where torch keeps the guard of a device type.
3. `install_hooks` answers the C++ questions "is there an accelerator, how many, is this pointer pinned?".
4. `_torch_tensors.Tensors` makes tensors on the device through DLPack: real size, stride, dtype, device, no memory.
"""

import ctypes
import mmap
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_double, c_int, c_int8, c_int16, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import torch

from anychip.device.insides import machine_code
from anychip.errors import UnsupportedTorch

# c10/core/DeviceType.h.
DEVICE_TYPES = {"cuda": 1, "privateuseone": 20}


def _leak(*objects: Any) -> None:
    """Keep for ever: what native code points to must outlive the interpreter's own shutdown."""
    for one in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


# ---------------------------------------------------------------- native functions


class Native:
    """The page of native functions, and the cells that they share with Python.

    device, stream, next_stream and ring are memoryviews of 64-bit integers: reading one costs 40 ns.
    """

    def __init__(self) -> None:
        size = 3 * 8 + 8 * (machine_code.RING_SLOTS + 1)
        buffer = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # each forked rank has its own
        base = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        cells = machine_code.Cells(base, base + 8, base + 16, base + 24)
        words = memoryview(buffer).cast("q")
        self.device, self.stream, self.next_stream = words[0:1], words[1:2], words[2:3]
        self.ring_head, self.ring = words[3:4], words[4:]
        self.next_stream[0] = 1
        try:
            codes = machine_code.functions(cells)
        except LookupError as error:
            raise UnsupportedTorch(f"The virtual chip needs a CPU that it has native code for: {error}.") from None
        self._page, self._used = _code_page(), 0
        self.address = {name: self.add(code) for name, code in codes.items()}
        _leak(buffer, words, self)

    def add(self, code: bytes) -> int:
        """Write one function and return its address."""
        address = self._page + self._used
        ctypes.memmove(address, code, len(code))
        self._used += (len(code) + 15) // 16 * 16
        return address

    def constant(self, value: int) -> int:
        return self.add(machine_code.constant(value))


def _code_page() -> int:
    """One executable page that is never unmapped: C++ destructors may call into it at exit."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = c_void_p
    libc.mmap.argtypes = [c_void_p, ctypes.c_size_t, c_int, c_int, c_int, ctypes.c_longlong]
    address = libc.mmap(
        None, 1 << 16, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
    )
    if address in (None, c_void_p(-1).value):
        raise UnsupportedTorch(
            f"The virtual chip needs one page of executable memory, and this system gives none "
            f"({os.strerror(ctypes.get_errno())}). Try it outside the hardened container."
        )
    return int(address)


def vtable_slots(header: str, struct: str) -> dict[str, int]:
    """Slot of each virtual function of a C++ struct, read from torch's own header (Itanium C++ ABI).

    Functions take slots in order of declaration, the destructor two.
    """
    path = Path(torch.__file__).parent / "include" / header
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnsupportedTorch(f"This torch ships no {header}, which the virtual chip reads ({error}).") from None
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    body = text[text.index(f"{struct} ", text.index("struct ")) :]
    slots: dict[str, int] = {}
    slot = 0
    for name in re.findall(r"virtual\s[^;{]*?(~?\w+)\s*\(", body[: _closing_brace(body)]):
        slots[name] = slot
        slot += 2 if name.startswith("~") else 1
    return slots


def _closing_brace(text: str) -> int:
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if character == "}" and depth == 0:
            return position
    return len(text)


def _library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))


def _copy_vtable(address: int, slots: int) -> "ctypes.Array[c_uint64]":
    table = (c_uint64 * slots)()
    ctypes.memmove(table, address, slots * 8)
    _leak(table)
    return table


# ---------------------------------------------------------------- guard and hooks


# What torch.Event and torch.Stream of C++ ask for; each gets plain ints and must not raise.
Callbacks = dict[str, Callable[..., Any]]


def install_guard(native: Native, device_type: str, count: int, callbacks: Callbacks) -> None:
    """Make torch's C++ find our guard for `device_type` ("cuda", "privateuseone") with `count` devices."""
    number = DEVICE_TYPES[device_type]
    try:
        registry_at = ctypes.addressof(
            c_uint64.in_dll(_library("libc10.so"), "_ZN3c104impl26device_guard_impl_registryE")
        )
    except (OSError, ValueError) as error:
        raise UnsupportedTorch(f"torch {torch.__version__} does not export its device guards ({error}).") from None
    registry = ctypes.cast(registry_at, ctypes.POINTER(c_uint64))
    slots = vtable_slots("c10/core/impl/DeviceGuardImplInterface.h", "DeviceGuardImplInterface")
    cpu_vtable = ctypes.cast(registry[0], ctypes.POINTER(c_uint64))[0]
    table = _copy_vtable(cpu_vtable, len(slots) + 2)
    at = native.address
    native.device[0] = number
    entries = {
        "type": native.constant(number), "exchangeDevice": at["exchange_device"], "getDevice": at["get_device"],
        "setDevice": at["set_device"], "uncheckedSetDevice": at["set_device"], "getStream": at["get_stream"],
        "getDefaultStream": at["default_stream"], "getStreamFromGlobalPool": at["new_stream"],
        "getNewStream": at["new_stream"], "exchangeStream": at["exchange_stream"],
        "getStreamNativeHandle": native.constant(0), "destroyEvent": at["nothing"],
        "queryEvent": native.constant(1), "queryStream": native.constant(1),
        "isStreamCapturing": native.constant(0), "deviceCount": native.constant(count),
        "recordDataPtrOnStream": at["nothing"],
        **_event_entries(callbacks),
    }  # fmt: skip
    for name, address in entries.items():
        if name in slots:
            table[slots[name]] = address
    guard = (c_uint64 * 1)(ctypes.addressof(table))
    _leak(guard)
    registry[number] = ctypes.addressof(guard)


class Engine:
    """Autograd's engine, of which the backwards that a program starts there itself are seen, as Megatron's pipeline
    schedules do; those that `torch.autograd.backward` and `grad` start pass as they are."""

    def __init__(self, engine: Any, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self.engine, self.started = engine, around(self.run)
        self.own = getattr(torch.autograd.graph._engine_run_backward, "__code__", None)
        if self.own is None:
            raise UnsupportedTorch("torch.autograd.graph._engine_run_backward is no Python function in this torch")

    def run_backward(self, *args: Any, **kwargs: Any) -> Any:
        run = self.run if sys._getframe(1).f_code is self.own else self.started
        return run(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The one Python frame below what C++ calls in a backward (see `called_by_autograd`)."""
        return self.engine.run_backward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


def watch_engine(around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `around` about every backward that a program starts at the engine itself."""
    variable: Any = torch.autograd.Variable
    variable._execution_engine = Engine(variable._execution_engine, around)


@contextmanager
def outside_of_backwards() -> Iterator[None]:
    """What runs here is told that no backward runs: FSDP2 shards no weights again after a forward that runs inside of one."""
    ask = torch._C._current_graph_task_id
    torch._C._current_graph_task_id = lambda: -1
    try:
        yield
    finally:
        torch._C._current_graph_task_id = ask


def _event_entries(callbacks: Callbacks) -> dict[str, int]:
    """Guard functions that end in Python: native events and synchronisation, all of them rare."""

    def stream_id(stream: int) -> int:
        return int(ctypes.cast(stream + 8, ctypes.POINTER(ctypes.c_int64))[0])

    def record(_this: int, event: int, stream: int, _index: int, _flag: int) -> None:
        handle = ctypes.cast(event, ctypes.POINTER(c_uint64))
        handle[0] = callbacks["record"](handle[0], stream_id(stream))

    def block(_this: int, event: int, stream: int) -> None:
        callbacks["block"](event or 0, stream_id(stream))

    typed: dict[str, tuple[Any, Callable[..., Any]]] = {
        "record": (ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_int8, c_int), record),
        "block": (ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p), block),
        "synchronizeEvent": (
            ctypes.CFUNCTYPE(None, c_void_p, c_void_p),
            lambda _this, event: callbacks["synchronize_event"](event or 0),
        ),
        "synchronizeStream": (
            ctypes.CFUNCTYPE(None, c_void_p, c_void_p),
            lambda _this, stream: callbacks["synchronize_stream"](stream_id(stream)),
        ),
        "synchronizeDevice": (
            ctypes.CFUNCTYPE(None, c_void_p, c_int8),
            lambda _this, _index: callbacks["synchronize_device"](),
        ),
        "elapsedTime": (
            ctypes.CFUNCTYPE(c_double, c_void_p, c_void_p, c_void_p, c_int8),
            lambda _this, start, end, _index: callbacks["elapsed_ms"](start or 0, end or 0),
        ),
    }
    return {name: _callback(prototype, function) for name, (prototype, function) in typed.items()}


def _callback(prototype: Any, function: Callable[..., Any]) -> int:
    callback = prototype(function)
    _leak(callback)
    return int(ctypes.cast(callback, c_void_p).value or 0)


def install_hooks(native: Native, count: int) -> None:
    """Make torch's C++ believe that CUDA was built, is available and initialised."""
    cpu = _library("libtorch_cpu.so")
    try:
        get_hooks = cpu._ZN2at6detail12getCUDAHooksEv
    except AttributeError:
        raise UnsupportedTorch(f"torch {torch.__version__} does not export its CUDA hooks.") from None
    get_hooks.restype = c_void_p
    hooks = ctypes.cast(get_hooks(), ctypes.POINTER(c_uint64))
    slots = vtable_slots("ATen/detail/AcceleratorHooksInterface.h", "AcceleratorHooksInterface")
    own = vtable_slots("ATen/detail/CUDAHooksInterface.h", "CUDAHooksInterface")
    # A CUDA build has hooks that ask CUDA itself. The interface's own, which a CPU build has, ask nobody.
    plain = ctypes.addressof(c_uint64.in_dll(cpu, "_ZTVN2at18CUDAHooksInterfaceE")) + 16
    table = _copy_vtable(plain, len(slots) + len(own) + 8)
    device_type = native.device[0] & 0xFF

    def set_device(_this: int, index: int) -> None:
        native.device[0] = device_type | index << 8

    def exchange_device(_this: int, index: int) -> int:
        old = native.device[0] >> 8
        if index >= 0:
            set_device(_this, index)
        return old

    exchange = _callback(ctypes.CFUNCTYPE(c_int8, c_void_p, c_int8), exchange_device)
    entries = {
        "isBuilt": native.constant(1), "isAvailable": native.constant(1), "hasPrimaryContext": native.constant(1),
        "init": native.address["nothing"], "deviceCount": native.constant(count),
        "setCurrentDevice": _callback(ctypes.CFUNCTYPE(None, c_void_p, c_int8), set_device),
        "getCurrentDevice": _callback(
            ctypes.CFUNCTYPE(c_int16, c_void_p), lambda _this: native.device[0] >> 8
        ),
        "exchangeDevice": exchange, "maybeExchangeDevice": exchange,
        "isPinnedPtr": native.add(machine_code.is_pinned()),
        "getPinnedMemoryAllocator": native.constant(_pinned_allocator(native)),
    }  # fmt: skip
    for name, address in entries.items():
        if name in slots:
            table[slots[name]] = address
    # The hooks of a CUDA build declare more of their own; `hasCUDA` follows the shared part.
    first_own = max(slots.values()) + 1
    names = [name for name in own if name not in slots and not name.startswith("~")]
    has = ("hasCUDA", "hasMAGMA", "hasCuSOLVER", "hasCuBLASLt")  # programs choose among the last three
    for offset, name in enumerate(names):
        if name in (*has, "getNumGPUs"):
            table[first_own + offset] = native.constant(count if name == "getNumGPUs" else 1)
    hooks[0] = ctypes.addressof(table)


def _cpu_allocator() -> int:
    get = _library("libc10.so")._ZN3c1012GetAllocatorERKNS_10DeviceTypeE
    get.restype = c_void_p
    get.argtypes = [ctypes.POINTER(c_int8)]
    return int(get(ctypes.byref(c_int8(0))))


def _pinned_allocator(native: Native) -> int:
    """An allocator of host memory that is marked as pinned: the CPU's, with `allocate` in our words."""
    slots = vtable_slots("c10/core/Allocator.h", "C10_API Allocator")
    cpu = _cpu_allocator()
    vtable = ctypes.cast(cpu, ctypes.POINTER(c_uint64))[0]
    table = _copy_vtable(vtable, max(slots.values()) + 1)
    table[slots["allocate"]] = native.add(machine_code.pinned_allocate(cpu, table[slots["allocate"]]))
    allocator = (c_uint64 * 1)(ctypes.addressof(table))
    _leak(allocator)
    return ctypes.addressof(allocator)
