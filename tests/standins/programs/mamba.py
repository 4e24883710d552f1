"""mamba_ssm and causal_conv1d, forward and backward; sizes of their own, so that a test can tell the ops apart."""

import json
import sys

import causal_conv1d
import mamba_ssm
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from mamba_ssm import Mamba, Mamba2
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from mamba_ssm.ops.triton.layernorm_gated import RMSNorm, rmsnorm_fn
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined

said: dict[str, object] = {"version": [mamba_ssm.__version__, causal_conv1d.__version__]}
Tensor = torch.Tensor


def new(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=True)


def single(*shape: int) -> Tensor:
    return new(*shape, dtype=torch.float32)


def went_back(name: str, given: list[Tensor], out: Tensor, wanted: list[int]) -> None:
    out.sum().backward()
    said[name] = [[list(one.shape) for one in given], [list(one.grad.shape) for one in given], list(out.shape), wanted]


def scans() -> None:
    x, dt, A, B, C = new(2, 512, 8, 64), new(2, 512, 8), single(8), new(2, 512, 2, 32), new(2, 512, 2, 32)
    D, bias = single(8), single(8)
    out = mamba_chunk_scan_combined(x, dt, A, B, C, 128, D=D, dt_bias=bias, dt_softplus=True)
    went_back("scan", [x, dt, A, B, C, D, bias], out, [2, 512, 8, 64])
    u, delta, A, B, C, D = new(2, 48, 40), new(2, 48, 40), single(48, 16), new(2, 16, 40), new(2, 16, 40), single(48)
    went_back("selective", [u, delta, A, B, C, D], selective_scan_fn(u, delta, A, B, C, D), [2, 48, 40])
    state = torch.zeros(2, 48, 16, device="cuda", dtype=torch.bfloat16)
    selective_state_update(state, u[..., 0], delta[..., 0], A, B[..., 0], C[..., 0], D)


def convolution() -> None:
    x, weight, bias = new(2, 96, 40), new(96, 4), new(96)
    went_back("conv", [x, weight, bias], causal_conv1d_fn(x, weight, bias, activation="silu"), [2, 96, 40])
    causal_conv1d_update(x[..., 0], torch.zeros(2, 96, 3, device="cuda", dtype=torch.bfloat16), weight, bias)


def split() -> None:
    zxbcdt, weight, bias = new(3, 96, 2 * 128 + 2 * 2 * 16 + 4), new(128 + 2 * 2 * 16, 4), new(128 + 2 * 2 * 16)
    dt_bias, A, D, norm, last = single(4), single(4), single(4), new(128), new(72, 128)
    out = mamba_split_conv1d_scan_combined(
        zxbcdt, weight, bias, dt_bias, A, D, 32, rmsnorm_weight=norm, outproj_weight=last, headdim=32, ngroups=2,
        norm_before_gate=False,
    )  # fmt: skip
    went_back("split", [zxbcdt, weight, bias, dt_bias, A, D, norm, last], out, [3, 96, 72])


def blocks() -> None:
    for name, block in {
        "Mamba": Mamba(64, device="cuda", dtype=torch.bfloat16),
        "Mamba2": Mamba2(128, d_state=16, headdim=64, device="cuda", dtype=torch.bfloat16),
        "Mamba2 long": Mamba2(
            128, d_state=16, headdim=32, rmsnorm=False, use_mem_eff_path=False, device="cuda", dtype=torch.bfloat16
        ),
    }.items():
        width = 64 if name == "Mamba" else 128
        u = new(1, 256, width)
        before = torch.cuda.memory_allocated()
        out = block(u)
        said[f"kept by {name}"] = torch.cuda.memory_allocated() - before
        went_back(name, [u, *block.parameters()], out, [1, 256, width])
        del out
    x, z = new(7, 80), new(7, 80)
    rmsnorm_fn(x, new(80), None, z)
    RMSNorm(80, group_size=20, norm_before_gate=False, device="cuda")(x, z).sum().backward()


scans()
convolution()
split()
blocks()
try:
    mamba_ssm.Mamba3  # noqa: B018
except AttributeError as error:
    said["not covered"] = str(error)
with open(sys.argv[1], "w") as file:
    json.dump(said, file)
