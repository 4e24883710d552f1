"""Stand-in for DeepSpeed's fused optimizers; its engine is not covered."""

from typing import Any

import torch

from anychip.standins.libraries import optimizers

VERSION = "0.17.5"


class FusedAdam(optimizers.FusedAdam):
    """The same kernel as apex's."""


class FusedLamb(optimizers.FusedLAMB):
    pass


class FusedLion(optimizers.FusedLion):
    pass


class DeepSpeedCPUAdam(torch.optim.AdamW):
    """Adam on the host, over parameters that live there; the chip is not involved."""

    def __init__(self, model_params: Any, lr: float = 1e-3, bias_correction: bool = True,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
                 amsgrad: bool = False, adamw_mode: bool = True, fp32_optimizer_states: bool = True) -> None:  # fmt: skip
        super().__init__(model_params, lr, betas, eps, weight_decay, amsgrad)


_ADAM: dict[str, Any] = {"FusedAdam": FusedAdam, "DeepSpeedCPUAdam": DeepSpeedCPUAdam}

MODULES: dict[str, dict[str, Any]] = {
    "deepspeed": {},
    "deepspeed.ops.adam": _ADAM,
    "deepspeed.ops.adam.fused_adam": {"FusedAdam": FusedAdam},
    "deepspeed.ops.adam.cpu_adam": {"DeepSpeedCPUAdam": DeepSpeedCPUAdam},
    "deepspeed.ops.lamb": {"FusedLamb": FusedLamb},
    "deepspeed.ops.lion": {"FusedLion": FusedLion},
}

UNCOVERED: dict[str, tuple[str, ...]] = {
    "deepspeed": ("initialize", "init_inference", "add_config_arguments", "zero", "comm", "init_distributed", "runtime",
                  "checkpointing", "pipe", "moe", "utils", "accelerator", "DeepSpeedEngine"),
    "deepspeed.ops": ("op_builder", "sparse_attention", "transformer", "adagrad", "aio"),
}  # fmt: skip
