"""torch's insides, tensors without memory: made through DLPack with real size, strides, dtype and device.

In: the native functions of `_torch`, and who is told of blocks. Out: `Tensors`, which makes them and hears of each
block that is freed; `probe` tries all of it when the device is installed.
"""

import ctypes
from collections.abc import Callable
from ctypes import c_int, c_uint64, c_void_p
from typing import Any

import torch

from anychip.device.insides import machine_code
from anychip.device.insides._torch import Native
from anychip.drivers.base import Block, address_of
from anychip.errors import UnsupportedTorch
from anychip.record.op import ITEM_BYTES
from anychip.record.tape import KIND_BITS

# DLDeviceType of dlpack.h; keys under which kernels are registered.
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


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
        self, native: Native, device_type: str, count: int, on_alloc: Callable[[Block], None],
        on_free: Callable[[Block], None],
    ) -> None:  # fmt: skip
        self.native, self.device_type, self.count = native, device_type, count
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
            check_ordinal(index, self.count)
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

    def numbers(self, tensors: list[torch.Tensor]) -> list[int]:
        """Of the blocks of plain tensors, those that the tape has."""
        blocks = (self.by_address.get(address_of(one)) for one in tensors)
        return [block.words >> KIND_BITS for block in blocks if block is not None and block.words]

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


def check_ordinal(index: int, count: int) -> None:
    """As CUDA's own: raises AcceleratorError where the program sees no device of this number."""
    if not 0 <= index < count:
        raise torch.AcceleratorError(f"CUDA error: invalid device ordinal (device {index} of {count})")


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
