"""Idioms: memory of the chip, as its allocator tells of it, and random numbers."""

# ruff: noqa: PT018

import os

import torch
from idiom import chip, idiom, main, raises
from torch import nn

# ---------------------------------------------------------------- memory


@idiom("torch.cuda.memory_allocated", "torch.cuda.max_memory_allocated", "torch.cuda.reset_peak_memory_stats")
def allocated() -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    x = torch.empty(1 << 20, device="cuda")
    assert torch.cuda.memory_allocated() == before + (4 << 20), (before, torch.cuda.memory_allocated())
    assert torch.cuda.max_memory_allocated() >= before + (4 << 20)
    del x
    assert torch.cuda.memory_allocated("cuda") == before == torch.cuda.memory_allocated(0)
    assert torch.cuda.max_memory_allocated(torch.device("cuda")) >= before + (4 << 20)
    torch.cuda.reset_peak_memory_stats(0)
    assert torch.cuda.max_memory_allocated() == before
    torch.cuda.reset_max_memory_allocated()
    torch.cuda.reset_accumulated_memory_stats()


@idiom("torch.cuda.memory_reserved", "torch.cuda.max_memory_reserved", "torch.cuda.empty_cache")
def reserved() -> None:
    x = torch.empty(30 << 20, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_reserved() >= torch.cuda.memory_allocated() >= 30 << 20
    del x
    kept = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= kept - (30 << 20) and torch.cuda.max_memory_reserved() >= kept
    torch.cuda.memory.empty_cache()
    assert torch.cuda.memory_cached() == torch.cuda.memory_reserved()


@idiom("torch.cuda.mem_get_info")
def mem_get_info() -> None:
    free, total = torch.cuda.mem_get_info()
    assert 0 < free <= total == torch.cuda.get_device_properties(0).total_memory == torch.cuda.mem_get_info(0)[1]
    x = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    assert torch.cuda.mem_get_info("cuda")[0] <= free - (40 << 20)
    del x


@idiom("torch.cuda.memory_stats")
def stats() -> None:
    x = torch.empty(1000, device="cuda")
    known = torch.cuda.memory_stats()
    assert known["allocated_bytes.all.current"] == torch.cuda.memory_allocated() and known["num_ooms"] >= 0
    assert known["reserved_bytes.all.peak"] == torch.cuda.max_memory_reserved() and x.is_cuda
    assert {"active_bytes.all.current", "num_alloc_retries", "inactive_split_bytes.all.current"} <= set(known)
    assert "GPU reserved memory" in torch.cuda.memory_summary() and torch.cuda.memory_summary(abbreviated=True)
    assert torch.cuda.list_gpu_processes() and torch.cuda.memory_snapshot() is not None
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.ipc_collect()
    assert torch.cuda.get_allocator_backend() == "native" and torch.cuda.utilization() >= 0


@idiom("torch.cuda.OutOfMemoryError")
def out_of_memory() -> None:
    def too_much() -> torch.Tensor:
        return torch.empty(1 << 50, dtype=torch.uint8, device="cuda")

    raises(torch.cuda.OutOfMemoryError, too_much, "CUDA out of memory. Tried to allocate")
    raises(torch.OutOfMemoryError, too_much)
    raises(RuntimeError, too_much, "out of memory")
    assert torch.zeros(4, device="cuda").is_cuda, "and the program goes on"


@idiom("env PYTORCH_CUDA_ALLOC_CONF")
def alloc_conf() -> None:
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    torch.cuda.memory._set_allocator_settings("expandable_segments:False")
    assert torch.empty(10, device="cuda").is_cuda


@idiom("torch.cuda.memory._record_memory_history")
def memory_history() -> None:
    torch.cuda.memory._record_memory_history(max_entries=1000)
    x = torch.empty(1 << 20, device="cuda")
    snapshot = torch.cuda.memory._snapshot()
    assert snapshot["segments"] and {"device_traces", "segments"} <= set(snapshot) and x.is_cuda
    torch.cuda.memory._dump_snapshot(os.devnull)
    torch.cuda.memory._record_memory_history(enabled=None)


# ---------------------------------------------------------------- random numbers


@idiom("torch.cuda.manual_seed", "torch.cuda.manual_seed_all")
def seeds() -> None:
    torch.cuda.manual_seed(5)
    assert torch.cuda.initial_seed() == 5
    torch.cuda.manual_seed_all(7)
    assert torch.cuda.initial_seed() == 7 and torch.cuda.default_generators[0].initial_seed() == 7
    torch.manual_seed(9)
    assert torch.cuda.initial_seed() == 9 == torch.initial_seed()
    torch.cuda.seed()
    torch.cuda.seed_all()
    torch.manual_seed(0)
    assert chip(3).is_cuda


@idiom("torch.cuda.get_rng_state", "torch.cuda.set_rng_state")
def rng_state() -> None:
    torch.cuda.manual_seed(11)
    state = torch.cuda.get_rng_state()
    assert state.dtype == torch.uint8 and state.numel() == 16 and state.device.type == "cpu"
    torch.cuda.manual_seed(12)
    torch.cuda.set_rng_state(state)
    assert torch.cuda.initial_seed() == 11
    torch.cuda.set_rng_state(state, device="cuda:0")
    torch.cuda.set_rng_state_all(torch.cuda.get_rng_state_all())
    torch.cuda.manual_seed(13)
    with torch.random.fork_rng():
        torch.cuda.manual_seed(14)
    assert torch.cuda.initial_seed() == 13
    with torch.random.fork_rng(devices=[0], device_type="cuda"):
        chip(3)
    chip(3)
    assert not torch.equal(torch.cuda.get_rng_state(), state)


@idiom('torch.Generator(device="cuda")')
def generator() -> None:
    made = torch.Generator(device="cuda").manual_seed(3)
    assert made.device.type == "cuda" and made.initial_seed() == 3 and isinstance(made, torch.Generator)
    assert (
        torch.randn(3, device="cuda", generator=made).is_cuda
        and torch.randperm(5, device="cuda", generator=made).is_cuda
    )
    assert torch.empty(3, device="cuda").normal_(generator=made).is_cuda
    assert torch.multinomial(torch.ones(4, device="cuda"), 2, generator=made).shape == (2,)
    state = made.get_state()
    torch.Generator("cuda").set_state(state)
    made.seed()
    assert torch.Generator(device=torch.device("cuda", 0)).device.index == 0
    assert (
        torch.Generator().device.type == "cpu"
        and torch.randperm(5, generator=torch.Generator().manual_seed(0)).numel() == 5
    )
    from torch.utils.checkpoint import checkpoint

    x = chip(4, 4, requires_grad=True)
    checkpoint(lambda y: nn.functional.dropout(y @ y), x, use_reentrant=False).sum().backward()
    checkpoint(lambda y: nn.functional.dropout(y @ y), x, use_reentrant=True).sum().backward()
    assert x.grad.is_cuda


if __name__ == "__main__":
    main()
