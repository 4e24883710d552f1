"""Formulas of kernels that walk lists of tensors: foreach, the checks of AMP, fused optimizers.

Their bytes are those of all lists; how many launches that takes follows PyTorch's rule (file named below).
"""

from anychip.cost.work import Work, family, nbytes, traffic, vector_work, work_of
from anychip.record import Op, TensorMeta

# aten/src/ATen/native/cuda/MultiTensorApply.cuh: a launch takes at most so many tensors (by the number of lists) and 320
# chunks of 65,536 elements.
CHUNK_ELEMENTS = 65536
CHUNKS_PER_LAUNCH = 320
TENSORS_PER_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}


def multi_tensor_launches(numels: list[int], lists: int) -> int:
    """Launches to walk `lists` equal lists of tensors of `numels` elements, by PyTorch's rule: a launch ends when
    its table of tensors or its table of chunks is full."""
    most_tensors = TENSORS_PER_LAUNCH.get(min(max(lists, 1), 5), 30)
    launches = tensors = chunks = 0
    for numel in numels:
        if not numel:
            continue
        tensors += 1
        left = -(-numel // CHUNK_ELEMENTS)
        while left:
            step = min(left, CHUNKS_PER_LAUNCH - chunks)
            left, chunks = left - step, chunks + step
            full = chunks == CHUNKS_PER_LAUNCH
            if full or (tensors == most_tensors and not left):
                launches += 1
                # A tensor that is not finished stays in the next launch's table.
                chunks, tensors = 0, 1 if left else 0
    return launches + (1 if chunks else 0)


def tensor_lists(op: Op) -> list[tuple[TensorMeta, ...]]:
    """The arguments that are lists of tensors."""
    values = op.args + tuple(value for _, value in op.kwargs)
    return [value for value in values if isinstance(value, tuple) and value and isinstance(value[0], TensorMeta)]


OVERWRITING = ("aten._foreach_copy_", "aten._foreach_zero_")  # lists that are written only


@family("aten._foreach_")
def foreach(op: Op) -> Work:
    """A point-wise op over lists: all bytes, and launches by the multi-tensor rule; out of place the results
    are one list more. A norm's partial results take one launch more."""
    lists = tensor_lists(op)
    if not lists:
        return Work(kernels=0)
    count = len(lists) + (0 if op.mutates else 1)
    launches = multi_tensor_launches([t.numel for t in lists[0]], count)
    if "norm" in op.name or ".max" in op.name:
        launches += -(-len(lists[0]) // 110)
    flop = sum(t.numel for t in lists[0])
    read = traffic(op, overwrites=op.name.startswith(OVERWRITING))[0]
    return vector_work(op, "optimizer", flop=flop, kernels=launches, bytes_read=read)


@work_of("aten._amp_foreach_non_finite_check_and_unscale_", "aten._amp_foreach_non_finite_check_and_unscale")
def amp_unscale(op: Op) -> Work:
    """Reads and writes every gradient."""
    return foreach(op)


@work_of("aten._amp_update_scale_", "aten._amp_update_scale")
def amp_update_scale(op: Op) -> Work:
    return vector_work(op, "optimizer")


# Lists that a fused optimizer writes, of those it is given; gradients are only read.
_WRITTEN = {"adam": (0, 2, 3, 4), "adamw": (0, 2, 3, 4), "sgd": (0, 2), "adagrad": (0, 2)}


@work_of(*[f"aten._fused_{name}{form}" for name in _WRITTEN for form in ("_", "")])
def fused_optimizer(op: Op) -> Work:
    """All lists read once; parameters and states written once. 20 operations an element for Adam, 6 for SGD. The
    states' step counters take one small launch."""
    written_lists = _WRITTEN[op.name.split(".")[1].removeprefix("_fused_").removesuffix("_")]
    big = [value if isinstance(value, tuple) else () for value in op.args[:5]]
    lists = [value for value in big if value and isinstance(value[0], TensorMeta) and value[0].numel == big[0][0].numel]
    read = sum(nbytes(value) for value in lists)
    written = sum(nbytes(big[i]) for i in written_lists if i < len(big) and big[i] in lists)
    numels = [tensor.numel for tensor in big[0]] if big and big[0] else []
    launches = multi_tensor_launches(numels, len(lists))
    per_element = 20 if "adam" in op.name else 6
    return vector_work(op, "optimizer", flop=per_element * sum(numels), kernels=launches, bytes_read=read,
                       bytes_written=written)  # fmt: skip
