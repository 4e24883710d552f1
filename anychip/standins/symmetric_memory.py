"""`torch.distributed._symmetric_memory`: memory that the ranks of a group share, and the collectives that are made of it.

Each operator of `torch.ops.symm_mem` is put on the tape as the collective of `torch.distributed` that does the same, on the
stream that it is called on, and priced as that. The fused products are theirs beside their gather or scatter
(`device.ops.micro_pipeline`). What a program does itself through a peer's memory is no collective that anybody could tell:
it is refused.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, ClassVar, NoReturn

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import AllgatherOptions, ReduceScatterOptions
from torch.distributed import distributed_c10d as c10d

from anychip.device.insides._torch_host import implement
from anychip.errors import UnsupportedProgram
from anychip.record.recorder import user_place
from anychip.standins.recording import runtime

SIGNAL_PAD_BYTES = 2048 * 4  # torch's own size, a 32-bit word for each channel and rank


class SymmetricMemory:
    """`_SymmetricMemory`: a rank's handle of a tensor that its group has met over, and what the class is asked for."""

    allocated: ClassVar[set[int]] = set()  # addresses
    pooled = False  # the program has a pool of such memory
    backend = "CUDA"
    signal_pad_size = SIGNAL_PAD_BYTES

    def __init__(self, tensor: torch.Tensor, group: Any) -> None:
        self._tensor, self._group = tensor, group
        self.rank, self.world_size = group.rank(), group.size()
        self.device, self.offset = tensor.device, 0
        self.buffer_size = tensor.untyped_storage().nbytes()
        self.multicast_ptr = tensor.data_ptr()  # where programs look whether there is any

    # ------------------------------------------------------------ of the class

    @classmethod
    def empty_strided_p2p(cls, size: Any, stride: Any, dtype: Any, device: Any, *_: Any, **__: Any) -> torch.Tensor:
        tensor = torch.empty_strided(size, stride, dtype=dtype, device=device)
        cls.allocated.add(tensor.untyped_storage().data_ptr())
        return tensor

    @classmethod
    def rendezvous(cls, tensor: torch.Tensor, group_name: Any = None) -> "SymmetricMemory | None":
        if not cls.is_symm_mem_tensor(tensor):
            return None
        return cls(tensor, _group(group_name) if group_name else dist.group.WORLD)

    @classmethod
    def is_symm_mem_tensor(cls, tensor: torch.Tensor) -> bool:
        # What a pool of such memory holds is not told apart from the rest, so a program with a pool may mean any tensor.
        return tensor.untyped_storage().data_ptr() in cls.allocated or cls.pooled

    @classmethod
    def get_mempool_allocator(cls, device: Any) -> None:
        cls.pooled = True

    @classmethod
    def set_backend(cls, name: str) -> None:
        cls.backend = name

    @classmethod
    def get_backend(cls, device: Any) -> str:
        return cls.backend

    @staticmethod
    def set_group_info(*_: Any) -> None:
        return None

    @staticmethod
    def has_multicast_support(*_: Any) -> bool:
        return True  # operators that use it are priced by what the chip's own network can do

    # ------------------------------------------------------------ of a handle

    def barrier(self, channel: int = 0, timeout_ms: int = 0) -> None:
        dist.barrier(self._group, device_ids=[self.device.index or 0])

    def get_buffer(self, rank: int, sizes: Any, dtype: torch.dtype, storage_offset: int = 0) -> torch.Tensor:
        if rank != self.rank:
            self._refuse(f"get_buffer({rank}, ...)")
        whole = self._tensor.new_empty(0).set_(self._tensor.untyped_storage()).view(dtype)
        return whole[storage_offset : storage_offset + torch.Size(sizes).numel()].view(tuple(sizes))

    get_remote_tensor = get_buffer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse(name)

    def _refuse(self, what: str) -> NoReturn:
        refuse(f"asks rank {self.rank}'s symmetric memory for {what}")


def refuse(what: str) -> NoReturn:
    place = user_place()
    raise UnsupportedProgram(
        f"{place.file}:{place.line} {what}: what a program reads and writes through the memory of its peers cannot be followed on "
        "a virtual chip, where no peer is. Try an operator of torch.ops.symm_mem (one_shot_all_reduce, two_shot_all_reduce_, "
        "multimem_all_gather_out ...) or a collective of torch.distributed in its place: these are priced."
    )


def _group(name: str) -> Any:
    return vars(c10d)["_resolve_process_group"](name)


# ---------------------------------------------------------------- operators


def _reduce(tensor: torch.Tensor, reduce_op: str, group_name: Any) -> torch.Tensor:
    dist.all_reduce(tensor, _operation(reduce_op), _group(group_name))
    return tensor


def _operation(name: str) -> Any:
    return {"sum": dist.ReduceOp.SUM, "avg": dist.ReduceOp.AVG, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}[
        name
    ]


def all_reduce(input: torch.Tensor, reduce_op: str, group_name: Any) -> torch.Tensor:
    return _reduce(torch.empty_like(input), reduce_op, group_name)


def all_reduce_(input: torch.Tensor, reduce_op: str, group_name: Any) -> torch.Tensor:
    return _reduce(input, reduce_op, group_name)


def all_reduce_out(input: torch.Tensor, reduce_op: str, group_name: Any, out: torch.Tensor) -> torch.Tensor:
    return _reduce(out, reduce_op, group_name)


def two_shot_out(input: torch.Tensor, reduce_op: str, group_name: Any, output: torch.Tensor) -> torch.Tensor:
    return _reduce(output, reduce_op, group_name)


def all_reduce_copy(symm_buffer: Any, local_input: torch.Tensor, reduce_op: str, group_name: Any) -> torch.Tensor:
    return _reduce(torch.empty_like(local_input), reduce_op, group_name)


def all_reduce_copy_out(
    symm_buffer: Any, local_input: torch.Tensor, reduce_op: str, group_name: Any, out: torch.Tensor
) -> torch.Tensor:
    return _reduce(out, reduce_op, group_name)


def reduce_out(input: torch.Tensor, reduce_op: str, root: int, group_name: Any, out: torch.Tensor) -> torch.Tensor:
    dist.reduce(out, group_dst=root, op=_operation(reduce_op), group=_group(group_name))
    return out


def all_gather_out(input: torch.Tensor, group_name: Any, out: torch.Tensor) -> torch.Tensor:
    options = AllgatherOptions()
    options.asyncOp = False
    _group(group_name)._allgather_base(out, input, options)
    return out


def reduce_scatter_out(
    input: torch.Tensor, group_name: Any, split_last_dim: bool, output: torch.Tensor
) -> torch.Tensor:
    options = ReduceScatterOptions()
    options.asyncOp = False
    _group(group_name)._reduce_scatter_base(output.view(-1), input.view(-1), options)
    return output


def low_contention_all_gather(tensor: torch.Tensor, group_name: Any) -> torch.Tensor:
    group = _group(group_name)
    return torch.ops._c10d_functional.all_gather_into_tensor(tensor, group.size(), group_name)  # type: ignore[no-any-return]


def low_contention_reduce_scatter(tensor: torch.Tensor, reduce_op: str, group_name: Any) -> torch.Tensor:
    size = _group(group_name).size()
    return torch.ops._c10d_functional.reduce_scatter_tensor(tensor, reduce_op, size, group_name)  # type: ignore[no-any-return]


def all_to_all(input: torch.Tensor, out: torch.Tensor, group_name: Any) -> torch.Tensor:
    dist.all_to_all_single(out, input, group=_group(group_name))
    return out


def all_to_all_by_device(input: torch.Tensor, out: torch.Tensor, *rest: Any) -> None:
    """How many rows go where is known to the chip alone: as many to each, and as many come as go."""
    group = _group(next(one for one in rest if isinstance(one, str)))
    rows = min(input.shape[0], out.shape[0]) // group.size() * group.size()
    dist.all_to_all_single(out[:rows], input[:rows], group=group)


def broadcast(input: torch.Tensor, root: int, group_name: Any) -> torch.Tensor:
    dist.broadcast(input, group_src=root, group=_group(group_name))
    return input


OPERATORS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("one_shot_all_reduce", "multimem_one_shot_all_reduce"), all_reduce),
    **dict.fromkeys(("one_shot_all_reduce_out", "multimem_one_shot_all_reduce_out"), all_reduce_out),
    **dict.fromkeys(("two_shot_all_reduce_", "multimem_all_reduce_"), all_reduce_),
    "two_shot_all_reduce_out": two_shot_out,
    "one_shot_all_reduce_copy": all_reduce_copy,
    "one_shot_all_reduce_copy_out": all_reduce_copy_out,
    "multimem_one_shot_reduce_out": reduce_out,
    "multimem_all_gather_out": all_gather_out,
    "reduce_scatter_out": reduce_scatter_out,
    "_low_contention_all_gather": low_contention_all_gather,
    "_low_contention_reduce_scatter": low_contention_reduce_scatter,
    "nvshmem_all_to_all": all_to_all,
    "nvshmem_broadcast": broadcast,
    **dict.fromkeys(("all_to_all_vdev", "all_to_all_vdev_2d", "all_to_all_vdev_2d_offset"), all_to_all_by_device),
}
# One rank reads or writes another's memory by itself.
ONE_SIDED = (
    "nccl_get", "nccl_put", "nccl_put_signal", "nccl_put_with_signal", "nccl_wait_for_signal", "nccl_wait_signal",
    "nccl_reduce_scatter_offset", "nvshmem_get", "nvshmem_put", "nvshmem_put_with_signal", "nvshmem_wait_for_signal",
    "tile_reduce", "multi_root_tile_reduce", "stream_write_value32_",
)  # fmt: skip
FUSED = ("fused_all_gather_matmul", "fused_all_gather_scaled_matmul", "fused_matmul_reduce_scatter",
         "fused_scaled_matmul_reduce_scatter")  # fmt: skip


def patch(module: ModuleType) -> None:
    """Called when torch's module has been imported, which defines the fused operators."""
    names: dict[str, Any] = vars(module)
    names["_SymmetricMemory"] = torch._C._distributed_c10d._SymmetricMemory = SymmetricMemory  # type: ignore[misc,assignment]
    names["_should_use_implicit_mempool"] = lambda: False
    micro_pipeline = runtime().micro_pipeline
    # torch's own forms for tensors without data call the collective and the products that each kernel is made of.
    fused = {name: micro_pipeline.fused(names[f"_{name}_fallback"]) for name in FUSED}
    refused = {name: partial(_refuse_operator, name) for name in ONE_SIDED}
    known = {**OPERATORS, **refused, **fused}
    implement("symm_mem", [(name, kernel, "CUDA") for name, kernel in known.items() if _has(name)])


def _refuse_operator(name: str, *_: Any, **__: Any) -> NoReturn:
    refuse(f"calls torch.ops.symm_mem.{name}")


def _has(name: str) -> bool:
    """Whether this torch has the operator: each version adds some."""
    return hasattr(torch.ops.symm_mem, name)
