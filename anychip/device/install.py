"""Puts a virtual chip into this process, before the program imports torch.

Order matters: torch's C functions for CUDA have to be in place when `torch.cuda` is imported, which happens
inside `import torch`; so an import hook stands in front of it.
"""

import importlib.abc
import sys
from collections.abc import Sequence
from typing import Any

from anychip.spec import Chip

OPTIMIZER = "torch.optim.optimizer"
CUDA_VERSION = "12.8"  # what programs that look at torch.version.cuda are told where torch was built without CUDA


def install(chip: Chip, **options: Any) -> Any:
    """Install the chip and return its `Runtime`. Raises UnsupportedTorch with one sentence where that fails."""
    assert "torch" not in sys.modules, "the virtual chip comes before torch"
    finder = _BeforeTorchCuda(chip, options)
    sys.meta_path.insert(0, finder)
    try:
        import torch  # noqa: F401  (runs the finder)
    finally:
        sys.meta_path.remove(finder)
    _complete(finder.runtime)
    return finder.runtime


class _BeforeTorchCuda(importlib.abc.MetaPathFinder):
    """Runs when torch is about to import `torch.cuda`, and the first of its optimizers; finds nothing."""

    def __init__(self, chip: Chip, options: dict[str, Any]) -> None:
        self.chip, self.options = chip, options
        self.runtime: Any = None
        self.steps_spared = False

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        if fullname == "torch.cuda" and self.runtime is None:
            self._prepare()
        if fullname.startswith("torch.optim.") and OPTIMIZER in sys.modules and not self.steps_spared:
            from anychip.device.insides import _torch_dynamo

            self.steps_spared = True
            _torch_dynamo.spare_steps()

    def _prepare(self) -> None:
        import torch

        from anychip.device.cuda.cuda_api import CudaApi
        from anychip.device.insides import _torch_dynamo
        from anychip.device.runtime import Runtime

        _torch_dynamo.spare_functions()
        # A CUDA build keeps its own: libraries that were built beside it compare.
        torch.version.cuda = torch.version.cuda or CUDA_VERSION
        self.runtime = Runtime(self.chip, **self.options)
        api = CudaApi(self.runtime)
        for name, value in api.attributes().items():
            setattr(torch._C, name, value)


def _complete(runtime: Any) -> None:
    """Everything that needs the whole of torch."""
    import torch

    from anychip import standins
    from anychip.device.cuda import comm, cuda_api, cudart, legacy, nvml, profiler, rng
    from anychip.device.distributed import groups
    from anychip.device.insides import _torch, _torch_tensors
    from anychip.device.ops import (
        attention,
        compiling,
        finite,
        flex,
        printing,
        rnn,
        shapes,
        sparse,
        sparse_csr,
        storage,
        unwritten,
    )
    from anychip.device.ops.dependent import Dependent
    from anychip.device.ops.special import Special

    rng.install()
    cuda_api.patch_torch_cuda(runtime)
    _torch.install_guard(runtime.native, runtime.device_type, runtime.count, runtime.callbacks())
    _torch.install_hooks(runtime.native, runtime.count)
    runtime.kernels.install(
        {
            **Special(runtime.kernels).overrides(),
            **shapes.overrides(runtime.kernels),
            **Dependent(runtime.kernels, runtime.driver.values.parts).overrides(),
        }
    )
    _torch_tensors.probe(runtime.tensors, runtime.count)
    attention.install()
    for part in (
        comm,
        compiling,
        cudart,
        finite,
        flex,
        groups,
        legacy,
        nvml,
        printing,
        profiler,
        rnn,
        sparse,
        sparse_csr,
        standins,
        storage,
        unwritten,
    ):
        part.install(runtime)
    torch.autograd.set_multithreading_enabled(False)
    runtime.tensors.drain()
    runtime.recorder.tape.clear()
    cuda_api.await_first_use(runtime)
