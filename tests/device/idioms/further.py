"""Idioms that one or two of the counted programs use, and what others of their kind do."""

# ruff: noqa: PT018

import os
import queue
import tempfile
import threading

import torch
from idiom import chip, idiom, main, raises
from torch import nn


@idiom("torch.cuda.MemPool", "torch.cuda.use_mem_pool")
def pools() -> None:
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        assert torch.zeros(4, device="cuda").is_cuda
    assert pool.id is not None


@idiom("torch.cuda.caching_allocator_alloc", "torch.cuda.memory.list_gpu_processes")
def memory_by_address() -> None:
    before = torch.cuda.memory_allocated()
    address = torch.cuda.caching_allocator_alloc(4096)
    assert address and torch.cuda.memory_allocated() == before + 4096
    torch.cuda.caching_allocator_delete(address)
    assert torch.cuda.memory_allocated() == before and torch.cuda.memory.list_gpu_processes()


@idiom("Tensor.is_set_to")
def same_memory() -> None:
    x = torch.ones(4, device="cuda")
    assert torch.empty(0, device="cuda").set_(x).is_set_to(x) and not torch.ones(4, device="cuda").is_set_to(x)


@idiom("torch.cuda.tunable")
def tunable() -> None:
    settings = torch.cuda.tunable
    settings.enable(True)
    settings.set_max_tuning_duration(5)
    settings.set_max_tuning_iterations(3)
    settings.set_filename("tuned.csv", insert_device_ordinal=True)
    settings.set_rotating_buffer_size(0)
    assert settings.is_enabled() and settings.tuning_is_enabled() and not settings.record_untuned_is_enabled()
    assert (settings.get_max_tuning_duration(), settings.get_max_tuning_iterations()) == (5, 3)
    assert settings.get_filename() == "tuned.csv" and settings.get_rotating_buffer_size() == 0
    assert not settings.get_results() and not settings.get_validators()
    settings.enable(False)


@idiom("torch.cuda.ExternalStream")
def external_stream() -> None:
    stream = torch.cuda.Stream()
    other = torch.cuda.ExternalStream(stream.cuda_stream)
    with torch.cuda.stream(other):
        chip(2)
    assert torch.cuda.current_stream().cuda_stream == 0
    torch.cuda._sleep(1000)


@idiom("torch.cuda.power_draw")
def sensors() -> None:
    assert torch.cuda.power_draw() > 0 and torch.cuda.temperature() > 0 and torch.cuda.clock_rate() > 0
    assert torch.cuda.utilization(0) >= 0 and torch.cuda.memory_usage() >= 0 and torch.cuda.device_memory_used() >= 0
    torch.cuda.profiler.start()
    torch.cuda.profiler.stop()
    torch.cuda.set_sync_debug_mode("warn")
    assert torch.cuda.get_sync_debug_mode() == 1
    torch.cuda.set_sync_debug_mode("default")


@idiom("torch._scaled_mm")
def scaled() -> None:
    one = torch.tensor(1.0, device="cuda")
    a, b = chip(16, 32).to(torch.float8_e4m3fn), chip(16, 32).to(torch.float8_e4m3fn).t()
    assert torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16).shape == (16, 16)
    assert a.is_cuda and a.element_size() == 1 and a.to(torch.float32).dtype == torch.float32


class Gated(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x) * x + torch.tanh(x)


@idiom("torch._C._jit_set_texpr_fuser_enabled", "torch.jit.fuser")
def jit_switches() -> None:
    torch._C._jit_set_texpr_fuser_enabled(False)
    torch._C._jit_override_can_fuse_on_gpu(True)
    torch._C._jit_set_nvfuser_enabled(False)
    gated = torch.jit.script(Gated()).cuda()
    for fuser in ("fuser1", "fuser2"):
        with torch.jit.fuser(fuser):
            for _ in range(4):  # the third call is the first that a CUDA build would fuse
                gated(torch.randn(8, 8, device="cuda", requires_grad=True)).sum().backward()
    assert torch._C._jit_can_fuse_on_gpu() and not torch._C._jit_texpr_fuser_enabled()


@idiom("init_device_mesh(cuda)")
def mesh() -> None:
    from torch.distributed.device_mesh import init_device_mesh

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="29413")
    assert init_device_mesh("cuda", (1,), mesh_dim_names=("dp",)).size() == 1
    torch.distributed.destroy_process_group()


@idiom("threads of the program")
def threads() -> None:
    """A prefetcher that copies to the chip, and a model that trains in a thread."""
    found: queue.Queue[torch.Tensor] = queue.Queue()

    def work() -> None:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            x = torch.ones(4, 4).pin_memory().cuda(non_blocking=True)
        module = nn.Linear(4, 4).cuda()
        module(x).sum().backward()
        found.put(module.weight.grad)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found.get(timeout=5).is_cuda


@idiom("hasattr / getattr probes")
def probes() -> None:
    assert not hasattr(torch.cuda, "no_such_thing") and hasattr(torch.cuda, "amp") and hasattr(torch.backends, "cudnn")
    assert torch._C._cuda_getCurrentRawStream(0) == 0 and torch._C._cuda_getDeviceCount() == 1
    assert not torch.backends.mps.is_available() and not torch.xpu.is_available()
    assert "CUDA" in torch.__config__.show() or torch.__config__.show()
    raises(AttributeError, lambda: torch.cuda.no_such_thing)


@idiom("module hooks and buffers")
def modules() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    module.register_buffer("table", torch.arange(4))
    module.cuda()
    assert module.table.is_cuda and module[1].num_batches_tracked.is_cuda and module.cpu().table.device.type == "cpu"
    module.to("cuda", torch.float16, non_blocking=True)
    assert module[0].weight.dtype == torch.float16 and module.table.dtype == torch.int64
    empty = nn.Linear(4, 4, device="meta").to_empty(device="cuda")
    assert empty.weight.is_cuda and empty.cuda().half().float()(chip(2, 4)).is_cuda
    module = nn.Linear(4, 4).cuda()
    module.load_state_dict({name: value.cpu() for name, value in module.state_dict().items()}, assign=True)
    assert module.weight.device.type == "cpu"
    module = nn.utils.weight_norm(nn.Linear(4, 4)).cuda()
    module(chip(2, 4)).sum().backward()


@idiom("vectors of parameters")
def vectors() -> None:
    module = nn.Linear(4, 4).cuda()
    vector = nn.utils.parameters_to_vector(module.parameters())
    nn.utils.vector_to_parameters(vector * 2, module.parameters())
    flat = torch._utils._flatten_dense_tensors([one.data for one in module.parameters()])
    assert vector.numel() == flat.numel() == 20
    torch._utils._unflatten_dense_tensors(flat, list(module.parameters()))
    assert torch._foreach_norm(list(module.parameters()))[0].is_cuda


@idiom("scheduler, EMA and checkpoints of a run")
def run() -> None:
    module = nn.Linear(4, 4).cuda()
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5)
    average = {name: value.detach().clone() for name, value in module.state_dict().items()}
    for _ in range(3):
        optimizer.zero_grad()
        loss = module(chip(2, 4)).square().mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
        for name, value in module.state_dict().items():
            average[name].mul_(0.9).add_(value, alpha=0.1)
        if not torch.isfinite(loss):
            raise RuntimeError("the loss is not finite")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.pt")
        torch.save(
            {
                "model": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "rng": torch.cuda.get_rng_state_all(),
                "loss": loss.item(),
            },
            path,
        )
        state = torch.load(path, map_location="cpu", weights_only=False)
        module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.cuda.set_rng_state_all(state["rng"])
    assert all(one["exp_avg"].is_cuda for one in optimizer.state.values())


@idiom("safe_open(device=cuda)")
def safe() -> None:
    from safetensors import safe_open
    from safetensors.torch import load, save, save_file

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.safetensors")
        save_file({"a": torch.ones(3), "b": torch.ones(2, device="cuda")}, path)
        for device in ("cuda", "cuda:0", 0):
            with safe_open(path, framework="pt", device=device) as file:
                assert file.get_tensor("a").is_cuda and file.get_slice("a")[:2].shape == (2,)
    assert load(save({"a": torch.ones(2)}))["a"].tolist() == [1.0, 1.0]


@idiom("stochastic layers and sampling")
def sampling() -> None:
    probabilities = torch.softmax(chip(3, 10), -1)
    assert torch.multinomial(probabilities, 2).shape == (3, 2) and torch.bernoulli(probabilities).is_cuda
    assert torch.normal(chip(3), 1.0).is_cuda and torch.rand_like(chip(3)).is_cuda and chip(3).uniform_(0, 1).is_cuda
    assert torch.poisson(probabilities).is_cuda and torch.empty(3, device="cuda").exponential_().is_cuda
    nn.init.trunc_normal_(nn.Linear(4, 4).cuda().weight)
    nn.init.orthogonal_(nn.Linear(4, 4).cuda().weight)
    nn.init.kaiming_uniform_(nn.Conv2d(3, 4, 3).cuda().weight)
    values, places = probabilities.topk(3)
    assert values.is_cuda and places.dtype == torch.int64 and probabilities.cumsum(-1).is_cuda
    nn.functional.gumbel_softmax(chip(2, 4), hard=True)


@idiom("lazy modules")
def lazy() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2)).cuda()
    model(chip(4, 3)).sum().backward()
    assert model[0].weight.shape == (8, 3) and model[0].weight.is_cuda and model[0].weight.grad is not None


@idiom("spectrograms and back")
def spectrograms() -> None:
    window = torch.hann_window(400, device="cuda")
    assert torch.istft(
        torch.stft(chip(1, 4000), 400, window=window, return_complex=True), 400, window=window
    ).shape == (1, 4000)
    assert not torch.equal(chip(4000).min().lt(0.1), torch.ones((), dtype=torch.bool, device="cuda"))
    assert chip(3).new_ones((), dtype=torch.bool).item() and chip(3).new_full((2,), 7, dtype=torch.int64).tolist() == [
        7,
        7,
    ]


@idiom("quantization-aware training")
def fake_quantization() -> None:
    quantize = torch.ao.quantization.FakeQuantize().cuda()
    weight = chip(4, 4, requires_grad=True)
    quantize(weight).sum().backward()
    assert weight.grad is not None
    factors, scales = torch.geqrf(chip(2, 5, 3))
    assert factors.shape == (2, 5, 3) and scales.shape == (2, 3)


if __name__ == "__main__":
    main()
