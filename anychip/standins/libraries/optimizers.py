"""Fused optimizers of apex, DeepSpeed and others, by torch's own fused ones; LAMB, NovoGrad, Lion and Adam-atan2 as one op over all tensors."""

from collections.abc import Callable
from typing import Any

import torch

from anychip.standins import recording


class FusedAdam(torch.optim.Adam):
    """One kernel over all parameters of a dtype; AdamW unless `adam_w_mode` is off."""

    def __init__(self, params: Any, lr: float = 1e-3, bias_correction: bool = True, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, adam_w_mode: bool = True, weight_decay: float = 0.0, amsgrad: bool = False,
                 set_grad_none: bool = True, capturable: bool = False, master_weights: bool = False) -> None:  # fmt: skip
        if amsgrad:
            raise RuntimeError("FusedAdam does not support the AMSGrad variant.")
        super().__init__(params, lr, betas, eps, weight_decay, fused=True, decoupled_weight_decay=adam_w_mode)
        self.set_grad_none = set_grad_none


class FusedSGD(torch.optim.SGD):
    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
                 weight_decay: float = 0.0, nesterov: bool = False, wd_after_momentum: bool = False,
                 materialize_master_grads: bool = True, set_grad_none: bool = False) -> None:  # fmt: skip
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, fused=True)


class FusedAdagrad(torch.optim.Adagrad):
    def __init__(self, params: Any, lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0,
                 set_grad_none: bool = True, adagrad_w_mode: bool = False) -> None:  # fmt: skip
        super().__init__(params, lr, weight_decay=weight_decay, eps=eps, foreach=True)


class ListOptimizer(torch.optim.Optimizer):
    """An optimizer whose update is one op over all tensors of a dtype. flop: per element. state: names of the per-element
    state, of its dtype (None: the parameter's); scalars: names of the state with one number per tensor. Raises RuntimeError for
    parameters on the CPU."""

    op = ""
    flop = 0
    state_names: tuple[str, ...] = ()
    state_dtype: torch.dtype | None = torch.float32
    scalar_names: tuple[str, ...] = ()
    needs_norm = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, **_options: Any) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
            for one in group["params"]:
                if one.grad is not None:
                    by_dtype.setdefault(one.dtype, []).append(one)
            for parameters in by_dtype.values():
                self._update(parameters)
        return loss

    def _update(self, parameters: list[torch.Tensor]) -> None:
        grads = [one.grad for one in parameters if one.grad is not None]
        if not recording.any_on_chip(parameters):
            raise RuntimeError(f"{type(self).__name__} works on parameters on the chip, and these are on the CPU")
        if self.needs_norm:
            torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(grads))))
        states = [[self._state(one, name) for one in parameters] for name in (*self.state_names, *self.scalar_names)]
        written = [*parameters, *(tensor for one in states for tensor in one)]
        flop = self.flop * sum(one.numel() for one in parameters)
        recording.launch(f"custom.{self.op}", (parameters, grads, *states), (), written, (("flop", flop),))

    def _state(self, parameter: torch.Tensor, name: str) -> torch.Tensor:
        state = self.state[parameter]
        if name not in state:
            scalar = name in self.scalar_names
            state[name] = parameter.new_zeros(()) if scalar else torch.zeros_like(parameter, dtype=self.state_dtype)
        found: torch.Tensor = state[name]
        return found


class FusedLAMB(ListOptimizer):
    """Norm of all gradients, then two passes with a norm of each tensor between: 24 FLOP per element in one op."""

    op, flop, state_names, needs_norm = "apex.multi_tensor_lamb", 24, ("exp_avg", "exp_avg_sq"), True

    def __init__(self, params: Any, lr: float = 1e-3, bias_correction: bool = True, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-6, weight_decay: float = 0.01, **options: Any) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "bias_correction": bias_correction})  # fmt: skip


class FusedNovoGrad(ListOptimizer):
    """The second moment is one number per tensor."""

    op, flop, state_names, scalar_names = "apex.multi_tensor_novograd", 10, ("exp_avg",), ("exp_avg_sq",)

    def __init__(self, params: Any, lr: float = 1e-3, bias_correction: bool = True, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0, **options: Any) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})


class FusedLion(ListOptimizer):
    op, flop, state_names = "deepspeed.multi_tensor_lion", 8, ("exp_avg",)

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0,
                 **options: Any) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})


class AdamATan2(ListOptimizer):
    """An Adam without an epsilon: the arc tangent of the moments is what it steps by, which is taken as four operations. A counter of
    steps for each parameter is on the chip."""

    op, flop, state_names, state_dtype = "adam_atan2.adam_atan2", 16, ("exp_avg", "exp_avg_sq"), None
    scalar_names = ("step",)

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 weight_decay: float = 1e-2) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
