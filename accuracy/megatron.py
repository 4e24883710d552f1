"""`python -m accuracy.megatron`: the run that `accuracy.reference`'s options describe, by megatron-core itself.

Its model, parallel groups, data-parallel buffers, optimizer and pipeline schedules, put together as Megatron-LM's own
training does. megatron-core is not needed by anychip: requirements-megatron.txt pins the release. `unable` says what
this release cannot express.
"""

import importlib.util
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

RECOMPUTED = {"none": {}, "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
              "attention": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
              "activations": {"recompute_granularity": "selective", "recompute_modules": ["layernorm", "moe_act"]},
              "mlp": {"recompute_granularity": "selective", "recompute_modules": ["mlp"]}}  # fmt: skip
RECIPES = {"tensor": "delayed", "current": "tensorwise", "block": "blockwise", "mx": "mxfp8"}
BACKENDS = {"flash": "flash", "cudnn": "fused"}  # of Transformer Engine's attention
NORMS = {"layer": "LayerNorm", "rms": "RMSNorm"}
POSITIONS = {"rope": "rope", "rope_complex": "yarn", "learned": "learned_absolute", "none": "none"}
# GPT-OSS': https://huggingface.co/openai/gpt-oss-120b/blob/main/config.json
YARN = {"rotary_scaling_factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": None,
        "mscale_all_dim": None, "correction_range_round_to_int": False}  # fmt: skip
CLAMPED = {"activation_func_clamp_value": 7.0, "glu_linear_offset": 1.0}  # of its experts, which alone have biases


# Options of the reference transformer that this program reads, or that say how it does something that this does not do.
READ = {
    "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "seq", "micro_batch", "micro_batches", "tp", "cp", "pp",
    "vp", "ep", "experts", "chosen", "expert_ffn", "shared_ffn", "dense_layers", "expert_tp", "recompute", "recompute_layers",
    "pieces", "dropout", "sequence_parallel", "gated", "bias", "tied", "norm", "position", "attention", "dtype", "recipe",
    "sharding", "reduce", "adds_apart", "overlap", "fusion", "fused_loss", "compile", "adam", "steps", "window", "full_every",
}  # fmt: skip


def unable(options: Mapping[str, Any]) -> str | None:
    """Why megatron-core does not stand for these options of the reference transformer; None where it does."""
    get = options.get
    reasons = {
        "LoRA adapters are not in megatron-core": get("lora_rank"),
        "FSDP of PyTorch": get("sharding") in ("fsdp", "plain"),
        "gradients split over replicas (ZeRO-2)": get("sharding") == "gradients",
        f"recomputation of {get('recompute')!r}": get("recompute", "none") not in RECOMPUTED,
        "a compiled model": get("compile", "none") != "none",
        "attention in FP8": get("attention") == "cudnn8",
        "attention of no kind that it has": get("attention", "flash") not in (*BACKENDS, "products"),
        "products in FP4": get("dtype") == "fp4",
        "heads that those of keys do not divide": get("heads", 1) % (get("kv_heads") or get("heads", 1)) != 0,
        f"FP8 scaled by {get('recipe')}": get("dtype") == "fp8" and get("recipe", "tensor") not in RECIPES,
        "sequences split over ranks without fused attention": get("cp", 1) > 1 and get("attention") == "products",
        "learned positions of a split sequence": get("cp", 1) > 1 and get("position") == "learned",
        "RMSNorm without Transformer Engine": get("attention") == "products" and get("norm", "rms") not in ("layer",),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    others = [f"option {name}" for name, value in options.items() if value and name not in READ]
    return next(iter([*found, *others]), None)


def installed() -> bool:
    """Whether megatron-core is there; it is not imported."""
    return importlib.util.find_spec("megatron") is not None and importlib.util.find_spec("megatron.core") is not None


def main() -> None:
    from accuracy.reference.__main__ import arguments
    from anychip.standins.libraries import te_release

    own = ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--te", help="the release of Transformer Engine whose time is taken")
    ours, sys.argv[1:] = own.parse_known_args()
    args = arguments()
    if ours.te:
        te_release.use(ours.te)
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    import torch

    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    join(args)
    config = config_of(args)
    chunks = chunks_of(args, config)
    optimizer = optimizer_of(args, config, chunks)
    step = stepper(args, config, chunks)
    for _ in range(args.steps):
        for chunk in chunks:
            chunk.zero_grad_buffer()
        optimizer.zero_grad()
        losses = step()
        optimizer.step()
        if losses:
            losses[0]["loss"].item()


def join(args: Namespace) -> None:
    """Process groups in Megatron-LM's order, experts whole on their ranks, and random numbers for each tensor rank."""
    import torch.distributed as dist
    from megatron.core import parallel_state, tensor_parallel

    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        os.environ.setdefault(name, value)
    dist.init_process_group("nccl")
    parallel_state.initialize_model_parallel(
        args.tp, args.pp, args.vp if args.vp > 1 else None, context_parallel_size=args.cp,
        expert_model_parallel_size=args.ep, expert_tensor_parallel_size=expert_tp(args),
        create_gloo_process_groups=False,
    )  # fmt: skip
    tensor_parallel.model_parallel_cuda_manual_seed(1)


def expert_tp(args: Namespace) -> int:
    """Ranks that an expert is split over."""
    return int(args.tp if args.expert_tp else 1)


def config_of(args: Namespace) -> Any:
    import torch
    import torch.nn.functional as F
    from megatron.core.fusions.fused_bias_geglu import quick_gelu
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.enums import AttnBackend

    dtype = torch.float16 if args.dtype == "fp16" else torch.bfloat16
    recompute = RECOMPUTED[args.recompute]
    if args.recompute_layers:
        recompute = {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": args.recompute_layers}  # fmt: skip
    fp8 = {"fp8": "hybrid", "fp8_recipe": RECIPES[args.recipe]} if args.dtype == "fp8" else {}
    experts: dict[str, Any] = {}
    is_clamped = bool(args.experts and args.bias and args.gated)
    gate = quick_gelu if is_clamped else F.silu
    if args.experts:
        experts = {
            "num_moe_experts": args.experts, "moe_router_topk": args.chosen, "moe_grouped_gemm": True,
            "moe_router_pre_softmax": args.chosen == 1, **(CLAMPED if is_clamped else {}),
            "moe_ffn_hidden_size": args.expert_ffn or args.ffn, "moe_token_dispatcher_type": "alltoall",
            "moe_router_load_balancing_type": "none", "moe_router_force_load_balancing": True,
            "moe_permute_fusion": args.fusion, "expert_model_parallel_size": args.ep, "expert_tensor_parallel_size": expert_tp(args),
            "moe_shared_expert_intermediate_size": args.shared_ffn or None,
            "moe_layer_freq": [int(number >= args.dense_layers) for number in range(args.layers)],
        }  # fmt: skip
    backend = BACKENDS.get(args.attention)
    config = TransformerConfig(
        num_layers=args.layers, hidden_size=args.hidden, num_attention_heads=args.heads, num_query_groups=args.kv_heads,
        kv_channels=args.head_dim, ffn_hidden_size=args.ffn, hidden_dropout=args.dropout, attention_dropout=args.dropout,
        add_bias_linear=args.bias, gated_linear_unit=args.gated, activation_func=gate if args.gated else F.gelu,
        normalization=NORMS[args.norm], attention_backend=AttnBackend[backend] if backend else AttnBackend.auto,
        bias_activation_fusion=args.fusion and (args.bias or args.gated), masked_softmax_fusion=args.fusion,
        bias_dropout_fusion=args.fusion and not (args.experts and args.bias), apply_rope_fusion=args.fusion and args.position == "rope",
        gradient_accumulation_fusion=not args.adds_apart, cross_entropy_loss_fusion=args.fused_loss,
        tensor_model_parallel_size=args.tp, pipeline_model_parallel_size=args.pp, context_parallel_size=args.cp,
        virtual_pipeline_model_parallel_size=args.vp if args.vp > 1 else None, sequence_parallel=args.sequence_parallel,
        pipeline_model_parallel_layout=placement(args), tp_comm_overlap=args.pieces > 1 and args.tp > 1,
        fp16=dtype is torch.float16, bf16=dtype is torch.bfloat16, params_dtype=dtype, pipeline_dtype=dtype,
        overlap_p2p_comm=args.vp > 1, batch_p2p_comm=args.vp == 1, batch_p2p_sync=False, deallocate_pipeline_outputs=True,
        perform_initialization=False, transformer_impl="local" if is_local(args) else "transformer_engine",
        window_size=(args.window - 1, 0) if 0 < args.window < args.seq else None, **recompute, **fp8, **experts,
    )  # fmt: skip
    if args.position == "rope_complex":
        vars(config).update({f"yarn_{name}": value for name, value in YARN.items()})
    return config


def is_local(args: Namespace) -> bool:
    """Attention by products is Megatron's own layer; fused attention comes with Transformer Engine's."""
    return bool(args.attention == "products")


def placement(args: Namespace) -> list[list[str]] | None:
    """Layers of each part where they do not divide; None where they do."""
    from accuracy.reference.__main__ import spread

    parts = args.pp * args.vp
    if args.layers % parts == 0:
        return None
    ends = spread(args.layers, parts)
    found = [["decoder"] * (ends[part + 1] - ends[part]) for part in range(parts)]
    found[0].insert(0, "embedding")
    found[-1].append("loss")
    return found


def chunks_of(args: Namespace, config: Any) -> list[Any]:
    """This rank's parts of the model in Megatron's data-parallel buffers."""
    import torch
    from megatron.core import parallel_state
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_decoder_block_spec,
        get_gpt_layer_local_spec,
        get_gpt_layer_with_transformer_engine_spec,
    )
    from megatron.core.transformer.module import Float16Module

    split = args.sharding == "optimizer"
    how = DistributedDataParallelConfig(
        grad_reduce_in_fp32=args.reduce == "fp32", overlap_grad_reduce=args.overlap, use_distributed_optimizer=split,
        overlap_param_gather=args.overlap and split, average_in_collective=True,  # as recipes of NeMo and Megatron-Bridge do
        bucket_size=max(40_000_000, 1_000_000 * parallel_state.get_data_parallel_world_size(with_context_parallel=True)),
    )  # fmt: skip
    found = []
    for part in range(args.vp):
        if args.experts:
            spec = get_gpt_decoder_block_spec(config, not is_local(args), vp_stage=part if args.vp > 1 else None)
        elif is_local(args):
            spec = get_gpt_layer_local_spec(normalization=config.normalization)
        else:
            spec = get_gpt_layer_with_transformer_engine_spec()
        number = part if args.vp > 1 else None
        first = parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=number)
        last = parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=number)
        model = GPTModel(
            config, spec, args.vocab, args.seq, first, last, share_embeddings_and_output_weights=args.tied,
            position_embedding_type=POSITIONS[args.position], vp_stage=number,
        )  # fmt: skip
        model = Float16Module(config, model.cuda(torch.cuda.current_device()))
        found.append(DistributedDataParallel(config, how, model, disable_bucketing=part > 0))
    return found


def optimizer_of(args: Namespace, config: Any, chunks: list[Any]) -> Any:
    """Adam, and what the schedules ask of gradients, hung into the config as Megatron-LM's training does."""
    from megatron.core.distributed import finalize_model_grads
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    split = args.sharding == "optimizer"
    how = OptimizerConfig(
        optimizer="adam", lr=1e-4, weight_decay=0.1, bf16=config.bf16, fp16=config.fp16, params_dtype=config.params_dtype,
        use_distributed_optimizer=split, overlap_param_gather=args.overlap and split, clip_grad=1.0,
        log_num_zeros_in_grad=False,
    )  # fmt: skip
    optimizer = get_megatron_optimizer(how, chunks, use_gloo_process_groups=False)
    config.grad_scale_func = optimizer.scale_loss
    config.finalize_model_grads_func = finalize_model_grads
    if args.overlap:
        config.no_sync_func = _alone([chunk.no_sync for chunk in chunks])
        if args.vp > 1:
            config.grad_sync_func = [chunk.start_grad_sync for chunk in chunks]
        if split and args.vp > 1:
            config.param_sync_func = [chunk.start_param_sync for chunk in chunks]
    return optimizer


def _alone(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items


def stepper(args: Namespace, config: Any, chunks: list[Any]) -> Callable[[], Any]:
    """Forward and backward of all micro-batches by the schedule that megatron-core chooses."""
    import torch
    from megatron.core.pipeline_parallel import get_forward_backward_func

    length = args.seq // args.cp
    device = torch.device("cuda", torch.cuda.current_device())

    def batch() -> Any:
        return torch.randint(0, args.vocab, (args.micro_batch, length)).pin_memory().to(device, non_blocking=True)

    def batches() -> Iterator[tuple[Any, Any]]:
        while True:
            yield batch(), batch()

    places = torch.arange(length, device=device).unsqueeze(0).expand(args.micro_batch, -1).contiguous()
    mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=device).triu(1) if is_local(args) else None

    def mean(output: Any) -> tuple[Any, dict[str, Any]]:
        loss = output.float().mean()
        return loss, {"loss": loss.detach()}

    def forward(data: Any, model: Any) -> tuple[Any, Any]:
        tokens, labels = next(data)
        return model(tokens, places, mask, labels=labels), partial(mean)

    source = [batches() for _ in chunks] if len(chunks) > 1 else batches()

    def run() -> Any:
        return get_forward_backward_func()(
            forward_step_func=forward, data_iterator=source, model=chunks if len(chunks) > 1 else chunks[0],
            num_microbatches=args.micro_batches, seq_length=args.seq, micro_batch_size=args.micro_batch,
            decoder_seq_length=args.seq, forward_only=False,
        )  # fmt: skip

    return run


if __name__ == "__main__":
    main()
