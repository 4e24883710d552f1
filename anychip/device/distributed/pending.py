"""What a collective's call returns: `Work` of a collective that the host has issued."""

import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch._C._distributed_c10d import Work

if TYPE_CHECKING:
    from anychip.device.distributed.call import Call
    from anychip.device.distributed.collectives import Collectives


class Pending(Work):
    """A collective that the host has issued. event: what a stream that needs it waits for; None: nothing to wait for.
    gathers: into a list of tensors, of which a future has one, as torch's NCCL backend does."""

    def __init__(
        self, collectives: "Collectives", tensors: list[torch.Tensor], event: int | None, gathers: bool = False
    ) -> None:
        super().__init__()
        self.collectives, self.event, self.gathers = collectives, event, gathers
        # Weakly: a work is kept for longer than the tensors that it was about may live.
        self.tensors = [weakref.ref(tensor) for tensor in tensors]
        self.late: list[tuple[Call, torch.Tensor]] = []  # small tensors whose values a peer sends
        self.host_events: list[int] = []  # that the host waits for
        self.source = -1  # of a receive from any rank

    def _source_rank(self) -> int:
        return self.source

    def wait(self, timeout: timedelta = timedelta(0)) -> bool:
        late, self.late = self.late, []
        for call, tensor in late:
            self.collectives.receive(call, tensor)
        if self.event is not None:
            self.collectives.wait(self.event)
        self.collectives.wait_on_host(self.host_events)
        self.host_events.clear()
        return True

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True

    def synchronize(self) -> None:
        self.wait()

    def result(self) -> list[torch.Tensor]:
        return [tensor for one in self.tensors if (tensor := one()) is not None]

    def get_future(self) -> Any:
        future: Any = torch.futures.Future()
        result = self.result()
        future.set_result([torch.stack(result)] if self.gathers and result else result)
        return future
