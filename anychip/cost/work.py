"""What an operation asks of a chip: `work(op)` gives its FLOP and bytes, free of any chip.

In: one `record.Op`. Out: one `Work`. Left out: caches (they sit in a chip's measured rates) and time (`cost.price`).
A formula is a function decorated with `work_of`, found by the op's full name or by its packet (the name
without its overload). An op without a formula is never free: all bytes of its tensors count, and its evidence says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from anychip.record import Op, TensorMeta

SHORT_DTYPE = {
    "bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64", "int8": "int8", "uint8": "int8",
    "float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "float8_e4m3fnuz": "fp8", "float8_e5m2fnuz": "fp8",
    "float4_e2m1fn_x2": "fp4", "complex64": "fp32", "complex128": "fp64", "complex32": "fp16",
    "int16": "int16", "int32": "int32", "int64": "int64", "bool": "int8",
}  # fmt: skip
PRODUCTS = ("gemm", "grouped", "conv", "rnn")  # kinds of work that multiply


class Gemm(NamedTuple):
    """`batch` products [m, k] @ [k, n]. how: which measured products it is like, where a chip's rates tell them apart:
    n or t for each operand as it lies in memory ("nt": a linear layer forward), or a convolution ("conv.weight")."""

    batch: int
    m: int
    n: int
    k: int
    how: str = ""

    @property
    def flop(self) -> int:
        return 2 * self.batch * self.m * self.n * self.k


class Attention(NamedTuple):
    """How a fused attention was called. implementation: flash, efficient, cudnn. Lengths in tokens. grouped: heads of queries that
    share one of keys."""

    implementation: str
    backward: bool
    causal: bool
    head_dim: int
    query_length: int
    key_length: int
    batch_heads: int
    grouped: int = 1


@dataclass(frozen=True, slots=True)
class Work:
    """What one op asks of any chip.

    flop: executed operations, a multiply and an add counted as two. bytes_read, bytes_written: main-memory traffic
    when each operand moves once per pass. unit: the engine that does the flop. kernels: launches in eager
    mode; 0 for what only changes metadata. model_flop: flop that the mathematics needs (a fused attention's
    backward recomputes its scores; that is executed but is not model work). host_bytes: bytes over the host link.
    staged_bytes: those of them that the host copies once more. blocks_host: the program waits for this op. fixed_s: seconds that
    it takes on any chip (a sleep). known: False for an op without a formula.
    ragged_bytes: of a product's 16-bit operands whose rows are no multiple of ROW_BYTES. padded: a compiler may copy those to rows
    that are. product_share, memory_share: rows of a chip's rates that say what share its products reach of a library's rate, and
    its traffic of the memory's.
    """

    flop: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    unit: str = "none"  # matrix | vector | none
    dtype: str = "fp32"
    kind: str = "view"
    gemm: tuple[Gemm, ...] = ()
    kernels: int = 1
    model_flop: int = 0
    attention: Attention | None = None
    host_bytes: int = 0
    staged_bytes: int = 0
    blocks_host: bool = False
    fixed_s: float = 0.0
    known: bool = True
    ragged_bytes: int = 0
    padded: bool = False
    product_share: str = ""
    memory_share: str = ""

    @property
    def bytes_moved(self) -> int:
        return self.bytes_read + self.bytes_written


Formula = Callable[[Op], Work]
_FORMULAS: dict[str, Formula] = {}
_FAMILIES: dict[str, Formula] = {}


def work_of(*names: str) -> Callable[[Formula], Formula]:
    """Register a formula under op names (``aten.mm.default``) or packets (``aten.mm``). A name is given once only."""

    def register(formula: Formula) -> Formula:
        for name in names:
            assert name not in _FORMULAS, f"two formulas for {name}"
            _FORMULAS[name] = formula
        return formula

    return register


def family(*prefixes: str) -> Callable[[Formula], Formula]:
    """Register a formula for every op whose name begins so and that has no formula of its own."""

    def register(formula: Formula) -> Formula:
        _FAMILIES.update(dict.fromkeys(prefixes, formula))
        return formula

    return register


def packet(name: str) -> str:
    """``aten.add_.Tensor`` -> ``aten.add_``: all but the overload, which a stand-in's kernel (``custom.apex.norm``) has none of."""
    return name.rpartition(".")[0] if name.count(".") >= 2 and not name.startswith("custom.") else name


def work(op: Op) -> Work:
    """FLOP, bytes and launches of one op. Pure, and remembered on the op, as it depends on nothing else."""
    cached: Work | None = op.__dict__.get("_work")
    if cached is None:
        cached = op.__dict__["_work"] = formula_of(op.name)(op)
    return cached


@cache
def formula_of(name: str) -> Formula:
    """By full name, then by packet, then by family (a prefix); `unknown` otherwise."""
    found = _FORMULAS.get(name) or _FORMULAS.get(packet(name))
    if found is None:
        found = next((formula for prefix, formula in _FAMILIES.items() if name.startswith(prefix)), unknown)
    return found


def unknown(op: Op) -> Work:
    """No formula: every tensor's bytes once, and said so."""
    read, written = traffic(op)
    return Work(bytes_read=read, bytes_written=written, kind="unknown", dtype=main_dtype(op), known=False)


# What formulas are made of ------------------------------------------------------------------------------------------


def arg(op: Op, position: int, name: str, default: Any = None) -> Any:
    """An argument, given by position or by name; trailing defaults may be absent from a call."""
    return op.args[position] if position < len(op.args) else op.kwarg(name, default)


def layout(a: TensorMeta, b: TensorMeta) -> str:
    """How the operands of a product lie: n with rows, t with columns in one piece."""
    return "".join("n" if t.stride[-1] == 1 or t.stride[-2] != 1 else "t" for t in (a, b))


def nbytes(tensors: Any) -> int:
    """Bytes on the chip of tensors; host scalars travel with the launch and cost nothing."""
    return sum(tensor.nbytes for tensor in tensors if tensor.on_chip)


def mutated(op: Op) -> tuple[TensorMeta, ...]:
    tensors = op.tensors
    return tuple(tensors[position] for position in op.mutates)


def traffic(op: Op, overwrites: bool = False) -> tuple[int, int]:
    """(bytes read, bytes written): inputs once, results once; in-place results are read too, unless `overwrites`
    or the result is an ``out=`` argument."""
    tensors, changed = op.tensors, set(op.mutates)
    overwrites = overwrites or op.name.endswith(("out", "output", "grad_input"))
    read = nbytes(t for i, t in enumerate(tensors) if not (overwrites and i in changed))
    return read, nbytes(op.outputs) + nbytes(tensors[i] for i in changed)


def results(op: Op) -> tuple[TensorMeta, ...]:
    """What the op wrote: new tensors, or those it changed in place."""
    return op.outputs + mutated(op)


def main_dtype(op: Op) -> str:
    """The compute dtype as a short word: that of the first floating tensor, else of the first tensor."""
    tensors = op.tensors or op.outputs
    floating = [t for t in tensors if t.dtype.startswith(("float", "bfloat", "complex"))] or list(tensors)
    return SHORT_DTYPE.get(floating[0].dtype, floating[0].dtype) if floating else "fp32"


def matrix_dtype(op: Op, allow_tf32: bool) -> str:
    """fp32 products run as tf32 where the program allowed it (the recorder notes it as the keyword ``allow_tf32``);
    `allow_tf32` is torch's own default for this kind of op. A product whose result has a dtype of its own computes in
    that of its operands, which stand last."""
    dtype = main_dtype(op)
    if ".dtype" in op.name:
        operand = [value for value in op.args if isinstance(value, TensorMeta)][-1]
        dtype = SHORT_DTYPE.get(operand.dtype, operand.dtype)
    return "tf32" if dtype == "fp32" and op.kwarg("allow_tf32", allow_tf32) else dtype


def gemm_work(op: Op, products: tuple[Gemm, ...], kind: str = "gemm", **changes: Any) -> Work:
    """The Work of matrix products: flop 2*batch*m*n*k each, every operand moved once; of complex numbers each is four. One that a compiler makes a reduction of
    (the keyword `reduced`) runs on the vector engine, in one kernel with what makes its operands."""
    if any(operand.dtype.startswith("complex") for operand in operands(op)):
        products = tuple(product._replace(batch=4 * product.batch) for product in products)
    flop = sum(product.flop for product in products)
    if op.kwarg("reduced"):
        return vector_work(op, "reduction", flop=flop, model_flop=flop)
    read, written = traffic(op)
    fields: dict[str, Any] = {
        "flop": flop, "model_flop": flop, "bytes_read": read, "bytes_written": written, "unit": "matrix", "kind": kind,
        "dtype": matrix_dtype(op, allow_tf32=kind != "gemm"), "gemm": products,
        "kernels": len(products) if flop else 0,
        "ragged_bytes": sum(one.nbytes for one in operands(op) if is_ragged(one)) if kind == "gemm" else 0,
        "padded": bool(op.kwarg("padded")),
    }  # fmt: skip
    return Work(**(fields | changes))


# Of a load by cp.async and ldmatrix, and what the rows of a tensor-map descriptor (TMA) must be multiples of.
ROW_BYTES = 16


def operands(op: Op) -> list[TensorMeta]:
    """The two matrices that a product multiplies: its last ones, after what it adds them to."""
    return [one for one in op.args if isinstance(one, TensorMeta)][-2:]


def is_ragged(tensor: TensorMeta) -> bool:
    """A matrix of 16-bit elements whose rows (columns, where those lie in one piece) a kernel cannot load ROW_BYTES at a time."""
    if len(tensor.shape) < 2 or tensor.dtype not in ("float16", "bfloat16") or 1 in tensor.shape[-2:]:
        return False
    (rows, columns), (down, across) = tensor.shape[-2:], tensor.stride[-2:]
    if across != 1 and down != 1:
        return False  # copied before the product
    run, apart = (columns, down) if across == 1 else (rows, across)
    return bool(run * tensor.item_bytes % ROW_BYTES or apart * tensor.item_bytes % ROW_BYTES)


def cast_share(op: Op) -> str:
    """The `memory_share` of a kernel that leaves a tensor in 8 bit twice, by rows and by columns, as the products of a layer and its
    gradients want it; "" of another."""
    low = [one.numel for one in op.outputs if is_low(one)]
    return "memory.cast" if len(low) > 1 and len(set(low)) == 1 else ""


def is_low(tensor: TensorMeta) -> bool:
    """Numbers of 8 bit, not their scales."""
    return tensor.dtype.startswith(("float8_e4m3", "float8_e5m2")) and tensor.numel > 1


def vector_work(op: Op, kind: str, flop: int = 0, kernels: int = 1, **changes: Any) -> Work:
    """The Work of a memory-bound op: its traffic, and `flop` on the vector engine. Empty results launch nothing."""
    read, written = traffic(op)
    if not any(tensor.numel for tensor in results(op)):
        kernels = 0
    fields: dict[str, Any] = {
        "flop": flop, "bytes_read": read, "bytes_written": written, "unit": "vector", "dtype": main_dtype(op),
        "kind": kind, "kernels": kernels,
    }  # fmt: skip
    return Work(**(fields | changes))
