"""Formulas of what is limited by memory: point-wise ops, reductions, norms, losses, indices, copies.

Bytes are counted: each operand once per pass over it; how many passes and how many launches an op takes follows the
kernels of PyTorch's CUDA back end (file named at each rule), which other vendors' plug-ins mirror.
"""

from math import log2, prod

from anychip.cost import names
from anychip.cost.work import (
    Work,
    arg,
    cast_share,
    family,
    main_dtype,
    mutated,
    nbytes,
    results,
    traffic,
    vector_work,
    work_of,
)
from anychip.record import Op, TensorMeta


def _aten(*packets: str) -> tuple[str, ...]:
    return tuple(f"aten.{name}" for name in packets)


def _both(packets: frozenset[str]) -> tuple[str, ...]:
    """Each packet and its in-place form."""
    return _aten(*sorted(packets | {f"{name}_" for name in packets if not name.endswith("_")}))


def _numel(op: Op) -> int:
    return max((tensor.numel for tensor in results(op)), default=0)


@work_of(*_both(names.POINTWISE))
def pointwise(op: Op) -> Work:
    """One pass: every input read, every result written; one operation per element."""
    if len(op.tensors) and all(not tensor.on_chip for tensor in op.tensors + op.outputs):
        return Work(kernels=0)
    return vector_work(op, "elementwise", flop=_numel(op), memory_share="memory.scattered" if is_scattered(op) else "")


LOADED = 2  # bytes at most of elements that are slow to load one by one


def is_scattered(op: Op) -> bool:
    """Whether an op that computes in 16 bit or less reads or writes something broadcast, or with gaps: its kernel then loads
    no vectors of elements (aten/src/ATen/native/cuda/CUDALoops.cuh, gpu_kernel_impl)."""
    found = [tensor for tensor in (*op.tensors, *op.outputs) if tensor.on_chip and tensor.numel > 1]
    if not found or max(tensor.item_bytes for tensor in found) > LOADED:
        return False
    shape = max(found, key=lambda tensor: tensor.numel).shape
    return any(tensor.shape != shape or tensor.stride != found[0].stride or not is_dense(tensor) for tensor in found)


def is_dense(tensor: TensorMeta) -> bool:
    """Whether the elements fill their memory without gaps, in any order of dimensions, and none stands for several."""
    step = 1
    for stride, size in sorted(zip(tensor.stride, tensor.shape, strict=True)):
        if size != 1:
            if stride != step:
                return False
            step *= size
    return True


@work_of(*_both(names.REDUCTION))
def reduction(op: Op) -> Work:
    """One pass over the input; a reduction to few results takes its partial sums through memory once more."""
    read = max((tensor.numel for tensor in op.tensors), default=0)
    return vector_work(op, "reduction", flop=read)


@work_of(*_both(names.POOLING))
def pooling(op: Op) -> Work:
    """A map in, a map out. Backward kernels that scatter first clear their result: one launch and one write more."""
    if "backward" not in op.name:
        return vector_work(op, "reduction", flop=max((t.numel for t in op.tensors), default=0))
    return vector_work(op, "elementwise", flop=_numel(op), kernels=2, bytes_written=2 * traffic(op)[1])


@work_of(*_aten(*sorted(names.FILL)))
def fill(op: Op) -> Work:
    """Only writes."""
    return vector_work(op, "elementwise", flop=_numel(op), bytes_read=0)


@work_of(*_aten(*sorted(names.CONSTANT)))
def constant(op: Op) -> Work:
    """Computes nothing: any dtype will do."""
    return vector_work(op, "copy", bytes_read=0)


@work_of(*_aten(*sorted(names.METADATA)), "prim.device", "aten.set_data")
def metadata(op: Op) -> Work:
    """Views and allocations: nothing is launched."""
    return Work(kernels=0)


@work_of("aten._local_scalar_dense", "aten.item")
def read_value(op: Op) -> Work:
    """One element to the host; the program waits for it."""
    size = op.tensors[0].item_bytes if op.tensors else 4
    return Work(kind="copy", kernels=1, host_bytes=size, bytes_read=size, blocks_host=True)


# Copies --------------------------------------------------------------------------------------------------------------


@work_of("aten.copy_", "aten._to_copy", "aten.copy", "aten._pin_memory", "aten.to")
def copy(op: Op) -> Work:
    """On the chip: read the source, write the result. Across the host link: the link's bytes, and the host
    waits unless the copy is non_blocking; dtypes are changed where the host does not wait on the chip, else on the host
    (aten/src/ATen/native/cuda/Copy.cu). Memory that is not pinned is first copied to some that is."""
    in_place = op.name.startswith("aten.copy_")
    source = op.args[1] if in_place else op.args[0]
    targets = mutated(op) if in_place else op.outputs
    target = targets[0] if targets else op.args[0]
    if not isinstance(source, TensorMeta) or not isinstance(target, TensorMeta):
        return vector_work(op, "copy")
    if not source.on_chip and not target.on_chip:
        return Work(kernels=0)
    launched = 1 if target.numel else 0
    if source.on_chip and target.on_chip:
        return Work(bytes_read=source.nbytes, bytes_written=target.nbytes, unit="vector", kind="copy",
                    dtype=main_dtype(op), kernels=launched)  # fmt: skip
    waits = not bool(arg(op, 2, "non_blocking", False) if in_place else op.kwarg("non_blocking", False))
    there, host = (source, target) if source.on_chip else (target, source)
    size = min(source.numel, target.numel) * (there if waits else host).item_bytes
    converts = source.dtype != target.dtype and not waits
    return Work(bytes_read=source.nbytes if source.on_chip else size * converts, unit="vector",
                bytes_written=target.nbytes * (1 + converts) if target.on_chip else 0, kind="copy",
                dtype=main_dtype(op), host_bytes=size, staged_bytes=size * bool(op.kwarg("staged", False)), blocks_host=waits,
                kernels=launched * (1 + converts))  # fmt: skip


@work_of(*_aten(*sorted(names.CONCATENATE)))
def concatenate(op: Op) -> Work:
    """Read all, write all; 128 inputs to a launch (aten/src/ATen/native/cuda/Shape.cu)."""
    inputs = max(len(op.tensors), 1)
    return vector_work(op, "copy", kernels=-(-inputs // 128))


@work_of("aten.clone")
def clone(op: Op) -> Work:
    """However the elements lie."""
    return vector_work(op, "copy") if any(tensor.on_chip for tensor in op.tensors) else Work(kernels=0)


# Softmax, norms, losses, dropout ----------------------------------------------------------------------------------------

# A row of up to this many elements stays in registers, or in shared memory up to so many bytes; a longer one is read
# once more (aten/src/ATen/native/cuda/SoftMax.cu and PersistentSoftmax.cuh).
SOFTMAX_ROW_ELEMENTS = 1024
SOFTMAX_ROW_BYTES = 48 * 1024


@work_of(*_aten("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax"))
def softmax(op: Op) -> Work:
    return _softmax_work(op, int(arg(op, 1, "dim", -1)), again=1)


@work_of("aten._softmax_backward_data", "aten._log_softmax_backward_data")
def softmax_backward(op: Op) -> Work:
    """The sum over a row needs gradient x output, of a log_softmax the gradient alone."""
    return _softmax_work(op, int(arg(op, 2, "dim", -1)), again=1 if "log" in op.name else 2)


def _softmax_work(op: Op, dim: int, again: int) -> Work:
    """again: how many of the inputs are read once more where a row is too long to stay on the chip."""
    source = op.args[0]
    read, _ = traffic(op)
    row = source.shape[dim] if source.shape else 1
    stays = row <= SOFTMAX_ROW_ELEMENTS or row * source.item_bytes <= SOFTMAX_ROW_BYTES
    extra = 0 if stays else nbytes(op.tensors[:again])
    return vector_work(op, "reduction", flop=4 * source.numel, bytes_read=read + extra)


@work_of(*_aten("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm"))
def layer_norm(op: Op) -> Work:
    """One pass: statistics and result while a row is in registers."""
    return vector_work(op, "reduction", flop=8 * _numel(op))


@work_of(*_aten("native_layer_norm_backward", "_fused_rms_norm_backward"))
def layer_norm_backward(op: Op) -> Work:
    """Data gradient, then a second pass over both inputs for the gradients of weight and bias (layer_norm_kernel.cu)."""
    read, _ = traffic(op)
    mask = next((a for a in reversed(op.args) if isinstance(a, tuple) and all(isinstance(x, bool) for x in a)), ())
    weight_too = any(mask[1:]) if mask else True
    passes = 2 if weight_too else 1
    return vector_work(op, "reduction", flop=12 * _numel(op), kernels=passes, bytes_read=passes * read)


@work_of(*_aten("_weight_norm_interface", "_weight_norm_interface_backward"))
def weight_norm(op: Op) -> Work:
    """The norm of a row, then the row scaled by it, which is read again while it is in cache; backward the row's product with its
    gradient, then both combined (aten/src/ATen/native/cuda/WeightNorm.cu)."""
    per_element = 8 if "backward" in op.name else 3
    return vector_work(op, "reduction", flop=per_element * op.args[0].numel)


_BATCH_NORM = ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit",
               "_native_batch_norm_legit_functional", "_batch_norm_with_update", "batch_norm",
               "_batch_norm_with_update_functional", "_native_batch_norm_legit_no_training",
               "_batch_norm_no_update", "native_group_norm", "group_norm", "instance_norm")  # fmt: skip


@work_of(*_aten(*_BATCH_NORM))
def batch_norm(op: Op) -> Work:
    """Statistics need all of a channel: one pass to collect, one to apply. Evaluation only applies."""
    read, _ = traffic(op)
    training = any(a is True for a in op.args) or "update" in op.name or "group" in op.name
    passes = 2 if training else 1
    return vector_work(op, "reduction", flop=8 * _numel(op), kernels=passes, bytes_read=passes * read)


@work_of(*_aten("native_batch_norm_backward", "cudnn_batch_norm_backward", "miopen_batch_norm_backward",
                "batch_norm_backward", "native_group_norm_backward"))  # fmt: skip
def batch_norm_backward(op: Op) -> Work:
    """One pass over map and gradient for the sums, one for the result."""
    read, _ = traffic(op)
    return vector_work(op, "reduction", flop=12 * _numel(op), kernels=2, bytes_read=2 * read)


# The same in the parts between which ranks meet, as SyncBatchNorm calls them (aten/src/ATen/native/cuda/Normalization.cu).


@work_of(*_aten("batch_norm_stats", "batch_norm_update_stats", "batch_norm_backward_reduce"))
def batch_norm_sums(op: Op) -> Work:
    """One pass over the map, backward over its gradient too; four operations an element: a difference, a product, two sums."""
    return vector_work(op, "reduction", flop=4 * op.args[0].numel)


@work_of(*_aten("batch_norm_gather_stats", "batch_norm_gather_stats_with_counts"))
def batch_norm_gather_stats(op: Op) -> Work:
    """Reads the statistics of all ranks; of the map, which comes along, only the type is asked."""
    return vector_work(op, "reduction", flop=8 * op.args[1].numel, bytes_read=nbytes(op.tensors[1:]))


@work_of(*_aten("batch_norm_elemt", "batch_norm_backward_elemt"))
def batch_norm_elements(op: Op) -> Work:
    """One pass; a scale and a shift by channel, backward by what the sums say besides."""
    return vector_work(op, "elementwise", flop=(6 if "backward" in op.name else 4) * op.args[0].numel)


@work_of(*_aten("nll_loss_backward", "nll_loss2d_backward"))
def nll_loss_backward(op: Op) -> Work:
    """Clears the gradient, then writes one element per row: the scores themselves are not read."""
    target = op.args[2] if len(op.args) > 2 else None
    read = target.nbytes if isinstance(target, TensorMeta) else 0
    return vector_work(op, "elementwise", kernels=2, bytes_read=read)


@work_of(*_aten("nll_loss_forward", "nll_loss2d_forward", "nll_loss"))
def nll_loss(op: Op) -> Work:
    """Reads one score per row, in a 32-byte sector of its own."""
    rows = op.args[1].numel
    return vector_work(op, "reduction", flop=rows, bytes_read=rows * 32 + op.args[1].nbytes)


@work_of(*_aten("native_dropout", "_fused_dropout", "dropout", "alpha_dropout", "feature_dropout"))
def dropout(op: Op) -> Work:
    """x in, y and a byte mask out; the random numbers are made in registers."""
    return vector_work(op, "elementwise", flop=2 * _numel(op))


# Indices ---------------------------------------------------------------------------------------------------------------


def _index_bytes(op: Op) -> int:
    return nbytes(t for t in op.tensors[1:] if t.dtype in ("int64", "int32", "bool", "uint8"))


@work_of(*_aten(*sorted(names.GATHER)))
def gather(op: Op) -> Work:
    """Reads the index and what it names (as much as the result), writes the result; the table itself is not swept."""
    _, written = traffic(op)
    return vector_work(op, "index", flop=_numel(op), bytes_read=_index_bytes(op) + written)


@work_of(*_aten("_embedding_bag", "_embedding_bag_forward_only"))
def embedding_bag(op: Op) -> Work:
    """Reads a row for each index, and writes their sums."""
    table, index = op.args[0], op.args[1]
    rows = table.numel and index.numel * table.nbytes // table.shape[0]
    return vector_work(op, "index", flop=rows // max(table.item_bytes, 1), bytes_read=index.nbytes + rows)


@work_of(*_aten(*sorted(names.SCATTER)))
def scatter(op: Op) -> Work:
    """In place: reads index and source, writes (for sums: reads too) as many elements as the source has. Out of
    place the whole tensor is copied first. An accumulating index_put sorts its indices first (Indexing.cu)."""
    source = [t for t in op.tensors[1:] if t.dtype not in ("int64", "int32", "bool")]
    moved = nbytes(source)
    index = _index_bytes(op)
    touched = moved or index
    sorts = "index_put" in op.name and any(a is True for a in op.args)
    whole = 0 if op.mutates else nbytes(op.outputs)
    kernels = 1 + (0 if op.mutates else 1) + (6 if sorts else 0)
    flop = max((t.numel for t in source or op.tensors[1:]), default=0) if op.mutates else _numel(op)
    return vector_work(op, "index", flop=flop, kernels=kernels, bytes_written=touched + whole,
                       bytes_read=index * (6 if sorts else 1) + 2 * touched + whole)  # fmt: skip


@work_of(*_aten("embedding_dense_backward", "embedding_backward", "_embedding_bag_dense_backward",
                "_embedding_bag_backward"))  # fmt: skip
def embedding_dense_backward(op: Op) -> Work:
    """Clears the whole table's gradient, then adds each row's. Up to 3,072 indices in one kernel; more are sorted
    first (aten/src/ATen/native/cuda/Embedding.cu): about eight launches, eight passes over 8-byte keys and values."""
    grad, index = op.args[0], op.args[1]
    table = nbytes(op.outputs)
    sorts = index.numel > 3072
    read = grad.nbytes * 2 + index.nbytes * (16 if sorts else 1)
    return vector_work(op, "index", flop=grad.numel, kernels=9 if sorts else 2, bytes_read=read,
                       bytes_written=table + grad.nbytes + (index.nbytes * 16 if sorts else 0))  # fmt: skip


@work_of(*_aten(*sorted(names.SORT)))
def sort(op: Op) -> Work:
    """Radix sort: 8 bits a pass, each pass reads and writes keys and 8-byte positions. A selection (topk, kthvalue)
    only reads: 8 bits a pass of histogram."""
    source = op.args[0]
    passes = max(source.item_bytes, 1)
    selects = any(word in op.name for word in ("topk", "kthvalue", "multinomial"))
    moved = source.nbytes * passes if selects else (source.nbytes + 8 * source.numel) * passes
    _, written = traffic(op)
    kernels = 3 if selects else 2 + passes
    return vector_work(op, "sort", flop=source.numel * passes, kernels=kernels, bytes_read=moved,
                       bytes_written=written if selects else moved + written)  # fmt: skip


@work_of(*_both(names.SCAN))
def scan(op: Op) -> Work:
    """One pass; along a long line partial sums take two launches more (ScanUtils.cuh, cub's decoupled look-back)."""
    source = op.args[0]
    long_line = bool(source.shape) and max(source.shape) == source.numel and source.numel > 4096
    return vector_work(op, "reduction", flop=source.numel, kernels=2 if long_line else 1)


# Recurrent cells, transforms, collectives ---------------------------------------------------------------------------------


@work_of(*_aten("_thnn_fused_lstm_cell", "_thnn_fused_lstm_cell_backward_impl", "_thnn_fused_gru_cell",
                "_thnn_fused_gru_cell_backward", "_thnn_fused_lstm_cell_backward"))  # fmt: skip
def recurrent_cell(op: Op) -> Work:
    """Gates in, states out, one launch; about ten operations a gate."""
    return vector_work(op, "elementwise", flop=10 * max((t.numel for t in op.tensors), default=0))


@work_of(*_aten("_fft_r2c", "_fft_c2r", "_fft_c2c"))
def fft(op: Op) -> Work:
    """5*n*log2(n) operations a line (half for real input or output); one pass over memory per 4,096 points
    of line or per transformed dimension."""
    dims = arg(op, 1, "dim", (-1,))
    source, out = op.args[0], op.outputs[0]
    shape = out.shape if "c2r" in op.name else source.shape
    length = max(prod(shape[d] for d in dims), 1)
    points = prod(shape)
    flop = int(5 * points * max(log2(length), 1) * (1 if "c2c" in op.name else 0.5))
    passes = sum(-(-max(shape[d].bit_length() - 1, 1) // 12) for d in dims)
    read, written = traffic(op)
    return vector_work(op, "fft", flop=flop, kernels=passes, bytes_read=read * passes, bytes_written=written * passes)


@family(*names.COLLECTIVE_PREFIXES)
def collective(op: Op) -> Work:
    """What one chip reads and writes; the wire is priced by the network model."""
    read, written = traffic(op)
    return Work(bytes_read=read, bytes_written=written, kind="collective", dtype=main_dtype(op))


family(f"aten.{names.SPECIAL_PREFIX}")(pointwise)


@work_of("anychip.fused")
def fused(op: Op) -> Work:
    """Ops that a compiler made one kernel of: tensors of args come from outside, outputs go outside; the keyword
    ``flop`` sums the ops inside, ``model_flop`` the products among them."""
    flop, model_flop = (int(op.kwarg(name, 0)) for name in ("flop", "model_flop"))
    of_products = {"model_flop": model_flop, "dtype": op.kwarg("dtype")} if model_flop else {}
    return vector_work(op, "fused", flop=flop, memory_share=cast_share(op), **of_products)


@work_of("anychip.sleep")
def sleep(op: Op) -> Work:
    """The chip is told to wait for so many seconds."""
    return Work(kind="sleep", fixed_s=float(op.args[0]))
