"""The key-value store of a process that plays one rank: what the other ranks would have set there."""

import os
from typing import Any, ClassVar

import torch
from torch._C._distributed_c10d import Store


class VirtualStore(Store):
    """A key-value store in which every other rank has done what this one did, under its own number."""

    alive: ClassVar[list["VirtualStore"]] = []  # C++ holds a store, but not its Python half

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size, self.held = rank, size, dict[str, bytes]()
        self.alive.append(self)

    def set(self, key: str, value: Any) -> None:
        self.held[key] = value if isinstance(value, bytes) else str(value).encode()

    def get(self, key: str) -> bytes:
        if key not in self.held:
            self.held[key] = self._as_others(key)
        return self.held[key]

    def add(self, key: str, amount: int) -> int:
        total = int(self.held.get(key, b"0")) + amount * self.size
        self.held[key] = str(total).encode()
        return total

    def _as_others(self, key: str) -> bytes:
        """What another rank set under a key that this rank holds but for the number in it."""
        shape = _without_digits(key)
        for other, value in self.held.items():
            if _without_digits(other) == shape:
                return value
        raise torch.distributed.DistStoreError(
            f"anychip: rank {self.rank} asks the store for {key!r}, which only another rank sets; that rank does not run."
        )

    def compare_set(self, key: str, expected: Any, desired: Any) -> bytes:
        if key not in self.held or self.held[key] == str(expected).encode():
            self.set(key, desired)
        return self.held[key]

    def wait(self, *_: Any) -> None:
        return None

    def check(self, keys: Any) -> bool:
        return True

    def delete_key(self, key: str) -> bool:
        return self.held.pop(key, None) is not None

    def num_keys(self) -> int:
        return len(self.held)

    def set_timeout(self, timeout: Any) -> None:
        return None


def _without_digits(key: str) -> str:
    return "".join("#" if one.isdigit() else one for one in key)


def make_store(*_: Any, **__: Any) -> VirtualStore:
    return VirtualStore(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
