"""Stand-in for bitsandbytes: 8-bit optimizers (one op per parameter, as there), int8 and 4-bit linear layers.

Values are not quantised really: sizes, bytes and products are what count.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from anychip.standins import recording

VERSION = "0.47.0"

Tensor = torch.Tensor

BLOCK = 256  # elements that share a scale in an optimizer's state
SMALLEST = 4096  # smaller parameters keep 32-bit state


# Optimizers -----------------------------------------------------------------------------------------------------------


class BlockwiseOptimizer(torch.optim.Optimizer):
    """One kernel per parameter. states: how many state tensors an element has; bits: their size. Its parts have the library's
    names, for optimizers that are made of these (GaLore's). Raises RuntimeError for parameters on the CPU."""

    states = 2
    flop = 14
    bits = 8

    def __init__(self, params: Any, lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
                 amsgrad: bool = False, optim_bits: int | None = None, args: Any = None, min_8bit_size: int = SMALLEST,
                 *_options: Any, is_paged: bool = False, **options: Any) -> None:  # fmt: skip
        self.state_bits = optim_bits if optim_bits is not None and self.bits == 32 else self.bits
        self.smallest, self.is_paged, self.initialized = min_8bit_size, is_paged, True
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **options})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            for at, one in enumerate(group["params"]):
                if one.grad is None:
                    continue
                if "state1" not in self.state[one]:
                    self.init_state(group, one, number, at)
                self.update_step(group, one, number, at)
        return loss

    def update_step(self, group: Any, parameter: Tensor, gindex: int, pindex: int) -> None:
        if not recording.any_on_chip([parameter]):
            raise RuntimeError("bitsandbytes' optimizers work on parameters on the chip, and this one is on the CPU")
        state = self.state[parameter]
        state["step"] += 1
        tensors = [one for one in state.values() if isinstance(one, Tensor)]
        flop = self.flop * parameter.numel()
        name = f"custom.bitsandbytes.optimizer_{self.state_bits}bit"
        recording.launch(name, (parameter, parameter.grad, *tensors), (), [parameter, *tensors], (("flop", flop),))

    def init_state(self, group: Any, parameter: Tensor, gindex: int, pindex: int) -> None:
        state = self.state[parameter]
        small = self.state_bits == 32 or parameter.numel() < self.smallest
        for n in range(1, self.states + 1):
            dtype = torch.float32 if small else torch.uint8
            state[f"state{n}"] = torch.zeros_like(parameter, dtype=dtype)
            if not small:
                blocks = -(-parameter.numel() // BLOCK)
                state[f"absmax{n}"] = torch.zeros(blocks, dtype=torch.float32, device=parameter.device)
        state["step"] = 0

    def prefetch_state(self, parameter: Tensor) -> None:
        """Of a paged one; its pages are on the chip here."""


class _OneState(BlockwiseOptimizer):
    states, flop = 1, 6


def _base(name: str, of: type[BlockwiseOptimizer]) -> type[BlockwiseOptimizer]:
    """What the library's own optimizers are made of: it is told which one it is, and is of 32 bits unless told otherwise."""

    def begin(self: Any, _optimizer_name: str, params: Any, lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8,
              weight_decay: float = 0.0, optim_bits: int = 32, *rest: Any, **options: Any) -> None:  # fmt: skip
        of.__init__(self, params, lr, betas, eps, weight_decay, False, optim_bits, *rest, **options)

    return type(name, (of,), {"bits": 32, "__init__": begin})


def _optimizer(name: str, base: type[BlockwiseOptimizer], bits: int) -> type[BlockwiseOptimizer]:
    return type(name, (base,), {"bits": bits, "__doc__": f"{name} of bitsandbytes; state of {bits} bits."})


_OPTIMIZERS: dict[str, Any] = {
    f"{paged}{name}{suffix}": _optimizer(f"{paged}{name}{suffix}", base, 8 if suffix == "8bit" else 32)
    for name, base in (
        ("Adam", BlockwiseOptimizer), ("AdamW", BlockwiseOptimizer), ("Lion", _OneState), ("SGD", _OneState),
        ("RMSprop", _OneState), ("Adagrad", _OneState), ("LAMB", BlockwiseOptimizer), ("LARS", _OneState),
    )
    for paged in (("", "Paged") if name in ("Adam", "AdamW", "Lion") else ("",))
    for suffix in ("", "8bit", "32bit")
}  # fmt: skip


class GlobalOptimManager:
    """Overrides per parameter; they change sizes too little to be followed."""

    _instance: "GlobalOptimManager | None" = None

    @classmethod
    def get_instance(cls) -> "GlobalOptimManager":
        cls._instance = cls._instance or cls()
        return cls._instance

    def register_parameters(self, params: Any) -> None:
        pass

    def override_config(self, parameters: Any, key: Any = None, value: Any = None, key_value_dict: Any = None) -> None:
        pass

    def register_module_override(self, module: Any, param_name: str, config: Any) -> None:
        pass


# 4-bit layers ---------------------------------------------------------------------------------------------------------


class QuantState:
    """Shape and dtype of the tensor that was quantised, and its scales, one per block."""

    def __init__(self, absmax: Tensor, shape: Any, dtype: torch.dtype, blocksize: int, quant_type: str) -> None:
        self.absmax, self.shape, self.dtype, self.blocksize, self.quant_type = (
            absmax,
            shape,
            dtype,
            blocksize,
            quant_type,
        )


def quantize_4bit(A: Tensor, absmax: Any = None, out: Any = None, blocksize: int = 64, compress_statistics: bool = False,
                  quant_type: str = "fp4", quant_storage: torch.dtype = torch.uint8) -> tuple[Tensor, QuantState]:  # fmt: skip
    """[...] -> ([elements / 2, 1] bytes, scales). With `compress_statistics` the scales are bytes themselves."""
    packed = torch.empty((-(-A.numel() // 2) // quant_storage.itemsize, 1), dtype=quant_storage, device=A.device)
    scale_dtype = torch.uint8 if compress_statistics else torch.float32
    scales = torch.empty(-(-A.numel() // blocksize), dtype=scale_dtype, device=A.device)
    if recording.any_on_chip([A]):
        recording.launch("custom.bitsandbytes.quantize_4bit", (A, packed, scales), (), [packed, scales],
                         (("flop", 4 * A.numel()),))  # fmt: skip
    return packed, QuantState(scales, A.shape, A.dtype, blocksize, quant_type)


def dequantize_4bit(A: Tensor, quant_state: QuantState, *_args: Any, **_options: Any) -> Tensor:
    """The bytes back as a tensor of the original shape and dtype."""
    if not recording.any_on_chip([A]):
        return torch.zeros(quant_state.shape, dtype=quant_state.dtype)
    elements = 1
    for size in quant_state.shape:
        elements *= size
    like = torch.empty(quant_state.shape, dtype=quant_state.dtype, device="meta")
    made = recording.launch("custom.bitsandbytes.dequantize_4bit", (A, quant_state.absmax), [recording.layout(like)],
                            (), (("flop", 2 * elements),))  # fmt: skip
    result: Tensor = made[0]
    return result


class MatMul4Bit(torch.autograd.Function):
    """Input by a weight made 16 bits wide by one kernel, and again in the backward: only the 4 bits are kept."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, B: Tensor, out: Any = None, bias: Any = None, quant_state: Any = None) -> Tensor:
        ctx.packed, ctx.state = B, quant_state
        return F.linear(A, dequantize_4bit(B, quant_state).to(A.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        wide = dequantize_4bit(ctx.packed, ctx.state).to(grad.dtype) if ctx.needs_input_grad[0] else None
        bias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.needs_input_grad[3] else None
        return grad @ wide if wide is not None else None, None, None, bias, None


def gemv_4bit(A: Tensor, B: Tensor, out: Any = None, transposed_A: bool = False, transposed_B: bool = False,
              state: Any = None) -> Tensor:  # fmt: skip
    """One row by a weight of 4 bits, which is read as it is."""
    rows, width = state.shape
    if not recording.any_on_chip([A]):
        return torch.zeros(*A.shape[:-1], rows, dtype=A.dtype)
    like = torch.empty(*A.shape[:-1], rows, dtype=A.dtype, device="meta")
    made = recording.launch("custom.bitsandbytes.gemv_4bit", (A, B, state.absmax), [recording.layout(like)], (),
                            (("flop", 2 * rows * width),))  # fmt: skip
    result: Tensor = made[0]
    return result


def matmul_4bit(A: Tensor, B: Tensor, quant_state: QuantState, out: Any = None, bias: Any = None) -> Tensor:
    """[..., k] by a quantised [n, k], given turned or not. One row that nobody needs a gradient of goes to `gemv_4bit`."""
    if A.numel() == A.shape[-1] and not A.requires_grad:
        result = gemv_4bit(A, B, state=quant_state)
        return result if bias is None else result + bias
    return MatMul4Bit.apply(A, B, out, bias, quant_state)  # type: ignore[no-any-return, no-untyped-call]


class Params4bit(torch.nn.Parameter):
    """A weight that becomes 4 bits wide when it is moved to the chip."""

    quant_state: QuantState | None
    compress_statistics: bool
    quant_type: str
    bnb_quantized: bool

    def __new__(cls, data: Any = None, requires_grad: bool = False, quant_state: Any = None, blocksize: int = 64,
                compress_statistics: bool = True, quant_type: str = "fp4", quant_storage: torch.dtype = torch.uint8,
                module: Any = None, bnb_quantized: bool = False, **_options: Any) -> "Params4bit":  # fmt: skip
        made: Params4bit = torch.Tensor._make_subclass(cls, torch.empty(0) if data is None else data, requires_grad)
        made.quant_state, made.compress_statistics, made.quant_type = quant_state, compress_statistics, quant_type
        made.quant_storage, made.blocksize, made.module = quant_storage, blocksize, module  # type: ignore[attr-defined]
        made.bnb_quantized = bnb_quantized
        return made

    def to(self, *args: Any, **kwargs: Any) -> Any:
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        moved = torch.Tensor.to(self.data, *args, **kwargs)
        options = {"blocksize": self.blocksize, "compress_statistics": self.compress_statistics,  # type: ignore[attr-defined]
                   "quant_type": self.quant_type, "quant_storage": self.quant_storage, "module": self.module}  # type: ignore[attr-defined]  # fmt: skip
        if device is None or device.type in ("cpu", "meta") or self.quant_state is not None:
            return Params4bit(moved, self.requires_grad, self.quant_state, **options, bnb_quantized=self.bnb_quantized)
        packed, state = quantize_4bit(moved, None, None, options["blocksize"], self.compress_statistics, self.quant_type,
                                      options["quant_storage"])  # fmt: skip
        if self.module is not None:  # type: ignore[attr-defined]
            self.module.quant_state = state  # type: ignore[attr-defined]
        # In place, as there: a module that is moved keeps its parameter and takes its data.
        self.data, self.quant_state, self.bnb_quantized = packed, state, True
        return self

    def cuda(self, device: Any = None, non_blocking: bool = False) -> Any:  # type: ignore[override]
        return self.to(device="cuda" if device is None else device, non_blocking=non_blocking)


class Linear4bit(torch.nn.Linear):
    """A product by a weight of 4 bits; by a plain one until it is moved to the chip."""

    def __init__(self, input_features: int, output_features: int, bias: bool = True, compute_dtype: Any = None,
                 compress_statistics: bool = True, quant_type: str = "fp4", quant_storage: torch.dtype = torch.uint8,
                 device: Any = None) -> None:  # fmt: skip
        super().__init__(input_features, output_features, bias, device)
        self.weight = Params4bit(
            self.weight.data, False, None, 64, compress_statistics, quant_type, quant_storage, self
        )
        self.compute_dtype = compute_dtype

    def forward(self, x: Tensor) -> Tensor:
        state = getattr(self.weight, "quant_state", None) or getattr(self, "quant_state", None)
        dtype = self.compute_dtype or x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        if state is None:
            return F.linear(x.to(dtype), self.weight.to(dtype), bias).to(x.dtype)
        return matmul_4bit(x.to(dtype), self.weight.data.t(), state, bias=bias).to(x.dtype)


class LinearFP4(Linear4bit):
    pass


class LinearNF4(Linear4bit):
    def __init__(self, input_features: int, output_features: int, bias: bool = True, compute_dtype: Any = None,
                 compress_statistics: bool = True, quant_storage: torch.dtype = torch.uint8, device: Any = None) -> None:  # fmt: skip
        super().__init__(
            input_features, output_features, bias, compute_dtype, compress_statistics, "nf4", quant_storage, device
        )


# int8 layers ----------------------------------------------------------------------------------------------------------


class _Int8Linear(torch.autograd.Function):
    """Rows of the input and of the weight as int8 with a scale each, an int8 product, one kernel back to 16 bits. threshold: the
    host asks whether an input is above it, whose columns would be multiplied in 16 bits; none is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Any, threshold: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        half = rows.to(torch.float16)
        if threshold > 0.0:
            (half.abs() >= threshold).any()
            torch.cuda.current_stream().synchronize()
        (x8, _), (w8, _) = _to_int8(half), (weight.data, None) if weight.dtype == torch.int8 else _to_int8(weight)
        if any(ctx.needs_input_grad[:2]):
            # As there: in attributes, which a backward does not free, and the input also where only its gradient is wanted.
            ctx.kept, ctx.weight = rows, w8
        ctx.shape = x.shape
        return _from_int8(x8, w8, bias, x.dtype).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        of_x = of_weight = None
        rows = grad.reshape(-1, grad.shape[-1])
        if ctx.needs_input_grad[1]:
            (g8, _), (x8, _) = _to_int8(rows.to(torch.float16)), _to_int8(ctx.kept.to(torch.float16))
            of_weight = _from_int8(g8.t().contiguous(), x8.t().contiguous(), None, torch.float16).to(ctx.kept.dtype)
        if ctx.needs_input_grad[0]:
            wide = ctx.weight.to(ctx.kept.dtype, copy=True).mul_(1.0 / 127.0)
            of_x = (rows.to(ctx.kept.dtype) @ wide).view(ctx.shape)
        return of_x, of_weight, rows.sum(0) if ctx.needs_input_grad[2] else None, None


def _from_int8(x8: Tensor, w8: Tensor, bias: Any, dtype: torch.dtype) -> Tensor:
    """[m, k] and [n, k] of int8 -> [m, n], by the scales of their rows."""
    product = torch._int_mm(x8, w8.t())
    out = torch.empty(product.shape, dtype=dtype, device="meta")
    made = recording.launch("custom.bitsandbytes.dequantize_int8", (product, bias), [recording.layout(out)], (),
                            (("flop", 3 * product.numel()),))  # fmt: skip
    return made[0]  # type: ignore[no-any-return]


def _to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    eight = torch.empty(x.shape, dtype=torch.int8, device="meta")
    scales = torch.empty(x.shape[0], dtype=torch.float32, device="meta")
    made = recording.launch("custom.bitsandbytes.quantize_int8", (x,), [recording.layout(eight), recording.layout(scales)],
                            (), (("flop", 3 * x.numel()),))  # fmt: skip
    return made[0], made[1]


class Int8Params(torch.nn.Parameter):
    """A weight that becomes int8 when it is moved to the chip."""

    def __new__(cls, data: Any = None, requires_grad: bool = False, has_fp16_weights: bool = False, CB: Any = None,
                SCB: Any = None, **_options: Any) -> "Int8Params":  # fmt: skip
        made: Int8Params = torch.Tensor._make_subclass(cls, torch.empty(0) if data is None else data, requires_grad)
        made.has_fp16_weights, made.CB, made.SCB = has_fp16_weights, CB, SCB  # type: ignore[attr-defined]
        return made

    def to(self, *args: Any, **kwargs: Any) -> Any:
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        moved = torch.Tensor.to(self.data, *args, **kwargs)
        stays = device is None or device.type in ("cpu", "meta") or self.dtype == torch.int8
        if stays or self.has_fp16_weights:  # type: ignore[attr-defined]
            return Int8Params(moved, self.requires_grad, self.has_fp16_weights)  # type: ignore[attr-defined]
        eight, scales = _to_int8(moved.half())
        return Int8Params(eight, False, False, eight, scales)

    def cuda(self, device: Any = None, non_blocking: bool = False) -> Any:  # type: ignore[override]
        return self.to(device="cuda" if device is None else device, non_blocking=non_blocking)


class MatmulLtState:
    """What a layer keeps beside its weight. memory_efficient_backward: of older releases, which adapters read still."""

    CB: Tensor | None = None
    SCB: Tensor | None = None
    idx: Tensor | None = None
    threshold = 0.0
    has_fp16_weights = True
    is_training = True
    use_pool = False
    memory_efficient_backward = False

    def reset_grads(self) -> None:
        self.CB = self.SCB = None


class Linear8bitLt(torch.nn.Linear):
    def __init__(self, input_features: int, output_features: int, bias: bool = True, has_fp16_weights: bool = True,
                 threshold: float = 0.0, index: Any = None, device: Any = None) -> None:  # fmt: skip
        super().__init__(input_features, output_features, bias, device)
        self.weight = Int8Params(self.weight.data, has_fp16_weights, has_fp16_weights)
        self.state, self.index = MatmulLtState(), index
        self.state.threshold, self.state.has_fp16_weights = threshold, has_fp16_weights
        self.state.use_pool = threshold > 0.0 and not has_fp16_weights

    def forward(self, x: Tensor) -> Tensor:
        if not recording.any_on_chip([x]):
            return F.linear(x, self.weight.to(x.dtype), self.bias)
        self.state.is_training = self.training
        result: Tensor = _Int8Linear.apply(x, self.weight, self.bias, self.state.threshold)  # type: ignore[no-untyped-call]
        return result


class StableEmbedding(torch.nn.Embedding):
    """An embedding followed by a norm."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_embeddings, embedding_dim, *args, **kwargs)
        self.norm = torch.nn.LayerNorm(embedding_dim, device=kwargs.get("device"))

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.norm(super().forward(input))
        return result


_FUNCTIONAL: dict[str, Any] = {
    "quantize_4bit": quantize_4bit, "dequantize_4bit": dequantize_4bit, "QuantState": QuantState,
    "quantize_nf4": lambda A, **options: quantize_4bit(A, quant_type="nf4", **options),
    "quantize_fp4": lambda A, **options: quantize_4bit(A, quant_type="fp4", **options),
    "dequantize_nf4": dequantize_4bit, "dequantize_fp4": dequantize_4bit, "gemv_4bit": gemv_4bit,
}  # fmt: skip
_NN: dict[str, Any] = {
    "Linear8bitLt": Linear8bitLt, "Linear4bit": Linear4bit, "LinearNF4": LinearNF4, "LinearFP4": LinearFP4,
    "Params4bit": Params4bit, "Int8Params": Int8Params, "StableEmbedding": StableEmbedding, "Embedding": torch.nn.Embedding,
}  # fmt: skip

MODULES: dict[str, dict[str, Any]] = {
    "bitsandbytes": {
        "matmul_4bit": matmul_4bit,
        "MatmulLtState": MatmulLtState,
        "supported_torch_devices": {"cpu", "cuda"},
        "features": {"multi_backend"},
    },
    "bitsandbytes.autograd._functions": {"MatMul4Bit": MatMul4Bit, "MatmulLtState": MatmulLtState},
    "bitsandbytes.optim": {**_OPTIMIZERS, "GlobalOptimManager": GlobalOptimManager},
    "bitsandbytes.optim.optimizer": {
        "Optimizer2State": _base("Optimizer2State", BlockwiseOptimizer),
        "Optimizer1State": _base("Optimizer1State", _OneState),
    },
    "bitsandbytes.nn": _NN,
    "bitsandbytes.nn.modules": _NN,
    "bitsandbytes.functional": _FUNCTIONAL,
}

UNCOVERED: dict[str, tuple[str, ...]] = {
    "bitsandbytes": ("research", "triton", "cextension", "matmul", "modules"),
    "bitsandbytes.nn": ("OutlierAwareLinear", "SwitchBackLinear", "Embedding8bit", "Embedding4bit", "EmbeddingNF4"),
    "bitsandbytes.optim": ("AdEMAMix", "AdEMAMix8bit", "PagedAdEMAMix"),
    "bitsandbytes.functional": ("quantize_blockwise", "dequantize_blockwise", "int8_vectorwise_quant",
                                "create_dynamic_map", "igemmlt"),
}  # fmt: skip
