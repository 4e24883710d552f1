"""`flex_attention` as an accelerator runs it: one fused kernel that skips what its mask leaves out.

Which part of the scores a mask keeps decides the cost. A mask function is asked about a few rows on the CPU; one that
looks at data of the chip (documents of a packed batch) cannot be, and is taken to be causal, with a warning.
"""

from typing import Any

import torch

from anychip.device.ops.attention import scaled_dot_product_attention
from anychip.device.runtime import Runtime

FUSED = (torch.float16, torch.bfloat16, torch.float32)  # dtypes that its kernel is made for


def kept(mask: Any, queries: int, keys: int) -> tuple[bool, int | None] | None:
    """(causal, keys to the left that a query sees, None for all) of a mask function; None if it cannot be asked."""
    column = torch.arange(keys, device="cpu")
    none = torch.zeros((), dtype=torch.int64, device="cpu")
    rows = []
    try:
        for query in (queries // 2, queries - 1):
            row = mask(none, none, torch.tensor(query, device="cpu"), column)
            if not isinstance(row, torch.Tensor) or row.device.type != "cpu":
                return None
            rows.append(row.expand(keys))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    middle, last = rows
    causal = not bool(middle[queries // 2 + 1 :].any())
    seen = int(last.sum())
    return causal, seen - 1 if seen < keys else None


def install(runtime: Runtime) -> None:
    from torch.nn.attention import flex_attention as module

    original = module.flex_attention
    # A mask function is asked once for each length.
    asked: dict[tuple[Any, int, int], tuple[bool, int | None]] = {}

    def of_mask(block_mask: Any, queries: int, keys: int) -> tuple[bool, int | None]:
        mask = getattr(block_mask, "mask_mod", None)
        if mask is None:
            return False, None
        key = mask, queries, keys
        if key not in asked:
            begin = len(runtime.recorder.tape)
            answer = kept(mask, queries, keys)
            del runtime.recorder.tape[begin:]  # it was us who asked
            if answer is None:
                name = getattr(mask, "__qualname__", "mask_mod")
                runtime.recorder.warn(
                    f"flex_attention: the mask {name} looks at data, which a virtual chip has not: taken as causal."
                )
            asked[key] = answer if answer is not None else (True, None)
        return asked[key]

    def flex_attention(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, score_mod: Any = None, block_mask: Any = None,
        scale: float | None = None, enable_gqa: bool = False, return_lse: bool = False, kernel_options: Any = None, *,
        return_aux: Any = None,
    ) -> Any:  # fmt: skip
        """query [B, H, L, D], key [B, Hk, S, D], value [B, Hk, S, Dv] -> [B, H, L, Dv]."""
        if query.device.type == "cpu" or query.dtype not in FUSED:
            return original(
                query,
                key,
                value,
                score_mod,
                block_mask,
                scale,
                enable_gqa,
                return_lse,
                kernel_options,
                return_aux=return_aux,
            )
        causal, left = of_mask(block_mask, query.shape[2], key.shape[2])
        if query.shape[-1] == value.shape[-1]:
            out, lse, *_ = torch.ops.aten._flash_attention_forward(
                query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), None, None, query.shape[2], key.shape[2],
                0.0, causal, False, scale=scale, window_size_left=left, window_size_right=None if left is None else 0,
            )  # fmt: skip
            out = out.transpose(1, 2)
        else:
            out = scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale, enable_gqa=enable_gqa)
            lse = out.new_empty(out.shape[:-1], dtype=torch.float32)
        if return_aux is not None:
            return out, module.AuxOutput(lse=lse if return_aux.lse else None)
        return (out, lse) if return_lse else out

    vars(module)["flex_attention"] = flex_attention
