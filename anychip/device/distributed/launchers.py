"""What launchers tell a rank: torchrun, as which ranks are started, and others, for programs that insist on one:
`int(os.environ["SLURM_PROCID"])`.

A program that looks which launcher there is (`"SLURM_PROCID" in os.environ`, `.get`, `getenv`) is
told of torchrun alone, as two at once would be none that exists; one that takes a variable without looking, be it to catch a KeyError,
has it from torchrun's.
"""

import os
from functools import wraps
from typing import Any

# A variable of another launcher -> torchrun's that says the same.
AS_TORCHRUN = {
    "SLURM_PROCID": "RANK", "SLURM_LOCALID": "LOCAL_RANK", "SLURM_NTASKS": "WORLD_SIZE", "SLURM_NPROCS": "WORLD_SIZE",
    "SLURM_NTASKS_PER_NODE": "LOCAL_WORLD_SIZE", "SLURM_GPUS_ON_NODE": "LOCAL_WORLD_SIZE", "SLURM_NODEID": "GROUP_RANK",
    "SLURM_NNODES": "GROUP_WORLD_SIZE", "SLURM_JOB_NUM_NODES": "GROUP_WORLD_SIZE", "SLURM_LAUNCH_NODE_IPADDR": "MASTER_ADDR",
    "SLURM_NODELIST": "MASTER_ADDR", "SLURM_JOB_NODELIST": "MASTER_ADDR",
    # (a number, of which programs make a port)
    "SLURM_JOBID": "MASTER_PORT", "SLURM_JOB_ID": "MASTER_PORT",
    "OMPI_COMM_WORLD_RANK": "RANK", "OMPI_COMM_WORLD_LOCAL_RANK": "LOCAL_RANK", "OMPI_COMM_WORLD_SIZE": "WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "LOCAL_WORLD_SIZE", "PMI_RANK": "RANK", "PMI_SIZE": "WORLD_SIZE", "PMI_LOCAL_RANK": "LOCAL_RANK",
    "PMI_LOCAL_SIZE": "LOCAL_WORLD_SIZE", "MPI_LOCALRANKID": "LOCAL_RANK", "MPI_LOCALNRANKS": "LOCAL_WORLD_SIZE",
    "MV2_COMM_WORLD_RANK": "RANK", "MV2_COMM_WORLD_LOCAL_RANK": "LOCAL_RANK", "MV2_COMM_WORLD_SIZE": "WORLD_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE": "LOCAL_WORLD_SIZE",
}  # fmt: skip
NOTHING = object()


def environment(rank: int, world_size: int, per_node: int) -> dict[str, str]:
    """What `torchrun` tells a rank."""
    return {
        "RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank % per_node),
        "LOCAL_WORLD_SIZE": str(min(per_node, world_size)), "GROUP_RANK": str(rank // per_node),
        "GROUP_WORLD_SIZE": str(-(-world_size // per_node)), "ROLE_RANK": str(rank), "ROLE_WORLD_SIZE": str(world_size),
        "ROLE_NAME": "default", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "OMP_NUM_THREADS": "1",
        "TORCHELASTIC_RUN_ID": "anychip", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0",
    }  # fmt: skip


def answer_for_others() -> None:
    """Once, in a process that is a rank and whose environment has torchrun's variables."""
    kind: Any = type(os.environ)
    own = kind.__getitem__

    @wraps(own)
    def __getitem__(self: Any, key: Any) -> Any:
        is_other = self is os.environ and not has(self, key) and key in AS_TORCHRUN
        return own(self, AS_TORCHRUN[key] if is_other else key)

    # What mappings do by asking for `self[key]`.
    def has(self: Any, key: Any) -> bool:
        try:
            own(self, key)
        except KeyError:
            return False
        return True

    def get(self: Any, key: Any, default: Any = None) -> Any:
        return own(self, key) if has(self, key) else default

    def setdefault(self: Any, key: Any, value: Any) -> Any:
        if not has(self, key):
            self[key] = value
        return own(self, key)

    def pop(self: Any, key: Any, default: Any = NOTHING) -> Any:
        if default is not NOTHING and not has(self, key):
            return default
        value = own(self, key)
        del self[key]
        return value

    kind.__getitem__, kind.__contains__ = __getitem__, has
    kind.get, kind.setdefault, kind.pop = get, setdefault, pop


def as_torchrun(name: Any) -> Any:
    """The variable of torchrun's that says what this one does."""
    return AS_TORCHRUN.get(name, name)
