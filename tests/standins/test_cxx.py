"""What a CUDA extension's source says of its results: constants of the file, macros, products that it leaves to torch."""

from pathlib import Path

import pytest
import torch

from anychip.cost.custom import launched
from anychip.record import Op, TensorMeta
from anychip.standins.cxx import Unknown, returned
from anychip.standins.extensions import answer_builds

SOURCE = """
#include <torch/extension.h>
#define TILE 16   // rows
constexpr int kHead = 64;
static const int64_t kTwo{2};
const int kOdd = 3;
void other() { const int kOdd = 5; }

std::vector<torch::Tensor> sizes(torch::Tensor x) {
    return {torch::empty({x.size(0) / TILE, x.size(1) / kHead * kTwo}, x.options().dtype(torch::kFloat32))};
}
torch::Tensor unsure(torch::Tensor x) { return torch::empty({kOdd}, x.options()); }

std::vector<torch::Tensor> mix(torch::Tensor x, torch::Tensor k) {
    auto y = torch::empty_like(x);
    return {y, torch::empty_like(k)};
}
std::vector<torch::Tensor> mlp(torch::Tensor x, torch::Tensor k, torch::Tensor up, torch::Tensor down) {
    auto mixed = mix(x, k);
    auto rows = mixed[0].view({-1, x.size(2)});
    auto act = at::matmul(rows, up.transpose(0, 1)).contiguous();
    auto out = act.mm(down.t());
    return {out.view_as(x), act};
}
"""


def meta(*sizes: int) -> torch.Tensor:
    return torch.empty(sizes, dtype=torch.bfloat16, device="meta")


def test_sizes_by_constants_of_the_file_are_known() -> None:
    """RWKV-7's kernels say `k.size(2) / kHeadSize`: the program ended there."""
    (made,) = returned(SOURCE, "sizes", [meta(32, 128)])
    assert (made.sizes, made.dtype) == ((2, 4), torch.float32)
    with pytest.raises(Unknown):
        returned(SOURCE, "unsure", [meta(32, 128)])


def test_products_that_a_source_leaves_to_torch_are_counted() -> None:
    products: list[tuple[int, ...]] = []
    out, act = returned(SOURCE, "mlp", [meta(2, 8, 64), meta(64), meta(256, 64), meta(64, 256)], products)
    assert (out.sizes, act.sizes) == ((2, 8, 64), (16, 256))
    assert products == [(1, 16, 256, 64), (1, 16, 64, 256)]
    x = TensorMeta((2, 8, 64), (512, 64, 1), "bfloat16", True)
    work = launched(Op("extension.e.mlp", (x,), (("bytes", 4096), ("products", tuple(products))), (x,)))
    assert work.flop == work.model_flop == 2 * 2 * 16 * 64 * 256
    assert (work.unit, work.known, work.bytes_moved) == ("matrix", True, 4096)


def test_macros_of_the_build_are_constants_of_its_source(tmp_path: Path) -> None:
    class Builder:
        load = load_inline = None

    answer_builds(Builder)
    path = tmp_path / "k.cu"
    path.write_text(
        "torch::Tensor f(torch::Tensor x) { return torch::empty({x.size(0) / _C_}, x.options()); }\n"
        'PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("f", &f); }'
    )
    module = Builder.load(name="with_macros", sources=[str(path)], extra_cuda_cflags=["-O3", "-D_C_=64"])
    assert returned(module.f.source, "f", [meta(128)]).sizes == (2,)
