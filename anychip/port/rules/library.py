"""Packages that want CUDA. What stands in for them on a chip is in its platform file; a person has to choose."""

from anychip.port.edits import THOUGHT
from anychip.port.rules.kernel import _packages
from anychip.port.unit import Unit

NAME = "library"
PACKAGES = {
    "flash_attn": "torch.nn.functional.scaled_dot_product_attention is its equal on every device",
    "flash_attn_interface": "torch.nn.functional.scaled_dot_product_attention is its equal on every device",
    "flashinfer": "no general equivalent",
    "apex": "torch.amp, torch.nn and torch.optim have most of it",
    "amp_C": "kernels of apex",
    "xformers": "torch.nn.functional.scaled_dot_product_attention is its attention's equal on every device",
    "bitsandbytes": "has builds for some vendors",
    "transformer_engine": "NVIDIA's layers",
    "pynvml": "NVIDIA's management library: torch.accelerator tells memory, the vendor's own library the rest",
    "deepspeed": "finds its accelerator itself, where it knows it",
    "mamba_ssm": "CUDA kernels", "causal_conv1d": "CUDA kernels", "tensorrt": "NVIDIA's inference engine",
    "torch_tensorrt": "NVIDIA's inference engine", "nvtx": "NVIDIA's profiler: torch.profiler.record_function",
    "fused_dense_lib": "CUDA kernels", "dropout_layer_norm": "CUDA kernels", "rotary_emb": "CUDA kernels",
    "deep_gemm": "CUDA kernels", "deep_ep": "CUDA kernels", "grouped_gemm": "CUDA kernels", "megablocks": "CUDA kernels",
}  # fmt: skip

VALID = ["import numpy\n", "from . import flash_attn\n"]
INVALID: list[tuple[str, str, str]] = []


def run(unit: Unit) -> None:
    for statement in unit.module.found.imports:
        for package in sorted(_packages(statement) & set(PACKAGES)):
            there = unit.target.libraries.get(package)
            where = f"; on {unit.target.platform}: {there}" if there else ""
            unit.leave(statement, NAME, PACKAGES[package] + where, THOUGHT, f"import {package}")
