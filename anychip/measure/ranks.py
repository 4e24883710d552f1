"""One rank of a job of local ranks that measures collectives: `python -m anychip.measure.ranks SETTINGS`, by `collectives`.

Rank 0 prints one JSON object a line: collective, bytes, seconds of each sample.
"""

import json
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

LEAST_SAMPLE_S, SAMPLES, MOST_REPEATS = 0.01, 5, 50


def calls(numel: int, ranks: int, device: torch.device) -> dict[str, tuple[int, Callable[[], object]]]:
    """name -> bytes as nccl-tests count them (all_reduce: the buffer; all_gather: all that comes out; reduce_scatter, all_to_all:
    all that goes in), and the call. numel: fp32 elements of that, a multiple of the ranks."""
    whole, part = torch.ones(numel, device=device), torch.ones(numel // ranks, device=device)
    other = torch.ones(numel, device=device)
    return {
        "all_reduce": (numel * 4, lambda: dist.all_reduce(whole)),
        "all_gather": (numel * 4, lambda: dist.all_gather_into_tensor(whole, part)),
        "reduce_scatter": (numel * 4, lambda: dist.reduce_scatter_tensor(part, whole)),
        "all_to_all": (numel * 4, lambda: dist.all_to_all_single(other, whole)),
        "broadcast": (numel * 4, lambda: dist.broadcast(whole, 0)),
        "reduce": (numel * 4, lambda: dist.reduce(whole, 0)),
    }


def sample(call: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of a call on the slowest rank, several times; every rank repeats it as often."""

    def timed(repeats: int) -> float:
        dist.barrier()
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        slowest = torch.tensor([(time.perf_counter() - began) / repeats], device=device)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        return float(slowest.item())

    timed(1)
    repeats = min(max(int(LEAST_SAMPLE_S / timed(1)), 1), MOST_REPEATS)
    return [timed(repeats) for _ in range(SAMPLES)]


def main() -> None:
    settings = json.loads(sys.argv[1])
    rank, ranks, type_ = settings["rank"], settings["ranks"], settings["device"]
    torch.set_num_threads(1)
    device = torch.device("cpu") if type_ == "cpu" else torch.device(type_, rank)
    if type_ != "cpu":
        getattr(torch, type_).set_device(rank)
    dist.init_process_group(settings["backend"], init_method=f"file://{settings['store']}", rank=rank, world_size=ranks)
    for nbytes in settings["sizes"]:
        numel = max(nbytes // 4 // ranks, 1) * ranks
        for name, (counted, call) in calls(numel, ranks, device).items():
            try:
                row = {"collective": name, "bytes": counted, "samples_s": sample(call, device)}
            except (RuntimeError, ValueError, NotImplementedError) as error:
                row = {"collective": name, "bytes": counted, "error": str(error).splitlines()[0]}
            if rank == 0:
                print(json.dumps(row), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
