"""`torch.distributed` in a process that plays one rank of a job: its process groups.

The job is what the environment says, as `torchrun` would set it. Groups are torch's own `fake` ones under the names of
the real backends; nobody is waited for, except where a value from another rank decides what the program does
(`mailbox`).
"""

import os
import re
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import wraps
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch._C._distributed_c10d import FakeProcessGroup
from torch.distributed import distributed_c10d as c10d

from anychip.device.distributed import sharding, stages
from anychip.device.distributed.bystanders import Through
from anychip.device.distributed.mailbox import Mailbox
from anychip.device.distributed.store import VirtualStore, make_store
from anychip.device.runtime import Runtime
from anychip.errors import Deadlock, UnsupportedProgram
from anychip.record import Group, Kind
from anychip.record.recorder import user_place
from anychip.record.tape import KIND_MASK

PAIR_STREAM = 100_000  # streams of pairs that send outside of batches
ONCE = {Kind.OP, Kind.READ, Kind.SYNC, Kind.SYNC_EVENT}  # what takes time of what is done once

NAMELESS = re.compile(r"undefined|default_pg|mesh_default|mesh_dim_\d+|")  # what torch calls groups that nobody named


class Made(NamedTuple):
    """A group by what all its ranks know it by. copy: how many of the same ranks were made before it."""

    ranks: tuple[int, ...]
    copy: int

    @property
    def key(self) -> str:
        """For names of files."""
        return f"{hash(self.ranks):x}-{self.copy}"


class Groups:
    """The groups of this rank, numbered as they are first used.

    Each that was made is one of its own, as on the real thing it has a communicator of its own: the first, second ... of its ranks,
    which all of these count alike, as torch has them make groups in one order.

    rank, mailbox, everyone: set when the process becomes a rank of a job (`become`). everyone: of which all ranks run.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.rank = 0
        self.mailbox: Mailbox | None = None
        self.everyone = False
        self.through: Through | None = None  # where who takes no step ends with those that do
        self.stands_by: Callable[[], bool] = lambda: False  # whether this rank has taken none
        self._shared: dict[tuple[Made, str], int] = {}
        # As they were made; kept: at the end, when they are asked for, the program has let go of its own.
        self.meshes: dict[Any, None] = {}
        self._counts: Counter[tuple[int, ...]] = Counter()  # of the groups that were made, by their ranks
        self._made: dict[str, Made] = {}
        self._numbers: dict[Made, int] = {}
        self._known: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._used: list[Made] = []  # by number
        self._names: list[tuple[str, str]] = []
        self._pairs: dict[tuple[int, int], int] = {}

    def made(self, name: str, ranks: tuple[int, ...]) -> None:
        """The program has made a group. (Once the group of all is destroyed, torch gives their names to others.)"""
        self._made[name] = Made(ranks, self._counts[ranks])
        self._counts[ranks] += 1
        self._known.pop(name, None)

    def which(self, group: Any) -> "Made":
        """Which group a process group is, by what its other ranks, too, know it by."""
        found = self._made.get(group.group_name)
        return found or Made(tuple(c10d._world.pg_group_ranks.get(group, {})) or tuple(range(group.size())), 0)

    def number(self, group: Any) -> tuple[int, tuple[int, ...]]:
        """Index of a process group (as C++ or Python holds it) and its ranks."""
        if isinstance(group, torch.ScriptObject):
            group = torch.distributed.ProcessGroup.unbox(group)
        name = group.group_name
        if name not in self._known:
            which = self.which(group)
            number = self._numbers.setdefault(which, len(self._numbers))
            if number == len(self._used):
                self._used.append(which)
                self._names.append((name, getattr(group, "group_desc", "")))
            self._known[name] = number, which.ranks
        return self._known[name]

    def ranks(self, number: int) -> tuple[int, ...]:
        """The ranks of a numbered group."""
        return self._used[number].ranks

    def which_of(self, number: int) -> "Made":
        """Which group has this number."""
        return self._used[number]

    @property
    def keys(self) -> list[str]:
        """What other ranks, too, know each numbered group by."""
        return [made.key for made in self._used]

    def is_over(self, name: str, number: int, peer: int | None) -> bool:
        """Whether a rank that takes no steps is about to wait for one whose steps are recorded."""
        if self.through is None or not self.stands_by():
            return False
        made = self._used[number]
        return self.through.is_over(f"c10d.{name}.default", made.key, made.ranks, peer)

    def names(self, number: int) -> Sequence[str]:
        """What the program's process group is called."""
        return self._names[number]

    def around(self, peer: int, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """The smallest group with this rank and a peer in it: of a pipeline its stages, though it may send in the world."""
        known = (tuple(one) for one in c10d._world.pg_group_ranks.values())
        return min((one for one in known if peer in one and self.rank in one), key=len, default=ranks)

    def of_each(self, group: Made, mine: Any, what: str) -> list[Any] | None:
        """What each rank of a group has, where all of them run; None where that is not so, or one of them has ended."""
        ranks = group.ranks
        if not self.everyone or self.mailbox is None or len(ranks) == 1:
            return None
        number = self._shared[group, what] = self._shared.get((group, what), -1) + 1
        key, place = f"each-{group.key}-{what}-{number}", user_place()
        self.mailbox.publish(f"{key}-{self.rank}", mine)
        try:
            return [self.mailbox.published(f"{key}-{rank}", rank, what, place) for rank in ranks]
        except Deadlock:
            return None

    def pair_stream(self, group: int, peer: int) -> int:
        """NCCL gives two ranks that send outside of a batch a communicator, and so a stream, of their own."""
        return PAIR_STREAM + self._pairs.setdefault((group, peer), len(self._pairs))

    def table(self) -> list[Group]:
        """All groups that collectives were called on, with the name of their mesh dimension: of all groups of its ranks."""
        axes = {**self._described(), **self._axes()}
        return [Group(ranks, axes.get(ranks), copy) for ranks, copy in self._used]

    def _described(self) -> dict[tuple[int, ...], str]:
        """By what torch says of them, for a mesh's "mesh_tp": meshes end with the process group, which programs destroy at their end."""
        found: dict[tuple[int, ...], str] = {}
        for (ranks, _), (_, text) in zip(self._used, self._names, strict=True):
            if not NAMELESS.fullmatch(text):
                found.setdefault(ranks, text.removeprefix("mesh_"))
        return found

    def _axes(self) -> dict[tuple[int, ...], str]:
        """By meshes, those of most dimensions before others, and in the order in which they were made. Where dimensions of several have the
        same ranks (all of a node are one's tensor parallel and the shards of another's experts) by one that the program took alone."""
        alone = {name for mesh in self.meshes if mesh.ndim == 1 for name in mesh.mesh_dim_names or ()}
        found: dict[tuple[int, ...], str] = {}
        others: dict[tuple[int, ...], str] = {}
        for mesh in sorted(self.meshes, key=lambda one: -one.ndim):
            for dim, name in enumerate(mesh.mesh_dim_names or ()):
                group = _mesh_group(mesh, dim)
                if group is not None:
                    names = found if name in alone and mesh.ndim > 1 else others
                    names.setdefault(tuple(c10d._world.pg_group_ranks.get(group, {})), name)
        return {**others, **found}


def _mesh_group(mesh: Any, dim: int) -> Any:
    """A mesh dimension's process group; None for meshes that have none (or where this rank is outside)."""
    try:
        return mesh.get_group(dim)
    except (RuntimeError, AssertionError, KeyError, ValueError, IndexError):
        return None


# ---------------------------------------------------------------- backends


class _Options:
    """`ProcessGroupNCCL.Options`: whatever is set is kept."""

    def __init__(self, is_high_priority_stream: bool = False) -> None:
        self.is_high_priority_stream = is_high_priority_stream
        self._timeout = timedelta(minutes=10)
        self.config = type("NCCLConfig", (), {})()


class _BackendMeta(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, FakeProcessGroup)


class VirtualBackend(metaclass=_BackendMeta):
    """What every backend's name makes: torch's group of one process that plays a rank."""

    Options = _Options

    def __new__(cls, store: Any, rank: int, size: int, *_: Any, **__: Any) -> Any:
        make: Any = FakeProcessGroup
        return make._create_internal(rank, size, make.Options())


def _backends(runtime: Runtime) -> None:
    c10d._NCCL_AVAILABLE = c10d._GLOO_AVAILABLE = True
    vars(c10d)["default_pg_nccl_timeout"] = timedelta(minutes=10)
    names = ["ProcessGroupNCCL", "ProcessGroupGloo"]
    if hasattr(c10d, "_create_nccl2_process_group"):  # what "nccl" makes from torch 2.15 on
        names += ["ProcessGroupNCCL2", "ProcessGroupNCCLLazy"]
    for name in names:
        setattr(c10d, name, VirtualBackend)
        setattr(torch.distributed, name, VirtualBackend)
    # TORCH_DISTRIBUTED_DEBUG=DETAIL has gloo compare what ranks call: here they are not there to be compared.
    vars(c10d)["_create_process_group_wrapper"] = lambda wrapped_pg, **_: wrapped_pg
    known = set(c10d.Backend.backend_list)
    for name in runtime.chip.platform.collective_backends:
        if name not in known:
            c10d.Backend.register_backend(
                name, lambda store, rank, size, _: VirtualBackend(store, rank, size), devices=["cuda"]
            )
    for name in ("_set_sequence_number_for_group", "eager_connect_single_device", "abort", "shutdown", "_set_default_timeout",
                 "perform_nocolor_split", "_verify_work_timeout", "_enable_collectives_timing"):  # fmt: skip
        setattr(FakeProcessGroup, name, lambda *_, **__: None)
    FakeProcessGroup.supports_coalescing = property(lambda _: True)  # type: ignore[assignment,method-assign]
    kept: weakref.WeakKeyDictionary[Any, _Options] = weakref.WeakKeyDictionary()
    setattr(FakeProcessGroup, "options", property(lambda self: kept.setdefault(self, _Options())))  # noqa: B010
    FakeProcessGroup.supports_splitting = property(lambda _: False)  # type: ignore[assignment,method-assign]


# ---------------------------------------------------------------- joining


def _joining(groups: Groups) -> None:
    """`init_process_group` waits at no store; who the process is, is known."""
    original = c10d.init_process_group
    bind = signature(original).bind

    @wraps(original)
    def init_process_group(*args: Any, **kwargs: Any) -> Any:
        given = bind(*args, **kwargs).arguments
        size, rank = given.get("world_size", -1), given.get("rank", -1)
        given["world_size"] = int(os.environ.get("WORLD_SIZE", 1)) if size is None or size < 0 else int(size)
        given["rank"] = int(os.environ.get("RANK", 0)) if rank is None or rank < 0 else int(rank)
        groups.runtime.joins(given["rank"], given["world_size"])
        groups.rank = given["rank"]
        if groups.mailbox is not None:
            groups.mailbox.tell_libraries()  # most of what a program imports it has by now
        if given["world_size"] > 1:
            sharding.install()
            if groups.runtime.stages is not None:
                groups.runtime.stages.install()
            if groups.mailbox is not None and given["rank"] == 0:
                stages.told(groups.mailbox)
        given.pop("init_method", None)
        given.setdefault("store", VirtualStore(given["rank"], given["world_size"]))
        return original(**given)

    _in_place_of(original, init_process_group)
    for name in ("TCPStore", "FileStore"):
        _in_place_of(getattr(torch.distributed, name), make_store)


def _making(groups: Groups) -> None:
    """Notes each group as torch makes it."""
    original = c10d._new_process_group_helper
    bind = signature(original).bind

    @wraps(original)
    def make(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        given = bind(*args, **kwargs).arguments
        # (torch may have one of these ranks and this tag already)
        if isinstance(made, tuple) and getattr(made[0], "group_name", None) == given["group_name"]:
            groups.made(given["group_name"], tuple(given["global_ranks_in_group"]) or tuple(range(given["group_size"])))
        return made

    vars(c10d)["_new_process_group_helper"] = make


def _foreign_groups(groups: Groups) -> None:
    """A group of other ranks is a number and nothing else: a mesh of 16,384 ranks makes thousands of them."""
    from torch.distributed import device_mesh  # noqa: F401 (has a name for it too)

    original = c10d.new_group

    @wraps(original)
    def new_group(ranks: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not ranks or kwargs.get("use_local_synchronization") or groups.mailbox is None or groups.rank in ranks:
            return original(ranks, *args, **kwargs)
        if min(ranks) < 0 or max(ranks) >= c10d.get_world_size():
            return original(ranks, *args, **kwargs)  # which refuses it
        c10d._process_group_name(ranks, use_hashed_name=False)
        return c10d.GroupMember.NON_GROUP_MEMBER

    _in_place_of(original, new_group)


def _splitting(groups: Groups) -> None:
    """A group that is split, as DeviceMesh does where `init_process_group` was given a device: each part is a new group."""
    original = c10d.split_group

    @wraps(original)
    def split_group(parent_pg: Any = None, split_ranks: Any = None, *args: Any, **kwargs: Any) -> Any:
        given = signature(original).bind(parent_pg, split_ranks, *args, **kwargs).arguments
        if not split_ranks or not all(split_ranks):
            return original(**given)  # which refuses it
        members = c10d.get_process_group_ranks(parent_pg)
        options: dict[str, Any] = {name: given.get(name) for name in ("timeout", "backend", "pg_options", "group_desc")}
        parts = [[members[one] for one in sorted(part)] for part in split_ranks]
        made = [c10d.new_group(part, **options) for part in parts]
        return next((group for group, part in zip(made, parts, strict=True) if groups.rank in part), None)

    _in_place_of(original, split_group)


def _in_place_of(original: Any, ours: Any) -> None:
    """Ours under each name by which a module of torch.distributed has got hold of the original (DeviceMesh joins too)."""
    for module in [one for name, one in list(sys.modules.items()) if name.startswith("torch.distributed")]:
        for name in [name for name, value in vars(module).items() if value is original]:
            vars(module)[name] = ours


# ---------------------------------------------------------------- the rest of torch.distributed


def _ddp(collectives: Any) -> None:
    """DistributedDataParallel compares shapes with its peers, and times itself with events of C++."""
    from torch.nn.parallel import distributed

    if not hasattr(torch.distributed, "set_timeout"):  # torch 2.14 has it; trainers written for it run here too
        vars(torch.distributed)["set_timeout"] = lambda *_, **__: None
    vars(distributed)["_verify_param_shape_across_processes"] = lambda *_, **__: None
    logger = vars(torch.distributed)["Logger"]
    logger.set_runtime_stats_and_log = lambda *_: None
    describe = logger.set_construction_data_and_log

    def set_construction_data_and_log(self: Any, *args: Any) -> None:
        """Of a group by the name of gloo it asks gloo's own C++ for its threads, and here that is another class."""
        if not any("gloo" in backend for backend, _ in c10d._world.pg_map.values()):
            describe(self, *args)

    logger.set_construction_data_and_log = set_construction_data_and_log
    # All that it does is to count iterations, of which the first is not timed.
    reducer = vars(torch.distributed)["Reducer"]
    reducer.prepare_for_forward = lambda *_: None
    rebuild = reducer._rebuild_buckets

    def rebuild_buckets(self: Any) -> Any:
        """Once, in the second forward, the host tells its peers their order and waits: no part of a step, of which few are told."""
        tape = collectives.runtime.recorder.tape
        begin = len(tape)
        rebuilt = rebuild(self)
        tape[begin:] = [one for one in tape[begin:] if one & KIND_MASK not in ONCE]
        return rebuilt

    reducer._rebuild_buckets = rebuild_buckets
    register = vars(torch.distributed)["_register_comm_hook"]

    def register_comm_hook(reducer: Any, state: Any, hook: Callable[[Any, Any], Any]) -> None:
        """A hook of the program's own gets the buckets themselves, and may reduce anything else."""

        def seen(state: Any, bucket: Any) -> Any:
            collectives.buckets.update(collectives.runtime.tensors.numbers([bucket.buffer()]))
            return hook(state, bucket)

        register(reducer, state, seen)

    vars(torch.distributed)["_register_comm_hook"] = register_comm_hook


def _rpc() -> None:
    """A call of another worker runs there, and there nobody is."""
    from torch.distributed import rpc

    original = getattr(rpc, "init_rpc", None)
    if original is None:  # a build without it
        return

    @wraps(original)
    def init_rpc(name: str, backend: Any = None, rank: int = -1, world_size: Any = None, **options: Any) -> None:
        size = int(world_size or os.environ.get("WORLD_SIZE", 1))
        if size == 1:
            return original(name, backend, rank, world_size, **options)  # type: ignore[no-any-return]
        place = user_place()
        raise UnsupportedProgram(
            f"{place.file}:{place.line} starts torch.distributed.rpc among {size} workers: what one asks of another (rpc_sync, "
            "remote, RRef, distributed autograd) runs there, and of a virtual job each rank runs by itself. Try the same exchange "
            "by torch.distributed (send and recv, broadcast_object_list; torch.distributed.pipelining for stages), or one "
            "worker's own work without RPC, --on CHIP."
        )

    _in_place_of(original, init_rpc)


def _watch_meshes(groups: Groups) -> None:
    """Remember device meshes: their dimensions have the names that the report uses."""
    from torch.distributed.device_mesh import DeviceMesh

    original = DeviceMesh.__init__

    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        groups.meshes.setdefault(self)

    DeviceMesh.__init__ = __init__  # type: ignore[method-assign]


def _coalescing(begin: Callable[..., Any], end: Callable[..., Any]) -> None:
    from torch.distributed import ProcessGroup

    ProcessGroup._start_coalescing = begin  # type: ignore[method-assign]
    ProcessGroup._end_coalescing = end  # type: ignore[method-assign]


def install(runtime: Runtime) -> None:
    if not torch.distributed.is_available():
        return
    from anychip.device.distributed import collectives, joining, objects, spawning

    groups = runtime.groups = Groups(runtime)
    one = runtime.collectives = collectives.Collectives(runtime, groups)
    one.install()
    _backends(runtime)
    _making(groups)
    _joining(groups)
    _foreign_groups(groups)
    _splitting(groups)
    objects.install(groups)
    _ddp(one)
    joining.install(one)
    _rpc()
    _watch_meshes(groups)
    _coalescing(lambda group, device: one.begin_batch(), lambda group, device: one.end_batch(group))
    spawning.install(runtime)
