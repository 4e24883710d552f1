"""Stand-in for amp_C, apex's compiled list kernels: each is one op of torch's `_foreach_` family or one op of ours.

A kernel is called as `applier(kernel, noop_flag, tensor_lists, *args)`.
"""

from typing import Any

import torch

from anychip.standins import recording

VERSION = "0.1"

Lists = list[list[torch.Tensor]]


class Applier:
    """`apex.multi_tensor_apply.MultiTensorApply`: hands lists on to a kernel, chunk by chunk inside of it."""

    available = True
    warned = False

    def __init__(self, chunk_size: int = 2048 * 32) -> None:
        self.chunk_size = chunk_size

    def __call__(self, op: Any, noop_flag_buffer: torch.Tensor, tensor_lists: Lists, *args: Any) -> Any:
        return op(self.chunk_size, noop_flag_buffer, tensor_lists, *args)


applier = Applier()


def multi_tensor_scale(chunk_size: int, noop: torch.Tensor, lists: Lists, scale: Any) -> None:
    """lists: sources, targets; one pass where they are the same."""
    if all(source is target for source, target in zip(*lists[:2], strict=True)):
        torch._foreach_mul_(lists[0], scale)
        return
    torch._foreach_copy_(lists[1], torch._foreach_mul(lists[0], scale)) if scale != 1.0 else torch._foreach_copy_(
        lists[1], lists[0]
    )


def multi_tensor_axpby(chunk_size: int, noop: torch.Tensor, lists: Lists, a: float, b: float, *_: Any) -> None:
    """lists: x, y, out = a * x + b * y."""
    torch._foreach_copy_(lists[2], torch._foreach_add(torch._foreach_mul(lists[0], a), lists[1], alpha=b))


def multi_tensor_l2norm(chunk_size: int, noop: torch.Tensor, lists: Lists, per_tensor: bool = False, *_: Any) -> Any:
    """-> (norm of everything [1], norm of each tensor)."""
    norms = torch.stack(list(torch._foreach_norm(lists[0])))
    return torch.linalg.vector_norm(norms).reshape(1), norms if per_tensor else norms.new_empty(0)


def multi_tensor_adam(
    chunk_size: int, noop: torch.Tensor, lists: Lists, lr: float, beta1: float, beta2: float, eps: float, step: int,
    mode: int, bias_correction: int, weight_decay: float, *_: Any,
) -> None:  # fmt: skip
    """lists: gradients, parameters, first and second moments; mode 1 is AdamW."""
    update("amp_C.multi_tensor_adam", lists, lists[1:4], flop_per_element=14)


def multi_tensor_sgd(chunk_size: int, noop: torch.Tensor, lists: Lists, *_: Any) -> None:
    """lists: gradients, parameters, momenta, and 16-bit copies of the parameters where there are some."""
    update("amp_C.multi_tensor_sgd", lists, lists[1:], flop_per_element=6)


def multi_tensor_lamb(chunk_size: int, noop: torch.Tensor, lists: Lists, *_: Any) -> None:
    """lists: gradients, parameters, first and second moments."""
    update("amp_C.multi_tensor_lamb", lists, lists[1:4], flop_per_element=24)


def update(name: str, lists: Lists, written: Lists, flop_per_element: int) -> None:
    """One launch over lists of tensors that changes `written` in place."""
    flat = [tensor for one in lists for tensor in one]
    if not recording.any_on_chip(flat):
        raise RuntimeError(f"{name} works on tensors of the chip, and these are on the CPU")
    flop = flop_per_element * sum(tensor.numel() for tensor in lists[0])
    mutated = [tensor for one in written for tensor in one]
    recording.launch(f"custom.{name}", tuple(lists), (), mutated, (("flop", flop),))


MODULES: dict[str, dict[str, Any]] = {
    "amp_C": {
        "multi_tensor_scale": multi_tensor_scale, "multi_tensor_axpby": multi_tensor_axpby,
        "multi_tensor_l2norm": multi_tensor_l2norm, "multi_tensor_adam": multi_tensor_adam,
        "multi_tensor_sgd": multi_tensor_sgd, "multi_tensor_lamb": multi_tensor_lamb,
    }
}  # fmt: skip

UNCOVERED: dict[str, tuple[str, ...]] = {
    "amp_C": ("multi_tensor_novograd", "multi_tensor_adagrad", "multi_tensor_l2norm_mp", "multi_tensor_unscale_l2norm",
              "multi_tensor_lamb_mp", "multi_tensor_adam_capturable", "multi_tensor_adam_capturable_master",
              "multi_tensor_lamb_stage1_cuda", "multi_tensor_lamb_stage2_cuda", "update_scale_hysteresis"),
}  # fmt: skip
