"""What stopped real programs on the virtual chip, each as a few lines of our own. Named after the symptom."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anychip.cost.work import work
from anychip.device.launch import record
from anychip.device.ops.schemas import IN_PLACE_VIEWS
from anychip.errors import ProgramFailed
from anychip.record import Kind
from anychip.record.steps import Marks, Phase
from anychip.spec import load_chip
from anychip.timeline.memory import memory
from anychip.timeline.modules import module_at
from tests.device.recorded import names, run


def test_a_model_that_is_only_called_has_its_parameters_on_the_chip() -> None:
    program, _ = run(
        """
        import torch
        net = torch.nn.Linear(64, 64).cuda()
        for _ in range(3):
            with torch.no_grad():
                net(torch.randn(2, 64, device="cuda"))
        """,
        calls=3,
    )
    # 64 x 64 and 64 numbers of 4 bytes
    assert program.block_bytes[program.meta["parameter_blocks"]].sum() == 64 * 65 * 4


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


def test_a_backward_is_told_apart_by_module() -> None:
    """The ops between two NODE words are those of the module that the first names."""
    program, _ = run("""
        import torch
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)
            def forward(self, x):
                return self.second(torch.tanh(self.first(x))) + x
        net = Net().cuda()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(2):
            net(torch.randn(4, 8, device="cuda")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    """)
    modules = module_at(program)
    of: dict[str, list[str]] = {}
    backward = Marks(program).phase() == Phase.BACKWARD
    for at in np.flatnonzero(backward & (program.kinds == Kind.OP)).tolist():
        name = program.ops[int(program.payloads[at])].name.split(".")[1]
        of.setdefault(program.modules[modules[at]] if modules[at] >= 0 else "", []).append(name)
    assert of["Net"].count("tanh_backward") == 2
    assert (of["second"].count("mm"), of["first"].count("mm")) == (4, 2)  # x of `first` needs no gradient
    held = memory(program)
    assert set(held.by_module) <= {"Net", "first", "second", "(no module)", "(optimizer)"}
    assert sum(held.by_module.values()) == held.peak_bytes


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
        out = [one.device.type for one in out]
    """)
    assert out == ["cuda"] * 7


def test_workers_that_load_the_program_anew_see_the_chip() -> None:
    path = Path(__file__).parents[1] / "programs" / "spawned_workers.py"
    program = record([str(path)], load_chip("h100"), show_output=False)
    assert program.meta["exit_code"] == 0
    assert program.meta["steps"] == 3


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


def test_gradients_of_each_sample_by_a_transform() -> None:
    """`torch.func` calls a module with wrappers in the place of its parameters: "Cannot access storage of TensorWrapper"."""
    program, out = run("""
        import copy
        import torch
        from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
        net = torch.nn.Linear(8, 4).cuda()
        x = torch.randn(16, 8, device="cuda")
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        def loss(parameters, row):
            return functional_call(net, parameters, (row,)).sum()
        for _ in range(4):
            grads = vmap(grad(loss), in_dims=(None, 0))(dict(net.named_parameters()), x)
            for name, parameter in net.named_parameters():
                parameter.grad = grads[name].mean(0)
            optimizer.step()
        parameters, buffers = stack_module_state([torch.nn.Linear(8, 4).cuda() for _ in range(3)])
        base = copy.deepcopy(net).to("meta")
        each = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)
        out = [list(grads["weight"].shape), list(jacrev(net)(x[0]).shape), list(each.shape)]
    """, steps=8)  # fmt: skip
    assert out == [[16, 4, 8], [4, 8], [3, 16, 4]]
    # weight 4 x 8 and bias 4, in fp32, of which the wrappers are no others; and three of both, stacked
    assert sorted(program.block_bytes[program.meta["parameter_blocks"]].tolist()) == [16, 48, 128, 384]


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


def test_a_device_that_the_program_does_not_see_is_refused() -> None:
    """Its tensors were made all the same: the program would have died on the machine."""
    _, out = run("""
        import torch
        out = []
        for make in (lambda: torch.empty(1, device="cuda:3"), lambda: torch.ones(1).to("cuda:1"), lambda: torch.cuda.set_device(1)):
            try:
                make()
            except torch.AcceleratorError as error:
                out.append(str(error))
    """)
    assert out == [f"CUDA error: invalid device ordinal (device {number} of 1)" for number in (3, 1, 1)]


def test_only_copies_of_pinned_memory_go_on_without_the_host() -> None:
    """A loader that pins its batches and asks for non_blocking overlaps them with the steps; one that only asks does not."""
    program, _ = run("""
        import torch
        def pair(x, y, **options):
            x.to("cuda", **options)
            y.copy_(x, **options)
        chip = torch.empty(5, device="cuda")
        pair(torch.ones(1), chip[:1])
        pair(torch.ones(2), chip[:2], non_blocking=True)
        pair(torch.ones(3).pin_memory(), chip[:3])
        pair(torch.ones(4).pin_memory(), chip[:4], non_blocking=True)
        chip.to("cpu")
        torch.empty(6, device="cuda").to("cpu", non_blocking=True)
        torch.empty(7).copy_(torch.empty(7, device="cuda"), non_blocking=True)
        torch.empty(8, pin_memory=True).copy_(torch.empty(8, device="cuda"), non_blocking=True)
        out = None
    """)
    copies = [
        op
        for op in program.ops
        if "copy" in op.name and {True, False} == {x.on_chip for x in (*op.tensors, *op.outputs)}
    ]
    asynchronous = sorted(op.tensors[0].numel for op in copies if not work(op).blocks_host)
    # torch takes pinned memory for the result of the six
    assert asynchronous == [4, 4, 6, 8]
    assert len(copies) == 12


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


def test_a_compiler_does_not_run_out_of_what_its_kernels_never_write() -> None:
    """Twelve maps of 8 GB that one kernel adds up as it makes them were refused on a chip of 80 GB."""
    text = """
        import torch
        def total(x):
            maps = [torch.sin(x * k) for k in range(12)]
            return sum(maps[1:], maps[0])
        total = {compiled}(total)
        try:
            out = [list(total(torch.empty({size}, device="cuda", dtype=torch.bfloat16)).shape)]
        except torch.OutOfMemoryError:
            out = ["refused"]
    """
    answers = [
        run(text.format(compiled=compiled, size=size))[1]
        for compiled, size in (("", 4_000_000_000), ("torch.compile", 4_000_000_000), ("torch.compile", 45_000_000_000))
    ]
    assert answers == [["refused"], [[4_000_000_000]], ["refused"]]


def test_a_backward_of_one_number_is_no_step_of_a_program_that_failed() -> None:
    """Some begin with one, around a fault of some system: a program that then found no data was forecast at 22 us a step."""
    with pytest.raises(ProgramFailed, match="before its first step was complete"):
        run("""
            import torch
            torch.empty(1, device="cuda", requires_grad=True).backward()
            raise SystemExit("no data")
        """)


def test_a_process_that_uses_several_chips_is_told_of() -> None:
    """DataParallel's replicas were counted as one chip's work without a word."""
    text = """
        import torch
        model = torch.nn.DataParallel(torch.nn.Linear(8, 8).cuda(), list(range({count})))
        model(torch.randn(16, 8, device="cuda")).sum().backward()
    """
    told = [run(text.format(count=count), devices=4)[0].meta["warnings"] for count in (1, 4)]
    assert told[0] == []
    assert "several chips from one process" in told[1][0]


def test_a_parameter_that_wraps_others_is_where_they_are() -> None:
    """torchao's quantised weights have no memory of their own: the first call of their module ended the program."""
    program, out = run(
        """
        import torch
        class Quantised(torch.Tensor):
            @staticmethod
            def __new__(cls, numbers, scale):
                return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=torch.bfloat16, device=numbers.device)
            def __init__(self, numbers, scale):
                self.numbers, self.scale, self.mesh = numbers, scale, "no tensor, as a DTensor's"
            def __tensor_flatten__(self):
                return ["numbers", "scale", "mesh"], None
            @classmethod
            def __torch_dispatch__(cls, func, types, args, kwargs=None):
                if func is torch.ops.aten.detach.default:
                    return Quantised(args[0].numbers, args[0].scale)
                raise NotImplementedError(func)
        layer = torch.nn.Linear(64, 32, bias=False, device="cuda")
        numbers, scale = torch.zeros(32, 64, dtype=torch.int8, device="cuda"), torch.ones(32, 1, device="cuda")
        layer.weight = torch.nn.Parameter(Quantised(numbers, scale), requires_grad=False)
        layer.forward = lambda x: x @ (layer.weight.numbers * layer.weight.scale).t()
        out = [list(layer(torch.randn(4, 64, device="cuda")).shape)]
        """,
        calls=2,
    )
    assert out == [[4, 32]]
    assert sorted(program.block_bytes[program.meta["parameter_blocks"]].tolist()) == [128, 2048]


def test_flex_attention_is_one_kernel_in_32_bit_too() -> None:
    """Under autocast rotary embeddings leave queries in 32 bit: attention was priced as products with all scores written."""
    program, _ = run("""
        import torch
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 512, 512, device="cuda")
        q = torch.randn(2, 4, 512, 64, device="cuda", requires_grad=True)
        torch.compile(flex_attention)(q, q, q, block_mask=mask).sum().backward()
    """)
    done = set(names(program))
    assert {"aten._flash_attention_forward.default", "aten._flash_attention_backward.default"} <= done
    assert not any(name.startswith("aten.bmm") for name in done)


def test_bags_of_a_sparse_table_give_sparse_gradients() -> None:
    """`EmbeddingBag(sparse=True)` gave a gradient as large as its table, which SparseAdam refuses."""
    program, out = run("""
        import torch
        bag = torch.nn.EmbeddingBag(1000, 8, mode="sum", sparse=True, device="cuda")
        dense = torch.nn.EmbeddingBag(1000, 8, mode="mean", device="cuda")
        indices = torch.randint(0, 1000, (16, 4), device="cuda")
        (bag(indices).sum() + dense(indices).sum()).backward()
        out = [bag.weight.grad.is_sparse, bag.weight.grad._nnz(), dense.weight.grad.is_sparse]
        torch.optim.SGD(bag.parameters(), 0.1).step()
    """)
    assert out == [True, 64, False]
    assert "aten._sparse_add_.default" in names(program)


def test_a_compiled_backward_may_leave_out_what_has_no_gradient() -> None:
    """As dynamo lets it; where nothing is compiled torch refuses it, and so it does where a tensor's own is left out."""
    _, out = run("""
        import torch

        class Scaled(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, weight, scale, given):
                ctx.save_for_backward(x, weight)
                ctx.given = given
                return x * weight * scale

            @staticmethod
            def backward(ctx, grad):
                x, weight = ctx.saved_tensors
                return (grad * weight, grad * x, None, None, None)[: ctx.given] if ctx.given else grad * weight

        def train(function, given, learns=True):
            x = torch.ones(4, device="cuda", requires_grad=True)
            weight = torch.ones(4, device="cuda", requires_grad=learns)
            try:
                function(x, weight, 2.0, given).sum().backward()
            except RuntimeError as error:
                return str(error).rpartition("(")[2]
            return x.grad is not None and (weight.grad is not None) == learns

        compiled = torch.compile(Scaled.apply)
        out = [train(compiled, 2), train(compiled, 5), train(compiled, 1), train(compiled, 0, learns=False), train(Scaled.apply, 2)]
    """)
    assert out == [True, True, "expected 4, got 1)", True, "expected 4, got 2)"]


def test_an_optimizer_that_has_not_stepped_yet_is_told_and_one_that_shares_its_parameters_is_not() -> None:
    """A critic that takes three steps for each of the generator's ended the recording, without the generator, and nothing was said."""
    train = """
        import torch
        made, judge = torch.nn.Linear(8, 8).cuda(), torch.nn.Linear(8, 1).cuda()
        critic, generator = (torch.optim.Adam(one.parameters()) for one in (judge, {second}))
        for _ in range(10):
            for _ in range(3):
                judge(made(torch.ones(4, 8, device="cuda")).detach()).sum().backward()
                critic.step()
            judge(made(torch.ones(4, 8, device="cuda"))).sum().backward()
            generator.step()
    """
    told = "1 of the program's 2 optimizers (Adam) took no step in the 3 recorded"
    for second, steps, is_told in (("made", 3, True), ("made", 8, False), ("judge", 3, False)):
        program, _ = run(train.format(second=second), steps=steps)
        assert any(told in text and text.endswith("--steps 20.") for text in program.meta["warnings"]) == is_told


@pytest.mark.parametrize("host", ["modelled", "measured"])
def test_a_sleep_is_counted_once(host: str) -> None:
    """With --host measured the nap that it leaves of a sleep was counted beside it: 20 ms more for each."""
    program, _ = run(
        """
        import time
        import torch
        for _ in range(20):
            torch.ones(4, device="cuda")
            time.sleep(0.05)
        """,
        host=host,
    )
    own = program.payloads[program.kinds == Kind.HOST]
    sleeps, between = own[own == 50_000_000], own[own != 50_000_000]
    assert sleeps.size == 20
    assert not between.size or np.median(between) < 10e6  # a nap takes 20 ms
