"""A torchvision whose compiled part does not load: it imports, and its operators have shapes on the chip."""

import textwrap

import pytest
import torch

from anychip.standins.libraries.torchvision import nms_on_cpu
from tests.standins.recorded import Recorded

# What matters of the real package, in small: an extension that fails to load, and fake kernels registered at once.
PACKAGE = {
    "__init__.py": "from .extension import _HAS_OPS\nfrom . import _meta_registrations, ops\nfrom .extension import _check_cuda_version\n",
    "extension.py": """
        import torch

        _HAS_OPS = False

        def _has_ops():
            return False

        def _assert_has_ops():
            raise RuntimeError("Couldn't load custom C++ ops.")

        def _check_cuda_version():
            raise RuntimeError("torch and torchvision were built with different CUDA versions")
    """,
    "_meta_registrations.py": """
        import torch
        from .extension import _has_ops
        assert not _has_ops()

        @torch.library.register_fake("torchvision::nms")
        def nms(dets, scores, iou_threshold):
            return dets.new_empty(dets.shape[0], dtype=torch.int64)
    """,
    "ops.py": """
        import torch
        from .extension import _assert_has_ops

        def nms(boxes, scores, threshold):
            _assert_has_ops()
            return torch.ops.torchvision.nms(boxes, scores, threshold)
    """,
}

PROGRAM = """
    import json, sys
    import torch, torchvision
    from torchvision.ops import nms

    chip = lambda *shape: torch.rand(*shape, device="cuda", requires_grad=True)
    ops, said = torch.ops.torchvision, {}
    torchvision._check_cuda_version()
    said["nms"] = [str(nms(chip(7, 4), chip(7), 0.5).dtype), list(nms(chip(7, 4), chip(7), 0.5).shape)]
    x, rois = chip(2, 8, 16, 16), chip(5, 5)
    pooled = ops.roi_align(x, rois, 1.0, 3, 3, 2, False)
    pooled.sum().backward()
    said["roi_align"] = [list(pooled.shape), list(x.grad.shape)]
    said["roi_pool"] = [list(one.shape) for one in ops.roi_pool(x, rois, 1.0, 3, 3)]
    said["ps_roi_align"] = list(ops.ps_roi_align(x, rois, 1.0, 2, 2, 2)[0].shape)
    weight, offset = chip(12, 8, 3, 3), chip(2, 18, 16, 16)
    mask, bias = torch.zeros(2, 0, device="cuda"), chip(12)
    out = ops.deform_conv2d(x, weight, offset, mask, bias, 1, 1, 1, 1, 1, 1, 1, 1, False)
    out.sum().backward()
    said["deform_conv2d"] = [list(out.shape), list(weight.grad.shape), list(offset.grad.shape)]
    json.dump(said, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("vision")
    (folder / "torchvision").mkdir()
    for name, text in PACKAGE.items():
        (folder / "torchvision" / name).write_text(textwrap.dedent(text), encoding="utf-8")
    program = folder / "program.py"
    program.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    return Recorded(program, folder / "said.json")


def test_shapes_are_torchvisions(vision: Recorded) -> None:
    assert vision.said == {
        "nms": ["torch.int64", [7]],
        "roi_align": [[5, 8, 3, 3], [2, 8, 16, 16]],
        "roi_pool": [[5, 8, 3, 3], [5, 8, 3, 3]],
        "ps_roi_align": [5, 2, 2, 2],
        "deform_conv2d": [[2, 12, 16, 16], [12, 8, 3, 3], [2, 18, 16, 16]],
    }


def test_a_deformable_convolution_costs_what_a_convolution_does(vision: Recorded) -> None:
    # 2 * 2 images * 16 * 16 * 12 out * 8 in * 9
    task = vision.work("custom.torchvision.deform_conv2d")
    assert (task.flop, task.unit) == (2 * 2 * 256 * 12 * 8 * 9, "matrix")


def test_the_report_says_so(vision: Recorded) -> None:
    assert any("torchvision's compiled operators" in text for text in vision.warnings)


def test_suppression_on_the_host_keeps_the_best_of_what_overlaps() -> None:
    # boxes 0 and 1 share 81 of 100 + 81 - 81 = 100: above one half; box 2 is elsewhere
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    assert nms_on_cpu(boxes, torch.tensor([0.8, 0.9, 0.7]), 0.5).tolist() == [1, 2]
    assert nms_on_cpu(boxes, torch.tensor([0.8, 0.9, 0.7]), 0.9).tolist() == [1, 0, 2]
