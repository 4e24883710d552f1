"""Stand-in for `apex.parallel`: torch's own data parallelism and norms over ranks, and an optimizer's rates by layer (LARC)."""

from typing import Any

import torch


class DistributedDataParallel(torch.nn.parallel.DistributedDataParallel):
    def __init__(self, module: torch.nn.Module, *_args: Any, **_options: Any) -> None:
        super().__init__(module)


class SyncBatchNorm(torch.nn.SyncBatchNorm):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True,
                 track_running_stats: bool = True, process_group: Any = None, **_options: Any) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, process_group)


def convert_syncbn_model(module: torch.nn.Module, process_group: Any = None, channel_last: bool = False) -> Any:
    convert: Any = torch.nn.SyncBatchNorm.convert_sync_batchnorm
    return convert(module, process_group)


def create_syncbn_process_group(group_size: int) -> Any:
    """The group of this rank, of ranks that follow one another; None of all."""
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    if group_size in (0, world):
        return None
    if group_size > world or world % group_size:
        raise AssertionError(f"{world} ranks are no whole number of groups of {group_size}")
    groups = [
        torch.distributed.new_group(list(range(first, first + group_size))) for first in range(0, world, group_size)
    ]
    return groups[rank // group_size]


class LARC:
    """An optimizer whose rate is, for each parameter, no more than a share of its norm over that of its gradient. It reads the
    norms of each parameter, as the real one does."""

    def __init__(self, optimizer: Any, trust_coefficient: float = 0.02, clip: bool = True, eps: float = 1e-8) -> None:
        self.optim, self.trust_coefficient, self.clip, self.eps = optimizer, trust_coefficient, clip, eps

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["optim"], name)

    def __repr__(self) -> str:
        return repr(self.optim)

    @property
    def param_groups(self) -> Any:
        return self.optim.param_groups

    @param_groups.setter
    def param_groups(self, value: Any) -> None:
        self.optim.param_groups = value

    def step(self) -> None:
        decays = [group.get("weight_decay", 0) for group in self.optim.param_groups]
        with torch.no_grad():
            for group, decay in zip(self.optim.param_groups, decays, strict=True):
                group["weight_decay"] = 0
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._scale(parameter, decay, group["lr"])
        self.optim.step()
        for group, decay in zip(self.optim.param_groups, decays, strict=True):
            group["weight_decay"] = decay

    def _scale(self, parameter: torch.Tensor, decay: float, rate: float) -> None:
        gradient: Any = parameter.grad
        weight_norm, gradient_norm = torch.norm(parameter), torch.norm(gradient)
        if weight_norm == 0 or gradient_norm == 0:
            return
        own: Any = self.trust_coefficient * weight_norm / (gradient_norm + weight_norm * decay + self.eps)
        if self.clip:
            own = min(own / rate, 1)
        gradient += decay * parameter
        gradient *= own
