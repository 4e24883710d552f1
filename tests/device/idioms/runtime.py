"""Idioms: torch.cuda itself: questions, settings, streams, events, graphs, mixed precision."""

# ruff: noqa: PT018

import inspect
import os
import tempfile
import time

import torch
from idiom import chip, idiom, main, raises
from torch import nn

# ---------------------------------------------------------------- questions


@idiom("torch.cuda.device_count", "torch.cuda.is_available")
def count() -> None:
    assert torch.cuda.device_count() == 1 and torch.cuda.is_available()
    assert not torch.cuda.is_initialized()  # (these questions alone do not initialize it)
    torch.cuda.init()
    assert torch.cuda.is_initialized() and torch.backends.cuda.is_built() and torch.cuda._is_compiled()


@idiom("torch.cuda.current_device", "torch.cuda.set_device")
def current() -> None:
    for device in (0, "cuda:0", torch.device("cuda:0"), torch.device("cuda", 0)):
        torch.cuda.set_device(device)
        assert torch.cuda.current_device() == 0 and torch.zeros(1, device="cuda").device.index == 0
    raises(Exception, lambda: torch.cuda.set_device(7), "invalid device ordinal")


@idiom("torch.cuda.device")
def device_context() -> None:
    with torch.cuda.device(0):
        assert torch.zeros(1).cuda().is_cuda
    with torch.cuda.device(torch.device("cuda:0")), torch.cuda.device_of(chip(1)):
        assert torch.cuda.current_device() == 0


@idiom("torch.cuda.get_device_properties")
def properties() -> None:
    known = torch.cuda.get_device_properties(0)
    assert known.total_memory > 2**30 and known.multi_processor_count > 0 and known.name == torch.cuda.get_device_name()
    assert (known.major, known.minor) == torch.cuda.get_device_capability() and known.warp_size == 32
    assert "multi_processor_count" in str(known) and torch.cuda.get_device_properties("cuda").name == known.name
    assert torch.cuda.get_device_properties(torch.device("cuda")).total_memory == known.total_memory
    assert known.max_threads_per_multi_processor and known.regs_per_multiprocessor and known.L2_cache_size
    raises(AttributeError, lambda: known.no_such_property)


@idiom("torch.cuda.get_device_name", "torch.cuda.get_device_capability")
def name() -> None:
    assert "H100" in torch.cuda.get_device_name() and torch.cuda.get_device_name(
        "cuda:0"
    ) == torch.cuda.get_device_name(0)
    assert torch.cuda.get_device_capability() == (9, 0) == torch.cuda.get_device_capability(torch.device("cuda"))
    major, _minor = torch.cuda.get_device_capability()
    assert major >= 8 and torch.cuda.get_arch_list() == ["sm_90"] and torch.cuda.get_gencode_flags()


@idiom("torch.cuda.is_bf16_supported")
def bf16() -> None:
    assert torch.cuda.is_bf16_supported() is True and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float16
    assert (chip(4, 4, dtype=dtype) @ chip(4, 4, dtype=dtype)).dtype == torch.bfloat16


@idiom("torch.version.cuda", "torch.version.cuda.split")
def cuda_version() -> None:
    major, minor = torch.version.cuda.split(".")
    assert int(major) >= 11 and int(minor) >= 0 and torch.cuda.nccl.version() >= (2, 0)
    assert torch._C._cuda_getCompiledVersion() == int(major) * 1000 + int(minor) * 10
    build = torch.__version__.partition("+cu")[2]  # torchvision refuses a torch that names another CUDA than its own
    assert not build.isdigit() or f"{major}{minor}" == build


@idiom("torch.version.hip")
def hip_version() -> None:
    assert torch.version.hip is None and getattr(torch.version, "hip", None) is None


@idiom("torch.cuda.nccl.version")
def nccl_version() -> None:
    version = torch.cuda.nccl.version()
    assert isinstance(version, tuple) and version >= (2, 10) and torch.distributed.is_nccl_available()


@idiom("torch.accelerator")
def accelerator() -> None:
    assert torch.accelerator.is_available() and torch.accelerator.device_count() == 1
    assert torch.accelerator.current_accelerator().type == "cuda" and torch.accelerator.current_device_index() == 0
    device = torch.accelerator.current_accelerator()
    assert torch.zeros(2, device=device).is_cuda and torch.zeros(2).to(torch.accelerator.current_accelerator()).is_cuda
    torch.accelerator.set_device_index(0)
    torch.accelerator.synchronize()
    stream = torch.accelerator.current_stream()
    torch.accelerator.set_stream(stream)
    assert stream.device.type == "cuda"
    chip(1000)
    assert torch.accelerator.max_memory_allocated() >= torch.accelerator.memory_allocated() >= 0
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()
    assert torch.accelerator.memory_stats() and torch.accelerator.memory_reserved() >= 0
    with torch.accelerator.device_index(0):
        assert torch.accelerator.current_device_index() == 0
    assert torch.get_device_module("cuda") is torch.cuda and torch.get_device_module() is torch.cuda


# ---------------------------------------------------------------- settings


@idiom("torch.backends.cuda.matmul.allow_tf32", "torch.backends.cudnn.allow_tf32")
def tf32() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    assert torch.backends.cuda.matmul.allow_tf32 is True and torch.backends.cudnn.allow_tf32 is True
    torch.set_float32_matmul_precision("high")
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    (chip(4, 4) @ chip(4, 4)).sum().item()


@idiom("torch.backends.cudnn", "torch.backends.cudnn.benchmark", "torch.backends.cudnn.deterministic")
def cudnn() -> None:
    backend = torch.backends.cudnn
    assert backend.is_available() and backend.version() > 8000 and backend.enabled
    backend.benchmark = True
    backend.deterministic = True
    assert backend.benchmark and backend.deterministic
    with backend.flags(enabled=False, benchmark=False, deterministic=True):
        assert not backend.enabled
    backend.benchmark = backend.deterministic = False
    assert backend.is_acceptable(chip(2)) and backend.enabled
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.use_deterministic_algorithms(False)
    nn.Conv2d(3, 4, 3).cuda()(chip(1, 3, 8, 8)).sum().backward()


@idiom("sdp_kernel")
def attention() -> None:
    q = chip(1, 2, 8, 16, dtype=torch.float16)
    torch.backends.cuda.enable_flash_sdp(True)
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    with torch.backends.cuda.sdp_kernel(enable_flash=True, enable_math=False, enable_mem_efficient=False):
        assert nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).shape == q.shape
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for backend in (
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.MATH,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
    ):
        with sdpa_kernel(backend):
            assert nn.functional.scaled_dot_product_attention(q, q, q).is_cuda
    parameters = torch.backends.cuda.SDPAParams(q, q, q, None, 0.0, True, False)
    assert torch.backends.cuda.can_use_flash_attention(parameters)
    for library in ("cusolver", "magma", "default"):
        assert torch.backends.cuda.preferred_linalg_library(library) is not None
    for library in ("cublaslt", "cublas", "default"):
        assert torch.backends.cuda.preferred_blas_library(library) is not None
    torch.backends.cuda.cufft_plan_cache.max_size = 10
    torch.backends.cuda.cufft_plan_cache.clear()


@idiom("torch._inductor.config")
def inductor() -> None:
    import torch._inductor.config

    torch._inductor.config.coordinate_descent_tuning = True
    torch._inductor.config.triton.unique_kernel_names = True
    torch._inductor.config.fx_graph_cache = True
    compiled = torch.compile(lambda x: (x * 2).relu(), mode="max-autotune", fullgraph=True)
    assert compiled(chip(4)).is_cuda
    torch._dynamo.reset()
    torch._dynamo.config.cache_size_limit = 64


# ---------------------------------------------------------------- streams and events


@idiom("torch.cuda.synchronize", ".synchronize(")
def synchronize() -> None:
    began = time.perf_counter()
    a = chip(4096, 4096)
    for _ in range(20):
        a = a @ a
    torch.cuda.synchronize()
    # 20 products of 4096**3 * 2 = 137.4e9 flop: 2.75e12 flop are 2.8 ms even at 989e12 flop/s
    assert time.perf_counter() - began > 2.5e-3
    for device in (0, "cuda", torch.device("cuda:0"), None):
        torch.cuda.synchronize(device)
    torch.cuda.current_stream().synchronize()


@idiom("torch.cuda.Event", ".elapsed_time(")
def events() -> None:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    a = chip(4096, 4096)
    start.record()
    a @ a
    end.record()
    torch.cuda.synchronize()
    # 2 * 4096**3 = 137.4e9 flop / 989e12 flop/s = 0.139 ms at the very least, in fp32 about 2 ms
    assert 0.138 < start.elapsed_time(end) < 50, start.elapsed_time(end)
    end.synchronize()
    assert end.query() and torch.cuda.Event().query()
    torch.cuda.current_stream().record_event(start)
    torch.Event("cuda", enable_timing=True).record()


@idiom("torch.cuda.Stream", "torch.cuda.stream", "torch.cuda.current_stream", ".wait_stream(")
def streams() -> None:
    main_stream = torch.cuda.current_stream()
    side = torch.cuda.Stream()
    assert main_stream == torch.cuda.default_stream() and side != main_stream and side.device.type == "cuda"
    side.wait_stream(main_stream)
    with torch.cuda.stream(side):
        assert torch.cuda.current_stream() == side
        x = chip(8, 8)
    assert torch.cuda.current_stream() == main_stream
    torch.cuda.current_stream().wait_stream(side)
    assert (x @ x).is_cuda and isinstance(side.cuda_stream, int) and side.query()
    side.synchronize()
    with torch.cuda.stream(None), torch.cuda.StreamContext(side):
        pass
    torch.cuda.set_stream(main_stream)
    assert torch.cuda.Stream(device="cuda", priority=-1).priority <= 0 and torch.cuda.Stream.priority_range()
    with torch.Stream(device="cuda"):
        chip(2)


@idiom(".wait_event(")
def wait_event() -> None:
    side, event = torch.cuda.Stream(), torch.cuda.Event()
    chip(64, 64)
    event.record()
    side.wait_event(event)
    event.wait(side)
    event.wait()
    recorded = side.record_event()
    torch.cuda.current_stream().wait_event(recorded)
    assert recorded.query()


@idiom(".record_stream(")
def record_stream() -> None:
    side = torch.cuda.Stream()
    x = chip(64)
    with torch.cuda.stream(side):
        y = x + 1
        x.record_stream(side)
    y.record_stream(torch.cuda.current_stream())
    torch.cuda.current_stream().wait_stream(side)
    assert y.is_cuda


@idiom("torch.cuda.CUDAGraph", "torch.cuda.graph")
def graphs() -> None:
    module, static = nn.Linear(8, 8).cuda(), chip(4, 8)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        module(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        assert torch.cuda.is_current_stream_capturing()
        out = module(static)
    assert not torch.cuda.is_current_stream_capturing()
    static.copy_(chip(4, 8))
    graph.replay()
    assert out.shape == (4, 8) and graph.pool() is not None
    second = torch.cuda.CUDAGraph()
    with torch.cuda.graph(second, pool=torch.cuda.graph_pool_handle(), stream=side):
        module(static)
    second.replay()
    graph.reset()


@idiom("torch.cuda.make_graphed_callables")
def graphed_callables() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).cuda()
    graphed = torch.cuda.make_graphed_callables(module, (chip(4, 8, requires_grad=True),))
    x = chip(4, 8, requires_grad=True)
    graphed(x).sum().backward()
    assert x.grad.shape == (4, 8) and module[0].weight.grad is not None


# ---------------------------------------------------------------- mixed precision


@idiom('autocast("cuda")', "torch.cuda.amp.autocast", "torch.get_autocast_gpu_dtype")
def autocast() -> None:
    module, x = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)).cuda(), chip(4, 8)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled() and torch.get_autocast_gpu_dtype() == torch.bfloat16
        assert torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16
        assert (
            module[0](x).dtype == torch.bfloat16 and x.exp().dtype == torch.float32 and module(x).dtype == torch.float32
        )
    with torch.cuda.amp.autocast():
        assert module[0](x).dtype == torch.float16
        with torch.cuda.amp.autocast(enabled=False):
            assert module[0](x).dtype == torch.float32
    with torch.amp.autocast("cuda"):
        assert torch.mm(x.T, x).dtype == torch.float16
    assert not torch.is_autocast_enabled() and torch.cuda.amp.autocast(dtype=torch.bfloat16) is not None

    @torch.cuda.amp.autocast()
    def decorated(y: torch.Tensor) -> torch.Tensor:
        return y @ y.T

    assert decorated(x).dtype == torch.float16


@idiom("torch.cuda.amp.GradScaler")
def scaler() -> None:
    module = nn.Linear(8, 8).cuda()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for made in (
        torch.cuda.amp.GradScaler(),
        torch.amp.GradScaler("cuda"),
        torch.GradScaler("cuda", init_scale=1024.0),
    ):
        before = made.get_scale()
        assert made.is_enabled() and before in (65536.0, 1024.0)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", dtype=torch.float16):
                loss = module(chip(4, 8)).float().pow(2).mean()
            made.scale(loss).backward()
            made.unscale_(optimizer)
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            made.step(optimizer)
            made.update()
        assert made.get_scale() == before, "nothing overflowed"
        made.load_state_dict(made.state_dict())
    assert torch.cuda.amp.GradScaler(enabled=False).scale(loss) is loss


@idiom("@custom_fwd/@custom_bwd")
def custom() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        @torch.cuda.amp.custom_fwd
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.cuda.amp.custom_bwd
        def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return 3 * x * x * grad

    class Half(torch.autograd.Function):
        @staticmethod
        @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float16)
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            assert x.dtype == torch.float16
            return x * 2

        @staticmethod
        @torch.amp.custom_bwd(device_type="cuda")
        def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
            return grad * 2

    x = chip(4, requires_grad=True)
    with torch.autocast("cuda"):
        (Cube.apply(x).sum() + Half.apply(x).sum()).backward()
    assert x.grad.is_cuda


@idiom("torch.cuda.nvtx")
def nvtx() -> None:
    torch.cuda.nvtx.range_push("step")
    with torch.cuda.nvtx.range("inner"):
        torch.cuda.nvtx.mark("here")
    assert isinstance(torch.cuda.nvtx.range_pop(), int)
    torch.cuda.nvtx.range_end(torch.cuda.nvtx.range_start("outer"))
    with torch.autograd.profiler.emit_nvtx():
        (chip(2, requires_grad=True) * 2).sum().backward()


@idiom("torch.cuda.cudart")
def cudart() -> None:
    runtime = torch.cuda.cudart()
    runtime.cudaProfilerStart()
    runtime.cudaProfilerStop()
    assert runtime.cudaMemGetInfo(0)[1] == torch.cuda.get_device_properties(0).total_memory
    torch.cuda.check_error(0)
    with torch.cuda.profiler.profile():
        chip(2)


@idiom("torch.profiler.ProfilerActivity.CUDA")
def profiler() -> None:
    from torch.profiler import ProfilerActivity, profile, record_function, schedule

    assert ProfilerActivity.CUDA in torch.profiler.supported_activities()
    seen = []
    with profile(
        activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], schedule=schedule(wait=0, warmup=1, active=1),
        on_trace_ready=lambda p: seen.append(p.step_num), record_shapes=True, profile_memory=True, with_stack=False,
    ) as p:  # fmt: skip
        for _ in range(3):
            with record_function("part"):
                chip(16, 16) @ chip(16, 16)
            p.step()
    assert seen
    with profile(activities=[ProfilerActivity.CUDA]) as p:
        chip(4).add(1)
    p.key_averages().table(sort_by="cuda_time_total", row_limit=5)
    p.key_averages().table(sort_by="self_device_time_total", row_limit=5)
    with tempfile.TemporaryDirectory() as folder:  # a file takes the place of what is named: as root, of a device, too
        p.export_chrome_trace(os.path.join(folder, "trace.json"))
    old = "use_cuda" in inspect.signature(torch.autograd.profiler.profile).parameters  # torch 2.14 dropped it
    with torch.autograd.profiler.profile(**({"use_cuda": True} if old else {"use_device": "cuda"})) as p:
        chip(4).add(1)
    assert p.key_averages() is not None


if __name__ == "__main__":
    main()
