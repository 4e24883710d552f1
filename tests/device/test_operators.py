"""What operators make on the virtual chip: shapes, layouts, dtypes and places, as torch's kernels for chips do. Each stopped a real
program, or mispriced it, and is named after the symptom."""

import torch

from anychip.cost.work import work
from anychip.device.ops.schemas import IN_PLACE_VIEWS
from tests.device.recorded import names, run


def test_compressed_sparse_matrices_multiply_and_train() -> None:
    program, out = run("""
        import torch
        places = torch.randint(0, 100, (2, 500))
        graph = torch.sparse_coo_tensor(places, torch.rand(500), (100, 100)).coalesce()
        weight = torch.randn(100, 16, device="cuda", requires_grad=True)
        rows = graph.to_sparse_csr().cuda()
        (rows @ weight).sum().backward()
        both = torch.sparse.mm(graph.cuda(), graph.cuda())
        out = [rows._nnz(), list(weight.grad.shape), str(rows.t().layout), list((rows @ weight[:, 0]).shape),
               list(graph.cuda().to_sparse_csr().to_dense().shape), both._nnz() == rows._nnz() ** 2 // 100]
        out[0] = out[0] == graph._nnz()
    """)
    assert out == [True, [100, 16], "torch.sparse_csc", [100], [100, 100], True]
    assert [op.name for op in program.ops].count("aten._sparse_mm.default") >= 2


def test_views_in_place_change_the_tensor() -> None:
    """`nn.init.orthogonal_` of a wide matrix transposes in place; so do programs that squeeze."""
    _, out = run("""
        import torch
        def changed(change):
            there, here = torch.zeros(3, 1, 5, device="cuda"), torch.zeros(3, 1, 5)
            change(there), change(here)
            return (there.shape, there.stride()) == (here.shape, here.stride()) and there.shape != (3, 1, 5)
        wide = torch.nn.init.orthogonal_(torch.empty(27, 512, device="cuda"))
        out = [changed(lambda x: x.transpose_(0, 2)), changed(lambda x: x.squeeze_()), changed(lambda x: x.squeeze_(1).t_()),
               changed(lambda x: x.unsqueeze_(0)), changed(lambda x: x.swapdims_(0, 2)), changed(lambda x: x.swapaxes_(0, 2)),
               changed(lambda x: torch.ops.aten.squeeze_.dims(x, [1])), changed(lambda x: x.squeeze_(1).resize_as_(x[:2])),
               list(wide.shape) == [27, 512]]
    """)
    assert all(out), out


def test_all_that_torch_tags_as_a_view_in_place_is_left_to_it() -> None:
    tagged = set()
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("aten::") and schema.name.endswith("_"):
            *_, tags = torch._C._get_operation_overload(schema.name, schema.overload_name)
            if torch.Tag.inplace_view in tags:
                tagged.add(schema.name)
    own = {
        "aten::resize_",
        "aten::set_",
        "aten::as_strided_",
        "aten::detach_",
    }  # kernels of ours, or torch's for all keys
    assert tagged - own - IN_PLACE_VIEWS <= {"aten::rename_", "aten::sparse_resize_", "aten::resize_as_sparse_"}


def test_grouped_products_of_other_types_than_bfloat16() -> None:
    """A mixture of experts in float32: torch's chips multiply group by group."""
    _, out = run("""
        import torch
        ends = torch.arange(256, 2049, 256, device="cuda", dtype=torch.int32)
        out = []
        for dtype in (torch.bfloat16, torch.float32):
            x = torch.randn(2048, 512, device="cuda", dtype=dtype, requires_grad=True)
            w = torch.randn(8, 1024, 512, device="cuda", dtype=dtype, requires_grad=True)
            y = torch.nn.functional.grouped_mm(x, w.transpose(-2, -1), offs=ends)
            y.sum().backward()
            out.append([list(y.shape), list(x.grad.shape), list(w.grad.shape)])
    """)
    assert out == [[[2048, 1024], [2048, 512], [8, 1024, 512]]] * 2


def test_grouped_products_of_scaled_fp8() -> None:
    """As torchao and Transformer Engine call them for experts: either operator, in 16 bit whatever comes in."""
    _, out = run("""
        import torch
        import torch.nn.functional as F
        ends = torch.arange(64, 257, 64, device="cuda", dtype=torch.int32)
        x = torch.randn(256, 128, device="cuda").to(torch.float8_e4m3fn)
        w = torch.randn(4, 32, 128, device="cuda").to(torch.float8_e4m3fn).transpose(1, 2)
        one, other = torch.ones(256, device="cuda"), torch.ones(4, 32, device="cuda")
        y = torch._scaled_grouped_mm(x, w, one, other, offs=ends, out_dtype=torch.bfloat16)
        z = F.scaled_grouped_mm(x, w, one, F.ScalingType.RowWise, other, F.ScalingType.RowWise, offs=ends)
        out = [[list(t.shape), str(t.dtype)] for t in (y, z)]
    """)
    assert out == [[[256, 32], "torch.bfloat16"]] * 2


def test_weights_of_four_bits_are_packed_and_multiplied() -> None:
    """torch's rule failed: 'Tensor' object has no attribute 'fake_device'."""
    _, out = run("""
        import torch
        packed = torch._convert_weight_to_int4pack(torch.zeros(512, 128, device="cuda", dtype=torch.uint8), 8)
        x, scales = torch.randn(3, 256, device="cuda", dtype=torch.bfloat16), torch.ones(2, 512, 2, device="cuda", dtype=torch.bfloat16)
        y = torch._weight_int4pack_mm(x, packed, 128, scales)
        out = [list(y.shape), str(y.dtype), y.device.type]
        try:
            torch._weight_int4pack_mm(x[None], packed, 128, scales)
        except RuntimeError as error:
            out.append("must be a 2D tensor" in str(error))
    """)
    assert out == [[3, 512], "torch.bfloat16", "cuda", True]


def test_numbers_of_the_host_stand_beside_tensors_of_the_chip() -> None:
    _, out = run("""
        import torch
        x, number = torch.randn(10, device="cuda"), torch.tensor(0.5)
        mask, first = x > 0, torch.tensor([1], device="cuda")
        x[mask] = 0
        out = [x.masked_fill(mask, number), x.masked_fill_(mask, number), torch.copysign(x, number), torch.lerp(x, x, number),
               x.index_fill_(0, first, number), torch.where(mask, x, number), x.index_put_((first,), number)]
        counts = torch.arange(1, 5, device="cuda")
        out += [7 // counts, *(getattr(torch, name)(7, x) for name in ("add", "sub", "mul", "div"))]
        out = [one.device.type for one in out]
    """)
    assert out == ["cuda"] * 12


def test_operators_without_a_rule_of_torchs_own() -> None:
    _, out = run("""
        import torch
        x, wide = torch.randn(5, 4, device="cuda"), torch.randn(6, 5, 2, device="cuda")
        solved = torch.linalg.lstsq(x, torch.randn(5, 2, device="cuda"))
        drawn = torch.distributions.Dirichlet(torch.rand(3, 4, device="cuda")).rsample()
        gamma = torch.distributions.Gamma(torch.rand(3, device="cuda"), torch.rand(3, device="cuda")).rsample()
        layer = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
        encoder = torch.nn.TransformerEncoder(layer, 2).cuda().eval()
        padding = torch.zeros(2, 5, dtype=torch.bool, device="cuda")
        with torch.no_grad():
            encoded = encoder(torch.randn(2, 5, 16, device="cuda"), src_key_padding_mask=padding)
        out = [list(solved.solution.shape), list(drawn.shape), list(gamma.shape), list(encoded.shape),
               list(torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255).shape), list(torch.randn(9, device="cuda").kthvalue(3)[0].shape)]
        scores, labels = torch.randn(5, 4, device="cuda", requires_grad=True), torch.ones(5, 4, dtype=torch.long, device="cuda")
        loss = torch.nn.functional.multi_margin_loss(scores, labels[:, 0])
        (loss + torch.nn.functional.multilabel_margin_loss(scores, labels)).backward()
        maps = torch.randn(1, 2, 8, 8, 8, device="cuda", requires_grad=True)
        torch.nn.functional.fractional_max_pool3d(maps, 2, output_size=4).sum().backward()
        out += [list(scores.grad.shape), list(maps.grad.shape)]
    """)
    assert out == [[4, 2], [3, 4], [3], [2, 5, 16], [5, 4], [], [5, 4], [1, 2, 8, 8, 8]]


def test_an_operator_without_any_rule_is_named_in_one_sentence() -> None:
    """It was torch's advice on custom operators, or a table of all its kernels."""
    _, out = run("""
        import torch
        try:
            torch.ops.aten._histogramdd_from_bin_cts(torch.randn(4, 2, device="cuda"), [2, 2])
        except NotImplementedError as error:
            out = str(error)
    """)
    assert out == "anychip has no shape rule for aten._histogramdd_from_bin_cts: please report it"


def test_channels_last_stays_through_a_convolution_and_its_gradients() -> None:
    """A channels-last network was priced with a transpose around each of its convolutions: the second one's maps lay first."""
    _, out = run("""
        import torch
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        last = net.cuda().to(memory_format=torch.channels_last)
        x = torch.randn(2, 3, 16, 16, device="cuda", requires_grad=True)
        y = last(x.to(memory_format=torch.channels_last))
        y.sum().backward()
        plain = torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8, device="cuda"), torch.ones(4, 3, 3, 3, device="cuda"))
        out = [list(y.stride()), list(last[2].weight.grad.stride()), list(plain.stride())]
    """)
    # [2, 4, 12, 12] last: 4*12*12, 1, 4*12, 4; a weight [4, 8, 3, 3] last: 72, 1, 24, 8; [1, 4, 6, 6] as ever
    assert out == [[576, 1, 48, 4], [72, 1, 24, 8], [144, 36, 6, 1]]


def test_what_is_made_like_a_tensor_of_the_chip_is_where_it_is_asked_for() -> None:
    """`zeros_like(x, device="cpu")` was on the chip: asynchronous checkpoints could not stage their tensors on the host."""
    _, out = run("""
        import torch
        x = torch.randn(4, 6, device="cuda").t()
        made = [
            x.new_empty([2], device="cpu"), x.new_zeros([2], device="cpu"), x.new_ones([2], device="cpu"),
            x.new_full([2], 3.0, device="cpu"), x.new_empty_strided([2], [1], device="cpu"),
            torch.empty_like(x, device="cpu", pin_memory=True), torch.zeros_like(x, device="cpu"),
            torch.ones_like(x, device="cpu"), torch.full_like(x, 2.0, device="cpu"), torch.rand_like(x, device="cpu"),
            torch.randn_like(x, device="cpu"), torch.randint_like(x, 5, device="cpu"),
        ]
        zeros = torch.zeros_like(x, device="cpu", dtype=torch.float64)
        out = [{one.device.type for one in made}, zeros.sum().item(), list(zeros.shape), zeros.stride(),
               torch.zeros_like(x, device="meta").device.type, torch.zeros_like(x, device="cuda").device.type]
        out[0] = sorted(out[0])
    """)
    assert out == [["cpu"], 0.0, [6, 4], [1, 6], "meta", "cuda"]


def test_products_run_shortened_where_the_program_says_so() -> None:
    """`set_float32_matmul_precision("high")` was heard by nobody: products took eight times as long as they do."""
    program, _ = run("""
        import torch
        x, w = torch.randn(64, 64, device="cuda"), torch.randn(8, 8, 3, 3, device="cuda")
        torch.mm(x, x)
        torch.set_float32_matmul_precision("high")
        torch.mm(x, x)
        torch.mm(x, x)
        torch.mm(x.bfloat16(), x.bfloat16())
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.bmm(x[None], x[None])
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.bmm(x[None], x[None])
        torch.conv2d(x.view(1, 8, 16, 32), w)
        torch.backends.cudnn.allow_tf32 = False
        torch.conv2d(x.view(1, 8, 16, 32), w)
        out = []
    """)
    dtypes = [(op.name.split(".")[1], work(op).dtype) for op in program.ops if work(op).unit == "matrix"]
    assert dtypes == [
        ("mm", "fp32"), ("mm", "tf32"), ("mm", "bf16"), ("bmm", "fp32"), ("bmm", "tf32"), ("convolution", "tf32"),
        ("convolution", "fp32"),
    ]  # fmt: skip


def test_bags_of_a_sparse_table_give_sparse_gradients() -> None:
    """`EmbeddingBag(sparse=True)` gave a gradient as large as its table, which SparseAdam refuses."""
    program, out = run("""
        import torch
        bag = torch.nn.EmbeddingBag(1000, 8, mode="sum", sparse=True, device="cuda")
        dense = torch.nn.EmbeddingBag(1000, 8, mode="mean", device="cuda")
        indices = torch.randint(0, 1000, (16, 4), device="cuda")
        (bag(indices).sum() + dense(indices).sum()).backward()
        out = [bag.weight.grad.is_sparse, bag.weight.grad._nnz(), dense.weight.grad.is_sparse]
        bag.weight.grad.div_(2).mul_(torch.ones((), device="cuda"))  # as who accumulates or scales them does
        out.append(bag.weight.grad.is_sparse)
        torch.optim.SGD(bag.parameters(), 0.1).step()
    """)
    assert out == [True, 64, False, True]
    assert {"aten.div_.Tensor", "aten.mul_.Tensor"} <= set(names(program))
    assert "aten._sparse_add_.default" in names(program)


def test_a_frozen_graph_fuses_a_convolution_with_what_follows() -> None:
    """`torch.jit.optimize_for_inference` on a chip: "no shape rule for aten.cudnn_convolution_relu"."""
    program, out = run("""
        import torch
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ReLU()).cuda().eval()
        x = torch.randn(2, 3, 32, 32, device="cuda")
        fused = torch.cudnn_convolution_relu(x, net[0].weight, net[0].bias, [2, 2], [1, 1], [1, 1], 1)
        added = torch.cudnn_convolution_add_relu(x, net[0].weight, fused, 1.0, net[0].bias, [2, 2], [1, 1], [1, 1], 1)
        out = [list(fused.shape), list(added.shape)]
    """)
    assert out == [[2, 8, 16, 16]] * 2
    # 2 x 16 x 16 positions, 8 channels, a window of 3 x 3 x 3
    assert [work(one).flop for one in program.ops if "convolution" in one.name] == [2 * 512 * 8 * 27] * 2
