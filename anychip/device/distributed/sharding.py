"""Places where torch makes one view per peer at the start: at 16,384 ranks each becomes the one view that is used."""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any

import torch


class Chunks(Sequence[torch.Tensor]):
    """`torch.chunk` into `pieces`, filled up with empty ones, each made when it is asked for."""

    def __init__(self, tensor: torch.Tensor, pieces: int, dim: int = 0) -> None:
        self.tensor, self.pieces, self.dim = tensor, pieces, dim
        self.size = ceil(tensor.size(dim) / pieces)

    def __len__(self) -> int:
        return self.pieces

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(self.pieces)[index]]
        if not -self.pieces <= index < self.pieces:
            raise IndexError(index)
        start = int(index) % self.pieces * self.size
        length = min(self.size, self.tensor.size(self.dim) - start)
        return self.tensor.narrow(self.dim, start, length) if length > 0 else self.tensor.new_empty(0)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(self.pieces))


def install() -> None:
    """Called when a program joins a group: torch's sharding is imported only for programs that may use it."""
    from torch.distributed.fsdp._flat_param import FlatParamHandle
    from torch.distributed.fsdp._fully_shard import _fsdp_common, _fsdp_param

    for module in (_fsdp_common, _fsdp_param):
        vars(module)["_chunk_with_empty"] = Chunks

    def unpadded_shard(tensor: torch.Tensor, rank: int, world_size: int) -> tuple[torch.Tensor, int]:
        """This rank's part of a flat parameter, and how many elements of padding it lacks."""
        chunks = Chunks(torch.flatten(tensor), world_size)
        return chunks[rank], chunks[0].numel() - chunks[rank].numel()

    setattr(FlatParamHandle, "_get_unpadded_shard", staticmethod(unpadded_shard))  # noqa: B010
