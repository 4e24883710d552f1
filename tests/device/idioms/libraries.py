"""Idioms: distributed programs of one process, libraries of fused kernels, and kernels of the program's own."""

# ruff: noqa: PT018

import os
import sys
import tempfile

import torch
from idiom import chip, idiom, main, raises
from torch import nn

# ---------------------------------------------------------------- one rank of a job of one


def started() -> None:
    if not torch.distributed.is_initialized():
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="29411")
        torch.distributed.init_process_group("nccl")


@idiom("init_process_group(nccl)", '"nccl" literal')
def nccl() -> None:
    import torch.distributed as dist

    assert dist.is_available() and dist.is_nccl_available()
    started()
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    assert (
        dist.is_initialized() and dist.get_backend() == "nccl" and dist.get_world_size() == 1 and dist.get_rank() == 0
    )
    x = torch.tensor([1.0, 2.0], device="cuda")
    dist.all_reduce(x)
    dist.all_reduce(x, op=dist.ReduceOp.AVG, async_op=True).wait()
    dist.broadcast(x, src=0)
    dist.barrier()
    dist.barrier(device_ids=[0])
    gathered = [torch.zeros_like(x)]
    dist.all_gather(gathered, x)
    whole = torch.zeros(2, device="cuda")
    dist.all_gather_into_tensor(whole, x)
    assert x.tolist() == gathered[0].tolist() == whole.tolist() == [1.0, 2.0]
    dist.reduce_scatter_tensor(whole, x)
    dist.reduce(x, dst=0)
    objects = [{"name": "a" * 500}]
    dist.broadcast_object_list(objects, src=0)
    found = [None]
    dist.all_gather_object(found, objects[0])
    assert found == objects
    scattered = [None]
    dist.scatter_object_list(scatter_object_output_list=scattered, scatter_object_input_list=objects, src=0)
    assert scattered == objects
    dist.all_to_all_single(whole, x)
    assert dist.get_rank(dist.new_group([0])) == 0


@idiom('backend="nccl"', "nccl in shell/yaml")
def nccl_by_name() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="29412", NCCL_DEBUG="WARN")
    dist.init_process_group(backend="nccl", device_id=torch.device("cuda:0"))
    assert dist.get_backend() == "nccl"
    dist.destroy_process_group()
    dist.init_process_group(backend="cpu:gloo,cuda:nccl")
    x = torch.ones(2)
    dist.all_reduce(x)
    assert x.tolist() == [1.0, 1.0]
    dist.destroy_process_group()


@idiom("DistributedDataParallel")
def ddp() -> None:
    started()
    module = nn.parallel.DistributedDataParallel(nn.Linear(4, 4).cuda(), device_ids=[0], output_device=0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(chip(2, 4)).sum().backward()
        optimizer.step()
    with module.no_sync():
        module(chip(2, 4)).sum().backward()
    assert module.module.weight.grad.is_cuda
    nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(4)).cuda()(chip(4, 4)).sum().backward()
    torch.distributed.destroy_process_group()


# ---------------------------------------------------------------- libraries


@idiom("import flash_attn")
def flash_attention() -> None:
    from flash_attn import flash_attn_func

    q = chip(2, 16, 4, 32, dtype=torch.float16, requires_grad=True)
    out = flash_attn_func(q, q, q, causal=True)
    out.sum().backward()
    assert out.shape == (2, 16, 4, 32) and q.grad.is_cuda


@idiom("import apex")
def apex() -> None:
    from apex.normalization import FusedLayerNorm

    assert FusedLayerNorm(8).cuda()(chip(2, 8)).is_cuda


@idiom("import xformers")
def xformers() -> None:
    import xformers.ops

    q = chip(2, 16, 4, 32, dtype=torch.float16)
    assert xformers.ops.memory_efficient_attention(q, q, q).shape == q.shape


@idiom("import deepspeed")
def deepspeed() -> None:
    import deepspeed
    from deepspeed.ops.adam import FusedAdam

    module = nn.Linear(4, 4).cuda()
    module(chip(2, 4)).sum().backward()
    FusedAdam(module.parameters()).step()
    assert deepspeed.__version__


@idiom("import deep_ep")
def deep_ep() -> None:
    raises(ModuleNotFoundError, lambda: __import__("deep_ep"), "deep_ep")


@idiom("import triton", "@triton.jit kernel")
def triton_kernel() -> None:
    import triton
    import triton.language as tl

    @triton.jit
    def add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
        offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        mask = offsets < n
        tl.store(
            out_ptr + offsets, tl.load(x_ptr + offsets, mask=mask) + tl.load(y_ptr + offsets, mask=mask), mask=mask
        )

    x, y = chip(1000), chip(1000)
    out = torch.empty_like(x)
    add[lambda meta: (triton.cdiv(1000, meta["BLOCK"]),)](x, y, out, 1000, BLOCK=256)
    add[(4,)](x, y, out, 1000, BLOCK=256, num_warps=4)
    assert triton.next_power_of_2(1000) == 1024 and out.is_cuda


@idiom("@triton.autotune", "@triton.heuristics")
def triton_tuned() -> None:
    import triton
    import triton.language as tl

    @triton.autotune(configs=[triton.Config({"BLOCK": 128}, num_warps=4), triton.Config({"BLOCK": 256})], key=["n"])
    @triton.heuristics({"EVEN": lambda args: args["n"] % 128 == 0})
    @triton.jit
    def double(x_ptr, n, EVEN: tl.constexpr, BLOCK: tl.constexpr):
        offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(x_ptr + offsets, 2 * tl.load(x_ptr + offsets, mask=offsets < n), mask=offsets < n)

    x = chip(1024)
    double[lambda meta: (triton.cdiv(1024, meta["BLOCK"]),)](x, 1024)
    assert x.is_cuda


# ---------------------------------------------------------------- kernels of the program's own


@idiom("torch.utils.cpp_extension", "torch.utils.cpp_extension.CUDA_HOME")
def cpp_extension() -> None:
    from torch.utils import cpp_extension

    assert cpp_extension.CUDA_HOME is None or isinstance(cpp_extension.CUDA_HOME, str)
    assert callable(cpp_extension.load) and callable(cpp_extension.load_inline)


SETUP = """
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
setup(
    name="lltm",
    ext_modules=[CUDAExtension("lltm_cuda", ["lltm.cpp", "lltm_kernel.cu"]), CppExtension("lltm_cpp", ["lltm.cpp"])],
    cmdclass={"build_ext": BuildExtension},
)
"""


@idiom(
    "torch.utils.cpp_extension.CUDAExtension",
    "torch.utils.cpp_extension.BuildExtension",
    "torch.utils.cpp_extension.CppExtension",
)
def declared_extension() -> None:
    """A program imports what its setup.py would have built; calling it is noted."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("setup.py", SETUP), ("lltm.cpp", binding("scale_")), ("lltm_kernel.cu", "")):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        sys.path.insert(0, folder)
        try:
            import lltm_cuda

            lltm_cuda.scale_(chip(4))
        finally:
            sys.path.remove(folder)


def binding(name: str) -> str:
    return f'#include <torch/extension.h>\nvoid {name}(torch::Tensor x);\nPYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {{\n  m.def("{name}", &{name});\n}}\n'


# Each is a piece of a CUDA source file; what it does is not read, only that such a file cannot be compiled here.
SOURCES = {
    "__global__ kernels": "__global__ void k(float* x) { x[threadIdx.x] = 0; }",
    "__shared__": "__global__ void k(float* x) { __shared__ float s[32]; s[threadIdx.x] = x[0]; }",
    "ATen/TORCH_CHECK": 'void f(at::Tensor x) { TORCH_CHECK(x.is_cuda(), "x must be a CUDA tensor"); }',
    "kernel launches <<<": "__global__ void k(); void f() { k<<<1, 32>>>(); }",
    "atomics": "__global__ void k(float* x) { atomicAdd(x, 1.f); }",
    "at::cuda / c10::cuda": "auto f() { return at::cuda::getCurrentCUDAStream(); }",
    "warp shuffles/votes": "__device__ float f(float v) { return __shfl_down_sync(0xffffffff, v, 1); }",
    "PYBIND11_MODULE/TORCH_LIBRARY": 'TORCH_LIBRARY(own, m) { m.def("f(Tensor x) -> ()"); }',
    "cub::": "using Reduce = cub::BlockReduce<float, 128>;",
    "cooperative groups": "namespace cg = cooperative_groups;",
    "dynamic parallelism/cudaLaunchKernel": "void f(void* k) { cudaLaunchKernel(k, 1, 1, nullptr, 0, 0); }",
    "inline PTX asm": '__device__ void f() { asm volatile("bar.sync 0;"); }',
    "cudaGetErrorString": "auto f() { return cudaGetErrorString(cudaGetLastError()); }",
    "cudaFuncSetAttribute": "void f(void* k) { cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, 65536); }",
    "cudaGetLastError": "auto f() { return cudaGetLastError(); }",
    "cudaGetDeviceProperties": "void f() { cudaDeviceProp p; cudaGetDeviceProperties(&p, 0); }",
    "cudaDeviceGetAttribute": "void f(int* v) { cudaDeviceGetAttribute(v, cudaDevAttrMultiProcessorCount, 0); }",
    "cudaFree": "void f(void* p) { cudaFree(p); }",
    "cudaMalloc": "void f(void** p) { cudaMalloc(p, 64); }",
    "cudaMemset": "void f(void* p) { cudaMemset(p, 0, 64); }",
    "cudaGetDevice": "void f(int* d) { cudaGetDevice(d); }",
    "cudaMemcpy": "void f(void* a, void* b) { cudaMemcpy(a, b, 64, cudaMemcpyDeviceToDevice); }",
    "cudaDeviceSynchronize": "void f() { cudaDeviceSynchronize(); }",
    "cudaMemcpyAsync": "void f(void* a, void* b) { cudaMemcpyAsync(a, b, 64, cudaMemcpyDeviceToDevice, 0); }",
    "cudaEventRecord": "void f(cudaEvent_t e) { cudaEventRecord(e); }",
    "cudaStreamSynchronize": "void f() { cudaStreamSynchronize(0); }",
    "cudaEventCreate": "void f(cudaEvent_t* e) { cudaEventCreate(e); }",
    "cudaMemsetAsync": "void f(void* p) { cudaMemsetAsync(p, 0, 64, 0); }",
    "cudaEventDestroy": "void f(cudaEvent_t e) { cudaEventDestroy(e); }",
    "cudaGetDeviceCount": "void f(int* n) { cudaGetDeviceCount(n); }",
    "cudaSetDevice": "void f() { cudaSetDevice(0); }",
    "cudaStreamWaitEvent": "void f(cudaStream_t s, cudaEvent_t e) { cudaStreamWaitEvent(s, e, 0); }",
    "cudaFreeHost": "void f(void* p) { cudaFreeHost(p); }",
    "cudaMallocHost": "void f(void** p) { cudaMallocHost(p, 64); }",
}


def source(name: str, text: str) -> None:
    """A program compiles the source when it starts and calls it: the call is noted with its tensors' bytes."""
    from torch.utils.cpp_extension import load_inline

    module = load_inline(
        "own_" + str(abs(hash(name))),
        cpp_sources="void touch_(torch::Tensor x);",
        cuda_sources=text,
        functions=["touch_"],
    )
    x = chip(256)
    assert module.touch_(x) is None and x.is_cuda
    raises(AttributeError, lambda: module.no_such_function)


for each_name, each_text in SOURCES.items():
    idiom(each_name)(lambda each_name=each_name, each_text=each_text: source(each_name, each_text))


if __name__ == "__main__":
    main()
