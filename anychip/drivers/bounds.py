"""Indices outside of what they index, where their values are known: a chip's kernels assert that there are none.

Known are the values of integers that came from the host, of up to 512 KB (`Values`). On a chip the error comes later, at
some call that waits for it, and says neither which index nor which size; here it comes at once and says both.
"""

from collections.abc import Iterator
from typing import Any

import torch

from anychip.drivers.base import Call
from anychip.drivers.values import Values

INTEGERS = (torch.int64, torch.int32)
# Base name without a trailing underscore: `(self, dim, index, ...)`, whose indices begin at 0.
ALONG_DIM = frozenset(
    ("gather", "index_select", "scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill")
)
ROWS = frozenset(("embedding", "_embedding_bag", "_embedding_bag_forward_only"))  # (weight, indices, ...)
CLASSES = frozenset(("nll_loss_forward", "nll_loss2d_forward"))  # (self, target, weight, reduction, ignore_index)
PLACES = frozenset(
    ("index", "index_put", "_index_put_impl", "_unsafe_index", "_unsafe_index_put")
)  # (self, indices, ...)


def check(values: Values, call: Call) -> None:
    """Raise what a chip raises, with the index, where one that is known is outside."""
    for index, size, least, ignored in _indices(call):
        alias = (
            values.alias(index) if index.dtype in INTEGERS and index.numel() and index.device.type != "cpu" else None
        )
        if alias is None:
            continue
        low, high = alias.aminmax()
        if low >= least and high < size:
            continue
        if ignored is not None:
            alias = alias[alias != ignored]
        wrong = alias[(alias < least) | (alias >= size)]
        if wrong.numel():
            raise RuntimeError(
                f"CUDA error: device-side assert triggered: {call.name} is given index {wrong.flatten()[0].item()} "
                f"where there are {size:,} (from {least}). A chip says so only where the host next waits for it."
            )


def _indices(call: Call) -> Iterator[tuple[torch.Tensor, int, int, int | None]]:
    """Of a call: (indices, how many there are to choose from, the least that is allowed, one that is passed over)."""
    name, args = call.name.rstrip("_"), call.args
    if name in ROWS:
        yield args[1], args[0].shape[0], 0, None
    elif name in ALONG_DIM and args[0].dim():
        yield args[2], args[0].shape[args[1]], 0, None
    elif name in CLASSES:
        yield args[1], args[0].shape[1 if args[0].dim() > 1 else 0], 0, args[4]
    elif name in PLACES:
        yield from _places(*args[:2])


def _places(tensor: torch.Tensor, indices: Any) -> Iterator[tuple[torch.Tensor, int, int, int | None]]:
    """Each index of `tensor[indices]` is along a dimension of its own, and may count from the end."""
    for dim, index in enumerate(indices):
        if index is not None:
            yield index, tensor.shape[dim], -tensor.shape[dim], None
