"""`torch.distributed` with the chip's collective library ("nccl"), in the one process that is recorded.

The process is one rank of a job whose size its environment says. Its group is torch's own `fake` one, and its
collectives are operators with kernels here: among one rank they cost a copy or nothing, as they do on the real
thing; among more they are noted with their tensors and the group's size. Nobody else is waited for.
"""

import os
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

import torch

from anychip.device._torch_host import implement
from anychip.device.kernels import canonical, flat_tensors
from anychip.device.runtime import Runtime
from anychip.record.op import Op

# Collectives whose result stands where the input stood; among one rank there is nothing to do.
IN_PLACE = ("allreduce_", "allreduce_coalesced_", "broadcast_", "reduce_", "barrier", "monitored_barrier_", "send", "recv_",
            "recv_any_source_", "check_for_nan")  # fmt: skip

# (name, position of the output, position of the input)
OUT_OF_PLACE = (
    ("allgather_", 0, 1), ("_allgather_base_", 0, 1), ("allgather_coalesced_", 0, 1), ("allgather_into_tensor_coalesced_", 0, 1),
    ("reduce_scatter_", 0, 1), ("_reduce_scatter_base_", 0, 1), ("reduce_scatter_tensor_coalesced_", 0, 1),
    ("alltoall_", 0, 1), ("alltoall_base_", 0, 1), ("gather_", 0, 1), ("scatter_", 0, 1),
)  # fmt: skip
RETURN_TENSORS = ("allreduce_", "broadcast_", "allgather_", "_allgather_base_", "reduce_scatter_", "_reduce_scatter_base_",
                  "alltoall_", "scatter_")  # fmt: skip
RETURN_NOTHING = ("monitored_barrier_", "check_for_nan")


class Collectives:
    def __init__(self, runtime: Runtime) -> None:
        from torch._C._distributed_c10d import Work

        self.runtime = runtime
        self.kept: deque[Any] = deque(maxlen=4096)  # C++ holds a Work, but not its Python half

        class Done(Work):
            """A collective that is over for the host as soon as it is called."""

            def __init__(self, tensors: list[torch.Tensor]) -> None:
                super().__init__()
                self.future: Any = torch.futures.Future()
                self.future.set_result(tensors)

            def wait(self, timeout: timedelta = timedelta(0)) -> bool:
                return True

            def is_completed(self) -> bool:
                return True

            def get_future(self) -> Any:
                return self.future

        self.done = Done

    def kernel(self, name: str, output: int, source: int | None) -> Callable[..., Any]:
        """The kernel of one `c10d` operator: note it, copy what a group of one would copy, and be done."""

        def run(*args: Any, **kwargs: Any) -> Any:
            size = next(_size(one) for one in args if isinstance(one, torch.ScriptObject)) if len(args) > 1 else 1
            tensors = flat_tensors(args[output])
            if size > 1:
                inputs = tensors if source is None else flat_tensors(args[source])
                op = Op(f"c10d.{name}.default", (canonical(tuple(tensors)), canonical(tuple(inputs)), size))
                self.runtime.driver.launch(self.runtime.recorder.op_word(op))
            elif source is not None:
                for one, other in zip(tensors, flat_tensors(args[source]), strict=False):
                    one.view(-1).copy_(other.reshape(-1))
            if name in RETURN_NOTHING:
                return None
            work = self.done(tensors)
            self.kept.append(work)
            return (args[output], work.boxed()) if name in RETURN_TENSORS else work.boxed()

        return run

    def install(self) -> None:
        kernels = [(name, self.kernel(name, 0, None), "CUDA") for name in IN_PLACE]
        kernels += [(name, self.kernel(name, output, source), "CUDA") for name, output, source in OUT_OF_PLACE]
        implement("c10d", kernels)


def _size(group: torch.ScriptObject) -> int:
    from torch.distributed import ProcessGroup

    unbox: Callable[[Any], Any] = ProcessGroup.unbox
    return int(unbox(group).size())


class _Options:
    """`ProcessGroupNCCL.Options`: whatever is set is kept."""

    def __init__(self, is_high_priority_stream: bool = False) -> None:
        self.is_high_priority_stream = is_high_priority_stream
        self.config = type("NCCLConfig", (), {})()


class _NcclMeta(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        from torch._C._distributed_c10d import FakeProcessGroup

        return isinstance(instance, FakeProcessGroup)


class ProcessGroupNCCL(metaclass=_NcclMeta):
    """What `init_process_group("nccl")` makes: torch's group of one process that plays a rank."""

    Options = _Options

    def __new__(cls, store: Any, rank: int, size: int, options: Any = None) -> Any:
        from torch._C._distributed_c10d import FakeProcessGroup

        group: Any = FakeProcessGroup
        return group._create_internal(rank, size, group.Options())


def install(runtime: Runtime) -> None:
    if not torch.distributed.is_available():
        return
    from torch._C._distributed_c10d import FakeProcessGroup
    from torch.distributed import distributed_c10d as c10d

    Collectives(runtime).install()
    c10d._NCCL_AVAILABLE = True
    c10d.ProcessGroupNCCL = torch.distributed.ProcessGroupNCCL = ProcessGroupNCCL  # type: ignore[misc]
    for name in (
        "_set_sequence_number_for_group",
        "eager_connect_single_device",
        "abort",
        "shutdown",
        "_set_default_timeout",
    ):
        setattr(FakeProcessGroup, name, lambda *_, **__: None)
    _without_others(c10d)
    _object_collectives(c10d)
    _ddp()


def _without_others(c10d: Any) -> None:
    """More than one rank: no store is waited at, and groups on the host are fake as well."""
    original = c10d.init_process_group

    @wraps(original)
    def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> Any:
        size = kwargs.get("world_size", -1)
        size = int(os.environ.get("WORLD_SIZE", 1)) if size < 0 else size
        if size > 1 and not args and kwargs.get("store") is None:
            kwargs.pop("init_method", None)
            rank = kwargs.pop("rank", -1)
            kwargs |= {
                "store": c10d.HashStore(),
                "world_size": size,
                "rank": int(os.environ.get("RANK", 0)) if rank < 0 else rank,
            }
            c10d.ProcessGroupGloo = lambda store, rank, size, **_: ProcessGroupNCCL(store, rank, size)
        return original(backend, *args, **kwargs)

    c10d.init_process_group = torch.distributed.init_process_group = init_process_group


def _object_collectives(c10d: Any) -> None:
    """Objects travel as bytes through chip memory, which has none: every rank is taken to hold this one's."""

    def all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
        object_list[:] = [obj] * len(object_list)

    def gather_object(obj: Any, object_gather_list: Any = None, *_: Any, **__: Any) -> None:
        if object_gather_list is not None:
            object_gather_list[:] = [obj] * len(object_gather_list)

    def broadcast_object_list(object_list: list[Any], *_: Any, **__: Any) -> None:
        return None

    def scatter_object_list(output: list[Any], objects: Any = None, *_: Any, **__: Any) -> None:
        output[0] = objects[c10d.get_rank()] if objects else output[0]

    for function in (all_gather_object, gather_object, broadcast_object_list, scatter_object_list):
        original = getattr(c10d, function.__name__)
        setattr(c10d, function.__name__, wraps(original)(function))
        setattr(torch.distributed, function.__name__, getattr(c10d, function.__name__))


def _ddp() -> None:
    """DistributedDataParallel compares shapes with its peers, and times itself with events of C++."""
    from torch.nn.parallel import distributed

    vars(distributed)["_verify_param_shape_across_processes"] = lambda *_, **__: None
    vars(torch.distributed)["Logger"].set_runtime_stats_and_log = lambda *_: None
