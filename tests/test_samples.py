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
