"""Operators whose output shape depends on values: `nonzero`, masks as indices, `unique`, `bincount`, ...

Where the values are known (small tensors of the host), so is the shape. Where they are not, the driver says
how many elements are to be expected: docs/values.md has a row per operator. As on a real chip, the host
waits for the answer.
"""

from collections.abc import Callable
from functools import cached_property
from math import prod
from typing import Any

import torch

from anychip.device.ops.kernels import Kernels, meta_of
from anychip.device.ops.schemas import schema_of


class Dependent:
    def __init__(self, kernels: Kernels, parts: Callable[[int, int, float | None], list[int]]) -> None:
        self.kernels, self.driver, self.parts = kernels, kernels.driver, parts

    @cached_property
    def _index(self) -> Callable[..., Any]:
        return self.kernels.generated(schema_of("aten::index.Tensor"))

    @cached_property
    def _index_put(self) -> Callable[..., Any]:
        return self.kernels.generated(schema_of("aten::_index_put_impl_"))

    def overrides(self) -> dict[str, Callable[..., Any]]:
        """Operator -> kernel, for the chip's dispatch key."""
        return {
            "aten::nonzero": self.nonzero,
            "aten::masked_select": self.masked_select,
            "aten::index.Tensor": self.index_tensor,
            "aten::_index_put_impl_": self.index_put_,
            "aten::index_put_": self.index_put_,
            "aten::bincount": self.bincount,
            "aten::repeat_interleave.Tensor": self.repeat_interleave,
            "aten::_unique2": self._unique("aten::_unique2", [2, 3]),
            "aten::_unique": self._unique("aten::_unique", [2]),
            "aten::unique_consecutive": self._unique("aten::unique_consecutive", [1, 2]),
            "aten::unique_dim": self.unique_dim,
        }

    # ------------------------------------------------------------ helpers

    def run(self, name: str, args: tuple[Any, ...], shapes: list[tuple[tuple[int, ...], torch.dtype]]) -> Any:
        """Note the operator and make its outputs; the host waits, since it has to know their sizes."""
        tensor = next(one for one in args if isinstance(one, torch.Tensor) and one.device.type != "cpu")
        outputs: list[Any] = [
            self.kernels.tensors.maker(shape, _contiguous(shape), dtype, tensor.device.index) for shape, dtype in shapes
        ]
        metas = tuple(meta_of(one) if isinstance(one, torch.Tensor) else one for one in args)
        result = self.kernels.call_made(schema_of(name), (name, metas, tuple(shapes)), args, {}, outputs)
        self.kernels.recorder.read()
        return result

    def tell(self, tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        self.driver.tell(tensor, value)
        return tensor

    def count(self, mask: torch.Tensor) -> int:
        """How many elements of a mask are true, as far as it is known or expected."""
        known = self.driver.values_of(mask)
        return int(known.count_nonzero()) if known is not None else round(self.driver.share(mask) * mask.numel())

    # ------------------------------------------------------------ masks

    def nonzero(self, tensor: torch.Tensor) -> torch.Tensor:
        found = self.count(tensor)
        result = self.run("aten::nonzero", (tensor,), [((found, tensor.dim()), torch.int64)])
        known = self.driver.values_of(tensor)
        return result if known is None else self.tell(result, known.nonzero())

    def masked_select(self, tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        shape = torch.broadcast_shapes(tensor.shape, mask.shape)
        found = round(self.count(mask) / max(mask.numel(), 1) * prod(shape))
        result = self.run("aten::masked_select", (tensor, mask), [((found,), tensor.dtype)])
        values, chosen = self.driver.values_of(tensor), self.driver.values_of(mask)
        return result if values is None or chosen is None else self.tell(result, values.masked_select(chosen))

    def index_tensor(self, tensor: torch.Tensor, indices: Any) -> torch.Tensor:
        return self._index(tensor, self._positions(indices))

    def index_put_(
        self, tensor: torch.Tensor, indices: Any, values: torch.Tensor, accumulate: bool = False, unsafe: bool = False
    ) -> torch.Tensor:
        masks = [one for one in indices if one is not None]
        if len(masks) == 1 and masks[0].dtype == torch.bool and values.numel() == 1 and not accumulate:
            mask = masks[0]
            for _ in range(tensor.dim() - mask.dim()):
                mask = mask.unsqueeze(-1)
            return tensor.masked_fill_(mask, values.reshape(()))
        return self._index_put(tensor, self._positions(indices), values, accumulate, unsafe)

    def _positions(self, indices: Any) -> list[Any]:
        """Masks among indices become the positions where they are true, one index per dimension of the mask."""
        found: list[Any] = []
        for one in indices:
            if one is not None and one.dtype in (torch.bool, torch.uint8):
                mask = one if one.device.type != "cpu" else one.to(self._device(indices))
                found.extend(torch.ops.aten.nonzero.default(mask).unbind(1))
            else:
                found.append(one)
        return found

    def _device(self, indices: Any) -> torch.device:
        for one in indices:
            if one is not None and one.device.type != "cpu":
                device: torch.device = one.device
                return device
        return torch.device(self.kernels.tensors.device_type, self.kernels.tensors.native.device[0] >> 8)

    # ------------------------------------------------------------ counts

    def bincount(self, tensor: torch.Tensor, weights: Any = None, minlength: int = 0) -> torch.Tensor:
        """Counts of each integer: where they are not known, equal parts that add up."""
        known = self.driver.values_of(tensor)
        bins = int(known.max()) + 1 if known is not None and known.numel() else self.driver.span(tensor) or 0
        bins = max(bins, minlength, 1 if tensor.numel() else 0)
        dtype = torch.int64 if weights is None else torch.float64 if weights.dtype != torch.float32 else torch.float32
        result = self.run("aten::bincount", (tensor, weights, minlength), [((bins,), dtype)])
        if known is not None and weights is None:
            return self.tell(result, known.bincount(minlength=minlength))
        return self.tell(result, torch.tensor(self.parts(tensor.numel(), bins, self.driver.most(tensor)), device="cpu"))

    def repeat_interleave(self, repeats: torch.Tensor, *, output_size: int | None = None) -> torch.Tensor:
        known = self.driver.values_of(repeats)
        size = output_size if output_size is not None else int(known.sum()) if known is not None else repeats.numel()
        return self.run("aten::repeat_interleave.Tensor", (repeats,), [((size,), torch.int64)])

    # ------------------------------------------------------------ unique

    def _unique(self, name: str, flags: list[int]) -> Callable[..., Any]:
        """flags: positions of `return_inverse` and `return_counts` among the arguments."""
        of_torch = getattr(torch.ops.aten, name.removeprefix("aten::")).default

        def kernel(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            known = self.driver.values_of(tensor)
            if known is not None:
                exact = of_torch(known, *args, **kwargs)
                results = self.run(name, (tensor, *args), [(tuple(one.shape), one.dtype) for one in exact])
                return tuple(self.tell(result, value) for result, value in zip(results, exact, strict=True))
            found = min(self.driver.span(tensor) or tensor.numel(), tensor.numel())
            inverse = tuple(tensor.shape)
            shapes = [((found,), tensor.dtype), (inverse, torch.int64), ((found,), torch.int64)]
            return self.run(name, (tensor, *args), shapes[: len(schema_of(name).returns)])

        return kernel

    def unique_dim(self, tensor: torch.Tensor, dim: int, *args: Any, **kwargs: Any) -> Any:
        """No two slices are taken to be equal: an upper bound."""
        size = tensor.shape[dim]
        shapes = [(tuple(tensor.shape), tensor.dtype), ((size,), torch.int64), ((size,), torch.int64)]
        return self.run("aten::unique_dim", (tensor, dim, *args), shapes)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(prod(shape[dim + 1 :]), 1) for dim in range(len(shape)))
