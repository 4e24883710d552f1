"""Regions that torch.compile makes: what covers them, and the kernels that its settings lead to."""

import numpy as np
import pytest

from anychip.cost.fusion import fuse
from anychip.cost.work import work
from anychip.forecast import forecast
from anychip.record import Kind
from anychip.spec import load_chip
from tests.device.recorded import TRAIN, names, run


def test_compiled_regions_cover_forward_and_backward() -> None:
    program, _ = run(TRAIN.replace("COMPILE", "True"), steps=2)
    regions = program.payloads[program.kinds == Kind.COMPILED]
    assert set(regions.tolist()) == {0, 1, 2}
    inside = np.zeros(len(program.tape), bool)
    is_open = False
    for at, (kind, payload) in enumerate(zip(program.kinds, program.payloads, strict=True)):
        is_open = bool(payload) if kind == Kind.COMPILED else is_open
        inside[at] = is_open
    called = {program.ops[index].name for index in program.payloads[inside & (program.kinds == Kind.OP)]}
    assert {"aten.addmm.default", "aten.gelu.default", "aten.gelu_backward.default", "aten.mm.default"} <= called
    assert not any("_foreach" in name for name in called)


DECODE = """
import torch
class Int8(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.zeros(4096, 4096, dtype=torch.int8))
    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x.dtype))
SETTING
model = torch.compile(Int8().cuda(), mode=MODE)
x = torch.zeros(ROWS, 4096, dtype=torch.bfloat16, device="cuda")
with torch.no_grad():
    for _ in range(5):
        model(x)
"""


TUNED = "import torch._inductor.config as c; c.coordinate_descent_tuning = True"


@pytest.mark.parametrize(("mode", "setting", "rows", "kernels"), [
    ("'max-autotune'", "", 1, [1]),
    ("'max-autotune-no-cudagraphs'", "", 1, [1]),
    ("None", TUNED, 1, [1]),
    # written in 16 bit by one kernel and read by the next
    ("None", "", 1, [1, 2]),
    ("'max-autotune'", "", 8, [1, 2]),
])  # fmt: skip
def test_products_of_one_row_read_8_bit_weights_as_they_are_where_inductor_tunes(
    mode: str, setting: str, rows: int, kernels: list[int]
) -> None:
    """Decoding with int8 weights was forecast 2.4 times slower than with bf16 ones."""
    text = DECODE.replace("MODE", mode).replace("SETTING", setting).replace("ROWS", str(rows))
    program, _ = run(text, calls=3)
    assert program.meta["calls"] == 3  # a model of buffers alone is a model
    fused = fuse(program)
    tasks = [work(fused.ops[index]) for index in fused.payloads[fused.kinds == Kind.OP]]
    read = [task.bytes_read / 4096**2 for task in tasks if not task.host_bytes and task.bytes_read > 2**20]
    assert read == pytest.approx(3 * kernels, rel=0.01)  # of three calls
    assert forecast(program, load_chip("h100")).model_flop_per_step == 2 * rows * 4096 * 4096


INTO = """
import torch
x = torch.zeros(1024, 1024, device="cuda")
into = torch.empty(1024, 1024, device="cuda")

@torch.compile
def scaled(x):
    large = x.abs().amax(0)
    turned = (x / large).half()
    return turned.t().clone()

for _ in range(4):
    into.copy_(x)
    y = scaled(x)
    torch.add(x, 1, out=into)
    x = x + 1
"""


def test_what_ends_with_a_region_is_not_written_though_nothing_is_allocated_after_it() -> None:
    """Blocks that are freed are noted at the next allocation, which a product that is written into a tensor does not make."""
    program, _ = run(INTO, steps=1)
    fused = fuse(program)
    written = {task.bytes_written for index in fused.payloads[fused.kinds == Kind.OP]
               if fused.ops[index].name == "anychip.fused" and (task := work(fused.ops[index])).bytes_written >= 2**21}  # fmt: skip
    assert written == {2 * 1024**2}


ROWS_OF_ONE = """
import torch
class Chain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = torch.nn.ParameterList([torch.zeros(512, 512, dtype=torch.bfloat16) for _ in range(4)])
    def forward(self, x):
        for weight in self.weights:
            x = PRODUCT
        return x
model = torch.compile(Chain().cuda(), mode="max-autotune")
x = torch.zeros(1, 512, dtype=torch.bfloat16, device="cuda")
with torch.no_grad():
    for _ in range(5):
        model(x)
"""


@pytest.mark.parametrize("product", ["torch.mm(x, weight)", "torch.mm(x, weight, out_dtype=torch.float32).bfloat16()"])
def test_products_of_one_row_wait_for_one_another(product: str) -> None:
    """Four layers of a decoder were one kernel, and a dtype for what comes out ended the program."""
    program, _ = run(ROWS_OF_ONE.replace("PRODUCT", product), calls=3)
    fused = fuse(program)
    tasks = [work(fused.ops[index]) for index in fused.payloads[fused.kinds == Kind.OP]]
    assert sum(task.model_flop > 0 for task in tasks) == 3 * 4
    found = forecast(program, load_chip("h100"))
    assert (found.model_flop_per_step, found.samples_per_step) == (4 * 2 * 512 * 512, 1)


@pytest.mark.parametrize(("first", "second"), [("'max-autotune'", "None"), ("None", "'max-autotune'")])
def test_a_backward_has_the_tuning_of_its_forward_from_its_first_op_on(first: str, second: str) -> None:
    program, _ = run(f"""
        import torch
        one, two = (torch.nn.Linear(256, 256, bias=False).cuda() for _ in range(2))
        one.requires_grad_(False)
        f, g = torch.compile(one, mode={first}), torch.compile(two, mode={second})
        x = torch.zeros(1, 256, device="cuda", requires_grad=True)
        g(f(x)).sum().backward()
        torch.optim.SGD(two.parameters()).step()
    """)
    ops = [program.ops[index] for index in program.payloads[program.kinds == Kind.OP]]
    reduced = [bool(op.kwarg("reduced")) for op in ops if op.name == "aten.mm.default"]
    # Two forwards; of the second the gradients of its weight, which is of many rows, and of its input; of the first its input's alone.
    f, g = first != "None", second != "None"
    assert reduced == [f, g, False, g, f]


@pytest.mark.parametrize(("first", "second", "reduced"), [("'max-autotune'", "None", 1), ("None", "'max-autotune'", 2)])
def test_a_backward_has_the_tuning_of_its_forward(first: str, second: str, reduced: int) -> None:
    program, _ = run(f"""
        import torch
        one, two = (torch.nn.Linear(256, 256, bias=False).cuda() for _ in range(2))
        f, g = torch.compile(one, mode={first}), torch.compile(two, mode={second})
        x = torch.zeros(1, 256, device="cuda")
        g(f(x)).sum().backward()
        torch.optim.SGD([*one.parameters(), *two.parameters()]).step()
    """)
    # of the first layer the forward's, of the second the forward's and its input's gradient
    ops = [program.ops[index] for index in program.payloads[program.kinds == Kind.OP]]
    products = [op for op in ops if op.name == "aten.mm.default"]
    assert len(products) == 5
    assert sum(bool(op.kwarg("reduced")) for op in products) == reduced


def test_the_compiler_s_graphs_alone_launch_the_kernels_as_they_are() -> None:
    graphs = TRAIN.replace("torch.compile(model) if COMPILE", 'torch.compile(model, backend="cudagraphs") if True')
    (program, _), (eager, _) = run(graphs, steps=2), run(TRAIN.replace("COMPILE", "False"), steps=2)
    assert names(program) == names(eager)  # nothing is fused
    assert not (program.kinds == Kind.COMPILED).any()
    replays = program.payloads[program.kinds == Kind.GRAPH].tolist()
    assert replays == [1, 0] * (2 * 2)  # a forward and a backward each step
    is_inside = np.cumsum(np.where(program.kinds == Kind.GRAPH, 2 * program.payloads - 1, 0))
    inside = {program.ops[n].name for n in program.payloads[(is_inside > 0) & (program.kinds == Kind.OP)]}
    assert {"aten.addmm.default", "aten.gelu_backward.default"} <= inside
    assert not any("_foreach" in name for name in inside)


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


def test_a_class_that_is_compiled_stays_a_class() -> None:
    """NSA's function of autograd is one: it had no `apply`. Of a module's class the calls are what is compiled."""
    program, out = run(
        """
        import torch
        @torch.compile
        class Twice(torch.autograd.Function):
            @staticmethod
            def forward(context, x):
                return 2 * x
            @staticmethod
            def backward(context, gradient):
                return 2 * gradient
        @torch.compile
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.ones(64))
            def forward(self, x):
                return Twice.apply(self.weight * x).sum()
        Model().cuda()(torch.randn(64, device="cuda")).backward()
        out = isinstance(Model(), Model)
        """
    )
    assert out
    assert (program.kinds == Kind.COMPILED).any()
