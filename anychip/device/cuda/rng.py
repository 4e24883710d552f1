"""`torch.Generator` for the chip: torch cannot make one without CUDA, so a CPU generator says that it is one.

Its state has the 16 bytes of a CUDA generator (seed and offset), as programs that save it expect.
"""

import struct
from typing import Any

import torch

_Real: Any = torch.Generator
STATE_BYTES = 16


class _Meta(type(_Real)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _Real)


class Generator(_Real, metaclass=_Meta):  # type: ignore[misc]
    """A generator of random numbers on any device."""

    def __new__(cls, device: Any = "cpu") -> Any:
        device = torch.device(device)
        if device.type == "cpu":
            return _Real(device)
        generator = super().__new__(cls, torch.device("cpu"))
        generator._chip = torch.device(device.type, device.index or 0)
        generator._offset = 0
        return generator

    @property
    def device(self) -> torch.device:
        chip: torch.device = self._chip
        return chip

    def get_state(self) -> torch.Tensor:
        return torch.tensor(
            list(struct.pack("<Qq", self.initial_seed() % 2**64, self._offset)), dtype=torch.uint8, device="cpu"
        )

    def set_state(self, state: torch.Tensor) -> "Generator":
        if state.numel() != STATE_BYTES:
            raise RuntimeError("RNG state is wrong size")
        seed, self._offset = struct.unpack("<Qq", bytes(state.tolist()))
        self.manual_seed(seed)
        return self

    def get_offset(self) -> int:
        return int(self._offset)

    def set_offset(self, offset: int) -> None:
        self._offset = offset

    def graphsafe_get_state(self) -> "Generator":
        return self

    def graphsafe_set_state(self, state: Any) -> "Generator":
        return self

    def clone_state(self) -> "Generator":
        copy = Generator(self._chip)
        copy.set_state(self.get_state())
        return copy


def install() -> None:
    torch.Generator = Generator  # type: ignore[misc]
