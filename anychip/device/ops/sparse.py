"""Sparse tensors (COO) on the chip: torch's own sparse tensors, whose indices and values are chip tensors.

What only moves indices and values about is torch's CPU code, which touches no data: it is called for the chip.
What computes has a kernel here that notes the operator with the parts it reads. How many elements are not zero
is known of tensors that came from the host; for one made sparse on the chip it is what `nonzero` answers.
"""

from collections.abc import Callable
from typing import Any

import torch

from anychip.device.insides._torch_host import implement
from anychip.device.ops.kernels import canonical, meta_of
from anychip.device.runtime import Runtime
from anychip.record.op import Op

# Operators whose kernel for SparseCPU reads and writes nothing but sizes, or calls other operators for it.
STRUCTURE = (
    "_coalesced_", "_dimI", "_dimV", "_indices", "_nnz", "_sparse_coo_tensor_with_dims", "_values", "clone",
    "_sparse_coo_tensor_with_dims_and_tensors", "copy_", "copy_sparse_to_sparse_", "dense_dim", "empty.memory_format",
    "indices", "is_coalesced", "resize_as_sparse_", "sparse_dim", "sparse_resize_", "sparse_resize_and_clear_",
    "values", "zero_", "unsqueeze", "empty_like", "permute", "is_same_size", "_to_copy",
)  # fmt: skip

# Applied to each value that is there: name -> overloads.
VALUE_WISE = {
    "abs": ("default",), "neg": ("default",), "sqrt": ("default",), "pow": ("Tensor_Scalar",), "relu": ("default",),
    "mul": ("Tensor", "Scalar"), "div": ("Tensor", "Scalar"),
}  # fmt: skip

# And in place, of values that no index is read for.
IN_PLACE = {"abs_": ("default",), "neg_": ("default",), "mul_": ("Tensor", "Scalar"), "div_": ("Tensor", "Scalar")}


class Sparse:
    """Kernels for the dispatch key of sparse chip tensors."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.keys = torch._C.DispatchKeySet(torch._C.DispatchKey.SparseCPU)

    # ------------------------------------------------------------ helpers

    def note(
        self, name: str, args: tuple[Any, ...], out: torch.Tensor | None = None, mutates: tuple[int, ...] = (),
        kwargs: tuple[tuple[str, Any], ...] = (),
    ) -> None:  # fmt: skip
        """Put an operator on the tape; a sparse argument stands there as its indices and its values."""
        parts: list[Any] = []
        for one in args:
            sparse = isinstance(one, torch.Tensor) and one.is_sparse
            parts.extend((self.indices(one), self.values(one)) if sparse else (one,))
        outputs = () if out is None else (meta_of(out),)
        self.runtime.driver.launch(
            self.runtime.recorder.op_word(Op(name, canonical(tuple(parts)), kwargs, outputs, mutates))
        )

    def indices(self, tensor: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.aten._indices.default.redispatch(self.keys, tensor)
        return found

    def values(self, tensor: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.aten._values.default.redispatch(self.keys, tensor)
        return found

    def with_values(self, tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """A tensor with the same places and other values."""
        return self.make(self.indices(tensor), values, tensor.shape, tensor.is_coalesced())

    def make(self, indices: torch.Tensor, values: torch.Tensor, shape: Any, coalesced: bool) -> torch.Tensor:
        return torch.sparse_coo_tensor(indices, values, shape, is_coalesced=coalesced, check_invariants=False)

    # ------------------------------------------------------------ kernels

    def structure(self, overload: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: overload.redispatch(self.keys, *args, **kwargs)

    def value_wise(self, overload: Any) -> Callable[..., Any]:
        def kernel(tensor: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
            if not tensor.is_sparse:  # dense * sparse keeps the places of the sparse one
                return kernel(rest[0], tensor, *rest[1:], **options)
            return self.with_values(tensor, overload(self.values(tensor), *self.others(tensor, rest), **options))

        return kernel

    def in_place(self, overload: Any) -> Callable[..., Any]:
        def kernel(tensor: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
            overload(self.values(tensor), *self.others(tensor, rest), **options)
            return tensor

        return kernel

    def others(self, tensor: torch.Tensor, rest: tuple[Any, ...]) -> list[Any]:
        """What an operator on a sparse tensor's values takes beside them."""
        return [
            self.values(one) if isinstance(one, torch.Tensor) and one.is_sparse
            else self.taken(one, tensor) if isinstance(one, torch.Tensor) and one.dim() else one
            for one in rest
        ]  # fmt: skip

    def taken(self, dense: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The values of a dense tensor at the places of a sparse one."""
        return dense.expand(like.shape)[tuple(self.indices(like).unbind(0))]

    def mm(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """[m, k] @ [k, n] -> [m, n], dense as soon as one of the two is."""
        if one.shape[1] != other.shape[0]:
            shapes = f"{one.shape[0]}x{one.shape[1]} and {other.shape[0]}x{other.shape[1]}"
            raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({shapes})")
        if one.is_sparse and other.is_sparse:
            return self.mm_of_two(one, other)
        out = torch.empty(one.shape[0], other.shape[1], dtype=one.dtype, device=one.device)
        self.note("aten._sparse_mm.default", (one, other), out)
        return out

    def mm_of_two(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Sparse x sparse: as many places as values meet, nnz1 * nnz2 / k, if they fall on different ones."""
        inner = max(one.shape[1], 1)
        places = one.shape[0] * other.shape[1]
        found = min(self.values(one).numel() * self.values(other).numel() // inner, places)
        values = torch.empty(found, dtype=one.dtype, device=one.device)
        indices = torch.empty(2, found, dtype=torch.int64, device=one.device)
        self.note("aten._sparse_mm.default", (one, other), values, kwargs=(("inner", inner),))
        return self.make(indices, values, (one.shape[0], other.shape[1]), True)

    def mv(self, one: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """[m, k] @ [k] -> [m]."""
        out = torch.empty(one.shape[0], dtype=one.dtype, device=one.device)
        self.note("aten._sparse_mv.default", (one, vector), out)
        return out

    def softmax(self, tensor: torch.Tensor, *_: Any) -> torch.Tensor:
        """Along a dimension, over the places that are there: as a dense softmax over the values."""
        return self.with_values(tensor, self.values(tensor).softmax(0))

    def softmax_backward(self, grad: torch.Tensor, output: torch.Tensor, *_: Any) -> torch.Tensor:
        return self.with_values(output, self.values(grad) * self.values(output))

    def addmm(
        self, tensor: torch.Tensor, one: torch.Tensor, other: torch.Tensor, *, beta: Any = 1, alpha: Any = 1
    ) -> torch.Tensor:
        out = torch.empty(one.shape[0], other.shape[1], dtype=one.dtype, device=one.device)
        self.note("aten._sparse_mm.default", (one, other) if not beta else (one, other, tensor), out)
        return out

    def coalesce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sorted, with equal places summed; how many were equal is not known, so none."""
        indices, values = torch.empty_like(self.indices(tensor)), torch.empty_like(self.values(tensor))
        self.note("aten._coalesce.default", (tensor,), values)
        return self.make(indices, values, tensor.shape, True)

    def to_dense(self, tensor: torch.Tensor, dtype: Any = None, masked_grad: Any = None) -> torch.Tensor:
        out = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=tensor.device)
        self.note("aten._to_dense.default", (tensor,), out)
        return out

    def to_sparse(self, tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Of a dense chip tensor. Its places are what `nonzero` says."""
        indices = tensor.nonzero().t()
        return self.make(indices, tensor[tuple(indices.unbind(0))], tensor.shape, True)

    def mask(self, dense: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """A dense tensor at the places of a sparse one."""
        if dense.is_sparse:
            return self.with_values(mask, torch.empty_like(self.values(mask)))
        return self.with_values(mask, self.taken(dense, mask))

    def add(self, one: torch.Tensor, other: torch.Tensor, *, alpha: Any = 1) -> torch.Tensor:
        if one.is_sparse and other.is_sparse:
            indices = torch.cat((self.indices(one), self.indices(other)), 1)
            return self.make(indices, torch.cat((self.values(one), self.values(other))), one.shape, False)
        return self.add_((other if one.is_sparse else one).clone(), one if one.is_sparse else other, alpha=alpha)

    def add_(self, one: torch.Tensor, other: torch.Tensor, *, alpha: Any = 1) -> torch.Tensor:
        if one.is_sparse:
            return one.copy_(self.add(one, other, alpha=alpha))
        self.note("aten._sparse_add_.default", (one, other, alpha), mutates=(0,))
        return one

    def sub(self, one: torch.Tensor, other: torch.Tensor, *, alpha: Any = 1) -> torch.Tensor:
        return self.add(one, other, alpha=-alpha)

    def sum(self, tensor: torch.Tensor, *, dtype: Any = None) -> torch.Tensor:
        return self.values(tensor).sum(dtype=dtype)

    def kernels(self) -> dict[str, Callable[..., Any]]:
        """Operator -> kernel, for sparse tensors."""
        aten = torch.ops.aten
        found: dict[str, Callable[..., Any]] = {}
        for name in STRUCTURE:
            packet, _, overload = name.partition(".")
            if hasattr(aten, packet):
                found[name] = self.structure(getattr(getattr(aten, packet), overload or "default"))
        for packets, kernel in ((VALUE_WISE, self.value_wise), (IN_PLACE, self.in_place)):
            for packet, overloads in packets.items():
                for overload in overloads:
                    name = packet if overload == "default" else f"{packet}.{overload}"
                    found[name] = kernel(getattr(getattr(aten, packet), overload))
        return found | {
            "_sparse_sparse_matmul": self.mm_of_two, "mv": self.mv, "_sparse_softmax": self.softmax,
            "_sparse_log_softmax": self.softmax, "_sparse_softmax_backward_data": self.softmax_backward,
            "_sparse_log_softmax_backward_data": self.softmax_backward,
            "mm": self.mm, "addmm": self.addmm, "_coalesce": self.coalesce, "_to_dense": self.to_dense, "sum": self.sum,
            "sparse_mask": self.mask, "add.Tensor": self.add, "add_.Tensor": self.add_, "sub.Tensor": self.sub,
        }  # fmt: skip


def install(runtime: Runtime) -> None:
    sparse = Sparse(runtime)
    implement("aten", ((name, kernel, "SparseCUDA") for name, kernel in sparse.kernels().items()))
    dense: dict[str, Callable[..., Any]] = {
        "_to_sparse": sparse.to_sparse,
        "_to_sparse.sparse_dim": sparse.to_sparse,
        "sparse_mask": sparse.mask,
    }
    implement("aten", ((name, kernel, "CUDA") for name, kernel in dense.items()))
