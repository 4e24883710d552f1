"""Micro-batches that do the same are recorded once: the recording is the one that comes without it."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from anychip.device.launch import record
from anychip.device.steps.alike import describe, holders
from anychip.record import Kind, Program
from anychip.spec import load_chip
from anychip.timeline.memory import memory

PIPELINE = Path(__file__).parents[1] / "distributed" / "programs" / "pipeline.py"
ACCUMULATED = """
    import random
    import torch
    from torch.utils.checkpoint import checkpoint

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(64, 128), torch.nn.Linear(128, 64)
            self.calls, self.seen = 0, []
        def forward(self, x):
            EXTRA
            return x + checkpoint(lambda y: self.second(torch.nn.functional.gelu(self.first(y))), x, use_reentrant=False)

    model = torch.nn.Sequential(*[Block() for _ in range(3)]).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(4):
        for part in range(6):
            x, y = torch.randn(8, 64, device="cuda"), torch.randn(8, 64, device="cuda")
            loss = ((model(x) - y) ** 2).mean() / 6
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
"""


def both(argv: list[str], monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Program, Program]:
    """The same program recorded with folding and without."""
    found = []
    for fold in ("1", "0"):
        monkeypatch.setenv("ANYCHIP_FOLD", fold)
        found.append(record(argv, load_chip("h100"), show_output=False, **options))
    return found[0], found[1]


def happenings(program: Program) -> list[tuple[str, Any]]:
    """Everything but the names of blocks and events."""
    tables: dict[int, Any] = {Kind.OP: program.ops, Kind.ENTER: program.modules, Kind.EXIT: program.modules}
    nameless = (Kind.RECORD, Kind.WAIT, Kind.USE, Kind.DEF, Kind.COMPILED)
    skipped = (Kind.ALLOC, Kind.FREE, Kind.AT, Kind.NODE)
    words = zip(program.kinds.tolist(), program.payloads.tolist(), strict=True)
    return [
        (Kind(kind).name, tables[kind][payload] if kind in tables else None if kind in nameless else payload)
        for kind, payload in words
        if kind not in skipped
    ]


def accumulated(tmp_path: Path, extra: str = "pass") -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(ACCUMULATED).replace("EXTRA", extra), encoding="utf-8")
    return [str(path)]


def test_accumulated_gradients_are_folded_and_the_recording_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded, plain = both(accumulated(tmp_path), monkeypatch)
    # Of 18 passes: in the first step the first, which makes gradients, and two alike; in each later one the first two.
    assert folded.meta["folded"] == 18 - 3 - 2 - 2
    assert plain.meta["folded"] == 0
    assert happenings(folded) == happenings(plain)
    assert memory(folded).peak_bytes == memory(plain).peak_bytes
    assert memory(folded).end_bytes == memory(plain).end_bytes


PUT_OFF = """
    import torch
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x @ weight.T
        @staticmethod
        def backward(ctx, grad):
            x, weight = ctx.saved_tensors
            later.append(lambda: model.weight.grad.add_(grad.T @ x))
            return grad @ weight, None
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(64, 64))
        def forward(self, x):
            return FORWARD
    later, model = [], Block().cuda()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    model.weight.grad = torch.zeros_like(model.weight)
    for step in range(3):
        made = [model(torch.ones(8, 64, device="cuda", requires_grad=True)).sum() for _ in range(AHEAD)]
        for part in range(8 - AHEAD):
            made.append(model(torch.ones(8, 64, device="cuda", requires_grad=True)).sum())
            made.pop(0).backward()
            while later:
                later.pop()()
        while made:
            made.pop(0).backward()
            while later:
                later.pop()()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
"""


@pytest.mark.parametrize("forward", [
    "Product.apply(torch.nn.functional.gelu(x), self.weight)", "Product.apply(x, self.weight)",
    "checkpoint(lambda y: Product.apply(torch.nn.functional.gelu(y), self.weight), x, use_reentrant=False)",
], ids=["of what it made", "of its input", "of what is made again"])  # fmt: skip
@pytest.mark.parametrize("ahead", ["0", "6"], ids=["one by one", "forwards ahead"])
def test_gradients_of_weights_that_are_put_off_are_all_made(
    ahead: str, forward: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero bubble and DualPipe queue them: of folded calls nothing was in the queue, and stages had 15% less to compute."""
    path = tmp_path / "program.py"
    begin = "from torch.utils.checkpoint import checkpoint\n"
    program = begin + textwrap.dedent(PUT_OFF).replace("AHEAD", ahead).replace("FORWARD", forward)
    path.write_text(program, encoding="utf-8")
    found, plain = both([str(path)], monkeypatch)
    assert found.meta["folded"] == 0
    assert happenings(found) == happenings(plain)


@pytest.mark.parametrize(
    ("synced", "options"), [("True", ""), ("part == 5", ""), ("part == 5", ", reshard_after_forward=False")]
)
def test_what_fsdp_gathers_before_a_backward_is_not_lost(
    synced: str, options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks on a model's output gather the last layer and the one before it: from the third micro-batch on, nobody did. What the first
    has gathered may be kept for the others, which are folded all the same."""
    program = ACCUMULATED.replace(
        ".cuda()\n", f".cuda()\n    for one in [*model, model]:\n        fully_shard(one{options})\n", 1
    )
    kept = "model.set_reshard_after_backward(part == 5); " if options else ""
    program = program.replace("x, y =", f"{kept}model.set_requires_gradient_sync({synced}); x, y =").replace(
        "EXTRA", "pass"
    )
    path = tmp_path / "program.py"
    begin = (
        "import torch\nfrom torch.distributed.fsdp import fully_shard\ntorch.distributed.init_process_group('nccl')\n"
    )
    path.write_text(begin + textwrap.dedent(program), encoding="utf-8")
    folded, plain = both([str(path)], monkeypatch, world_size=4, devices=4)
    assert folded.meta["folded"] > 4
    assert happenings(folded) == happenings(plain)
    # Of a pass that is made up for, the gradient of its output is held until its end.
    assert 0 <= memory(folded).peak_bytes - memory(plain).peak_bytes <= (0 if synced == "True" else 4 * 8 * 64 + 4)


def test_stages_of_a_pipeline_are_folded_and_the_recordings_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    folded, plain = both([str(PIPELINE), "3", "12", "Schedule1F1B"], monkeypatch, world_size=6, devices=6)
    assert all(one.meta["folded"] > 6 for one in folded.ranks)
    for one, other in zip(folded.ranks, plain.ranks, strict=True):
        assert one.members == other.members
        assert happenings(one) == happenings(other)
        assert memory(one).peak_bytes == memory(other).peak_bytes


@pytest.mark.parametrize(
    "backwards", ["inputs", "reversed(inputs)"]
)  # the last one's first: none of such calls was seen
def test_inputs_that_a_module_holds_get_their_gradients(
    backwards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megatron gives a stage its input by an attribute: the gradients that it sends back were none, and the job hung."""
    text = textwrap.dedent(ACCUMULATED).replace("EXTRA", "x = self.held + x if hasattr(self, 'held') else x")
    begin, end = text.index("    for part"), text.index("    torch.nn.utils")
    path = tmp_path / "program.py"
    path.write_text(text[:begin] + textwrap.indent(textwrap.dedent(f"""
        inputs = []
        for part in range(8):
            model[1].held = torch.empty(8, 64, device="cuda", requires_grad=True)
            inputs.append((model[1].held, model(torch.ones(8, 64, device="cuda"))))
        for held, made in {backwards}:
            made.backward(torch.ones_like(made))
            held.grad.sum()
        del inputs, held, made
        """), "    ") + text[end:], encoding="utf-8")  # fmt: skip
    folded, plain = both([str(path)], monkeypatch)
    assert folded.meta["folded"] > 6
    assert happenings(folded) == happenings(plain)
    assert memory(folded).peak_bytes == memory(plain).peak_bytes


@pytest.mark.parametrize("extra", ["self.calls += 1; x = x * 2 if self.calls % 2 else x", "x = x * float(x.sum() > 0)",
                                   "self.calls += 1", "self.seen.append(1)", "random.random()"])  # fmt: skip
def test_a_module_that_does_something_else_reads_values_or_leaves_traces_is_not_folded(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded, plain = both(accumulated(tmp_path, extra), monkeypatch)
    assert folded.meta["folded"] == 0
    assert happenings(folded) == happenings(plain)


@pytest.mark.parametrize(("dropped", "folded"), [("", 3 + 4), ("set_to_none=False", 0)])
def test_a_step_that_goes_back_once_for_all_is_recorded_as_it_is(
    dropped: str, folded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third step adds up its losses. Where gradients are dropped that is seen at its forwards: backwards of such calls
    were not met yet. Where they stay, calls were folded before: the program is run again."""
    text = textwrap.dedent(ACCUMULATED).replace("EXTRA", "pass").replace("zero_grad()", f"zero_grad({dropped})")
    path = tmp_path / "program.py"
    path.write_text(text.replace("    loss.backward()", "    total = total + loss if part and step == 2 else loss\n"
                                 "        if step < 2 or part == 5: total.backward()"), encoding="utf-8")  # fmt: skip
    program, plain = both([str(path)], monkeypatch)
    assert program.meta["folded"] == folded
    assert happenings(program) == happenings(plain)


@pytest.mark.parametrize(("kept", "used"), [("self.loss = x.pow(2).mean()", "model[0].loss"),
                                            ("KEPT.append(x.pow(2).mean())", "KEPT[-1]")])  # fmt: skip
def test_an_auxiliary_loss_beside_the_output_is_not_missed(
    kept: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a module it is seen; in a list of the program's the failure is, and the program is run again."""
    text = "KEPT = []" + textwrap.dedent(ACCUMULATED).replace("EXTRA", kept)
    path = tmp_path / "program.py"
    path.write_text(text.replace("/ 6", f"/ 6 + {used}"), encoding="utf-8")
    program, plain = both([str(path)], monkeypatch)
    assert program.meta["folded"] == 0
    assert happenings(program) == happenings(plain)


def test_a_part_that_is_frozen_in_the_midst_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = textwrap.dedent(ACCUMULATED).replace("EXTRA", "pass")
    path = tmp_path / "program.py"
    freeze = "        if part == 3: model[1].requires_grad_(step % 2 == 0)\n    torch.nn"
    path.write_text(text.replace("    torch.nn.utils", f"{freeze}.utils"), encoding="utf-8")
    folded, plain = both([str(path)], monkeypatch)
    assert folded.meta["folded"] > 0
    assert happenings(folded) == happenings(plain)


WATCHED = """
    def watch(module, args, out):
        def began(grad):
            module.busy = True
            torch.autograd.Variable._execution_engine.queue_callback(lambda: setattr(module, "busy", False))
        out.register_hook(began)
    model.busy = False
    model.register_forward_hook(watch)
"""


def test_what_hooks_of_a_backward_set_is_not_how_it_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP notes in its modules that their backward runs: where they are folded its hooks do not run, and it says nothing."""
    text = textwrap.dedent(ACCUMULATED).replace("EXTRA", "pass")
    path = tmp_path / "program.py"
    path.write_text(text.replace("optimizer =", textwrap.dedent(WATCHED) + "optimizer ="), encoding="utf-8")
    folded, plain = both([str(path)], monkeypatch)
    assert folded.meta["folded"] == 18 - 3 - 2 - 2
    assert happenings(folded) == happenings(plain)


LOSS = "loss = ((model(x) - y) ** 2).mean() / 6"


def changed(tmp_path: Path, loss: str, begin: str = "") -> list[str]:
    """The accumulating program with other lines instead of its loss, and some before its optimizer."""
    text = textwrap.dedent(ACCUMULATED).replace("EXTRA", "pass").replace("optimizer =", f"{begin}\noptimizer =")
    text = text.replace(f"        {LOSS}\n", textwrap.indent(loss, " " * 8) + "\n")
    path = tmp_path / "program.py"
    path.write_text(text, encoding="utf-8")
    return [str(path)]


@pytest.mark.parametrize("hook", ["out.register_hook(lambda grad: grad * 3)", "out.retain_grad()",
                                  "out.mul_(2); out.register_hook(lambda grad: grad * 3)"])  # fmt: skip
def test_hooks_that_a_program_puts_on_an_output_are_recorded_once(
    hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were seen as a part of the module's backward, and ran for the folded one besides."""
    folded, plain = both(changed(tmp_path, f"out = model(x)\n{hook}\n{LOSS.replace('model(x)', 'out')}"), monkeypatch)
    assert folded.meta["folded"] == 18 - 3 - 2 - 2
    assert happenings(folded) == happenings(plain)
    assert memory(folded).peak_bytes == memory(plain).peak_bytes


@pytest.mark.parametrize("dropped", ["", "del out"])
def test_hooks_of_a_program_behind_those_of_the_modules_are_not_told_from_them(
    dropped: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the program dropped the output they ran twice: as a part of the folded backward, and besides."""
    loss = f"out = model(x)\nout.register_hook(lambda grad: grad * 3)\n{LOSS.replace('model(x)', 'out')}\n{dropped}"
    folded, plain = both(changed(tmp_path, loss, textwrap.dedent(WATCHED)), monkeypatch)
    assert folded.meta["folded"] == 0
    assert happenings(folded) == happenings(plain)


@pytest.mark.parametrize("how", ["grad", "grad.detach()"])
def test_a_gradient_that_is_kept_in_later_micro_batches_alone_stays(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folded backward freed it, as those that ran had: what was in the program's list was empty."""
    loss = f"out, kept = model(x), []\nif part > 3: out.register_hook(lambda grad: kept.append({how}))\n{LOSS}"
    argv = changed(tmp_path, loss.replace("((model(x)", "((out"))
    path = Path(argv[0])
    read = "loss.backward()\n        if kept: kept[0].sum()\n"
    path.write_text(path.read_text(encoding="utf-8").replace("loss.backward()\n", read), encoding="utf-8")
    folded, plain = both(argv, monkeypatch)
    assert folded.meta["folded"] == 18 - 3 - 2 - 2
    assert happenings(folded) == happenings(plain)
    assert memory(folded).peak_bytes == memory(plain).peak_bytes


def test_gradients_are_added_up_in_place_as_they_are_without_folding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage that was an object of Python's had the engine make a new tensor for each residual connection."""
    cast = "with torch.autocast('cuda', torch.bfloat16): out = model(x)"
    folded, plain = both(changed(tmp_path, f"{cast}\n{LOSS.replace('model(x)', 'out.float()')}"), monkeypatch)
    assert folded.meta["folded"] == 18 - 3 - 2 - 2
    assert happenings(folded) == happenings(plain)


SCALE = "scale = torch.nn.Parameter(torch.ones(8, 64, device='cuda')); scale.grad = torch.zeros_like(scale)"


@pytest.mark.parametrize(("loss", "folded"), [
    (f"large = scale.exp(); {LOSS.replace('(x)', '(x) * large')}", 0),  # its backward comes after the model's
    (f"out = model(x); large = scale.exp(); {LOSS.replace('model(x)', 'out * large')}", 11),  # before it
    (f"{LOSS} + sum(one.square().sum() for one in model.parameters())", 0),
    (f"x.requires_grad_(); {LOSS.replace('(x)', '(x) + x')}", 0),
])  # fmt: skip
def test_what_a_backward_does_beside_a_model_is_recorded_once(
    loss: str, folded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran after the folded backward, which had it as its own already."""
    program, plain = both(changed(tmp_path, loss, SCALE), monkeypatch)
    assert program.meta["folded"] == folded
    assert happenings(program) == happenings(plain)


def test_a_penalty_on_gradients_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folded call a gradient is no function of the weights: its penalty's backward was left out without a word."""
    penalty = "total = torch.autograd.grad(loss, x, create_graph=True)[0].norm() + model[0].first.weight.sum()"
    loss = f"x.requires_grad_(); {LOSS}\nif part > 3 and step > 1:\n    {penalty}\n    loss = total"
    folded, plain = both(changed(tmp_path, loss), monkeypatch)
    assert folded.meta["folded"] == 0
    assert happenings(folded) == happenings(plain)


def test_what_a_graph_that_is_retained_holds_is_held_where_it_is_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = changed(tmp_path, LOSS)
    path = Path(argv[0])
    path.write_text(
        path.read_text(encoding="utf-8").replace("backward()", "backward(retain_graph=True)"), encoding="utf-8"
    )
    folded, plain = both(argv, monkeypatch)
    assert folded.meta["folded"] == 11
    assert memory(folded).peak_bytes == memory(plain).peak_bytes


class Attributes(dict[str, Any]):
    """As many programs keep their settings."""

    __getattr__ = dict.__getitem__


class Slots(Attributes):
    __slots__ = ("inside",)


def test_a_dictionary_with_attributes_is_asked_for_none_that_it_lacks() -> None:
    """It has no `__self__`, as a bound method has, and says so by a KeyError: a program ended there."""
    module = torch.nn.Linear(2, 2)
    module.settings, module.slots = Attributes(width=2), Slots(width=2)  # type: ignore[assignment]
    module.hook = module.extra_repr
    assert holders(module) == [vars(module)]
    assert describe(Attributes(), 0) == ("Attributes", ())


def test_a_tuple_that_refuses_len_is_looked_into_by_none_of_its_own_methods() -> None:
    """e3nn's, which every model of its holds: a forecast of one ended in its NotImplementedError."""

    class Irreps(tuple[Any, ...]):
        def __len__(self) -> int:
            raise NotImplementedError

    class Inner:
        scale = None

        def __init__(self) -> None:
            self.scale = 2.0

    module = torch.nn.Linear(2, 2)
    module.held = Irreps([Inner()])  # type: ignore[assignment]
    assert {"scale": 2.0} in holders(module)
