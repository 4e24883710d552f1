"""Idioms: where tensors and modules live, and how a program says so."""

# ruff: noqa: PT018

import copy
import io
import os
import pickle
import subprocess
import tempfile

import torch
from idiom import idiom, main, raises
from torch import nn


def on_chip(tensor: torch.Tensor, index: int = 0) -> bool:
    return tensor.is_cuda and tensor.device == torch.device("cuda", index) and tensor.get_device() == index


@idiom('"cuda" literal', 'device="cuda"', "torch.cuda")
def literal() -> None:
    assert on_chip(torch.zeros(3, device="cuda"))
    assert on_chip(torch.tensor(3, device="cuda")) and on_chip(torch.tensor([1.0, 2.0], device="cuda"))
    assert on_chip(torch.arange(4, device="cuda")) and on_chip(torch.eye(4, device="cuda"))
    assert on_chip(torch.randint(0, 9, (2,), device="cuda")) and on_chip(torch.linspace(0, 1, 5, device="cuda"))
    assert on_chip(torch.as_tensor([1, 2], device="cuda")) and on_chip(torch.randperm(7, device="cuda"))
    assert on_chip(torch.full((2, 2), 7.0, device="cuda")) and on_chip(torch.empty(2, device="cuda"))
    assert on_chip(nn.Linear(3, 4, device="cuda").weight)
    assert torch.cuda.__name__ == "torch.cuda"


@idiom('"cuda:N" literal', 'f"cuda:{i}"')
def numbered() -> None:
    for i in range(torch.cuda.device_count()):
        assert on_chip(torch.ones(2, device=f"cuda:{i}"), i)
    assert torch.zeros(1, device="cuda:0").device.index == 0


@idiom('torch.device("cuda")')
def device_object() -> None:
    device = torch.device("cuda")
    assert device.type == "cuda" and device.index is None and str(torch.device("cuda", 0)) == "cuda:0"
    assert on_chip(torch.zeros(2).to(device)) and on_chip(torch.zeros(2, device=torch.device("cuda:0")))


@idiom("with torch.device")
def device_context() -> None:
    with torch.device("cuda"):
        assert on_chip(torch.zeros(2)) and on_chip(torch.tensor([1, 2])) and on_chip(nn.Linear(2, 2).weight)
        assert torch.zeros(2, device="cpu").device.type == "cpu"
    assert torch.zeros(2).device.type == "cpu"


@idiom("torch.set_default_device")
def default_device() -> None:
    torch.set_default_device("cuda")
    try:
        assert on_chip(torch.ones(2)) and torch.get_default_device().type == "cuda"
    finally:
        torch.set_default_device("cpu")
        torch.set_default_device(None)
    assert torch.ones(2).device.type == "cpu"


@idiom("int devices")
def integers() -> None:
    assert on_chip(torch.zeros(2, device=0)) and on_chip(torch.zeros(2).to(0)) and on_chip(nn.Linear(2, 2).to(0).weight)


@idiom('x == "cuda"', 'device_type="cuda"')
def comparison() -> None:
    x = torch.zeros(2, device="cuda")
    assert x.device.type == "cuda" and x.device == torch.device("cuda:0") and "cuda" in str(x.device)
    with torch.autocast(device_type="cuda", dtype=torch.float16):
        assert (torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).dtype == torch.float16


@idiom('"CUDA" literal')
def upper_case() -> None:
    assert torch._C.DispatchKey.CUDA.name == "CUDA"
    assert torch._C._dispatch_keys(torch.zeros(1, device="cuda")).has(torch._C.DispatchKey.CUDA)
    library = torch.library.Library("anychip_idiom", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x + x, "CUDA")
    assert on_chip(torch.ops.anychip_idiom.twice(torch.ones(2, device="cuda")))


@idiom('"cuda" if is_available() else "cpu"', "torch.cuda.is_available")
def available() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert device == "cuda" and on_chip(nn.Linear(2, 2).to(device)(torch.ones(1, 2).to(device)))
    raises(TypeError, lambda: torch.zeros(2, device="cuda").numpy(), "can't convert cuda:0 device type tensor to numpy")


@idiom(".cuda(")
def cuda_method() -> None:
    x = torch.zeros(2).cuda()
    assert on_chip(x) and x.cuda() is x
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).cuda()
    assert all(on_chip(one) for one in module.state_dict().values())
    assert on_chip(module(torch.ones(4, 2).cuda(non_blocking=True)))


@idiom(".cuda(index)")
def cuda_index() -> None:
    assert on_chip(torch.zeros(2).cuda(0)) and on_chip(nn.Linear(2, 2).cuda(0).weight)
    assert on_chip(torch.zeros(2).cuda(device=torch.device("cuda:0")))


@idiom('.to("cuda")')
def to_method() -> None:
    assert on_chip(torch.zeros(2).to("cuda")) and on_chip(torch.zeros(2).to("cuda", torch.float16))
    module = nn.Linear(2, 2)
    weight = module.weight
    assert module.to("cuda").weight is weight and on_chip(weight), "parameters stay the same objects"
    assert torch.zeros(2, device="cuda").to("cpu").device.type == "cpu"
    assert on_chip(torch.zeros(2).to(torch.zeros(1, device="cuda")))


@idiom(".half / .bfloat16")
def half() -> None:
    module = nn.Linear(2, 2).cuda().half()
    assert module.weight.dtype == torch.float16 and on_chip(module.weight)
    assert module.bfloat16().weight.dtype == torch.bfloat16 and module.float().weight.dtype == torch.float32
    assert torch.zeros(2, device="cuda").half().dtype == torch.float16


@idiom(".is_cuda")
def is_cuda() -> None:
    assert torch.zeros(1, device="cuda").is_cuda and not torch.zeros(1).is_cuda
    assert next(nn.Linear(2, 2).cuda().parameters()).is_cuda and nn.Parameter(torch.zeros(1, device="cuda")).is_cuda
    assert torch.zeros(1, device="cuda").untyped_storage().is_cuda


@idiom("torch.cuda.FloatTensor")
def legacy_types() -> None:
    x = torch.cuda.FloatTensor(2, 3)
    assert on_chip(x) and x.shape == (2, 3) and x.dtype == torch.float32
    assert torch.cuda.FloatTensor([1.0, 2.0]).tolist() == [1.0, 2.0] and torch.cuda.LongTensor([3]).item() == 3
    assert torch.cuda.HalfTensor(2).dtype == torch.float16 and torch.cuda.ByteTensor(2).dtype == torch.uint8
    assert torch.cuda.BoolTensor([True]).dtype == torch.bool and torch.cuda.FloatTensor().numel() == 0
    assert x.type() == "torch.cuda.FloatTensor" and torch.zeros(1).type() == "torch.FloatTensor"
    assert isinstance(x, torch.cuda.FloatTensor) and not isinstance(torch.zeros(1), torch.cuda.FloatTensor)
    assert not isinstance(x, torch.cuda.LongTensor) and isinstance(torch.zeros(1), torch.FloatTensor)
    assert torch.cuda.FloatTensor(x.shape).shape == (2, 3)


@idiom("x.type(torch.cuda.FloatTensor)")
def legacy_casts() -> None:
    x = torch.zeros(2, 3)
    for kind in (torch.cuda.HalfTensor, "torch.cuda.HalfTensor"):
        assert on_chip(x.type(kind)) and x.type(kind).dtype == torch.float16
    assert (
        x.cuda().type(torch.FloatTensor).device.type == "cpu"
        and x.cuda().type("torch.FloatTensor").device.type == "cpu"
    )
    assert x.cuda().type(torch.long).dtype == torch.long and on_chip(x.cuda().type(torch.long))
    assert nn.Linear(2, 2).cuda().type(torch.float16).weight.dtype == torch.float16
    dtype = torch.cuda.FloatTensor if torch.cuda.is_available() else torch.FloatTensor
    assert on_chip(nn.Linear(2, 2).type(dtype).weight)
    y = x.cuda()
    assert on_chip(y.new(3)) and on_chip(y.new_zeros(3)) and y.new([1.0, 2.0]).tolist() == [1.0, 2.0]
    assert y.type(y.type()).is_cuda


@idiom("torch.set_default_tensor_type")
def default_tensor_type() -> None:
    try:
        for kind in ("torch.cuda.HalfTensor", torch.cuda.HalfTensor):
            torch.set_default_tensor_type(kind)
            assert (
                on_chip(torch.zeros(2)) and torch.zeros(2).dtype == torch.float16 and on_chip(torch.Tensor([1.0, 2.0]))
            )
            torch.set_default_tensor_type("torch.FloatTensor")
            assert torch.zeros(2).device.type == "cpu" and torch.zeros(2).dtype == torch.float32
        torch.set_default_tensor_type(torch.cuda.FloatTensor)
        assert on_chip(torch.rand(2)) and on_chip(nn.Linear(2, 2).weight)
    finally:
        torch.set_default_tensor_type(torch.FloatTensor)
    assert torch.zeros(2).device.type == "cpu"


@idiom("map_location=cuda")
def map_location() -> None:
    buffer = io.BytesIO()
    module = nn.Linear(2, 3).cuda()
    torch.save({"model": module.state_dict(), "cpu": torch.ones(2)}, buffer)

    def load(where: object) -> dict[str, torch.Tensor]:
        buffer.seek(0)
        return torch.load(buffer, map_location=where)["model"]

    for where in ("cuda", "cuda:0", torch.device("cuda"), torch.device("cuda", 0), None, {"cuda:0": "cuda:0"},
                  lambda storage, location: storage.cuda(0), lambda storage, location: storage.cuda(), {"cpu": "cuda:0"}):  # fmt: skip
        state = load(where)
        assert on_chip(state["weight"]) and state["weight"].shape == (3, 2), where
    for where in ("cpu", torch.device("cpu"), lambda storage, location: storage, {"cuda:0": "cpu"}):
        assert load(where)["weight"].device.type == "cpu", where
    nn.Linear(2, 3).cuda().load_state_dict(load("cpu"))
    module.load_state_dict(load(None))


@idiom("checkpoint files")
def checkpoints() -> None:
    from safetensors.torch import load_file, save_file, save_model

    module = nn.Linear(4, 4).cuda()
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 4, device="cuda")).sum().backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.pt")
        torch.save({"m": module.state_dict(), "o": optimizer.state_dict()}, path)
        for options in ({}, {"weights_only": False}, {"mmap": True, "map_location": "cuda"}):
            loaded = torch.load(path, **options)
            optimizer.load_state_dict(loaded["o"])
            assert on_chip(loaded["m"]["weight"]) and on_chip(loaded["o"]["state"][0]["exp_avg"])
        torch.save(module, path)
        assert on_chip(torch.load(path, weights_only=False).weight)
        torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
        assert on_chip(torch.load(path)["bias"])
        path = os.path.join(folder, "a.safetensors")
        save_file(module.state_dict(), path)
        assert on_chip(load_file(path, device="cuda")["weight"]) and on_chip(load_file(path, device="cuda:0")["bias"])
        assert load_file(path)["weight"].device.type == "cpu"
        save_model(module, path)


@idiom("copies of chip tensors")
def copies() -> None:
    x = torch.arange(6, device="cuda").reshape(2, 3)
    assert on_chip(copy.deepcopy(x)) and copy.deepcopy(x).data_ptr() != x.data_ptr()
    assert copy.deepcopy(x).tolist() == [[0, 1, 2], [3, 4, 5]]
    module = copy.deepcopy(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).cuda())
    assert on_chip(module[0].weight) and on_chip(module[1].running_mean)
    again = pickle.loads(pickle.dumps(x))
    assert on_chip(again) and again.shape == (2, 3) and again.tolist() == x.tolist()
    assert copy.copy(x).data_ptr() == x.data_ptr() and x.clone().data_ptr() != x.data_ptr()


@idiom("storages")
def storages() -> None:
    x = torch.arange(4.0, device="cuda")
    storage = x.untyped_storage()
    assert storage.device == x.device and storage.nbytes() == 16 and len(storage) == 16
    assert storage.cpu().device.type == "cpu" and storage.cuda().is_cuda and storage.cpu().nbytes() == 16
    assert storage.clone().is_cuda and storage.clone().data_ptr() != storage.data_ptr()
    assert torch.ones(4).untyped_storage().cuda().is_cuda and torch.ones(4).untyped_storage().to(device="cuda").is_cuda
    assert torch.ones(4).untyped_storage().cpu().device.type == "cpu"
    assert (
        torch.empty(0)
        .set_(storage.cpu().untyped() if hasattr(storage, "untyped") and 0 else storage.cpu(), 0, (4,))
        .sum()
        >= 0
    )
    y = torch.zeros(8, device="cuda")
    before = torch.cuda.memory_allocated()
    y.untyped_storage().resize_(0)
    assert y.untyped_storage().size() == 0 and torch.cuda.memory_allocated() <= before - 512
    y.untyped_storage().resize_(32)
    assert y.untyped_storage().size() == 32 and torch.cuda.memory_allocated() >= before - 512
    y.add_(1)
    assert x.storage().device.type == "cuda" and x.storage().size() == 4 and x.storage().data_ptr() == x.data_ptr()
    typed = torch.cuda.FloatStorage(5)
    assert typed.is_cuda and len(typed) == 5 and isinstance(typed, torch.cuda.FloatStorage)


@idiom("pin_memory")
def pinned() -> None:
    x = torch.ones(3).pin_memory()
    assert x.is_pinned() and x.device.type == "cpu" and not torch.ones(3).is_pinned() and x.tolist() == [1.0] * 3
    assert torch.zeros(3, pin_memory=True).is_pinned() and torch.empty(3, pin_memory=True).device.type == "cpu"
    assert on_chip(x.cuda(non_blocking=True)) and on_chip(x.to("cuda", non_blocking=True))
    assert not torch.ones(3, device="cuda").is_pinned()
    assert torch.ones(3, device="cuda").to("cpu", non_blocking=True).shape == (3,)
    y = torch.empty(3, device="cuda")
    y.copy_(x, non_blocking=True)
    assert y.tolist() == [1.0] * 3


@idiom("numpy")
def numpy_bridge() -> None:
    import numpy as np

    x = torch.ones(3, device="cuda")
    raises(TypeError, x.numpy, "can't convert cuda:0 device type tensor to numpy")
    raises(TypeError, lambda: np.asarray(x), "can't convert cuda:0 device type tensor to numpy")
    assert x.cpu().numpy().tolist() == [1.0, 1.0, 1.0] and x.detach().cpu().numpy().dtype == np.float32
    assert on_chip(torch.from_numpy(np.ones(3, dtype=np.float32)).cuda()) and x.numpy(force=True).shape == (3,)
    assert on_chip(torch.tensor(np.arange(3), device="cuda"))


@idiom("printing")
def printing() -> None:
    assert repr(torch.tensor([1.0, 2.0], device="cuda")) == "tensor([1., 2.], device='cuda:0')"
    assert "device='cuda:0'" in repr(torch.randn(300, 40, device="cuda")) and "grad_fn" in repr(
        torch.randn(3, device="cuda", requires_grad=True) * 2
    )
    assert "Parameter" in str(nn.Linear(2, 2).cuda().weight) and f"{torch.tensor(2.5, device='cuda'):.2f}" == "2.50"
    assert repr(torch.zeros(2, dtype=torch.bool, device="cuda")).startswith("tensor([False, False]")
    str(torch.randn(4, device="cuda").half()), str(torch.randint(9, (3,), device="cuda"))


@idiom("data_ptr / element_size")
def pointers() -> None:
    x, y = torch.zeros(4, device="cuda"), torch.zeros(4, device="cuda")
    assert (
        x.data_ptr()
        and x.data_ptr() != y.data_ptr()
        and x.data_ptr() % 256 == 0
        and x[1:].data_ptr() == x.data_ptr() + 4
    )
    assert x.element_size() == 4 and x.half().element_size() == 2 and x.nbytes == 16


@idiom("nvidia-smi in shell/yaml", "nvidia-smi in string")
def nvidia_smi() -> None:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    name, memory = subprocess.check_output(query, text=True).strip().split(", ")
    assert (
        name == torch.cuda.get_device_name() and int(memory) == torch.cuda.get_device_properties(0).total_memory >> 20
    )
    text = subprocess.run(
        "nvidia-smi --query-gpu=memory.used --format=csv", shell=True, capture_output=True, text=True
    ).stdout
    assert text.startswith("memory.used") and "MiB" in text
    assert name in os.popen("nvidia-smi -L").read() and os.system("nvidia-smi > /dev/null") == 0
    assert subprocess.call(["nvidia-smi"], stdout=subprocess.DEVNULL) == 0
    import shutil

    assert shutil.which("nvidia-smi") is not None
    assert (
        subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True).stdout.count(
            b"\n"
        )
        == 1
    )


@idiom("num_gpus=")
def num_gpus() -> None:
    num_gpus = torch.cuda.device_count()
    devices = list(range(num_gpus))
    assert num_gpus >= 1 and all(on_chip(torch.zeros(1, device=i), i) for i in devices)


@idiom("CUDA_VISIBLE_DEVICES in shell/yaml", "env CUDA_VISIBLE_DEVICES")
def visible_devices() -> None:
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
        assert torch.cuda.device_count() == 1 and torch.cuda.is_available()
        code = "import torch; print(torch.cuda.is_available())"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        assert torch.cuda.is_available(), "as with CUDA: what the process has initialised stays"
        assert code
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


@idiom("import pynvml")
def pynvml() -> None:
    import pynvml

    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == torch.cuda.device_count()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    name = pynvml.nvmlDeviceGetName(handle)
    assert (name.decode() if isinstance(name, bytes) else name) == torch.cuda.get_device_name()
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    assert (
        memory.total == torch.cuda.get_device_properties(0).total_memory and memory.used + memory.free == memory.total
    )
    assert 0 <= pynvml.nvmlDeviceGetUtilizationRates(handle).gpu <= 100 and pynvml.nvmlDeviceGetPowerUsage(handle) > 0
    assert (
        pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) > 0 and pynvml.nvmlSystemGetDriverVersion()
    )
    assert pynvml.nvmlDeviceGetCudaComputeCapability(handle) == torch.cuda.get_device_capability()
    raises(pynvml.NVMLError, lambda: pynvml.nvmlDeviceGetHandleByIndex(99))
    raises(AttributeError, lambda: pynvml.nvmlNoSuchFunction)
    os.sched_setaffinity(0, {511})  # as of a chip's host, which has more CPUs than this one
    pynvml.nvmlShutdown()


@idiom('ctypes.CDLL("libcudart.so")')
def cudart() -> None:
    import ctypes

    for library in (ctypes.CDLL("libcudart.so"), ctypes.cdll.LoadLibrary("libcudart.so.12")):
        limit = ctypes.cast(
            (ctypes.c_int * 1)(), ctypes.POINTER(ctypes.c_int)
        )  # as NVIDIA's examples fetch more into L2
        assert library.cudaDeviceGetLimit(limit, ctypes.c_int(5)) == 0 and limit.contents.value == 64
        assert library.cudaDeviceSetLimit(ctypes.c_int(5), ctypes.c_int(128)) == 0
        assert library.cudaDeviceGetLimit(limit, ctypes.c_int(5)) == 0 and limit.contents.value == 128
        array = (ctypes.c_int * 1)()
        assert library["cudaDeviceGetLimit"](array, ctypes.c_int(5)) == 0 and array[0] == 128
        count, free, total = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_size_t()
        library.cudaGetDeviceCount.restype = ctypes.c_int
        assert library.cudaGetDeviceCount(ctypes.byref(count)) == 0 and count.value == torch.cuda.device_count()
        library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        assert (free.value, total.value) == torch.cuda.mem_get_info()
        raises(AttributeError, lambda library=library: library.cudaGraphicsMapResources)
    assert isinstance(ctypes.CDLL(None), ctypes.CDLL)


if __name__ == "__main__":
    main()
