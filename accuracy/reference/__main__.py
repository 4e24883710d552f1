"""`python -m accuracy.reference`: trains the reference transformer on random tokens, as one rank of a torchrun job or alone."""

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accuracy.reference.gradients import Bucket, Optimizer, buckets_of
from accuracy.reference.layout import Layout, layout_of
from accuracy.reference.linear import How, forget_casts
from accuracy.reference.model import Stage, VocabularyLoss

# attention: its core. mlp: the second half of a layer. core: all but the first product. half: every second layer.
# latents: queries, keys and values, of their latents. activations: experts'. ops: what torchtitan's per-op choice does not keep.
RECOMPUTED = ("none", "attention", "latents", "activations", "mlp", "core", "ops", "half", "full")
# plain: PyTorch's optimizer on the weights as they are, DistributedDataParallel where there are replicas. ddp: flat buffers and
# 32-bit master weights on every replica. optimizer, gradients: these split over the replicas (ZeRO 1, 2). fsdp: FSDP2 (ZeRO 3).
SHARDED = ("plain", "ddp", "optimizer", "gradients", "fsdp")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add: Callable[..., Any] = parser.add_argument
    for name, value, words in (
        ("layers", 12, "of the whole model"), ("hidden", 768, ""), ("heads", 12, ""), ("kv-heads", 0, "0: as many as heads"),
        ("head-dim", 0, "0: hidden / heads"), ("ffn", 0, "0: 4 x hidden"), ("vocab", 50304, ""), ("seq", 1024, ""),
        ("window", 0, "keys that a query sees; 0: all"), ("micro-batch", 1, "sequences"), ("micro-batches", 1, "per step"),
        ("tp", 1, "tensor parallel"), ("cp", 1, "context parallel"), ("pp", 1, "pipeline stages"), ("replicas", 1, "of what FSDP splits"),
        ("vp", 1, "parts of a stage"), ("ep", 1, "expert parallel"), ("experts", 0, ""), ("chosen", 2, "experts per token"),
        ("expert-ffn", 0, ""), ("shared-ffn", 0, ""), ("dense-layers", 0, "before those with experts"),
        ("routed-every", 1, "of how many layers one has experts: the last"), ("node", 0, "expert-parallel ranks of a node, 0: all"),
        ("most-nodes", 0, "that a token is sent to, 0: all"),
        ("q-rank", 0, "width of the latent that queries are made of"), ("kv-rank", 0, "of keys and values; 0: no latents"),
        ("rope-dim", 64, "with latents: of a head beside its head-dim"), ("mtp", 0, "1: a module that predicts one token more"),
        ("recompute-layers", 0, "of each stage part, recomputed whole"), ("lora-rank", 0, "0: all weights are trained"),
        ("pieces", 1, "of a product that runs beside its tensor-parallel communication"), ("steps", 3, ""),
    ):  # fmt: skip
        add(f"--{name}", type=int, default=value, help=words)
    add("--lora-on", choices=("qkv", "attention", "all"), default="all", help="which products have an adapter")
    add("--dropout", type=float, default=0.0)
    add("--sequence-parallel", action="store_true")
    add("--expert-tp", action="store_true", help="experts are split over the tensor group too")
    add("--grouped", action="store_true", help="products of a rank's experts are one kernel each")
    add(
        "--dispatch",
        choices=("experts", "ranks"),
        default="experts",
        help="a token is sent once to each of its experts, or of its ranks",
    )
    add("--graph", action="store_true", help="a step's forwards and backwards are one CUDA graph")
    add("--gated", action="store_true", help="SwiGLU instead of GELU")
    add("--bias", action="store_true")
    add("--tied", action="store_true", help="head and embedding share their weight")
    add("--separate", action="store_true", help="queries, keys, values and the two inner products each on their own")
    add("--norm", choices=("layer", "rms", "rms_ops"), default="rms", help="rms_ops: written out, in 32 bit")
    add("--position", choices=("rope", "rope_complex", "learned", "none"), default="rope")
    add("--attention", choices=("flash", "efficient", "cudnn", "cudnn8", "products"), default="flash")
    add(
        "--cp-comm-type",
        choices=("p2p", "a2a"),
        default="p2p",
        help="keys go around a ring, or heads are exchanged for tokens",
    )
    add("--recompute", choices=RECOMPUTED, default="none", help="in the backward")
    add("--dtype", choices=("bf16", "fp16", "fp8", "fp4"), default="bf16", help="of products; fp4: NVFP4")
    add("--recipe", choices=("tensor", "current", "row", "block", "mx"), default="tensor", help="scales of FP8")
    add("--sharding", choices=SHARDED, default="ddp", help="of data-parallel state")
    add("--reduce", choices=("fp32", "bf16", "fp16"), default="fp32", help="dtype of gradients")
    add("--adds-apart", action="store_true", help="weights' gradients are added up by kernels of their own")
    add("--autocast", action="store_true", help="weights in 32 bit, products in --dtype")
    add("--overlap", action="store_true", help="reduce gradients while the backward runs")
    add("--fusion", action="store_true", help="point-wise pieces of a layer are fused kernels")
    add("--eager-act", action="store_true", help="but the activation is not")
    add("--eager-rope", action="store_true", help="but positions are not")
    add("--fused-loss", action="store_true")
    add("--compile", choices=("none", "layers", "all"), default="none")
    add("--adam", choices=("foreach", "fused"), default="fused")
    args = parser.parse_args()
    args.kv_heads = args.kv_heads or args.heads
    args.head_dim = args.head_dim or args.hidden // args.heads
    args.ffn = args.ffn or 4 * args.hidden
    return args


def how_of(args: argparse.Namespace, layout: Layout) -> How:
    low = {"fp8": args.recipe, "fp4": "nv"}.get(args.dtype, "")
    plain = args.sharding in ("plain", "fsdp")
    sequence = args.sequence_parallel and layout.tensor is not None
    return How(layout.tensor, sequence, low, plain, args.pieces, args.adds_apart)


def build(args: argparse.Namespace, layout: Layout, device: torch.device) -> list[nn.Module]:
    """This rank's parts of the model, in 16 bit (under FSDP in 32, which it casts, and with autocast)."""
    wide = args.autocast or (args.sharding == "fsdp" and layout.shard is not None)
    dtype = torch.float32 if wide else DTYPES.get(args.dtype, torch.bfloat16)
    how, parts = how_of(args, layout), args.pp * args.vp
    ends = spread(args.layers, parts, bool(args.mtp))
    found: list[nn.Module] = []
    with torch.device(device):
        torch.set_default_dtype(dtype)
        for part in range(layout.stage, parts, args.pp):
            first, last = part == 0, part == parts - 1
            found.append(Stage(args, layout, how, range(ends[part], ends[part + 1]), first, last))
        torch.set_default_dtype(torch.float32)
    return found


def spread(layers: int, parts: int, predicts_more: bool = False) -> list[int]:
    """Where each part's layers begin, and the end. If only two more would fill all parts evenly, the first and the last
    have one fewer, for the embedding and the head; else the first few have one more. predicts_more: the last part has what
    the others leave, as it has another layer and head (set_deepseek_v3_pipeline_model_parallel_layout of
    https://github.com/NVIDIA-NeMo/Megatron-Bridge)."""
    if predicts_more:
        full = -(-layers // parts)
        return [min(part * full, layers) for part in range(parts + 1)]
    if (layers + 2) % parts == 0 and layers % parts:
        each = (layers + 2) // parts
        return [0, *(each * (part + 1) - 1 for part in range(parts - 1)), layers]
    each, more = divmod(layers, parts)
    return [part * each + min(part, more) for part in range(parts + 1)]


def shard(args: argparse.Namespace, layout: Layout, stages: list[nn.Module]) -> torch.optim.Optimizer:
    """FSDP2 around every layer and the rest; AdamW on the shards."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    reduced = torch.float32 if args.reduce == "fp32" else torch.bfloat16
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduced)
    for stage in stages:
        assert isinstance(stage, Stage)
        if layout.shard is not None and args.sharding == "fsdp":
            mesh = DeviceMesh.from_group(layout.shard, "cuda")
            if layout.copies is not None:
                copies, parts = dist.get_process_group_ranks(layout.copies), dist.get_process_group_ranks(layout.shard)
                ranks = torch.tensor([[part + copy - layout.rank for part in parts] for copy in copies])
                mesh = DeviceMesh.from_group(
                    [layout.copies, layout.shard], "cuda", mesh=ranks, mesh_dim_names=("replicate", "shard")
                )
            for layer in stage.layers:
                fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=args.pp == 1)
            fully_shard(stage, mesh=mesh, mp_policy=policy)
    weights = [p for stage in stages for p in stage.parameters() if p.requires_grad]
    return torch.optim.AdamW(weights, lr=1e-4, fused=args.adam == "fused", foreach=args.adam == "foreach")


def main() -> None:
    args = arguments()
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    device = torch.device("cuda", torch.cuda.current_device())
    layout = layout_of(args)
    stages = build(args, layout, device)
    buckets: list[Bucket] = []
    if args.sharding in ("fsdp", "plain"):
        optimizer = shard(args, layout, stages)
    else:
        weights = [p for stage in stages for p in stage.parameters() if p.requires_grad]
        dtype = torch.float32 if args.reduce == "fp32" else DTYPES[args.reduce]
        split = args.sharding in ("optimizer", "gradients")
        groups = (layout.shard, layout.expert_shard)
        buckets = buckets_of(weights, groups, split, dtype, device)
        wide = [
            group for group in (layout.shard if split else None, layout.tensor, layout.pipeline) if group is not None
        ]
        optimizer = Optimizer(buckets, wide, args.dtype == "fp16")
    if args.compile != "none":
        for stage in stages:
            assert isinstance(stage, Stage)
            for target in stage.layers if args.compile == "layers" else [stage]:
                target.compile()
    if args.sharding == "plain" and layout.shard is not None:
        stages = [
            nn.parallel.DistributedDataParallel(s, device_ids=[device.index], process_group=layout.shard)
            for s in stages
        ]
    step = stepper(args, layout, stages, device)
    if args.graph:
        step = graphed(step)
    for _ in range(args.steps):
        train_step(args, layout, stages, buckets, optimizer, step)


def stepper(
    args: argparse.Namespace, layout: Layout, stages: list[nn.Module], device: torch.device
) -> Callable[[], Any]:
    """Forward and backward of all micro-batches."""
    loss = VocabularyLoss(args, how_of(args, layout))
    whole = torch.compile(lambda model, x, y: loss(model(x), y)) if args.compile == "all" else None
    length = args.seq // args.cp

    def batch(count: int) -> Tensor:
        known = args.vocab // args.tp  # the loss looks targets up in each rank's share, and masks none
        return torch.randint(0, known, (count, length), device="cpu").pin_memory().to(device, non_blocking=True)

    if layout.pipeline is None:

        def run() -> Any:
            for number in range(args.micro_batches):
                x, y = batch(args.micro_batch), batch(args.micro_batch)
                is_last = number == args.micro_batches - 1
                if layout.shard is not None and args.sharding == "fsdp":
                    stages[0].set_requires_gradient_sync(is_last)  # type: ignore[operator]
                if layout.shard is not None and args.sharding == "plain":
                    stages[0].require_backward_grad_sync = is_last
                with torch.autocast("cuda", DTYPES.get(args.dtype, torch.bfloat16), enabled=args.autocast):
                    found = whole(stages[0], x, y) if whole else loss(stages[0](x), y)
                found.backward()
            return found

        return run
    schedule = schedule_of(args, layout, stages, device, loss)

    def pipelined() -> Any:
        x, losses = batch(args.micro_batch * args.micro_batches), []
        given = (x,) if layout.is_first else ()
        last = {"target": x, "losses": losses} if layout.is_last else {}
        schedule.step(*given, **last, return_outputs=False)  # nor do programs keep all logits
        return losses[0] if losses else None

    return pipelined


def graphed(step: Callable[[], Any]) -> Callable[[], Any]:
    """The first call runs, as a warm-up; the second is captured, and from then on it is one launch."""
    graph = torch.cuda.CUDAGraph()
    calls: list[Any] = []

    def run() -> Any:
        if not calls:
            calls.append(step())
            return calls[0]
        if len(calls) == 1:
            with torch.cuda.graph(graph):
                calls.append(step())
        graph.replay()
        return calls[1]

    return run


def schedule_of(
    args: argparse.Namespace, layout: Layout, stages: list[nn.Module], device: torch.device, loss: Any
) -> Any:
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

    parts = args.pp * args.vp
    numbers = range(layout.stage, parts, args.pp)
    pipe = []
    for stage, number in zip(stages, numbers, strict=True):
        given, made = shapes(args, layout, number, parts)
        pipe.append(PipelineStage(stage, number, parts, device, given, made, group=layout.pipeline))
    if args.vp == 1:
        return Schedule1F1B(pipe[0], args.micro_batches, loss_fn=loss, scale_grads=False)
    return ScheduleInterleaved1F1B(pipe, args.micro_batches, loss_fn=loss, scale_grads=False)


def shapes(args: argparse.Namespace, layout: Layout, number: int, parts: int) -> tuple[Tensor, Tensor]:
    """What a stage part is given and makes, of one micro-batch."""
    dtype = torch.bfloat16 if args.sharding == "fsdp" else DTYPES.get(args.dtype, torch.bfloat16)
    length = args.seq // args.cp
    own = length // (layout.tp if args.sequence_parallel else 1)
    tokens = torch.empty((args.micro_batch, length), dtype=torch.int64, device="meta")
    between = torch.empty((own, args.micro_batch, args.hidden), dtype=dtype, device="meta", requires_grad=True)
    logits = torch.empty(
        (length * (1 + args.mtp), args.micro_batch, args.vocab // layout.tp),
        dtype=dtype,
        device="meta",
        requires_grad=True,
    )
    return tokens if number == 0 else between, logits if number == parts - 1 else between


def train_step(args: argparse.Namespace, layout: Layout, stages: list[nn.Module], buckets: list[Bucket],
               optimizer: torch.optim.Optimizer, step: Callable[[], Any]) -> None:  # fmt: skip
    for bucket in buckets:
        bucket.expect(args.micro_batches, args.overlap, between_reductions(args))
    found = step()
    parameters = [p for stage in stages for p in stage.parameters() if p.requires_grad]
    if buckets:
        for bucket in buckets:
            bucket.finish()
        if layout.tensor is not None:
            sum_partial(parameters, layout.tensor)
    else:
        nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    for bucket in reversed(buckets):  # the first layers' weights first: the next forward needs them first
        bucket.gather()
    optimizer.zero_grad()
    forget_casts(parameters)
    if found is not None:
        found.item()


def between_reductions(args: argparse.Namespace) -> int:
    """Micro-batches. Split gradients are reduced when the backward leaves the layers they are of: after each micro-batch where
    there is no pipeline, after as many as an interleaved one has stages, at the end of plain 1F1B."""
    if args.sharding != "gradients" or (args.pp > 1 and args.vp == 1):
        return int(args.micro_batches)
    return int(args.pp)


def sum_partial(parameters: list[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Gradients of norms, of which each tensor rank has only its part of the sequence, as one buffer."""
    partial_ones = [p.main_grad for p in parameters if getattr(p, "is_partial", False)]  # type: ignore[attr-defined]
    if partial_ones:
        dist.all_reduce(torch.cat([gradient.flatten() for gradient in partial_ones]), group=group)


if __name__ == "__main__":
    main()
