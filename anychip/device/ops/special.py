"""Kernels that are not "look up, note, make": creation, copies, values, and shapes that depend on values.

Each is a method named after its operator; `overrides` maps operators to them.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from anychip.device.insides._torch_tensors import Tensors, cpu_keyset, storage_bytes
from anychip.device.ops.kernels import Kernels, canonical, meta_of
from anychip.device.ops.schemas import schema_of
from anychip.drivers.base import Driver
from anychip.record.op import Op
from anychip.record.recorder import Recorder

# Bytes from which on memory that is not pinned is copied twice: less goes with the call
# (https://docs.nvidia.com/cuda/cuda-driver-api/api-sync-behavior.html).
STAGED = 1 << 16


class Special:
    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self.recorder: Recorder = kernels.recorder
        self.driver: Driver = kernels.driver
        self.tensors: Tensors = kernels.tensors
        self.keys = cpu_keyset()
        self._words: dict[Any, int] = {}

    def overrides(self) -> dict[str, Callable[..., Any]]:
        """Operator -> kernel, for the chip's dispatch key."""
        return {
            "aten::empty.memory_format": self.empty,
            "aten::empty_strided": self.empty_strided,
            "aten::copy_": self.copy_,
            "aten::_to_copy": self.to_copy,
            "aten::_local_scalar_dense": self.local_scalar_dense,
            "aten::equal": self.equal,
            "aten::_nested_tensor_from_mask_left_aligned": self.left_aligned,
            "aten::resize_": self.resize_,
            "aten::set_.source_Storage": self._on_cpu("set_", "source_Storage"),
            "aten::set_.source_Storage_storage_offset": self._on_cpu("set_", "source_Storage_storage_offset"),
            "aten::set_.source_Tensor": self._on_cpu("set_", "source_Tensor"),
            "aten::set_": self.set_empty,
            "aten::is_set_to": self._on_cpu("is_set_to", "default"),
            "aten::record_stream": self.record_stream,
            "aten::_embedding_bag_backward": self.embedding_bag_backward,
            "aten::_convolution": self.traced_convolution,
        }

    @staticmethod
    def traced_convolution(*args: Any) -> torch.Tensor:
        """What a graph of `torch.jit.trace` calls: the same with cuDNN's settings after its arguments."""
        result: torch.Tensor = torch.ops.aten.convolution(*args[:9])
        return result

    @staticmethod
    def embedding_bag_backward(
        grad: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, bags: torch.Tensor, bag_size: torch.Tensor,
        maximum: torch.Tensor, num_weights: int, by_frequency: bool, mode: int, sparse: bool, weights: Any, padding: int = -1,
    ) -> torch.Tensor:  # fmt: skip
        """What torch's own kernel chooses between: a table of gradients, or a sparse one of the rows that were used."""
        result: torch.Tensor
        rest = num_weights, by_frequency, mode, weights, padding
        if sparse:
            result = torch.ops.aten._embedding_bag_sparse_backward(grad, indices, offsets, bags, bag_size, *rest)
        else:
            result = torch.ops.aten._embedding_bag_dense_backward(grad, indices, bags, bag_size, maximum, *rest)
        return result

    # ------------------------------------------------------------ helpers

    def note(
        self, name: str, args: tuple[Any, ...], outputs: tuple[Any, ...] = (), mutates: tuple[int, ...] = (),
        kwargs: tuple[tuple[str, Any], ...] = (),
    ) -> None:  # fmt: skip
        """Put an op on the tape that no generated kernel stands for."""
        self.driver.launch(
            self.recorder.op_word(Op(name, canonical(args), kwargs, tuple(meta_of(one) for one in outputs), mutates))
        )

    def make(self, shape: Any, dtype: torch.dtype, index: int, stride: Any = None) -> torch.Tensor:
        shape = tuple(shape)
        stride = contiguous_stride(shape) if stride is None else tuple(stride)
        return self.tensors.maker(shape, stride, dtype, index)()

    def index_of(self, device: torch.device | None) -> int:
        if device is None or device.index is None:
            return self.tensors.native.device[0] >> 8
        return device.index

    def on_chip(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type not in ("cpu", "meta")

    def _on_cpu(self, name: str, overload: str) -> Callable[..., Any]:
        """Operators of which only sizes and pointers matter: torch's CPU kernel does them."""
        call = getattr(getattr(torch.ops.aten, name), overload).redispatch

        def kernel(*args: Any) -> Any:
            return call(self.keys, *args)

        return kernel

    # ------------------------------------------------------------ creation

    def empty(
        self, size: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None,
        memory_format: Any = None,
    ) -> torch.Tensor:  # fmt: skip
        stride = strides_for(tuple(size), memory_format)
        return self.make(size, dtype or torch.get_default_dtype(), self.index_of(device), stride)

    def empty_strided(
        self,
        size: Any,
        stride: Any,
        *,
        dtype: Any = None,
        layout: Any = None,
        device: Any = None,
        pin_memory: Any = None,
    ) -> torch.Tensor:
        return self.make(size, dtype or torch.get_default_dtype(), self.index_of(device), stride)

    def resize_(self, tensor: torch.Tensor, size: Any, *, memory_format: Any = None) -> torch.Tensor:
        size = tuple(size)
        stride = strides_for(size, memory_format)
        storage = tensor.untyped_storage()
        needed = storage_bytes(size, stride, tensor.dtype) + tensor.storage_offset() * tensor.element_size()
        if needed <= storage.nbytes():
            return torch.ops.aten.as_strided_.default.redispatch(self.keys, tensor, size, stride)
        bigger = self.make(size, tensor.dtype, tensor.device.index, stride)
        return torch.ops.aten.set_.source_Storage_storage_offset.redispatch(
            self.keys, tensor, bigger.untyped_storage(), 0, size, stride
        )

    def set_empty(self, tensor: torch.Tensor) -> torch.Tensor:
        nothing = self.make((0,), tensor.dtype, tensor.device.index)
        return torch.ops.aten.set_.source_Storage_storage_offset.redispatch(
            self.keys, tensor, nothing.untyped_storage(), 0, (0,), (1,)
        )

    def record_stream(self, tensor: torch.Tensor, stream: Any) -> None:
        block = self.tensors.by_address.get(tensor.untyped_storage().data_ptr())
        if block is not None and block.nbytes:
            self.driver.record_stream(block, stream.stream_id)

    # ------------------------------------------------------------ copies

    def copy_(self, target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        if self.on_chip(target) and self.on_chip(source):
            return self._copy_on_chip(target, source, non_blocking)
        # torch checks the broadcast only in the copy itself, so it is asked here.
        torch.broadcast_shapes(target.shape, source.shape)
        if target.numel() == 0:
            return target
        host = source if self.on_chip(target) else target
        is_pinned = host.is_pinned()  # what is not the driver stages, and the host waits for it
        is_async = non_blocking and is_pinned
        moved = min(target.numel(), source.numel()) * host.element_size()
        said = (("staged", True),) if moved >= STAGED and not is_pinned else ()
        self.note("aten.copy_.default", (target, source, is_async), mutates=(0,), kwargs=said)
        if self.on_chip(target):
            self.driver.copy_in(target, source)
        else:
            target.copy_(self.driver.copy_out(source))
        if not is_async:
            self.driver.synchronize(self.stream())
        return target

    def _copy_on_chip(self, target: torch.Tensor, source: torch.Tensor, non_blocking: bool) -> torch.Tensor:
        schema = schema_of("aten::copy_")
        key = ("copy_", meta_of(target), meta_of(source), target.device.index, self.driver.knows(source))
        entry = self.kernels.cache.get(key)
        if entry is not None:
            self.driver.launch(entry[0])
            self.driver.wrote(target)
            return target
        result: torch.Tensor = self.kernels.call(schema, key, (target, source, non_blocking), {})
        return result

    def to_copy(
        self, tensor: torch.Tensor, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None,
        non_blocking: bool = False, memory_format: Any = None,
    ) -> torch.Tensor:  # fmt: skip
        if torch.nn.parameter.is_lazy(tensor):
            tensor = tensor.as_subclass(torch.Tensor)  # a lazy module's: it has a size, and says that it has no shape
        dtype = dtype or tensor.dtype
        if device is not None and device.type == "meta":
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="meta")
        stride = copied_stride(tensor, memory_format)
        if device is not None and device.type == "cpu":
            result = torch.empty_strided(tensor.shape, stride, dtype=dtype, device="cpu")
            # torch takes pinned memory for the result where it is not to wait.
            said = (("non_blocking", True),) if non_blocking else (("staged", True),) if tensor.nbytes >= STAGED else ()
            self.note("aten._to_copy.default", (tensor,), (result,), kwargs=said)
            result = self.driver.copy_out(tensor).to(dtype)
            if not non_blocking:
                self.recorder.read()
            return (
                result
                if result.stride() == stride
                else torch.empty_strided(tensor.shape, stride, dtype=dtype, device="cpu").copy_(result)
            )
        index = self.index_of(device or tensor.device)
        is_async = False
        if not self.on_chip(tensor):
            is_pinned = tensor.is_pinned()
            if tensor.nbytes >= STAGED and not is_pinned:
                made = self.make(tensor.shape, dtype, index, stride)
                self.note("aten._to_copy.default", (tensor,), (made,), kwargs=(("staged", True),))
                self.driver.copy_in(made, tensor)
                return made
            is_async = non_blocking and is_pinned
        key = ("_to_copy", meta_of(tensor), stride, dtype, is_async, self.driver.knows(tensor), index)
        entry = self.kernels.cache.get(key)
        if entry is not None:
            self.driver.launch(entry[0])
            return entry[1]()  # type: ignore[no-any-return]
        options = {"dtype": dtype, "non_blocking": True} if is_async else {"dtype": dtype}
        return self._to_copy_on_chip(key, tensor, stride, options)

    def _to_copy_on_chip(
        self, key: Any, tensor: torch.Tensor, stride: tuple[int, ...], options: dict[str, Any]
    ) -> torch.Tensor:
        schema, dtype = schema_of("aten::_to_copy"), options["dtype"]
        return self.kernels.call_made(
            schema, key, (tensor,), options, [self.tensors.maker(tuple(tensor.shape), stride, dtype, key[-1])]
        )

    def stream(self) -> int:
        return int(self.tensors.native.stream[0])

    # ------------------------------------------------------------ values

    def local_scalar_dense(self, tensor: torch.Tensor) -> Any:
        self.note("aten._local_scalar_dense.default", (tensor,))
        self.recorder.read()
        return self.driver.copy_out(tensor).item()

    def left_aligned(self, _tensor: torch.Tensor, mask: torch.Tensor) -> bool:
        """Whether a padded batch can be packed: the host reads that. Taken as no: it runs padded, as in training."""
        self.note("aten._nested_tensor_from_mask_left_aligned.default", (mask,))
        self.recorder.read()
        return False

    def equal(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        if one.shape != other.shape:
            return False
        self.note("aten.equal.default", (one, other))
        self.recorder.read()
        first, second = self.driver.values_of(one), self.driver.values_of(other)
        if first is not None and second is not None:
            return torch.equal(first, second)
        # One truth value is what it would be read as: so C++ asks whether a check holds (`istft`, of its window).
        return one.numel() != 1 or one.dtype != torch.bool or torch.equal(*map(self.driver.copy_out, (one, other)))


# ---------------------------------------------------------------- strides


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    stride, step = [], 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))


def strides_for(shape: tuple[int, ...], memory_format: Any) -> tuple[int, ...]:
    """Strides of a new tensor; channels-last formats put dimension 1 innermost."""
    if memory_format in (torch.channels_last, torch.channels_last_3d):
        order = [1, *range(len(shape) - 1, 1, -1), 0]
        stride, step = [0] * len(shape), 1
        for dim in order:
            stride[dim] = step
            step *= max(shape[dim], 1)
        return tuple(stride)
    return contiguous_stride(shape)


def copied_stride(tensor: torch.Tensor, memory_format: Any) -> tuple[int, ...]:
    """Strides of a copy: kept where the tensor is dense, as torch.preserve_format says."""
    shape = tuple(tensor.shape)
    if memory_format not in (None, torch.preserve_format):
        return strides_for(shape, memory_format)
    dense = sorted((step, size) for size, step in zip(shape, tensor.stride(), strict=True) if size > 1)
    expected = 1
    for step, size in dense:
        if step != expected:
            return contiguous_stride(shape) if not _permuted(tensor) else _compact(tensor)
        expected *= size
    return tuple(tensor.stride()) if prod(shape) else contiguous_stride(shape)


def _permuted(tensor: torch.Tensor) -> bool:
    return tensor.dim() > 1


def _compact(tensor: torch.Tensor) -> tuple[int, ...]:
    """torch keeps the order of the dimensions of a tensor that is not dense; empty_like knows the rule."""
    return tuple(torch.empty_like(torch.empty_strided(tensor.shape, tensor.stride(), device="meta")).stride())
