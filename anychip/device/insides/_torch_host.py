"""What of torch's insides concerns kernels by hand, storages and types, beside `_torch` (the rules there hold here too).

A storage's size is written where torch keeps it, because `UntypedStorage.resize_` has no CUDA form in a build
without CUDA; `torch.cuda.FloatTensor` and its kin are freed of the mark that makes such a build refuse them.
"""

import ctypes
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from anychip.device.insides._torch_tensors import Tensors
from anychip.drivers.base import Block
from anychip.errors import UnsupportedTorch

HEAP_TYPE_BYTES = 640  # a PyTypeObject (408 bytes in CPython 3.11) and a PyTensorType's own fields
STORAGE_WORDS = 12  # 64-bit words of a c10::StorageImpl that are searched for its size


_libraries: list[Any] = []  # a registration ends with its library


def implement(namespace: str, kernels: Iterable[tuple[str, Callable[..., Any], str]]) -> None:
    """Register Python kernels: (operator, kernel, dispatch key) each; torch's own for that key give way."""
    make: Any = torch.library.Library
    library = make(namespace, "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # replacing torch's own kernels is what this is for
        for name, kernel, key in kernels:
            library.impl(name, kernel, key)
    _libraries.append(library)


class StorageSize:
    """Reads and writes `StorageImpl::size_bytes_`. Its offset is found by looking, in two storages of known size."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self._words: dict[tuple[int, int], tuple[int, int]] = {}  # (block, bytes) -> its words for the tape
        sizes = (7_919 * 8, 104_729 * 8)
        found: list[set[int]] = []
        for size in sizes:
            storage = tensors.maker((size,), (1,), torch.uint8, 0)().untyped_storage()
            words = (ctypes.c_int64 * STORAGE_WORDS).from_address(storage._cdata)
            found.append({offset for offset in range(STORAGE_WORDS) if words[offset] == size})
        both = found[0] & found[1]
        if len(both) != 1:
            raise UnsupportedTorch(f"torch {torch.__version__}: the size of a storage was not found in it.")
        self.offset = both.pop() * 8

    def resize(self, storage: torch.UntypedStorage, nbytes: int) -> None:
        """Give a chip storage another size, and tell the allocator."""
        tensors = self.tensors
        tensors.drain()
        ctypes.c_int64.from_address(storage._cdata + self.offset).value = nbytes
        block: Block | None = tensors.by_address.get(storage.data_ptr())
        if block is None or block.nbytes == nbytes:
            return
        self._words[block.index, block.nbytes] = block.words, block.free_word
        tensors.on_free(block)
        block.nbytes = nbytes
        block.words, block.free_word = self._words.get((block.index, nbytes), (0, 0))
        block.pool = []  # it no longer has its pool's layout
        tensors.on_alloc(block)


def free_legacy_types() -> None:
    """Let `torch.cuda.FloatTensor` and its kin make tensors.

    A PyTensorType (torch/csrc/tensor/python_tensor.cpp) holds two booleans, is_cuda and is_xpu, in front of
    its name. is_cuda only guards builds without CUDA.
    """
    kinds = [*vars(torch.cuda).values(), *vars(torch.cuda.sparse).values()]
    for kind in kinds:
        if type(kind) is not type(torch.FloatTensor):
            continue
        name = f"{kind.__module__}.{kind.__qualname__}"
        text = f"{name}\0".encode()
        at = ctypes.string_at(id(kind), HEAP_TYPE_BYTES).find(text)
        mark = ctypes.c_bool.from_address(id(kind) + at - 2)
        if at < 0 or not mark.value:
            raise UnsupportedTorch(f"torch {torch.__version__}: {name} is not laid out as expected.")
        mark.value = False
