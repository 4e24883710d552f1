"""Every stand-in once, each with sizes of its own, so that a test can tell its ops apart."""

import gc
import json
import sys

import amp_C
import bitsandbytes as bnb
import flash_attn_interface as flash_attn_3
import torch
import transformer_engine.pytorch as te
from adam_atan2 import AdamATan2
from apex import amp
from apex.multi_tensor_apply import multi_tensor_applier
from apex.normalization import FusedLayerNorm, FusedRMSNorm, MixedFusedLayerNorm
from apex.optimizers import FusedAdam, FusedLAMB, FusedNovoGrad, FusedSGD
from bitsandbytes.optim.optimizer import Optimizer2State
from deepspeed.ops.adam import FusedAdam as DeepSpeedAdam
from flash_attn import flash_attn_func, flash_attn_qkvpacked_func, flash_attn_varlen_func
from flash_attn.layers.rotary import apply_rotary_emb
from flash_attn.losses.cross_entropy import CrossEntropyLoss
from flash_attn.ops.triton.layer_norm import layer_norm_fn
from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss, LigerRMSNorm, liger_rotary_pos_emb
from torch import nn
from transformer_engine.common import recipe
from xformers import ops as xops
from xformers.ops import fmha

said: dict[str, object] = {}


def new(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=True)


def flash_attention_3() -> None:
    q, k = (new(2, 48, heads, 64).requires_grad_() for heads in (8, 2))
    out, scores = flash_attn_3.flash_attn_func(q, k, k, 0.125, True, return_attn_probs=True)
    out.sum().backward()
    x, starts = new(96, 8, 64), torch.tensor([0, 48, 96], dtype=torch.int32, device="cuda")
    packed = flash_attn_3.flash_attn_varlen_func(x, x, x, starts, starts, 48, 48, softmax_scale=0.125, causal=True)
    cached = flash_attn_3.flash_attn_with_kvcache(q[:, :1], k, k, causal=True, return_softmax_lse=True)
    said["flash 3"] = [list(one.shape) for one in (out, scores, k.grad, packed, *cached)]


def flash_attention() -> None:
    q, k = new(2, 96, 8, 64), new(2, 96, 2, 64)
    out = flash_attn_func(q, k, k, causal=True)
    out.sum().backward()
    said["flash"] = [list(out.shape), list(q.grad.shape), list(k.grad.shape)]
    packed = flash_attn_qkvpacked_func(new(2, 80, 3, 4, 32))
    said["flash packed"] = list(packed.shape)
    starts = torch.tensor([0, 128, 256, 384, 512], dtype=torch.int32, device="cuda")
    x = new(512, 8, 64)
    flash_attn_varlen_func(x, x, x, starts, starts, 128, 128, causal=True).sum().backward()
    try:
        flash_attn_func(q.float(), k.float(), k.float())
    except RuntimeError as error:
        said["flash float32"] = str(error)
    turned = apply_rotary_emb(new(2, 16, 4, 32), new(16, 16), new(16, 16))
    turned.sum().backward()
    said["rotary"] = [list(turned.shape), str(turned.dtype)]
    CrossEntropyLoss()(new(10, 50), torch.zeros(10, dtype=torch.long, device="cuda")).backward()
    out, total = layer_norm_fn(new(6, 48), new(48), None, residual=new(6, 48), prenorm=True, is_rms_norm=True)
    (out.sum() + total.sum()).backward()


def xformers() -> None:
    q = new(2, 56, 4, 32)
    xops.memory_efficient_attention(q, q, q, attn_bias=xops.LowerTriangularMask()).sum().backward()
    mask, packed = fmha.BlockDiagonalMask.from_tensor_list([new(2, 16, 4, 32), new(1, 8, 4, 32)])
    out = xops.memory_efficient_attention(packed, packed, packed, attn_bias=mask)
    said["xformers split"] = [list(one.shape) for one in mask.split(out)]
    xops.SwiGLU(24, 40).cuda()(new(3, 24, dtype=torch.float32)).sum().backward()


def optimizers() -> None:
    made = [
        FusedAdam,
        FusedLAMB,
        FusedSGD,
        FusedNovoGrad,
        DeepSpeedAdam,
        bnb.optim.AdamW8bit,
        bnb.optim.PagedAdamW32bit,
    ]
    for number, make in enumerate((*made, AdamATan2, InPieces)):
        layer = nn.Linear(100, 100 + number, bias=False).cuda()  # 10,000 elements and some: above 4,096
        optimizer = make(layer.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            layer(new(4, 100, dtype=torch.float32)).sum().backward()
            optimizer.step()
        said[f"optimizer {number}"] = [isinstance(optimizer, torch.optim.Optimizer), len(optimizer.state)]


class InPieces(Optimizer2State):
    """Written of the library's parts, as GaLore's is."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, args=None, min_8bit_size=4096):
        super().__init__(
            "adam", params, lr, betas, eps, weight_decay, 32, args, min_8bit_size, 100, True, is_paged=False
        )

    @torch.no_grad()
    def step(self, closure=None):
        if not self.initialized:
            self.check_overrides()
            self.to_gpu()
        for gindex, group in enumerate(self.param_groups):
            for pindex, p in enumerate(group["params"]):
                if "state1" not in self.state[p]:
                    self.init_state(group, p, gindex, pindex)
                self.prefetch_state(p)
                self.update_step(group, p, gindex, pindex)
        assert not self.is_paged


def apex() -> None:
    net = nn.Sequential(nn.Linear(20, 20), FusedLayerNorm(20), MixedFusedLayerNorm(20), FusedRMSNorm(20)).cuda()
    net(new(2, 20, dtype=torch.float32)).sum().backward()
    grads = [one.grad for one in net.parameters()]
    norm, _ = multi_tensor_applier(amp_C.multi_tensor_l2norm, torch.zeros(1, device="cuda"), [grads], False)
    said["norm"] = list(norm.shape)
    for level in ("O1", "O2"):
        net = nn.Sequential(nn.Linear(22, 22), nn.BatchNorm1d(22)).cuda()
        net, optimizer = amp.initialize(net, FusedAdam(net.parameters()), opt_level=level)
        loss = net(new(8, 22, dtype=torch.float32)).sum()
        with amp.scale_loss(loss, optimizer) as scaled:
            scaled.backward()
        nn.utils.clip_grad_norm_(amp.master_params(optimizer), 1.0)
        optimizer.step()
        master = optimizer.param_groups[0]["params"][0]
        said[level] = [str(net[0].weight.dtype), str(net[1].weight.dtype), str(master.dtype)]


def transformer_engine() -> None:
    net = te.TransformerLayer(64, 128, 4, params_dtype=torch.bfloat16)
    with te.fp8_autocast(enabled=True, fp8_recipe=recipe.DelayedScaling(fp8_format=recipe.Format.HYBRID)):
        net(new(32, 2, 64)).sum().backward()
    said["te"] = sorted({name.split(".")[0] for name, _ in net.named_parameters()})


def liger() -> None:
    x, weight = new(128, 64), nn.Parameter(new(1000, 64))
    loss = LigerFusedLinearCrossEntropyLoss()(weight, x, torch.zeros(128, dtype=torch.long, device="cuda"))
    loss.backward()
    said["liger"] = [list(weight.grad.shape), list(x.grad.shape)]
    LigerRMSNorm(72).cuda()(new(5, 72)).sum().backward()
    q, k = liger_rotary_pos_emb(new(2, 4, 16, 32), new(2, 2, 16, 32), new(2, 16, 32), new(2, 16, 32))
    (q.sum() + k.sum()).backward()


def bitsandbytes() -> None:
    four = bnb.nn.Linear4bit(64, 128, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4").to("cuda")
    said["4bit"] = [list(four.weight.shape), str(four.weight.dtype)]
    x = new(4, 64)
    gc.collect()  # what the libraries before left in cycles would go in between
    before = torch.cuda.memory_allocated()
    y = four(x)
    said["4bit kept"] = torch.cuda.memory_allocated() - before
    y.sum().backward()
    with torch.no_grad():
        bnb.matmul_4bit(new(1, 64).detach(), four.weight.t(), four.weight.quant_state)
    eight = bnb.nn.Linear8bitLt(64, 112, bias=False, has_fp16_weights=False).cuda()
    adapted = bnb.nn.Linear8bitLt(64, 112, has_fp16_weights=False, threshold=6.0, index=None)
    state = adapted.state  # what peft reads of a layer that it puts an adapter beside
    adapted.cuda()(new(6, 64))
    said["int8 state"] = [state.has_fp16_weights, state.threshold, state.memory_efficient_backward, adapted.index]
    given = new(16, 64)
    gc.collect()
    before = torch.cuda.memory_allocated()
    out = eight(given * 2)  # nothing else holds this input
    said["int8 kept"] = torch.cuda.memory_allocated() - before
    out.sum().backward()
    trained = bnb.nn.Linear8bitLt(64, 96, bias=False).cuda()
    trained(new(6, 64)).sum().backward()
    said["int8 trained"] = list(trained.weight.grad.shape)
    said["int8"] = [str(eight.weight.dtype), list(eight(new(6, 64)).shape), list(x.grad.shape)]


for part in (flash_attention, flash_attention_3, xformers, optimizers, apex, transformer_engine, liger, bitsandbytes):
    part()
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(said, file)
