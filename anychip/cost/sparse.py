"""Formulas of sparse products: each value that is there meets a row of the dense matrix."""

from anychip.cost.work import Work, nbytes, traffic, vector_work, work_of
from anychip.record import Op, TensorMeta

INDEX = ("int64", "int32")


def _floating(op: Op, dims: int) -> list[TensorMeta]:
    return [one for one in op.tensors if one.dtype not in INDEX and len(one.shape) == dims]


@work_of("aten._sparse_mm")
def sparse_mm(op: Op) -> Work:
    """Sparse [m, k] of nnz values times dense [k, n]. flop: 2*nnz*n, a multiply and an add for each value and column.
    bytes: indices and values once, a row of n elements for each value, the result. Two launches: indices of rows are
    compressed first (aten/src/ATen/native/sparse/cuda/SparseCUDABlas.cpp).

    Of two sparse ones, each value of the first meets the values of one row of the second, nnz2/k on average; `inner` is
    k. Symbolic and numeric pass, each over all that meet.
    """
    values, dense = _floating(op, 1), _floating(op, 2)
    index_bytes = nbytes(one for one in op.tensors if one.dtype in INDEX)
    nnz = values[0].numel if values else 0
    if not dense:
        meet = nnz * (values[-1].numel / max(op.kwarg("inner", 1), 1))
        moved = int(meet * (values[-1].item_bytes + 8)) if values else 0
        return vector_work(op, "index", flop=int(2 * meet), kernels=6, bytes_read=2 * (index_bytes + moved))
    columns = dense[0].shape[1]
    gathered = nnz * columns * dense[0].item_bytes
    added = nbytes(dense[1:])
    return vector_work(op, "index", flop=2 * nnz * columns, kernels=2,
                       bytes_read=index_bytes + nbytes(values) + gathered + added)  # fmt: skip


@work_of("aten._sparse_mv")
def sparse_mv(op: Op) -> Work:
    """Sparse [m, k] times a vector: an element of it for each value."""
    nnz = max((one.numel for one in op.tensors if one.dtype in INDEX), default=0)
    read, _ = traffic(op)
    return vector_work(op, "index", flop=2 * nnz, kernels=2, bytes_read=read + 4 * nnz)


@work_of("aten._sparse_add_")
def add_in_place(op: Op) -> Work:
    """A dense tensor plus a sparse one of nnz values: what is there of it at these places is read and written. Two launches:
    places are made numbers first (add_out_dense_sparse_cuda in aten/src/ATen/native/sparse/cuda/SparseCUDATensorMath.cu)."""
    indices, values = op.tensors[1:3]
    return vector_work(op, "index", flop=2 * values.numel, kernels=2, bytes_read=indices.nbytes + 2 * values.nbytes,
                       bytes_written=values.nbytes)  # fmt: skip


@work_of("aten._coalesce")
def coalesce(op: Op) -> Work:
    """Places are sorted as 8-byte keys with 8-byte positions, 8 bits a pass, then values gathered and summed."""
    indices = next((one for one in op.tensors if one.dtype in INDEX), None)
    nnz = indices.shape[-1] if indices is not None and indices.shape else 0
    read, written = traffic(op)
    return vector_work(op, "sort", flop=8 * nnz, kernels=14, bytes_read=read + 8 * 16 * nnz,
                       bytes_written=written + 8 * 16 * nnz)  # fmt: skip


@work_of("aten._to_sparse_csr", "aten._convert_indices_from_coo_to_csr", "aten._convert_indices_from_csr_to_coo")
def compress(op: Op) -> Work:
    """One pass over the indices of rows, one over what is copied."""
    return vector_work(op, "index", kernels=2)
