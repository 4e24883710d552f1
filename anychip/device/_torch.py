"""All that touches torch's insides: the device guard, the accelerator hooks, tensors without memory.

Nothing else in anychip reads a private address, offset or C++ vtable of torch. Every assumption is probed
when the device is installed (`probe`), and a probe that fails raises UnsupportedTorch with one sentence.
Slots of C++ vtables are not numbers here: they are read from the headers that the installed torch ships.

How it works, in the order of installation:
1. `Native` writes a page of small native functions (`machine_code`) over shared cells.
2. `install_guard` puts a device guard of ours where torch keeps the guard of a device type.
3. `install_hooks` answers the C++ questions "is there an accelerator, how many, is this pointer pinned?".
4. `Tensors` makes tensors on the device through DLPack: real size, stride, dtype, device, no memory.
"""

import ctypes
import mmap
import os
import re
from collections.abc import Callable
from ctypes import c_double, c_int, c_int8, c_int16, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import torch

from anychip.device import machine_code
from anychip.drivers.base import Block
from anychip.errors import UnsupportedTorch
from anychip.record.op import ITEM_BYTES

# c10/core/DeviceType.h; DLDeviceType of dlpack.h.
DEVICE_TYPES = {"cuda": 1, "privateuseone": 20}
DLPACK_DEVICES = {"cuda": 2, "privateuseone": 12}
DISPATCH_KEYS = {"cuda": "CUDA", "privateuseone": "PrivateUse1"}

# DLDataTypeCode of dlpack.h, and bits.
DLPACK_DTYPES: dict[torch.dtype, tuple[int, int]] = {
    torch.int8: (0, 8), torch.int16: (0, 16), torch.int32: (0, 32), torch.int64: (0, 64),
    torch.uint8: (1, 8), torch.uint16: (1, 16), torch.uint32: (1, 32), torch.uint64: (1, 64),
    torch.float16: (2, 16), torch.float32: (2, 32), torch.float64: (2, 64), torch.bfloat16: (4, 16),
    torch.complex32: (5, 32), torch.complex64: (5, 64), torch.complex128: (5, 128), torch.bool: (6, 8),
}  # fmt: skip

# Addresses that no process maps: a kernel that wrongly touches chip memory crashes instead of lying.
FIRST_ADDRESS = 0x1000_0000_0000
ADDRESS_STEP = 512


def _leak(*objects: Any) -> None:
    """Keep for ever: what native code points to must outlive the interpreter's own shutdown."""
    for one in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
    table = _copy_vtable(hooks[0], len(slots) + len(own) + 8)
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
    for offset, name in enumerate(names):
        if name in ("hasCUDA", "getNumGPUs"):
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


# ---------------------------------------------------------------- tensors without memory


class _DLManagedTensor(ctypes.Structure):
    """dlpack.h; 64 bytes, manager_ctx at 48."""

    _fields_ = [
        ("data", c_uint64), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", c_void_p), ("strides", c_void_p), ("byte_offset", c_uint64),
        ("manager_ctx", c_uint64), ("deleter", c_void_p),
    ]  # fmt: skip


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [c_void_p, ctypes.c_char_p, c_void_p]
_set_name = ctypes.pythonapi.PyCapsule_SetName
_set_name.restype = c_int
_set_name.argtypes = [ctypes.py_object, ctypes.c_char_p]
_NAME = b"dltensor"


Make = Callable[[], torch.Tensor]


class Tensors:
    """Makes tensors of any layout on the device, and hears of each block that is freed.

    on_alloc(block), on_free(block) are called in the order in which things happened; frees are seen at the
    next allocation or `drain`, which is as exact as an allocator needs.
    """

    def __init__(
        self, native: Native, device_type: str, on_alloc: Callable[[Block], None], on_free: Callable[[Block], None]
    ) -> None:
        self.native, self.device_type = native, device_type
        self.on_alloc, self.on_free = on_alloc, on_free
        self.blocks: list[Block] = []
        self.by_address: dict[int, Block] = {}
        self.makers: dict[tuple[Any, ...], Make] = {}
        self._next_address = FIRST_ADDRESS
        self._seen = 0

    def drain(self) -> None:
        """Report the blocks freed since the last call."""
        head, ring, mask = self.native.ring_head[0], self.native.ring, machine_code.RING_SLOTS - 1
        while self._seen < head:
            block = self.blocks[ring[self._seen & mask]]
            self._seen += 1
            self.on_free(block)
            block.pool.append(block)

    def maker(self, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, index: int) -> Make:
        """A function that makes a new tensor of this layout on device `index` each time it is called."""
        key = (shape, stride, dtype, index)
        make = self.makers.get(key)
        if make is None:
            make = self.makers[key] = self._maker(*key)
            make.layout = key  # type: ignore[attr-defined]
        return make

    def _maker(self, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, index: int) -> Make:
        if dtype not in DLPACK_DTYPES:
            return self._maker_by_view(shape, stride, dtype, index)
        pool: list[Block] = []
        nbytes = storage_bytes(shape, stride, dtype)
        dims = (ctypes.c_int64 * (2 * len(shape) or 1))(*shape, *stride)
        from_dlpack = torch._C._from_dlpack
        head = self.native.ring_head
        on_alloc, drain = self.on_alloc, self.drain

        def make() -> torch.Tensor:
            if head[0] != self._seen:
                drain()
            block = pool.pop() if pool else self._new_block(dims, len(shape), dtype, index, nbytes, pool)
            try:
                on_alloc(block)
            except BaseException:
                pool.append(block)
                raise
            _set_name(block.capsule, _NAME)
            return from_dlpack(block.capsule)

        return make

    def _new_block(self, dims: Any, ndim: int, dtype: torch.dtype, index: int, nbytes: int, pool: list[Block]) -> Block:
        block = Block(len(self.blocks), nbytes, self._next_address, pool)
        self._next_address += (nbytes // ADDRESS_STEP + 2) * ADDRESS_STEP
        code, bits = DLPACK_DTYPES[dtype]
        at = ctypes.addressof(dims)
        managed = _DLManagedTensor(
            block.address, DLPACK_DEVICES[self.device_type], index, ndim, code, bits, 1, at, at + 8 * ndim, 0,
            block.index, self.native.address["freed"],
        )  # fmt: skip
        block.keep = (managed, dims)
        block.capsule = _new_capsule(ctypes.addressof(managed), _NAME, None)
        self.blocks.append(block)
        self.by_address[block.address] = block
        return block

    def _maker_by_view(self, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, index: int) -> Make:
        """For dtypes that DLPack lacks: bytes, seen as the dtype, seen with the strides."""
        item = dtype.itemsize
        elements = storage_bytes(shape, stride, dtype) // item
        make_bytes = self.maker((elements * item,), (1,), torch.uint8, index)
        keys = cpu_keyset()

        def make() -> torch.Tensor:
            flat = torch.ops.aten.view.dtype.redispatch(keys, make_bytes(), dtype)
            return torch.ops.aten.as_strided.default.redispatch(keys, flat, list(shape), list(stride), 0)

        return make


def cpu_keyset() -> Any:
    """Keys that send a view operator to its CPU kernel, which computes strides and touches no memory."""
    return torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


def storage_bytes(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes from the first to behind the last element of a strided tensor."""
    if 0 in shape:
        return 0
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return (last + 1) * ITEM_BYTES.get(dtype_name(dtype), dtype.itemsize)


def probe(tensors: Tensors, count: int) -> None:
    """Try what everything else stands on; raise UnsupportedTorch with one sentence where it fails."""
    device_type = tensors.device_type
    for index in {0, count - 1}:
        before = len(tensors.blocks)
        try:
            tensor = tensors.maker((4, 3), (3, 1), torch.float32, index)()
        except Exception as error:
            raise UnsupportedTorch(
                f"torch {torch.__version__}: no tensor without memory could be made ({error})."
            ) from error
        seen = (tensor.device.type, tensor.device.index, tuple(tensor.shape), tensor.untyped_storage().nbytes())
        want = (device_type if device_type == "cuda" else tensor.device.type, index, (4, 3), 48)
        if seen != want:
            raise UnsupportedTorch(
                f"torch {torch.__version__}: a tensor without memory came out as {seen}, not {want}."
            )
        head = tensors.native.ring_head[0]
        del tensor
        if tensors.native.ring_head[0] != head + 1 or len(tensors.blocks) < before:
            raise UnsupportedTorch(f"torch {torch.__version__}: the freeing of a tensor was not seen.")
    tensors.drain()
