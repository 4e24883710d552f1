"""`torch.distributed.algorithms.join`: ranks that have no inputs left go along with those that have.

How long they do is told by others: in each turn all count who still has inputs, and DistributedDataParallel says whether it will
reduce gradients. Where all ranks run these numbers really travel; else all are taken to have as many inputs.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from anychip.device.distributed.collectives import Collectives

TOLD = "join"


def install(collectives: Collectives) -> None:
    def told(function: Callable[..., Any], what: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with collectives.telling(what):
                return function(*args, **kwargs)

        return call

    # These meet one another, though some ranks are in a module's call and others are not.
    count = Join.notify_join_context
    Join.notify_join_context = staticmethod(told(count, TOLD))  # type: ignore[method-assign]
    for owner, name in (
        (Join, "_get_num_nonjoined_procs"),
        (Join, "_notify_procs_to_terminate"),
        (DistributedDataParallel, "_check_global_requires_backward_grad_sync"),
    ):
        setattr(owner, name, told(getattr(owner, name), TOLD))
    enter = Join.__enter__

    @wraps(enter)
    def __enter__(self: Any) -> Any:
        collectives.runtime.repeats = None  # a folded call would count nobody
        for hook in self._join_hooks:
            hook.main_hook = told(hook.main_hook, "")  # what it meets is in a module's call
        return enter(self)

    Join.__enter__ = __enter__  # type: ignore[method-assign]
