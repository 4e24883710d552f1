"""Small builders for tests: tensors and ops as the recorder writes them."""

from anychip.record import Op, TensorMeta


def t(*shape, dtype="bfloat16", stride=None, on_chip=True):
    """A contiguous tensor, unless a stride is given."""
    if stride is None:
        stride, step = [], 1
        for size in reversed(shape):
            stride.insert(0, step)
            step *= max(size, 1)
    return TensorMeta(tuple(shape), tuple(stride), dtype, on_chip)


def op(name, *args, out=(), mutates=(), **kwargs):
    outputs = (out,) if isinstance(out, TensorMeta) else tuple(out)
    return Op(name, args, tuple(kwargs.items()), outputs, tuple(mutates))


def mm(m, n, k, dtype="bfloat16"):
    return op("aten.mm.default", t(m, k, dtype=dtype), t(k, n, dtype=dtype), out=t(m, n, dtype=dtype))


def add(*shape, dtype="bfloat16"):
    x = t(*shape, dtype=dtype)
    return op("aten.add.Tensor", x, x, out=x)


def from_torch(func, args, kwargs, result):
    """What the recorder would write for a call on torch tensors (meta ones will do)."""
    import torch

    def convert(value):
        if isinstance(value, torch.Tensor):
            return TensorMeta(tuple(value.shape), tuple(value.stride()), str(value.dtype).removeprefix("torch."))
        if isinstance(value, list | tuple):
            return tuple(convert(item) for item in value)
        return str(value).removeprefix("torch.") if isinstance(value, torch.dtype | torch.device) else value

    results = result if isinstance(result, list | tuple) else (result,)
    outputs = tuple(convert(item) for item in results if isinstance(item, torch.Tensor))
    name = str(func)
    return Op(name, convert(args), tuple((k, convert(v)) for k, v in kwargs.items()), outputs)
