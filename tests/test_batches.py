"""Which of a step's calls are of its batch: those that it learns from, each sample once."""

import pytest

from anychip import api

FROZEN = """
import torch
words = torch.nn.Embedding(100, 16).cuda().requires_grad_(False)
mixes = torch.nn.MultiheadAttention(16, 2, batch_first=True).cuda().requires_grad_(False)
model = torch.nn.Linear(16, 16).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(4):
    for _ in range({micro_batches}):
        with torch.no_grad():
            read = words(torch.randint(0, 100, (4, 7), device="cuda"))
            read = mixes(read, read, read)[0]
        model(read.mean(1)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
def test_what_a_frozen_encoder_reads_is_no_batch(micro_batches, tmp_path):
    """Stable Diffusion's text encoder stands before its model: of two micro-batches one was counted, with the tokens of the other."""
    path = tmp_path / "frozen.py"
    path.write_text(FROZEN.format(micro_batches=micro_batches), encoding="utf-8")
    found = api.forecast(str(path), on=["h100"]).forecasts[0]
    assert (found.samples_per_step, found.tokens_per_step) == (4 * micro_batches, None)


TRIALS = """
import sys, torch
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)).cuda()
weights = list(model.parameters())
optimizer = torch.optim.SGD(weights, lr=0.1)
synthetic, kind = torch.randn(16, 3, 8, 8, device="cuda"), sys.argv[1]

def learn(x):
    model(x).square().sum().backward()

def closure():
    optimizer.zero_grad()
    loss = model(x).square().sum()
    loss.backward()
    return loss

if kind == "line search":
    optimizer = torch.optim.LBFGS(weights, max_iter=4)
for _ in range(4):
    optimizer.zero_grad()
    x = torch.randn(16, 3, 8, 8, device="cuda")
    if kind in ("sharpness", "sharpness in place"):
        learn(x)
        with torch.no_grad():
            torch._foreach_add_(weights, [one.grad for one in weights])
        optimizer.zero_grad(set_to_none=kind == "sharpness")
        learn(x)
    elif kind == "line search":
        optimizer.step(closure)
        continue
    elif kind in ("attack", "attack by backward"):
        for _ in range(3):
            x = x.detach().requires_grad_()
            if kind == "attack":
                (gradient,) = torch.autograd.grad(model(x).sum(), x)
            else:
                optimizer.zero_grad()
                learn(x)
                gradient = x.grad
            x = x + gradient.sign()
        optimizer.zero_grad()
        learn(x.detach())
    elif kind == "sampled":  # Langevin's steps, whose gradients of weights add up until they are dropped
        for _ in range(3):
            x = x.detach().requires_grad_()
            learn(x)
            x = x - x.grad
        optimizer.zero_grad()
        learn(x.detach())
    elif kind == "penalty":
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        gradient.square().sum().backward()
    elif kind == "meta-learning":
        inner = dict(model.named_parameters())
        for _ in range(3):
            loss = torch.func.functional_call(model, inner, (x,)).square().sum()
            gradients = torch.autograd.grad(loss, list(inner.values()), create_graph=True)
            inner = {name: one - 0.1 * step for (name, one), step in zip(inner.items(), gradients)}
        torch.func.functional_call(model, inner, (synthetic,)).square().sum().backward()
    elif kind == "deferred":  # as pipelines do: graphs of their own
        for loss in [model(synthetic).square().sum() for _ in range(3)]:
            loss.backward()
    elif kind == "scaled":
        for _ in range(3):
            learn(synthetic)
            for one in weights:
                one.grad.mul_(0.5)
    elif kind == "accumulated":  # the same numbers, as benchmarks take them, are other samples all the same
        for _ in range(3):
            learn(synthetic)
    else:  # each micro-batch's gradients are gathered by the program
        gathered, batches = [], torch.randn(3, 16, 3, 8, 8, device="cuda")
        for x in batches:
            # one that is made anew comes to the address that the last one had
            learn(torch.randn_like(x) if kind == "gathered anew" else x)
            gathered.append([one.grad for one in weights])
            optimizer.zero_grad()
        for weight, gradients in zip(weights, zip(*gathered)):
            weight.grad = sum(gradients)
    optimizer.step()
"""


@pytest.mark.parametrize(("kind", "samples"), [
    ("sharpness", 16), ("sharpness in place", 16), ("line search", 16), ("attack", 16), ("attack by backward", 16), ("sampled", 16),
    ("penalty", 16), ("meta-learning", 32), ("deferred", 48), ("scaled", 48), ("accumulated", 48), ("gathered", 48), ("gathered anew", 48),
])  # fmt: skip
def test_a_batch_that_a_step_only_tries_is_none_of_its_own(kind, samples, tmp_path):
    """Sharpness-aware minimization was told to train on twice its batch, attacks of K steps on K + 1 of them, and MAML on its support set
    as often as it steps inside."""
    path = tmp_path / "trials.py"
    path.write_text(TRIALS, encoding="utf-8")
    assert api.forecast([str(path), kind], on=["h100"]).forecasts[0].samples_per_step == samples


def test_calls_of_one_batch_that_nobody_learns_from_are_all_of_it(tmp_path):
    path = tmp_path / "calls.py"
    path.write_text(
        "import torch\nmodel = torch.nn.Linear(64, 64).cuda()\nx = torch.randn(8, 64, device='cuda')\nfor _ in range(5): model(x)\n",
        encoding="utf-8",
    )
    assert api.forecast(str(path), on=["h100"]).forecasts[0].samples_per_step == 8


SHARDED = """
import torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard

dist.init_process_group("nccl")
torch.cuda.set_device(dist.get_rank())
block = lambda: torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64))
model = torch.nn.Sequential(*(block() for _ in range(4))).cuda()
for one in (*model, model):
    fully_shard(one)
optimizer = torch.optim.AdamW(model.parameters())
x = torch.randn(16, 64, device="cuda")
for _ in range(6):
    for number in range(4):
        model.set_requires_gradient_sync(number == 3)
        model(x).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


def test_gradients_that_shards_get_with_the_last_micro_batch_are_of_all_of_them(tmp_path):
    """Folded micro-batches of one and the same batch were taken for trials: half of the samples was told."""
    path = tmp_path / "sharded.py"
    path.write_text(SHARDED, encoding="utf-8")
    assert api.forecast([str(path)], on=["h100:2"], steps=5).forecasts[0].samples_per_step == 2 * 4 * 16


TOGETHER = {
    "a pair's sides": ("(model(x()) - model(x())).square().mean().backward()", 64),
    "three views": ("sum(model(x()).square().mean() for _ in range(3)).backward()", 64),
    "a wide and a narrow view": ("(model(x()).mean() + model(x()[:16]).mean()).backward()", 64),
    "what is real and what is not": ("(model(x()).mean() - model(x()).mean()).backward()", 64),
    "micro-batches": ("for _ in range(4): model(x()).mean().backward()", 256),
    "all forwards, then each backward": ("[loss.backward() for loss in [model(x()).mean() for _ in range(4)]]", 256),
    "one micro-batch ahead": (
        "ahead = [model(x()).mean(), model(x()).mean()]\n    for _ in range(2): ahead.pop(0).backward(); ahead.append(model(x()).mean())\n"
        "    [loss.backward() for loss in ahead]",
        256,
    ),
    "micro-batches of pairs": ("for _ in range(4): (model(x()) - model(x())).square().mean().backward()", 256),
}


@pytest.mark.parametrize("how", TOGETHER)
def test_calls_that_share_a_backward_are_of_one_batch(how, tmp_path):
    """A batch of 64 pairs was told as 128 samples, one of three views as 192."""
    body, samples = TOGETHER[how]
    path = tmp_path / "together.py"
    path.write_text(
        "import torch\nmodel = torch.nn.Linear(32, 32).cuda()\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "def x(): return torch.randn(64, 32, device='cuda')\n"
        f"for _ in range(3):\n    {body}\n    optimizer.step()\n    optimizer.zero_grad()\n"
    )
    assert api.forecast(str(path), on=["h100"]).forecasts[0].samples_per_step == samples


REGULARISED = """
import torch
made, judged = (torch.nn.Linear(64, 64, bias=False).cuda() for _ in range(2))
optimizers = [torch.optim.Adam(one.parameters()) for one in (made, judged)]
turns = [(made, 0, 1, 1), (made, 0, 4, 4), (judged, 1, 1, 1), (judged, 1, 16, 8)]
for iteration in range(64):
    for model, number, every, work in turns:
        if iteration % every:
            continue
        optimizers[number].zero_grad()
        for _ in range(work):
            model(torch.randn(32, 64, device="cuda")).sum().backward()
        optimizers[number].step()
"""


def test_a_gan_s_regularisers_are_of_its_steps_and_no_further_batch(tmp_path):
    """StyleGAN's steps went from the middle of one iteration to that of another, and had neither."""
    path = tmp_path / "regularised.py"
    path.write_text(REGULARISED, encoding="utf-8")
    found = api.forecast(str(path), on=["h100"]).forecasts[0]
    assert (found.steps, found.samples_per_step) == (17, 32)
    assert found.step_time_s == pytest.approx(sum(found.step_times_s) / 16)
    assert found.step_time_s > 1.2 * min(found.step_times_s)
