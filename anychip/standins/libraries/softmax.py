"""Stand-ins for apex's compiled softmax of attention scores (`scaled_masked_softmax_cuda` and its kin): one op each."""

from typing import Any

import torch

from anychip.standins.fused import fused
from anychip.standins.libraries.apex import scaled_masked_softmax

VERSION = "0.1"

Tensor = torch.Tensor


def forward_causal(inputs: Tensor, scale: Any) -> Tensor:
    """Scores [heads, q, k] -> shares; each query sees the keys up to its own."""
    result: Tensor = scaled_masked_softmax(inputs, None, float(scale), True)
    return result


def forward_masked(inputs: Tensor, mask: Tensor, scale: Any) -> Tensor:
    """Scores [b, heads, q, k], mask [b, 1, q, k] (True hides) -> shares."""
    result: Tensor = scaled_masked_softmax(inputs, mask, float(scale), False)
    return result


def forward_plain(inputs: Tensor, scale: Any) -> Tensor:
    result: Tensor = scaled_masked_softmax(inputs, None, float(scale), False)
    return result


@fused("apex.scaled_masked_softmax_backward", flop=lambda grads, *_: 4 * grads.numel(), backward=0.0)
def _backward(grads: Tensor, results: Tensor, scale: float) -> Tensor:
    return results * (grads - (grads * results).sum(-1, keepdim=True)) * scale


def backward(grads: Tensor, results: Tensor, scale: Any) -> Tensor:
    """Gradient of the scores."""
    result: Tensor = _backward(grads, results, float(scale))
    return result


def batch_per_block(*_sizes: int) -> int:
    """Rows that a block of threads works on; asked before the kernel is chosen."""
    return 1


MODULES: dict[str, dict[str, Any]] = {
    "scaled_upper_triang_masked_softmax_cuda": {"forward": forward_causal, "backward": backward},
    "scaled_masked_softmax_cuda": {
        "forward": forward_masked, "backward": backward, "get_batch_per_block": batch_per_block,
    },
    "scaled_softmax_cuda": {"forward": forward_plain, "backward": backward},
}  # fmt: skip

UNCOVERED: dict[str, tuple[str, ...]] = {}
