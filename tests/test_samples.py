"""Samples and tokens of a step are those that the model is given, wherever their dimension is."""

import pytest

from anychip import api

NORMED = """
import torch
model = torch.nn.Sequential(torch.nn.utils.{norm}(torch.nn.Conv1d(1, 32, 15)), torch.nn.Conv1d(32, 1, 5)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.randn(2, 1, 512, device="cuda")).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize("norm", ["spectral_norm", "parametrizations.spectral_norm", "weight_norm"])
def test_a_weight_whose_norm_is_estimated_is_no_batch(norm, tmp_path):
    """A discriminator with spectral norms was told to be given 15 samples, the width of its first kernel."""
    path = tmp_path / "normed.py"
    path.write_text(NORMED.format(norm=norm), encoding="utf-8")
    assert api.forecast(str(path), on=["h100"]).forecasts[0].samples_per_step == 2


NORMED_BY_HAND = """
import torch
class Layer(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight, self.across = torch.nn.Parameter(torch.randn(32, width)), torch.nn.Parameter(torch.randn(32))
    def forward(self, x):
        along = self.across @ self.weight
        return x @ (self.weight / (along @ along)).t()
model = Layer({width}).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.randn({samples}, {width}, device="cuda")).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize("samples", [1, 6])
def test_a_row_that_a_weight_is_multiplied_with_is_no_batch(samples, tmp_path):
    """u @ W @ v, whose first product torch takes as one of a matrix of one row: an energy-based model was said to be given one sample."""
    path = tmp_path / "by_hand.py"
    path.write_text(NORMED_BY_HAND.format(samples=samples, width=48), encoding="utf-8")
    assert api.forecast(str(path), on=["h100"]).forecasts[0].samples_per_step == samples


FACTORS = """
import torch
class Flow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lower, self.upper = (torch.nn.Parameter(torch.eye(12)) for _ in range(2))
        self.shift = torch.nn.Parameter(torch.zeros(1, 12, 1, 1))
    def forward(self, x):
        weight = self.lower.tril() @ self.upper.triu()
        return torch.nn.functional.conv2d(x + self.shift, weight[..., None, None])
model = Flow().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.randn(6, 12, 8, 8, device="cuda")).sum().backward()
    optimizer.step()
"""


def test_a_weight_that_is_made_of_its_factors_is_no_batch(tmp_path):
    """Glow's steps were said to be of one picture: its convolutions are made of two triangles."""
    path = tmp_path / "factors.py"
    path.write_text(FACTORS, encoding="utf-8")
    assert api.forecast(str(path), on=["h100"]).forecasts[0].samples_per_step == 6


STEPS = """
import torch
layers = torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 64)
model = torch.nn.Sequential(*layers).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.randn({shape}, device="cuda")).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(("shape", "samples"), [((4, 16, 64), 4), ((4, 2, 8, 64), 4), ((64, 64), 64)])
def test_samples_are_the_first_dimension_of_what_a_linear_layer_is_given(shape, samples, tmp_path):
    """Which torch multiplies as one with the others."""
    path = tmp_path / "linear.py"
    path.write_text(STEPS.format(shape=shape), encoding="utf-8")
    assert api.forecast(str(path), on=["h100"]).forecasts[0].samples_per_step == samples


PAIRS = """
import torch
class Pairs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Conv2d(3, 8, 3)
    def forward(self, first, second):
        return self.encoder({joined})
model = Pairs().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(*torch.randn(2, {batch}, 3, 16, 16, device="cuda")).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(("joined", "batch", "samples"), [
    ("torch.cat([first, second]) / 255", 8, 8),  # pairs of pictures
    ("torch.cat([first, second])", 1, 2),  # pictures, one by one
    ("torch.cat([first, second], dim=2)", 8, 8),
])  # fmt: skip
def test_two_pictures_of_a_sample_that_one_encoder_is_given_are_one_sample(joined, batch, samples, tmp_path):
    """Optical flow of 8 pairs was said to have 16 samples."""
    path = tmp_path / "pairs.py"
    path.write_text(PAIRS.format(joined=joined, batch=batch), encoding="utf-8")
    assert api.forecast(str(path), on=["h100"]).forecasts[0].samples_per_step == samples


LABELS = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.line = torch.nn.Embedding(100, 64), torch.nn.Linear(64, 64)
        self.attention = torch.nn.MultiheadAttention(64, 2, batch_first=True)
        self.cell = torch.nn.LSTMCell(64, 64)
    def forward(self, labels):
        x = self.table(labels)
        return {body}
model = Model().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.zeros({shape}, dtype=torch.long, device="cuda")).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(("body", "shape", "tokens", "samples"), [
    ("self.line(x)", "24", None, 24),
    ("torch.nn.functional.conv2d(x[:, :, None, None], self.line.weight[:, :, None, None])", "24", None, 24),
    ("self.line(x).softmax(-1)", "24", None, 24),
    ("self.line(x)", "24, 8", 24 * 8, 24),
    ("self.attention(x, x, x)[0]", "24", 24, 24),
    ("self.attention(x, x, x, need_weights=False)[0]", "24", 24, 1),
    ("self.cell(x)[0]", "24", 24, 24),
    ("self.attention(*[x[:, None] + self.line.weight[:7]] * 3, need_weights=False)[0]", "24", None, 24),  # seven patches
    # a text that goes on: four heads of one token share 256 keys, as transformers calls it with a static cache
    ("torch.nn.functional.scaled_dot_product_attention(self.line(x).view(24, 1, 4, 16), *[self.line.weight.view(1, 1, 256, 16).expand(24, 1, 256, 16)] * 2)",
     "24, 1", 24, 24),
])  # fmt: skip
def test_one_number_for_each_sample_is_no_token(body, shape, tokens, samples, tmp_path):
    """The classes of a conditional GAN's images, users and items. Packed text has one dimension, too, and attention."""
    path = tmp_path / "labels.py"
    path.write_text(LABELS.format(body=body, shape=shape), encoding="utf-8")
    (found,) = api.forecast(str(path), on=["h100"]).forecasts
    assert (found.tokens_per_step, found.samples_per_step) == (tokens, samples)


RECURRENT = """
import torch
from torch.nn.utils.rnn import pack_padded_sequence
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.line = torch.nn.Embedding(100, 64), torch.nn.Linear(64, 64)
        self.layer = torch.nn.{layer}
    def forward(self, x):
        out = self.layer({given})
        return out[0] if isinstance(out, tuple) else out
model = Model().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    x, tokens = torch.randn({shape}, 64, device="cuda"), torch.zeros({shape}, dtype=torch.long, device="cuda")
    out = model({read})
    out = out[0] if isinstance(out, tuple) else out
    ({loss}).backward()
    optimizer.step()
"""


SUM, CLASSES = "out.sum()", "torch.nn.functional.log_softmax(out.flatten(0, -2), -1).sum()"


@pytest.mark.parametrize("loss", [SUM, CLASSES])
@pytest.mark.parametrize(("layer", "shape", "given", "read", "samples"), [
    ("LSTM(64, 32)", "50, 8", "x", "x", 8),
    ("LSTM(64, 32, batch_first=True)", "8, 50", "x", "x", 8),
    ("GRU(64, 32)", "50, 8", "self.line(x)", "x", 8),
    ("RNN(64, 32)", "50, 8", "self.table(x)", "tokens", 8),
    ("GRU(64, 32, batch_first=True)", "8, 50", "self.line(x)", "x", 8),
    ("TransformerEncoderLayer(64, 2)", "50, 8", "x", "x", 8),
    ("TransformerEncoderLayer(64, 2, batch_first=True)", "8, 50", "self.line(x)", "x", 8),
    ("LSTM(64, 32)", "50", "x", "x", 1),
    ("LSTM(64, 32)", "50, 8", "pack_padded_sequence(x, [50, 40, 30, 20, 10, 9, 8, 7])", "x", 8),
])  # fmt: skip
def test_samples_of_sequences_are_no_steps_in_time(layer, shape, given, read, samples, loss, tmp_path):
    """Where time is first, its steps were taken for samples; and those of a layer before it with the steps, as the loss was."""
    path = tmp_path / "recurrent.py"
    path.write_text(RECURRENT.format(layer=layer, shape=shape, given=given, read=read, loss=loss), encoding="utf-8")
    assert api.forecast(str(path), on=["h100"]).forecasts[0].samples_per_step == samples


NESTED = """
import torch
project = torch.nn.Linear(64, 192).cuda()
optimizer = torch.optim.SGD(project.parameters(), lr=0.1)
for _ in range(3):
    parts = [torch.randn(length, 64, device="cuda") for length in (8, 24, 16)]
    x = torch.nested.nested_tensor(parts, layout=torch.jagged)
    heads = [one.unflatten(-1, (4, 16)).transpose(1, 2) for one in project(x).chunk(3, -1)]
    y = torch.nn.functional.scaled_dot_product_attention(*heads)
    y.transpose(1, 2).flatten(-2).values().sum().backward()
    optimizer.step()
"""


def test_samples_of_a_nested_tensor_are_its_parts(tmp_path):
    """They lie one behind the other in one row, which was taken for one sample."""
    path = tmp_path / "nested.py"
    path.write_text(NESTED, encoding="utf-8")
    found = api.forecast(str(path), on=["h100"]).forecasts[0]
    # Forward and the weight's gradient of 48 rows, and three parts as if of 16 each: two products forward, twice that backward.
    assert found.model_flop_per_step == 2 * 2 * 48 * 64 * 192 + 3 * 2 * 2 * 3 * 16 * 16 * 64
    assert found.samples_per_step == 3


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


SCALES = """
class Scales(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(8))
    def forward(self, x):
        return x * self.weight
model = Scales().cuda()
weights = model.parameters()
"""
BARE = """
weight = torch.ones(8, 8, device='cuda', requires_grad=True)
model, weights = (lambda x: x @ weight), [weight]
"""


@pytest.mark.parametrize("made", [SCALES, BARE])
def test_what_reads_nothing_that_can_be_counted_has_figures(made, tmp_path):
    """It ended in a ValueError of zip."""
    path = tmp_path / "bare.py"
    path.write_text(
        f"import torch{made}optimizer = torch.optim.SGD(weights, lr=0.1)\n"
        "for _ in range(3):\n    model(torch.ones(4, 8, device='cuda')).sum().backward()\n    optimizer.step()\n"
    )
    found = api.forecast(str(path), on=["h100"]).forecasts[0]
    assert (found.steps, found.step_kind) == (3, "train")


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


LOOKED_UP = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = torch.nn.Embedding(100, 64), torch.nn.Embedding(16, 64)
        self.layer = torch.nn.TransformerEncoderLayer(64, 4, batch_first=True)
    def forward(self, text):
        places = self.places(torch.arange(16, device="cuda"))
        return self.layer(self.words(text) + places)
model = Model().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.randint(0, 100, (6, 16), device="cuda")).sum().backward()
    optimizer.step()
"""
COLUMNS = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tables, self.layer = torch.nn.ModuleList(torch.nn.Embedding(100, 8) for _ in range(4)), torch.nn.Linear(32, 1)
    def forward(self, x):
        return self.layer(torch.cat([table(x[:, at : at + 1]) for at, table in enumerate(self.tables)], 1).flatten(1))
model = Model().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.randint(0, 100, (6, 4), device="cuda")).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(("text", "tokens", "samples"), [(LOOKED_UP, 96, 6), (COLUMNS, None, 6)])
def test_places_that_are_looked_up_first_and_columns_of_a_table_are_no_texts(text, tokens, samples, tmp_path):
    """build-nanogpt's tokens were those of its places, 64 times too few; DeepCTR's samples were called tokens."""
    path = tmp_path / "looked_up.py"
    path.write_text(text, encoding="utf-8")
    found = api.forecast(str(path), on=["h100"]).forecasts[0]
    assert (found.tokens_per_step, found.samples_per_step) == (tokens, samples)
