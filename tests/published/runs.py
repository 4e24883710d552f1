"""A published run, of columns as sources print them."""

from accuracy.rows import join

LLAMA = {
    "id": "x-001", "source_url": "https://example.org", "chip": "H100 SXM 80GB", "chips": "16", "framework": "NeMo/Megatron-Core",
    "model": "Llama 3 8B", "params_b": "8.03", "layers": "32", "hidden": "4096", "heads": "32", "kv_heads": "8", "ffn": "14336",
    "vocab": "128256", "seq_len": "8192", "global_batch": "128", "micro_batch": "1", "dtype": "bf16", "tp": "2", "pp": "1",
    "vp": "", "cp": "1", "ep": "", "zero_or_fsdp": "", "sequence_parallel": "", "recompute": "", "compile": "",
    "metric": "step_time_s", "value": "8.0", "notes": "",
}  # fmt: skip


def run_of(**changes):
    return join([{**LLAMA, **changes}])[0]


NAMED_ONLY = dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "ffn", "vocab"), "") | {"tp": "1"}


GPT_OSS = {
    "framework": "Megatron-Bridge (Megatron-Core)", "model": "GPT-OSS 120B", "layers": "36", "hidden": "2880", "heads": "64",
    "kv_heads": "8", "ffn": "2880", "vocab": "201088", "seq_len": "4096", "chips": "64", "global_batch": "1280",
    "micro_batch": "4", "tp": "1", "ep": "8",
}  # fmt: skip
