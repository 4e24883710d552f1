"""What torch refuses before a kernel runs: tensors of one call on different devices, or of dtypes that do not go together.

Most operators promote dtypes; torch's meta kernels refuse what some others do not take. The rest, which only torch's kernels for
chips look at, are rows of `SAME`, with the words of those kernels (aten/src/ATen/native, `cuda/` where there is one). It is looked
at where a call is seen for the first time, after autocast has cast.
"""

from typing import Any

import torch

from anychip.device.ops.schemas import Schema

# Arguments that may stay on the host though the others are on the chip.
HOST_ALLOWED = {"indices", "lengths", "input_lengths", "target_lengths", "batch_sizes"}

# Base name of an operator -> (an argument, one whose dtype it must have, what is said otherwise). {a}, {b}: their dtypes as
# torch names types (Float), {c_a}, {c_b}: as C++ does (float), {type_a}, {type_b}: with the device (torch.cuda.FloatTensor).
MATRICES = " must have the same dtype, but got {a} and {b}"
INDEX_FUNCTION = "(): self ({b}) and source ({a}) must have the same scalar type"
POSITIONS = (
    "Index put requires the source and destination dtypes match, got {b} for the destination and {a} for the source."
)
KERNEL = "expected scalar type {b} but found {a}"  # where a kernel takes an argument's address as one of its type
SAME: dict[str, tuple[tuple[str, str, str], ...]] = {
    "mm": (("mat2", "self_", "expected mat1 and mat2 to have the same dtype, but got: {c_b} != {c_a}"),),
    **dict.fromkeys(
        ("addmm", "addmm_", "_addmm_activation"), (("self_", "mat2", "self and mat2" + MATRICES), ("mat1", "mat2", "mat1 and mat2" + MATRICES))
    ),
    "addbmm": (("batch1", "batch2", "mat1 and mat2" + MATRICES),),
    "mv": (("vec", "self_", KERNEL),),
    **dict.fromkeys(("addmv", "addmv_"), (("vec", "mat", KERNEL),)),
    "convolution": (
        ("weight", "input", "Input type ({type_b}) and weight type ({type_a}) should be the same"),
        ("bias", "input", "Input type ({c_b}) and bias type ({c_a}) should be the same"),
    ),
    "native_layer_norm": (("weight", "input", KERNEL), ("bias", "input", KERNEL)),
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), (("weight", "self_", KERNEL),)),
    "binary_cross_entropy": (("target", "self_", "Found dtype {a} but expected {b}"),),
    **{name: (("source", "self_", f"{name.rstrip('_')}_{INDEX_FUNCTION}"),) for name in ("index_add", "index_add_")},
    **dict.fromkeys(
        ("index_copy", "index_copy_"),
        (("source", "self_", "index_copy_(): self and source expected to have the same dtype, but got (self) {b} and (source) {a}"),),
    ),
    **dict.fromkeys(("index_put", "index_put_", "_index_put_impl_"), (("values", "self_", POSITIONS),)),
}  # fmt: skip
# Base name -> an argument, the dtypes that it may have, what is said otherwise.
ONE_OF: dict[str, tuple[str, tuple[torch.dtype, ...], str]] = {
    **dict.fromkeys(
        ("nll_loss_forward", "nll_loss2d_forward"),
        ("target", (torch.int64, torch.uint8), "expected target dtype to be Long or Byte, but got {a}"),
    ),
    "index_select": ("index", (torch.int64, torch.int32), "index_select(): Expected dtype int32 or int64 for index"),
}
IN_CXX = {
    "Float": "float", "Double": "double", "Long": "long int", "Int": "int", "Short": "short int", "Char": "signed char",
    "Byte": "unsigned char", "Bool": "bool",
}  # fmt: skip


def dtypes(schema: Schema, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise torch's RuntimeError if dtypes do not go together in an operator that promotes none."""
    if schema.base not in SAME and schema.base not in ONE_OF:
        return
    given = dict(zip((one.name for one in schema.arguments if not one.kwarg_only), args, strict=False)) | kwargs
    to_another = schema.overload_name.startswith(
        "dtype"
    )  # what comes out, and what it is added to, has a dtype of its own
    for name, other, said in SAME.get(schema.base, ()):
        if to_another and name == "self_":
            continue
        one, two = given.get(name), given.get(other)
        if one is not None and two is not None and one.dtype != two.dtype:
            raise RuntimeError(said.format(**_named(a=one, b=two)))
    if schema.base in ONE_OF:
        name, allowed, said = ONE_OF[schema.base]
        if given[name].dtype not in allowed:
            raise RuntimeError(said.format(**_named(a=given[name])))


def _named(**tensors: torch.Tensor) -> dict[str, str]:
    """The names of tensors' dtypes, as torch's messages have them."""
    names: dict[str, str] = {}
    for key, tensor in tensors.items():
        kind = tensor.type()
        scalar = kind.rpartition(".")[2].removesuffix("Tensor")
        names |= {key: scalar, f"c_{key}": cxx(scalar), f"type_{key}": kind}
    return names


def cxx(scalar: str) -> str:
    """torch's name of a dtype (Float) -> that of its C++ type."""
    return IN_CXX.get(scalar, f"c10::{scalar}")


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> None:
    """What `scaled_dot_product_attention` refuses before it picks a kernel (validate_sdpa_input in torch's attention.cpp)."""
    if not query.dtype == key.dtype == value.dtype:
        names = _named(q=query, k=key, v=value)
        raise RuntimeError(
            f"Expected query, key, and value to have the same dtype, but got query.dtype: {names['c_q']} "
            f"key.dtype: {names['c_k']} and value.dtype: {names['c_v']} instead."
        )
    if mask is not None and mask.dtype not in (torch.bool, torch.float32, query.dtype):
        names = _named(m=mask, q=query)
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
            f"{names['c_m']} and  query.dtype: {names['c_q']} instead."
        )


def same_device(schema: Schema, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise torch's RuntimeError if two tensors are on different devices. A host scalar (0-dim) is welcome anywhere."""
    if schema.unchecked:
        return
    given = zip((argument for argument in schema.arguments if not argument.kwarg_only), args, strict=False)
    named = [(argument.name, value) for argument, value in given] + list(kwargs.items())
    first: torch.device | None = None
    for name, value in named:
        if name in HOST_ALLOWED:
            continue
        for tensor in value if isinstance(value, list | tuple) else (value,):
            if not isinstance(tensor, torch.Tensor) or (tensor.dim() == 0 and tensor.device.type == "cpu"):
                continue
            if first is None:
                first = tensor.device
            elif tensor.device != first:
                raise RuntimeError(_message(schema, name, tensor.device, first))


def _message(schema: Schema, name: str, device: torch.device, first: torch.device) -> str:
    if torch.Tag.pointwise in schema.overload().tags:
        return f"Expected all tensors to be on the same device, but found at least two devices, {first} and {device}!"
    return (
        f"Expected all tensors to be on the same device, but got {name} is on {device}, different from other tensors "
        f"on {first} (when checking argument in method wrapper_CUDA_{schema.base})"
    )
