"""Formulas of what runs on the matrix engine: products, convolutions, fused attention, recurrent layers.

FLOP are counted, 2 per multiply and add; they agree with torch.utils.flop_counter (tests/cost), except that causal
attention counts the half that is executed, and a product of complex numbers the four real ones that it is.
"""

from collections.abc import Sequence
from math import ceil, prod
from typing import Any, NamedTuple

from anychip.cost.work import (
    SHORT_DTYPE,
    Attention,
    Gemm,
    Work,
    arg,
    gemm_work,
    layout,
    main_dtype,
    nbytes,
    packet,
    traffic,
    work_of,
)
from anychip.record import Op, TensorMeta

# Products of 16-bit activations with weights of fewer bits: see `narrow_weight_mm`.
NARROW_WEIGHTS = (
    "aten._weight_int8pack_mm",
    "aten._weight_int4pack_mm",
    "aten._weight_int4pack_mm_with_scales_and_zeros",
)
VALUES = {"float4_e2m1fn_x2": 2}  # to an element of a dtype, where that is not one


def inner(operand: TensorMeta) -> int:
    """Values along an operand's last dimension."""
    return operand.shape[-1] * VALUES.get(operand.dtype, 1)


@work_of("aten.mm", "aten._scaled_mm", "aten._scaled_mm_v2", "aten._int_mm")
def mm(op: Op) -> Work:
    """[m, k] @ [k, n]: 2*m*n*k flop."""
    (m, _), k, n = op.args[0].shape, inner(op.args[0]), op.args[1].shape[-1]
    return gemm_work(op, (Gemm(1, m, n, k, layout(op.args[0], op.args[1])),))


@work_of(*NARROW_WEIGHTS)
def narrow_weight_mm(op: Op) -> Work:
    """[m, k] by a weight [n, k] that is stored in 8 or 4 bit, packed in some way, and widened on its way to the matrix engine:
    2*m*n*k flop in the dtype of the first."""
    x, n = op.args[0], op.outputs[0].shape[-1]
    product = Gemm(1, x.numel // max(x.shape[-1], 1), n, x.shape[-1], "nt")
    return gemm_work(op, (product,), dtype=SHORT_DTYPE.get(x.dtype, x.dtype))


@work_of("aten.addmm", "aten.addmm_", "aten._addmm_activation", "aten.sspaddmm")
def addmm(op: Op) -> Work:
    """[m, k] @ [k, n] + bias; the bias is an epilogue of the product."""
    (m, k), n = op.args[1].shape, op.args[2].shape[-1]
    return gemm_work(op, (Gemm(1, m, n, k, layout(op.args[1], op.args[2])),))


@work_of("aten.bmm")
def bmm(op: Op) -> Work:
    (batch, m, k), n = op.args[0].shape, op.args[1].shape[-1]
    return gemm_work(op, (Gemm(batch, m, n, k, layout(op.args[0], op.args[1])),))


@work_of("aten.baddbmm", "aten.baddbmm_")
def baddbmm(op: Op) -> Work:
    (batch, m, k), n = op.args[1].shape, op.args[2].shape[-1]
    return gemm_work(op, (Gemm(batch, m, n, k, layout(op.args[1], op.args[2])),))


@work_of("aten.addbmm", "aten.addbmm_")
def addbmm(op: Op) -> Work:
    """Products summed over the batch: one product with a longer inner dimension."""
    (batch, m, k), n = op.args[1].shape, op.args[2].shape[-1]
    return gemm_work(op, (Gemm(1, m, n, batch * k),))


@work_of("aten._euclidean_dist")
def euclidean_distances(op: Op) -> Work:
    """Rows of [m, k] from rows of [n, k], as torch composes it: their squares' sums are two more columns (five kernels each), a product, and
    two passes over its result, which take the root of what is not negative."""
    a, b, out = op.args[0], op.args[1], op.outputs[0]
    read, written = traffic(op)
    batch = prod(out.shape[:-2])
    product = Gemm(batch, a.shape[-2], b.shape[-2], a.shape[-1] + 2)
    return gemm_work(op, (product,), bytes_read=3 * read + 2 * out.nbytes, bytes_written=written + 2 * out.nbytes + 2 * read,
                     kernels=13 if product.flop else 0)  # fmt: skip


@work_of("aten.linear", "aten.matmul")
def linear(op: Op) -> Work:
    """linear: x[..., k] @ w[n, k].T. matmul: broadcast over leading dims, vectors as one row or one column."""
    a, b = op.args[0], op.args[1]
    k = a.shape[-1]
    flop_free = prod(a.shape[:-1])
    if ".linear." in op.name or len(b.shape) <= 2:
        n = b.numel // k if k else 0
        return gemm_work(op, (Gemm(1, flop_free, n, k, "nt" if ".linear." in op.name else ""),))
    out = op.outputs[0]
    rows = a.shape[-2] if len(a.shape) > 1 else 1
    columns = b.shape[-1]
    batch = out.numel // (rows * columns) if rows * columns else 0
    return gemm_work(op, (Gemm(batch, rows, columns, k),))


@work_of("aten.mv", "aten.addmv", "aten.addmv_", "aten.dot", "aten.vdot", "aten.addr", "aten.addr_", "aten.ger")
def vector_product(op: Op) -> Work:
    """Matrix-vector, vector-vector and outer products: one multiply and add per element of the largest operand."""
    largest = max(t.numel for t in op.tensors + op.outputs)
    read, written = traffic(op)
    flop = 2 * largest
    return Work(flop=flop, model_flop=flop, bytes_read=read, bytes_written=written, unit="vector",
                dtype=main_dtype(op), kind="gemm", kernels=1 if largest else 0)  # fmt: skip


@work_of("aten._grouped_mm", "aten._scaled_grouped_mm", "aten._scaled_grouped_mm_v2")
def grouped_mm(op: Op) -> Work:
    """Products of unequal groups along a shared dimension, offsets on the chip: priced as equal groups, which is how
    a balanced router splits its tokens. 2-D @ 3-D: rows are grouped; 2-D @ 2-D: the inner dimension is."""
    a, b = op.args[0], op.args[1]
    offsets = next((v for v in op.tensors[2:] if v.dtype == "int32"), None)
    k = inner(a)
    if len(a.shape) == 2 and len(b.shape) == 3:
        groups, m, n = b.shape[0], a.shape[0], b.shape[2]
        product = Gemm(groups, -(-m // max(groups, 1)), n, k)
    elif len(a.shape) == 2:
        groups = offsets.numel if offsets else 1
        m, n = a.shape[0], b.shape[1]
        product = Gemm(groups, m, n, -(-k // max(groups, 1)))
    elif len(b.shape) == 3:
        (groups, m, _), n = a.shape, b.shape[2]
        product = Gemm(groups, m, n, k)
    else:
        (groups, m, _), n = a.shape, b.shape[1]
        product = Gemm(groups, m, -(-n // max(groups, 1)), k)
    return gemm_work(op, (product,), kind="grouped", product_share="gemm.grouped", dtype=main_dtype(op))


# Convolutions: implicit matrix products ------------------------------------------------------------------------------


def conv_how(source: TensorMeta, part: str = "") -> str:
    """Which measured convolutions a part of one ("", ".data", ".weight") is like: by how its maps lie in memory."""
    last = len(source.shape) >= 4 and source.stride[1] == 1 and source.shape[1] > 1
    return f"conv{part}{' channels_last' if last else ''}"


def conv_product(big: TensorMeta, small: TensorMeta, weight: TensorMeta) -> Gemm:
    """The product behind a convolution from the `big` map [N, Cb, *] to the `small` one [N, Cs, *] with weight
    [Cs, Cb/groups, *]: a row per output position, a column per output channel of a group, inner dimension
    channels of a group x window. A transposed convolution goes the other way with the same weight."""
    groups = max(big.shape[1] // weight.shape[1], 1) if weight.shape[1] else 1
    rows = small.shape[0] * prod(small.shape[2:])
    return Gemm(groups, rows, small.shape[1] // groups, prod(weight.shape[1:]))


def conv_kernels(op: Op, products: int) -> tuple[int, int]:
    """(launches, extra bytes). Half-precision tensor-core convolutions work on channels-last data: maps that
    are not are transposed before and after, one launch and one pass each."""
    maps = [t for t in op.tensors + op.outputs if len(t.shape) >= 4 and t.numel]
    half = main_dtype(op) in ("fp16", "bf16")
    transposed = [t for t in maps if half and t.stride[1] != 1 and t.shape[1] > 1]
    return products + len(transposed), sum(2 * t.nbytes for t in transposed)


def conv_work(op: Op, products: tuple[Gemm, ...]) -> Work:
    """One channel per group leaves no matrix to multiply: depthwise kernels run on the vector engine."""
    flop = sum(product.flop for product in products)
    if products and products[0].batch > 1 and 1 in products[0][2:]:
        return gemm_work(op, (), kind="conv", flop=flop, model_flop=flop, unit="vector", dtype=main_dtype(op),
                         kernels=len(products) if flop else 0)  # fmt: skip
    kernels, extra = conv_kernels(op, len(products))
    read, written = traffic(op)
    return gemm_work(op, products, kind="conv", bytes_read=read + extra // 2, bytes_written=written + extra // 2,
                     kernels=kernels if flop else 0)  # fmt: skip


_CONVOLUTIONS = ("aten.convolution", "aten._convolution", "aten.convolution_overrideable", "aten.miopen_convolution",
                 "aten.cudnn_convolution", "aten.cudnn_convolution_relu", "aten.cudnn_convolution_add_relu")  # fmt: skip
_TRANSPOSED = ("aten.cudnn_convolution_transpose", "aten.miopen_convolution_transpose")


@work_of(*_CONVOLUTIONS, *_TRANSPOSED)
def convolution(op: Op) -> Work:
    """Forward convolution [N, Cin, *] -> [N, Cout, *]; a transposed one is the data gradient of a plain one."""
    source, weight, out = op.args[0], op.args[1], op.outputs[0]
    aten = op.name.startswith(("aten.conv", "aten._conv"))
    if "transpose" in op.name or (aten and arg(op, 6, "transposed", False)):
        small_to_big = conv_product(out, source, weight)
        return conv_work(op, (_data_gradient(small_to_big)._replace(how=conv_how(source, ".data")),))
    return conv_work(op, (conv_product(source, out, weight)._replace(how=conv_how(source)),))


def _data_gradient(forward: Gemm) -> Gemm:
    """[positions, Cout] @ [Cout, Cin x window]."""
    return Gemm(forward.batch, forward.m, forward.k, forward.n)


@work_of("aten.convolution_backward", "aten.convolution_backward_overrideable")
def convolution_backward(op: Op) -> Work:
    """Data gradient and weight gradient: each as many flop as the forward; the bias gradient is a sum."""
    grad, source, weight = op.args[0], op.args[1], op.args[2]
    transposed = bool(arg(op, 7, "transposed", False))
    wants_data, wants_weight = tuple(arg(op, 10, "output_mask", (True, True, True)))[:2]
    forward = conv_product(grad, source, weight) if transposed else conv_product(source, grad, weight)
    data = forward._replace(how=conv_how(source)) if transposed else _data_gradient(forward)
    data = data if data.how else data._replace(how=conv_how(source, ".data"))
    weights = Gemm(forward.batch, forward.k, forward.n, forward.m, conv_how(source, ".weight"))
    return conv_work(op, ((data,) if wants_data else ()) + ((weights,) if wants_weight else ()))


# Attention -------------------------------------------------------------------------------------------------------------


QUERIES = 128  # of a block, to which a fused kernel brings its keys (flash-attention, csrc/flash_attn/src/flash_fwd_launch_template.h)


class _Call(NamedTuple):
    """Where an attention op keeps its arguments. heads_first: tensors are [batch, heads, length, dim], else
    [batch, length, heads, dim]. query: position of the query (key and value follow). causal: position and name. packed: position
    of the cumulative lengths of packed sequences."""

    implementation: str
    backward: bool
    heads_first: bool
    query: int
    causal: int
    causal_name: str = "is_causal"
    packed: int = -1


_CALLS = {
    "aten._scaled_dot_product_flash_attention": _Call("flash", False, True, 0, 4),
    "aten._scaled_dot_product_flash_attention_for_cpu": _Call("flash", False, True, 0, 4),
    "aten._scaled_dot_product_flash_attention_backward": _Call("flash", True, True, 1, 11),
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _Call("flash", True, True, 1, 7),
    "aten._scaled_dot_product_efficient_attention": _Call("efficient", False, True, 0, 6),
    "aten._scaled_dot_product_efficient_attention_backward": _Call("efficient", True, True, 1, 11),
    "aten._scaled_dot_product_cudnn_attention": _Call("cudnn", False, True, 0, 6),
    "aten._scaled_dot_product_cudnn_attention_backward": _Call("cudnn", True, True, 1, 14),
    "aten._scaled_dot_product_fused_attention_overrideable": _Call("flash", False, True, 0, 5),
    "aten._scaled_dot_product_fused_attention_overrideable_backward": _Call("flash", True, True, 1, 13),
    "aten._cudnn_attention_forward": _Call("cudnn", False, True, 0, 10, packed=4),
    "aten._cudnn_attention_backward": _Call("cudnn", True, True, 1, 14, packed=9),
    "aten._flash_attention_forward": _Call("flash", False, False, 0, 8, packed=3),
    "aten._flash_attention_forward_no_dropout_inplace": _Call("flash", False, False, 1, 9, packed=4),
    "aten._flash_attention_backward": _Call("flash", True, False, 1, 11, packed=6),
    "aten._efficient_attention_forward": _Call("efficient", False, False, 0, 9, "custom_mask_type", packed=4),
    "aten._efficient_attention_backward": _Call("efficient", True, False, 1, 14, "custom_mask_type", packed=6),
}


def causal_share(query_length: int, key_length: int) -> float:
    """Share of the scores that a causal mask keeps: a half of a square (the convention for counting), the
    triangle's part of a rectangle whose first query sees the first key."""
    if query_length == key_length:
        return 0.5
    if query_length > key_length:
        return (key_length / 2 + (query_length - key_length)) / query_length
    return query_length / 2 / key_length


@work_of(*_CALLS)
def fused_attention(op: Op) -> Work:
    """softmax(q @ k.T) @ v without scores in memory. flop forward: two products, 4*batch*heads*lq*lk*dim; backward
    five products (scores are made again), of which four are model work. Of a sliding window a block of queries computes
    what any of them sees, each query's own is model work. Bytes: each tensor once; the backward kernel is preceded by one
    that sums grad x out and followed by a conversion of the query's gradient."""
    call = _CALLS[op.name.rpartition(".")[0]]
    q, k, v = op.args[call.query : call.query + 3]
    packed = op.args[call.packed] if 0 <= call.packed < len(op.args) else None
    batch, heads, shared, lq, lk = _attention_shape(q, k, call.heads_first, packed)
    causal = bool(arg(op, call.causal, call.causal_name, False))
    most = causal_share(lq, lk) if causal else 1.0
    own, computed = (
        ceil(batch * heads * lq * lk * min(most, _window_share(op, lk, causal, block)))
        for block in (1, min(lq, QUERIES))
    )
    # q @ k.T works on the query's head dim, the other product on the value's.
    to_scores, to_values = 2 * q.shape[-1], 2 * v.shape[-1]
    flop = computed * (3 * to_scores + 2 * to_values if call.backward else to_scores + to_values)
    model_flop = own * (to_scores + to_values) * (2 if call.backward else 1)
    read, written = traffic(op)
    grouped = max(heads // max(shared, 1), 1)
    shape = Attention(call.implementation, call.backward, causal, q.shape[-1], lq, lk, batch * heads, grouped)
    return Work(flop=flop, model_flop=model_flop, bytes_read=read, bytes_written=written, unit="matrix",
                dtype=main_dtype(op), kind="attention", attention=shape,
                kernels=(3 if call.backward else 1) if flop else 0)  # fmt: skip


def _window_share(op: Op, key_length: int, causal: bool, block: int) -> float:
    """Largest share of the keys that as many queries after one another see through a sliding window: left + right + 1 of
    each, and one more for each of the others."""
    left, right = op.kwarg("window_size_left"), 0 if causal else op.kwarg("window_size_right")
    return 1.0 if left is None or right is None else min((left + right + block) / max(key_length, 1), 1.0)


def _attention_shape(
    q: TensorMeta, k: TensorMeta, heads_first: bool, packed: Any = None
) -> tuple[int, int, int, int, int]:
    """(batch, query heads, key heads, query length, key length). Tensors of packed sequences are [tokens, heads, dim], or one of a
    batch; `packed` are their cumulative lengths, one more than there are sequences, which are taken to be of equal length."""
    if len(q.shape) == 3 or isinstance(packed, TensorMeta):
        batch = max(packed.shape[0] - 1, 1) if isinstance(packed, TensorMeta) else 1
        return batch, q.shape[-2], k.shape[-2], ceil(q.shape[-3] / batch), ceil(k.shape[-3] / batch)
    heads, length = (1, 2) if heads_first else (2, 1)
    return q.shape[0], q.shape[heads], k.shape[heads], q.shape[length], k.shape[length]


# Recurrent layers -----------------------------------------------------------------------------------------------------


RNN = ("aten._cudnn_rnn", "aten.miopen_rnn", "aten._thnn_fused_rnn")


@work_of(*RNN)
def rnn(op: Op) -> Work:
    """A whole recurrent stack in one call: every weight matrix meets every time step and sequence."""
    return _rnn_work(op, _batches(op, _batch_first(op)), passes=1)


def _batch_first(op: Op) -> int:
    """Where that argument of a forward stands."""
    return 10 if "cudnn" in op.name else 8


@work_of("aten._cudnn_rnn_backward", "aten.miopen_rnn_backward")
def rnn_backward(op: Op) -> Work:
    """Gradients of the data and of the weights: twice the forward."""
    return _rnn_work(op, _batches(op, 14 if "cudnn" in op.name else 13), passes=2)


def _batches(op: Op, batch_first: int) -> Sequence[int]:
    """How many sequences each time step has. batch_first: the position of that argument; data that are packed are told by
    the fourth after it, `batch_sizes`."""
    shape: tuple[int, ...] = op.args[0].shape
    if len(shape) == 3:
        first = bool(arg(op, batch_first, "batch_first", False))
        return (shape[0 if first else 1],) * shape[1 if first else 0]
    sizes: Sequence[int] = arg(op, batch_first + 4, "batch_sizes", ())
    return sizes or (1,) * shape[0]


class Sequences(NamedTuple):
    """What a recurrent layer or an attention is given: `number` sequences of `length` steps; time_first: step by step. packed: steps of all
    sequences, where they lie one behind the other."""

    number: int
    length: int
    time_first: bool
    packed: int = 0


def sequences(op: Op) -> Sequences | None:
    """None of another op. Packed data count as one long step of all; an attention's batch is first whatever the program's is, so of its
    queries that dimension is first which lies outermost in memory."""
    if packet(op.name) in RNN:
        position, data = _batch_first(op), op.args[0]
        batches = _batches(op, position)
        batch_first = len(data.shape) == 3 and bool(arg(op, position, "batch_first", False))
        return Sequences(
            max(batches, default=0), len(batches) if len(data.shape) == 3 else data.shape[0], not batch_first
        )
    call = _CALLS.get(packet(op.name))
    if call is None or call.backward:
        return None
    query, lengths = op.args[call.query], op.args[call.packed] if 0 <= call.packed < len(op.args) else None
    if isinstance(lengths, TensorMeta):
        number, steps = max(lengths.shape[0] - 1, 1), query.shape[-3]
        return Sequences(number, ceil(steps / number), False, steps)
    if len(query.shape) != 4:
        return None
    length = 2 if call.heads_first else 1
    return Sequences(query.shape[0], query.shape[length], query.stride[length] > query.stride[0])


def _weights(op: Op) -> tuple[TensorMeta, ...]:
    return tuple(w for w in op.args[1] if isinstance(w, TensorMeta)) if len(op.args) > 1 else ()


def _rnn_work(op: Op, batches: Sequence[int], passes: int) -> Work:
    """Per layer and direction (two matrices): one product over all steps for the input, then per step a product with
    the recurrent matrix and a point-wise cell, which is what limits it. Recurrent weights are read at every step."""
    matrices = [w for w in _weights(op) if len(w.shape) == 2]
    products = []
    for index, matrix in enumerate(matrices):
        n, k = matrix.shape
        whole = index % 2 == 0
        products += [Gemm(1, sum(batches), n, k)] if whole else [Gemm(1, batch, n, k) for batch in batches]
    products *= passes
    read, written = traffic(op)
    recurrent = nbytes(matrices[1::2])
    cells = len(batches) * len(matrices) // 2
    return gemm_work(op, tuple(products), kind="rnn", bytes_read=read + passes * recurrent * max(len(batches) - 1, 0),
                     bytes_written=written, kernels=len(products) + passes * cells)  # fmt: skip


# Linear algebra --------------------------------------------------------------------------------------------------------

# Leading terms of LAPACK's operation counts for [m, n] (m >= n), with vectors where the op returns them
# (Golub and Van Loan, "Matrix Computations", chapters 3-5 and 8).
_LINALG = {
    "linalg_cholesky_ex": lambda m, n: n**3 / 3, "cholesky": lambda m, n: n**3 / 3,
    "linalg_lu_factor_ex": lambda m, n: m * n**2 - n**3 / 3, "linalg_lu": lambda m, n: m * n**2 - n**3 / 3,
    "_linalg_det": lambda m, n: 2 * n**3 / 3, "_linalg_slogdet": lambda m, n: 2 * n**3 / 3,
    "linalg_inv_ex": lambda m, n: 2 * n**3, "inverse": lambda m, n: 2 * n**3,
    "_linalg_solve_ex": lambda m, n: 2 * n**3 / 3, "linalg_qr": lambda m, n: 4 * m * n**2 - 4 * n**3 / 3,
    "geqrf": lambda m, n: 2 * m * n**2 - 2 * n**3 / 3, "_linalg_svd": lambda m, n: 6 * m * n**2 + 20 * n**3,
    "_linalg_eigh": lambda m, n: 9 * n**3, "linalg_eig": lambda m, n: 25 * n**3,
    "linalg_eigvals": lambda m, n: 10 * n**3, "_linalg_eigvals": lambda m, n: 10 * n**3,
    "linalg_lstsq": lambda m, n: 2 * m * n**2, "cholesky_inverse": lambda m, n: 2 * n**3 / 3,
    "linalg_householder_product": lambda m, n: 2 * m * n**2, "linalg_matrix_exp": lambda m, n: 20 * n**3,
    "triangular_solve": lambda m, n: n**3, "linalg_solve_triangular": lambda m, n: n**3,
    "cholesky_solve": lambda m, n: 2 * n**3, "linalg_lu_solve": lambda m, n: 2 * n**3,
    "linalg_ldl_factor_ex": lambda m, n: n**3 / 3, "linalg_ldl_solve": lambda m, n: 2 * n**3,
}  # fmt: skip


# Kernels that follow one another for each column, where one column has to be done before the next: of 3 us on an H100 they take
# what was measured (accuracy/constants.csv). Others go by panels.
_BY_COLUMN = {
    **dict.fromkeys(("linalg_cholesky_ex", "cholesky"), 0.2),
    **dict.fromkeys(("linalg_lu_factor_ex", "linalg_lu", "_linalg_det", "_linalg_slogdet", "linalg_inv_ex", "inverse", "_linalg_solve_ex",
                     "linalg_ldl_factor_ex"), 0.9),
    **dict.fromkeys(("geqrf", "linalg_householder_product", "linalg_lstsq"), 1.0), "linalg_qr": 2.0,
    "_linalg_eigh": 6.0, **dict.fromkeys(("_linalg_svd", "linalg_eig", "linalg_eigvals", "_linalg_eigvals"), 18.0),
}  # fmt: skip
_BY_PANEL = 3 / 32
# Up to which size the matrices of a batch are worked on at once; larger ones are taken one after the other.
_BATCHED = {"linalg_cholesky_ex": 1024, "cholesky": 1024, "linalg_lu_factor_ex": 128, "linalg_lu": 128, "_linalg_solve_ex": 128, "linalg_inv_ex": 128,
            "_linalg_det": 128, "_linalg_slogdet": 128, "_linalg_eigh": 32, "_linalg_svd": 32}  # fmt: skip


@work_of(*(f"aten.{name}" for name in _LINALG))
def linear_algebra(op: Op) -> Work:
    """A factorisation or solve of [..., m, n]: known operation counts, and as many kernels as follow one another. What is left of the
    matrix, a third of it on average, is read for each panel of 64 columns."""
    matrix = next(t for t in op.tensors if len(t.shape) >= 2)
    m, n = max(matrix.shape[-2:]), min(matrix.shape[-2:])
    batch = matrix.numel // (m * n) if m * n else 0
    name = op.name.split(".")[1]
    flop = int(batch * _LINALG[name](m, n))
    read, written = traffic(op)
    apart = batch if name in _BY_COLUMN and n > _BATCHED.get(name, 0) else 1
    kernels = ceil(n * _BY_COLUMN.get(name, _BY_PANEL)) * apart
    return Work(flop=flop, model_flop=flop, bytes_read=read * max(n // 192, 1), bytes_written=written, unit="vector",
                dtype=main_dtype(op), kind="linalg", kernels=kernels if flop else 0)  # fmt: skip
