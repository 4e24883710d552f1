"""`UntypedStorage` on the chip: made, copied, resized, saved and loaded, as pieces of chip memory.

torch's storage methods end in C functions that a build without CUDA lacks. Here they are said in operators on a
tensor of bytes over the same storage, so that copies are recorded and values go along.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from anychip.device.insides._torch_host import StorageSize
from anychip.device.runtime import Runtime


def as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """The storage as a tensor of bytes [nbytes] that shares it."""
    empty = torch.empty(0, dtype=torch.uint8, device=storage.device)
    return empty.set_(storage, 0, (storage.nbytes(),), (1,))


def new_storage(nbytes: int, device: torch.device) -> torch.UntypedStorage:
    return torch.empty(nbytes, dtype=torch.uint8, device=device).untyped_storage()


def install(runtime: Runtime) -> None:
    """Put chip forms in front of the storage methods; other devices take torch's own."""
    storage = torch.UntypedStorage
    sizes = StorageSize(runtime.tensors)
    base_new = storage.__new__

    def __new__(cls: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
        device = torch.device(device) if device is not None else None
        if device is None or device.type != runtime.device_type:
            return base_new(cls, *args, **({} if device is None else {"device": device}), **kwargs)
        if args and not isinstance(args[0], int):
            made = new_storage(len(args[0]), device)
            as_bytes(made).copy_(torch.tensor(list(args[0]), dtype=torch.uint8, device="cpu"))
            return made
        return new_storage(args[0] if args else 0, device)

    def on_chip(name: str, function: Callable[..., Any]) -> None:
        original = getattr(storage, name)

        @wraps(original)
        def method(self: torch.UntypedStorage, *args: Any, **kwargs: Any) -> Any:
            others = (self, *(one for one in args if isinstance(one, torch.UntypedStorage)))
            if any(one.device.type == runtime.device_type for one in others):
                return function(self, *args, **kwargs)
            return original(self, *args, **kwargs)

        setattr(storage, name, method)

    def copy_(self: torch.UntypedStorage, source: torch.UntypedStorage, non_blocking: bool = False) -> Any:
        as_bytes(self).copy_(as_bytes(source), non_blocking=non_blocking)
        return self

    def resize_(self: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
        sizes.resize(self, size)
        return self

    def fill_(self: torch.UntypedStorage, value: int) -> torch.UntypedStorage:
        as_bytes(self).fill_(value)
        return self

    def get(self: torch.UntypedStorage, index: Any) -> Any:
        return as_bytes(self)[index].item() if isinstance(index, int) else as_bytes(self)[index].untyped_storage()

    storage.__new__ = __new__  # type: ignore[method-assign]
    on_chip("copy_", copy_)
    on_chip("resize_", resize_)
    on_chip("fill_", fill_)
    on_chip("__getitem__", get)
    on_chip("share_memory_", lambda self: self)  # chip memory is shared already
    on_chip("is_shared", lambda self: True)
