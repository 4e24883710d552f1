"""`apex.amp`: mixed precision as its levels say. O1 is torch's autocast; O2 and O3 cast the model, O2 with fp32 masters."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

LEVELS = ("O0", "O1", "O2", "O3")


class _State:
    """Set by `initialize`. scale: the loss scale, 1.0 where there is none. masters: model parameter -> fp32 copy."""

    def __init__(self) -> None:
        self.scale = 1.0
        self.dynamic = True
        self.masters: dict[torch.Tensor, torch.Tensor] = {}


_state = _State()


def initialize(
    models: Any, optimizers: Any = None, enabled: bool = True, opt_level: str = "O1", cast_model_type: Any = None,
    keep_batchnorm_fp32: Any = None, master_weights: bool | None = None, loss_scale: Any = None, **_options: Any,
) -> Any:  # fmt: skip
    """Returns models and optimizers in the form that they were given in."""
    if opt_level not in LEVELS:
        raise RuntimeError(f"Unexpected optimization level {opt_level}. Options are 'O0', 'O1', 'O2', 'O3'.")
    if enabled and opt_level != "O0":
        dtype = cast_model_type or torch.float16
        _state.scale = 1.0 if opt_level == "O3" and loss_scale is None else _scale(loss_scale)
        for model in models if isinstance(models, list) else [models]:
            _cast(model, opt_level, dtype, keep_batchnorm_fp32)
        if master_weights if master_weights is not None else opt_level == "O2":
            for optimizer in _listed(optimizers):
                _make_masters(optimizer)
    return models if optimizers is None else (models, optimizers)


def _scale(loss_scale: Any) -> float:
    return 65536.0 if loss_scale in (None, "dynamic") else float(loss_scale)


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _cast(model: torch.nn.Module, level: str, dtype: torch.dtype, keep_batchnorm: Any) -> None:
    forward = model.forward
    if level == "O1":

        @wraps(forward)
        def autocast_forward(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast("cuda", dtype):
                return forward(*args, **kwargs)

        model.forward = autocast_forward
        return
    keep = level == "O2" if keep_batchnorm is None else keep_batchnorm in (True, "True")
    for module in model.modules():
        if not (keep and isinstance(module, torch.nn.modules.batchnorm._BatchNorm)):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.to(dtype)

    @wraps(forward)
    def cast_forward(*args: Any, **kwargs: Any) -> Any:
        result = forward(*_to(args, dtype), **_to(kwargs, dtype))
        return _to(result, torch.float32) if level == "O2" else result

    model.forward = cast_forward


def _to(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: _to(item, dtype) for name, item in value.items()}
    return type(value)(_to(item, dtype) for item in value) if type(value) in (list, tuple) else value


def _make_masters(optimizer: torch.optim.Optimizer) -> None:
    """The optimizer works on fp32 copies; after its step they are copied back into the model."""
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for group in optimizer.param_groups:
        for position, parameter in enumerate(group["params"]):
            if parameter.dtype in (torch.float16, torch.bfloat16):
                master = torch.nn.Parameter(parameter.detach().float())
                group["params"][position] = _state.masters[parameter] = master
                pairs.append((parameter, master))

    def copy_back(*_: Any) -> None:
        with torch.no_grad():
            torch._foreach_copy_([one for one, _ in pairs], [master for _, master in pairs])

    if pairs:
        optimizer.register_step_post_hook(copy_back)
        zero = optimizer.zero_grad

        def zero_grad(set_to_none: bool = True) -> None:
            zero(set_to_none)
            for parameter, _ in pairs:
                parameter.grad = None

        optimizer.zero_grad = zero_grad  # type: ignore[method-assign]


@contextmanager
def scale_loss(loss: Any, optimizers: Any, loss_id: int = 0, model: Any = None, delay_unscale: bool = False,
               delay_overflow_check: bool = False) -> Iterator[Any]:  # fmt: skip
    """Inside, `backward` is called on the scaled loss; behind it the gradients are unscaled and checked by one kernel."""
    if _state.scale == 1.0 and not _state.masters:
        yield loss
        return
    yield loss.float() * _state.scale
    if not delay_unscale:
        _unscale(_listed(optimizers))


def _unscale(optimizers: list[torch.optim.Optimizer]) -> None:
    for parameter, master in _state.masters.items():
        if parameter.grad is not None:
            master.grad = parameter.grad.float()
    grads = [one.grad for one in _parameters(optimizers) if one.grad is not None]
    if grads:
        overflow = torch.zeros(1, device=grads[0].device)
        inverse = torch.full((1,), 1.0 / _state.scale, device=grads[0].device)
        torch._amp_foreach_non_finite_check_and_unscale_(grads, overflow, inverse)
        overflow.item()  # apex looks, and skips the step on overflow; gradients of a forecast never overflow


def _parameters(optimizers: list[torch.optim.Optimizer]) -> list[torch.Tensor]:
    return [one for optimizer in optimizers for group in optimizer.param_groups for one in group["params"]]


def master_params(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    yield from _parameters([optimizer])


def state_dict(destination: Any = None) -> dict[str, Any]:
    return {"loss_scaler0": {"loss_scale": _state.scale, "unskipped": 0}}


def load_state_dict(state: dict[str, Any]) -> None:
    _state.scale = state.get("loss_scaler0", {}).get("loss_scale", _state.scale)


@contextmanager
def disable_casts() -> Iterator[None]:
    with torch.autocast("cuda", enabled=False):
        yield


def _unchanged(function: Any) -> Any:
    return function


def _registered(module: Any, name: str) -> None:
    """A function's own cast rule: torch's autocast has its lists, which hold for torch's functions."""


NAMES: dict[str, Any] = {
    "initialize": initialize, "scale_loss": scale_loss, "master_params": master_params, "state_dict": state_dict,
    "load_state_dict": load_state_dict, "disable_casts": disable_casts, "half_function": _unchanged,
    "float_function": _unchanged, "promote_function": _unchanged, "register_half_function": _registered,
    "register_float_function": _registered, "register_promote_function": _registered,
}  # fmt: skip
