"""Stand-in for mamba_ssm: its blocks, and the table of its names; `mamba_ops` has what they compute.

Left out: decoding from a cache (`inference_params`) and tensor parallelism (`process_group`).
"""

import math
from typing import Any

import torch
from torch import nn

from anychip.standins.libraries import causal_conv1d, flash_attn, mamba_ops

VERSION = "2.3.2.post1"

Tensor = torch.Tensor


def _log_steps(count: int, least: float, most: float, floor: float, **where: Any) -> Tensor:
    """Biases from which softplus makes steps that lie evenly, by their logarithm, from `least` to `most`."""
    steps = torch.exp(torch.rand(count, **where) * math.log(most / least) + math.log(least)).clamp(min=floor)
    return steps + torch.log(-torch.expm1(-steps))


def _no_decay(tensor: Tensor) -> nn.Parameter:
    """A parameter that optimizers are asked to leave without weight decay."""
    parameter = nn.Parameter(tensor)
    parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


class Mamba(nn.Module):
    """hidden_states [b, l, d_model] -> the same shape."""

    def __init__(
        self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2, dt_rank: int | str = "auto",
        dt_min: float = 0.001, dt_max: float = 0.1, dt_init: str = "random", dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4, conv_bias: bool = True, bias: bool = False, use_fast_path: bool = True,
        layer_idx: int | None = None, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner, self.layer_idx, self.use_fast_path = int(expand * d_model), layer_idx, use_fast_path
        self.dt_rank = math.ceil(d_model / 16) if isinstance(dt_rank, str) else dt_rank
        wide = self.d_inner
        self.in_proj = nn.Linear(d_model, wide * 2, bias, **where)
        self.conv1d = nn.Conv1d(wide, wide, d_conv, padding=d_conv - 1, groups=wide, bias=conv_bias, **where)
        self.activation, self.act = "silu", nn.SiLU()
        self.x_proj = nn.Linear(wide, self.dt_rank + d_state * 2, False, **where)
        self.dt_proj = nn.Linear(self.dt_rank, wide, True, **where)
        scale = self.dt_rank**-0.5 * dt_scale
        if dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, scale)
        else:
            nn.init.uniform_(self.dt_proj.weight, -scale, scale)
        with torch.no_grad():
            self.dt_proj.bias.copy_(_log_steps(wide, dt_min, dt_max, dt_init_floor, **where))
        rates = torch.arange(1, d_state + 1, dtype=torch.float32, device=device).expand(wide, -1).contiguous()
        self.A_log, self.D = _no_decay(rates.log()), _no_decay(torch.ones(wide, device=device))
        self.out_proj = nn.Linear(wide, d_model, bias, **where)

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        if inference_params is not None:
            raise mamba_ops.not_covered("decoding by Mamba")
        batch = hidden_states.shape[0]
        xz = (self.in_proj.weight @ hidden_states.flatten(0, 1).t()).unflatten(1, (batch, -1)).transpose(0, 1)
        if self.in_proj.bias is not None:
            xz = xz + self.in_proj.bias.to(xz.dtype)[:, None]
        A, D, bias = -torch.exp(self.A_log.float()), self.D.float(), self.dt_proj.bias.float()
        if self.use_fast_path:
            return mamba_ops.mamba_inner_fn(
                xz, self.conv1d.weight, self.conv1d.bias, self.x_proj.weight, self.dt_proj.weight, self.out_proj.weight,
                self.out_proj.bias, A, None, None, D, delta_bias=bias, delta_softplus=True,
            )  # fmt: skip
        x, z = xz.chunk(2, dim=1)
        x = causal_conv1d.causal_conv1d_fn(x, self.conv1d.weight.squeeze(1), self.conv1d.bias, activation="silu")
        _, delta, B, C = mamba_ops.projected(x, self.x_proj.weight, self.dt_proj.weight, self.d_state)
        y = mamba_ops.selective_scan_fn(x, delta, A, B, C, D, z, bias, True)
        result: Tensor = self.out_proj(y.transpose(1, 2))
        return result


class Mamba2(nn.Module):
    """u [b, l, d_model] -> the same shape; with `seqlen`, [b * l, d_model]."""

    def __init__(
        self, d_model: int, d_state: int = 128, d_conv: int = 4, conv_init: float | None = None, expand: int = 2,
        headdim: int = 64, d_ssm: int | None = None, ngroups: int = 1, A_init_range: tuple[float, float] = (1, 16),
        D_has_hdim: bool = False, rmsnorm: bool = True, norm_before_gate: bool = False, dt_min: float = 0.001,
        dt_max: float = 0.1, dt_init_floor: float = 1e-4, dt_limit: tuple[float, float] = (0.0, math.inf),
        bias: bool = False, conv_bias: bool = True, chunk_size: int = 256, use_mem_eff_path: bool = True,
        layer_idx: int | None = None, process_group: Any = None, sequence_parallel: bool = True, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if process_group is not None or d_ssm not in (None, expand * d_model):
            raise mamba_ops.not_covered("process_group and d_ssm of Mamba2")
        where = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.d_conv, self.expand, self.headdim = d_model, d_state, d_conv, expand, headdim
        self.d_inner = self.d_ssm = expand * d_model
        self.nheads, self.ngroups, self.D_has_hdim = self.d_ssm // headdim, ngroups, D_has_hdim
        self.rmsnorm, self.norm_before_gate, self.dt_limit = rmsnorm, norm_before_gate, dt_limit
        self.activation, self.chunk_size, self.use_mem_eff_path = "silu", chunk_size, use_mem_eff_path
        self.layer_idx = layer_idx
        mixed = self.d_ssm + 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, self.d_inner + mixed + self.nheads, bias, **where)
        self.conv1d = nn.Conv1d(mixed, mixed, d_conv, padding=d_conv - 1, groups=mixed, bias=conv_bias, **where)
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        self.act = nn.SiLU()
        self.dt_bias = _no_decay(_log_steps(self.nheads, dt_min, dt_max, dt_init_floor, **where))
        rates = torch.empty(self.nheads, dtype=torch.float32, device=device).uniform_(*A_init_range)
        self.A_log = _no_decay(rates.log().to(dtype))
        self.D = _no_decay(torch.ones(self.d_ssm if D_has_hdim else self.nheads, device=device))
        if rmsnorm:
            self.norm = mamba_ops.RMSNorm(self.d_ssm, 1e-5, self.d_ssm // ngroups, norm_before_gate, **where)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias, **where)

    def forward(
        self, u: Tensor, seqlen: int | None = None, seq_idx: Tensor | None = None, cu_seqlens: Any = None,
        inference_params: Any = None,
    ) -> Tensor:  # fmt: skip
        if inference_params is not None:
            raise mamba_ops.not_covered("decoding by Mamba2")
        zxbcdt = self.in_proj(u)
        zxbcdt = zxbcdt if seqlen is None else zxbcdt.unflatten(0, (-1, seqlen))
        A, taps = -torch.exp(self.A_log.float()), self.conv1d.weight.squeeze(1)
        D = self.D.view(-1, self.headdim) if self.D_has_hdim else self.D
        if self.use_mem_eff_path:
            out: Tensor = mamba_ops.mamba_split_conv1d_scan_combined(
                zxbcdt, taps, self.conv1d.bias, self.dt_bias, A, D, self.chunk_size, seq_idx=seq_idx,
                dt_limit=self.dt_limit, activation=self.activation,
                rmsnorm_weight=self.norm.weight if self.rmsnorm else None,
                rmsnorm_eps=self.norm.eps if self.rmsnorm else 1e-6, outproj_weight=self.out_proj.weight,
                outproj_bias=self.out_proj.bias, headdim=None if self.D_has_hdim else self.headdim,
                ngroups=self.ngroups, norm_before_gate=self.norm_before_gate,
            )  # fmt: skip
        else:
            out = self.out_proj(self._scanned(zxbcdt, taps, A, D, seq_idx))
        return out if seqlen is None else out.flatten(0, 1)

    def _scanned(self, zxbcdt: Tensor, taps: Tensor, A: Tensor, D: Tensor, seq_idx: Any) -> Tensor:
        bc = self.ngroups * self.d_state
        z, mixed, dt = zxbcdt.split([self.d_ssm, self.d_ssm + 2 * bc, self.nheads], dim=-1)
        mixed = causal_conv1d.causal_conv1d_fn(
            mixed.transpose(1, 2), taps, self.conv1d.bias, seq_idx, activation=self.activation
        ).transpose(1, 2)
        x, B, C = mixed.split([self.d_ssm, bc, bc], dim=-1)
        y: Tensor = mamba_ops.mamba_chunk_scan_combined(
            x.unflatten(-1, (-1, self.headdim)), dt, A, B.unflatten(-1, (self.ngroups, -1)),
            C.unflatten(-1, (self.ngroups, -1)), self.chunk_size, D,
            None if self.rmsnorm else z.unflatten(-1, (-1, self.headdim)), self.dt_bias, seq_idx=seq_idx,
            dt_softplus=True, dt_limit=self.dt_limit,
        )  # fmt: skip
        y = y.flatten(2)
        return self.norm(y, z) if self.rmsnorm else y


_SCAN: dict[str, Any] = {
    "mamba_chunk_scan_combined": mamba_ops.mamba_chunk_scan_combined,
    "mamba_split_conv1d_scan_combined": mamba_ops.mamba_split_conv1d_scan_combined,
}
_SELECTIVE: dict[str, Any] = {
    "selective_scan_fn": mamba_ops.selective_scan_fn,
    "mamba_inner_fn": mamba_ops.mamba_inner_fn,
}

MODULES: dict[str, dict[str, Any]] = {
    "mamba_ssm": {**_SELECTIVE, "Mamba": Mamba, "Mamba2": Mamba2},
    "mamba_ssm.ops.selective_scan_interface": _SELECTIVE,
    "mamba_ssm.ops.triton.ssd_combined": _SCAN,
    "mamba_ssm.ops.triton.selective_state_update": {"selective_state_update": mamba_ops.selective_state_update},
    "mamba_ssm.ops.triton.layernorm_gated": {
        "layernorm_fn": mamba_ops.layernorm_fn, "rmsnorm_fn": mamba_ops.rmsnorm_fn, "LayerNorm": mamba_ops.LayerNorm, "RMSNorm": mamba_ops.RMSNorm,
    },
    "mamba_ssm.ops.triton.layer_norm": {
        "layer_norm_fn": flash_attn.layer_norm_fn, "rms_norm_fn": flash_attn.rms_norm_fn, "RMSNorm": flash_attn.RMSNorm,
    },
    "mamba_ssm.modules.mamba_simple": {"Mamba": Mamba},
    "mamba_ssm.modules.mamba2": {"Mamba2": Mamba2},
}  # fmt: skip

UNCOVERED: dict[str, tuple[str, ...]] = {
    "mamba_ssm": ("Mamba3", "MambaLMHeadModel", "models", "distributed", "utils"),
    "mamba_ssm.modules": ("block", "mamba2_simple", "mamba3", "mha", "mlp", "ssd_minimal"),
    "mamba_ssm.ops": ("cute", "tilelang"),
    "mamba_ssm.ops.selective_scan_interface": ("SelectiveScanFn", "MambaInnerFn", "selective_scan_ref", "mamba_inner_ref",
                                               "rms_norm_forward"),
    "mamba_ssm.ops.triton": ("k_activations", "mamba3", "softplus", "ssd_bmm", "ssd_chunk_scan", "ssd_chunk_state",
                             "ssd_state_passing"),
    "mamba_ssm.ops.triton.ssd_combined": ("mamba_chunk_scan", "mamba_conv1d_scan_ref", "mamba_split_conv1d_scan_ref",
                                          "ssd_selective_scan", "ssd_chunk_scan_combined_ref", "MambaChunkScanCombinedFn",
                                          "MambaSplitConv1dScanCombinedFn", "_mamba_chunk_scan_combined_fwd",
                                          "_mamba_chunk_scan_combined_bwd"),
    "mamba_ssm.ops.triton.selective_state_update": ("selective_state_update_ref",),
    "mamba_ssm.ops.triton.layernorm_gated": ("LayerNormFn", "rms_norm_ref"),
    "mamba_ssm.ops.triton.layer_norm": ("layer_norm_linear_fn", "layer_norm_ref", "rms_norm_ref", "LayerNormFn"),
}  # fmt: skip
