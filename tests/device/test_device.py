"""The virtual chip as a program meets it: values, clocks, streams, graphs, memory, and what is kept of it all."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anychip.cost.work import work
from anychip.device.cuda.answers import answer, differing
from anychip.device.launch import record
from anychip.record import Kind
from anychip.spec import load_chip
from tests.device.recorded import names, run


def test_values_from_the_host_stay_true() -> None:
    _, out = run("""
        import torch
        sizes = torch.tensor([3, 5, 8], device="cuda")
        total = torch.zeros(1, device="cuda")
        for _ in range(4):
            total += 2.5
        out = [sizes.sum().item(), sizes.cumsum(0).tolist(), (sizes * 2)[1].item(), total.item(), bool((sizes > 4).all()),
               torch.arange(5, device="cuda").flip(0).tolist(), torch.full((2,), 7, device="cuda").cpu().tolist()]
    """)
    assert out == [16, [3, 8, 16], 10, 10.0, False, [4, 3, 2, 1, 0], [7, 7]]


def test_checks_for_bad_numbers_find_none() -> None:
    _, out = run("""
        import torch
        x = torch.randn(100, 100, device="cuda")
        out = [bool(torch.isnan(x).any()), bool(torch.isfinite(x).all()), torch.isinf(x).sum().item(), torch.equal(x, x),
               bool((~torch.isfinite(x)).any())]
    """)
    assert out == [False, True, 0, True, False]


def test_a_loop_that_waits_for_a_value_ends() -> None:
    _, out = run("""
        import torch
        turns = 0
        while not (torch.rand(1000, device="cuda") > 0.5).any():
            turns += 1
        out = turns
    """)
    assert 0 < out < 1000


def test_values_read_are_on_the_tape_with_their_line() -> None:
    program, _ = run("""
        import torch
        loss = torch.randn(10, 10, device="cuda").sum()
        if loss.item() < 3:
            loss = loss * 2
    """)
    (place,) = program.places
    assert (Path(place.file).name, place.line, place.function) == ("program.py", 5, "<module>")
    assert names(program)[-1] == "aten.mul.Tensor"


def test_shapes_that_do_not_fit_are_told_in_torch_words() -> None:
    _, out = run("""
        import torch
        out = []
        for function in (lambda: torch.ones(2, 3, device="cuda") @ torch.ones(2, 3, device="cuda"),
                         lambda: torch.ones(3, device="cuda").add_(torch.ones(4, device="cuda")),
                         lambda: torch.ones(3, device="cuda") + torch.ones(3),
                         lambda: torch.ones(3, device="cuda").numpy()):
            try:
                function()
                out.append("nothing")
            except (RuntimeError, TypeError) as error:
                out.append(str(error))
    """)
    assert "mat1 and mat2 shapes cannot be multiplied" in out[0] or "size" in out[0]
    assert "must match" in out[1] or "broadcast" in out[1]
    assert "same device" in out[2]
    assert "Use Tensor.cpu() to copy the tensor to host memory first" in out[3]


def test_the_clock_is_the_chip_s() -> None:
    # 8192^3 * 2 = 1.0995e12 flop a product; at no more than the peak of 989.4e12: 1.111 ms each at least.
    _, out = run("""
        import time, torch
        x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        t0, p0 = time.time(), time.perf_counter_ns()
        start.record()
        for _ in range(10):
            x @ x
        end.record()
        issued = time.time() - t0
        torch.cuda.synchronize()
        time.sleep(0.5)
        out = [issued, time.time() - t0, (time.perf_counter_ns() - p0) / 1e9, start.elapsed_time(end)]
    """)
    issued, waited, perf, events_ms = out
    assert issued < 0.001 < 10 * 1.111e-3 < events_ms / 1e3 < 0.03
    assert waited == pytest.approx(events_ms / 1e3 + 0.5, rel=0.02)
    assert perf == pytest.approx(waited, rel=0.01)


def test_streams_overlap_and_events_order_them() -> None:
    code = """
        import time, torch
        x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        side = torch.cuda.Stream()
        torch.cuda.synchronize()
        t0 = time.time()
        with torch.cuda.stream(side):
            x @ x
        if WAIT:
            torch.cuda.current_stream().wait_stream(side)
        x @ x
        torch.cuda.synchronize()
        out = time.time() - t0
    """
    _, together = run(code.replace("WAIT", "False"))
    _, one_by_one = run(code.replace("WAIT", "True"))
    assert one_by_one == pytest.approx(2 * together, rel=0.1)


def test_what_a_backward_runs_on_another_stream_waits_for_its_gradient() -> None:
    code = """
        import time, torch
        x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        w, side = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16, requires_grad=True), torch.cuda.Stream()
        with torch.cuda.stream(side):
            made = w @ y
        torch.cuda.current_stream().wait_stream(side)
        loss = (made @ x).sum()
        torch.cuda.synchronize()
        t0 = time.time()
        loss.backward()  # autograd switches streams below Python: first this one's product, then the other's
        side.synchronize()
        out = time.time() - t0
    """
    _, apart = run(code)
    _, on_one = run(code.replace("torch.cuda.Stream()", "torch.cuda.current_stream()"))
    assert apart == pytest.approx(on_one, rel=0.02)


def test_a_graph_replays_what_was_captured() -> None:
    program, _ = run("""
        import torch
        x, model = torch.zeros(8, 16, device="cuda"), torch.nn.Linear(16, 16).cuda()
        model(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        for _ in range(3):
            graph.replay()
    """)
    assert names(program).count("aten.addmm.default") == 1 + 3  # the warm-up, and the replays; capturing runs nothing
    assert int(((program.kinds == Kind.GRAPH) & (program.payloads == 1)).sum()) == 3


def test_out_of_memory_is_raised_and_can_be_recovered_from() -> None:
    program, out = run("""
        import torch
        size = 1 << 38
        while True:
            try:
                x = torch.empty(size, dtype=torch.uint8, device="cuda")
                break
            except torch.cuda.OutOfMemoryError as error:
                text = str(error)
                size //= 2
        out = [size, text, torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()]
    """)
    assert out[0] == 1 << 36  # 64 of 79.11 GiB
    assert out[1].startswith(
        "CUDA out of memory. Tried to allocate 128.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
    )
    assert out[2:] == [1 << 36, 1 << 36]
    assert [question.name for question in program.questions] == ["memory_bytes"]


def test_memory_statistics_are_the_caching_allocator_s() -> None:
    _, out = run("""
        import torch
        x = torch.empty(1000, device="cuda")               # 4000 bytes: 4096
        y = torch.empty(3 << 20, dtype=torch.uint8, device="cuda")
        held = [torch.cuda.memory_allocated(), torch.cuda.memory_reserved()]
        del y
        torch.cuda.empty_cache()
        out = [*held, torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated()]
    """)
    # one small segment of 2 MiB and one of 20 MiB; the large one is given back
    assert out == [4096 + (3 << 20), 22 << 20, 4096, 2 << 20, 4096 + (3 << 20)]


def test_questions_and_what_other_chips_would_have_answered() -> None:
    program, out = run("""
        import torch
        out = [torch.cuda.get_device_name(), torch.cuda.is_bf16_supported(), torch.cuda.get_device_properties(0).total_memory]
    """)
    h100, mi300x = load_chip("h100"), load_chip("mi300x")
    assert out == [answer(h100, "name"), True, answer(h100, "memory_bytes")]
    assert {question.name for question in program.questions} == {"name", "supports.bfloat16.matmul", "memory_bytes"}
    assert differing(program, h100) == []
    assert {question.name for question in differing(program, mi300x)} == {"name", "memory_bytes"}


def test_a_question_that_torch_asks_for_nothing_is_none_of_the_program() -> None:
    """Every broadcast asks for the capability, and uses it for FP8 tensors alone."""
    asked = []
    for dtype in ("float32", "float8_e4m3fn"):
        program, _ = run(f"""
            import os, torch, torch.distributed as dist
            os.environ |= {{"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}}
            dist.init_process_group("nccl")
            dist.broadcast(torch.ones(16, device="cuda").to(torch.{dtype}), 0)
            out = None
        """)
        asked.append("capability" in {question.name for question in program.questions})
    assert asked == [False, True]


def test_a_balance_of_equal_chips_is_no_question() -> None:
    """Whatever is wrapped in DataParallel was recorded anew for each chip."""
    program, _ = run("""
        import torch
        torch.nn.DataParallel(torch.nn.Linear(4, 4).cuda())
        out = None
    """)
    assert not program.questions


def test_tensors_that_share_nothing_have_addresses_of_their_own() -> None:
    _, out = run("""
        import torch
        tensors = [torch.empty(10, device="cuda") for _ in range(50)]
        out = [len({one.data_ptr() for one in tensors}), tensors[0][2:].data_ptr() - tensors[0].data_ptr()]
    """)
    assert out == [50, 8]


def test_blocks_are_freed_when_the_last_view_goes() -> None:
    program, _ = run("""
        import torch
        x = torch.empty(100, device="cuda")
        view = x[10:]
        del x
        y = torch.empty(100, device="cuda")
        del view
        z = torch.empty(100, device="cuda")
        w = torch.empty(100, device="cuda")
    """)
    at = np.isin(program.kinds, (Kind.ALLOC, Kind.FREE))
    memory = list(zip(program.kinds[at], program.payloads[at], strict=True))
    x, y = memory[0][1], memory[1][1]
    assert memory[:4] == [(Kind.ALLOC, x), (Kind.ALLOC, y), (Kind.FREE, x), (Kind.ALLOC, x)]


def test_heads_that_share_keys_and_have_a_mask_are_unfused() -> None:
    """The memory-efficient kernel was taken, which knows no shared keys: a decoding step was half as long as CUDA's."""
    taken = []
    for heads, masked in ((2, True), (8, True), (2, False)):
        program, _ = run(f"""
            import torch
            q, k = (torch.randn(2, n, 4, 64, device="cuda", dtype=torch.bfloat16) for n in (8, {heads}))
            mask = torch.ones(4, 4, dtype=torch.bool, device="cuda") if {masked} else None
            torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask, enable_gqa=True)
        """)
        (fused,) = [[one for one in names(program) if "attention" in one and "math" not in one]]
        taken.append(fused[0].split("_")[4] if fused else "")
        assert bool(fused) != ("aten.bmm.default" in names(program))
    assert taken == ["", "efficient", "flash"]


def test_what_a_program_logs_stays_here_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forecast without a login failed, and with one it sent losses that mean nothing among the user's runs."""
    text = "import os\nout = [os.environ['WANDB_MODE'], os.environ['CLEARML_OFFLINE_MODE']]\n"
    assert run(text)[1] == ["offline", "1"]
    monkeypatch.setenv("WANDB_MODE", "online")
    assert run(text + "\n")[1] == ["online", "1"]


def test_workers_that_load_the_program_anew_see_the_chip() -> None:
    path = Path(__file__).parents[1] / "programs" / "spawned_workers.py"
    program = record([str(path)], load_chip("h100"), show_output=False)
    assert program.meta["exit_code"] == 0
    assert program.meta["steps"] == 3


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


def test_large_copies_of_memory_that_is_not_pinned_are_copied_once_more() -> None:
    """They went at the rate of pinned ones: a batch of 154 MB to an A100 in 6 ms for 22."""
    program, out = run("""
        import torch
        data = torch.ones(1 << 14, dtype=torch.float64)
        there = [data.cuda(), data.to("cuda", torch.float16), data[:1 << 12].cuda(), data.pin_memory().cuda()]
        there[0].copy_(data[: 1 << 14])
        out = [there[0].device.type, there[1].dtype == torch.float16, there[0].sum().item(), there[0].cpu().sum().item()]
    """)
    assert out == ["cuda", True, 1 << 14, 1 << 14]
    copies = [
        op
        for op in program.ops
        if "copy" in op.name and {x.on_chip for x in (*op.tensors, *op.outputs)} == {True, False}
    ]
    staged = Counter(work(op).staged_bytes for op in copies)
    # Twice to the chip and once back, and to 16 bit, which the host makes of it; little and pinned ones are not.
    assert staged == {1 << 17: 3, 1 << 15: 1, 0: 2}


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
