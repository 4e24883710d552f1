"""Kernels of the program's own: Triton, CUDA extensions, CuPy; and `anychip.kernel`, by which they get a cost."""

import textwrap
from pathlib import Path

import pytest
import torch

import anychip
from anychip.caveats.chip import by_bytes_alone
from anychip.cost import price_op, work
from anychip.record import Op, TensorMeta
from anychip.spec import load_chip
from anychip.standins.cxx import Shape, Unknown, returned
from anychip.standins.extensions import declared, make_module
from anychip.standins.libraries.cupy import constants
from anychip.standins.libraries.triton_source import roles
from tests.standins.recorded import Recorded

TRITON = """
    import json, sys
    import anychip, torch, triton
    import triton.language as tl

    said = {}

    @triton.jit
    def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
        offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        mask = offsets < n
        tl.store(out_ptr + offsets, tl.load(x_ptr + offsets, mask=mask) + tl.load(y_ptr + offsets, mask=mask), mask=mask)

    @anychip.kernel(flop=lambda x_ptr, n, **_: 10 * n, unit="vector")
    @triton.autotune([triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 128})], key=["n"])
    @triton.jit
    def scale_kernel(x_ptr, n, BLOCK: tl.constexpr):
        offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(x_ptr + offsets, tl.load(x_ptr + offsets) * 2)

    @triton.heuristics({"EVEN": lambda args: args["n"] % 2 == 0})
    @triton.jit
    def even_kernel(x_ptr, n, EVEN: tl.constexpr):
        tl.store(x_ptr, tl.load(x_ptr))

    @triton.jit
    def tile_kernel(x_desc, out_desc, ROWS: tl.constexpr):
        at = tl.program_id(0) * ROWS
        out_desc.store([at, 0], x_desc.load([at, 0]))

    @triton.jit
    def put_kernel(new_ptr, cache_ptr, slots_ptr, D: tl.constexpr):
        at = tl.program_id(0)
        slot = tl.load(slots_ptr + at)
        if slot == -1:
            return
        tl.store(cache_ptr + slot * D + tl.arange(0, D), tl.load(new_ptr + at * D + tl.arange(0, D)))

    @triton.jit
    def sum_kernel(cache_ptr, out_ptr, n, D: tl.constexpr):
        total = 0.0
        for at in range(n):
            total += tl.sum(tl.load(cache_ptr + at * D + tl.arange(0, D)))
        tl.store(out_ptr, total)

    new, cache = torch.ones(8, 64, device="cuda"), torch.ones(100_000, 64, device="cuda")
    put_kernel[(8,)](new, cache, torch.zeros(8, dtype=torch.int32, device="cuda"), 64)
    sum_kernel[(1,)](cache, torch.empty(1, device="cuda"), 100_000, 64)
    x, y = torch.ones(1000, device="cuda"), torch.ones(1000, device="cuda")
    out = torch.empty_like(x)
    add_kernel[lambda meta: (triton.cdiv(1000, meta["BLOCK"]),)](x, y, out, 1000, BLOCK=256)
    scale_kernel[(8,)](x, 1000)
    even_kernel[(1,)](x, 1000)
    from triton.tools.tensor_descriptor import TensorDescriptor
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, device="cuda", dtype=torch.int8))
    tiles = [TensorDescriptor.from_tensor(torch.ones(10, 128, device="cuda"), [2, 128]) for _ in range(2)]
    tile_kernel[(5,)](*tiles, 2)
    try:
        add_kernel[(1,)](torch.ones(3), torch.ones(3), torch.ones(3), 3, BLOCK=1)
    except ValueError as error:
        said["cpu"] = str(error)
    try:
        add_kernel(x, y, out, 1000, 256)
    except RuntimeError as error:
        said["call"] = str(error)
    said["ms"] = triton.testing.do_bench(lambda: add_kernel[(4,)](x, y, out, 1000, BLOCK=256))
    torch.compile(lambda: x + 1)()
    import torch._dynamo, torch._inductor.utils     # torch must not take the stand-in for a compiler
    json.dump(said, open(sys.argv[1], "w"))
"""

EXTENSIONS = """
    import json, sys
    import anychip, torch, cupy
    from torch.utils.cpp_extension import load_inline
    import lltm_cuda                     # declared by setup.py beside this file, never built

    said = {}
    CPP = "torch::Tensor muladd(torch::Tensor a, torch::Tensor b, double c); void fill(torch::Tensor a);"
    CPP += "torch::Tensor twice(torch::Tensor a) { auto y = torch::empty({a.size(1), 2}, a.options()); return y; }"
    ext = load_inline("muladd_ext", CPP, cuda_sources="__global__ void k() {}", functions=["muladd", "fill", "twice"])
    a = torch.ones(10, 20, device="cuda")
    ext.fill(a)
    try:
        ext.muladd(a, a, 2.0)
    except RuntimeError as error:
        said["unknown"] = str(error)
    anychip.kernel("extension.muladd_ext.muladd", flop=lambda a, b, c: 2 * a.numel(), outputs=lambda a, b, c: a)
    import muladd_ext
    said["twice"] = list(muladd_ext.twice(a).shape)
    said["shape"] = list(ext.muladd(a, a, 2.0).shape)
    try:
        ext.fill(torch.ones(3))
    except RuntimeError as error:
        said["cpu"] = str(error)
    CELL = '''
    class Cell { public: Cell(int n) {} Tensor forward(Tensor x) { return torch::empty({x.size(1)}, x.options()); } };
    PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
        pybind11::class_<Cell>(m, "Cell")
            .def(pybind11::init<int>())
            .def("forward", &Cell::forward)
            .def("other", [](Cell& self, Tensor x) { return self.odd(x); });
        m.def("free", &free_one);
        pybind11::enum_<q::Type>(m, "Kind").value("Symmetric", q::Symmetric).value("Asymmetric", q::Asymmetric).export_values();
    }
    '''
    cells = load_inline("cell_ext", CELL, cuda_sources="__global__ void k() {}")
    said["cell"] = [list(cells.Cell(3).forward(a).shape), hasattr(cells, "forward"), hasattr(cells, "free")]
    said["kinds"] = [int(cells.Kind.Asymmetric), cells.Symmetric is cells.Kind.Symmetric]
    try:
        cells.Cell(3).other(a)
    except RuntimeError as error:
        said["odd"] = str(error)
    said["functions"] = [hasattr(lltm_cuda, "forward"), hasattr(lltm_cuda, "nonsense")]
    said["header"] = list(lltm_cuda.forward(a).shape)

    QUANTIZED = "void set_up(int rows, bool fast) { limit = rows; } size_t workspace(int rows) { return 4 * rows; }"
    QUANTIZED += "uintptr_t keep\\n(torch::Tensor q, torch::Tensor scales) { auto m = new M(q); return cast<uintptr_t>(m); }"
    QUANTIZED += "uintptr_t both(uintptr_t one, uintptr_t two) { return 0; } void product(Tensor x, uintptr_t m, Tensor out) {}"
    names = ["set_up", "workspace", "keep", "both", "product"]
    q = load_inline("quantized_ext", QUANTIZED, cuda_sources="__global__ void k() {}", functions=names)
    said["host"] = [q.set_up(8, True), q.workspace(8)]
    weights = [q.keep(torch.ones(16, 10, dtype=torch.int32, device="cuda"), torch.ones(2, 10, device="cuda")) for _ in "ab"]
    said["handles"] = len(set(weights))
    q.product(a, weights[0], torch.empty_like(a))
    torch.ops.load_library(q.__file__)

    LIBRARY = '''
    Tensor pair(const Tensor& a, int64_t n) { auto y = torch::empty({n, 2}, a.options()); return y; }
    void into(const Tensor& a, Tensor& out) { kernel(a, out); }
    Tensor plain_one(const Tensor& a) { return torch::empty_like(a); }
    Tensor classy(const Tensor& a, Camera* camera) { return torch::empty({a.size(1)}, a.options()); }
    TORCH_LIBRARY(registered_here, m) {
        m.def("pair(Tensor a, int n) "
              "-> Tensor");
        m.def(R"(into(Tensor a, Tensor(a!) out) -> ())");
        m.def("registered_here::faked(Tensor a) -> Tensor");
        m.def("packed(Tensor a, Tensor ends) -> Tensor");
        m.def("plain_one", &plain_one);
        m.def("classy(Tensor a, __torch__.torch.classes.registered_here.Camera? camera) -> Tensor");
        m.def("over.rows(Tensor a, int n, str mode=\\\\"mean\\\\") -> Tensor");
        m.def("over.out(Tensor a, float scale=1.0, *, Tensor(b!) out, bool fast=False) -> ()");
    }
    TORCH_LIBRARY_IMPL(registered_here, CUDA, m) { m.impl("pair", &pair); m.impl("into", &into); m.impl("faked", &faked); }
    '''
    for _ in range(2):                   # as a module that is loaded again does
        load_inline("registered_ext", LIBRARY, cuda_sources="__global__ void k() {}", is_python_module=False)
    ops = torch.ops.registered_here
    torch.library.register_fake("registered_here::faked")(lambda a: a.new_empty(a.shape[0] + 1))
    torch.library.register_fake("registered_here::packed")(
        lambda a, ends: a.new_empty(torch.library.get_ctx().new_dynamic_size(), a.shape[-1]))
    texts, ends = torch.zeros(3, 5, 7, device="cuda"), torch.tensor([0, 2, 4, 9], device="cuda")
    said["packed"] = [list(ops.packed(texts, one).shape) for one in (ends, torch.zeros(4, device="cuda"))]
    torch.library.register_autograd("registered_here::faked", lambda context, gradient: torch.ones_like(a))
    torch.library.register_fake("registered_here::over.rows")(lambda a, n, mode="mean": a.new_empty(n))
    ops.over(a, out=torch.empty_like(a))
    ops.into(a, torch.empty_like(a))
    b = a.clone().requires_grad_()
    ops.faked(b).sum().backward()
    rows = ops.over(a, 3, mode="sum")
    said["classy"] = list(ops.classy(a, None).shape)
    said["registered"] = [list(one.shape) for one in (ops.pair(a, 7), ops.faked(a), ops.plain_one(a), b.grad, rows)]

    @anychip.kernel(flop=7, bytes=99, outputs=lambda x: [(x.shape[:1], torch.float32), x], unit="matrix", name="mine")
    def own(x):
        raise AssertionError("is not run on the chip")

    said["own"] = [list(one.shape) for one in own(a)]
    kernel = cupy.RawKernel("extern \\"C\\" __global__ void axpy(const float* x, float* y) {}", "axpy")
    kernel((1,), (32,), (a, a))
    kernel((1,), (32,), (a.data_ptr(), a[5].data_ptr()))
    compiled = torch.cuda._compile_kernel("extern \\"C\\" __global__ void scale(const float* x, float* y, int n) {}", "scale")
    compiled.set_shared_memory_config(64 * 1024)
    compiled(grid=(4, 1, 1), block=(256, 1, 1), args=[a, torch.empty_like(a), a.numel()], stream=torch.cuda.Stream())
    json.dump(said, open(sys.argv[1], "w"))
"""

SETUP = """
    from setuptools import setup
    from torch.utils.cpp_extension import BuildExtension, CUDAExtension
    setup(name="lltm", ext_modules=[CUDAExtension("lltm_cuda", ["lltm_cuda.cpp", "lltm_cuda_kernel.cu"])])
"""


def recorded(folder: Path, text: str) -> Recorded:
    program = folder / "program.py"
    program.write_text(textwrap.dedent(text), encoding="utf-8")
    return Recorded(program, folder / "said.json")


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return recorded(tmp_path_factory.mktemp("triton"), TRITON)


@pytest.fixture(scope="module")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("extensions")
    (folder / "ext").mkdir()
    (folder / "ext" / "setup.py").write_text(textwrap.dedent(SETUP), encoding="utf-8")
    binding = 'PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("forward", &lltm_forward, "LLTM forward"); }'
    (folder / "ext" / "lltm_cuda.cpp").write_text(binding, encoding="utf-8")
    header = "inline torch::Tensor lltm_forward(torch::Tensor x) { return torch::empty({x.size(1), 3}, x.options()); }"
    (folder / "ext" / "lltm.h").write_text(header, encoding="utf-8")
    return recorded(folder, EXTENSIONS)


# Triton ---------------------------------------------------------------------------------------------------------------


def test_a_launch_is_one_op_with_the_bytes_that_its_source_moves(triton: Recorded) -> None:
    op = triton.op("triton.add_kernel")
    assert work(op).bytes_moved == 3 * 1000 * 4  # two loads and a store of 1,000 floats
    assert op.mutates == (2,)
    assert price_op(op, load_chip("h100")).evidence == "bytes_only"
    assert triton.count("triton.add_kernel") == 2  # one of them under do_bench


def test_a_few_rows_that_are_put_into_a_cache_are_not_all_of_it(triton: Recorded) -> None:
    """Half of a decoding step was a kernel that stores one row for each sequence, priced as if it wrote the whole cache."""
    # 8 programs, three lines with 64 elements at most of 4 bytes: 8 rows and 8 numbers that are read, and what is stored
    assert work(triton.op("triton.put_kernel")).bytes_moved == 8 * 64 * 4 + 8 * 4 + 3 * 8 * 64 * 4
    assert work(triton.op("triton.sum_kernel")).bytes_moved == 100_000 * 64 * 4 + 4  # who repeats may read all


def test_a_described_kernel_has_its_cost(triton: Recorded) -> None:
    task = triton.work("custom.triton.scale_kernel")
    assert (task.flop, task.bytes_moved) == (10_000, 2 * 4000)
    assert price_op(triton.op("custom.triton.scale_kernel"), load_chip("h100")).evidence != "bytes_only"


def test_descriptors_are_the_tensors_that_they_describe(triton: Recorded) -> None:
    op = triton.op("triton.tile_kernel")
    assert [one.shape for one in op.tensors] == [(10, 128), (10, 128)]
    assert (work(op).bytes_moved, op.mutates) == (2 * 5120, (1,))


def test_heuristics_and_timing(triton: Recorded) -> None:
    assert triton.count("triton.even_kernel") == 1
    assert triton.said["ms"] > 0


def test_kernels_refuse_what_triton_refuses(triton: Recorded) -> None:
    assert "cpu tensor" in triton.said["cpu"]
    assert "outside of the scope of a kernel" in triton.said["call"]


def softmax(out_ptr, in_ptr, index_ptr, rows, tl):  # type: ignore[no-untyped-def]
    start = in_ptr + tl.program_id(0) * rows
    for _ in range(3):
        start += rows
    where = tl.load(index_ptr)
    row = tl.load(start)
    tl.store(out_ptr + where, row)
    tl.atomic_add(in_ptr, row)


def test_pointers_are_followed_through_arithmetic_but_not_through_loaded_data() -> None:
    assert roles(softmax) == {
        "in_ptr": (True, True), "index_ptr": (True, False), "out_ptr": (False, True), "rows": (True, False)
    }  # fmt: skip


# Extensions -----------------------------------------------------------------------------------------------------------


def test_a_function_that_returns_nothing_is_recorded(extensions: Recorded) -> None:
    op = extensions.op("extension.muladd_ext.fill")
    assert work(op).bytes_moved == 10 * 20 * 4
    assert not work(op).known


def test_a_function_with_results_says_what_is_needed(extensions: Recorded) -> None:
    assert 'anychip.kernel("extension.muladd_ext.muladd", outputs=' in extensions.said["unknown"]
    assert extensions.said["shape"] == [10, 20]
    assert extensions.work("custom.extension.muladd_ext.muladd").flop == 2 * 200
    assert "not built here" in extensions.said["cpu"]


def test_a_class_that_an_extension_binds_is_made_and_its_methods_are_kernels(extensions: Recorded) -> None:
    """Its methods were functions of the module, and the class was not there: AttributeError, without a word of anychip.kernel."""
    assert extensions.said["cell"] == [[20], False, True]
    assert extensions.op("extension.cell_ext.Cell.forward")
    assert 'anychip.kernel("extension.cell_ext.Cell.other", outputs=' in extensions.said["odd"]


def test_an_enum_that_an_extension_binds_has_its_values(extensions: Recorded) -> None:
    """DeepSpeed's quantizer takes one: AttributeError, without a word of anychip.kernel."""
    assert extensions.said["kinds"] == [1, True]


def test_results_that_the_source_shows_need_no_saying(extensions: Recorded) -> None:
    assert extensions.said["twice"] == [20, 2]
    assert extensions.work("extension.muladd_ext.twice").bytes_moved == (200 + 40) * 4


def test_a_number_stands_for_the_tensors_that_it_was_made_of(extensions: Recorded) -> None:
    """Kernels of quantized weights take a number for them: a product was priced by its inputs alone."""
    assert extensions.said["handles"] == 2
    # x and the result, 200 floats each; 16 * 10 packed numbers and 2 * 10 scales of 4 bytes
    assert extensions.work("extension.quantized_ext.product").bytes_moved == 4 * (2 * 200 + 16 * 10 + 2 * 10)


def test_what_sets_an_extension_up_does_nothing_and_numbers_of_it_are_one(extensions: Recorded) -> None:
    assert extensions.said["host"] == [None, 1]


def test_operators_that_an_extension_registers_are_torchs(extensions: Recorded) -> None:
    """By their schema they write what it marks; results are as the source or the program's own register_fake says."""
    assert extensions.said["registered"] == [[7, 2], [11], [10, 20], [10, 20], [3]]
    assert extensions.said["classy"] == [20]  # of a type that torch was not told of
    assert extensions.said["packed"] == [[9, 7], [15, 7]]  # as its ends say, else all; it ended the program
    assert extensions.op("extension.registered_here.into").mutates == (1,)
    assert extensions.op("extension.registered_here.pair").mutates == ()
    assert extensions.op("extension.registered_here.over.out").mutates == (1,)


@pytest.mark.parametrize(
    "setup",
    [
        'name = "mine"; CUDAExtension(name="mine._C", sources=[])',
        'library = "mine"; build = CUDAExtension if use_cuda else CppExtension; build(f"{library}._C", [])',
    ],
)
def test_a_setup_file_names_its_extension_by_what_it_is_made_of(tmp_path: Path, setup: str) -> None:
    (tmp_path / "setup.py").write_text(setup, encoding="utf-8")
    assert list(declared((str(tmp_path),))) == ["mine._C"]


def test_a_declared_extension_is_importable_with_the_functions_it_binds(extensions: Recorded) -> None:
    assert extensions.said["functions"] == [True, False]
    assert extensions.said["header"] == [20, 3]  # its definition stands in a header
    assert any("lltm_cuda" in text for text in extensions.warnings)


CXX = """
#include <torch/extension.h>
#define CHECK(x) TORCH_CHECK(x.is_cuda())
std::vector<at::Tensor> lltm_cuda_forward(at::Tensor input, at::Tensor weights);  // a declaration
static torch::Tensor up(torch::Tensor x, torch::Tensor f, int upx, int pad) {
    CHECK(x);
    x = x.contiguous();
    int out = ((int)x.size(1) * upx + pad - (int)f.size(0) + 2) / 2;
    torch::Tensor y = torch::empty({x.size(0), out}, x.options());
    if (out > 1) { launch<float><<<1, 1>>>(y.data_ptr<float>()); }
    return y;
}
std::vector<at::Tensor> lltm_cuda_forward(at::Tensor input, at::Tensor weights) {
    auto gates = at::zeros({input.size(0), 3, weights.size(0) / 3}, weights.options().dtype(torch::kHalf));
    auto count = torch::zeros(input.sizes(), torch::TensorOptions().dtype(torch::kInt32).device(input.device()));
    return {gates, count, at::empty_like(input)};
}
std::vector<at::Tensor> lltm_forward(at::Tensor input, at::Tensor weights) { return lltm_cuda_forward(input, weights); }
at::Tensor resampled(at::Tensor x, at::Tensor f, int up) {
    Parameters p;
    p.height = x.size(1);
    p.out = (p.height * up - f.size(0) + 1) /
            2;
    return at::empty({x.size(0), p.out}, x.options());
}
void fill(at::Tensor x) { }
at::Tensor magic(at::Tensor x) { return x.index({0}); }
"""


def test_results_are_read_from_cpp() -> None:
    x, f = torch.empty(4, 10), torch.empty(3)
    # (10 * 2 + 5 - 3 + 2) / 2 = 12
    assert returned(CXX, "up", (x, f, 2, 5)) == Shape((4, 12), torch.float32)
    # 9 rows of weights are 3 for each of 3 gates
    assert returned(CXX, "lltm_forward", (x, torch.empty(9, 2))) == [
        Shape((4, 3, 3), torch.float16), Shape((4, 10), torch.int32), Shape((4, 10), torch.float32)
    ]  # fmt: skip
    # sizes in a struct, which the kernel is given (StyleGAN 2's resampling): (10 * 3 - 3 + 1) / 2 = 14
    assert returned(CXX, "resampled", (x, f, 3)) == Shape((4, 14), torch.float32)
    assert returned(CXX, "fill", (x,)) is None
    last = torch.empty(1, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    same = "Tensor f(Tensor x) { return torch::empty({2, 8, 4, 4}, x.options(), x.suggest_memory_format()); }"
    assert returned(same, "f", (last,)).stride == (128, 1, 32, 8)
    for name in ("magic", "absent"):
        with pytest.raises(Unknown):
            returned(CXX, name, (x,))


def test_bound_names_are_read_from_cpp() -> None:
    binding = 'm.def("f", &f); m.def("g", &ns::g, "doc"); m.impl("h", TORCH_FN(h));'
    module = make_module("m", [binding])
    assert [getattr(module, name).cxx for name in "fgh"] == ["f", "g", "h"]


def test_setup_files_are_read_not_run(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("raise SystemExit\n" + textwrap.dedent(SETUP), encoding="utf-8")
    assert list(declared((str(tmp_path),))) == ["lltm_cuda"]


def test_cupy_kernels_count_their_tensors_given_whole_or_by_address(extensions: Recorded) -> None:
    ops = [op for op in extensions.ops if op.name == "cupy.axpy"]
    assert [op.mutates for op in ops] == [(0, 1), ()]  # one tensor given twice; the second parameter is not const
    assert [work(op).bytes_moved for op in ops] == [2 * 800, 2 * 800]  # 200 floats, behind each address too
    assert constants("__global__ void axpy(const float* x, float* y, int n)", "axpy") == {0}


def test_a_kernel_that_torch_compiles_while_the_program_runs_is_one_op(extensions: Recorded) -> None:
    (op,) = [op for op in extensions.ops if op.name == "cuda.scale"]
    assert op.mutates == (1,)
    assert work(op).bytes_moved == 2 * 800


# anychip.kernel -------------------------------------------------------------------------------------------------------


def test_a_described_function_is_not_run_on_the_chip(extensions: Recorded) -> None:
    assert extensions.said["own"] == [[10], [10, 20]]
    task = extensions.work("custom.mine")
    # 99 bytes as said, of which what is written cannot be more
    assert (task.flop, task.bytes_moved, task.unit) == (7, 99, "matrix")


def test_without_a_chip_the_decorator_changes_nothing() -> None:
    def function(x: int) -> int:
        return x + 1

    assert anychip.kernel(flop=1)(function) is function


def test_a_wrong_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="vector, matrix"):
        anychip.kernel(unit="tensor")


def test_kernels_without_a_cost_are_told_in_one_line(triton: Recorded, extensions: Recorded) -> None:
    """Those that move most by name: 12,000 bytes twice, 10,240 and 4, of the extensions 2,320 bytes at most."""
    alone, together = by_bytes_alone(triton.program), by_bytes_alone(triton.program, extensions.program)
    assert [line.partition(": ")[2] for line in alone] == [
        "5 kernels of the program's own (triton.sum_kernel, triton.add_kernel, triton.tile_kernel, ...). "
        "anychip.kernel gives a kernel its cost, see docs/kernels.md."
    ]
    assert (
        len(
            [line for line in together if "own (triton.sum_kernel, triton.add_kernel, triton.tile_kernel, ...)" in line]
        )
        == 1
    )
    assert not any("priced by the bytes" in text for text in triton.warnings + extensions.warnings)


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ((("flop", 1000),), (1000, 48, True)),  # 4 x 2 floats read, 4 floats written
        ((("flop", 0), ("bytes", 10)), (0, 10, True)),
        ((), (0, 48, False)),
    ],
)
def test_custom_work(kwargs: tuple[tuple[str, int], ...], expected: tuple[int, int, bool]) -> None:
    read, written = TensorMeta((4, 2), (2, 1), "float32"), TensorMeta((4,), (1,), "float32")
    task = work(Op("custom.x", (read,), kwargs, (written,)))
    assert (task.flop, task.bytes_moved, task.known) == expected


def test_matrix_flop_run_on_the_matrix_unit() -> None:
    def cost(unit: str) -> float:
        kwargs = (("flop", 10**13), ("bytes", 1), ("unit", unit))
        return price_op(Op("custom.x", (), kwargs, (TensorMeta((1,), (1,), "bfloat16"),)), load_chip("h100")).time_s

    # 1e13 flop: 16-bit products at several hundred TFLOP/s, vector arithmetic at tens
    assert cost("matrix") < cost("vector") / 3
