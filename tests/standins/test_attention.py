"""FLOP of attention over packed sequences and within a window, by hand."""

import json
import textwrap
from pathlib import Path

from anychip.cost import work
from anychip.record import Op, TensorMeta
from tests.standins.recorded import Recorded


def packed(tokens: int, lengths: int | None, window: int | None = None) -> Op:
    """Eight heads of 64, `lengths` sequences of equal length."""
    x = TensorMeta((tokens, 8, 64), (512, 64, 1), "bfloat16")
    starts = None if lengths is None else TensorMeta((lengths + 1,), (1,), "int32")
    longest = tokens // (lengths or 1)
    kwargs = (("scale", 0.125), ("window_size_left", window), ("window_size_right", 0 if window is not None else None))
    args = (x, x, x, starts, starts, longest, longest, 0.0, True, False)
    return Op("aten._flash_attention_forward.default", args, kwargs, (x,))


def test_packed_sequences_do_not_see_one_another() -> None:
    # two products of 2 * 8 heads * length**2 * 64, half of it under the mask: 1 x 512 against 4 x 128 tokens
    assert work(packed(512, None)).flop == 2 * 2 * 8 * 512 * 512 * 64 // 2
    assert work(packed(512, 4)).flop == 4 * (2 * 2 * 8 * 128 * 128 * 64 // 2)


def test_a_window_keeps_its_width_of_keys() -> None:
    # each of 512 queries sees itself and 31 keys to the left; a block of 128 sees 127 more, which the kernel computes with it
    assert work(packed(512, None, window=31)).model_flop == 2 * 2 * 8 * 512 * 32 * 64
    assert work(packed(512, None, window=31)).flop == 2 * 2 * 8 * 512 * (31 + 128) * 64
    # a window wider than the triangle changes nothing
    assert work(packed(512, None, window=511)).flop == work(packed(512, None)).flop


RING = """
    import inspect, json, sys
    import torch
    from flash_attn.flash_attn_interface import (
        _flash_attn_backward, _flash_attn_forward, _flash_attn_varlen_backward, _flash_attn_varlen_forward,
    )
    from flash_attn.modules.mha import flash_attn_varlen_kvpacked_func

    assert "window_size_left" in inspect.signature(_flash_attn_varlen_forward).parameters
    q, k, v = torch.randn(3, 2, 64, 4, 32, dtype=torch.bfloat16, device="cuda")
    out, lse, _, state = _flash_attn_forward(q, k, v, 0.0, 0.125, True)
    grads = [torch.empty_like(one) for one in (q, k, v)]
    sums = _flash_attn_backward(torch.ones_like(out), q, k, v, out, lse, *grads, 0.0, 0.125, True, rng_state=state)
    q, k, v = (one.flatten(0, 1) for one in (q, k, v))
    starts = torch.tensor([0, 64, 128], dtype=torch.int32, device="cuda")
    flat, flat_lse, *_ = _flash_attn_varlen_forward(q, k, v, starts, starts, 64, 64, 0.0, 0.125, causal=True)
    grads = [torch.empty_like(one) for one in (q, k, v)]
    _flash_attn_varlen_backward(torch.ones_like(flat), q, k, v, flat, flat_lse, *grads, starts, starts, 64, 64, 0.0, 0.125, True)
    said = [list(one.shape) for one in (out, lse, sums, flat)]

    from flash_attn import flash_attn_with_kvcache
    cache = torch.randn(2, 100, 16, 4, 32, dtype=torch.bfloat16, device="cuda")
    one = torch.randn(8, 1, 4, 32, dtype=torch.bfloat16, device="cuda")
    for pages in 4, 64:  # of 16 tokens: 8 x 64 are more than the 100 that there are
        table = torch.zeros(8, pages, dtype=torch.int32, device="cuda")
        said.append(list(flash_attn_with_kvcache(one, *cache, block_table=table).shape))
    # of 1,600 tokens in the cache the sequences have 30 on average
    lengths = torch.arange(16, 48, 4, dtype=torch.int32).cuda()
    for given in lengths, 32, lengths * torch.randn(8, device="cuda").int():
        said.append(list(flash_attn_with_kvcache(one, *cache, block_table=table, cache_seqlens=given).shape))
    json.dump(said, open(sys.argv[1], "w"))
"""


def test_attention_of_rings_and_of_tables_longer_than_a_cache(tmp_path: Path) -> None:
    """Trainers that split sequences over ranks import its two halves, and a captured graph's table has a row for each page there
    could be: both failed."""
    path, out = tmp_path / "ring.py", tmp_path / "ring.json"
    path.write_text(textwrap.dedent(RING), encoding="utf-8")
    recorded = Recorded(path, out)
    assert json.loads(out.read_text()) == [
        [2, 64, 4, 32],
        [2, 4, 64],
        [2, 4, 64],
        [128, 4, 32],
        *[[8, 1, 4, 32]] * 5,
    ]
    assert recorded.count("aten._flash_attention_forward.default") == 7
    assert recorded.count("aten._flash_attention_backward.default") == 2
    names = [op for op in recorded.program.ops if op.name == "aten._flash_attention_forward.default"]
    assert [op.args[1].shape[1] for op in names[2:]] == [64, 100 * 16 // 8, 30, 32]  # distinct ones
    assert sum("as read whole" in text for text in recorded.warnings) == 1


WINDOWS = """
    import json, sys
    import torch
    import transformer_engine.pytorch as te

    q, k = torch.randn(512, 1, 4, 64, dtype=torch.bfloat16, device="cuda"), torch.randn(512, 1, 2, 64, dtype=torch.bfloat16, device="cuda")
    shapes = []
    for window in (None, (31, 0)):
        attention = te.DotProductAttention(4, 64, num_gqa_groups=2, attn_mask_type="causal", window_size=window)
        shapes.append(list(attention(q, k, k).shape))
    shapes.append(list(attention(q, k, k, window_size=(7, 0)).shape))
    json.dump(shapes, open(sys.argv[1], "w"))
"""


def test_transformer_engines_attention_sees_through_a_window(tmp_path: Path) -> None:
    path, out = tmp_path / "windows.py", tmp_path / "windows.json"
    path.write_text(textwrap.dedent(WINDOWS), encoding="utf-8")
    recorded = Recorded(path, out)
    assert recorded.said == [[512, 1, 256]] * 3
    whole = 2 * 2 * 4 * 512 * 512 * 64 // 2
    assert recorded.work("aten._scaled_dot_product_cudnn_attention.default").model_flop == whole
    windowed = [work(op).model_flop for op in recorded.ops if op.name == "aten._flash_attention_forward.default"]
    assert windowed == [2 * 2 * 4 * 512 * width * 64 for width in (32, 8)]


DECODED = """
    import json, sys
    import torch
    from flash_attn import flash_attn_with_kvcache

    cache = torch.randn(2, 8, 4096, 4, 32, dtype=torch.bfloat16, device="cuda")
    one = torch.randn(8, 1, 4, 32, dtype=torch.bfloat16, device="cuda")
    lengths = torch.zeros(8, dtype=torch.int32, device="cuda")
    held = torch.cuda.memory_allocated()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = flash_attn_with_kvcache(one * 2, *cache, cache_seqlens=lengths) * 3
    del out
    torch.cuda.reset_peak_memory_stats()
    for length in 100, 200:
        lengths.copy_(torch.full((8,), length, dtype=torch.int32))
        graph.replay()
    lengths.mul_(torch.randn(8, device="cuda").int())
    graph.replay()
    from flash_attn_interface import flash_attn_with_kvcache as third
    third(one, *cache, cache_seqlens=torch.full((8,), 300, dtype=torch.int32).cuda())
    json.dump(torch.cuda.max_memory_allocated() - held, open(sys.argv[1], "w"))
"""


def test_a_captured_graph_attends_over_what_is_in_the_cache_when_it_is_replayed(tmp_path: Path) -> None:
    """How long sequences are is written before each replay; all of the cache was priced, 20 times as much in a serving loop."""
    path, out = tmp_path / "decoded.py", tmp_path / "decoded.json"
    path.write_text(textwrap.dedent(DECODED), encoding="utf-8")
    recorded = Recorded(path, out)
    launched = [op.name.split(".")[1] for op in recorded.ops]
    assert launched.count("mul") == 2 * 3  # the capture itself runs nothing
    assert launched.count("_flash_attention_forward") == 3 + 1
    assert launched.index("mul") + 1 == launched.index("_flash_attention_forward")
    assert [op.args[1].shape[1] for op in recorded.ops if "attention" in op.name] == [100, 200, 4096, 300]
    assert sum("as read whole" in text for text in recorded.warnings) == 1
    assert recorded.said < 100_000  # a replay takes no memory of its own
