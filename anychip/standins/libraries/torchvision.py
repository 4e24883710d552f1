"""The operators of an installed torchvision whose compiled part does not load beside this torch.

The package index serves a torchvision built against a CUDA torch; beside a CPU torch its C++ library does not load and
the import ends in `operator torchvision::nms does not exist`. Its models, transforms and datasets are Python: once the
operators are declared it imports. On the chip each operator is one op with torchvision's own output shapes.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from anychip.standins import recording
from anychip.standins.fused import Fused, fused

_ROI = "Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_MAP = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_DEFORM = (
    "Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, "
    "SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask"
)

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align(Tensor input, {_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward(Tensor grad, {_ROI}, {_MAP}, int sampling_ratio, bool aligned) -> Tensor",
    f"roi_pool(Tensor input, {_ROI}) -> (Tensor, Tensor)",
    "_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, SymInt pooled_height, "
    f"SymInt pooled_width, {_MAP}) -> Tensor",
    f"ps_roi_align(Tensor input, {_ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    "_ps_roi_align_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, SymInt pooled_height, "
    f"SymInt pooled_width, int sampling_ratio, {_MAP}) -> Tensor",
    f"ps_roi_pool(Tensor input, {_ROI}) -> (Tensor, Tensor)",
    "_ps_roi_pool_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, SymInt pooled_height, "
    f"SymInt pooled_width, {_MAP}) -> Tensor",
    f"deform_conv2d({_DEFORM}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, {_DEFORM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)

_libraries: list[Any] = []  # kept, as a library's kernels go with it


def complete(extension: ModuleType) -> None:
    """Declare what is missing and register kernels for the chip; called after `torchvision.extension` has run."""
    # The chip answers with a CUDA version of its own, which need not be the one torchvision was built with.
    extension._check_cuda_version = lambda *_: -1  # type: ignore[attr-defined]
    missing = not hasattr(torch.ops.torchvision, "nms")
    if missing:
        library = _library("DEF")
        for schema in SCHEMAS:
            library.define(schema)
        library.impl("nms", nms_on_cpu, "CPU")
        for key in ("AutogradCPU", "CPU"):
            library.impl("roi_align", _roi_align_on_cpu, key)
        _libraries.append(library)
        # False while torchvision registers meta kernels of its own (its first import), which want all of its operators.
        extension._has_ops = lambda: "torchvision.ops" in sys.modules  # type: ignore[attr-defined]
        extension._assert_has_ops = lambda: None  # type: ignore[attr-defined]
    if recording.runtime() is not None:
        _register(recording.runtime(), missing)


def _library(kind: str) -> Any:
    make: Any = torch.library.Library
    return make("torchvision", kind)


def _register(runtime: Any, missing: bool) -> None:
    from anychip.device.insides._torch_tensors import DISPATCH_KEYS

    key = DISPATCH_KEYS[runtime.device_type]
    library = _library("IMPL")
    for name, kernel in KERNELS.items():
        for place in (f"Autograd{key}", key):
            library.impl(name, _telling(name, kernel) if missing else kernel, place)
    _libraries.append(library)


def _telling(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    def told(*args: Any) -> Any:
        recording.runtime().recorder.warn(
            f"torchvision's compiled operators do not load beside this torch: anychip's shape rule stands in for {name}"
        )
        return kernel(*args)

    return told


# On the chip ----------------------------------------------------------------------------------------------------------

SAMPLES = 4  # points per bin of roi_align when sampling_ratio says "adaptive": 2 x 2, the usual size of a bin


@fused(
    "torchvision.roi_align",
    flop=lambda x, rois, s, h, w, ratio, a: 8 * _bins(x, rois, h, w) * (ratio * ratio if ratio > 0 else SAMPLES),
    saves=(1,),
    backward=1.0,
)
def roi_align(x: Any, rois: Any, scale: float, height: int, width: int, ratio: int, aligned: bool) -> Any:
    """x [N, C, H, W], rois [K, 5] -> [K, C, height, width]; a bilinear sample is four multiply-adds."""
    return x.new_empty(rois.shape[0], x.shape[1], height, width)


def _bins(x: Any, rois: Any, height: int, width: int) -> int:
    return int(rois.shape[0] * x.shape[1] * height * width)


@fused("torchvision.roi_pool", flop=lambda x, rois, s, h, w: _bins(x, rois, h, w) * SAMPLES, saves=(1,), backward=1.0)
def roi_pool(x: Any, rois: Any, scale: float, height: int, width: int) -> Any:
    """-> [K, C, height, width] and where each maximum was found."""
    out = x.new_empty(rois.shape[0], x.shape[1], height, width)
    return out, torch.empty_like(out, dtype=torch.int32)


@fused(
    "torchvision.ps_roi_align",
    flop=lambda x, rois, s, h, w, ratio: 8 * _bins(x, rois, 1, 1) * max(ratio * ratio, SAMPLES),
    saves=(1,),
    backward=1.0,
)
def ps_roi_align(x: Any, rois: Any, scale: float, height: int, width: int, ratio: int) -> Any:
    """Each bin has its own channels: -> [K, C / (height * width), height, width] and the channel of each value."""
    out = x.new_empty(rois.shape[0], x.shape[1] // (height * width), height, width)
    return out, torch.empty_like(out, dtype=torch.int32)


@fused(
    "torchvision.ps_roi_pool", flop=lambda x, rois, s, h, w: _bins(x, rois, 1, 1) * SAMPLES, saves=(1,), backward=1.0
)
def ps_roi_pool(x: Any, rois: Any, scale: float, height: int, width: int) -> Any:
    return ps_roi_align.reference(x, rois, scale, height, width, 0)


def _deform_flop(x: Any, weight: Any, offset: Any, *_rest: Any) -> int:
    """A convolution's: 2 * N * out_h * out_w * C_out * C_in / groups * kernel; the offsets have the output's map."""
    return int(2 * x.shape[0] * offset.shape[-2] * offset.shape[-1] * weight.numel())


@fused("torchvision.deform_conv2d", flop=_deform_flop, unit="matrix")
def deform_conv2d(x: Any, weight: Any, offset: Any, mask: Any, bias: Any, *_rest: Any) -> Any:
    """x [N, C, H, W], weight [O, C / groups, kh, kw], offset [N, 2 * g * kh * kw, out_h, out_w] -> [N, O, out_h, out_w]."""
    return x.new_empty(x.shape[0], weight.shape[0], offset.shape[-2], offset.shape[-1])


@fused("torchvision.nms", flop=lambda boxes, scores, threshold: 10 * boxes.shape[0] ** 2 // 2, backward=0.0)
def _nms(boxes: Any, scores: Any, threshold: float) -> Any:
    return boxes.new_empty(boxes.shape[0], dtype=torch.int64)


def nms(boxes: Any, scores: Any, threshold: float) -> Any:
    """boxes [n, 4] -> [n]: every box is kept, as how many overlap depends on values; the host waits for the count."""
    kept = _nms.run((boxes, scores, threshold))[0]
    recording.runtime().recorder.read()
    return kept


KERNELS: dict[str, Callable[..., Any] | Fused] = {
    "nms": nms, "roi_align": roi_align, "roi_pool": roi_pool, "ps_roi_align": ps_roi_align, "ps_roi_pool": ps_roi_pool,
    "deform_conv2d": deform_conv2d,
}  # fmt: skip


# On the CPU -----------------------------------------------------------------------------------------------------------


def nms_on_cpu(boxes: Any, scores: Any, threshold: float) -> Any:
    """Real non-maximum suppression: boxes [n, 4] as (x1, y1, x2, y2), best score first."""
    order = scores.argsort(descending=True, stable=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while order.numel():
        best, order = order[0], order[1:]
        kept.append(int(best))
        low = torch.maximum(boxes[best, :2], boxes[order, :2])
        high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        overlap = (high - low).clamp(min=0).prod(dim=1)
        order = order[overlap <= threshold * (areas[best] + areas[order] - overlap)]
    return torch.tensor(kept, dtype=torch.int64)


def _roi_align_on_cpu(x: Any, rois: Any, scale: float, height: int, width: int, ratio: int, aligned: bool) -> Any:
    import importlib

    # torchvision's own formulation in Python; its package has a function of the module's name.
    module: Any = importlib.import_module("torchvision.ops.roi_align")
    return module._roi_align(x, rois, scale, height, width, ratio, aligned)
