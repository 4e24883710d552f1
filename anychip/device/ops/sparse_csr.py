"""Compressed sparse tensors (CSR, CSC, BSR, BSC) on the chip: torch's own, whose parts are chip tensors.

As in `sparse`: what only moves parts about is torch's CPU code, which touches no data; what computes notes the operator
with the parts that it reads. torch has no operator to make a compressed tensor out of parts of another layout without
data, so conversions are done here by sizes alone.
"""

from collections.abc import Callable
from typing import Any

import torch

from anychip.device.insides._torch_host import implement
from anychip.device.ops.kernels import canonical, meta_of
from anychip.device.runtime import Runtime
from anychip.record.op import Op

STRUCTURE = (
    "_nnz", "crow_indices", "col_indices", "ccol_indices", "row_indices", "values", "sparse_dim", "dense_dim",
    "resize_as_sparse_", "is_same_size",
)  # fmt: skip
BY_ROWS = (torch.sparse_csr, torch.sparse_bsr)
VALUE_WISE = ("abs", "neg", "sqrt", "relu", "sin", "tanh", "sign", "square", "exp")


class Compressed:
    """Kernels for the dispatch key of compressed sparse chip tensors."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.keys = torch._C.DispatchKeySet(torch._C.DispatchKey.SparseCsrCPU)

    def structure(self, overload: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: overload.redispatch(self.keys, *args, **kwargs)

    def parts(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(compressed indices, plain indices, values)."""
        aten = torch.ops.aten
        rows = tensor.layout in BY_ROWS
        names = (aten.crow_indices, aten.col_indices) if rows else (aten.ccol_indices, aten.row_indices)
        first, second, third = (one.default.redispatch(self.keys, tensor) for one in (*names, aten.values))
        return first, second, third

    def make(self, compressed: Any, plain: Any, values: Any, shape: Any, layout: Any) -> torch.Tensor:
        return torch.sparse_compressed_tensor(compressed, plain, values, tuple(shape), layout=layout,
                                              check_invariants=False)  # fmt: skip

    def with_values(self, tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        compressed, plain, _ = self.parts(tensor)
        return self.make(compressed, plain, values, tensor.shape, tensor.layout)

    def note(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        """Put an operator on the tape; a compressed argument stands there as its parts, values flattened."""
        spread: list[Any] = []
        for one in args:
            if isinstance(one, torch.Tensor) and one.layout != torch.strided:
                compressed, plain, values = self.parts(one)
                spread.extend((compressed, plain, values.reshape(-1)))
            else:
                spread.append(one)
        op = Op(name, canonical(tuple(spread)), (), (meta_of(out),))
        self.runtime.driver.launch(self.runtime.recorder.op_word(op))

    # ------------------------------------------------------------ kernels

    def mm(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """[m, k] @ [k, n] -> [m, n], dense."""
        if one.shape[-1] != other.shape[0]:
            shapes = f"{one.shape[0]}x{one.shape[-1]} and {other.shape[0]}x{other.shape[-1]}"
            raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({shapes})")
        out = torch.empty(*one.shape[:-1], *other.shape[1:], dtype=one.dtype, device=one.device)
        self.note(f"aten._sparse_{'mm' if other.dim() > 1 else 'mv'}.default", (one, other), out)
        return out

    def addmm(self, tensor: torch.Tensor, one: torch.Tensor, other: torch.Tensor, *, beta: Any = 1,
              alpha: Any = 1) -> torch.Tensor:  # fmt: skip
        out = self.mm(one, other)
        return torch.add(out, tensor, alpha=beta) if beta else out

    def addmm_out(self, tensor: torch.Tensor, one: torch.Tensor, other: torch.Tensor, *, beta: Any = 1,
                  alpha: Any = 1, out: torch.Tensor) -> torch.Tensor:  # fmt: skip
        return out.copy_(self.addmm(tensor, one, other, beta=beta, alpha=alpha))

    def to_dense(self, tensor: torch.Tensor, dtype: Any = None, masked_grad: Any = None) -> torch.Tensor:
        out = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=tensor.device)
        self.note("aten._to_dense.default", (tensor,), out)
        return out

    def to_sparse(self, tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """To places and values (COO)."""
        plain, values = self.parts(tensor)[1:]
        indices = torch.empty(2, plain.numel(), dtype=torch.int64, device=tensor.device)
        self.note("aten._convert_indices_from_csr_to_coo.default", (tensor,), indices)
        return torch.sparse_coo_tensor(indices, values, tensor.shape, is_coalesced=True, check_invariants=False)

    def from_coo(self, tensor: torch.Tensor, dense_dim: Any = None) -> torch.Tensor:
        """COO or dense to CSR: rows are counted, columns and values taken as they are once sorted."""
        coo = (tensor if tensor.is_sparse else tensor.to_sparse()).coalesce()
        indices, values = coo.indices(), coo.values()
        crow = torch.empty(tensor.shape[0] + 1, dtype=torch.int64, device=tensor.device)
        op = Op("aten._to_sparse_csr.default", canonical((indices,)), (), (meta_of(crow),))
        self.runtime.driver.launch(self.runtime.recorder.op_word(op))
        return self.make(crow, indices[1].clone(), values, tensor.shape, torch.sparse_csr)

    def transpose(self, tensor: torch.Tensor, one: int, other: int) -> torch.Tensor:
        """The same parts, compressed along the other dimension."""
        if one % 2 == other % 2:
            return tensor
        turned = {torch.sparse_csr: torch.sparse_csc, torch.sparse_csc: torch.sparse_csr,
                  torch.sparse_bsr: torch.sparse_bsc, torch.sparse_bsc: torch.sparse_bsr}  # fmt: skip
        compressed, plain, values = self.parts(tensor)
        if values.dim() == 3:
            values = values.transpose(1, 2)
        return self.make(compressed, plain, values, tensor.shape[::-1], turned[tensor.layout])

    def clone(self, tensor: torch.Tensor, *, memory_format: Any = None) -> torch.Tensor:
        compressed, plain, values = self.parts(tensor)
        return self.make(compressed.clone(), plain.clone(), values.clone(), tensor.shape, tensor.layout)

    def times(self, tensor: torch.Tensor, other: Any) -> torch.Tensor:
        if not isinstance(other, torch.Tensor) or other.dim() == 0:
            return self.with_values(tensor, self.parts(tensor)[2] * other)
        return self.with_values(tensor, self.parts(tensor)[2] * torch.ones((), device=tensor.device))

    def sampled_addmm(self, tensor: torch.Tensor, one: torch.Tensor, other: torch.Tensor, *, beta: Any = 1,
                      alpha: Any = 1) -> torch.Tensor:  # fmt: skip
        """A dense product at the places of a sparse matrix: 2*k flop each, as the sparse product counts them."""
        values = torch.empty_like(self.parts(tensor)[2])
        self.note("aten._sparse_mm.default", (tensor, other.t()), values)
        return self.with_values(tensor, values)

    def value_wise(self, name: str) -> Callable[..., Any]:
        return lambda tensor: self.with_values(tensor, getattr(torch, name)(self.parts(tensor)[2]))

    def kernels(self) -> dict[str, Callable[..., Any]]:
        aten = torch.ops.aten
        return {
            **{name: self.structure(getattr(aten, name).default) for name in STRUCTURE},
            **{name: self.value_wise(name) for name in VALUE_WISE},
            "mm": self.mm, "mv": self.mm, "addmm": self.addmm, "addmm.out": self.addmm_out, "addmv": self.addmm,
            "addmv.out": self.addmm_out, "_to_dense": self.to_dense, "_to_sparse": self.to_sparse,
            "_to_sparse.sparse_dim": self.to_sparse, "transpose.int": self.transpose, "clone": self.clone,
            "mul.Tensor": self.times, "mul.Scalar": self.times, "sparse_sampled_addmm": self.sampled_addmm,
            "sum": lambda tensor, *, dtype=None: self.parts(tensor)[2].sum(dtype=dtype),
            "_to_sparse_csr": lambda tensor, dense_dim=None: tensor,
        }  # fmt: skip


def install(runtime: Runtime) -> None:
    compressed = Compressed(runtime)
    implement("aten", ((name, kernel, "SparseCsrCUDA") for name, kernel in compressed.kernels().items()))
    for key in ("SparseCUDA", "CUDA"):
        implement("aten", (("_to_sparse_csr", compressed.from_coo, key),))
