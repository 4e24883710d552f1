"""Fused attention of flash-attn and xformers becomes PyTorch's scaled_dot_product_attention, which every vendor's plug-in
has, and which on CUDA runs the same kernel.

They keep heads behind positions, PyTorch before them: hence the transposes. flash-attn's causal mask is aligned at the
lower right (a single new position sees the whole cache), xformers' LowerTriangularMask at the upper left: both stay so.
Windows, slopes, packed sequences of unequal length and returned probabilities have no equal and are left.
"""

import ast

from anychip.port.edits import KERNEL, UNSURE
from anychip.port.unit import Unit

NAME = "attention"
REASON = "PyTorch's own attention: on CUDA the same fused kernel, elsewhere the vendor's"
_FLASH = {
    "flash_attn.flash_attn_func",
    "flash_attn.flash_attn_interface.flash_attn_func",
    "flash_attn_interface.flash_attn_func",
}
_XFORMERS = {"xformers.ops.memory_efficient_attention", "xformers.ops.fmha.memory_efficient_attention"}
_FLASH_NAMES = ("q", "k", "v", "dropout_p", "softmax_scale", "causal")
_XFORMERS_NAMES = ("query", "key", "value", "attn_bias", "p", "scale")
_BIAS = "nn.attention.bias"  # `import torch` alone does not load it
_TRIANGLE = (
    "xformers.ops.LowerTriangularMask",
    "xformers.ops.fmha.LowerTriangularMask",
    "xformers.ops.fmha.attn_bias.LowerTriangularMask",
)

VALID = [
    "from flash_attn import flash_attn_varlen_func\n\ny = flash_attn_varlen_func(q, k, v)\n",
    "from flash_attn import flash_attn_func\n\ny = flash_attn_func(q, k, v, window_size=(8, 0))\n",
    "from mine import flash_attn_func\n\ny = flash_attn_func(q, k, v)\n",
    "from flash_attn import flash_attn_func\n\n\ndef f(q):\n    import torch\n\n    return flash_attn_func(q, q, q, causal=True)\n",
]
INVALID = [
    (
        "import torch\nimport torch.nn.functional as F\nfrom flash_attn import flash_attn_func\n\ny = flash_attn_func(q, k, v, dropout_p=p, softmax_scale=s)\n",
        "import torch\nimport torch.nn.functional as F\n\ny = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), dropout_p=p, scale=s, enable_gqa=True).transpose(1, 2)\n",
        "y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), dropout_p=p, scale=s, enable_gqa=True).transpose(1, 2)\n",
    ),
    (
        "import torch\nfrom flash_attn import flash_attn_func\n\ny = flash_attn_func(q, k, v, causal=True)\n",
        "import torch\nimport torch.nn.attention.bias\n\ny = torch.nn.functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=torch.nn.attention.bias.causal_lower_right(q.size(1), k.size(1)), enable_gqa=True).transpose(1, 2)\n",
        "import torch\nimport torch.nn.attention.bias\n\ny = torch.nn.functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=torch.nn.attention.bias.causal_lower_right(q.size(1), k.size(1)), enable_gqa=True).transpose(1, 2)\n",
    ),
    (
        "import torch\nimport xformers.ops as xops\n\ny = xops.memory_efficient_attention(q, k, v, attn_bias=xops.LowerTriangularMask())\n",
        "y = torch.nn.functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True).transpose(1, 2)\n",
        "y = torch.nn.functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True).transpose(1, 2)\n",
    ),
]


def run(unit: Unit) -> None:
    for call in unit.module.calls:
        name = unit.module.qualified(call.func)
        if name in _FLASH:
            _port(unit, call, name or "", _arguments(call, _FLASH_NAMES), flash=True)
        elif name in _XFORMERS:
            _port(unit, call, name or "", _arguments(call, _XFORMERS_NAMES), flash=False)
        elif name is not None and name.split(".")[0] in ("flash_attn", "flash_attn_interface", "xformers"):
            unit.leave(call, NAME, "no function of PyTorch does just this", KERNEL, name)


def _arguments(call: ast.Call, names: tuple[str, ...]) -> dict[str, ast.expr] | None:
    """Arguments by name; None if there is one that the replacement does not know."""
    if len(call.args) > len(names) or any(isinstance(argument, ast.Starred) for argument in call.args):
        return None
    given = dict(zip(names, call.args, strict=False))
    for keyword in call.keywords:
        if keyword.arg not in names:
            return None
        given[keyword.arg] = keyword.value
    return given if all(name in given for name in names[:3]) else None


def _port(unit: Unit, call: ast.Call, name: str, given: dict[str, ast.expr] | None, flash: bool) -> None:
    words = None if given is None else _flash(unit, given) if flash else _xformers(unit, given)
    if given is None or words is None:
        return unit.leave(call, NAME, "with these arguments PyTorch's attention is not its equal", KERNEL, name)
    if unit.header.place is None and any("causal_lower_right" in word for word in words):
        why = f"its causal mask is in torch.{_BIAS}, and the top has no line of imports that could load it"
        return unit.leave(call, NAME, why, UNSURE, name)
    tensors = [
        f"{_tight(unit, given[key])}.transpose(1, 2)" for key in (_FLASH_NAMES if flash else _XFORMERS_NAMES)[:3]
    ]
    text = f"{_functional(unit)}.scaled_dot_product_attention({', '.join(tensors + words)}).transpose(1, 2)"
    unit.replace(call, text, NAME, REASON, name)
    return None


def _flash(unit: Unit, given: dict[str, ast.expr]) -> list[str] | None:
    source, words = unit.module, []
    causal = given.get("causal")
    if causal is not None and not (isinstance(causal, ast.Constant) and causal.value is False):
        if not (_is_simple(given["q"]) and _is_simple(given["k"])):
            return None
        sizes = ", ".join(f"{source.of(given[key])}.size(1)" for key in ("q", "k"))
        mask = f"{unit.header.submodule(_BIAS)}.causal_lower_right({sizes})"
        always = isinstance(causal, ast.Constant) and causal.value is True
        words.append(f"attn_mask={mask}" + ("" if always else f" if {source.of(causal)} else None"))
    for old, new in (("dropout_p", "dropout_p"), ("softmax_scale", "scale")):
        if old in given:
            words.append(f"{new}={source.of(given[old])}")
    return [*words, "enable_gqa=True"]


def _xformers(unit: Unit, given: dict[str, ast.expr]) -> list[str] | None:
    source, words = unit.module, []
    bias = given.get("attn_bias")
    if isinstance(bias, ast.Call) and unit.module.qualified(bias.func) in _TRIANGLE and not bias.args:
        words.append("is_causal=True")
    elif bias is not None and not (isinstance(bias, ast.Constant) and bias.value is None):
        return None  # a mask in a variable may be one of xformers' own classes
    for old, new in (("p", "dropout_p"), ("scale", "scale")):
        if old in given:
            words.append(f"{new}={source.of(given[old])}")
    return words


def _is_simple(node: ast.expr) -> bool:
    """What can be written twice and means the same."""
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _is_simple(node.value))


def _tight(unit: Unit, node: ast.expr) -> str:
    text = unit.module.of(node)
    return text if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript) else f"({text})"


def _functional(unit: Unit) -> str:
    """torch.nn.functional as the file calls it."""
    own = unit.module.bound_to("torch.nn.functional")
    return own or f"{unit.header.torch_name()}.nn.functional"
