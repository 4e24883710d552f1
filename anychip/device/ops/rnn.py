"""LSTM, GRU and RNN as an accelerator runs them: one library call a layer stack, not an op per gate and time step.

torch's own composition runs on any device, one small op after another; on CUDA it calls cuDNN. The rule here is
torch's on CUDA: cuDNN unless `torch.backends.cudnn.enabled` is off or the dtype is not one of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from anychip.device.insides._torch_host import implement

RELU, TANH, LSTM, GRU = 0, 1, 2, 3  # cuDNN's modes, as `aten::_cudnn_rnn` takes them
CUDNN_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MODES = {"lstm": LSTM, "gru": GRU, "rnn_tanh": TANH, "rnn_relu": RELU}

Hidden = Sequence[torch.Tensor] | torch.Tensor  # an LSTM has two, hidden and cell


def padded(mode: int, decompose: Callable[..., Any]) -> Callable[..., Any]:
    """Kernel of `lstm.input` and its kin: input [T, B, I] (or [B, T, I]) -> output [T, B, H], hidden states [L, B, H]."""

    def kernel(
        input: torch.Tensor, hx: Hidden, params: Sequence[torch.Tensor], has_biases: bool, num_layers: int,
        dropout: float, train: bool, bidirectional: bool, batch_first: bool,
    ) -> Any:  # fmt: skip
        if not _cudnn(input):
            return decompose(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
        return _run(mode, input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, [])

    return kernel


def packed(mode: int, decompose: Callable[..., Any]) -> Callable[..., Any]:
    """Kernel of `lstm.data` and its kin: data [sum of lengths, I], batch_sizes [T] on the host."""

    def kernel(
        data: torch.Tensor, batch_sizes: torch.Tensor, hx: Hidden, params: Sequence[torch.Tensor], has_biases: bool,
        num_layers: int, dropout: float, train: bool, bidirectional: bool,
    ) -> Any:  # fmt: skip
        if not _cudnn(data):
            return decompose(data, batch_sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional)
        sizes = batch_sizes.tolist()
        return _run(mode, data, hx, params, has_biases, num_layers, dropout, train, bidirectional, False, sizes)

    return kernel


def _cudnn(input: torch.Tensor) -> bool:
    return bool(torch.backends.cudnn.enabled) and input.dtype in CUDNN_DTYPES


def _run(
    mode: int, input: torch.Tensor, hx: Hidden, params: Sequence[torch.Tensor], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool, batch_sizes: list[int],
) -> Any:  # fmt: skip
    states: list[torch.Tensor] = [hx] if isinstance(hx, torch.Tensor) else list(hx)
    if torch.is_autocast_enabled("cuda") and input.dtype != torch.float64:
        dtype = torch.get_autocast_dtype("cuda")
        input, params = input.to(dtype), [one.to(dtype) for one in params]
        states = [one.to(dtype) for one in states]
    hidden, cell = states[0], states[1] if mode == LSTM else None
    size = (hidden if cell is None else cell).shape[2]
    projected = hidden.shape[2] if hidden.shape[2] != size else 0
    stride = (4 if has_biases else 2) + bool(projected)
    output, last, last_cell, _, _ = torch.ops.aten._cudnn_rnn(
        input, params, stride, None, hidden, cell, mode, size, projected, num_layers, batch_first, dropout, train,
        bidirectional, batch_sizes, None,
    )  # fmt: skip
    return (output, last, last_cell) if mode == LSTM else (output, last)


def install(runtime: Any) -> None:
    """Register the kernels above and below autograd."""
    implement("aten", kernels())
    # A CUDA build would copy all weights into one buffer that cuDNN lays out: the same bytes, no operation of the model.
    torch._use_cudnn_rnn_flatten_weight = lambda: False


def kernels() -> Iterator[tuple[str, Callable[..., Any], str]]:
    for name, mode in MODES.items():
        packet = getattr(torch.ops.aten, name)
        for overload, form in (("input", padded), ("data", packed)):
            kernel = form(mode, getattr(packet, overload).decompose)
            for key in ("AutogradCUDA", "CUDA"):
                yield f"{name}.{overload}", kernel, key
    for overload in ("", ".Tensor"):
        for name in ("_use_cudnn_ctc_loss", "_use_miopen_ctc_loss"):  # torch's own kernel is the one with a meta form
            yield f"{name}{overload}", lambda *_: False, "CUDA"
