"""`print(x)` of a chip tensor: copied to the host once and formatted there.

torch formats on the tensor's own device, in dozens of small operators, some with shapes that depend on values.
"""

from typing import Any

import torch

from anychip.device.runtime import Runtime


def install(runtime: Runtime) -> None:
    texts: Any = torch._tensor_str
    original = texts._tensor_str

    def _tensor_str(tensor: torch.Tensor, indent: int) -> str:
        if tensor.device.type == runtime.device_type:
            tensor = tensor.detach().cpu()
        text: str = original(tensor, indent)
        return text

    texts._tensor_str = _tensor_str
